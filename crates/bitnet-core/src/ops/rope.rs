//! Rotary position embedding.

use crate::kernel::{Kernel, Op};
use crate::memory::{Buffer, Category, HybridMemoryPool, OutOfMemory};

/// Returns `theta^(-2i/n_dims)` for i below `n_dims / 2`: the angles that the pairs
/// of `n_dims` values turn from one position to the next (Su et al., RoFormer,
/// 2021).
///
/// They are rounded to f32 where `transformers` rounds them; powers come from
/// `libm` (portable code), so that they are the same on every machine.
pub fn rope_frequencies(n_dims: usize, theta: f32) -> Vec<f32> {
    (0..n_dims / 2)
        .map(|i| {
            let exponent = (2 * i) as f32 / n_dims as f32;
            1.0 / libm::pow(theta as f64, exponent as f64) as f32
        })
        .collect()
}

/// Cosines and sines of the rotary position embedding for every position of a
/// context.
///
/// Pair i of a head is (x\[i\], x\[i + n\]), where n is the number of pairs: the
/// *rotate-half* form of GPT-NeoX and `transformers`. What is behind 2n stays.
#[derive(Debug)]
pub struct RopeTable {
    /// `[context_len, n_pairs]`
    cos: Buffer<f32>,
    /// `[context_len, n_pairs]`
    sin: Buffer<f32>,
    n_pairs: usize,
    head_dim: usize,
}

impl RopeTable {
    /// Computes the table for positions 0 to `context_len - 1`: pair i is turned by
    /// `position · frequencies[i]` and multiplied with `magnitude`, which is 1
    /// unless the frequencies are stretched.
    ///
    /// Angles are rounded to f32 as in `transformers`; sines and cosines come from
    /// `libm`.
    ///
    /// # Panics
    ///
    /// Panics if the pairs exceed the head.
    pub fn new(
        pool: &HybridMemoryPool,
        frequencies: &[f32],
        head_dim: usize,
        context_len: usize,
        magnitude: f32,
    ) -> Result<Self, OutOfMemory> {
        let n_pairs = frequencies.len();
        assert!(2 * n_pairs <= head_dim, "RoPE turns pairs of a head");
        let table = |of: fn(f64) -> f64| {
            let len = context_len.saturating_mul(n_pairs);
            let mut table = pool.zeroed::<f32>(Category::Scratch, len)?;
            for (position, row) in table.chunks_exact_mut(n_pairs.max(1)).enumerate() {
                for (out, &frequency) in row.iter_mut().zip(frequencies) {
                    *out = of((position as f32 * frequency) as f64) as f32 * magnitude;
                }
            }
            Ok(table)
        };
        Ok(Self {
            cos: table(libm::cos)?,
            sin: table(libm::sin)?,
            n_pairs,
            head_dim,
        })
    }

    /// Turns every head of `x`, `[n_heads, head_dim]`, to `position`.
    ///
    /// # Panics
    ///
    /// Panics if `position` is beyond the table or `x` is not whole heads.
    pub fn rotate(&self, kernel: Kernel, position: usize, x: &mut [f32]) {
        assert!(x.len().is_multiple_of(self.head_dim), "whole heads");
        kernel.run(Rotate {
            x,
            head_dim: self.head_dim,
            cos: &self.cos[position * self.n_pairs..][..self.n_pairs],
            sin: &self.sin[position * self.n_pairs..][..self.n_pairs],
        });
    }

    /// Returns the bytes that the table takes.
    pub fn n_bytes(&self) -> usize {
        size_of_val(&*self.cos) + size_of_val(&*self.sin)
    }
}

struct Rotate<'a> {
    x: &'a mut [f32],
    head_dim: usize,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Op for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for head in self.x.chunks_exact_mut(self.head_dim) {
            let (first, second) = head.split_at_mut(self.cos.len());
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
        let table = RopeTable::new(
            &HybridMemoryPool::new(),
            &rope_frequencies(4, 10_000.0),
            4,
            2,
            1.0,
        )
        .unwrap();
        let mut x = [1.0, 2.0, 3.0, 4.0];
        table.rotate(Kernel::Scalar, 0, &mut x);
        assert_eq!(x, [1.0, 2.0, 3.0, 4.0]);
        let mut x = [1.0, 0.0, 0.0, 0.0];
        table.rotate(Kernel::Scalar, 1, &mut x);
        assert!((x[0] - 0.540_302_3).abs() < 1e-7 && (x[2] - 0.841_471).abs() < 1e-6);
    }

    #[test]
    fn lengths_of_pairs_are_kept_and_kernels_agree() {
        let table = RopeTable::new(
            &HybridMemoryPool::new(),
            &rope_frequencies(100, 500_000.0),
            100,
            50,
            1.0,
        )
        .unwrap();
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

    #[test]
    fn what_is_behind_the_turned_part_of_a_head_stays() {
        let x = values(20, 3);
        let frequencies = rope_frequencies(6, 10_000.0);
        let mut partial = x.clone();
        RopeTable::new(&HybridMemoryPool::new(), &frequencies, 10, 8, 1.0)
            .unwrap()
            .rotate(Kernel::Scalar, 7, &mut partial);
        let whole = RopeTable::new(&HybridMemoryPool::new(), &frequencies, 6, 8, 1.0).unwrap();
        for (x, partial) in x.chunks(10).zip(partial.chunks(10)) {
            let mut turned = x[..6].to_vec();
            whole.rotate(Kernel::Scalar, 7, &mut turned);
            assert_eq!(partial[..6], turned);
            assert_eq!(partial[6..], x[6..]);
        }
    }

    #[test]
    fn a_magnitude_scales_what_is_turned() {
        let frequencies = rope_frequencies(2, 10_000.0);
        let mut x = [3.0, 4.0];
        RopeTable::new(&HybridMemoryPool::new(), &frequencies, 2, 3, 2.0)
            .unwrap()
            .rotate(Kernel::Scalar, 2, &mut x);
        assert!((x[0].hypot(x[1]) - 10.0).abs() < 1e-5);
    }
}
