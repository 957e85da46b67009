//! The forward pass: from the `n` tokens of a batch, one per row, to logits.
//!
//! ```text
//! embedding      x = W_embedding[token]            [n, hidden_dim], the residual stream
//!
//! for each layer:
//!   attention    h = rms_norm(x)                   [n, hidden_dim]
//!                q = rope(W_q·h)                   [n, n_heads, head_dim]
//!                k = rope(W_k·h), v = W_v·h        [n, n_kv_heads, head_dim] each, stored
//!                                                  in the KV cache
//!                a = softmax(q·K / √head_dim)·V    [n, n_heads, head_dim]
//!                x += W_o·sub_norm(a)              [n, hidden_dim]
//!   feed-forward h = rms_norm(x)                   [n, hidden_dim]
//!                g = act(W_gate·h) ⊙ W_up·h        [n, ffn_dim]
//!                x += W_down·sub_norm(g)           [n, hidden_dim]
//!
//! head           logits = W_head·rms_norm(x)       [n_requests, vocab_size]
//! ```
//!
//! By family, sub-norms are absent, queries and keys are normalized per head before RoPE,
//! the output of a block is normalized before it is added, or the embedding, the attention
//! scores, the output of a block and the logits have other multipliers.
//!
//! Rows are computed independently, in a fixed order of operations: the logits of a row do
//! not depend on the other rows, the split into passes, or the number of threads.

#[cfg(feature = "gpu")]
pub(crate) mod gpu;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bitnet_core::memory::{Buffer, Category};
use bitnet_core::ops::{self, RopeTable};
use bitnet_core::{
    AttentionExtents, AttentionScratch, ComputeContext, Heads, Isa, KeyValue, Operation,
    PackedInt8, PagedKv, Queries, Shape, ThreadPool, TopKOperands, TopKScratch, attention, lap,
    matmul_rows, top_k_matmul,
};

use crate::format::tensor::DenseTensor;
use crate::kv_cache;
use crate::model::Model;
use crate::model::linear::LinearInput;
use crate::model::packed::Head;
use crate::model::skipping::Skipped;
use crate::pass::{Batch, LogitsRequest, NotFinite};
use crate::plan::{HEAD_ROWS, Plan, PlanError};
use crate::spec::config::{Activation, Config};
use crate::spec::rope::Rope;

/// The embeddings that are read before the pages of their file are released.
const MAX_EMBEDDED: usize = 256;

/// The forward pass on the CPU: the buffers and the threads.
#[derive(Debug)]
pub(crate) struct Forward {
    model: Arc<Model>,
    isa: Isa,
    threads: ThreadPool,
    rope: RopeTable,
    /// The table of the layers with a sliding window.
    sliding_rope: Option<RopeTable>,
    /// The embeddings that were read since the pages of their file were released.
    n_embedded: usize,
    /// The residual stream, `[batch_tokens, hidden_dim]`.
    x: Buffer<f32>,
    /// The output of a block, to be added to `x`, `[batch_tokens, hidden_dim]`.
    branch: Buffer<f32>,
    /// `[batch_tokens, n_heads, head_dim]`
    q: Buffer<f32>,
    /// `[batch_tokens, n_kv_heads, head_dim]`
    k: Buffer<f32>,
    /// `[batch_tokens, n_kv_heads, head_dim]`
    v: Buffer<f32>,
    /// `[batch_tokens, n_heads, head_dim]`
    attn: Buffer<f32>,
    /// `[batch_tokens, ffn_dim]`
    gate: Buffer<f32>,
    /// `[batch_tokens, ffn_dim]`
    up: Buffer<f32>,
    input: LinearInput,
    /// What was not read of each layer.
    skipped: Vec<Skipped>,
    /// One buffer per thread, `[widest]`.
    scratch: Vec<Buffer<f32>>,
    attention: AttentionScratch,
    /// The input of the exact output matrix, `[HEAD_ROWS, hidden_dim]`.
    head_x: Buffer<f32>,
    /// `[HEAD_ROWS, vocab_size]`
    logits: Buffer<f32>,
    top_k: TopKScratch,
}

