//! Operands of the kernels that read only some rows or columns of a ternary matrix.

use crate::panel::{LINE_COLS, PackedBlock, TILE_ROWS};
use crate::prefetch::prefetch_l2;

/// Some rows of a matrix in [`TernaryLayout::Rows`](crate::TernaryLayout::Rows), and the
/// activations that they are multiplied by.
#[derive(Clone, Copy)]
pub(crate) struct ListedRows<'a> {
    /// The lines of rows, `[n_rows, n_lines]`.
    pub(crate) lines: &'a [PackedBlock],
    /// One row of activations, `[LINE_COLS · n_lines]`.
    pub(crate) acts: &'a [i8],
    pub(crate) list: &'a [u32],
    /// Rows that are prefetched meanwhile.
    #[cfg_attr(
        not(any(target_arch = "x86_64", target_arch = "aarch64")),
        expect(dead_code, reason = "no kernel prefetches")
    )]
    pub(crate) ahead: LinesAhead<'a>,
}

impl<'a> ListedRows<'a> {
    /// Returns the lines per row.
    #[inline(always)]
    pub(crate) fn n_lines(self) -> usize {
        self.acts.len() / LINE_COLS
    }

    /// Returns the lines of a row.
    #[inline(always)]
    pub(crate) fn lines_of(self, row: u32) -> &'a [PackedBlock] {
        let n_lines = self.n_lines();
        &self.lines[row as usize * n_lines..][..n_lines]
    }
}

/// Some columns of a tile of 256 rows of a matrix in
/// [`TernaryLayout::Columns`](crate::TernaryLayout::Columns), and the activation of each.
#[derive(Clone, Copy)]
pub(crate) struct ListedColumns<'a> {
    /// The lines of columns, `[n_cols, n_tiles]`.
    pub(crate) lines: &'a [PackedBlock],
    pub(crate) n_tiles: usize,
    pub(crate) tile: usize,
    /// A multiple of four columns.
    pub(crate) list: &'a [u16],
    /// `[list.len()]`
    pub(crate) acts: &'a [i8],
    /// Columns that are prefetched meanwhile.
    #[cfg_attr(
        not(any(target_arch = "x86_64", target_arch = "aarch64")),
        expect(dead_code, reason = "no kernel prefetches")
    )]
    pub(crate) ahead: LinesAhead<'a, u16>,
}

impl<'a> ListedColumns<'a> {
    /// Returns the line of a column.
    #[inline(always)]
    pub(crate) fn line(self, col: u16) -> &'a PackedBlock {
        &self.lines[usize::from(col) * self.n_tiles + self.tile]
    }
}

/// Sums of the rows of a tile. Those of quarter q of the tile, 64 rows, are 4^q times as
/// large, which saves shifts. They are below 128·127·columns, which fits in i32 for all
/// permitted widths.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct TileSums(pub(crate) [i32; TILE_ROWS]);

impl TileSums {
    pub(crate) const ZERO: Self = Self([0; TILE_ROWS]);
}

/// Returns the row of a tile whose code is in bits `2·quarter` of byte `byte` of a line.
///
/// Interleaving the bytes of four lines, in lanes of 16 bytes as vector units do, gives four
/// vectors of sixteen rows in order.
#[inline(always)]
pub(crate) const fn row_of_code(byte: usize, quarter: usize) -> usize {
    let (lane, vector, k) = (byte / 16, byte / 4 % 4, byte % 4);
    64 * quarter + 16 * vector + 4 * lane + k
}

/// The part of a matrix that a product read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartRead {
    /// Rows or columns that were read for at least one token.
    pub read: usize,
    /// All rows or columns.
    pub total: usize,
    /// Pairs of a row or column and a token that were multiplied.
    pub products: usize,
}

/// Lines that are prefetched while others are multiplied, some at a time, since a burst of
/// prefetches waits for the memory. Into the second-level cache, which has more loads in flight
/// than the first.
#[derive(Clone, Copy)]
pub(crate) struct LinesAhead<'a, T = u32> {
    pub(crate) lines: &'a [PackedBlock],
    /// Rows or columns of `stride` lines.
    pub(crate) list: &'a [T],
    pub(crate) stride: usize,
    /// The first lines of each that are prefetched.
    pub(crate) n_lines: usize,
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
                prefetch_l2(line);
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
            prefetch_l2(&raw const lines[first.into() as usize * stride + self.n_done]);
            self.n_done += 1;
            if self.n_done == self.rest.n_lines {
                (self.n_done, self.rest.list) = (0, list);
            }
        }
    }
}
