//! Tiles of `vpmaddubsw` and `vpmaddwd`, for processors without `vpdpbusd`.

use std::hint::black_box;

use super::row_lanes::{RowLanes, assert_parts};
use super::{prefetch_ahead, rows};
use crate::arch::NullaryFnOnce;
use crate::panel::{Acc, COL_STEP, Operands};

/// A weight type.
pub(super) trait Weights: Copy {
    /// Computes a tile of `N` tokens by `PARTS` vectors of rows, from vector `part` on.
    ///
    /// Accumulators stay in registers only if all their indices are constants after
    /// unrolling. So quarters of blocks are unrolled by hand, and loops over tokens and
    /// parts are separate.
    fn tile<V: RowLanes, const N: usize, const PARTS: usize>(
        self,
        lanes: V,
        operands: Operands<'_>,
        part: usize,
    ) -> [[V::Vector; PARTS]; N];
}

/// Codes 0..=2. The products are those of the codes, without correction.
#[derive(Clone, Copy)]
pub(super) struct Ternary;

/// Blocks whose products are accumulated in i16: a `vpmaddubsw` lane is at most 2·2·127 =
/// 508, with four per block, so the sum of sixteen blocks stays below 2^15 and does not
/// overflow.
const I16_BLOCKS: usize = 16;

const _: () = assert!(I16_BLOCKS * 4 * 508 <= i16::MAX as usize);

impl Weights for Ternary {
    #[inline(always)]
    fn tile<V: RowLanes, const N: usize, const PARTS: usize>(
        self,
        lanes: V,
        operands: Operands<'_>,
        part: usize,
    ) -> [[V::Vector; PARTS]; N] {
        let blocks = operands.blocks;
        let rows = rows::<N>(operands, COL_STEP * blocks.len());
        let ones = lanes.splat_i16(1);
        let mut sums = [[lanes.zero(); PARTS]; N];
        for (chunk, blocks) in blocks.chunks(I16_BLOCKS).enumerate() {
            let mut pairs = [[lanes.zero(); PARTS]; N];
            for (b, block) in blocks.iter().enumerate() {
                prefetch_ahead(std::slice::from_ref(block));
                let mut packed = [lanes.zero(); PARTS];
                for (p, packed) in packed.iter_mut().enumerate() {
                    *packed = lanes.load_part(block, part + p);
                }
                let col = COL_STEP * (I16_BLOCKS * chunk + b);
                // SAFETY: `col + 16` is at most `16·blocks.len()`, which `rows` has
                // checked.
                unsafe {
                    add_quarter::<V, N, PARTS, 0>(lanes, &mut pairs, packed, rows, col);
                    add_quarter::<V, N, PARTS, 1>(lanes, &mut pairs, packed, rows, col + 4);
                    add_quarter::<V, N, PARTS, 2>(lanes, &mut pairs, packed, rows, col + 8);
                    add_quarter::<V, N, PARTS, 3>(lanes, &mut pairs, packed, rows, col + 12);
                }
            }
            for t in 0..N {
                for p in 0..PARTS {
                    sums[t][p] = lanes.add_i32(sums[t][p], lanes.mul_i16(pairs[t][p], ones));
                }
            }
        }
        sums
    }
}

/// Adds a quarter of a block, four columns from `col` on, in i16.
///
/// # Safety
///
/// Every row has the columns `col..col + 4`.
#[inline(always)]
unsafe fn add_quarter<V: RowLanes, const N: usize, const PARTS: usize, const QUARTER: usize>(
    lanes: V,
    pairs: &mut [[V::Vector; PARTS]; N],
    packed: [V::Vector; PARTS],
    rows: [*const i8; N],
    col: usize,
) {
    let mut codes = [lanes.zero(); PARTS];
    for (codes, packed) in codes.iter_mut().zip(packed) {
        *codes = lanes.codes::<QUARTER>(packed);
    }
    for t in 0..N {
        // SAFETY: guaranteed by the caller.
        let acts = unsafe { lanes.broadcast_i8x4(rows[t].add(col)) };
        for p in 0..PARTS {
            pairs[t][p] = lanes.add_i16(pairs[t][p], lanes.mul_u8_i8(codes[p], acts));
        }
    }
}