impl Forward {
    /// Allocates the buffers and starts the threads of a plan.
    pub(crate) fn new(model: Arc<Model>, plan: &Plan) -> Result<Self, PlanError> {
        let (config, pool) = (model.config(), model.pool());
        let scratch = |what, len| {
            let buffer = pool.zeroed::<f32>(Category::Scratch, len);
            buffer.map_err(PlanError::memory(what))
        };
        let activations = |len| scratch("activations", plan.batch_tokens * len);
        let table = |rope: &Rope| {
            let table = rope.table(pool, config.head_dim, plan.context_len);
            table.map_err(PlanError::memory("rotary positions"))
        };
        let top_k = TopKScratch::new(pool, config.head_shape());
        let extents = AttentionExtents {
            n_threads: plan.n_threads,
            max_rows: plan.batch_tokens,
            kv_shape: kv_cache::shape(config, plan.kv_precision),
            n_positions: plan.context_len,
            heads_per_kv_head: config.n_heads / config.n_kv_heads,
        };
        let attention = AttentionScratch::new(pool, extents);
        Ok(Self {
            rope: table(&config.rope)?,
            sliding_rope: match &config.sliding {
                Some(sliding) => Some(table(&sliding.rope)?),
                None => None,
            },
            n_embedded: 0,
            x: activations(config.hidden_dim)?,
            branch: activations(config.hidden_dim)?,
            q: activations(config.q_dim())?,
            k: activations(config.kv_dim())?,
            v: activations(config.kv_dim())?,
            attn: activations(config.q_dim())?,
            gate: activations(config.ffn_dim)?,
            up: activations(config.ffn_dim)?,
            input: LinearInput::new(pool, config, plan.isa, plan.batch_tokens)
                .map_err(PlanError::memory("activations"))?,
            skipped: vec![Skipped::default(); config.n_layers],
            scratch: (0..plan.n_threads)
                .map(|_| scratch("activations", config.widest()))
                .collect::<Result<_, _>>()?,
            attention: attention.map_err(PlanError::memory("attention"))?,
            head_x: scratch("head", HEAD_ROWS * config.hidden_dim)?,
            logits: scratch("logits", HEAD_ROWS * config.vocab_size)?,
            top_k: top_k.map_err(PlanError::memory("head"))?,
            threads: plan.thread_pool()?,
            isa: plan.isa,
            model,
        })
    }

    /// Returns what was not read of each layer since the engine was made.
    pub(crate) fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Computes the rows of a batch, stores their keys and values in the pages of `kv`, which
    /// are reserved, and passes the requested logits to `on_logits(input, token, logits)`.
    pub(crate) fn pass(
        &mut self,
        batch: &Batch,
        kv: &mut PagedKv,
        on_logits: &mut impl FnMut(usize, usize, &[f32]),
    ) -> Result<(), NotFinite> {
        lap(Operation::Other);
        for (row, &token) in batch.tokens.iter().enumerate() {
            self.embedding(row, token)?;
        }
        self.release_embeddings(batch.len());
        lap(Operation::Embedding);
        let positions = batch.rows.iter().map(|row| row.position + 1);
        let len = positions.max().unwrap_or(0);
        self.rope.extend(len);
        if let Some(rope) = &mut self.sliding_rope {
            rope.extend(len);
        }
        lap(Operation::Rotary);
        for layer in 0..self.model.config().n_layers {
            if !self.attention_block(layer, batch, kv) {
                return Err(NotFinite::Attention(layer));
            }
            if !self.ffn_block(layer, batch.len()) {
                return Err(NotFinite::FeedForward(layer));
            }
            self.skipped[layer].add_pass(self.input.take_skipped());
        }
        let runs = batch.requests.chunk_by(|a, b| !a.hidden && !b.hidden);
        for requests in runs.flat_map(|run| run.chunks(HEAD_ROWS)) {
            match requests {
                [request] if request.hidden => self.hidden_state(*request, on_logits)?,
                _ => self.head(requests, on_logits)?,
            }
        }
        Ok(())
    }

    /// Counts embeddings, and releases the pages of their file after [`MAX_EMBEDDED`]. An
    /// access maps 64 KiB, of which a row is a small part: without this, a long text would take
    /// the memory of all rows.
    fn release_embeddings(&mut self, n_tokens: usize) {
        self.n_embedded += n_tokens;
        if self.n_embedded >= MAX_EMBEDDED {
            self.model.packed().release_embedding();
            self.n_embedded = 0;
        }
    }

    /// Writes the embedding of a token, times the model's multiplier, to a row of `x`.
    fn embedding(&mut self, row: usize, token: u32) -> Result<(), NotFinite> {
        let (config, isa) = (self.model.config(), self.isa);
        let hidden = config.hidden_dim;
        let x = &mut self.x[row * hidden..][..hidden];
        (self.model.packed().embedding).decode_row(isa, token as usize, x);
        if !is_finite(isa, x) {
            return Err(NotFinite::Token(token));
        }
        multiply(isa, x, config.multipliers.embedding);
        Ok(())
    }

