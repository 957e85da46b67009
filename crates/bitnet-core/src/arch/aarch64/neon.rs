//! NEON without extensions: `smlal` of bytes to i16, and periodically `sadalp` to i32.

use std::arch::aarch64::{
    int8x16_t, int16x8_t, int32x4_t, vaddq_s32, vaddvq_s32, vandq_s8, vcombine_s8, vdupq_n_s8,
    vdupq_n_s16, vdupq_n_s32, vget_low_s8, vget_low_s16, vld1_s8, vld1q_s8, vld1q_s32,
    vmlal_high_s8, vmlal_s8, vpadalq_s16, vpaddq_s32, vreinterpretq_s8_s16, vreinterpretq_s8_s32,
    vreinterpretq_s8_u8, vreinterpretq_s16_s8, vreinterpretq_s32_s8, vreinterpretq_u8_s8,
    vshll_high_n_s16, vshll_n_s16, vshlq_n_s32, vshrq_n_u8, vst1q_s32, vzip1q_s8, vzip1q_s16,
    vzip1q_s32, vzip2q_s8, vzip2q_s16, vzip2q_s32,
};
use std::hint::black_box;

use super::{Int8, Ternary, Weights, rows, sparse};
use crate::arch::{IsaLevel, Tier, prefetch_ahead};
use crate::panel::{Acc, COL_STEP, Operands, PackedBlock};
use crate::sparse::{ListedColumns, ListedRows, TileSums};

/// Any ARM64 processor: NEON is in the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neon;

impl Neon {
    instructions! {
        pub(super) fn zero_i16() -> int16x8_t = vdupq_n_s16(0);
        pub(super) fn zero_i32() -> int32x4_t = vdupq_n_s32(0);
        pub(super) fn splat_i8(x: i8) -> int8x16_t = vdupq_n_s8(x);
        pub(super) fn and(x: int8x16_t, y: int8x16_t) -> int8x16_t = vandq_s8(x, y);
        pub(super) fn shift_right_2(x: int8x16_t) -> int8x16_t =
            vreinterpretq_s8_u8(vshrq_n_u8::<2>(vreinterpretq_u8_s8(x)));
        pub(super) fn shift_right_4(x: int8x16_t) -> int8x16_t =
            vreinterpretq_s8_u8(vshrq_n_u8::<4>(vreinterpretq_u8_s8(x)));
        pub(super) fn shift_right_6(x: int8x16_t) -> int8x16_t =
            vreinterpretq_s8_u8(vshrq_n_u8::<6>(vreinterpretq_u8_s8(x)));
        pub(super) fn add_i32(x: int32x4_t, y: int32x4_t) -> int32x4_t = vaddq_s32(x, y);
        pub(super) fn add_products_low(sums: int16x8_t, x: int8x16_t, y: int8x16_t) -> int16x8_t =
            vmlal_s8(sums, vget_low_s8(x), vget_low_s8(y));
        pub(super) fn add_products_high(sums: int16x8_t, x: int8x16_t, y: int8x16_t) -> int16x8_t =
            vmlal_high_s8(sums, x, y);
        pub(super) fn add_pairs_i16(sums: int32x4_t, x: int16x8_t) -> int32x4_t = vpadalq_s16(sums, x);
        fn pairs_i32(x: int32x4_t, y: int32x4_t) -> int32x4_t = vpaddq_s32(x, y);
        pub(super) fn zip_low(x: int8x16_t, y: int8x16_t) -> int8x16_t = vreinterpretq_s8_s32(
            vzip1q_s32(vreinterpretq_s32_s8(x), vreinterpretq_s32_s8(y))
        );
        pub(super) fn zip_high(x: int8x16_t, y: int8x16_t) -> int8x16_t = vreinterpretq_s8_s32(
            vzip2q_s32(vreinterpretq_s32_s8(x), vreinterpretq_s32_s8(y))
        );
        pub(super) fn shift_left_i32_6(x: int32x4_t) -> int32x4_t = vshlq_n_s32::<6>(x);
        pub(super) fn sum_i32(x: int32x4_t) -> i32 = vaddvq_s32(x);
        fn splat_i32(x: i32) -> int8x16_t = vreinterpretq_s8_s32(vdupq_n_s32(x));
    }

