//! Softmax and log-sum-exp.

use super::{LANES, exp_scalar, sum_lanes};
use crate::isa::Isa;
use crate::lanes::{Lanes, WithSimd};

/// Replaces `x` by exp(x - max) and returns the sum of the results: softmax without the
/// division.
#[inline(always)]
pub(super) fn exp_minus_max<L: Lanes>(lanes: L, x: &mut [f32]) -> f32 {
    let max = max(x);
    for x in x.iter_mut() {
        *x = exp_scalar(lanes, *x - max);
    }
    sum_lanes(x, |x| x)
}

/// Returns the largest value; between equal values, the choice does not matter.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let max = |max: f32, x: f32| if x > max { x } else { max };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = max(*lane, x);
        }
    }
    rest.iter()
        .chain(&lanes)
        .fold(f32::NEG_INFINITY, |m, &x| max(m, x))
}

/// Replaces `x` by `exp(x) / Σ exp(x)`.
pub fn softmax(isa: Isa, x: &mut [f32]) {
    isa.dispatch(Softmax(x));
}

/// Returns `ln Σ exp(x)`.
pub fn log_sum_exp(isa: Isa, x: &[f32]) -> f64 {
    isa.dispatch(LogSumExp(x))
}

struct Softmax<'a>(&'a mut [f32]);

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<L: Lanes>(self, lanes: L) {
        let inverse = 1.0 / exp_minus_max(lanes, self.0);
        self.0.iter_mut().for_each(|x| *x *= inverse);
    }
}

struct LogSumExp<'a>(&'a [f32]);

impl WithSimd for LogSumExp<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<L: Lanes>(self, lanes: L) -> f64 {
        let max = max(self.0);
        let sum = sum_lanes(self.0, |x| exp_scalar(lanes, x - max));
        max as f64 + libm::log(sum as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_values::{LENGTHS, values};
    use super::*;

    #[test]
    fn softmax_and_log_sum_exp_are_close_to_exact_and_equal_on_all_kernels() {
        for n in LENGTHS.into_iter().filter(|&n| n > 0) {
            let x = values(n, 7);
            let run = |isa| {
                let mut y = x.clone();
                softmax(isa, &mut y);
                (y, log_sum_exp(isa, &x).to_bits())
            };
            let expected = run(Isa::Scalar);
            let exact = x.iter().map(|&x| (x as f64).exp()).sum::<f64>();
            assert!((f64::from_bits(expected.1) - exact.ln()).abs() < 1e-6);
            for (&x, &y) in x.iter().zip(&expected.0) {
                let exact = (x as f64).exp() / exact;
                assert!((y as f64 - exact).abs() < 1e-6 * exact, "{y} vs {exact}");
            }
            for isa in Isa::available() {
                assert_eq!(run(isa), expected, "{isa}, {n}");
            }
        }
    }
}
