//! How small a change is too small to count.

use serde::{Deserialize, Serialize};

use super::Measure;
use super::estimate::median_variance;
use crate::stats::median;

/// How many times its own spread a benchmark must move.
const SPREADS: f64 = 3.0;

/// How small a change of a benchmark is too small to count.
///
/// Two sizes follow from it. An alarm must lie beyond [`NoiseThreshold::threshold`], which a
/// restless benchmark raises. Equivalence must be shown within
/// [`NoiseThreshold::equivalence_margin`], which is the policy's alone: that a benchmark is
/// restless is no reason to call a slowdown of 2 % none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoiseThreshold {
    /// What the policy calls small, as a share of the base: .01 is 1 %.
    pub policy: f64,
    /// What the policy calls small in units of the measure; the larger one counts.
    pub absolute: f64,
    /// What the benchmark shows between equal programs beyond what its intervals
    /// account for: see [`same_code_spread`]. 0 if nothing is known.
    pub spread: f64,
}

impl NoiseThreshold {
    /// The noise threshold of a measure, if the policy says nothing about it.
    pub fn of(measure: Measure) -> Self {
        let (policy, absolute) = match measure {
            Measure::Instructions => (0.002, 0.0),
            Measure::AllocationCount => (0.0, 0.0),
            Measure::PeakMemory => (0.02, 1024.0 * 1024.0),
            Measure::BuildTime => (0.05, 0.0),
            Measure::Time | Measure::Rate | Measure::AllocationBytes | Measure::BinarySize => {
                (0.01, 0.0)
            }
        };
        Self {
            policy,
            absolute,
            spread: 0.0,
        }
    }

    /// The same noise threshold for a benchmark with this spread between equal programs.
    #[must_use]
    pub fn with_spread(self, spread: f64) -> Self {
        Self { spread, ..self }
    }

    /// Within which share of the base two programs are equivalent.
    pub fn equivalence_margin(&self, base: f64) -> f64 {
        if base > 0.0 {
            self.policy.max(self.absolute / base)
        } else {
            self.policy
        }
    }

    /// Beyond which share of the base a change counts.
    pub fn threshold(&self, base: f64) -> f64 {
        self.equivalence_margin(base).max(SPREADS * self.spread)
    }
}

/// How far comparisons of equal programs lie from zero beyond what chance within them
/// explains, as a standard deviation of log-ratios.
///
/// Each comparison is the log-ratios of its pairs. Part of what its median is off
/// comes from having few pairs: the interval of a later comparison accounts for that
/// part, and a noise threshold on top would count it twice. What remains differs from one
/// comparison to the next and no number of pairs averages it away: where the program
/// was laid out, what else the machine did. It is the τ of DerSimonian and Laird
/// (1986), around zero because equal programs are equal:
/// `τ² = mean(median²) − mean(variance of the median)`.
pub fn same_code_spread(comparisons: &[Vec<f64>]) -> f64 {
    let medians = || {
        comparisons
            .iter()
            .filter_map(|pairs| Some((median(pairs)?, pairs)))
    };
    let n = medians().count();
    if n == 0 {
        return 0.0;
    }
    let excess = |(median, pairs): (f64, &Vec<f64>)| median * median - median_variance(pairs);
    let excess: f64 = medians().map(excess).sum();
    (excess / n as f64).max(0.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_size_counts() {
        let noise_threshold = NoiseThreshold::of(Measure::PeakMemory);
        assert_eq!(noise_threshold.equivalence_margin(1e9), 0.02);
        assert_eq!(
            noise_threshold.equivalence_margin(10.0 * 1024.0 * 1024.0),
            0.1
        );
        assert_eq!(noise_threshold.with_spread(0.01).threshold(1e9), 0.03);
        assert_eq!(
            noise_threshold.with_spread(0.01).equivalence_margin(1e9),
            0.02
        );
        assert_eq!(
            NoiseThreshold::of(Measure::AllocationCount).threshold(0.0),
            0.0
        );
    }

    #[test]
    fn only_what_pairs_do_not_explain_is_spread() {
        // Wide within, centred: chance explains all.
        let wide: Vec<f64> = (-10..=10).map(|i| f64::from(i) * 0.01).collect();
        assert_eq!(same_code_spread(&[wide.clone(), wide]), 0.0);
        // Narrow within, ±1 % between.
        let around = |centre: f64| (-10..=10).map(|i| centre + f64::from(i) * 1e-5).collect();
        let spread = same_code_spread(&[around(0.01), around(-0.01), around(0.01)]);
        assert!((spread - 0.01).abs() < 1e-4, "{spread}");
        assert_eq!(same_code_spread(&[]), 0.0);
    }
}