    /// Loads the rows `4·part..` of a block.
    #[inline(always)]
    pub(super) fn load_part(self, block: &PackedBlock, part: usize) -> int8x16_t {
        assert!(part < 4, "a part of a panel");
        // SAFETY: NEON is in the baseline, and a block is four parts of 16 bytes.
        unsafe { vld1q_s8(block.0.as_ptr().add(16 * part).cast()) }
    }

    #[inline(always)]
    pub(super) fn store(self, x: int32x4_t, to: &mut [i32; 4]) {
        // SAFETY: NEON is in the baseline, and there are four lanes.
        unsafe { vst1q_s32(to.as_mut_ptr(), x) };
    }

    /// Adds to four sums.
    #[inline(always)]
    pub(super) fn add_to(self, x: int32x4_t, sums: &mut [i32; 4]) {
        // SAFETY: NEON is in the baseline, and there are four lanes.
        let old = unsafe { vld1q_s32(sums.as_ptr()) };
        self.store(self.add_i32(old, x), sums);
    }

    /// Widens i16 lanes and multiplies them by 2^`SHIFT`.
    #[inline(always)]
    pub(super) fn widen_i16<const SHIFT: i32>(self, x: int16x8_t) -> [int32x4_t; 2] {
        // SAFETY: NEON is in the baseline.
        unsafe {
            [
                vshll_n_s16::<SHIFT>(vget_low_s16(x)),
                vshll_high_n_s16::<SHIFT>(x),
            ]
        }
    }

    /// Interleaves the bytes of four vectors.
    #[inline(always)]
    pub(super) fn interleave(self, [a, b, c, d]: [int8x16_t; 4]) -> [int8x16_t; 4] {
        // SAFETY: NEON is in the baseline.
        unsafe {
            let pairs = |x, y| {
                [
                    vreinterpretq_s16_s8(vzip1q_s8(x, y)),
                    vreinterpretq_s16_s8(vzip2q_s8(x, y)),
                ]
            };
            let ([ab_low, ab_high], [cd_low, cd_high]) = (pairs(a, b), pairs(c, d));
            [
                vreinterpretq_s8_s16(vzip1q_s16(ab_low, cd_low)),
                vreinterpretq_s8_s16(vzip2q_s16(ab_low, cd_low)),
                vreinterpretq_s8_s16(vzip1q_s16(ab_high, cd_high)),
                vreinterpretq_s8_s16(vzip2q_s16(ab_high, cd_high)),
            ]
        }
    }

    /// Loads 16 activations.
    ///
    /// # Safety
    ///
    /// `from` points to 16 values.
    #[inline(always)]
    pub(super) unsafe fn load(self, from: *const i8) -> int8x16_t {
        // SAFETY: NEON is in the baseline; the rest is guaranteed by the caller.
        unsafe { vld1q_s8(from) }
    }

    /// Loads eight activations of one token and eight of another.
    ///
    /// # Safety
    ///
    /// Both pointers point to eight values.
    #[inline(always)]
    pub(super) unsafe fn load_two(self, low: *const i8, high: *const i8) -> int8x16_t {
        // SAFETY: NEON is in the baseline; the rest is guaranteed by the caller.
        unsafe { vcombine_s8(vld1_s8(low), vld1_s8(high)) }
    }

    /// Loads four activations into every lane.
    ///
    /// # Safety
    ///
    /// `from` points to four values.
    #[inline(always)]
    pub(super) unsafe fn broadcast_i8x4(self, from: *const i8) -> int8x16_t {
        // SAFETY: guaranteed by the caller.
        self.splat_i32(unsafe { from.cast::<i32>().read_unaligned() })
    }
}

impl IsaLevel for Neon {}

impl Tier for Neon {
    const NAME: &'static str = "aarch64-i2xi8-neon";
    const NEEDS: &'static str = "NEON";
    const HAS_SPARSE: bool = true;

    type Floats = Self;

    #[inline(always)]
    fn floats(self) -> Self {
        self
    }

    fn ternary_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        panel::<Ternary, 4>(operands, acc);
    }

    fn int8_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        // The sums of both widths are live throughout: those of four tokens would exceed 32
        // registers.
        panel::<Int8, 2>(operands, acc);
    }

    fn row_dots(self, rows: ListedRows<'_>, sums: &mut [i32]) {
        sparse::row_dots(self, rows, sums);
    }

    fn add_columns(self, columns: ListedColumns<'_>, sums: &mut TileSums) {
        sparse::add_columns(self, columns, sums);
    }

    fn int8_peak_rounds(self, n_rounds: usize) -> Option<usize> {
        // `smlal` on registers.
        const CHAINS: usize = 16;
        let factor = black_box(self.splat_i8(1));
        let mut sums = [self.zero_i16(); CHAINS];
        for _ in 0..n_rounds {
            for sum in &mut sums {
                *sum = self.add_products_high(*sum, factor, factor);
            }
            // Prevents the compiler from merging the rounds into one multiplication.
            sums = black_box(sums);
        }
        black_box(sums);
        Some(n_rounds * CHAINS * 8)
    }
}