    /// The attention block:
    /// `x += W_o · sub_norm(attention(rope(W_q·h), rope(W_k·h), W_v·h))`, `h = norm(x)`.
    /// Stores keys and values in the KV cache. Returns whether queries, keys, values, the
    /// attention output, and `x` are [finite](is_finite).
    fn attention_block(&mut self, layer_idx: usize, batch: &Batch, kv: &mut PagedKv) -> bool {
        let (config, isa) = (self.model.config(), self.isa);
        let layer = &self.model.packed().layers[layer_idx];
        let rows = &batch.rows;
        let hidden = config.hidden_dim;
        let (q_dim, kv_dim) = (config.q_dim(), config.kv_dim());
        let (n, eps) = (rows.len(), config.rms_norm_eps);
        let x = &mut self.x[..n * hidden];
        let (q, attn) = (&mut self.q[..n * q_dim], &mut self.attn[..n * q_dim]);
        let (k, v) = (&mut self.k[..n * kv_dim], &mut self.v[..n * kv_dim]);
        let branch = &mut self.branch[..n * hidden];

        let mut ctx = ComputeContext {
            isa,
            threads: &mut self.threads,
            scratch: &mut self.scratch,
        };
        let h = |row: usize, out: &mut [f32]| {
            ops::rms_norm(
                isa,
                &x[row * hidden..][..hidden],
                &layer.attn_norm,
                eps,
                out,
            );
            lap(Operation::Norm);
        };
        let outputs = [
            (Operation::Query, &layer.attn_q, &mut *q),
            (Operation::Key, &layer.attn_k, &mut *k),
            (Operation::Value, &layer.attn_v, &mut *v),
        ];
        let shape = Shape {
            n_rows: n,
            n_cols: hidden,
        };
        self.input.project(&mut ctx, shape, h, outputs);

        let sliding = config.sliding_in(layer_idx);
        let rope = match (&self.sliding_rope, sliding) {
            (Some(rope), Some(_)) => rope,
            _ => &self.rope,
        };
        let finite = AtomicBool::new(true);
        let rotate = |norm: Option<&Buffer<f32>>, row: usize, heads: &mut [f32]| {
            if let Some(weight) = norm {
                ops::rms_norm_each(isa, heads, weight, eps);
                lap(Operation::Norm);
            }
            rope.rotate(isa, rows[row].position, heads);
            lap(Operation::Rotary);
            if !is_finite(isa, heads) {
                finite.store(false, Ordering::Relaxed);
            }
            lap(Operation::Check);
        };
        let [q_norm, k_norm] = layer
            .qk_norms
            .as_ref()
            .map_or([None; 2], |norms| norms.each_ref().map(Some));
        (ctx.threads).for_each_chunk(q, q_dim, ctx.scratch, |_, row, q| rotate(q_norm, row, q));
        (ctx.threads).for_each_chunk(k, kv_dim, ctx.scratch, |_, row, k| rotate(k_norm, row, k));
        let first_head = layer_idx * config.n_kv_heads;
        for (row, (key, value)) in rows.iter().zip(k.chunks(kv_dim).zip(v.chunks(kv_dim))) {
            if !is_finite(isa, value) {
                finite.store(false, Ordering::Relaxed);
            }
            lap(Operation::Check);
            kv.store(isa, *row, first_head, KeyValue { key, value });
            lap(Operation::StoreKv);
        }
        let queries = Queries {
            rows,
            values: q,
            heads: Heads {
                first: first_head,
                n_kv_heads: config.n_kv_heads,
                n_heads: config.n_heads,
                scale: config.multipliers.attention,
                window: sliding.map(|sliding| sliding.window),
            },
        };
        attention(&mut ctx, kv, queries, &mut self.attention, attn);

        let attn = |row: usize, out: &mut [f32]| {
            out.copy_from_slice(&attn[row * q_dim..][..q_dim]);
            if !is_finite(isa, out) {
                finite.store(false, Ordering::Relaxed);
            }
            lap(Operation::Check);
        };
        let outputs = [(Operation::AttentionOutput, &layer.attn_output, &mut *branch)];
        let shape = Shape {
            n_rows: n,
            n_cols: q_dim,
        };
        self.input.project(&mut ctx, shape, attn, outputs);
        let norm = layer.post_norms.as_ref().map(|[norm, _]| norm);
        let is_sum_finite = add_branch(&mut ctx, config, norm, branch, x);
        is_sum_finite && finite.into_inner()
    }

