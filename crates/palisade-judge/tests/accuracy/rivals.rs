//! The rules of other programs, on samples that their way of measuring gives.

use statrs::distribution::{ContinuousCDF as _, Normal};

/// Criterion's verdict between a saved baseline and a new run of the same benchmark:
/// slower if its t test says p < .05 and the 95 % interval of the change of the mean
/// lies beyond its noise threshold of 1 %.
///
/// Criterion takes p and the interval from 100,000 resamples; for the 100 samples of a
/// run both are normal to three digits, and so they are computed here.
pub fn criterion_says_slower(base: &[f64], candidate: &[f64]) -> bool {
    const SIGNIFICANCE: f64 = 0.05;
    const NOISE_THRESHOLD: f64 = 0.01;
    let (base, candidate) = (Moments::of(base), Moments::of(candidate));
    let error = (base.error.powi(2) + candidate.error.powi(2)).sqrt();
    let normal = Normal::standard();
    let p = 2.0 * normal.sf((candidate.mean - base.mean).abs() / error);
    let ratio = candidate.mean / base.mean;
    let relative = (base.error / base.mean).hypot(candidate.error / candidate.mean);
    let low = ratio * (1.0 - 1.96 * relative);
    p < SIGNIFICANCE && low > 1.0 + NOISE_THRESHOLD
}

/// What `critcmp --threshold` shows of the same two runs as slower: the mean is larger
/// by so much.
pub fn critcmp_shows(base: &[f64], candidate: &[f64], threshold: f64) -> bool {
    Moments::of(candidate).mean > Moments::of(base).mean * (1.0 + threshold)
}

struct Moments {
    mean: f64,
    /// The standard error of the mean.
    error: f64,
}

impl Moments {
    fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self {
            mean,
            error: (squares / (n - 1.0) / n).sqrt(),
        }
    }
}
