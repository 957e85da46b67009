//! The reference: plain Rust, one multiplication at a time.

use crate::activations::{COL_STEP, Int8Rows};
use crate::matmul::{Acc, Block, PANEL_ROWS};

/// Dot products of codes 0..=2 with activations.
pub(crate) fn ternary_panel(blocks: &[Block], acts: &Int8Rows, first: usize, acc: &mut Acc) {
    for (i, sums) in acc.iter_mut().enumerate() {
        *sums = [0; PANEL_ROWS];
        let (acts, _) = acts.padded_row(first + i).as_chunks::<COL_STEP>();
        for (block, acts) in blocks.iter().zip(acts) {
            for (sum, bytes) in sums.iter_mut().zip(block.0.as_chunks::<4>().0) {
                for (col, &a) in acts.iter().enumerate() {
                    let code = bytes[col % 4] >> (col / 4 * 2) & 3;
                    *sum += code as i32 * a as i32;
                }
            }
        }
    }
}

/// Dot products of int8 weights with activations.
pub(crate) fn int8_panel(blocks: &[Block], acts: &Int8Rows, first: usize, acc: &mut Acc) {
    for (i, sums) in acc.iter_mut().enumerate() {
        *sums = [0; PANEL_ROWS];
        let (acts, _) = acts.padded_row(first + i).as_chunks::<4>();
        for (block, acts) in blocks.iter().zip(acts) {
            for (sum, bytes) in sums.iter_mut().zip(block.0.as_chunks::<4>().0) {
                for (&w, &a) in bytes.iter().zip(acts) {
                    *sum += (w as i8) as i32 * a as i32;
                }
            }
        }
    }
}
