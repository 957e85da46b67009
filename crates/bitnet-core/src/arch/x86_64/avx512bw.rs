//! AVX-512 without VNNI: the sixteen rows of a panel in one register; `vpmaddubsw` for
//! pairs of columns, then `vpmaddwd` to i32.

use std::arch::x86_64::{
    __m512i, __mmask64, _mm512_abs_epi8, _mm512_add_epi16, _mm512_add_epi32, _mm512_and_si512,
    _mm512_load_si512, _mm512_loadu_si512, _mm512_madd_epi16, _mm512_maddubs_epi16,
    _mm512_mask_sub_epi8, _mm512_movepi8_mask, _mm512_reduce_add_epi32, _mm512_set1_epi8,
    _mm512_set1_epi16, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_srai_epi32,
    _mm512_srli_epi16, _mm512_storeu_si512, _mm512_sub_epi32, _mm512_unpackhi_epi8,
    _mm512_unpackhi_epi16, _mm512_unpacklo_epi8, _mm512_unpacklo_epi16, _mm512_xor_si512,
};

use super::madd::{Int8, PeakRounds, Ternary, Tile, Weights};
use super::row_lanes::RowLanes;
use super::{IsaLevel, Tier, define_isa, sparse};
use crate::panel::{Acc, Operands};
use crate::sparse::{ListedColumns, ListedRows, TileSums};

define_isa!(
    /// A processor with AVX-512 F, BW, DQ and VL (and AVX2, FMA, F16C).
    Avx512bw,
    ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"]
);

impl RowLanes for Avx512bw {
    type Vector = __m512i;
    type Signs = __mmask64;
    const ROWS: usize = 16;

    instructions! {
        fn zero() -> __m512i = _mm512_setzero_si512();
        fn splat_i8(x: i8) -> __m512i = _mm512_set1_epi8(x);
        fn splat_i16(x: i16) -> __m512i = _mm512_set1_epi16(x);
        fn splat_i32(x: i32) -> __m512i = _mm512_set1_epi32(x);
        fn and(x: __m512i, y: __m512i) -> __m512i = _mm512_and_si512(x, y);
        fn xor(x: __m512i, y: __m512i) -> __m512i = _mm512_xor_si512(x, y);
        fn shift_right_2(x: __m512i) -> __m512i = _mm512_srli_epi16::<2>(x);
        fn shift_right_4(x: __m512i) -> __m512i = _mm512_srli_epi16::<4>(x);
        fn shift_right_6(x: __m512i) -> __m512i = _mm512_srli_epi16::<6>(x);
        fn shift_right_i32_2(x: __m512i) -> __m512i = _mm512_srai_epi32::<2>(x);
        fn shift_right_i32_4(x: __m512i) -> __m512i = _mm512_srai_epi32::<4>(x);
        fn shift_right_i32_6(x: __m512i) -> __m512i = _mm512_srai_epi32::<6>(x);
        fn add_i16(x: __m512i, y: __m512i) -> __m512i = _mm512_add_epi16(x, y);
        fn add_i32(x: __m512i, y: __m512i) -> __m512i = _mm512_add_epi32(x, y);
        fn sub_i32(x: __m512i, y: __m512i) -> __m512i = _mm512_sub_epi32(x, y);
        fn mul_u8_i8(x: __m512i, y: __m512i) -> __m512i = _mm512_maddubs_epi16(x, y);
        fn mul_i16(x: __m512i, y: __m512i) -> __m512i = _mm512_madd_epi16(x, y);
        fn abs_i8(x: __m512i) -> __m512i = _mm512_abs_epi8(x);
        fn interleave_low_i8(x: __m512i, y: __m512i) -> __m512i = _mm512_unpacklo_epi8(x, y);
        fn interleave_high_i8(x: __m512i, y: __m512i) -> __m512i = _mm512_unpackhi_epi8(x, y);
        fn interleave_low_i16(x: __m512i, y: __m512i) -> __m512i = _mm512_unpacklo_epi16(x, y);
        fn interleave_high_i16(x: __m512i, y: __m512i) -> __m512i = _mm512_unpackhi_epi16(x, y);
        fn sum_i32(x: __m512i) -> i32 = _mm512_reduce_add_epi32(x);
        fn signs(weights: __m512i) -> __mmask64 = _mm512_movepi8_mask(weights);
        fn negate_where(x: __m512i, signs: __mmask64) -> __m512i =
            _mm512_mask_sub_epi8(x, signs, _mm512_setzero_si512(), x);
    }

    #[inline(always)]
    unsafe fn load_unaligned(self, from: *const u8) -> __m512i {
        // SAFETY: `self` proves AVX-512, and the caller guarantees the bytes.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const u8) -> __m512i {
        // SAFETY: `self` proves AVX-512, and the caller guarantees the bytes.
        unsafe { _mm512_load_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, x: __m512i, to: *mut i32) {
        // SAFETY: `self` proves AVX-512, and the caller guarantees the lanes.
        unsafe { _mm512_storeu_si512(to.cast(), x) };
    }
}

impl Tier for Avx512bw {
    const NAME: &'static str = "x86_64-i2xi8-avx512bw";
    const NEEDS: &'static str = "AVX-512 F, BW, DQ and VL";
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

impl Avx512bw {
    fn panel<W: Weights>(self, weights: W, operands: Operands<'_>, acc: &mut Acc) {
        for (operands, acc) in operands.tiles::<16>(acc) {
            match acc.len() {
                16 => self.tile::<W, 16>(weights, operands, acc),
                8 => self.tile::<W, 8>(weights, operands, acc),
                4 => self.tile::<W, 4>(weights, operands, acc),
                2 => self.tile::<W, 2>(weights, operands, acc),
                _ => self.tile::<W, 1>(weights, operands, acc),
            }
        }
    }

    fn tile<W: Weights, const N: usize>(self, weights: W, operands: Operands<'_>, acc: &mut Acc) {
        self.vectorize(Tile::<W, Self, N, 1> {
            weights,
            lanes: self,
            operands,
            part: 0,
            acc,
        });
    }
}
