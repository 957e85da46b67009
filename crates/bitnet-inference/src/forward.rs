//! Tokens to logits.
//!
//! [`Engine::forward`] reads as the model does: embedding, layers, head. All
//! buffers are taken when the engine is made; a pass takes nothing but pages of keys
//! and values, one in 128 positions of a sequence, and what it notes of its tokens.
//!
//! Every row of a batch is computed by itself, in a fixed order of operations,
//! so its logits depend neither on the other rows, nor on how a prompt was cut
//! into passes, nor on the number of threads.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bitnet_core::memory::{Buffer, Category};
use bitnet_core::ops::{self, RopeTable};
use bitnet_core::{
    AttentionScratch, Isa, PackedInt8, QueryRow, ThreadPool, TopKScratch, attention, matmul_rows,
    top_k_matmul,
};

use crate::format::checkpoint::DenseTensor;
use crate::format::mapping::Changed;
use crate::kv_cache::{KvCache, KvUsage, SequenceError, SequenceHandle};
use crate::model::config::{Activation, Config, Pooling};
use crate::model::linear::{ComputeContext, LinearInput};
use crate::model::rope::Rope;
use crate::model::{Embedding, Head, Model, not_finite};
use crate::note::Note;
use crate::plan::{HEAD_ROWS, Plan, PlanError};

/// Runs a model: keys and values of its sequences, buffers, and threads.
#[derive(Debug)]
pub struct Engine {
    model: Arc<Model>,
    plan: Plan,
    threads: ThreadPool,
    rope: RopeTable,
    /// That of the layers with a sliding window.
    sliding_rope: Option<RopeTable>,
    kv: KvCache,
    /// Where the rows of the present batch stand.
    rows: Vec<QueryRow>,
    /// Tokens of the present inputs that sequences hold already.
    n_pushed: usize,
    /// For each row, where its logits go if they are requested.
    requests: Vec<Option<LogitsRequest>>,
    /// The residual stream, `[batch_tokens, hidden_dim]`.
    x: Buffer<f32>,
    /// What a block adds to it, `[batch_tokens, hidden_dim]`.
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
    /// `[n_threads][widest]`
    values: Vec<Buffer<f32>>,
    attention: AttentionScratch,
    /// The input of the exact head, `[HEAD_ROWS, hidden_dim]`.
    head_x: Buffer<f32>,
    /// `[HEAD_ROWS, vocab_size]`
    logits: Buffer<f32>,
    top_k: TopKScratch,
}

/// Tokens that continue a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Which sequence, from 0 to `Plan::n_sequences - 1`.
    pub sequence: usize,
    /// The tokens.
    pub tokens: &'a [u32],
    /// Which of them need logits.
    pub logits: Logits,
}

/// A request for logits.
#[derive(Clone, Copy, Debug, Default)]
struct LogitsRequest {
    input: usize,
    /// Index of the token in the input.
    token: usize,
    /// How many of the largest, if not all.
    top: Option<usize>,
    /// The hidden state instead.
    hidden: bool,
}

/// Which positions need logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// No position: the tokens are only remembered.
    None,
    /// The last position.
    Last,
    /// Every position.
    All,
    /// The last position: at least its `k` largest logits. Others may be minus
    /// infinity instead; the model's head may be faster so.
    Top(usize),
    /// The last position: not logits but what they are computed from, the
    /// normalized hidden state of `hidden_dim` values.
    Hidden,
}

