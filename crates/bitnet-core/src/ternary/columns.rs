//! [`TernaryLayout::Columns`](crate::TernaryLayout::Columns), and the product that skips
//! columns.

use std::ops::Range;
use std::sync::Mutex;

use super::PackedTernary;
use super::rows::transpose_codes;
use super::scales::RowScales;
use crate::activations::Int8Rows;
use crate::arch::NullaryFnOnce;
use crate::compute_context::ComputeContext;
use crate::isa::Isa;
use crate::matmul::{CHUNK_BYTES, for_tiles};
use crate::memory::{Buffer, Category, HybridMemoryPool, OutOfMemory};
use crate::nonzero::Nonzero;
use crate::panel::{COL_STEP, Operands, PANEL_ROWS, PackedBlock, TILE_ROWS};
use crate::shape::Shape;
use crate::sparse::{LinesAhead, ListedColumns, PartRead, TileSums, row_of_code};
use crate::ternary_layout::{MAX_TILES, UNPACKED_BLOCKS};
use crate::thread_pool::{DisjointMut, ThreadPool};

/// Lines after which another tile of the same columns is computed, and which are prefetched
/// ahead: 16 KiB, a third of a first-level cache.
const STEP_LINES: usize = 256;

/// Columns whose lines are prefetched ahead for one of several tokens.
const COLS_AHEAD: usize = 64;

/// The time of a column by [`Tier::add_columns`](crate::arch::Tier::add_columns), relative
/// to that of a column of panels for many tokens.
const SPARSE_COST: usize = 5;
const DENSE_COST: usize = 2;

/// The time to unpack a column for the dense kernels, in the same unit.
const UNPACK_COST: usize = 30;

/// Panels per tile.
const TILE_PANELS: usize = TILE_ROWS / PANEL_ROWS;

/// Columns that are unpacked at a time.
const UNPACKED_COLS: usize = UNPACKED_BLOCKS / TILE_PANELS * COL_STEP;

/// The rows whose codes are in four bytes of a line.
const ROWS: usize = 16;

/// Packs the trits of [`ROWS`] rows, four bytes for each column.
struct PackQuads<'a> {
    /// `[ROWS, n_cols]`
    trits: &'a [i8],
    /// `[n_cols]`
    quads: &'a mut [[u8; 4]],
}

impl NullaryFnOnce for PackQuads<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let n_cols = self.quads.len();
        let row = |i: usize| &self.trits[i * n_cols..][..n_cols];
        let rows: [&[i8]; ROWS] = std::array::from_fn(row);
        for (col, quad) in self.quads.iter_mut().enumerate() {
            let mut packed = 0;
            for (i, row) in rows.iter().enumerate() {
                let code = u32::from((row[col] + 1).cast_unsigned());
                packed |= code << (8 * (i % 4) + 2 * (i / 4));
            }
            *quad = packed.to_le_bytes();
        }
    }
}

/// Packs a matrix; `decode_row(row, trits)` fills one row, or returns false.
pub(super) fn pack(
    pool: &HybridMemoryPool,
    ctx: &mut ComputeContext<'_>,
    Shape { n_rows, n_cols }: Shape,
    decode_row: impl Fn(usize, &mut [i8]) -> bool + Sync,
) -> Result<Buffer<PackedBlock>, OutOfMemory> {
    let n_tiles = n_rows / TILE_ROWS;
    let mut lines: Buffer<PackedBlock> =
        pool.zeroed(Category::Weights, n_tiles.saturating_mul(n_cols))?;
    let mut scratch = (0..ctx.threads.n_threads())
        .map(|_| {
            let trits = pool.zeroed(Category::Scratch, ROWS * n_cols)?;
            Ok((trits, pool.zeroed(Category::Scratch, n_cols)?))
        })
        .collect::<Result<Vec<(Buffer<i8>, Buffer<[u8; 4]>)>, _>>()?;
    let (out, locals) = (
        DisjointMut(lines.as_mut_ptr()),
        DisjointMut(scratch.as_mut_ptr()),
    );
    let isa = ctx.isa;
    ctx.threads.for_each(n_tiles, |thread, tile| {
        // SAFETY: `thread < n_threads == scratch.len()`, and a thread works on one tile at a
        // time.
        let (trits, quads) = unsafe { &mut *locals.at(thread) };
        for first_byte in (0..64).step_by(4) {
            for (i, trits) in trits.chunks_exact_mut(n_cols.max(1)).enumerate() {
                let row = row_of_code(first_byte + i % 4, i / 4);
                if !decode_row(TILE_ROWS * tile + row, trits) {
                    // The codes of a failed row do not matter.
                    trits.fill(0);
                }
            }
            isa.vectorize(PackQuads { trits, quads });
            for (col, quad) in quads.iter().enumerate() {
                // SAFETY: `col < n_cols` and `tile < n_tiles`; each line belongs to one
                // tile, and each tile is handed out once.
                let line = unsafe { &mut *out.at(col * n_tiles + tile) };
                line.0[first_byte..][..4].copy_from_slice(quad);
            }
        }
    });
    Ok(lines)
}

