//! Tiles of `vpdpbusd`, which multiplies four columns of every row and accumulates in i32
//! lanes.

use std::hint::black_box;

use super::row_lanes::{RowLanes, assert_parts};
use super::{IsaLevel, prefetch_ahead, rows};
use crate::arch::NullaryFnOnce;
use crate::panel::{Acc, COL_STEP, Operands, PackedBlock};

/// An instruction set with `vpdpbusd`.
pub(super) trait Vnni: IsaLevel {
    /// The instruction set without `vpdpbusd`.
    type Base: RowLanes;
    fn base(self) -> Self::Base;
    /// Adds the products of four u8 and four i8 to every i32 lane of `sums`.
    fn dot(self, sums: Vector<Self>, x: Vector<Self>, y: Vector<Self>) -> Vector<Self>;
}

pub(super) type Vector<I> = <<I as Vnni>::Base as RowLanes>::Vector;

/// The first columns of the operands of a step.
pub(super) struct StepCols {
    /// Of the operands 0..4, which are contiguous.
    pub(super) col: usize,
    /// Of the fifth operand, if there is one.
    pub(super) fifth: usize,
}

/// A weight type: how blocks become unsigned operands of four columns.
pub(super) trait Weights<I: Vnni>: Copy {
    /// Blocks per step.
    const BLOCKS: usize;
    /// Operands per step: 4 or 5.
    const QUADS: usize;
    /// The offset of operands from weights, if the tile must subtract it.
    const OFFSET: i32;
    /// Returns the first columns of the operands of a step.
    fn cols(step: usize) -> StepCols;
    /// Returns an operand for a part of the panel. If its products are accumulated
    /// separately (`own_sum`), it may be a multiple of the weights.
    fn operand<const QUAD: usize>(
        self,
        isa: I,
        blocks: &[PackedBlock],
        part: usize,
        own_sum: bool,
    ) -> Vector<I>;
    /// Divides the separate sum of an operand by the operand's factor.
    fn rescale(self, isa: I, quad: usize, sum: Vector<I>) -> Vector<I>;
}

/// Codes 0..=2. The products are those of the codes, without correction. A step adds at
/// most 4·2·127 to a lane.
#[derive(Clone, Copy)]
pub(super) struct Ternary;

impl<I: Vnni> Weights<I> for Ternary {
    const BLOCKS: usize = 1;
    const QUADS: usize = 4;
    const OFFSET: i32 = 0;

    #[inline(always)]
    fn cols(step: usize) -> StepCols {
        StepCols {
            col: COL_STEP * step,
            fifth: 0,
        }
    }

    #[inline(always)]
    fn operand<const QUAD: usize>(
        self,
        isa: I,
        blocks: &[PackedBlock],
        part: usize,
        _own_sum: bool,
    ) -> Vector<I> {
        let lanes = isa.base();
        lanes.codes::<QUAD>(lanes.load_part(&blocks[0], part))
    }

    #[inline(always)]
    fn rescale(self, _isa: I, _quad: usize, sum: Vector<I>) -> Vector<I> {
        sum
    }
}

/// Returns the codes in two bits of each byte. If they have their own sum, they are 4^QUAD
/// times as large, which saves the shift. Such a sum is below 128·127·columns / 4, which
/// fits in i32 for all permitted widths.
#[inline(always)]
pub(super) fn two_bits<I: Vnni, const QUAD: usize>(
    isa: I,
    packed: Vector<I>,
    own_sum: bool,
) -> Vector<I> {
    let lanes = isa.base();
    if own_sum {
        lanes.and(packed, lanes.splat_i8(3 << (2 * QUAD)))
    } else {
        lanes.codes::<QUAD>(packed)
    }
}

#[inline(always)]
pub(super) fn rescale_two_bits<I: Vnni>(isa: I, quad: usize, sum: Vector<I>) -> Vector<I> {
    let lanes = isa.base();
    match quad {
        0 => sum,
        1 => lanes.shift_right_i32_2(sum),
        2 => lanes.shift_right_i32_4(sum),
        _ => lanes.shift_right_i32_6(sum),
    }
}

/// Weights plus 128, computed by flipping the sign bit. |Σ| ≤ 255·127·columns fits in i32
/// for all permitted widths.
#[derive(Clone, Copy)]
pub(super) struct Int8;

impl<I: Vnni> Weights<I> for Int8 {
    const BLOCKS: usize = 4;
    const QUADS: usize = 4;
    const OFFSET: i32 = 128;

    #[inline(always)]
    fn cols(step: usize) -> StepCols {
        StepCols {
            col: COL_STEP * step,
            fifth: 0,
        }
    }

    #[inline(always)]
    fn operand<const QUAD: usize>(
        self,
        isa: I,
        blocks: &[PackedBlock],
        part: usize,
        _own_sum: bool,
    ) -> Vector<I> {
        let lanes = isa.base();
        let weights = lanes.load_part(&blocks[QUAD], part);
        lanes.xor(weights, lanes.splat_i8(i8::MIN))
    }

    #[inline(always)]
    fn rescale(self, _isa: I, _quad: usize, sum: Vector<I>) -> Vector<I> {
        sum
    }
}

