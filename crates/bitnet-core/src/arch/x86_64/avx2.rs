//! AVX2: a panel as two registers of eight rows, `vpmaddubsw` for pairs of
//! columns and `vpmaddwd` to i32.

use std::arch::x86_64::{
    __m256i, _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256,
    _mm256_load_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_sign_epi8,
    _mm256_srli_epi16, _mm256_storeu_si256,
};

use super::{define_isa, rows};
use crate::activations::Int8Rows;
use crate::matmul::{Acc, Block, tiles};

define_isa!(
    /// A processor with AVX2, FMA and F16C.
    Avx2,
    "AVX2, FMA and F16C",
    ["avx2", "fma", "f16c"]
);

impl Avx2 {
    /// Dot products of codes 0..=2 with activations.
    pub(crate) fn ternary_panel(
        self,
        blocks: &[Block],
        acts: &Int8Rows,
        first: usize,
        acc: &mut Acc,
    ) {
        for (first, tile) in tiles(first, acc) {
            for half in 0..2 {
                // SAFETY: `self` proves the feature that `ternary_tile` enables.
                unsafe {
                    match tile.len() {
                        16 => {
                            let (low, high) = tile.split_at_mut(8);
                            ternary_tile::<8>(blocks, half, acts, first, low);
                            ternary_tile::<8>(blocks, half, acts, first + 8, high);
                        }
                        8 => ternary_tile::<8>(blocks, half, acts, first, tile),
                        4 => ternary_tile::<4>(blocks, half, acts, first, tile),
                        2 => ternary_tile::<2>(blocks, half, acts, first, tile),
                        _ => ternary_tile::<1>(blocks, half, acts, first, tile),
                    }
                }
            }
        }
    }

    /// Runs `vpmaddubsw` and the addition that it needs on registers and returns
    /// the multiply-adds done.
    pub(crate) fn int8_peak_rounds(self, n_rounds: usize) -> usize {
        // SAFETY: `self` proves the feature that `peak_rounds` enables.
        unsafe { peak_rounds(n_rounds) };
        n_rounds * PEAK_CHAINS * 32
    }

    /// Dot products of int8 weights with activations.
    pub(crate) fn int8_panel(self, blocks: &[Block], acts: &Int8Rows, first: usize, acc: &mut Acc) {
        for (first, tile) in tiles(first, acc) {
            for half in 0..2 {
                // SAFETY: `self` proves the feature that `int8_tile` enables.
                unsafe {
                    match tile.len() {
                        16 => {
                            let (low, high) = tile.split_at_mut(8);
                            int8_tile::<8>(blocks, half, acts, first, low);
                            int8_tile::<8>(blocks, half, acts, first + 8, high);
                        }
                        8 => int8_tile::<8>(blocks, half, acts, first, tile),
                        4 => int8_tile::<4>(blocks, half, acts, first, tile),
                        2 => int8_tile::<2>(blocks, half, acts, first, tile),
                        _ => int8_tile::<1>(blocks, half, acts, first, tile),
                    }
                }
            }
        }
    }
}

/// Blocks whose products are added up in i16: a `vpmaddubsw` lane is at most
/// 2·2·127 = 508, four to a block, and sixteen blocks stay below 2^15, where the
/// instruction would saturate.
const I16_BLOCKS: usize = 16;

const _: () = assert!(I16_BLOCKS * 4 * 508 <= i16::MAX as usize);

