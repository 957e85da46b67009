//! Dot products.

use super::{LANES, add_lanes, padded};
use crate::isa::Isa;
use crate::lanes::{Lanes, WithSimd};

/// Returns `Σ x[i]·y[i]`, by fused multiply-add in lane order.
///
/// # Panics
///
/// Panics if the lengths differ.
#[inline]
pub fn dot(isa: Isa, x: &[f32], y: &[f32]) -> f32 {
    assert_eq!(x.len(), y.len(), "a dot product of equal lengths");
    isa.dispatch(Dot { x, y })
}

struct Dot<'a> {
    x: &'a [f32],
    y: &'a [f32],
}

impl WithSimd for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<L: Lanes>(self, lanes: L) -> f32 {
        let mut sums = [0.0; LANES];
        let mut add = |x: &[f32; LANES], y: &[f32; LANES]| {
            for ((sum, &x), &y) in sums.iter_mut().zip(x).zip(y) {
                *sum = lanes.mul_add_scalar(x, y, *sum);
            }
        };
        let (x_chunks, x_rest) = self.x.as_chunks();
        let (y_chunks, y_rest) = self.y.as_chunks();
        for (x, y) in x_chunks.iter().zip(y_chunks) {
            add(x, y);
        }
        if !x_rest.is_empty() {
            add(&padded(x_rest), &padded(y_rest));
        }
        add_lanes(sums)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_values::{LENGTHS, values};
    use super::*;

    #[test]
    fn a_dot_product_is_close_to_the_exact_one_and_equal_on_all_kernels() {
        for n in LENGTHS {
            let (x, y) = (values(n, 1), values(n, 2));
            let exact: f64 = x.iter().zip(&y).map(|(&x, &y)| x as f64 * y as f64).sum();
            let expected = dot(Isa::Scalar, &x, &y);
            // Each lane has n/32 roundings of values below 16.
            let tolerance = 16.0 * n as f64 * f32::EPSILON as f64;
            assert!(
                (expected as f64 - exact).abs() <= tolerance,
                "{expected} vs {exact}"
            );
            for isa in Isa::available() {
                assert_eq!(dot(isa, &x, &y).to_bits(), expected.to_bits(), "{isa}, {n}");
            }
        }
    }

    #[test]
    fn lanes_are_added_in_halves() {
        // 2^24 + 1 is not representable in f32, so the result depends on the order.
        let mut x = [0.0; LANES];
        (x[0], x[1], x[16]) = (16_777_216.0, 1.0, 1.0);
        assert_eq!(dot(Isa::Scalar, &x, &[1.0; LANES]), 16_777_216.0);
        (x[0], x[1], x[17], x[16]) = (16_777_216.0, 1.0, 1.0, 0.0);
        assert_eq!(dot(Isa::Scalar, &x, &[1.0; LANES]), 16_777_218.0);
    }
}
