//! The model, from a token to its logits: embedding, in each layer an attention and a
//! feed-forward block, head.
//!
//! Every row of a batch is computed by itself, in a fixed order of operations,
//! so its logits depend neither on the other rows, nor on how a prompt was cut
//! into passes, nor on the number of threads.

use std::sync::atomic::{AtomicBool, Ordering};

use bitnet_core::memory::Buffer;
use bitnet_core::{Isa, PackedInt8, attention, matmul_rows, ops, top_k_matmul};

use crate::engine::{Engine, LogitsRequest, NotFinite};
use crate::format::tensor::DenseTensor;
use crate::model::Head;
use crate::model::linear::ComputeContext;
use crate::spec::config::{Activation, Config};

impl Engine {
    /// `x = W_embedding[token]`, one row of the batch, which may be multiplied.
    pub(crate) fn embedding(&mut self, row: usize, token: u32) -> Result<(), NotFinite> {
        let (config, isa) = (self.model.config(), self.plan.isa);
        let hidden = config.hidden_dim;
        let x = &mut self.x[row * hidden..][..hidden];
        (self.model.embedding).decode_row(isa, token as usize, x);
        if !is_finite(isa, x) {
            return Err(NotFinite::Token(token));
        }
        multiply(isa, x, config.multipliers.embedding);
        Ok(())
    }

    /// `x += W_o · norm(attention(rope(W_q·h), rope(W_k·h), W_v·h))`, `h = norm(x)`; what
    /// is added may be normalized and multiplied before. Returns whether queries, keys,
    /// values, what attention made of them, and the sums can be computed with.
    pub(crate) fn attention_block(&mut self, layer_idx: usize) -> bool {
        let (config, isa) = (self.model.config(), self.plan.isa);
        let layer = &self.model.layers[layer_idx];
        let rows = &self.rows;
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
            values: &mut self.values,
        };
        let h = |row: usize, out: &mut [f32]| {
            ops::rms_norm(
                isa,
                &x[row * hidden..][..hidden],
                &layer.attn_norm,
                eps,
                out,
            );
        };
        let outputs = [
            (&layer.attn_q, &mut *q),
            (&layer.attn_k, &mut *k),
            (&layer.attn_v, &mut *v),
        ];
        self.input.project(&mut ctx, (n, hidden), eps, h, outputs);

        let sliding = config.sliding_in(layer_idx);
        let rope = match (&self.sliding_rope, sliding) {
            (Some(rope), Some(_)) => rope,
            _ => &self.rope,
        };
        let finite = AtomicBool::new(true);
        let rotate = |norm: Option<&Buffer<f32>>, row: usize, heads: &mut [f32]| {
            if let Some(weight) = norm {
                ops::rms_norm_each(isa, heads, weight, eps);
            }
            rope.rotate(isa, rows[row].position, heads);
            if !is_finite(isa, heads) {
                finite.store(false, Ordering::Relaxed);
            }
        };
        let [q_norm, k_norm] = layer
            .qk_norms
            .as_ref()
            .map_or([None; 2], |norms| norms.each_ref().map(Some));
        (ctx.threads).for_each_chunk(q, q_dim, ctx.values, |_, row, q| rotate(q_norm, row, q));
        (ctx.threads).for_each_chunk(k, kv_dim, ctx.values, |_, row, k| rotate(k_norm, row, k));
        for (row, (k, v)) in k.chunks(kv_dim).zip(v.chunks(kv_dim)).enumerate() {
            let place = (rows[row].sequence, rows[row].position);
            if !is_finite(isa, v) {
                finite.store(false, Ordering::Relaxed);
            }
            self.kv.store(isa, layer_idx, place, k, v);
        }
        let (kv, mut heads) = (self.kv.paged(), self.kv.heads(layer_idx));
        heads.window = sliding.map(|sliding| sliding.window);
        let (threads, scratch) = (&mut *ctx.threads, &mut self.attention);
        attention(isa, threads, kv, heads, rows, q, scratch, attn);

