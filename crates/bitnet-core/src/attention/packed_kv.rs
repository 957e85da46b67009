//! Keys and values of past positions in the layout that attention reads.

use half::slice::HalfFloatSliceExt;

use super::block::FloatBlock;
use super::int8::{Int8Block, Int8Store};
use super::{BLOCK, TILE};
use crate::kernel::Kernel;
use crate::memory::{Buffer, Category, HybridMemoryPool, OutOfMemory};

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvPrecision {
    /// As computed.
    F32,
    /// Rounded to f16, ties to even; beyond its range, to its ends.
    #[default]
    F16,
    /// Int8 with one scale for the key and one for the value of a position of a
    /// head; queries and weights are quantized too.
    Int8,
}

/// Extents of a [`PackedKv`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Sequences side by side.
    pub n_sequences: usize,
    /// Positions of a sequence; kept in whole blocks of 128.
    pub n_positions: usize,
    /// Key and value heads of all layers together.
    pub n_heads: usize,
    /// Values of a key or a value.
    pub head_dim: usize,
}

/// Keys and values, `[n_sequences][n_positions / 128][n_heads]` blocks.
///
/// A block holds 128 positions of one head. Its keys stand in tiles of sixteen
/// positions side by side, `[8][head_dim][16]`; its values by position,
/// `[128][head_dim]`, filled up to a multiple of sixteen. Int8 keys and values
/// stand like the weights of [`PackedInt8`](crate::PackedInt8): positions are
/// the rows of the matrix of keys and the columns of that of values.
///
/// Memory is touched position by position, so what is not used costs nothing.
#[derive(Debug)]
pub struct PackedKv {
    shape: KvShape,
    data: Data,
}

#[derive(Debug)]
enum Data {
    F32(Buffer<[f32; TILE]>),
    F16(Buffer<[u16; TILE]>),
    Int8(Int8Store),
}

