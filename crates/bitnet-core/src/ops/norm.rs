//! RMSNorm and related norms.

use super::{LANES, sum_lanes};
use crate::arch::NullaryFnOnce;
use crate::isa::Isa;

/// Writes `out[i] = weight[i] · (x[i] / sqrt(mean(x²) + eps))`: RMSNorm (Zhang & Sennrich,
/// 2019), in the order of operations of `transformers`.
///
/// # Panics
///
/// Panics if the lengths differ.
#[inline]
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(
        x.len() == weight.len() && x.len() == out.len(),
        "a norm of equal lengths"
    );
    isa.vectorize(RmsNorm {
        x,
        weight,
        eps,
        out,
    });
}

/// Replaces every `weight.len()` values of `x` by their [`rms_norm`]: a row, or each head
/// of a row.
///
/// # Panics
///
/// Panics if the length of `x` is not a multiple of that of `weight`.
#[inline]
pub fn rms_norm_each(isa: Isa, x: &mut [f32], weight: &[f32], eps: f32) {
    assert!(
        !weight.is_empty() && x.len().is_multiple_of(weight.len()),
        "whole rows"
    );
    for x in x.chunks_exact_mut(weight.len()) {
        isa.vectorize(RmsNormEach { x, weight, eps });
    }
}

struct RmsNormEach<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

impl NullaryFnOnce for RmsNormEach<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let inverse = inverse_rms(self.x, self.eps);
        for (x, &weight) in self.x.iter_mut().zip(self.weight) {
            *x = weight * (*x * inverse);
        }
    }
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let mean = sum_lanes(x, |x| x * x) / x.len() as f32;
    1.0 / (mean + eps).sqrt()
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl NullaryFnOnce for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let inverse = inverse_rms(self.x, self.eps);
        for ((out, &x), &weight) in self.out.iter_mut().zip(self.x).zip(self.weight) {
            *out = weight * (x * inverse);
        }
    }
}

/// Returns the largest |x|, ignoring NaN; 0 if there is none.
#[inline(always)]
pub(crate) fn max_abs(x: &[f32]) -> f32 {
    // Like `f32::max`, but one instruction per vector.
    let max = |max: f32, x: f32| if x.abs() > max { x.abs() } else { max };
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = max(*lane, x);
        }
    }
    rest.iter().chain(&lanes).fold(0.0, |m, &x| max(m, x))
}

/// Returns Σ|x|.
#[inline(always)]
pub(crate) fn sum_abs(x: &[f32]) -> f32 {
    sum_lanes(x, f32::abs)
}

#[cfg(test)]
mod tests {
    use super::super::test_values::{LENGTHS, values};
    use super::*;

    #[test]
    fn the_norm_is_close_to_the_exact_one_and_equal_on_all_kernels() {
        for n in LENGTHS {
            let (x, weight) = (values(n, 3), values(n, 4));
            let norm = |isa| {
                let mut out = vec![f32::NAN; n];
                rms_norm(isa, &x, &weight, 1e-5, &mut out);
                out
            };
            let expected = norm(Isa::Scalar);
            let mean = x.iter().map(|&x| (x as f64).powi(2)).sum::<f64>() / n as f64;
            for (i, &y) in expected.iter().enumerate() {
                let exact = weight[i] as f64 * x[i] as f64 / (mean + 1e-5).sqrt();
                assert!(
                    (y as f64 - exact).abs() <= 1e-6 * exact.abs(),
                    "{y} vs {exact}"
                );
            }
            for isa in Isa::available() {
                assert_eq!(norm(isa), expected, "{isa}, {n}");
                let mut each = [&x[..], &x[..]].concat();
                if n > 0 {
                    rms_norm_each(isa, &mut each, &weight, 1e-5);
                    assert_eq!(each, [&expected[..], &expected[..]].concat());
                }
            }
        }
    }

    #[test]
    fn the_largest_magnitude_is_found_wherever_it_is() {
        for n in [1usize, 31, 32, 33, 100] {
            for i in 0..n {
                let mut x = vec![0.5; n];
                x[i] = -3.0;
                assert_eq!(max_abs(&x), 3.0);
            }
        }
        assert_eq!(max_abs(&[]), 0.0);
        assert_eq!(max_abs(&[f32::NAN, 1.0]), 1.0);
    }
}
