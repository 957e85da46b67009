//! Int8 keys and values.
//!
//! Queries and softmax weights are quantized too, so both products are int8 matrix
//! products: exact integer sums on every instruction set.

use std::iter;

use super::block::{BlockPass, Scores};
use super::kv_page::{KeyValue, append, fill};
use super::{BLOCK, MAX_ROWS, TILE};
use crate::activations::{Int8Rows, PART_RADIX};
use crate::arch::{CACHE_LINE, NullaryFnOnce};
use crate::int8::{self, BLOCK_COLS};
use crate::isa::Isa;
use crate::lanes::{Lanes, WithSimd};
use crate::matmul::MAX_TILE;
use crate::memory::{Buffer, Category, HybridMemoryPool, OutOfMemory};
use crate::panel::{COL_STEP, Operands, PANEL_ROWS, PackedBlock};
use crate::prefetch::prefetch;

const _: () = assert!(TILE == PANEL_ROWS && BLOCK.is_multiple_of(COL_STEP));

/// Blocks of int8 keys and values, and their scales.
#[derive(Debug)]
pub(super) struct Int8Store {
    /// The packed blocks.
    packed: Buffer<PackedBlock>,
    /// The scales of keys and values, by position.
    scales: Buffer<[[f32; TILE]; 2 * BLOCK / TILE]>,
    head_dim: usize,
    /// Scratch for quantizing a row.
    row: Buffer<i8>,
}

/// Keys and values of one head in one block.
#[derive(Clone, Copy)]
pub(super) struct Int8Block<'a> {
    /// `[BLOCK / TILE]` panels whose rows are positions and columns dimensions.
    pub(super) keys: &'a [PackedBlock],
    /// `[head_dim / TILE]` panels whose rows are dimensions and columns
    /// positions.
    values: &'a [PackedBlock],
    key_scales: &'a [[f32; TILE]],
    value_scales: &'a [[f32; TILE]],
    head_dim: usize,
}

/// Returns the packed blocks per panel of keys.
fn key_panel(head_dim: usize) -> usize {
    head_dim.next_multiple_of(COL_STEP) / BLOCK_COLS
}

/// Packed blocks per panel of values.
const VALUE_PANEL: usize = BLOCK / BLOCK_COLS;

impl Int8Store {
    pub(super) fn new(
        pool: &HybridMemoryPool,
        n_blocks: usize,
        head_dim: usize,
    ) -> Result<Self, OutOfMemory> {
        let len = n_blocks.saturating_mul(Self::packed_len(head_dim));
        Ok(Self {
            packed: pool.zeroed(Category::Kv, len)?,
            scales: pool.zeroed(Category::Kv, n_blocks)?,
            head_dim,
            row: pool.zeroed(Category::Scratch, head_dim)?,
        })
    }

    /// Copies the contents of a store of the same shape.
    pub(super) fn copy_from(&mut self, other: &Self) {
        self.packed.copy_from_slice(&other.packed);
        self.scales.copy_from_slice(&other.scales);
    }

    /// Appends all blocks, and then the scales.
    pub(super) fn write_to(&self, out: &mut Vec<u8>) {
        for block in &self.packed[..] {
            out.extend_from_slice(&block.0);
        }
        append(
            out,
            self.scales.as_flattened().as_flattened(),
            f32::to_le_bytes,
        );
    }

    /// Reads what [`write_to`](Self::write_to) wrote.
    pub(super) fn read_from(&mut self, bytes: &[u8]) {
        let (packed, scales) = bytes.split_at(self.packed.len() * size_of::<PackedBlock>());
        let blocks = packed.chunks_exact(size_of::<PackedBlock>());
        for (block, bytes) in self.packed.iter_mut().zip(blocks) {
            block.0.copy_from_slice(bytes);
        }
        let into = self.scales.as_flattened_mut().as_flattened_mut();
        fill(into, scales, f32::from_le_bytes);
    }

    /// Returns the bytes of one block and its scales.
    pub(super) fn block_bytes(head_dim: usize) -> usize {
        Self::packed_len(head_dim) * size_of::<PackedBlock>() + 2 * BLOCK * size_of::<f32>()
    }

    /// Returns the packed blocks per block of positions.
    fn packed_len(head_dim: usize) -> usize {
        BLOCK / TILE * key_panel(head_dim) + head_dim.div_ceil(TILE) * VALUE_PANEL
    }