/// Returns the byte and the quarter of a line that hold the code of a row of a tile.
const fn place_of_row(row: usize) -> (usize, usize) {
    let (quarter, vector, lane, k) = (row / 64, row / 16 % 4, row / 4 % 4, row % 4);
    (16 * lane + 4 * vector + k, quarter)
}

const _: () = {
    let mut row = 0;
    while row < TILE_ROWS {
        let (byte, quarter) = place_of_row(row);
        assert!(row_of_code(byte, quarter) == row);
        row += 1;
    }
};

/// Returns the code of a weight.
pub(super) fn code(lines: &[PackedBlock], n_rows: usize, row: usize, col: usize) -> u8 {
    let line = &lines[col * (n_rows / TILE_ROWS) + row / TILE_ROWS];
    let (byte, quarter) = place_of_row(row % TILE_ROWS);
    line.0[byte] >> (2 * quarter) & 3
}

impl PackedTernary {
    /// Computes the same as [`matmul`](Self::matmul) with a matrix in
    /// [`TernaryLayout::Columns`](crate::TernaryLayout::Columns), and returns the columns
    /// that were read: those that [`Int8Rows::list_nonzero`] listed, or all if they are not
    /// listed or most are not zero.
    ///
    /// # Panics
    ///
    /// As [`matmul`](Self::matmul), or if the matrix has another layout, or the activations
    /// are split.
    pub fn listed_matmul(
        &self,
        ctx: &mut ComputeContext<'_>,
        acts: &Int8Rows,
        out: &mut [f32],
    ) -> PartRead {
        let (n_tokens, n_rows) = (acts.n_rows(), self.n_rows);
        assert_eq!(
            acts.n_cols(),
            self.n_cols,
            "columns of weights and activations"
        );
        assert_eq!(acts.n_parts(), 1, "quantized activations");
        assert_eq!(out.len(), n_tokens * n_rows, "out is [n_tokens, n_rows]");
        let product = Product {
            weights: self,
            isa: ctx.isa,
            acts,
            n_tiles: n_rows / TILE_ROWS,
        };
        let all = PartRead {
            read: self.n_cols,
            total: self.n_cols,
            products: self.n_cols * n_tokens,
        };
        let Some(lists) = acts.nonzero() else {
            product.dense(ctx.threads, out);
            return all;
        };
        let n_values = lists.n_values();
        if n_tokens == 1 {
            product.one_token(ctx.threads, lists, out);
        } else if n_values * SPARSE_COST <= self.n_cols * (n_tokens * DENSE_COST + UNPACK_COST) {
            product.tokens(ctx.threads, lists, out);
        } else {
            product.dense(ctx.threads, out);
            return all;
        }
        PartRead {
            read: lists.n_cols_in_any(),
            total: self.n_cols,
            products: n_values,
        }
    }
}

struct Product<'a> {
    weights: &'a PackedTernary,
    isa: Isa,
    acts: &'a Int8Rows,
    n_tiles: usize,
}

