//! The reference kernels in plain Rust.

use crate::arch::{IsaLevel, Tier};
use crate::base3::{GROUP_COLS, unpack_group};
use crate::lanes::Scalar;
use crate::panel::{Acc, COL_STEP, LINE_COLS, Operands, PANEL_ROWS, PackedBlock};
use crate::sparse::{ListedColumns, ListedRows, TileSums, row_of_code};

impl IsaLevel for Scalar {}

impl Tier for Scalar {
    const NAME: &'static str = "generic-i2xi8-scalar";
    const NEEDS: &'static str = "nothing";

    type Floats = Self;

    const HAS_SPARSE: bool = true;

    #[inline(always)]
    fn floats(self) -> Self {
        self
    }

    fn ternary_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        for (i, sums) in acc.iter_mut().enumerate() {
            *sums = [0; PANEL_ROWS];
            let acts = operands.acts.padded_row(operands.first + i);
            add_blocks(operands.blocks, &acts[operands.first_col..], sums);
        }
    }

    fn int8_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        let Operands {
            blocks,
            acts,
            first,
            first_col,
        } = operands;
        for (i, sums) in acc.iter_mut().enumerate() {
            *sums = [0; PANEL_ROWS];
            let (acts, _) = acts.padded_row(first + i)[first_col..].as_chunks::<4>();
            for (block, acts) in blocks.iter().zip(acts) {
                for (sum, bytes) in sums.iter_mut().zip(block.0.as_chunks::<4>().0) {
                    for (&w, &a) in bytes.iter().zip(acts) {
                        *sum += (w as i8) as i32 * a as i32;
                    }
                }
            }
        }
    }

    fn int8_peak_rounds(self, _: usize) -> Option<usize> {
        None
    }
}

/// Computes dot products of codes 0..=2, five per byte, with activations.
pub(crate) fn base3_panel(operands: Operands<'_>, acc: &mut Acc) {
    for (i, sums) in acc.iter_mut().enumerate() {
        *sums = [0; PANEL_ROWS];
        let acts = operands.acts.padded_row(operands.first + i);
        let groups = operands.blocks.as_chunks::<4>().0;
        for (group, acts) in groups.iter().zip(acts.as_chunks::<GROUP_COLS>().0) {
            add_blocks(&unpack_group(group), acts, sums);
        }
    }
}

/// Computes dot products of codes 0..=2 with activations, one for each listed row.
pub(crate) fn row_dots(rows: ListedRows<'_>, sums: &mut [i32]) {
    assert_eq!(sums.len(), rows.list.len(), "a sum for each row");
    for (sum, &row) in sums.iter_mut().zip(rows.list) {
        *sum = 0;
        let lines = rows.lines_of(row).iter();
        for (line, acts) in lines.zip(rows.acts.as_chunks::<LINE_COLS>().0) {
            for (col, &a) in acts.iter().enumerate() {
                let code = line.0[col % 64] >> (col / 64 * 2) & 3;
                *sum += i32::from(code) * i32::from(a);
            }
        }
    }
}

/// Adds the listed columns of codes, times their activations.
pub(crate) fn add_columns(columns: ListedColumns<'_>, sums: &mut TileSums) {
    for (&col, &a) in columns.list.iter().zip(columns.acts) {
        for (byte, packed) in columns.line(col).0.iter().enumerate() {
            for quarter in 0..4 {
                // Not shifted down: the sums of a quarter are scaled.
                let code = packed & 3 << (2 * quarter);
                sums.0[row_of_code(byte, quarter)] += i32::from(code) * i32::from(a);
            }
        }
    }
}

/// Adds products of blocks of the two-bit layout.
fn add_blocks(blocks: &[PackedBlock], acts: &[i8], sums: &mut [i32; PANEL_ROWS]) {
    let (acts, _) = acts.as_chunks::<COL_STEP>();
    for (block, acts) in blocks.iter().zip(acts) {
        for (sum, bytes) in sums.iter_mut().zip(block.0.as_chunks::<4>().0) {
            for (col, &a) in acts.iter().enumerate() {
                let code = bytes[col % 4] >> (col / 4 * 2) & 3;
                *sum += code as i32 * a as i32;
            }
        }
    }
}
