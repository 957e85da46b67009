//! How a benchmark went over many commits: where it changed, and how far it drifted
//! since a milestone.
//!
//! ```text
//! one value per commit ─► hampel ─► e_divisive ┐
//!                                 ─► pelt       ┴─ both agree ─► Change ─► an A/B run confirms it
//! ```
//!
//! A step in a history is a suspicion, not an alarm: the machine may have changed. It
//! names the two commits to compare. A rule that looks at one commit at a time is blind
//! to steps of the size of the noise, and to many small steps: the first is what change
//! points are for, the second what milestones are for ([`drift`]).

mod e_divisive;
mod milestone_comparison;
mod pelt;
mod series;
mod stored_comparison;

pub use e_divisive::{EDivisive, Split};
pub use milestone_comparison::{MilestoneComparison, compare_with_milestone};
pub use pelt::pelt;
use serde::{Deserialize, Serialize};
pub use series::{BenchmarkHistory, ChangePoint, History, Point};

use crate::speed::{Calibration, Estimate, Fingerprint, Measure, NoiseThreshold, median_variance};
use crate::stats::median;

/// How many commits the two detectors may be apart and still mean the same change.
const TOGETHER: usize = 3;

/// The noise threshold of one measure of a benchmark on a machine, by the newest of `calibrations`
/// (old to new) that knows it.
fn calibrated_noise_threshold(
    calibrations: &[Calibration],
    machine: &Fingerprint,
    benchmark: &str,
    measure: Measure,
) -> NoiseThreshold {
    let newest = calibrations.iter().rev();
    let mut here = newest.filter(|calibration| calibration.fingerprint == *machine);
    let known = here.find_map(|calibration| calibration.spread(benchmark, measure));
    NoiseThreshold::of(measure).with_spread(known.unwrap_or(0.0))
}

/// A lasting change in a history, that two detectors agree on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The first value after it.
    pub at: usize,
    /// The ratio of the typical values after and before it: 1.05 costs 5 % more.
    pub ratio: f64,
    /// How likely the parts differ so much by chance.
    pub p: f64,
}

/// The lasting changes of a series of log-values by more than a share of the value, in
/// order. Single outliers are taken back first ([`hampel`]); a place counts if
/// [`EDivisive`] and [`pelt`] both name it, give or take three values.
pub fn changes(log_values: &[f64], noise_threshold: f64) -> Vec<Change> {
    let values = hampel(log_values);
    let second = pelt(&values);
    let agrees = |at: usize| second.iter().any(|other| other.abs_diff(at) <= TOGETHER);
    let change = |split: &Split| Change {
        at: split.at,
        ratio: (split.after - split.before).exp(),
        p: split.p,
    };
    EDivisive::default()
        .splits(&values)
        .iter()
        .filter(|split| agrees(split.at))
        .map(change)
        .filter(|change| change.ratio.ln().abs() > noise_threshold.ln_1p())
        .collect()
}

/// Replaces values that lie more than three robust standard deviations from the median
/// of the seven around them by that median (Hampel, 1974).
pub fn hampel(values: &[f64]) -> Vec<f64> {
    const AROUND: usize = 3;
    const DEVIATIONS: f64 = 3.0;
    /// What makes the median distance of normal values their standard deviation.
    const SCALE: f64 = 1.4826;
    let clip = |at: usize| {
        let to = values.len().min(at + AROUND + 1);
        let near = &values[at.saturating_sub(AROUND)..to];
        let centre = median(near).expect("holds the value itself");
        let distances: Vec<f64> = near.iter().map(|value| (value - centre).abs()).collect();
        let spread = SCALE * median(&distances).expect("as many");
        if (values[at] - centre).abs() > DEVIATIONS * spread {
            centre
        } else {
            values[at]
        }
    };
    (0..values.len()).map(clip).collect()
}

/// How far a benchmark has come over several comparisons, each given as the log-ratios
/// of its pairs: the sum of their medians, with a 95 % interval. `None` if there is
/// none, or one without a pair.
///
/// Every step of a slow drip may be too small to count; their sum is not. The interval
/// grows with the root of the number of steps.
pub fn drift(steps: &[Vec<f64>]) -> Option<Estimate> {
    if steps.is_empty() {
        return None;
    }
    let medians: Option<Vec<f64>> = steps.iter().map(|step| median(step)).collect();
    let sum: f64 = medians?.iter().sum();
    let variance: f64 = steps.iter().map(|step| median_variance(step)).sum();
    let half = 1.959_964 * variance.sqrt();
    Some(Estimate {
        ratio: sum.exp(),
        low: (sum - half).exp(),
        high: (sum + half).exp(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// About normal noise, the same each time.
    fn noise(at: usize) -> f64 {
        let hash = (at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let part = |shift: u32| f64::from((hash >> shift) as u16) / 65536.0 - 0.5;
        part(0) + part(16) + part(32) + part(48)
    }

    #[test]
    fn a_step_is_found_and_spikes_are_not() {
        let value = |i: usize| {
            let step = if i >= 60 { 0.05 } else { 0.0 };
            let spike = if i % 17 == 9 { 0.3 } else { 0.0 };
            4.0 + step + spike + 0.01 * noise(i)
        };
        let values: Vec<f64> = (0..100).map(value).collect();
        let found = changes(&values, 0.01);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].at.abs_diff(60) <= 1, "{found:?}");
        assert!((found[0].ratio - 1.05).abs() < 0.01, "{found:?}");
        // Less than the noise threshold is none.
        assert!(changes(&values, 0.1).is_empty());
    }

    #[test]
    fn noise_alone_shows_no_change() {
        for start in (0..20_000).step_by(1000) {
            let values: Vec<f64> = (start..start + 120).map(|i| 0.02 * noise(i)).collect();
            assert_eq!(changes(&values, 0.01), [], "{start}");
        }
    }

    #[test]
    fn outliers_become_their_neighbours() {
        let values = [1.0, 1.1, 0.9, 9.0, 1.0, 1.1, 0.9, 1.0];
        let clipped = hampel(&values);
        assert_eq!(clipped[3], 1.0);
        assert_eq!((clipped[2], clipped[4]), (0.9, 1.0));
        assert!(hampel(&[]).is_empty());
        assert_eq!(hampel(&[5.0]), [5.0]);
    }

    #[test]
    fn steps_add_up() {
        let step: Vec<f64> = (0..10).map(|i| 0.008 + 0.001 * noise(i)).collect();
        let far = drift(&vec![step.clone(); 4]).expect("steps");
        assert!((far.ratio.ln() - 0.032).abs() < 0.002, "{far:?}");
        assert!(far.low.ln() > 0.02 && far.high.ln() < 0.04, "{far:?}");
        let near = drift(&[step]).expect("a step");
        assert!(far.high.ln() - far.low.ln() > near.high.ln() - near.low.ln());
        assert_eq!(drift(&[]), None);
        assert_eq!(drift(&[vec![]]), None);
    }
}
