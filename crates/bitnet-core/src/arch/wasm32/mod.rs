//! WebAssembly with 128-bit SIMD. The only multiplication of integers that is one
//! instruction on x86-64, and two or three on ARM64, is `i32x4.dot_i16x8_s`: it multiplies
//! i16 and adds adjacent pairs. So even and odd bytes are operands of their own.
//!
//! SIMD support is fixed when the module is compiled: there is no dispatch at run time.

mod float_lanes;
mod sparse;

use std::arch::wasm32::{
    i8x16_splat, i16x8, i16x8_mul, i16x8_shl, i16x8_shr, i16x8_splat, i32x4_add, i32x4_dot_i16x8,
    i32x4_shr, i32x4_shuffle, i32x4_splat, u16x8_shr, v128, v128_and, v128_load, v128_load32_splat,
    v128_store,
};
use std::hint::black_box;

use crate::arch::{IsaLevel, Tier};
use crate::panel::{Acc, Operands, PANEL_ROWS, PackedBlock};
use crate::sparse::{ListedColumns, ListedRows, TileSums};

/// A build with 128-bit SIMD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simd128;

impl IsaLevel for Simd128 {}

impl Tier for Simd128 {
    const NAME: &'static str = "wasm32-i2xi8-simd128";
    const NEEDS: &'static str = "128-bit SIMD";

    type Floats = Self;

    const HAS_SPARSE: bool = true;

    #[inline(always)]
    fn floats(self) -> Self {
        self
    }

    fn ternary_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        for (operands, acc) in operands.tiles::<4>(acc) {
            match acc.len() {
                4 => ternary_tile::<4, 1>(operands, acc),
                2 => ternary_tile::<2, 2>(operands, acc),
                _ => ternary_tile::<1, 4>(operands, acc),
            }
        }
    }

    fn int8_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        for (operands, acc) in operands.tiles::<4>(acc) {
            match acc.len() {
                4 => int8_tile::<4, 1>(operands, acc),
                2 => int8_tile::<2, 2>(operands, acc),
                _ => int8_tile::<1, 4>(operands, acc),
            }
        }
    }

    fn row_dots(self, rows: ListedRows<'_>, sums: &mut [i32]) {
        sparse::row_dots(rows, sums);
    }

    fn add_columns(self, columns: ListedColumns<'_>, sums: &mut TileSums) {
        sparse::add_columns(columns, sums);
    }

    fn int8_peak_rounds(self, n_rounds: usize) -> Option<usize> {
        // `i32x4.dot_i16x8_s` on registers.
        const CHAINS: usize = 8;
        let factor = black_box(i8x16_splat(1));
        let mut sums = [i32x4_splat(0); CHAINS];
        for _ in 0..n_rounds {
            for sum in &mut sums {
                *sum = i32x4_add(*sum, i32x4_dot_i16x8(factor, factor));
            }
            // Prevents the compiler from merging the rounds into one multiplication.
            sums = black_box(sums);
        }
        Some(n_rounds * CHAINS * 8)
    }
}

/// Vectors per block.
const PARTS: usize = 4;

/// Loads the bytes `16·part..` of a block.
#[inline(always)]
fn load_part(block: &PackedBlock, part: usize) -> v128 {
    let bytes: &[u8] = &block.0[16 * part..][..16];
    // SAFETY: `bytes` is 16 bytes.
    unsafe { v128_load(bytes.as_ptr().cast()) }
}

/// Stores four lanes.
#[inline(always)]
fn store(out: &mut [i32; 4], x: v128) {
    // SAFETY: `out` is 16 bytes.
    unsafe { v128_store(out.as_mut_ptr().cast(), x) };
}

/// Returns the i8 in even and in odd bytes as i16.
#[inline(always)]
fn extended(bytes: v128) -> [v128; 2] {
    [i16x8_shr(i16x8_shl(bytes, 8), 8), i16x8_shr(bytes, 8)]
}

/// Returns the masks of the codes in bits `2·quarter..` of even bytes.
#[inline(always)]
fn quarter_masks() -> [v128; 4] {
    unroll4!(Q => i16x8_splat(3 << (2 * Q)))
}

