//! Rotary position embedding.

use crate::kernel::{Kernel, Op};

/// Cosines and sines of the rotary position embedding (Su et al., RoFormer,
/// 2021) for every position of a context.
///
/// Pair i of a head is (x\[i\], x\[i + head_dim/2\]), the *rotate-half* form of
/// GPT-NeoX and `transformers`, turned by `position · theta^(-2i/head_dim)`.
#[derive(Debug, Clone)]
pub struct RopeTable {
    /// `[context_len, head_dim / 2]`
    cos: Vec<f32>,
    /// `[context_len, head_dim / 2]`
    sin: Vec<f32>,
    half: usize,
}

impl RopeTable {
    /// Computes the table for positions 0 to `context_len - 1`.
    ///
    /// Frequencies and angles are rounded to f32 where `transformers` rounds
    /// them; powers, sines and cosines come from `libm` (portable code), so
    /// that they are the same on every machine.
    ///
    /// # Panics
    ///
    /// Panics if `head_dim` is odd.
    pub fn new(head_dim: usize, context_len: usize, theta: f32) -> Self {
        assert!(head_dim.is_multiple_of(2), "RoPE turns pairs");
        let half = head_dim / 2;
        let frequencies: Vec<f32> = (0..half)
            .map(|i| {
                let exponent = (2 * i) as f32 / head_dim as f32;
                1.0 / libm::pow(theta as f64, exponent as f64) as f32
            })
            .collect();
        let angles = || {
            (0..context_len).flat_map(|position| {
                frequencies
                    .iter()
                    .map(move |&frequency| (position as f32 * frequency) as f64)
            })
        };
        Self {
            cos: angles().map(|angle| libm::cos(angle) as f32).collect(),
            sin: angles().map(|angle| libm::sin(angle) as f32).collect(),
            half,
        }
    }

    /// Turns every head of `x`, `[n_heads, head_dim]`, to `position`.
    ///
    /// # Panics
    ///
    /// Panics if `position` is beyond the table or `x` is not whole heads.
    pub fn rotate(&self, kernel: Kernel, position: usize, x: &mut [f32]) {
        assert!(x.len().is_multiple_of(2 * self.half), "whole heads");
        kernel.run(Rotate {
            x,
            cos: &self.cos[position * self.half..][..self.half],
            sin: &self.sin[position * self.half..][..self.half],
        });
    }

    /// Returns the bytes that the table takes.
    pub fn n_bytes(&self) -> usize {
        size_of_val(self.cos.as_slice()) + size_of_val(self.sin.as_slice())
    }
}

struct Rotate<'a> {
    x: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Op for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let half = self.cos.len();
        for head in self.x.chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            let pairs = first.iter_mut().zip(second);
            for (((x, y), &cos), &sin) in pairs.zip(self.cos).zip(self.sin) {
                (*x, *y) = (*x * cos - *y * sin, *y * cos + *x * sin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_values::values;
    use super::*;

    #[test]
    fn position_zero_changes_nothing_and_one_turns_the_first_pair_by_one_radian() {
        let table = RopeTable::new(4, 2, 10_000.0);
        let mut x = [1.0, 2.0, 3.0, 4.0];
        table.rotate(Kernel::Scalar, 0, &mut x);
        assert_eq!(x, [1.0, 2.0, 3.0, 4.0]);
        let mut x = [1.0, 0.0, 0.0, 0.0];
        table.rotate(Kernel::Scalar, 1, &mut x);
        assert!((x[0] - 0.540_302_3).abs() < 1e-7 && (x[2] - 0.841_471).abs() < 1e-6);
    }

    #[test]
    fn lengths_of_pairs_are_kept_and_kernels_agree() {
        let table = RopeTable::new(100, 50, 500_000.0);
        let x = values(300, 9);
        let rotated = |kernel| {
            let mut x = x.clone();
            table.rotate(kernel, 49, &mut x);
            x
        };
        let expected = rotated(Kernel::Scalar);
        for head in 0..3 {
            for i in 0..50 {
                let norm = |x: &[f32]| x[head * 100 + i].hypot(x[head * 100 + i + 50]);
                assert!((norm(&x) - norm(&expected)).abs() < 1e-5);
            }
        }
        for kernel in Kernel::available() {
            assert_eq!(rotated(kernel), expected, "{kernel}");
        }
    }
}