/// Computes half a panel at a time, with four i16 accumulators for each of up to `MAX`
/// tokens.
fn panel<W: Weights, const MAX: usize>(operands: Operands<'_>, acc: &mut Acc) {
    for (operands, acc) in operands.tiles::<MAX>(acc) {
        for half in 0..2 {
            match acc.len() {
                4 if MAX == 4 => tile::<W, 4>(operands, half, acc),
                2 => tile::<W, 2>(operands, half, acc),
                _ => tile::<W, 1>(operands, half, acc),
            }
        }
    }
}

/// i16 sums: `[token][part of the half][lower or upper two rows of the part]`.
type Pairs<const N: usize> = [[[int16x8_t; 2]; 2]; N];

#[expect(clippy::needless_range_loop, reason = "bounds are constants")]
fn tile<W: Weights, const N: usize>(operands: Operands<'_>, half: usize, acc: &mut Acc) {
    assert!(half < 2, "a half of a panel");
    let blocks = operands.blocks;
    let rows = rows::<N>(operands, COL_STEP * (blocks.len() / W::BLOCKS));
    let neon = Neon;
    let mut sums = [[[neon.zero_i32(); 2]; 2]; N];
    let mut pairs: Pairs<N> = [[[neon.zero_i16(); 2]; 2]; N];
    for (step, blocks) in blocks.chunks_exact(W::BLOCKS).enumerate() {
        // The other half reads the same blocks.
        if half == 0 {
            prefetch_ahead(blocks);
        }
        let col = COL_STEP * step;
        // SAFETY: the rows have 16 columns per step, as `rows` has checked.
        unsafe {
            add_quad::<W, N, 0>(&mut pairs, blocks, half, rows, col);
            add_quad::<W, N, 1>(&mut pairs, blocks, half, rows, col + 4);
            if W::I16_PRODUCTS < 4 {
                widen(&mut sums, &mut pairs);
            }
            add_quad::<W, N, 2>(&mut pairs, blocks, half, rows, col + 8);
            add_quad::<W, N, 3>(&mut pairs, blocks, half, rows, col + 12);
        }
        if (step + 1).is_multiple_of((W::I16_PRODUCTS / 4).max(1)) {
            widen(&mut sums, &mut pairs);
        }
    }
    widen(&mut sums, &mut pairs);
    for t in 0..N {
        for p in 0..2 {
            let [low, high] = sums[t][p];
            let (parts, _) = acc[t].as_chunks_mut::<4>();
            neon.store(neon.pairs_i32(low, high), &mut parts[2 * half + p]);
        }
    }
}

/// Adds four columns from `col` on.
///
/// # Safety
///
/// Every row has the columns `col..col + 4`.
#[inline(always)]
unsafe fn add_quad<W: Weights, const N: usize, const QUAD: usize>(
    pairs: &mut Pairs<N>,
    blocks: &[PackedBlock],
    half: usize,
    rows: [*const i8; N],
    col: usize,
) {
    for p in 0..2 {
        let weights = W::operand::<QUAD>(Neon, blocks, 2 * half + p);
        for t in 0..N {
            // SAFETY: guaranteed by the caller.
            let acts = unsafe { Neon.broadcast_i8x4(rows[t].add(col)) };
            let [low, high] = &mut pairs[t][p];
            *low = Neon.add_products_low(*low, weights, acts);
            *high = Neon.add_products_high(*high, weights, acts);
        }
    }
}

/// Adds the i16 sums to the i32 sums.
#[inline(always)]
fn widen<const N: usize>(sums: &mut [[[int32x4_t; 2]; 2]; N], pairs: &mut Pairs<N>) {
    for t in 0..N {
        for p in 0..2 {
            for h in 0..2 {
                sums[t][p][h] = Neon.add_pairs_i16(sums[t][p][h], pairs[t][p][h]);
                pairs[t][p][h] = Neon.zero_i16();
            }
        }
    }
}
