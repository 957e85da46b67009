//! The layout of the KV cache: pages of keys and values.

use half::slice::HalfFloatSliceExt;

use super::block::FloatBlock;
use super::int8::{Int8Block, Int8Store};
use super::{BLOCK, TILE};
use crate::isa::Isa;
use crate::memory::{Buffer, Category, HybridMemoryPool, OutOfMemory};

/// The storage precision of keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvPrecision {
    /// f32, unrounded.
    F32,
    /// f16, rounded to nearest even and saturated to the finite range.
    #[default]
    F16,
    /// Int8 with one scale per position and head for the key and one for the value; queries
    /// and softmax weights are quantized too.
    Int8,
}

/// The shape of the keys and values of a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// The storage precision.
    pub precision: KvPrecision,
    /// The number of KV heads of all layers.
    pub n_heads: usize,
    /// The number of elements of a key or a value.
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

/// Keys and values of 128 consecutive positions, `[n_heads]` blocks.
///
/// The keys of a block are stored in tiles of sixteen interleaved positions,
/// `[8][head_dim][16]`; its values by position, `[128][head_dim]`, with `head_dim` padded
/// to a multiple of sixteen. Int8 keys and values are packed like the weights of
/// [`PackedInt8`](crate::PackedInt8): positions are the rows of the key matrix and the
/// columns of the value matrix.
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

/// One block in its storage precision.
pub(super) enum KvBlock<'a> {
    F32(FloatBlock<'a, f32>),
    F16(FloatBlock<'a, u16>),
    Int8(Int8Block<'a>),
}

impl KvPage {
    /// Positions per page: one block of attention, so that paging does not change the order
    /// of summation.
    pub const POSITIONS: usize = BLOCK;

    /// Allocates a zeroed page.
    ///
    /// # Errors
    ///
    /// Returns an error if the system is out of memory.
    pub fn new(pool: &HybridMemoryPool, shape: KvShape) -> Result<Self, OutOfMemory> {
        let len = shape.n_heads.saturating_mul(shape.tiles_per_block());
        let data = match shape.precision {
            KvPrecision::F32 => Data::F32(pool.zeroed(Category::Kv, len)?),
            KvPrecision::F16 => Data::F16(pool.zeroed(Category::Kv, len)?),
            KvPrecision::Int8 => Data::Int8(Int8Store::new(pool, shape.n_heads, shape.head_dim)?),
        };
        Ok(Self { shape, data })
    }

    /// Allocates a copy of the page.
    ///
    /// # Errors
    ///
    /// Returns an error if the system is out of memory.
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

    /// Appends the contents of the page to `out`: [`KvShape::page_bytes`] bytes, the same on
    /// every machine.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        match &self.data {
            Data::F32(data) => append(out, data.as_flattened(), f32::to_le_bytes),
            Data::F16(data) => append(out, data.as_flattened(), u16::to_le_bytes),
            Data::Int8(store) => store.write_to(out),
        }
    }

    /// Allocates a page with contents that [`write_to`](Self::write_to) wrote. They are not
    /// checked: any bytes are a page of some values.
    ///
    /// # Errors
    ///
    /// Returns an error if the system is out of memory.
    ///
    /// # Panics
    ///
    /// Panics if there are not [`KvShape::page_bytes`] bytes.
    pub fn read_from(
        pool: &HybridMemoryPool,
        shape: KvShape,
        bytes: &[u8],
    ) -> Result<Self, OutOfMemory> {
        assert_eq!(bytes.len(), shape.page_bytes(), "the bytes of a page");
        let mut page = Self::new(pool, shape)?;
        match &mut page.data {
            Data::F32(data) => fill(data.as_flattened_mut(), bytes, f32::from_le_bytes),
            Data::F16(data) => fill(data.as_flattened_mut(), bytes, u16::from_le_bytes),
            Data::Int8(store) => store.read_from(bytes),
        }
        Ok(page)
    }

    /// Returns the shape of its positions.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Stores position `at` of the page for the heads from `first_head` on.
    ///
    /// # Panics
    ///
    /// Panics if the position or a head is out of range, or the values are not whole heads.
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

    /// Returns the key and value of position `at` of a head, dequantized, `[head_dim]`
    /// each.
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
    /// Returns the size of a page in bytes.
    pub fn page_bytes(self) -> usize {
        let block = match self.precision {
            KvPrecision::F32 => self.tiles_per_block() * TILE * size_of::<f32>(),
            KvPrecision::F16 => self.tiles_per_block() * TILE * size_of::<u16>(),
            KvPrecision::Int8 => Int8Store::block_bytes(self.head_dim),
        };
        self.n_heads.saturating_mul(block)
    }

    /// Returns the tiles of sixteen elements per float block.
    fn tiles_per_block(self) -> usize {
        BLOCK / TILE * self.head_dim + BLOCK * self.head_dim.div_ceil(TILE)
    }
}

/// Appends the bytes of elements.
pub(super) fn append<E: Copy, const N: usize>(
    out: &mut Vec<u8>,
    elements: &[E],
    to_bytes: impl Fn(E) -> [u8; N],
) {
    let start = out.len();
    out.resize(start + elements.len() * N, 0);
    let chunks = out[start..].as_chunks_mut().0.iter_mut();
    for (chunk, element) in chunks.zip(elements) {
        *chunk = to_bytes(*element);
    }
}

/// Reads elements from their bytes.
pub(super) fn fill<E, const N: usize>(
    elements: &mut [E],
    bytes: &[u8],
    from_bytes: impl Fn([u8; N]) -> E,
) {
    let chunks = bytes.as_chunks().0.iter();
    for (element, chunk) in elements.iter_mut().zip(chunks) {
        *element = from_bytes(*chunk);
    }
}

/// Stores one position of a float block; `convert` encodes values.
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

/// Returns the key and value of one position of a float block; `convert` decodes an
/// element.
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

/// Encodes values as f16; see [`KvPrecision::F16`].
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
