//! AVX-512 with VNNI: the sixteen rows of a panel in the sixteen lanes of one
//! register, one `vpdpbusd` for four columns of all of them.

use std::arch::x86_64::{
    _mm512_add_epi32, _mm512_and_si512, _mm512_dpbusd_epi32, _mm512_load_si512, _mm512_set1_epi8,
    _mm512_set1_epi32, _mm512_setzero_si512, _mm512_srli_epi16, _mm512_storeu_si512,
    _mm512_sub_epi32, _mm512_xor_si512,
};

use super::define_isa;
use crate::activations::Int8Rows;
use crate::matmul::{Acc, Block, tiles};

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
                    16 => ternary_tile::<16>(blocks, acts, first, tile),
                    8 => ternary_tile::<8>(blocks, acts, first, tile),
                    4 => ternary_tile::<4>(blocks, acts, first, tile),
                    2 => ternary_tile::<2>(blocks, acts, first, tile),
                    _ => ternary_tile::<1>(blocks, acts, first, tile),
                }
            }
        }
    }

    /// Dot products of int8 weights with activations.
    pub(crate) fn int8_panel(self, blocks: &[Block], acts: &Int8Rows, first: usize, acc: &mut Acc) {
        for (first, tile) in tiles(first, acc) {
            // SAFETY: `self` proves the features that `int8_tile` enables.
            unsafe {
                match tile.len() {
                    16 => int8_tile::<16>(blocks, acts, first, tile),
                    8 => int8_tile::<8>(blocks, acts, first, tile),
                    4 => int8_tile::<4>(blocks, acts, first, tile),
                    2 => int8_tile::<2>(blocks, acts, first, tile),
                    _ => int8_tile::<1>(blocks, acts, first, tile),
                }
            }
        }
    }
}

/// Accumulators per token: few tokens need several, because one `vpdpbusd`
/// waits four cycles for the one before on the same accumulator.
const fn chains(n_tokens: usize) -> usize {
    if n_tokens <= 4 { 4 } else { 1 }
}

/// Per block of 16 columns: one load, four `and`, three shifts, and four
/// `vpdpbusd` for each of `N` tokens. A step adds at most 4·2·127 to an i32
/// lane: nothing saturates.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn ternary_tile<const N: usize>(blocks: &[Block], acts: &Int8Rows, first: usize, acc: &mut Acc) {
    let rows: [_; N] = std::array::from_fn(|t| acts.padded_row(first + t));
    assert!(
        rows.iter().all(|row| row.len() >= blocks.len() * 16),
        "a row covers the blocks"
    );
    let mask = _mm512_set1_epi8(3);
    let mut sums = [[_mm512_setzero_si512(); 4]; N];
    for (b, block) in blocks.iter().enumerate() {
        // SAFETY: a block is 64 bytes, aligned to 64.
        let packed = unsafe { _mm512_load_si512(block.0.as_ptr().cast()) };
        let codes = [
            _mm512_and_si512(packed, mask),
            _mm512_and_si512(_mm512_srli_epi16::<2>(packed), mask),
            _mm512_and_si512(_mm512_srli_epi16::<4>(packed), mask),
            _mm512_and_si512(_mm512_srli_epi16::<6>(packed), mask),
        ];
        for (row, sums) in rows.iter().zip(&mut sums) {
            for (s, codes) in codes.iter().enumerate() {
                // SAFETY: `16·b + 4·s + 4 <= 16·blocks.len() <= row.len()`,
                // asserted above.
                let quad = unsafe {
                    row.as_ptr()
                        .add(16 * b + 4 * s)
                        .cast::<i32>()
                        .read_unaligned()
                };
                let sum = &mut sums[s % const { chains(N) }];
                *sum = _mm512_dpbusd_epi32(*sum, *codes, _mm512_set1_epi32(quad));
            }
        }
    }
    for (sums, acc) in sums.iter().zip(acc) {
        let sum = _mm512_add_epi32(
            _mm512_add_epi32(sums[0], sums[1]),
            _mm512_add_epi32(sums[2], sums[3]),
        );
        // SAFETY: `acc` is 16 i32, 64 bytes.
        unsafe { _mm512_storeu_si512(acc.as_mut_ptr().cast(), sum) };
    }
}

/// Per block of 4 columns: one load and one `vpdpbusd` for each of `N` tokens.
///
/// `vpdpbusd` takes one unsigned operand: the weights plus 128, flipped by an
/// exclusive or of the sign bit; 128 times the sum of the activations is
/// subtracted at the end. |Σ| ≤ 255·127·columns fits i32 for all permitted
/// widths.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn int8_tile<const N: usize>(blocks: &[Block], acts: &Int8Rows, first: usize, acc: &mut Acc) {
    let rows: [_; N] = std::array::from_fn(|t| acts.padded_row(first + t));
    assert!(
        rows.iter().all(|row| row.len() >= blocks.len() * 4),
        "a row covers the blocks"
    );
    let sign = _mm512_set1_epi8(i8::MIN);
    let mut sums = [[_mm512_setzero_si512(); 4]; N];
    // A row is whole steps of 16 columns, so blocks come in fours.
    for (b, blocks) in blocks.as_chunks::<4>().0.iter().enumerate() {
        for (s, block) in blocks.iter().enumerate() {
            // SAFETY: a block is 64 bytes, aligned to 64.
            let weights = unsafe { _mm512_load_si512(block.0.as_ptr().cast()) };
            let weights = _mm512_xor_si512(weights, sign);
            for (row, sums) in rows.iter().zip(&mut sums) {
                // SAFETY: `16·b + 4·s + 4 <= 4·blocks.len() <= row.len()`,
                // asserted above.
                let quad = unsafe {
                    row.as_ptr()
                        .add(16 * b + 4 * s)
                        .cast::<i32>()
                        .read_unaligned()
                };
                let sum = &mut sums[s % const { chains(N) }];
                *sum = _mm512_dpbusd_epi32(*sum, weights, _mm512_set1_epi32(quad));
            }
        }
    }
    for (t, (sums, acc)) in sums.iter().zip(acc).enumerate() {
        let sum = _mm512_add_epi32(
            _mm512_add_epi32(sums[0], sums[1]),
            _mm512_add_epi32(sums[2], sums[3]),
        );
        let sum = _mm512_sub_epi32(sum, _mm512_set1_epi32(128 * acts.sum(first + t)));
        // SAFETY: `acc` is 16 i32, 64 bytes.
        unsafe { _mm512_storeu_si512(acc.as_mut_ptr().cast(), sum) };
    }
}
