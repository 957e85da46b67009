//! The operands of kernels: panels of packed weights, and rows of int8 activations.
//!
//! Packed matrices consist of *panels* of [`PANEL_ROWS`] rows, and panels of 64-byte blocks
//! that hold some columns of all rows. A kernel computes one panel for all tokens of a
//! tile: the integer dot products of sixteen rows are in sixteen lanes, so no horizontal
//! sum is needed.

use bytemuck::{Pod, Zeroable};

/// Rows per panel: the i32 lanes of a 512-bit register.
pub(crate) const PANEL_ROWS: usize = 16;

/// Columns per block at two bits per weight.
pub(crate) const COL_STEP: usize = 16;

/// Columns per 64-byte line of a row that is packed on its own.
pub(crate) const LINE_COLS: usize = 256;

/// Rows per 64-byte line of a column that is packed on its own: a tile.
pub(crate) const TILE_ROWS: usize = 256;

/// 64 bytes of packed weights, aligned to a cache line. [`crate::PackedTernary`] and
/// [`crate::PackedInt8`] define the contents.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackedBlock(pub(crate) [u8; 64]);

const _: () = assert!(size_of::<PackedBlock>() == 64);

// SAFETY: bytes, for which zero is valid.
unsafe impl Zeroable for PackedBlock {}
// SAFETY: bytes, as many as its alignment, so without padding.
unsafe impl Pod for PackedBlock {}

impl PackedBlock {
    pub(crate) const ZERO: Self = Self([0; 64]);
}

/// Integer dot products of one panel: `[token][row]`.
pub(crate) type Acc = [[i32; PANEL_ROWS]];

/// The rows of an [`Int8Rows`](crate::Int8Rows), as read by kernels.
#[derive(Clone, Copy)]
pub(crate) struct Int8View<'a> {
    /// `[n_rows, stride]`, zero-padded after the last column.
    pub(crate) data: &'a [i8],
    /// Columns with padding: a multiple of the columns of every block type.
    pub(crate) stride: usize,
    /// `[n_rows]`, the sum of each row.
    pub(crate) sums: &'a [i32],
}

impl<'a> Int8View<'a> {
    /// Returns a row with its padding.
    #[inline(always)]
    pub(crate) fn padded_row(self, row: usize) -> &'a [i8] {
        &self.data[row * self.stride..][..self.stride]
    }

    /// Returns the sum of the quantized values of a row.
    #[inline(always)]
    pub(crate) fn sum(self, row: usize) -> i32 {
        self.sums[row]
    }
}

/// A panel and its activations: the rows of `acts` from `first` on, as many as there are
/// results.
#[derive(Clone, Copy)]
pub(crate) struct Operands<'a> {
    pub(crate) blocks: &'a [PackedBlock],
    pub(crate) acts: Int8View<'a>,
    pub(crate) first: usize,
    /// The first column of the blocks: a multiple of [`COL_STEP`], and 0 unless the blocks
    /// are a part of a panel.
    pub(crate) first_col: usize,
}

impl<'a> Operands<'a> {
    /// Splits the tokens of `acc` into tiles of `MAX`, .., 4, 2 and 1 tokens: powers of
    /// two, for which kernels are compiled.
    #[cfg(any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        all(target_arch = "wasm32", target_feature = "simd128")
    ))]
    pub(crate) fn tiles<const MAX: usize>(
        self,
        acc: &mut Acc,
    ) -> impl Iterator<Item = (Operands<'a>, &mut Acc)> {
        const { assert!(MAX.is_power_of_two()) };
        let mut rest = acc;
        let mut operands = self;
        std::iter::from_fn(move || {
            let len = 1 << rest.len().checked_ilog2()?.min(MAX.ilog2());
            let (tile, tail) = std::mem::take(&mut rest).split_at_mut(len);
            rest = tail;
            let tile_operands = operands;
            operands.first += len;
            Some((tile_operands, tile))
        })
    }
}