    /// The feed-forward block: `x += W_down · sub_norm(act(W_gate·h) ⊙ W_up·h)`,
    /// `h = norm(x)`. Returns whether the gated values and `x` are [finite](is_finite).
    fn ffn_block(&mut self, layer_idx: usize, n: usize) -> bool {
        let (config, isa) = (self.model.config(), self.isa);
        let layer = &self.model.packed().layers[layer_idx];
        let (hidden, ffn) = (config.hidden_dim, config.ffn_dim);
        let eps = config.rms_norm_eps;
        let x = &mut self.x[..n * hidden];
        let (gate, up) = (&mut self.gate[..n * ffn], &mut self.up[..n * ffn]);
        let branch = &mut self.branch[..n * hidden];

        let mut ctx = ComputeContext {
            isa,
            threads: &mut self.threads,
            scratch: &mut self.scratch,
        };
        let h = |row: usize, out: &mut [f32]| {
            ops::rms_norm(isa, &x[row * hidden..][..hidden], &layer.ffn_norm, eps, out);
            lap(Operation::Norm);
        };
        let shape = Shape {
            n_rows: n,
            n_cols: hidden,
        };
        let finite = AtomicBool::new(true);
        let is_gated = config.activation == Activation::Relu2
            && (self.input).relu2_gated(&mut ctx, shape, h, [&layer.ffn_gate, &layer.ffn_up], gate);
        if !is_gated {
            let outputs = [
                (Operation::Gate, &layer.ffn_gate, &mut *gate),
                (Operation::Up, &layer.ffn_up, &mut *up),
            ];
            self.input.project(&mut ctx, shape, h, outputs);
            // `max(0, NaN)` is 0, so ReLU² hides NaN, which only dense weights can produce.
            let hides = config.dense_linears && config.activation == Activation::Relu2;
            ctx.threads
                .for_each_chunk(gate, ffn, ctx.scratch, |_, row, gate| {
                    let up = &up[row * ffn..][..ffn];
                    if hides && !is_finite(isa, gate) {
                        finite.store(false, Ordering::Relaxed);
                    }
                    lap(Operation::Check);
                    match config.activation {
                        Activation::Relu2 => ops::relu2_mul(isa, gate, up),
                        Activation::Silu => ops::silu_mul(isa, gate, up),
                        Activation::GeluTanh => ops::gelu_tanh_mul(isa, gate, up),
                    }
                    lap(Operation::Activation);
                });
        }
        let gated = |row: usize, out: &mut [f32]| {
            out.copy_from_slice(&gate[row * ffn..][..ffn]);
            if !is_finite(isa, out) {
                finite.store(false, Ordering::Relaxed);
            }
            lap(Operation::Check);
        };
        let outputs = [(Operation::Down, &layer.ffn_down, &mut *branch)];
        let shape = Shape {
            n_rows: n,
            n_cols: ffn,
        };
        self.input.project(&mut ctx, shape, gated, outputs);
        let norm = layer.post_norms.as_ref().map(|[_, norm]| norm);
        let is_sum_finite = add_branch(&mut ctx, config, norm, branch, x);
        is_sum_finite && finite.into_inner()
    }

    /// Passes the hidden state of a row, `norm(x)`, `[hidden_dim]`, to `on_logits`.
    fn hidden_state(
        &mut self,
        request: LogitsRequest,
        on_logits: &mut impl FnMut(usize, usize, &[f32]),
    ) -> Result<(), NotFinite> {
        let config = self.model.config();
        let hidden = config.hidden_dim;
        let x = &self.x[request.row * hidden..][..hidden];
        let out = &mut self.head_x[..hidden];
        let (weight, eps) = (&self.model.packed().output_norm, config.rms_norm_eps);
        lap(Operation::Other);
        ops::rms_norm(self.isa, x, weight, eps, out);
        lap(Operation::Norm);
        if !is_finite(self.isa, out) {
            return Err(NotFinite::Head);
        }
        lap(Operation::Check);
        on_logits(request.input, request.token, out);
        lap(Operation::Sampling);
        Ok(())
    }