impl Engine {
    /// Takes memory and starts threads as planned.
    pub fn new(model: Arc<Model>, plan: Plan) -> Result<Self, PlanError> {
        let (config, pool) = (model.config(), model.pool());
        let scratch = |what, len| {
            let buffer = pool.zeroed::<f32>(Category::Scratch, len);
            buffer.map_err(PlanError::memory(what))
        };
        let activations = |len| scratch("activations", plan.batch_tokens * len);
        let extents = (plan.n_sequences, plan.context_len);
        let kv = KvCache::new(pool, config, plan.kv_precision, extents, plan.kv_pages);
        let table = |rope: &Rope| {
            let table = rope.table(pool, config.head_dim, plan.context_len);
            table.map_err(PlanError::memory("rotary positions"))
        };
        let top_k = TopKScratch::new(pool, config.vocab_size, config.hidden_dim);
        let attention = AttentionScratch::new(
            pool,
            plan.n_threads,
            plan.batch_tokens,
            (kv.paged().shape(), plan.context_len),
            config.n_heads / config.n_kv_heads,
        );
        Ok(Self {
            kv,
            rope: table(&config.rope)?,
            sliding_rope: match &config.sliding {
                Some(sliding) => Some(table(&sliding.rope)?),
                None => None,
            },
            rows: Vec::with_capacity(plan.batch_tokens),
            n_pushed: 0,
            requests: Vec::with_capacity(plan.batch_tokens),
            x: activations(config.hidden_dim)?,
            branch: activations(config.hidden_dim)?,
            q: activations(config.q_dim())?,
            k: activations(config.kv_dim())?,
            v: activations(config.kv_dim())?,
            attn: activations(config.q_dim())?,
            gate: activations(config.ffn_dim)?,
            up: activations(config.ffn_dim)?,
            input: LinearInput::new(pool, config, plan.batch_tokens)?,
            values: (0..plan.n_threads)
                .map(|_| scratch("activations", config.widest()))
                .collect::<Result<_, _>>()?,
            attention: attention.map_err(PlanError::memory("attention"))?,
            head_x: scratch("head", HEAD_ROWS * config.hidden_dim)?,
            logits: scratch("logits", HEAD_ROWS * config.vocab_size)?,
            top_k: top_k.map_err(PlanError::memory("head"))?,
            threads: plan.thread_pool()?,
            plan,
            model,
        })
    }

    /// Returns the plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Returns the model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Returns the positions that a sequence holds.
    ///
    /// # Panics
    ///
    /// Panics if there is no such sequence.
    pub fn len(&self, sequence: usize) -> usize {
        self.kv.len(sequence)
    }

    /// Returns whether a sequence holds no position.
    ///
    /// # Panics
    ///
    /// Panics if there is no such sequence.
    pub fn is_empty(&self, sequence: usize) -> bool {
        self.len(sequence) == 0
    }

    /// Returns the tokens of the positions that a sequence holds.
    ///
    /// # Panics
    ///
    /// Panics if there is no such sequence.
    pub fn tokens(&self, sequence: usize) -> &[u32] {
        self.kv.tokens(sequence)
    }

    /// Forgets all positions of a sequence from `len` on.
    ///
    /// # Panics
    ///
    /// Panics if there is no such sequence.
    pub fn truncate(&mut self, sequence: usize, len: usize) {
        self.kv.truncate(sequence, len);
    }

    /// Begins a sequence for a prompt, with what others hold of its beginning:
    /// continue it by the tokens from [`SequenceHandle::n_reused`] on. Memory for
    /// `max_len` positions is kept free for it: up to there it is not refused any.
    ///
    /// Sequences that are used by number, without this, need not be started; they
    /// are not among those that are given.
    ///
    /// # Errors
    ///
    /// Returns an error if no sequence or not enough memory is left. Sequences that
    /// run are not disturbed.
    pub fn start(
        &mut self,
        prompt: &[u32],
        max_len: usize,
    ) -> Result<SequenceHandle, SequenceError> {
        self.kv.start(prompt, max_len)
    }

    /// Begins a sequence that holds what another one does, and returns which it
    /// is. They share memory until one of them writes.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    ///
    /// # Panics
    ///
    /// Panics if there is no such sequence.
    pub fn fork(&mut self, sequence: usize, max_len: usize) -> Result<usize, SequenceError> {
        self.kv.fork(sequence, max_len)
    }

