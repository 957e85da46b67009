//! Keys and values of the positions seen so far.

use crate::model::config::Config;
use crate::plan::{Plan, PlanError, zeroed};

/// Keys and values in f32, of several sequences side by side.
///
/// `[n_layers, n_sequences, n_kv_heads, context_len, head_dim]`: the positions
/// of one head follow each other, as attention reads them.
#[derive(Debug)]
pub(crate) struct KvCache {
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Positions that each sequence holds.
    lens: Vec<usize>,
    n_kv_heads: usize,
    head_dim: usize,
    context_len: usize,
}

impl KvCache {
    pub(crate) fn new(config: &Config, plan: &Plan) -> Result<Self, PlanError> {
        let len = Self::n_values(config, plan.n_sequences, plan.context_len);
        Ok(Self {
            keys: zeroed("keys", len)?,
            values: zeroed("values", len)?,
            lens: vec![0; plan.n_sequences],
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            context_len: plan.context_len,
        })
    }

    /// Returns the bytes of keys and values together.
    pub(crate) fn n_bytes(config: &Config, n_sequences: usize, context_len: usize) -> usize {
        Self::n_values(config, n_sequences, context_len).saturating_mul(2 * size_of::<f32>())
    }

    fn n_values(config: &Config, n_sequences: usize, context_len: usize) -> usize {
        (config.n_layers * config.kv_dim())
            .saturating_mul(n_sequences)
            .saturating_mul(context_len)
    }

    /// Returns the positions that a sequence holds.
    pub(crate) fn len(&self, sequence: usize) -> usize {
        self.lens[sequence]
    }

    /// Sets the positions that a sequence holds; their keys and values have
    /// been stored, in every layer.
    pub(crate) fn set_len(&mut self, sequence: usize, len: usize) {
        debug_assert!(len <= self.context_len);
        self.lens[sequence] = len;
    }

    /// Stores one position: `key` and `value` are `[n_kv_heads, head_dim]`.
    pub(crate) fn store(
        &mut self,
        layer: usize,
        sequence: usize,
        position: usize,
        key: &[f32],
        value: &[f32],
    ) {
        for head in 0..self.n_kv_heads {
            let at = self.start(layer, sequence, head) + position * self.head_dim;
            let from = head * self.head_dim..(head + 1) * self.head_dim;
            self.keys[at..at + self.head_dim].copy_from_slice(&key[from.clone()]);
            self.values[at..at + self.head_dim].copy_from_slice(&value[from]);
        }
    }

    /// Returns keys and values of the first `len` positions of one head,
    /// `[len, head_dim]` each.
    pub(crate) fn head(
        &self,
        layer: usize,
        sequence: usize,
        head: usize,
        len: usize,
    ) -> (&[f32], &[f32]) {
        let start = self.start(layer, sequence, head);
        let range = start..start + len * self.head_dim;
        (&self.keys[range.clone()], &self.values[range])
    }

    fn start(&self, layer: usize, sequence: usize, head: usize) -> usize {
        ((layer * self.lens.len() + sequence) * self.n_kv_heads + head)
            * self.context_len
            * self.head_dim
    }
}
