//! Rotary position embedding.

use crate::arch::NullaryFnOnce;
use crate::isa::Isa;
use crate::memory::{Buffer, Category, HybridMemoryPool, OutOfMemory};

/// Returns `theta^(-2i/n_dims)` for i below `n_dims / 2`: the rotation angles of the pairs
/// of `n_dims` values per position, in radians (Su et al., RoFormer, 2021).
///
/// They are rounded to f32 where `transformers` rounds them. Powers are computed by `libm`
/// (portable code), so that they are the same on every machine.
pub fn rope_frequencies(n_dims: usize, theta: f32) -> Vec<f32> {
    (0..n_dims / 2)
        .map(|i| {
            let exponent = (2 * i) as f32 / n_dims as f32;
            1.0 / libm::pow(theta as f64, exponent as f64) as f32
        })
        .collect()
}

/// Cosines and sines of the rotary position embedding for the positions of a context,
/// computed on demand.
///
/// Pair i of a head is (x\[i\], x\[i + n\]), where n is the number of pairs: the
/// *rotate-half* form of GPT-NeoX and `transformers`. Elements from 2n on are unchanged.
#[derive(Debug)]
pub struct RopeTable {
    /// `[context_len, n_pairs]`
    cos: Buffer<f32>,
    /// `[context_len, n_pairs]`
    sin: Buffer<f32>,
    /// The number of computed positions.
    len: usize,
    /// `[n_pairs]`
    frequencies: Vec<f32>,
    magnitude: f32,
    head_dim: usize,
}

impl RopeTable {
    /// Allocates a table for positions 0 to `context_len - 1`; none is computed yet, nor is
    /// the memory touched. Pair i will be rotated by `position · frequencies[i]` and
    /// multiplied by `magnitude`, which is 1 unless the frequencies are scaled.
    ///
    /// Angles are rounded to f32 as in `transformers`; sines and cosines are computed by
    /// `libm`.
    ///
    /// # Errors
    ///
    /// Returns an error if the system is out of memory.
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
        let table = || pool.zeroed(Category::Scratch, context_len.saturating_mul(n_pairs));
        Ok(Self {
            cos: table()?,
            sin: table()?,
            len: 0,
            frequencies: frequencies.to_vec(),
            magnitude,
            head_dim,
        })
    }

    /// Returns the cosines of the pairs of each position, times the magnitude,
    /// `[context_len, n_pairs]`.
    pub fn cos(&self) -> &[f32] {
        &self.cos
    }

    /// Returns the sines of the pairs of each position, times the magnitude,
    /// `[context_len, n_pairs]`.
    pub fn sin(&self) -> &[f32] {
        &self.sin
    }

    /// Computes the missing ones of the first `len` positions.
    ///
    /// # Panics
    ///
    /// Panics if `len` exceeds the context.
    pub fn extend(&mut self, len: usize) {
        let n_pairs = self.frequencies.len();
        for position in self.len..len {
            let row = position * n_pairs..(position + 1) * n_pairs;
            let (cos, sin) = (&mut self.cos[row.clone()], &mut self.sin[row]);
            for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(&self.frequencies) {
                let angle = (position as f32 * frequency) as f64;
                *cos = libm::cos(angle) as f32 * self.magnitude;
                *sin = libm::sin(angle) as f32 * self.magnitude;
            }
        }
        self.len = self.len.max(len);
    }

    /// Rotates every head of `x`, `[n_heads, head_dim]`, to `position`.
    ///
    /// # Panics
    ///
    /// Panics if `position` is not computed or `x` is not whole heads.
    pub fn rotate(&self, isa: Isa, position: usize, x: &mut [f32]) {
        assert!(position < self.len, "the table was extended");
        assert!(x.len().is_multiple_of(self.head_dim), "whole heads");
        let n_pairs = self.frequencies.len();
        isa.vectorize(Rotate {
            x,
            head_dim: self.head_dim,
            cos: &self.cos[position * n_pairs..][..n_pairs],
            sin: &self.sin[position * n_pairs..][..n_pairs],
        });
    }

    /// Returns the size of the table in bytes.
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

impl NullaryFnOnce for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
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

    /// Returns a table with all of its `len` positions computed.
    fn table(frequencies: &[f32], head_dim: usize, len: usize, magnitude: f32) -> RopeTable {
        let pool = HybridMemoryPool::new();
        let mut table = RopeTable::new(&pool, frequencies, head_dim, len, magnitude).unwrap();
        table.extend(len);
        table
    }

    #[test]
    fn what_is_computed_in_parts_is_the_same() {
        let frequencies = rope_frequencies(8, 10_000.0);
        let whole = table(&frequencies, 8, 20, 1.5);
        let mut parts = RopeTable::new(&HybridMemoryPool::new(), &frequencies, 8, 20, 1.5).unwrap();
        for len in [0, 3, 2, 19, 20] {
            parts.extend(len);
        }
        assert_eq!((&*parts.cos, &*parts.sin), (&*whole.cos, &*whole.sin));
    }

    #[test]
    fn position_zero_changes_nothing_and_one_turns_the_first_pair_by_one_radian() {
        let table = table(&rope_frequencies(4, 10_000.0), 4, 2, 1.0);
        let mut x = [1.0, 2.0, 3.0, 4.0];
        table.rotate(Isa::Scalar, 0, &mut x);
        assert_eq!(x, [1.0, 2.0, 3.0, 4.0]);
        let mut x = [1.0, 0.0, 0.0, 0.0];
        table.rotate(Isa::Scalar, 1, &mut x);
        assert!((x[0] - 0.540_302_3).abs() < 1e-7 && (x[2] - 0.841_471).abs() < 1e-6);
    }

    #[test]
    fn lengths_of_pairs_are_kept_and_kernels_agree() {
        let table = table(&rope_frequencies(100, 500_000.0), 100, 50, 1.0);
        let x = values(300, 9);
        let rotated = |isa| {
            let mut x = x.clone();
            table.rotate(isa, 49, &mut x);
            x
        };
        let expected = rotated(Isa::Scalar);
        for head in 0..3 {
            for i in 0..50 {
                let norm = |x: &[f32]| x[head * 100 + i].hypot(x[head * 100 + i + 50]);
                assert!((norm(&x) - norm(&expected)).abs() < 1e-5);
            }
        }
        for isa in Isa::available() {
            assert_eq!(rotated(isa), expected, "{isa}");
        }
    }

    #[test]
    fn what_is_behind_the_turned_part_of_a_head_stays() {
        let x = values(20, 3);
        let frequencies = rope_frequencies(6, 10_000.0);
        let mut partial = x.clone();
        table(&frequencies, 10, 8, 1.0).rotate(Isa::Scalar, 7, &mut partial);
        let whole = table(&frequencies, 6, 8, 1.0);
        for (x, partial) in x.chunks(10).zip(partial.chunks(10)) {
            let mut turned = x[..6].to_vec();
            whole.rotate(Isa::Scalar, 7, &mut turned);
            assert_eq!(partial[..6], turned);
            assert_eq!(partial[6..], x[6..]);
        }
    }

    #[test]
    fn a_magnitude_scales_what_is_turned() {
        let frequencies = rope_frequencies(2, 10_000.0);
        let mut x = [3.0, 4.0];
        table(&frequencies, 2, 3, 2.0).rotate(Isa::Scalar, 2, &mut x);
        assert!((x[0].hypot(x[1]) - 10.0).abs() < 1e-5);
    }
}