impl Product<'_> {
    /// Computes one token. Threads share the columns: each reads all tiles of its columns,
    /// which are contiguous.
    fn one_token(&self, threads: &mut ThreadPool, lists: &Nonzero, out: &mut [f32]) {
        match self.n_tiles {
            0..=2 => self.parts::<2>(threads, lists, out),
            3..=10 => self.parts::<10>(threads, lists, out),
            _ => self.parts::<MAX_TILES>(threads, lists, out),
        }
    }

    fn parts<const TILES: usize>(
        &self,
        threads: &mut ThreadPool,
        lists: &Nonzero,
        out: &mut [f32],
    ) {
        let (list, values) = lists.row(0);
        // As in `matmul`: a few chunks are faster on one thread than waking another.
        let n_bytes = list.len() * self.n_tiles * size_of::<PackedBlock>();
        let n_parts = if threads.n_threads() == 1 || n_bytes <= 4 * CHUNK_BYTES {
            1
        } else {
            (2 * threads.n_threads()).min(n_bytes / CHUNK_BYTES)
        };
        // Sums of codes are integers below 2^24, exact in f32 in any order.
        out.fill(0.0);
        let sums_of_parts = Mutex::new(&mut *out);
        let step_cols = (STEP_LINES / self.n_tiles.max(1)).next_multiple_of(4);
        let part_len = list.len().div_ceil(n_parts).next_multiple_of(4);
        threads.for_each(n_parts, |_, part| {
            let first = (part * part_len).min(list.len());
            let end = (first + part_len).min(list.len());
            let ahead = |cols: Range<usize>| LinesAhead {
                lines: &self.weights.blocks,
                list: &list[cols],
                stride: self.n_tiles,
                n_lines: self.n_tiles,
            };
            ahead(first..(first + step_cols).min(end)).prefetch();
            let mut sums = [TileSums::ZERO; TILES];
            for step in (first..end).step_by(step_cols) {
                let next = (step + step_cols).min(end);
                let n_ahead = step_cols.min(end - next);
                // Whole columns, which are contiguous, a share of them with every tile.
                let start = |tile: usize| next + tile * n_ahead / self.n_tiles;
                for (tile, sums) in sums[..self.n_tiles].iter_mut().enumerate() {
                    let columns = ListedColumns {
                        lines: &self.weights.blocks,
                        n_tiles: self.n_tiles,
                        tile,
                        list: &list[step..next],
                        acts: &values[step..next],
                        ahead: ahead(start(tile)..start(tile + 1)),
                    };
                    self.isa.add_columns(columns, sums);
                }
            }
            let mut out = sums_of_parts.lock().expect("no holder panics");
            for (out, sums) in out.chunks_exact_mut(TILE_ROWS).zip(&sums) {
                self.isa.vectorize(AddSums { sums, out });
            }
        });
        for (tile, out) in out.chunks_exact_mut(TILE_ROWS).enumerate() {
            self.dequantize(0, tile, out);
        }
    }

    /// Computes several tokens, each by its own list. Lines stay in the cache from token to
    /// token.
    fn tokens(&self, threads: &mut ThreadPool, lists: &Nonzero, out: &mut [f32]) {
        let n_tokens = self.acts.n_rows();
        let n_ranges = (4 * threads.n_threads())
            .div_ceil(self.n_tiles)
            .min(n_tokens);
        let n_rows = self.weights.n_rows;
        let out = DisjointMut(out.as_mut_ptr());
        threads.for_each(self.n_tiles * n_ranges, |_, chunk| {
            let (tile, range) = (chunk / n_ranges, chunk % n_ranges);
            let start = |range: usize| range * n_tokens / n_ranges;
            for token in start(range)..start(range + 1) {
                let (list, values) = lists.row(token);
                let mut sums = TileSums::ZERO;
                for step in (0..list.len()).step_by(COLS_AHEAD) {
                    let next = (step + COLS_AHEAD).min(list.len());
                    let columns = ListedColumns {
                        lines: &self.weights.blocks,
                        n_tiles: self.n_tiles,
                        tile,
                        list: &list[step..next],
                        acts: &values[step..next],
                        ahead: LinesAhead {
                            lines: &self.weights.blocks[tile..],
                            list: &list[next..(next + COLS_AHEAD).min(list.len())],
                            stride: self.n_tiles,
                            n_lines: 1,
                        },
                    };
                    self.isa.add_columns(columns, &mut sums);
                }
                // SAFETY: the rows of a tile of a token lie inside `out`, `[n_tokens,
                // n_rows]`; tiles and tokens do not overlap, and each is computed once.
                let out = unsafe {
                    std::slice::from_raw_parts_mut(
                        out.at(token * n_rows + tile * TILE_ROWS),
                        TILE_ROWS,
                    )
                };
                out.fill(0.0);
                self.isa.vectorize(AddSums { sums: &sums, out });
                self.dequantize(token, tile, out);
            }
        });
    }

    /// Computes all columns, by the dense kernels.
    fn dense(&self, threads: &mut ThreadPool, out: &mut [f32]) {
        let (n_tokens, n_rows) = (self.acts.n_rows(), self.weights.n_rows);
        let out = DisjointMut(out.as_mut_ptr());
        threads.for_each(self.n_tiles, |_, tile| {
            let out = |token: usize| {
                assert!(token < n_tokens, "a token of the batch");
                // SAFETY: as in `tokens`; one slice exists at a time.
                unsafe {
                    std::slice::from_raw_parts_mut(
                        out.at(token * n_rows + tile * TILE_ROWS),
                        TILE_ROWS,
                    )
                }
            };
            (0..n_tokens).for_each(|token| out(token).fill(0.0));
            for first_col in (0..self.weights.n_cols).step_by(UNPACKED_COLS) {
                self.dense_part(tile, first_col, out);
            }
            (0..n_tokens).for_each(|token| self.dequantize(token, tile, out(token)));
        });
    }

    /// Adds the sums of some columns of a tile to `out(token)`.
    fn dense_part<'o>(&self, tile: usize, first_col: usize, out: impl Fn(usize) -> &'o mut [f32]) {
        #[expect(clippy::large_stack_arrays, reason = "no recursion here")]
        let mut unpacked = [PackedBlock::ZERO; UNPACKED_BLOCKS];
        let n_cols = UNPACKED_COLS.min(self.weights.n_cols - first_col);
        let n_blocks = n_cols.div_ceil(COL_STEP);
        self.isa.vectorize(UnpackColumns {
            lines: &self.weights.blocks[first_col * self.n_tiles..][..n_cols * self.n_tiles],
            n_tiles: self.n_tiles,
            tile,
            blocks: &mut unpacked[..n_blocks * TILE_PANELS],
        });
        for (panel, blocks) in unpacked
            .chunks_exact(n_blocks)
            .take(TILE_PANELS)
            .enumerate()
        {
            for_tiles(self.acts, |first, acc| {
                let operands = Operands {
                    blocks,
                    acts: self.acts.view(),
                    first,
                    first_col,
                };
                self.isa.ternary_panel(operands, acc);
                for (i, sums) in acc.iter().enumerate() {
                    let out = &mut out(first + i)[panel * PANEL_ROWS..][..PANEL_ROWS];
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out += *sum as f32;
                    }
                }
            });
        }
    }

    /// Turns the sums of codes of a tile into products.
    fn dequantize(&self, token: usize, tile: usize, out: &mut [f32]) {
        self.isa.vectorize(Dequantize {
            out,
            correction: self.acts.view().sum(token) as f32,
            act_scale: self.acts.scale(token),
            scales: (self.weights.scales).of_rows(tile * TILE_ROWS, TILE_ROWS),
        });
    }
}

