//! WebAssembly with 128-bit SIMD: bytes are widened to i16; `i32x4.dot_i16x8_s` multiplies
//! and adds adjacent pairs, which is one instruction on x86-64 and two or three on ARM64.
//!
//! SIMD support is fixed when the module is compiled: there is no dispatch at run time.

mod float_lanes;

use std::arch::wasm32::{
    i8x16_splat, i16x8_extend_high_i8x16, i16x8_extend_low_i8x16, i32x4_add, i32x4_dot_i16x8,
    i32x4_shuffle, i32x4_splat, u8x16_shr, v128, v128_and, v128_load, v128_store,
};
use std::hint::black_box;

use crate::arch::{IsaLevel, Tier};
use crate::panel::{Acc, Operands, PANEL_ROWS, PackedBlock};

/// A build with 128-bit SIMD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simd128;

impl IsaLevel for Simd128 {}

impl Tier for Simd128 {
    const NAME: &'static str = "wasm32-i2xi8-simd128";
    const NEEDS: &'static str = "128-bit SIMD";

    type Floats = Self;

    #[inline(always)]
    fn floats(self) -> Self {
        self
    }

    fn ternary_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        let mask = i8x16_splat(3);
        panel(operands, acc, |[block]: &[PackedBlock; 1], part, quad| {
            v128_and(u8x16_shr(load_part(block, part), 2 * quad as u32), mask)
        });
    }

    fn int8_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        panel(operands, acc, |blocks: &[PackedBlock; 4], part, quad| {
            load_part(&blocks[quad], part)
        });
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

/// Loads the rows `4·part..` of a block.
#[inline(always)]
fn load_part(block: &PackedBlock, part: usize) -> v128 {
    let bytes: &[u8] = &block.0[16 * part..][..16];
    // SAFETY: `bytes` is 16 bytes.
    unsafe { v128_load(bytes.as_ptr().cast()) }
}

/// Computes a quarter of a panel at a time. `weights(blocks, part, quad)` returns the
/// columns `4·quad..` of the 16 in the blocks, for the rows `4·part..`.
#[inline(always)]
fn panel<const BLOCKS: usize>(
    operands: Operands<'_>,
    acc: &mut Acc,
    weights: impl Fn(&[PackedBlock; BLOCKS], usize, usize) -> v128 + Copy,
) {
    for (operands, acc) in operands.tiles::<4>(acc) {
        for part in 0..PANEL_ROWS / 4 {
            match acc.len() {
                4 => tile::<BLOCKS, 4>(operands, part, acc, weights),
                2 => tile::<BLOCKS, 2>(operands, part, acc, weights),
                _ => tile::<BLOCKS, 1>(operands, part, acc, weights),
            }
        }
    }
}

#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "bounds are constants")]
fn tile<const BLOCKS: usize, const N: usize>(
    operands: Operands<'_>,
    part: usize,
    acc: &mut Acc,
    weights: impl Fn(&[PackedBlock; BLOCKS], usize, usize) -> v128,
) {
    let (blocks, _) = operands.blocks.as_chunks::<BLOCKS>();
    let rows: [&[[[i8; 4]; 4]]; N] = std::array::from_fn(|t| {
        let row = &operands.acts.padded_row(operands.first + t)[operands.first_col..];
        let (quads, _) = row.as_chunks();
        &quads.as_chunks().0[..blocks.len()]
    });
    // Two rows each.
    let mut sums = [[i32x4_splat(0); 2]; N];
    for (step, blocks) in blocks.iter().enumerate() {
        for quad in 0..4 {
            let weights = weights(blocks, part, quad);
            let low = i16x8_extend_low_i8x16(weights);
            let high = i16x8_extend_high_i8x16(weights);
            for t in 0..N {
                let acts = i32::from_le_bytes(rows[t][step][quad].map(i8::cast_unsigned));
                let acts = i16x8_extend_low_i8x16(i32x4_splat(acts));
                sums[t][0] = i32x4_add(sums[t][0], i32x4_dot_i16x8(low, acts));
                sums[t][1] = i32x4_add(sums[t][1], i32x4_dot_i16x8(high, acts));
            }
        }
    }
    for t in 0..N {
        let [low, high] = sums[t];
        let even = i32x4_shuffle::<0, 2, 4, 6>(low, high);
        let odd = i32x4_shuffle::<1, 3, 5, 7>(low, high);
        let out = &mut acc[t].as_chunks_mut::<4>().0[part];
        // SAFETY: `out` has four lanes.
        unsafe { v128_store(out.as_mut_ptr().cast(), i32x4_add(even, odd)) };
    }
}
