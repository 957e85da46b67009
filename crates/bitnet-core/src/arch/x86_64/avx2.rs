//! AVX2: a panel is two registers of eight rows; `vpmaddubsw` for pairs of columns, then
//! `vpmaddwd` to i32.

use std::arch::x86_64::{
    __m256i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_shuffle_epi32, _mm_unpackhi_epi64,
    _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256, _mm256_castsi256_si128,
    _mm256_extracti128_si256, _mm256_load_si256, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_maddubs_epi16, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32,
    _mm256_setzero_si256, _mm256_sign_epi8, _mm256_srai_epi32, _mm256_srli_epi16,
    _mm256_storeu_si256, _mm256_sub_epi32, _mm256_unpackhi_epi8, _mm256_unpackhi_epi16,
    _mm256_unpacklo_epi8, _mm256_unpacklo_epi16, _mm256_xor_si256,
};

use super::madd::{Int8, PeakRounds, Ternary, Tile, Weights};
use super::row_lanes::RowLanes;
use super::{IsaLevel, Tier, define_isa, sparse};
use crate::panel::{Acc, Operands};
use crate::sparse::{ListedColumns, ListedRows, TileSums};

define_isa!(
    /// A processor with AVX2, FMA and F16C.
    Avx2,
    ["avx2", "fma", "f16c"]
);

impl RowLanes for Avx2 {
    type Vector = __m256i;
    type Signs = __m256i;
    const ROWS: usize = 8;

    instructions! {
        fn zero() -> __m256i = _mm256_setzero_si256();
        fn splat_i8(x: i8) -> __m256i = _mm256_set1_epi8(x);
        fn splat_i16(x: i16) -> __m256i = _mm256_set1_epi16(x);
        fn splat_i32(x: i32) -> __m256i = _mm256_set1_epi32(x);
        fn and(x: __m256i, y: __m256i) -> __m256i = _mm256_and_si256(x, y);
        fn xor(x: __m256i, y: __m256i) -> __m256i = _mm256_xor_si256(x, y);
        fn shift_right_2(x: __m256i) -> __m256i = _mm256_srli_epi16::<2>(x);
        fn shift_right_4(x: __m256i) -> __m256i = _mm256_srli_epi16::<4>(x);
        fn shift_right_6(x: __m256i) -> __m256i = _mm256_srli_epi16::<6>(x);
        fn shift_right_i32_2(x: __m256i) -> __m256i = _mm256_srai_epi32::<2>(x);
        fn shift_right_i32_4(x: __m256i) -> __m256i = _mm256_srai_epi32::<4>(x);
        fn shift_right_i32_6(x: __m256i) -> __m256i = _mm256_srai_epi32::<6>(x);
        fn add_i16(x: __m256i, y: __m256i) -> __m256i = _mm256_add_epi16(x, y);
        fn add_i32(x: __m256i, y: __m256i) -> __m256i = _mm256_add_epi32(x, y);
        fn sub_i32(x: __m256i, y: __m256i) -> __m256i = _mm256_sub_epi32(x, y);
        fn mul_u8_i8(x: __m256i, y: __m256i) -> __m256i = _mm256_maddubs_epi16(x, y);
        fn mul_i16(x: __m256i, y: __m256i) -> __m256i = _mm256_madd_epi16(x, y);
        fn abs_i8(x: __m256i) -> __m256i = _mm256_abs_epi8(x);
        fn interleave_low_i8(x: __m256i, y: __m256i) -> __m256i = _mm256_unpacklo_epi8(x, y);
        fn interleave_high_i8(x: __m256i, y: __m256i) -> __m256i = _mm256_unpackhi_epi8(x, y);
        fn interleave_low_i16(x: __m256i, y: __m256i) -> __m256i = _mm256_unpacklo_epi16(x, y);
        fn interleave_high_i16(x: __m256i, y: __m256i) -> __m256i = _mm256_unpackhi_epi16(x, y);
        fn negate_where(x: __m256i, signs: __m256i) -> __m256i = _mm256_sign_epi8(x, signs);
    }

    #[inline(always)]
    fn signs(self, weights: __m256i) -> __m256i {
        weights
    }

    #[inline(always)]
    fn sum_i32(self, x: __m256i) -> i32 {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let x = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
            let x = _mm_add_epi32(x, _mm_unpackhi_epi64(x, x));
            _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32::<1>(x)))
        }
    }

    #[inline(always)]
    unsafe fn load_unaligned(self, from: *const u8) -> __m256i {
        // SAFETY: `self` proves AVX, and the caller guarantees the bytes.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const u8) -> __m256i {
        // SAFETY: `self` proves AVX, and the caller guarantees the bytes.
        unsafe { _mm256_load_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, x: __m256i, to: *mut i32) {
        // SAFETY: `self` proves AVX, and the caller guarantees the lanes.
        unsafe { _mm256_storeu_si256(to.cast(), x) };
    }
}

impl Tier for Avx2 {
    const NAME: &'static str = "x86_64-i2xi8-avx2";
    const NEEDS: &'static str = "AVX2, FMA and F16C";
    const HAS_SPARSE: bool = true;

    type Floats = Self;

    #[inline(always)]
    fn floats(self) -> Self {
        self
    }

    fn ternary_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        self.panel(Ternary, operands, acc);
    }

    fn int8_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        self.panel(Int8, operands, acc);
    }

    fn row_dots(self, rows: ListedRows<'_>, sums: &mut [i32]) {
        sparse::row_dots(self, rows, sums);
    }

    fn add_columns(self, columns: ListedColumns<'_>, sums: &mut TileSums) {
        sparse::add_columns(self, columns, sums);
    }

    fn int8_peak_rounds(self, n_rounds: usize) -> Option<usize> {
        // `vpmaddubsw` and the addition that it requires, on registers.
        Some(self.vectorize(PeakRounds {
            lanes: self,
            n_rounds,
        }))
    }
}

impl Avx2 {
    /// Computes many tokens by half a panel, or few by a whole one: eight accumulators
    /// leave eight registers for operands.
    fn panel<W: Weights>(self, weights: W, operands: Operands<'_>, acc: &mut Acc) {
        for (operands, acc) in operands.tiles::<8>(acc) {
            match acc.len() {
                8 => {
                    self.tile::<W, 8, 1>(weights, operands, 0, acc);
                    self.tile::<W, 8, 1>(weights, operands, 1, acc);
                }
                4 => self.tile::<W, 4, 2>(weights, operands, 0, acc),
                2 => self.tile::<W, 2, 2>(weights, operands, 0, acc),
                _ => self.tile::<W, 1, 2>(weights, operands, 0, acc),
            }
        }
    }

    fn tile<W: Weights, const N: usize, const PARTS: usize>(
        self,
        weights: W,
        operands: Operands<'_>,
        part: usize,
        acc: &mut Acc,
    ) {
        self.vectorize(Tile::<W, Self, N, PARTS> {
            weights,
            lanes: self,
            operands,
            part,
            acc,
        });
    }
}