    /// Stores one position.
    pub(super) fn set(&mut self, isa: Isa, block: usize, at: usize, kv: KeyValue<'_>) {
        let KeyValue { key, value } = kv;
        let head_dim = self.head_dim;
        let len = Self::packed_len(head_dim);
        let (keys, values) =
            self.packed[block * len..][..len].split_at_mut(BLOCK / TILE * key_panel(head_dim));
        let (key_scales, value_scales) = self.scales[block].split_at_mut(BLOCK / TILE);
        let panel = &mut keys[at / TILE * key_panel(head_dim)..][..key_panel(head_dim)];
        let quantized = &mut self.row;
        key_scales[at / TILE][at % TILE] = int8::quantize_row(isa, key, quantized);
        for (col, &q) in quantized.iter().enumerate() {
            panel[col / BLOCK_COLS].0[at % TILE * BLOCK_COLS + col % BLOCK_COLS] = q as u8;
        }
        value_scales[at / TILE][at % TILE] = int8::quantize_row(isa, value, quantized);
        for (dim, &q) in quantized.iter().enumerate() {
            let panel = &mut values[dim / TILE * VALUE_PANEL..][..VALUE_PANEL];
            panel[at / BLOCK_COLS].0[dim % TILE * BLOCK_COLS + at % BLOCK_COLS] = q as u8;
        }
    }

    pub(super) fn block(&self, block: usize) -> Int8Block<'_> {
        let len = Self::packed_len(self.head_dim);
        let (keys, values) =
            self.packed[block * len..][..len].split_at(BLOCK / TILE * key_panel(self.head_dim));
        let (key_scales, value_scales) = self.scales[block].split_at(BLOCK / TILE);
        Int8Block {
            keys,
            values,
            key_scales,
            value_scales,
            head_dim: self.head_dim,
        }
    }
}

/// Quantized queries, and scratch for weights and sums.
#[derive(Debug)]
pub(super) struct Int8Scratch {
    pub(super) queries: Int8Rows,
    /// Two rows per row of weights: coarse and fine parts.
    weights: Int8Rows,
}

impl Int8Scratch {
    pub(super) fn new(pool: &HybridMemoryPool, head_dim: usize) -> Result<Self, OutOfMemory> {
        Ok(Self {
            queries: Int8Rows::with_capacity(pool, MAX_ROWS, head_dim)?,
            weights: Int8Rows::with_capacity(pool, 2 * MAX_ROWS, BLOCK)?,
        })
    }
}

impl Int8Block<'_> {
    /// Returns the dequantized key and value of a position, `[head_dim]` each.
    pub(super) fn load(self, at: usize) -> (Vec<f32>, Vec<f32>) {
        let byte = |block: &PackedBlock, row: usize, col: usize| {
            block.0[row % TILE * BLOCK_COLS + col % BLOCK_COLS] as i8 as f32
        };
        let (row, col) = (at % TILE, at);
        let keys = &self.keys[at / TILE * key_panel(self.head_dim)..];
        let key_scale = self.key_scales[at / TILE][row];
        let value_scale = self.value_scales[at / TILE][row];
        let key = |dim: usize| byte(&keys[dim / BLOCK_COLS], row, dim) * key_scale;
        let value = |dim: usize| {
            let panel = &self.values[dim / TILE * VALUE_PANEL..];
            byte(&panel[col / BLOCK_COLS], dim, col) * value_scale
        };
        (
            (0..self.head_dim).map(key).collect(),
            (0..self.head_dim).map(value).collect(),
        )
    }

    /// Writes `query · key` for every query and at least the first `n_positions` keys.
    pub(super) fn scores(
        self,
        isa: Isa,
        queries: &Int8Rows,
        n_positions: usize,
        scores: &mut [Scores],
    ) {
        let mut acc = [[0; PANEL_ROWS]; MAX_ROWS];
        let acc = &mut acc[..scores.len()];
        let panels = self.keys.chunks_exact(key_panel(self.head_dim));
        let tiles = panels.zip(self.key_scales).enumerate();
        let ahead = self
            .values
            .chunks(VALUE_PANEL)
            .map(Some)
            .chain(iter::repeat(None));
        let tiles = tiles.zip(ahead);
        for ((tile, (panel, key_scales)), ahead) in tiles.take(n_positions.div_ceil(TILE)) {
            prefetch_all(ahead.unwrap_or_default());
            let operands = Operands {
                blocks: panel,
                acts: queries.view(),
                first: 0,
                first_col: 0,
            };
            isa.int8_panel(operands, acc);
            isa.dispatch(ToScores {
                sums: acc,
                query_scales: queries.scales(),
                key_scales,
                scores,
                tile,
            });
        }
    }
}