/// Int8 weights.
///
/// `vpmaddubsw` takes one unsigned operand: the magnitude of the weights, whose sign is
/// applied to the activations. Both are within ±127, so a lane is at most 2·127² = 32258:
/// it does not saturate, but a second one cannot be added to it.
#[derive(Clone, Copy)]
pub(super) struct Int8;

impl Weights for Int8 {
    #[inline(always)]
    fn tile<V: RowLanes, const N: usize, const PARTS: usize>(
        self,
        lanes: V,
        operands: Operands<'_>,
        part: usize,
    ) -> [[V::Vector; PARTS]; N] {
        let blocks = operands.blocks;
        let rows = rows::<N>(operands, 4 * blocks.len());
        let ones = lanes.splat_i16(1);
        let mut sums = [[lanes.zero(); PARTS]; N];
        for (b, block) in blocks.iter().enumerate() {
            prefetch_ahead(std::slice::from_ref(block));
            let mut weights = [lanes.zero(); PARTS];
            for (p, weights) in weights.iter_mut().enumerate() {
                *weights = lanes.load_part(block, part + p);
            }
            for t in 0..N {
                // SAFETY: `4·b + 4 <= 4·blocks.len()`, which `rows` has checked.
                let acts = unsafe { lanes.broadcast_i8x4(rows[t].add(4 * b)) };
                for p in 0..PARTS {
                    let magnitudes = lanes.abs_i8(weights[p]);
                    let signs = lanes.signs(weights[p]);
                    let signed = lanes.negate_where(acts, signs);
                    let pairs = lanes.mul_u8_i8(magnitudes, signed);
                    sums[t][p] = lanes.add_i32(sums[t][p], lanes.mul_i16(pairs, ones));
                }
            }
        }
        sums
    }
}

/// A tile of a weight type, to be compiled for an instruction set: see [`Weights::tile`].
pub(super) struct Tile<'a, W, V, const N: usize, const PARTS: usize> {
    pub(super) weights: W,
    pub(super) lanes: V,
    pub(super) operands: Operands<'a>,
    pub(super) part: usize,
    pub(super) acc: &'a mut Acc,
}

impl<W: Weights, V: RowLanes, const N: usize, const PARTS: usize> NullaryFnOnce
    for Tile<'_, W, V, N, PARTS>
{
    type Output = ();

    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "bounds are constants")]
    fn call(self) {
        assert_parts::<V>(self.part + PARTS);
        let sums = self
            .weights
            .tile::<V, N, PARTS>(self.lanes, self.operands, self.part);
        for t in 0..N {
            for p in 0..PARTS {
                (self.lanes).store_part(sums[t][p], &mut self.acc[t], self.part + p);
            }
        }
    }
}

/// The number of accumulators that hides the latency of the addition.
const PEAK_CHAINS: usize = 12;

/// Runs `vpmaddubsw` and the addition that it requires on registers; returns the number of
/// multiply-adds.
pub(super) struct PeakRounds<V> {
    pub(super) lanes: V,
    pub(super) n_rounds: usize,
}

impl<V: RowLanes> NullaryFnOnce for PeakRounds<V> {
    type Output = usize;

    #[inline(always)]
    fn call(self) -> usize {
        let lanes = self.lanes;
        let mut sums = [lanes.zero(); PEAK_CHAINS];
        let factor = black_box(lanes.splat_i8(1));
        for _ in 0..self.n_rounds {
            for sum in &mut sums {
                // Each product depends on the sum, so that the compiler cannot reuse one
                // product.
                *sum = lanes.add_i16(*sum, lanes.mul_u8_i8(factor, *sum));
            }
        }
        black_box(sums);
        self.n_rounds * PEAK_CHAINS * 4 * V::ROWS
    }
}
