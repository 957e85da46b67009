//! The decision about counted instructions: two launches of each revision, next to no noise.

use super::judge::{percent, share};
use super::{
    BenchmarkState, Decision, Estimate, Measure, NoiseThreshold, PairError, RegressionAction,
    log_ratio,
};

/// The counts of both launches of each revision, base and candidate.
pub type InstructionCounts = [[f64; 2]; 2];

/// Decides from counts, which warn at most: instructions are not time. Where two launches
/// of one revision differ by more than the noise threshold, the program does not do the same
/// work each time; the error says by which share, and nothing is decided.
pub fn judge_counts(counts: &InstructionCounts) -> Result<Result<Decision, f64>, PairError> {
    let measure = Measure::Instructions;
    let noise_threshold = NoiseThreshold::of(measure);
    let [base, candidate] = *counts;
    let own = |[one, other]: [f64; 2]| log_ratio(measure, one, other).map(f64::abs);
    let spread = own(base)?.max(own(candidate)?);
    let middle = |[one, other]: [f64; 2]| (one * other).sqrt();
    let margin = noise_threshold.equivalence_margin(middle(base));
    if spread > margin.ln_1p() {
        return Ok(Err(spread.exp_m1()));
    }
    let ratio = log_ratio(measure, middle(base), middle(candidate))?;
    // All four pairs lie within.
    let (low, high) = (ratio - spread, ratio + spread);
    let threshold = noise_threshold.with_spread(spread).threshold(middle(base));
    let state = if ratio > threshold.ln_1p() {
        BenchmarkState::Regressed
    } else if ratio < -threshold.ln_1p() {
        BenchmarkState::Improved
    } else if low >= -margin.ln_1p() && high <= margin.ln_1p() {
        BenchmarkState::Equivalent
    } else {
        BenchmarkState::Inconclusive
    };
    let estimate = Estimate {
        ratio: ratio.exp(),
        low: low.exp(),
        high: high.exp(),
    };
    let seen = percent(estimate.ratio);
    let reason = match state {
        BenchmarkState::Equivalent => format!("the same within {}: {seen}", share(margin)),
        BenchmarkState::Inconclusive => format!(
            "{seen}: not beyond its noise threshold of {}, and not within {} either",
            share(threshold),
            share(margin)
        ),
        _ => format!("{seen}, beyond its noise threshold of {}", share(threshold)),
    };
    Ok(Ok(Decision {
        state,
        action: (state == BenchmarkState::Regressed).then_some(RegressionAction::Warn),
        pairs: base.len(),
        base: Some(middle(base)),
        candidate: Some(middle(candidate)),
        estimate: Some(estimate),
        margin,
        threshold,
        ..Decision::incomparable(measure, reason)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(base: [f64; 2], candidate: [f64; 2]) -> Result<BenchmarkState, f64> {
        let judged = judge_counts(&[base, candidate]).expect("counts");
        judged.map(|decision| decision.state)
    }

    #[test]
    fn small_differences_count_where_there_is_no_noise() {
        let base = [1e6, 1e6];
        assert_eq!(state(base, [1e6, 1e6]), Ok(BenchmarkState::Equivalent));
        assert_eq!(
            state(base, [1.001e6, 1.001e6]),
            Ok(BenchmarkState::Equivalent)
        );
        assert_eq!(
            state(base, [1.003e6, 1.003e6]),
            Ok(BenchmarkState::Regressed)
        );
        assert_eq!(state(base, [0.99e6, 0.99e6]), Ok(BenchmarkState::Improved));
        let judged = judge_counts(&[base, [1.02e6, 1.02e6]]).expect("counts");
        let decision = judged.expect("steady");
        assert_eq!(decision.action, Some(RegressionAction::Warn));
        assert_eq!(
            decision.reason,
            "+2.0 %, beyond its noise threshold of 0.20 %"
        );
    }

    #[test]
    fn noise_raises_the_floor_and_much_of_it_decides_nothing() {
        // .15 % apart: .3 % more is less than three times that.
        let restless = [0.9985e6, 1e6];
        assert_eq!(
            state(restless, [1.0023e6; 2]),
            Ok(BenchmarkState::Inconclusive)
        );
        assert_eq!(state(restless, [1.01e6; 2]), Ok(BenchmarkState::Regressed));
        let apart = state([1e6, 1.05e6], [2e6, 2e6]).expect_err("not the same work");
        assert!((apart - 0.05).abs() < 1e-9, "{apart}");
        assert!(judge_counts(&[[0.0, 1.0], [1.0, 1.0]]).is_err());
    }
}
