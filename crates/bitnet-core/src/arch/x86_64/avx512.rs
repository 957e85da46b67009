//! AVX-512 with VNNI: the sixteen rows of a panel in the sixteen lanes of one
//! register, one `vpdpbusd` for four columns of all of them.

use std::arch::x86_64::{
    __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_add_epi32, _mm512_and_si512, _mm512_dpbusd_epi32,
    _mm512_load_si512, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_setzero_si512,
    _mm512_srli_epi16, _mm512_storeu_si512, _mm512_sub_epi32, _mm512_xor_si512,
};

use super::{define_isa, rows};
use crate::activations::Int8Rows;
use crate::matmul::{Acc, Block, PANEL_ROWS, tiles};

define_isa!(
    /// A processor with AVX-512 F, BW, DQ, VL and VNNI (and AVX2, FMA, F16C).
    Avx512,
    "AVX-512 F, BW, DQ, VL and VNNI",
    ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx2", "fma", "f16c"]
);

impl Avx512 {
    /// Dot products of codes 0..=2 with activations.
    pub(crate) fn ternary_panel(
        self,
        blocks: &[Block],
        acts: &Int8Rows,
        first: usize,
        acc: &mut Acc,
    ) {
        for (first, tile) in tiles(first, acc) {
            // SAFETY: `self` proves the features that `ternary_tile` enables.
            unsafe {
                match tile.len() {
                    16 => ternary_tile::<16, 1>(blocks, acts, first, tile),
                    8 => ternary_tile::<8, 1>(blocks, acts, first, tile),
                    4 => ternary_tile::<4, 2>(blocks, acts, first, tile),
                    2 => ternary_tile::<2, 4>(blocks, acts, first, tile),
                    _ => ternary_tile::<1, 4>(blocks, acts, first, tile),
                }
            }
        }
    }

    /// Runs `vpdpbusd` on registers and returns the multiply-adds done.
    pub(crate) fn int8_peak_rounds(self, n_rounds: usize) -> usize {
        // SAFETY: `self` proves the features that `peak_rounds` enables.
        unsafe { peak_rounds(n_rounds) };
        n_rounds * PEAK_CHAINS * 64
    }

    /// Dot products of int8 weights with activations.
    pub(crate) fn int8_panel(self, blocks: &[Block], acts: &Int8Rows, first: usize, acc: &mut Acc) {
        for (first, tile) in tiles(first, acc) {
            // SAFETY: `self` proves the features that `int8_tile` enables.
            unsafe {
                match tile.len() {
                    16 => int8_tile::<16, 1>(blocks, acts, first, tile),
                    8 => int8_tile::<8, 1>(blocks, acts, first, tile),
                    4 => int8_tile::<4, 2>(blocks, acts, first, tile),
                    2 => int8_tile::<2, 4>(blocks, acts, first, tile),
                    _ => int8_tile::<1, 4>(blocks, acts, first, tile),
                }
            }
        }
    }
}

/// Per block of 16 columns: one load, four `and`, three shifts, and four
/// `vpdpbusd` for each of `N` tokens. A step adds at most 4·2·127 to an i32
/// lane: nothing saturates.
///
/// `CHAINS` accumulators per token: few tokens need several, because one
/// `vpdpbusd` waits four cycles for the one before on the same accumulator.
///
/// The loops over tokens have constant bounds and stand by themselves so that
/// they are unrolled and every accumulator stays in a register.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn ternary_tile<const N: usize, const CHAINS: usize>(
    blocks: &[Block],
    acts: &Int8Rows,
    first: usize,
    acc: &mut Acc,
) {
    let rows = rows::<N>(acts, first, 16 * blocks.len());
    let mask = _mm512_set1_epi8(3);
    let mut sums = [[_mm512_setzero_si512(); CHAINS]; N];
    for (b, block) in blocks.iter().enumerate() {
        if N >= 8 {
            prefetch(block);
        }
        // SAFETY: a block is 64 bytes, aligned to 64.
        let packed = unsafe { _mm512_load_si512(block.0.as_ptr().cast()) };
        let codes = [
            _mm512_and_si512(packed, mask),
            _mm512_and_si512(_mm512_srli_epi16::<2>(packed), mask),
            _mm512_and_si512(_mm512_srli_epi16::<4>(packed), mask),
            _mm512_and_si512(_mm512_srli_epi16::<6>(packed), mask),
        ];
        for (s, &codes) in codes.iter().enumerate() {
            for t in 0..N {
                // SAFETY: `16·b + 4·s + 4 <= 16·blocks.len()`, which `rows` has
                // checked.
                let quad = unsafe { quad(rows[t], 16 * b + 4 * s) };
                let sum = &mut sums[t][s % CHAINS];
                *sum = _mm512_dpbusd_epi32(*sum, codes, quad);
            }
        }
    }
    for (sums, acc) in sums.iter().zip(acc) {
        store(add_chains(sums), acc);
    }
}