/// Adds the sums of a tile, without their factors.
struct AddSums<'a> {
    sums: &'a TileSums,
    out: &'a mut [f32],
}

impl NullaryFnOnce for AddSums<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        const LEN: usize = TILE_ROWS / 4;
        for (quarter, (sums, out)) in (self.sums.0.chunks_exact(LEN))
            .zip(self.out.chunks_exact_mut(LEN))
            .enumerate()
        {
            for (out, sum) in out.iter_mut().zip(sums) {
                *out += (sum >> (2 * quarter)) as f32;
            }
        }
    }
}

struct Dequantize<'a> {
    out: &'a mut [f32],
    correction: f32,
    act_scale: f32,
    scales: RowScales<'a>,
}

impl NullaryFnOnce for Dequantize<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        match self.scales {
            RowScales::Tensor(scale) => {
                let factor = scale / self.act_scale;
                for out in self.out {
                    *out = (*out - self.correction) * factor;
                }
            }
            RowScales::Rows(scales) => {
                for (out, scale) in self.out.iter_mut().zip(scales) {
                    *out = (*out - self.correction) * (scale / self.act_scale);
                }
            }
        }
    }
}

/// Unpacks some columns of a tile to the two-bit panel layout.
struct UnpackColumns<'a> {
    /// `[n_cols, n_tiles]`
    lines: &'a [PackedBlock],
    n_tiles: usize,
    tile: usize,
    /// `[TILE_PANELS, n_blocks]`
    blocks: &'a mut [PackedBlock],
}

impl NullaryFnOnce for UnpackColumns<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let n_blocks = self.blocks.len() / TILE_PANELS;
        for (b, lines) in self.lines.chunks(COL_STEP * self.n_tiles).enumerate() {
            // Missing columns have zero activations.
            let mut cols = [PackedBlock::ZERO; COL_STEP];
            for (col, lines) in cols.iter_mut().zip(lines.chunks_exact(self.n_tiles)) {
                *col = lines[self.tile];
            }
            for vector in 0..4 {
                let mut quads = [[0; PANEL_ROWS]; 4];
                for (quad, cols) in quads.iter_mut().zip(cols.as_chunks::<4>().0) {
                    for (r, codes) in quad.iter_mut().enumerate() {
                        let (byte, _) = place_of_row(16 * vector + r);
                        let [c0, c1, c2, c3] = cols.each_ref().map(|col| col.0[byte]);
                        *codes = u32::from_le_bytes([c0, c1, c2, c3]);
                    }
                }
                for quarter in 0..4 {
                    let block = &mut self.blocks[(4 * quarter + vector) * n_blocks + b];
                    transpose_codes(&quads, quarter, block);
                }
            }
        }
    }
}