/// A tile of `N` tokens by `PARTS` vectors of rows, from vector `part` on.
///
/// Each has `CHAINS` accumulators: small tiles need several, because a `vpdpbusd` on the
/// same accumulator has a latency of four or five cycles.
pub(super) struct Tile<'a, W, I, const N: usize, const PARTS: usize, const CHAINS: usize> {
    pub(super) weights: W,
    pub(super) isa: I,
    pub(super) operands: Operands<'a>,
    pub(super) part: usize,
    pub(super) acc: &'a mut Acc,
}

impl<W: Weights<I>, I: Vnni, const N: usize, const PARTS: usize, const CHAINS: usize>
    Tile<'_, W, I, N, PARTS, CHAINS>
{
    /// Whether the products of each operand of a step are accumulated separately.
    const OWN_SUMS: bool = CHAINS == W::QUADS;

    /// Adds an operand of a step, four columns from `col` on.
    ///
    /// # Safety
    ///
    /// Every row has the columns `col..col + 4`.
    #[inline(always)]
    unsafe fn add_quad<const QUAD: usize>(
        &self,
        sums: &mut [[[Vector<I>; CHAINS]; PARTS]; N],
        blocks: &[PackedBlock],
        rows: [*const i8; N],
        col: usize,
    ) {
        let lanes = self.isa.base();
        let mut weights = [lanes.zero(); PARTS];
        for (p, weights) in weights.iter_mut().enumerate() {
            *weights =
                (self.weights).operand::<QUAD>(self.isa, blocks, self.part + p, Self::OWN_SUMS);
        }
        for t in 0..N {
            // SAFETY: guaranteed by the caller.
            let acts = unsafe { lanes.broadcast_i8x4(rows[t].add(col)) };
            for p in 0..PARTS {
                let sum = &mut sums[t][p][QUAD % CHAINS];
                *sum = self.isa.dot(*sum, weights[p], acts);
            }
        }
    }
}

impl<W: Weights<I>, I: Vnni, const N: usize, const PARTS: usize, const CHAINS: usize> NullaryFnOnce
    for Tile<'_, W, I, N, PARTS, CHAINS>
{
    type Output = ();

    /// Accumulators stay in registers only if all their indices are constants after
    /// unrolling. So quads are unrolled by hand, and loops over tokens and parts are
    /// separate.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "bounds are constants")]
    fn call(self) {
        let lanes = self.isa.base();
        let blocks = self.operands.blocks;
        assert_parts::<I::Base>(self.part + PARTS);
        let n_steps = blocks.len() / W::BLOCKS;
        let rows = rows::<N>(self.operands, 4 * W::QUADS * n_steps);
        let mut sums = [[[lanes.zero(); CHAINS]; PARTS]; N];
        for (step, blocks) in blocks.chunks_exact(W::BLOCKS).enumerate() {
            prefetch_ahead(blocks);
            let StepCols { col, fifth } = W::cols(step);
            // SAFETY: every step has four columns per operand, and these are distinct, so
            // all are below the product that `rows` has checked.
            unsafe {
                self.add_quad::<0>(&mut sums, blocks, rows, col);
                self.add_quad::<1>(&mut sums, blocks, rows, col + 4);
                self.add_quad::<2>(&mut sums, blocks, rows, col + 8);
                self.add_quad::<3>(&mut sums, blocks, rows, col + 12);
                if W::QUADS == 5 {
                    self.add_quad::<4>(&mut sums, blocks, rows, fifth);
                }
            }
        }
        for t in 0..N {
            let offset = W::OFFSET * self.operands.acts.sum(self.operands.first + t);
            for p in 0..PARTS {
                let mut sum = lanes.zero();
                for c in 0..CHAINS {
                    let mut chain = sums[t][p][c];
                    if Self::OWN_SUMS {
                        chain = self.weights.rescale(self.isa, c, chain);
                    }
                    sum = lanes.add_i32(sum, chain);
                }
                let sum = lanes.sub_i32(sum, lanes.splat_i32(offset));
                lanes.store_part(sum, &mut self.acc[t], self.part + p);
            }
        }
    }
}

/// The number of accumulators that hides the latency of `vpdpbusd` and fits in the
/// registers beside two factors.
const PEAK_CHAINS: usize = 12;

/// Runs `vpdpbusd` on registers; returns the number of multiply-adds.
pub(super) struct PeakRounds<I> {
    pub(super) isa: I,
    pub(super) n_rounds: usize,
}

impl<I: Vnni> NullaryFnOnce for PeakRounds<I> {
    type Output = usize;

    #[inline(always)]
    fn call(self) -> usize {
        let lanes = self.isa.base();
        let mut sums = [lanes.zero(); PEAK_CHAINS];
        let factor = black_box(lanes.splat_i8(1));
        for _ in 0..self.n_rounds {
            for sum in &mut sums {
                *sum = self.isa.dot(*sum, factor, factor);
            }
        }
        black_box(sums);
        self.n_rounds * PEAK_CHAINS * 4 * <I::Base as RowLanes>::ROWS
    }
}