        let attn = |row: usize, out: &mut [f32]| {
            out.copy_from_slice(&attn[row * q_dim..][..q_dim]);
            if !is_finite(isa, out) {
                finite.store(false, Ordering::Relaxed);
            }
        };
        let outputs = [(&layer.attn_output, &mut *branch)];
        self.input.project(&mut ctx, (n, q_dim), eps, attn, outputs);
        let norm = layer.post_norms.as_ref().map(|[norm, _]| norm);
        add_branch(&mut ctx, config, norm, branch, x, &finite);
        finite.into_inner()
    }

    /// `x += W_down · norm(act(W_gate·h) ⊙ W_up·h)`, `h = norm(x)`; what is added may be
    /// normalized and multiplied before. Returns whether all that is gated, and the sums,
    /// can be computed with.
    pub(crate) fn ffn_block(&mut self, layer_idx: usize) -> bool {
        let (config, isa) = (self.model.config(), self.plan.isa);
        let layer = &self.model.layers[layer_idx];
        let (hidden, ffn) = (config.hidden_dim, config.ffn_dim);
        let (n, eps) = (self.rows.len(), config.rms_norm_eps);
        let x = &mut self.x[..n * hidden];
        let (gate, up) = (&mut self.gate[..n * ffn], &mut self.up[..n * ffn]);
        let branch = &mut self.branch[..n * hidden];

        let mut ctx = ComputeContext {
            isa,
            threads: &mut self.threads,
            values: &mut self.values,
        };
        let h = |row: usize, out: &mut [f32]| {
            ops::rms_norm(isa, &x[row * hidden..][..hidden], &layer.ffn_norm, eps, out);
        };
        let outputs = [(&layer.ffn_gate, &mut *gate), (&layer.ffn_up, &mut *up)];
        self.input.project(&mut ctx, (n, hidden), eps, h, outputs);
        let finite = AtomicBool::new(true);
        // Its maximum with 0 hides what is not a number, which only dense weights make.
        let hides = config.dense_linears && config.activation == Activation::Relu2;
        ctx.threads
            .for_each_chunk(gate, ffn, ctx.values, |_, row, gate| {
                let up = &up[row * ffn..][..ffn];
                if hides && !is_finite(isa, gate) {
                    finite.store(false, Ordering::Relaxed);
                }
                match config.activation {
                    Activation::Relu2 => ops::relu2_mul(isa, gate, up),
                    Activation::Silu => ops::silu_mul(isa, gate, up),
                    Activation::GeluTanh => ops::gelu_tanh_mul(isa, gate, up),
                }
            });
        let gated = |row: usize, out: &mut [f32]| {
            out.copy_from_slice(&gate[row * ffn..][..ffn]);
            if !is_finite(isa, out) {
                finite.store(false, Ordering::Relaxed);
            }
        };
        let outputs = [(&layer.ffn_down, &mut *branch)];
        self.input.project(&mut ctx, (n, ffn), eps, gated, outputs);
        let norm = layer.post_norms.as_ref().map(|[_, norm]| norm);
        add_branch(&mut ctx, config, norm, branch, x, &finite);
        finite.into_inner()
    }

    /// `norm(x)` of one row.
    pub(crate) fn hidden_state(
        &mut self,
        row: usize,
        request: LogitsRequest,
        on_logits: &mut impl FnMut(usize, usize, &[f32]),
    ) -> Result<(), NotFinite> {
        let config = self.model.config();
        let hidden = config.hidden_dim;
        let x = &self.x[row * hidden..][..hidden];
        let out = &mut self.head_x[..hidden];
        let (weight, eps) = (&self.model.output_norm, config.rms_norm_eps);
        ops::rms_norm(self.plan.isa, x, weight, eps, out);
        if !is_finite(self.plan.isa, out) {
            return Err(NotFinite::Head);
        }
        on_logits(request.input, request.token, out);
        Ok(())
    }

    /// `logits = W_head · norm(x)` of at most [`HEAD_ROWS`](crate::plan::HEAD_ROWS) rows.
    pub(crate) fn head(
        &mut self,
        requests: &[(usize, LogitsRequest)],
        on_logits: &mut impl FnMut(usize, usize, &[f32]),
    ) -> Result<(), NotFinite> {
        let (config, isa) = (self.model.config(), self.plan.isa);
        let (hidden, vocab, n) = (config.hidden_dim, config.vocab_size, requests.len());
        let (x, threads, scratch) = (&self.x, &mut self.threads, &mut self.values);
        let norm = |i: usize, out: &mut [f32]| {
            let x = &x[requests[i].0 * hidden..][..hidden];
            let weight = &self.model.output_norm;
            ops::rms_norm(isa, x, weight, config.rms_norm_eps, out);
        };
        let (logits, rest) = self.logits.split_at_mut(n * vocab);
        let mut exact = |matrix: &DenseTensor, bound: Option<(&PackedInt8, usize)>| {
            let head_x = &mut self.head_x[..n * hidden];
            for (i, out) in head_x.chunks_exact_mut(hidden).enumerate() {
                norm(i, out);
            }
            let row = |row, out: &mut [f32]| matrix.decode_row(isa, row, out);
            if let Some((int8, k)) = bound {
                let (top_k, products) = (&mut self.top_k, &mut rest[..2 * vocab]);
                top_k_matmul(
                    isa, threads, int8, head_x, k, row, scratch, top_k, products, logits,
                );
            } else {
                matmul_rows(isa, threads, scratch, (vocab, hidden), row, head_x, logits);
            }
        };
        match &self.model.head {
            Head::Exact(matrix) => exact(matrix, None),
            // Several rows share the reading of the whole matrix.
            Head::ExactTopK { matrix, int8 } => match requests {
                [(_, LogitsRequest { top: Some(k), .. })] => exact(matrix, Some((int8, *k))),
                _ => exact(matrix, None),
            },
            Head::Int8(matrix) => {
                let mut ctx = ComputeContext {
                    isa,
                    threads,
                    values: scratch,
                };
                let acts = self.input.set_ternary(&mut ctx, (n, hidden), norm);
                matrix.matmul(isa, ctx.threads, acts, logits);
            }
            Head::Ternary(matrix) => {
                let mut ctx = ComputeContext {
                    isa,
                    threads,
                    values: scratch,
                };
                let acts = self.input.set_ternary(&mut ctx, (n, hidden), norm);
                matrix.matmul(isa, ctx.threads, acts, logits);
            }
        }
        multiply(isa, logits, config.multipliers.logits);
        for ((_, request), logits) in requests.iter().zip(logits.chunks_exact(vocab)) {
            // Minus infinity is what the int8 bound leaves out; it never leaves out all.
            let left_out = match (&self.model.head, request.top) {
                (Head::ExactTopK { .. }, Some(_)) => f32::NEG_INFINITY,
                _ => f32::NAN,
            };
            let is_number = |logit: &f32| logit.is_finite() || *logit == left_out;
            // Counted, since that takes whole vectors.
            let n_bad = logits.iter().filter(|logit| !is_number(logit)).count();
            if n_bad > 0 || logits.iter().all(|logit| *logit == left_out) {
                return Err(NotFinite::Head);
            }
            on_logits(request.input, request.token, logits);
        }
        Ok(())
    }
}
/// Adds a branch to the residual stream, `[rows, hidden_dim]` both, and normalizes and
/// multiplies it before if the model does.
fn add_branch(
    ctx: &mut ComputeContext<'_>,
    config: &Config,
    norm: Option<&Buffer<f32>>,
    branch: &mut [f32],
    x: &mut [f32],
    finite: &AtomicBool,
) {
    let (isa, hidden, eps) = (ctx.isa, config.hidden_dim, config.rms_norm_eps);
    let factor = config.multipliers.residual;
    if norm.is_some() || factor != 1.0 {
        (ctx.threads).for_each_chunk(branch, hidden, ctx.values, |_, _, branch| {
            if let Some(weight) = norm {
                ops::rms_norm_each(isa, branch, weight, eps);
            }
            multiply(isa, branch, factor);
        });
    }
    ctx.threads
        .for_each_chunk(x, hidden, ctx.values, |_, row, x| {
            ops::add_assign(isa, x, &branch[row * hidden..][..hidden]);
            if !is_finite(isa, x) {
                finite.store(false, Ordering::Relaxed);
            }
        });
}

/// Multiplies with a factor that is 1 in most models.
fn multiply(isa: Isa, x: &mut [f32], factor: f32) {
    if factor != 1.0 {
        ops::scale(isa, x, factor);
    }
}

/// Returns whether all values and their squares are finite numbers: what is not becomes
/// 0 where activations are quantized or normalized, and would be seen no more.
fn is_finite(isa: Isa, values: &[f32]) -> bool {
    ops::dot(isa, values, values).is_finite()
}

#[cfg(test)]
mod tests;