    /// Ends a sequence, whether it is complete or not, and gives back the memory
    /// that no other shares.
    ///
    /// # Panics
    ///
    /// Panics if there is no such sequence.
    pub fn finish(&mut self, sequence: usize) {
        self.kv.finish(sequence);
    }

    /// Returns what keys and values take.
    pub fn kv_usage(&self) -> KvUsage {
        self.kv.usage()
    }

    /// Continues sequences by tokens and hands the wanted logits to
    /// `on_logits(input, token, logits)`: index of the input, index of the token
    /// in it, and `[vocab_size]` values.
    ///
    /// Inputs may be of any length; they are cut into passes of
    /// [`Plan::batch_tokens`].
    ///
    /// # Errors
    ///
    /// The sequences hold what they held before if there is an error. One that is
    /// found while computing, [`ForwardError::NotFinite`] or
    /// [`ForwardError::Overflow`], may come after logits of earlier positions.
    pub fn forward(
        &mut self,
        inputs: &[Input<'_>],
        mut on_logits: impl FnMut(usize, usize, &[f32]),
    ) -> Result<(), ForwardError> {
        self.validate(inputs)?;
        if let Some(Changed { file }) = self.model.changed() {
            return Err(ForwardError::Changed {
                file: file.display().to_string(),
            });
        }
        let growth = inputs.iter().enumerate().filter_map(|(i, input)| {
            let same = |other: &&Input<'_>| other.sequence == input.sequence;
            let n_new = inputs.iter().filter(same).map(|input| input.tokens.len());
            let is_first = inputs[..i].iter().all(|other| !same(&other));
            is_first.then(|| (input.sequence, n_new.sum()))
        });
        self.kv.reserve(growth)?;
        let computed = self.compute(inputs, &mut on_logits);
        if computed.is_err() {
            // What was computed of these inputs is forgotten.
            let mut n_pushed = self.n_pushed;
            for input in inputs {
                let n = n_pushed.min(input.tokens.len());
                n_pushed -= n;
                let len = self.kv.len(input.sequence) - n;
                self.kv.truncate(input.sequence, len);
            }
        }
        computed.map_err(|place| self.cause(place))
    }

    /// Computes inputs that were checked, pass by pass.
    fn compute(
        &mut self,
        inputs: &[Input<'_>],
        on_logits: &mut impl FnMut(usize, usize, &[f32]),
    ) -> Result<(), NotFinite> {
        self.rows.clear();
        self.requests.clear();
        self.n_pushed = 0;
        for (input_idx, input) in inputs.iter().enumerate() {
            for (token_idx, &token) in input.tokens.iter().enumerate() {
                let is_last = token_idx + 1 == input.tokens.len();
                let (is_requested, top) = match input.logits {
                    Logits::None => (false, None),
                    Logits::Last | Logits::Hidden => (is_last, None),
                    Logits::All => (true, None),
                    Logits::Top(k) => (is_last, Some(k)),
                };
                let request = LogitsRequest {
                    input: input_idx,
                    token: token_idx,
                    top,
                    hidden: input.logits == Logits::Hidden,
                };
                self.push_row(input.sequence, token, is_requested.then_some(request))?;
                if self.rows.len() == self.plan.batch_tokens {
                    self.pass(on_logits)?;
                }
            }
        }
        if !self.rows.is_empty() {
            self.pass(on_logits)?;
        }
        Ok(())
    }

    /// Returns what made a value of the computation no finite number: the first weight
    /// that is none, or else only where it was found.
    fn cause(&self, place: NotFinite) -> ForwardError {
        let isa = self.plan.isa;
        if let (NotFinite::Token(token), Embedding::Dense(matrix)) = (place, &self.model.embedding)
        {
            let error = not_finite(matrix, isa, token as usize).to_string();
            return ForwardError::NotFinite { error };
        }
        if let Some(error) = self.model.first_not_finite(isa) {
            let error = error.to_string();
            return ForwardError::NotFinite { error };
        }
        let mut notes = self.model.notes().iter();
        ForwardError::Overflow {
            place: place.to_string(),
            extreme: notes.find_map(|note| match note {
                Note::Extreme { .. } => Some(note.to_string()),
                _ => None,
            }),
        }
    }

    /// Returns the embedding of a text: the hidden state of its last token, scaled to
    /// length 1. Sequence 0 is forgotten.
    ///
    /// # Errors
    ///
    /// There must be tokens, no more than the context holds, and the model must not ask
    /// for another pooling.
    pub fn embed(&mut self, tokens: &[u32]) -> Result<Vec<f32>, ForwardError> {
        if let Some(Pooling::Other(number)) = self.model.config().pooling {
            return Err(ForwardError::Pooling { number });
        }
        if tokens.is_empty() {
            return Err(ForwardError::NoTokens);
        }
        self.truncate(0, 0);
        let input = Input {
            sequence: 0,
            tokens,
            logits: Logits::Hidden,
        };
        let mut embedding = Vec::new();
        self.forward(&[input], |_, _, hidden| embedding.extend_from_slice(hidden))?;
        self.truncate(0, 0);
        let length = ops::dot(self.plan.isa, &embedding, &embedding).sqrt();
        if length == 0.0 {
            return Err(ForwardError::ZeroEmbedding);
        }
        for x in &mut embedding {
            *x /= length;
        }
        Ok(embedding)
    }

    fn validate(&self, inputs: &[Input<'_>]) -> Result<(), ForwardError> {
        let vocab_size = self.model.config().vocab_size;
        for (i, input) in inputs.iter().enumerate() {
            if input.sequence >= self.plan.n_sequences {
                return Err(ForwardError::Sequence {
                    sequence: input.sequence,
                    n_sequences: self.plan.n_sequences,
                });
            }
            if let Some(&id) = input.tokens.iter().find(|&&id| id as usize >= vocab_size) {
                return Err(ForwardError::Token { id, vocab_size });
            }
            let same = |other: &&Input<'_>| other.sequence == input.sequence;
            let n_new: usize = (inputs[..=i].iter().filter(same))
                .map(|input| input.tokens.len())
                .sum();
            let needed = self.kv.len(input.sequence) + n_new;
            if needed > self.plan.context_len {
                return Err(ForwardError::ContextFull {
                    needed,
                    context_len: self.plan.context_len,
                });
            }
        }
        Ok(())
    }

    /// Adds a token to the batch: its embedding becomes a row of `x`.
    fn push_row(
        &mut self,
        sequence: usize,
        token: u32,
        request: Option<LogitsRequest>,
    ) -> Result<(), NotFinite> {
        let hidden = self.model.config().hidden_dim;
        let x = &mut self.x[self.rows.len() * hidden..][..hidden];
        (self.model.embedding).decode_row(self.plan.isa, token as usize, x);
        if !is_finite(self.plan.isa, x) {
            return Err(NotFinite::Token(token));
        }
        multiply(self.plan.isa, x, self.model.config().multipliers.embedding);
        let position = self.kv.len(sequence);
        self.kv.push(sequence, token);
        self.n_pushed += 1;
        self.rope.extend(position + 1);
        if let Some(rope) = &mut self.sliding_rope {
            rope.extend(position + 1);
        }
        self.rows.push(QueryRow { sequence, position });
        self.requests.push(request);
        Ok(())
    }

    /// Computes the rows of the batch and empties it.
    fn pass(&mut self, on_logits: &mut impl FnMut(usize, usize, &[f32])) -> Result<(), NotFinite> {
        for layer in 0..self.model.layers.len() {
            if !self.attention_block(layer) {
                return Err(NotFinite::Attention(layer));
            }
            if !self.ffn_block(layer) {
                return Err(NotFinite::FeedForward(layer));
            }
        }
        let mut requests = [(0, LogitsRequest::default()); HEAD_ROWS];
        let mut n_requests = 0;
        for row in 0..self.rows.len() {
            match self.requests[row] {
                Some(place) if place.hidden => self.hidden_state(row, place, on_logits)?,
                Some(place) => {
                    requests[n_requests] = (row, place);
                    n_requests += 1;
                }
                None => {}
            }
            if n_requests == HEAD_ROWS || (n_requests > 0 && row + 1 == self.rows.len()) {
                self.head(&requests[..n_requests], on_logits)?;
                n_requests = 0;
            }
        }
        self.rows.clear();
        self.requests.clear();
        Ok(())
    }

    /// `x += W_o · norm(attention(rope(W_q·h), rope(W_k·h), W_v·h))`, `h = norm(x)`; what
    /// is added may be normalized and multiplied before. Returns whether queries, keys,
    /// values, what attention made of them, and the sums can be computed with.
    fn attention_block(&mut self, layer_idx: usize) -> bool {
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
    fn ffn_block(&mut self, layer_idx: usize) -> bool {
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
    fn hidden_state(
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

    /// `logits = W_head · norm(x)` of at most [`HEAD_ROWS`] rows.
    fn head(
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

/// Returns whether all values and their squares are finite numbers: what is not becomes
/// 0 where activations are quantized or normalized, and would be seen no more.
fn is_finite(isa: Isa, values: &[f32]) -> bool {
    ops::dot(isa, values, values).is_finite()
}

/// Where a value was found that is no finite number.
#[derive(Clone, Copy, Debug)]
enum NotFinite {
    /// In the embedding of a token.
    Token(u32),
    /// In what attention of a layer computed.
    Attention(usize),
    /// In what the feed-forward network of a layer computed, or added.
    FeedForward(usize),
    /// In the logits or the hidden state.
    Head,
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(token) => write!(f, "the embedding of token {token}"),
            Self::Attention(layer) => write!(f, "the attention of layer {layer}"),
            Self::FeedForward(layer) => write!(f, "the feed-forward network of layer {layer}"),
            Self::Head => f.write_str("the logits"),
        }
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

/// Why tokens cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// A weight is no number that can be computed with.
    #[error("the weights cannot be computed with: {error}")]
    NotFinite {
        /// The first tensor with such a value, and where in it.
        error: String,
    },
    /// No weight is to blame alone, but what is computed exceeds what f32 holds.
    #[error(
        "values are too large to compute with, first in {place}, though every weight is finite{}",
        extreme.as_ref().map_or(String::new(), |extreme| format!(": {extreme}"))
    )]
    Overflow {
        /// Where it was found: a part of a layer, or the logits.
        place: String,
        /// The first tensor with a scale or norm that no trained model has, if any has.
        extreme: Option<String>,
    },
    /// The hidden state has no direction.
    #[error("the hidden state is zero, which makes no embedding")]
    ZeroEmbedding,
    /// The model's file was shortened or written to.
    #[error("{file} was changed while it was in use")]
    Changed {
        /// The file.
        file: String,
    },
    /// There is no such sequence.
    #[error("there is no sequence {sequence}, only {n_sequences}")]
    Sequence {
        /// The one asked for.
        sequence: usize,
        /// Number of sequences.
        n_sequences: usize,
    },
    /// There is no such token.
    #[error("token {id} is not in the vocabulary of {vocab_size} tokens")]
    Token {
        /// The id.
        id: u32,
        /// Number of tokens.
        vocab_size: usize,
    },
    /// There is nothing to embed.
    #[error("there are no tokens to embed")]
    NoTokens,
    /// The embedding is made in a way that is not implemented.
    #[error(
        "the model pools hidden states in way {number} of GGUF files, only 3 (the last token) is implemented"
    )]
    Pooling {
        /// `pooling_type` of the file.
        number: u64,
    },
    /// A sequence would exceed the context.
    #[error("{needed} tokens do not fit into the context of {context_len}")]
    ContextFull {
        /// Positions that the sequence would have.
        needed: usize,
        /// Positions that it can have.
        context_len: usize,
    },
    /// A sequence cannot grow.
    #[error(transparent)]
    Grow(#[from] SequenceError),
}

#[cfg(test)]
mod tests;
