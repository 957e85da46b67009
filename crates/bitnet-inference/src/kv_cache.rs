//! Keys and values of the positions seen so far.

use bitnet_core::{Heads, HybridMemoryPool, Kernel, KvPrecision, KvShape, OutOfMemory, PackedKv};

use crate::model::config::Config;

/// Keys and values of several sequences side by side, and how many positions
/// each of them holds.
#[derive(Debug)]
pub(crate) struct KvCache {
    packed: PackedKv,
    lens: Vec<usize>,
    /// The heads of the first layer.
    heads: Heads,
    n_positions: usize,
}

/// Returns the extents of a cache.
pub(crate) fn shape(config: &Config, n_sequences: usize, context_len: usize) -> KvShape {
    KvShape {
        n_sequences,
        n_positions: context_len,
        n_heads: config.n_layers * config.n_kv_heads,
        head_dim: config.head_dim,
    }
}

impl KvCache {
    pub(crate) fn new(
        pool: &HybridMemoryPool,
        config: &Config,
        precision: KvPrecision,
        (n_sequences, context_len): (usize, usize),
    ) -> Result<Self, OutOfMemory> {
        let shape = shape(config, n_sequences, context_len);
        Ok(Self {
            packed: PackedKv::new(pool, precision, shape)?,
            lens: vec![0; n_sequences],
            heads: Heads {
                first: 0,
                n_kv_heads: config.n_kv_heads,
                n_heads: config.n_heads,
            },
            n_positions: context_len,
        })
    }

    /// Returns the positions that a sequence holds.
    pub(crate) fn len(&self, sequence: usize) -> usize {
        self.lens[sequence]
    }

    /// Sets the positions that a sequence holds; their keys and values have
    /// been stored, in every layer.
    pub(crate) fn set_len(&mut self, sequence: usize, len: usize) {
        debug_assert!(len <= self.n_positions);
        self.lens[sequence] = len;
    }

    /// Stores one position of a sequence: `key` and `value` are
    /// `[n_kv_heads, head_dim]`.
    pub(crate) fn store(
        &mut self,
        kernel: Kernel,
        layer: usize,
        place: (usize, usize),
        key: &[f32],
        value: &[f32],
    ) {
        let first = self.heads(layer).first;
        self.packed.store(kernel, place, first, key, value);
    }

    /// Returns the keys and values of all layers.
    pub(crate) fn packed(&self) -> &PackedKv {
        &self.packed
    }

    /// Returns which of them are a layer's.
    pub(crate) fn heads(&self, layer: usize) -> Heads {
        Heads {
            first: layer * self.heads.n_kv_heads,
            ..self.heads
        }
    }
}
