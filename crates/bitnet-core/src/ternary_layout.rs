//! The memory layouts of ternary weights.

use std::fmt;

use crate::base3::GROUP_COLS;
use crate::isa::Isa;
use crate::panel::{COL_STEP, LINE_COLS, PANEL_ROWS, TILE_ROWS};
use crate::shape::Shape;

/// A memory layout of ternary weights, specified at
/// [`PackedTernary`](crate::PackedTernary).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TernaryLayout {
    /// Four weights per byte.
    TwoBits,
    /// Five weights per byte: a fifth less memory to read, more instructions.
    Base3,
    /// Four weights per byte, each row on its own: rows whose results are multiplied by zero
    /// are not read.
    Rows,
    /// Four weights per byte, each column on its own: columns whose activation is zero are
    /// not read.
    Columns,
}

/// The widest panel that is unpacked at once: 32 KiB of stack.
pub(crate) const UNPACKED_BLOCKS: usize = 512;

/// The most tiles of a matrix in [`TernaryLayout::Columns`]: the sums of a thread take
/// 32 KiB of stack.
pub(crate) const MAX_TILES: usize = 32;

/// Bytes that a trial of a layout reads, more than the caches hold.
pub(crate) const TRIAL_BYTES: usize = 64 << 20;

impl TernaryLayout {
    /// Returns the panel layouts with a kernel for an instruction set. The scalar kernel
    /// computes the others.
    pub fn available(isa: Isa) -> impl Iterator<Item = Self> {
        let base3 = isa.has_base3().then_some(Self::Base3);
        std::iter::once(Self::TwoBits).chain(base3)
    }

    /// Returns the layouts that [`fastest`](Self::fastest) chooses from. Weights that may
    /// fit in a cache are packed at two bits.
    pub fn candidates(isa: Isa, n_weights: usize) -> impl Iterator<Item = Self> {
        let is_small = n_weights / 4 < TRIAL_BYTES;
        Self::available(isa).filter(move |layout| !is_small || *layout == Self::TwoBits)
    }

    /// Returns the blocks per panel.
    pub(crate) fn blocks_per_panel(self, n_cols: usize) -> usize {
        match self {
            Self::TwoBits => n_cols.div_ceil(COL_STEP),
            Self::Base3 => 4 * n_cols.div_ceil(GROUP_COLS),
            Self::Rows => PANEL_ROWS * n_cols.div_ceil(LINE_COLS),
            Self::Columns => unreachable!("columns are not in panels"),
        }
    }

    /// Returns the blocks of a matrix.
    pub(crate) fn n_blocks(self, Shape { n_rows, n_cols }: Shape) -> usize {
        match self {
            Self::Columns => n_cols.saturating_mul(n_rows.div_ceil(TILE_ROWS)),
            _ => (n_rows.div_ceil(PANEL_ROWS)).saturating_mul(self.blocks_per_panel(n_cols)),
        }
    }

    /// Returns whether a matrix of this shape can have the layout. The panel layouts take
    /// every shape. [`Rows`](Self::Rows) takes whole lines of 256 columns, at most 8192.
    /// [`Columns`](Self::Columns) takes whole tiles of 256 rows, at most 8192, and at most
    /// 65536 columns, so that the sums of codes are exact in f32.
    pub fn takes(self, Shape { n_rows, n_cols }: Shape) -> bool {
        match self {
            Self::TwoBits | Self::Base3 => true,
            Self::Rows => n_cols.is_multiple_of(LINE_COLS) && n_cols <= UNPACKED_BLOCKS * COL_STEP,
            Self::Columns => {
                n_rows.is_multiple_of(TILE_ROWS)
                    && n_rows <= MAX_TILES * TILE_ROWS
                    && n_cols <= 1 << 16
            }
        }
    }
}

impl fmt::Display for TernaryLayout {
    /// Writes the bits per weight.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TwoBits | Self::Rows | Self::Columns => "2.0-bit",
            Self::Base3 => "1.6-bit",
        })
    }
}