    /// Passes `logits = W_head · norm(x)`, `[vocab_size]`, of each request to `on_logits`; at
    /// most [`HEAD_ROWS`](crate::plan::HEAD_ROWS) requests.
    fn head(
        &mut self,
        requests: &[LogitsRequest],
        on_logits: &mut impl FnMut(usize, usize, &[f32]),
    ) -> Result<(), NotFinite> {
        let (config, isa) = (self.model.config(), self.isa);
        let (hidden, vocab, n) = (config.hidden_dim, config.vocab_size, requests.len());
        let mut ctx = ComputeContext {
            isa,
            threads: &mut self.threads,
            scratch: &mut self.scratch,
        };
        let x = &self.x;
        let norm = |i: usize, out: &mut [f32]| {
            let x = &x[requests[i].row * hidden..][..hidden];
            let weight = &self.model.packed().output_norm;
            ops::rms_norm(isa, x, weight, config.rms_norm_eps, out);
            lap(Operation::Norm);
        };
        let (logits, rest) = self.logits.split_at_mut(n * vocab);
        let mut exact = |matrix: &DenseTensor, bound: Option<(&PackedInt8, usize)>| {
            let head_x = &mut self.head_x[..n * hidden];
            for (i, out) in head_x.chunks_exact_mut(hidden).enumerate() {
                norm(i, out);
            }
            let decode_row = |row, out: &mut [f32]| matrix.decode_row(isa, row, out);
            if let Some((int8, k)) = bound {
                let (top_k, products) = (&mut self.top_k, &mut rest[..2 * vocab]);
                let operands = TopKOperands {
                    int8,
                    decode_row,
                    x: head_x,
                    k,
                };
                top_k_matmul(&mut ctx, operands, top_k, products, logits);
            } else {
                matmul_rows(&mut ctx, matrix.shape(), decode_row, head_x, logits);
            }
        };
        let shape = Shape {
            n_rows: n,
            n_cols: hidden,
        };
        match &self.model.packed().head {
            Head::Exact(matrix) => exact(matrix, None),
            // Several rows share one pass over the whole matrix.
            Head::ExactTopK { matrix, int8 } => match requests {
                [LogitsRequest { top: Some(k), .. }] => exact(matrix, Some((int8, *k))),
                _ => exact(matrix, None),
            },
            Head::Int8(matrix) => {
                let acts = self.input.set_ternary(&mut ctx, shape, norm);
                matrix.matmul(&mut ctx, acts, logits);
            }
            Head::Ternary(matrix) => {
                let acts = self.input.set_ternary(&mut ctx, shape, norm);
                matrix.matmul(&mut ctx, acts, logits);
            }
        }
        multiply(isa, logits, config.multipliers.logits);
        lap(Operation::Head);
        for (request, logits) in requests.iter().zip(logits.chunks_exact(vocab)) {
            // Logits that top-k matmul skips are minus infinity; it never skips all.
            let left_out = match (&self.model.packed().head, request.top) {
                (Head::ExactTopK { .. }, Some(_)) => f32::NEG_INFINITY,
                _ => f32::NAN,
            };
            let is_number = |logit: &f32| logit.is_finite() || *logit == left_out;
            // Counting vectorizes; an early exit does not.
            let n_bad = logits.iter().filter(|logit| !is_number(logit)).count();
            if n_bad > 0 || logits.iter().all(|logit| *logit == left_out) {
                return Err(NotFinite::Head);
            }
            lap(Operation::Check);
            on_logits(request.input, request.token, logits);
            lap(Operation::Sampling);
        }
        Ok(())
    }
}

/// Adds the output of a block to the residual stream, both `[n_rows, hidden_dim]`, after the
/// post-norm and the residual multiplier, if any. Returns whether the sums are
/// [finite](is_finite).
fn add_branch(
    ctx: &mut ComputeContext<'_>,
    config: &Config,
    norm: Option<&Buffer<f32>>,
    branch: &mut [f32],
    x: &mut [f32],
) -> bool {
    let finite = AtomicBool::new(true);
    let (isa, hidden, eps) = (ctx.isa, config.hidden_dim, config.rms_norm_eps);
    let factor = config.multipliers.residual;
    if norm.is_some() || factor != 1.0 {
        (ctx.threads).for_each_chunk(branch, hidden, ctx.scratch, |_, _, branch| {
            if let Some(weight) = norm {
                ops::rms_norm_each(isa, branch, weight, eps);
                lap(Operation::Norm);
            }
            multiply(isa, branch, factor);
            lap(Operation::Residual);
        });
    }
    ctx.threads
        .for_each_chunk(x, hidden, ctx.scratch, |_, row, x| {
            ops::add_assign(isa, x, &branch[row * hidden..][..hidden]);
            lap(Operation::Residual);
            if !is_finite(isa, x) {
                finite.store(false, Ordering::Relaxed);
            }
            lap(Operation::Check);
        });
    finite.into_inner()
}

/// Multiplies by a factor, which is 1 in most models.
fn multiply(isa: Isa, x: &mut [f32], factor: f32) {
    if factor != 1.0 {
        ops::scale(isa, x, factor);
    }
}

/// Returns whether the sum of the squares of all values is finite. Quantization and
/// normalization turn non-finite values into 0, which would hide them.
fn is_finite(isa: Isa, values: &[f32]) -> bool {
    ops::dot(isa, values, values).is_finite()
}

#[cfg(test)]
pub(crate) mod tests;