/// Adds the products of the codes of a quarter, and factors of even and odd bytes.
/// `packed[1]` has the odd bytes in place of the even ones. Codes are 4^quarter times as
/// large as their values, which saves shifts.
#[inline(always)]
fn add_products(sums: v128, packed: [v128; 2], quarter: v128, factors: [v128; 2]) -> v128 {
    let even = i32x4_dot_i16x8(v128_and(packed[0], quarter), factors[0]);
    let odd = i32x4_dot_i16x8(v128_and(packed[1], quarter), factors[1]);
    i32x4_add(i32x4_add(sums, even), odd)
}

/// Returns bytes as operands of [`add_products`].
#[inline(always)]
fn even_and_odd(packed: v128) -> [v128; 2] {
    [packed, u16x8_shr(packed, 8)]
}

/// Multiplies `ROWS` vectors of a panel at a time, four rows each, with `N` tokens.
///
/// Activations are multiplied by what codes lack to be 64 times their values. The sums are
/// at most 64·2·127 for each column, which fits in i32 for all permitted widths.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "bounds are constants")]
fn ternary_tile<const N: usize, const ROWS: usize>(operands: Operands<'_>, acc: &mut Acc) {
    let masks = quarter_masks();
    // Not a constant, for which the compiler would shift each lane on its own.
    let scales = black_box(i16x8(64, 64, 16, 16, 4, 4, 1, 1));
    let rows: [&[[i8; 16]]; N] = std::array::from_fn(|t| {
        let row = &operands.acts.padded_row(operands.first + t)[operands.first_col..];
        &row.as_chunks().0[..operands.blocks.len()]
    });
    for first in (0..PARTS).step_by(ROWS) {
        let mut sums = [[i32x4_splat(0); ROWS]; N];
        for (step, block) in operands.blocks.iter().enumerate() {
            let mut acts = [[i32x4_splat(0); 2]; N];
            for t in 0..N {
                // SAFETY: an element is 16 bytes.
                let bytes = unsafe { v128_load(rows[t][step].as_ptr().cast()) };
                acts[t] = extended(bytes).map(|acts| i16x8_mul(acts, scales));
            }
            for part in 0..ROWS {
                let packed = even_and_odd(load_part(block, first + part));
                for t in 0..N {
                    let [even, odd] = acts[t];
                    let acts = unroll4!(Q => [
                        i32x4_shuffle::<Q, Q, Q, Q>(even, even),
                        i32x4_shuffle::<Q, Q, Q, Q>(odd, odd),
                    ]);
                    for q in 0..4 {
                        sums[t][part] = add_products(sums[t][part], packed, masks[q], acts[q]);
                    }
                }
            }
        }
        for t in 0..N {
            let (out, _) = acc[t].as_chunks_mut::<4>();
            for part in 0..ROWS {
                store(&mut out[first + part], i32x4_shr(sums[t][part], 6));
            }
        }
    }
}

/// The same for int8 weights.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "bounds are constants")]
fn int8_tile<const N: usize, const ROWS: usize>(operands: Operands<'_>, acc: &mut Acc) {
    let rows: [&[[i8; 4]]; N] = std::array::from_fn(|t| {
        let row = &operands.acts.padded_row(operands.first + t)[operands.first_col..];
        &row.as_chunks().0[..operands.blocks.len()]
    });
    for first in (0..PARTS).step_by(ROWS) {
        let mut sums = [[i32x4_splat(0); ROWS]; N];
        for (step, block) in operands.blocks.iter().enumerate() {
            let mut acts = [[i32x4_splat(0); 2]; N];
            for t in 0..N {
                // SAFETY: an element is four bytes.
                acts[t] = extended(unsafe { v128_load32_splat(rows[t][step].as_ptr().cast()) });
            }
            for part in 0..ROWS {
                let [even, odd] = extended(load_part(block, first + part));
                for t in 0..N {
                    let sum = i32x4_add(sums[t][part], i32x4_dot_i16x8(even, acts[t][0]));
                    sums[t][part] = i32x4_add(sum, i32x4_dot_i16x8(odd, acts[t][1]));
                }
            }
        }
        for t in 0..N {
            let (out, _) = acc[t].as_chunks_mut::<4>();
            for part in 0..ROWS {
                store(&mut out[first + part], sums[t][part]);
            }
        }
    }
}

const _: () = assert!(PARTS * 4 == PANEL_ROWS);