/// One block, in its precision.
pub(super) enum Block<'a> {
    F32(FloatBlock<'a, f32>),
    F16(FloatBlock<'a, u16>),
    Int8(Int8Block<'a>),
}

impl PackedKv {
    /// Takes memory for a shape.
    pub fn new(
        pool: &HybridMemoryPool,
        precision: KvPrecision,
        shape: KvShape,
    ) -> Result<Self, OutOfMemory> {
        let n_blocks = shape.n_blocks();
        let len = n_blocks.saturating_mul(shape.tiles_per_block());
        let data = match precision {
            KvPrecision::F32 => Data::F32(pool.zeroed(Category::Kv, len)?),
            KvPrecision::F16 => Data::F16(pool.zeroed(Category::Kv, len)?),
            KvPrecision::Int8 => Data::Int8(Int8Store::new(pool, n_blocks, shape.head_dim)?),
        };
        Ok(Self { shape, data })
    }

    /// Returns the bytes that a shape takes.
    pub fn n_bytes(precision: KvPrecision, shape: KvShape) -> usize {
        (shape.n_blocks()).saturating_mul(shape.block_bytes(precision))
    }

    /// Returns the bytes of one position of one sequence, all heads together.
    pub fn n_bytes_per_position(precision: KvPrecision, shape: KvShape) -> usize {
        shape.n_heads * shape.block_bytes(precision) / BLOCK
    }

    /// Returns the precision.
    pub fn precision(&self) -> KvPrecision {
        match self.data {
            Data::F32(_) => KvPrecision::F32,
            Data::F16(_) => KvPrecision::F16,
            Data::Int8(_) => KvPrecision::Int8,
        }
    }

    /// Returns the shape.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Stores one position of a sequence for the heads from `first_head` on:
    /// `keys` and `values` are `[heads, head_dim]`.
    ///
    /// # Panics
    ///
    /// Panics if the position or a head is out of range, or the values are not
    /// whole heads.
    pub fn store(
        &mut self,
        kernel: Kernel,
        (sequence, position): (usize, usize),
        first_head: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        let KvShape {
            n_positions,
            head_dim,
            ..
        } = self.shape;
        assert!(position < n_positions, "the position is within the context");
        assert!(
            keys.len() == values.len() && keys.len().is_multiple_of(head_dim),
            "whole heads"
        );
        let heads = keys
            .chunks_exact(head_dim)
            .zip(values.chunks_exact(head_dim));
        for (i, (key, value)) in heads.enumerate() {
            let block = self.shape.block(sequence, position / BLOCK, first_head + i);
            let len = self.shape.tiles_per_block();
            let at = position % BLOCK;
            match &mut self.data {
                Data::F32(data) => {
                    store_position(&mut data[block * len..][..len], at, key, value, |x, out| {
                        out.copy_from_slice(x);
                    });
                }
                Data::F16(data) => {
                    store_position(&mut data[block * len..][..len], at, key, value, to_f16);
                }
                Data::Int8(store) => store.set(kernel, block, at, key, value),
            }
        }
    }

    /// Returns block `index` of a head of a sequence.
    pub(super) fn block(&self, sequence: usize, index: usize, head: usize) -> Block<'_> {
        let block = self.shape.block(sequence, index, head);
        let len = self.shape.tiles_per_block();
        let n_keys = BLOCK / TILE * self.shape.head_dim;
        match &self.data {
            Data::F32(data) => {
                let (keys, values) = data[block * len..][..len].split_at(n_keys);
                Block::F32(FloatBlock { keys, values })
            }
            Data::F16(data) => {
                let (keys, values) = data[block * len..][..len].split_at(n_keys);
                Block::F16(FloatBlock { keys, values })
            }
            Data::Int8(store) => Block::Int8(store.block(block)),
        }
    }
}

impl KvShape {
    /// Blocks of a sequence and head.
    pub(super) fn blocks_per_head(self) -> usize {
        self.n_positions.div_ceil(BLOCK)
    }

    fn n_blocks(self) -> usize {
        self.n_sequences
            .saturating_mul(self.blocks_per_head())
            .saturating_mul(self.n_heads)
    }

    /// Groups of sixteen values in a block of floats.
    fn tiles_per_block(self) -> usize {
        BLOCK / TILE * self.head_dim + BLOCK * self.head_dim.div_ceil(TILE)
    }

    fn block_bytes(self, precision: KvPrecision) -> usize {
        match precision {
            KvPrecision::F32 => self.tiles_per_block() * TILE * size_of::<f32>(),
            KvPrecision::F16 => self.tiles_per_block() * TILE * size_of::<u16>(),
            KvPrecision::Int8 => Int8Store::block_bytes(self.head_dim),
        }
    }

    /// Returns the number of a block.
    fn block(self, sequence: usize, index: usize, head: usize) -> usize {
        assert!(
            sequence < self.n_sequences && index < self.blocks_per_head() && head < self.n_heads,
            "the block is within the shape"
        );
        (sequence * self.blocks_per_head() + index) * self.n_heads + head
    }
}

/// Writes one position of a block of floats; `convert` writes values as they are
/// stored.
fn store_position<E: Copy + Default>(
    block: &mut [[E; TILE]],
    at: usize,
    key: &[f32],
    value: &[f32],
    convert: impl Fn(&[f32], &mut [E]),
) {
    let (keys, values) = block.split_at_mut(BLOCK / TILE * key.len());
    let tile = &mut keys[at / TILE * key.len()..][..key.len()];
    let mut converted = [E::default(); TILE];
    for (out, key) in tile.chunks_mut(TILE).zip(key.chunks(TILE)) {
        convert(key, &mut converted[..key.len()]);
        for (out, &key) in out.iter_mut().zip(&converted) {
            out[at % TILE] = key;
        }
    }
    let width = value.len().div_ceil(TILE);
    let out = &mut values[at * width..][..width];
    for (out, value) in out.iter_mut().zip(value.chunks(TILE)) {
        convert(value, &mut out[..value.len()]);
    }
}

/// Writes the bits of the nearest f16.
fn to_f16(x: &[f32], out: &mut [u16]) {
    let max = half::f16::MAX.to_f32_const();
    let mut clamped = [0.0; TILE];
    let mut rounded = [half::f16::ZERO; TILE];
    for (clamped, x) in clamped.iter_mut().zip(x) {
        *clamped = x.clamp(-max, max);
    }
    rounded.convert_from_f32_slice(&clamped);
    for (out, rounded) in out.iter_mut().zip(rounded) {
        *out = rounded.to_bits();
    }
}
