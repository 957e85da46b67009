//! Quantization of master weights to trits as in BitNet b1.58: by their mean magnitude.
//!
//! ```text
//! s = 1 / max(mean |w|, 1e-5)      trit = clamp(round(s · w), -1, 1)      scale = 1 / s
//! ```
//!
//! All in f32, ties to even. `transformers` converts the product of trit and scale
//! back to the type of the master weights; here the scale is converted likewise. Its
//! mean is an f32 sum of unspecified order; here it is the f32 nearest to the true mean.
//!
//! Source: Ma et al. 2024, "The Era of 1-bit LLMs", section 2; transformers,
//! `WeightQuant` in `src/transformers/integrations/bitnet.py`.

use half::{bf16, f16};

use crate::DenseType;

/// The minimum mean magnitude.
const EPSILON: f32 = 1e-5;

/// 1.5 · 2^23: adding and subtracting it rounds to an integer, ties to even. Unlike this,
/// `round_ties_even` calls the C library on targets without an instruction for it.
const ROUND: f32 = 12_582_912.0;

/// The quantization of one matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AbsMean {
    /// Factor of a weight before rounding.
    inverse: f32,
    /// Factor of a trit.
    scale: f32,
}

impl AbsMean {
    /// Returns how a matrix of `n_weights` masters of type `ty` is rounded, from the
    /// sum of their magnitudes: that of [`sum_magnitudes`] over all rows.
    ///
    /// The [`scale`](Self::scale) is not finite if one of them is not.
    pub fn new(sum_magnitudes: f64, n_weights: usize, ty: DenseType) -> Self {
        let mean = (sum_magnitudes / n_weights as f64) as f32;
        // Not `max`, which would drop a NaN.
        let mean = if mean < EPSILON { EPSILON } else { mean };
        let inverse = 1.0 / mean;
        let scale = 1.0 / inverse;
        Self {
            inverse,
            scale: match ty {
                DenseType::BF16 => bf16::from_f32(scale).to_f32(),
                DenseType::F16 => f16::from_f32(scale).to_f32(),
                _ => scale,
            },
        }
    }

    /// Returns the factor of the trits.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Quantizes a row of master weights to -1, 0, +1 in `trits`.
    ///
    /// # Panics
    ///
    /// Panics if the slices are not equally long.
    pub fn round_row(&self, masters: &[f32], trits: &mut [i8]) {
        assert_eq!(masters.len(), trits.len(), "trits of a row");
        for (trit, master) in trits.iter_mut().zip(masters) {
            // The nearest integer, ties to even: there are no bits left for a fraction, and the
            // lowest byte is that of the integer.
            let sum = (master * self.inverse).clamp(-1.0, 1.0) + ROUND;
            *trit = sum.to_bits() as i8;
        }
    }
}

/// Returns the sum of the magnitudes of a row, in a fixed order.
pub fn sum_magnitudes(row: &[f32]) -> f64 {
    const LANES: usize = 16;
    let (runs, rest) = row.as_chunks::<LANES>();
    let mut sums = [0f64; LANES];
    for run in runs {
        for (sum, x) in sums.iter_mut().zip(run) {
            *sum += f64::from(x.abs());
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += f64::from(x.abs());
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(masters: &[f32], ty: DenseType) -> (f32, Vec<i8>) {
        let absmean = AbsMean::new(sum_magnitudes(masters), masters.len(), ty);
        let mut trits = vec![99; masters.len()];
        absmean.round_row(masters, &mut trits);
        (absmean.scale(), trits)
    }

    #[test]
    fn masters_round_at_half_their_mean_magnitude() {
        // Mean 1: halves are ties, to even.
        let masters = [0.5, -0.5, 0.75, -0.25, 2.5, -1.5, 1.5, 0.5];
        let (scale, trits) = round(&masters, DenseType::F32);
        assert_eq!(scale, 1.0);
        assert_eq!(trits, [0, 0, 1, 0, 1, -1, 1, 0]);
    }

    #[test]
    fn the_scale_has_the_type_of_the_masters() {
        let masters = [0.1f32, -0.3, 0.2, 0.4];
        let f32 = round(&masters, DenseType::F32).0;
        assert!((f32 - 0.25).abs() < 1e-6);
        let third = [1.0f32 / 3.0; 4];
        assert_eq!(round(&third, DenseType::BF16).0, 171.0 / 512.0);
        assert_eq!(round(&third, DenseType::F16).0, 1365.0 / 4096.0);
    }

    #[test]
    fn small_means_are_clamped() {
        let (scale, trits) = round(&[1e-6, -6e-6, 0.0, 4e-6], DenseType::F32);
        assert!((scale / 1e-5 - 1.0).abs() < 1e-6, "{scale}");
        assert_eq!(trits, [0, -1, 0, 0]);
    }

    #[test]
    fn masters_that_are_no_numbers_show_in_the_scale() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!round(&[1.0, bad, 0.5], DenseType::F32).0.is_finite());
        }
    }
}
