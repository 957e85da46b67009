//! The operands of kernels: panels of packed weights, and rows of int8 activations.
//!
//! Packed matrices consist of *panels* of [`PANEL_ROWS`] rows, and panels of 64-byte blocks
//! that hold some columns of all rows. A kernel computes one panel for all tokens of a
//! tile: the integer dot products of sixteen rows are in sixteen lanes, so no horizontal
//! sum is needed.

use bytemuck::Zeroable;

use crate::prefetch::prefetch;

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
    /// Rows of another matrix that are prefetched meanwhile, some after every
    /// [`AHEAD_BLOCKS`].
    #[cfg_attr(
        not(any(target_arch = "x86_64", target_arch = "aarch64")),
        expect(dead_code, reason = "no kernel prefetches")
    )]
    pub(crate) ahead: LinesAhead<'a>,
}

/// See [`Operands::ahead`].
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    expect(dead_code, reason = "no kernel prefetches")
)]
pub(crate) const AHEAD_BLOCKS: usize = 16;

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

/// Lines that are prefetched while others are multiplied, some at a time, since a burst of
/// prefetches waits for the memory.
#[derive(Clone, Copy)]
pub(crate) struct LinesAhead<'a, T = u32> {
    pub(crate) lines: &'a [PackedBlock],
    /// Rows or columns of `stride` lines.
    pub(crate) list: &'a [T],
    pub(crate) stride: usize,
    /// The first lines of each that are prefetched.
    pub(crate) n_lines: usize,
}

impl<T> LinesAhead<'_, T> {
    pub(crate) const NONE: Self = Self {
        lines: &[],
        list: &[],
        stride: 0,
        n_lines: 0,
    };
}

impl<'a, T: Copy + Into<u32>> LinesAhead<'a, T> {
    /// Distributes the lines over so many steps.
    #[cfg_attr(
        not(any(target_arch = "x86_64", target_arch = "aarch64")),
        expect(dead_code, reason = "no kernel prefetches")
    )]
    #[inline(always)]
    pub(crate) fn over(self, n_steps: usize) -> AheadSteps<'a, T> {
        AheadSteps {
            rest: self,
            n_done: 0,
            n_all: self.list.len() * self.n_lines,
            n_steps,
            due: 0,
        }
    }

    /// Prefetches all lines.
    #[inline(always)]
    pub(crate) fn prefetch(self) {
        for &first in self.list {
            for line in &self.lines[first.into() as usize * self.stride..][..self.n_lines] {
                prefetch(line);
            }
        }
    }
}

/// See [`LinesAhead::over`].
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    expect(dead_code, reason = "no kernel prefetches")
)]
pub(crate) struct AheadSteps<'a, T = u32> {
    rest: LinesAhead<'a, T>,
    /// Lines of the first of the rest that are prefetched.
    n_done: usize,
    n_all: usize,
    n_steps: usize,
    /// The lines that are due, in units of 1 / `n_steps`.
    due: usize,
}

impl<T: Copy + Into<u32>> AheadSteps<'_, T> {
    /// Prefetches the lines of the next step.
    #[inline(always)]
    pub(crate) fn step(&mut self) {
        self.due += self.n_all;
        while self.due >= self.n_steps
            && let Some((&first, list)) = self.rest.list.split_first()
        {
            self.due -= self.n_steps;
            let LinesAhead { lines, stride, .. } = self.rest;
            prefetch(&raw const lines[first.into() as usize * stride + self.n_done]);
            self.n_done += 1;
            if self.n_done == self.rest.n_lines {
                (self.n_done, self.rest.list) = (0, list);
            }
        }
    }
}