impl BlockPass<'_, Int8Block<'_>, PackedBlock> {
    /// Writes `Σ_j weight_j · value_j` over at least the positions of the pass to the rows
    /// of `sums`, `[weights.len()][head_dim / TILE]`.
    ///
    /// Weights are quantized in two parts, since most of them are far below the maximum.
    pub(super) fn weighted_sums(
        self,
        isa: Isa,
        weights: &[Scores],
        scratch: &mut Int8Scratch,
        sums: &mut [[f32; TILE]],
    ) {
        let Self {
            block,
            n_positions,
            ahead,
        } = self;
        let n_cols = n_positions.next_multiple_of(COL_STEP).min(BLOCK);
        let rows = &mut scratch.weights;
        rows.reshape(2 * weights.len(), BLOCK);
        for (r, weights) in weights.iter().enumerate() {
            let mut scaled = [0.0; BLOCK];
            isa.vectorize(Scale {
                weights,
                scales: block.value_scales,
                out: &mut scaled,
            });
            // Scales beyond `n_positions` may be of another sequence, and NaN.
            scaled[n_positions..].fill(0.0);
            rows.quantize_parts(isa, 2 * r, &scaled);
        }
        let width = block.head_dim.div_ceil(TILE);
        let mut acc = [[0; PANEL_ROWS]; 2 * MAX_ROWS];
        let acc = &mut acc[..2 * weights.len()];
        let ahead = ahead
            .chunks(key_panel(block.head_dim))
            .map(Some)
            .chain(iter::repeat(None));
        let panels = block.values.chunks_exact(VALUE_PANEL).zip(ahead);
        for (c, (panel, ahead)) in panels.enumerate() {
            prefetch_all(ahead.unwrap_or_default());
            let panel = &panel[..n_cols / BLOCK_COLS];
            for (i, acc) in acc.chunks_mut(MAX_TILE).enumerate() {
                let operands = Operands {
                    blocks: panel,
                    acts: rows.view(),
                    first: i * MAX_TILE,
                    first_col: 0,
                };
                isa.int8_panel(operands, acc);
            }
            isa.dispatch(ToValues {
                sums: acc,
                scales: rows.scales(),
                values: &mut sums[c..],
                width,
            });
        }
    }
}

/// Prefetches the panel that is read next.
fn prefetch_all(panel: &[PackedBlock]) {
    const { assert!(size_of::<PackedBlock>() == CACHE_LINE) };
    for block in panel {
        prefetch(block);
    }
}

/// Multiplies weights by the scales of their values.
struct Scale<'a> {
    weights: &'a Scores,
    scales: &'a [[f32; TILE]],
    out: &'a mut Scores,
}

impl NullaryFnOnce for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let scales = self.scales.as_flattened();
        for ((out, weight), scale) in self.out.iter_mut().zip(self.weights).zip(scales) {
            *out = weight * scale;
        }
    }
}

/// Dequantizes sums over dimensions to scores.
struct ToScores<'a> {
    sums: &'a [[i32; TILE]],
    query_scales: &'a [f32],
    key_scales: &'a [f32; TILE],
    scores: &'a mut [Scores],
    tile: usize,
}

impl WithSimd for ToScores<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<L: Lanes>(self, lanes: L) {
        let key_scales = lanes.load(self.key_scales);
        let rows = self.sums.iter().zip(self.query_scales).zip(self.scores);
        for ((sums, &query_scale), scores) in rows {
            let scales = lanes.mul(key_scales, lanes.splat(1.0 / query_scale));
            let score = lanes.mul(lanes.load_i32(sums), scales);
            lanes.store(score, &mut scores.as_chunks_mut().0[self.tile]);
        }
    }
}

/// Dequantizes sums over positions, coarse and fine, to values.
struct ToValues<'a> {
    sums: &'a [[i32; TILE]],
    /// The scales of both parts of every row.
    scales: &'a [f32],
    values: &'a mut [[f32; TILE]],
    width: usize,
}

impl WithSimd for ToValues<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<L: Lanes>(self, lanes: L) {
        let (sums, _) = self.sums.as_chunks::<2>();
        let (scales, _) = self.scales.as_chunks::<2>();
        for (r, ([coarse, fine], [_, scale])) in sums.iter().zip(scales).enumerate() {
            // Both are below 2^24, so only their sum is rounded.
            let sum = lanes.mul_add(
                lanes.load_i32(coarse),
                lanes.splat(PART_RADIX),
                lanes.load_i32(fine),
            );
            let value = lanes.mul(sum, lanes.splat(1.0 / scale));
            lanes.store(value, &mut self.values[r * self.width]);
        }
    }
}