/// Eight rows of a panel (`half` 0: rows 0..8, 1: rows 8..16) for `N` tokens.
///
/// The loops over tokens have constant bounds and stand by themselves so that
/// they are unrolled and every accumulator stays in a register.
#[target_feature(enable = "avx2")]
fn ternary_tile<const N: usize>(
    blocks: &[Block],
    half: usize,
    acts: &Int8Rows,
    first: usize,
    acc: &mut Acc,
) {
    let rows = rows::<N>(acts, first, 16 * blocks.len());
    let mask = _mm256_set1_epi8(3);
    let ones = _mm256_set1_epi16(1);
    let mut sums = [_mm256_setzero_si256(); N];
    for (chunk, blocks) in blocks.chunks(I16_BLOCKS).enumerate() {
        let mut pairs = [_mm256_setzero_si256(); N];
        for (b, block) in blocks.iter().enumerate() {
            let packed = load_half(block, half);
            let codes = [
                _mm256_and_si256(packed, mask),
                _mm256_and_si256(_mm256_srli_epi16::<2>(packed), mask),
                _mm256_and_si256(_mm256_srli_epi16::<4>(packed), mask),
                _mm256_and_si256(_mm256_srli_epi16::<6>(packed), mask),
            ];
            let col = 16 * (I16_BLOCKS * chunk + b);
            for (s, &codes) in codes.iter().enumerate() {
                for t in 0..N {
                    // SAFETY: `col + 16` is at most `16·blocks.len()`, which
                    // `rows` has checked.
                    let quad = unsafe { quad(rows[t], col + 4 * s) };
                    let product = _mm256_maddubs_epi16(codes, quad);
                    pairs[t] = _mm256_add_epi16(pairs[t], product);
                }
            }
        }
        for t in 0..N {
            sums[t] = _mm256_add_epi32(sums[t], _mm256_madd_epi16(pairs[t], ones));
        }
    }
    store_half(&sums, half, acc);
}

/// Eight rows of a panel for `N` tokens, as [`ternary_tile`].
///
/// `vpmaddubsw` takes one unsigned operand: the magnitude of the weights, whose
/// sign goes to the activations. Both are within ±127, so a lane is at most
/// 2·127² = 32258 and does not saturate, but leaves no room for a second one.
#[target_feature(enable = "avx2")]
fn int8_tile<const N: usize>(
    blocks: &[Block],
    half: usize,
    acts: &Int8Rows,
    first: usize,
    acc: &mut Acc,
) {
    let rows = rows::<N>(acts, first, 4 * blocks.len());
    let ones = _mm256_set1_epi16(1);
    let mut sums = [_mm256_setzero_si256(); N];
    for (b, block) in blocks.iter().enumerate() {
        let weights = load_half(block, half);
        let magnitudes = _mm256_abs_epi8(weights);
        for t in 0..N {
            // SAFETY: `4·b + 4 <= 4·blocks.len()`, which `rows` has checked.
            let quad = unsafe { quad(rows[t], 4 * b) };
            let signed = _mm256_sign_epi8(quad, weights);
            let pairs = _mm256_maddubs_epi16(magnitudes, signed);
            sums[t] = _mm256_add_epi32(sums[t], _mm256_madd_epi16(pairs, ones));
        }
    }
    store_half(&sums, half, acc);
}

/// Accumulators that hide the latency of the addition.
const PEAK_CHAINS: usize = 12;

#[target_feature(enable = "avx2")]
fn peak_rounds(n_rounds: usize) {
    let mut sums = [_mm256_setzero_si256(); PEAK_CHAINS];
    let factor = std::hint::black_box(_mm256_set1_epi8(1));
    for _ in 0..n_rounds {
        for sum in &mut sums {
            // What is multiplied depends on the sum, or one product would do.
            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(factor, *sum));
        }
    }
    std::hint::black_box(sums);
}

/// Returns four columns of a row in every lane.
///
/// # Safety
///
/// The row has the columns `col..col + 4`.
#[target_feature(enable = "avx2")]
unsafe fn quad(row: *const i8, col: usize) -> __m256i {
    // SAFETY: the caller's promise.
    _mm256_set1_epi32(unsafe { row.add(col).cast::<i32>().read_unaligned() })
}

#[target_feature(enable = "avx2")]
fn load_half(block: &Block, half: usize) -> __m256i {
    let (halves, _) = block.0.as_chunks::<32>();
    // SAFETY: 32 bytes, aligned to 32 because a block is aligned to 64.
    unsafe { _mm256_load_si256(halves[half].as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn store_half(sums: &[__m256i], half: usize, acc: &mut Acc) {
    for (&sum, acc) in sums.iter().zip(acc) {
        let (halves, _) = acc.as_chunks_mut::<8>();
        // SAFETY: eight i32, 32 bytes.
        unsafe { _mm256_storeu_si256(halves[half].as_mut_ptr().cast(), sum) };
    }
}