/// Per block of 4 columns: one load and one `vpdpbusd` for each of `N` tokens.
///
/// `vpdpbusd` takes one unsigned operand: the weights plus 128, flipped by an
/// exclusive or of the sign bit; 128 times the sum of the activations is
/// subtracted at the end. |Σ| ≤ 255·127·columns fits i32 for all permitted
/// widths.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn int8_tile<const N: usize, const CHAINS: usize>(
    blocks: &[Block],
    acts: &Int8Rows,
    first: usize,
    acc: &mut Acc,
) {
    let rows = rows::<N>(acts, first, 4 * blocks.len());
    let sign = _mm512_set1_epi8(i8::MIN);
    let mut sums = [[_mm512_setzero_si512(); CHAINS]; N];
    // A row is whole steps of 16 columns, so blocks come in fours.
    for (b, blocks) in blocks.as_chunks::<4>().0.iter().enumerate() {
        for (s, block) in blocks.iter().enumerate() {
            if N >= 8 {
                prefetch(block);
            }
            // SAFETY: a block is 64 bytes, aligned to 64.
            let weights = unsafe { _mm512_load_si512(block.0.as_ptr().cast()) };
            let weights = _mm512_xor_si512(weights, sign);
            for t in 0..N {
                // SAFETY: `16·b + 4·s + 4 <= 4·blocks.len()`, which `rows` has
                // checked.
                let quad = unsafe { quad(rows[t], 16 * b + 4 * s) };
                let sum = &mut sums[t][s % CHAINS];
                *sum = _mm512_dpbusd_epi32(*sum, weights, quad);
            }
        }
    }
    for (t, (sums, acc)) in sums.iter().zip(acc).enumerate() {
        let offset = _mm512_set1_epi32(128 * acts.sum(first + t));
        store(_mm512_sub_epi32(add_chains(sums), offset), acc);
    }
}

/// Accumulators that hide the latency of `vpdpbusd`.
const PEAK_CHAINS: usize = 16;

#[target_feature(enable = "avx512f,avx512vnni")]
fn peak_rounds(n_rounds: usize) {
    let mut sums = [_mm512_setzero_si512(); PEAK_CHAINS];
    let factor = std::hint::black_box(_mm512_set1_epi8(1));
    for _ in 0..n_rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, factor, factor);
        }
    }
    std::hint::black_box(sums);
}

/// Asks for the block 2 KiB ahead: with several tokens, weights are used so
/// slowly that the processor by itself does not read far enough ahead.
#[target_feature(enable = "avx512f")]
fn prefetch(block: &Block) {
    let ahead = std::ptr::from_ref(block).wrapping_add(PREFETCH_BLOCKS);
    // Asking for memory that is not there has no effect.
    _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
}

const PREFETCH_BLOCKS: usize = 32;

/// Returns four columns of a row in every lane.
///
/// # Safety
///
/// The row has the columns `col..col + 4`.
#[target_feature(enable = "avx512f")]
unsafe fn quad(row: *const i8, col: usize) -> __m512i {
    // SAFETY: the caller's promise.
    _mm512_set1_epi32(unsafe { row.add(col).cast::<i32>().read_unaligned() })
}

#[target_feature(enable = "avx512f")]
fn add_chains<const CHAINS: usize>(sums: &[__m512i; CHAINS]) -> __m512i {
    sums[1..]
        .iter()
        .fold(sums[0], |sum, &chain| _mm512_add_epi32(sum, chain))
}

#[target_feature(enable = "avx512f")]
fn store(sums: __m512i, acc: &mut [i32; PANEL_ROWS]) {
    // SAFETY: `acc` is 16 i32, 64 bytes.
    unsafe { _mm512_storeu_si512(acc.as_mut_ptr().cast(), sums) };
}
