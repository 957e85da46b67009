//! Keys and values of past positions in the layout that attention reads.

use half::slice::HalfFloatSliceExt;

use super::block::FloatBlock;
use super::int8::{Int8Block, Int8Store};
use super::{BLOCK, TILE};
use crate::isa::Isa;
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

/// Extents of the keys and values of a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// How they are kept.
    pub precision: KvPrecision,
    /// Key and value heads of all layers together.
    pub n_heads: usize,
    /// Values of a key or a value.
    pub head_dim: usize,
}

/// Keys and values of one position.
#[derive(Clone, Copy, Debug)]
pub struct KeyValue<'a> {
    /// `[heads, head_dim]`
    pub key: &'a [f32],
    /// `[heads, head_dim]`
    pub value: &'a [f32],
}

/// Keys and values of 128 positions that follow each other, `[n_heads]` blocks.
///
/// The keys of a block stand in tiles of sixteen positions side by side,
/// `[8][head_dim][16]`; its values by position, `[128][head_dim]`, filled up to a
/// multiple of sixteen. Int8 keys and values stand like the weights of
/// [`PackedInt8`](crate::PackedInt8): positions are the rows of the matrix of
/// keys and the columns of that of values.
#[derive(Debug)]
pub struct KvPage {
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
pub(super) enum KvBlock<'a> {
    F32(FloatBlock<'a, f32>),
    F16(FloatBlock<'a, u16>),
    Int8(Int8Block<'a>),
}

impl KvPage {
    /// Positions of a page: one block of attention, so that pages change neither
    /// what is summed nor in which order.
    pub const POSITIONS: usize = BLOCK;

    /// Takes memory for a page.
    pub fn new(pool: &HybridMemoryPool, shape: KvShape) -> Result<Self, OutOfMemory> {
        let len = shape.n_heads.saturating_mul(shape.tiles_per_block());
        let data = match shape.precision {
            KvPrecision::F32 => Data::F32(pool.zeroed(Category::Kv, len)?),
            KvPrecision::F16 => Data::F16(pool.zeroed(Category::Kv, len)?),
            KvPrecision::Int8 => Data::Int8(Int8Store::new(pool, shape.n_heads, shape.head_dim)?),
        };
        Ok(Self { shape, data })
    }

    /// Takes memory for a copy.
    pub fn copy(&self, pool: &HybridMemoryPool) -> Result<Self, OutOfMemory> {
        let mut copy = Self::new(pool, self.shape)?;
        match (&mut copy.data, &self.data) {
            (Data::F32(copy), Data::F32(data)) => copy.copy_from_slice(data),
            (Data::F16(copy), Data::F16(data)) => copy.copy_from_slice(data),
            (Data::Int8(copy), Data::Int8(store)) => copy.copy_from(store),
            _ => unreachable!("both have the same precision"),
        }
        Ok(copy)
    }

    /// Returns the extents of its positions.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Stores position `at` of the page for the heads from `first_head` on.
    ///
    /// # Panics
    ///
    /// Panics if the position or a head is out of range, or the values are not
    /// whole heads.
    pub fn store(&mut self, isa: Isa, at: usize, first_head: usize, kv: KeyValue<'_>) {
        let head_dim = self.shape.head_dim;
        assert!(at < BLOCK, "the position is within the page");
        assert!(
            kv.key.len() == kv.value.len() && kv.key.len().is_multiple_of(head_dim),
            "whole heads"
        );
        let len = self.shape.tiles_per_block();
        let heads = (kv.key)
            .chunks_exact(head_dim)
            .zip(kv.value.chunks_exact(head_dim));
        for (head, (key, value)) in (first_head..).zip(heads) {
            assert!(head < self.shape.n_heads, "the head is within the shape");
            match &mut self.data {
                Data::F32(data) => {
                    store_position(&mut data[head * len..][..len], at, key, value, |x, out| {
                        out.copy_from_slice(x);
                    });
                }
                Data::F16(data) => {
                    store_position(&mut data[head * len..][..len], at, key, value, to_f16);
                }
                Data::Int8(store) => store.set(isa, head, at, KeyValue { key, value }),
            }
        }
    }

    /// Returns key and value of position `at` of a head as they are kept: rounded.
    ///
    /// # Panics
    ///
    /// Panics if the position or the head is out of range.
    pub fn load(&self, at: usize, head: usize) -> (Vec<f32>, Vec<f32>) {
        assert!(at < BLOCK && head < self.shape.n_heads, "within the page");
        let head_dim = self.shape.head_dim;
        match self.block(head) {
            KvBlock::F32(block) => load_position(block, at, head_dim, |x| x),
            KvBlock::F16(block) => {
                load_position(block, at, head_dim, |x| half::f16::from_bits(x).to_f32())
            }
            KvBlock::Int8(block) => block.load(at),
        }
    }

    /// Returns the block of a head.
    pub(super) fn block(&self, head: usize) -> KvBlock<'_> {
        let len = self.shape.tiles_per_block();
        let n_keys = BLOCK / TILE * self.shape.head_dim;
        match &self.data {
            Data::F32(data) => {
                let (keys, values) = data[head * len..][..len].split_at(n_keys);
                KvBlock::F32(FloatBlock { keys, values })
            }
            Data::F16(data) => {
                let (keys, values) = data[head * len..][..len].split_at(n_keys);
                KvBlock::F16(FloatBlock { keys, values })
            }
            Data::Int8(store) => KvBlock::Int8(store.block(head)),
        }
    }
}

impl KvShape {
    /// Returns the bytes of a page.
    pub fn page_bytes(self) -> usize {
        let block = match self.precision {
            KvPrecision::F32 => self.tiles_per_block() * TILE * size_of::<f32>(),
            KvPrecision::F16 => self.tiles_per_block() * TILE * size_of::<u16>(),
            KvPrecision::Int8 => Int8Store::block_bytes(self.head_dim),
        };
        self.n_heads.saturating_mul(block)
    }

    /// Groups of sixteen values in a block of floats.
    fn tiles_per_block(self) -> usize {
        BLOCK / TILE * self.head_dim + BLOCK * self.head_dim.div_ceil(TILE)
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

/// Returns one position of a block of floats; `convert` is the inverse of
/// [`store_position`]'s.
fn load_position<E: Copy>(
    block: FloatBlock<'_, E>,
    at: usize,
    head_dim: usize,
    convert: impl Fn(E) -> f32,
) -> (Vec<f32>, Vec<f32>) {
    let keys = &block.keys[at / TILE * head_dim..][..head_dim];
    let width = head_dim.div_ceil(TILE);
    let values = block.values[at * width..][..width].as_flattened();
    (
        keys.iter().map(|key| convert(key[at % TILE])).collect(),
        values[..head_dim]
            .iter()
            .map(|&value| convert(value))
            .collect(),
    )
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
