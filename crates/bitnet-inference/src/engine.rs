//! Sequences of tokens, cut into batches that the model computes.
//!
//! All buffers are taken when the engine is made; a pass takes nothing but pages of keys
//! and values, one in 128 positions of a sequence, and what it notes of its tokens.

use std::fmt;
use std::sync::Arc;

use bitnet_core::memory::{Buffer, Category};
use bitnet_core::ops::{self, RopeTable};
use bitnet_core::{
    AttentionExtents, AttentionScratch, ComputeContext, HybridMemoryPool, RowPosition, ThreadPool,
    TopKScratch,
};

use crate::format::checkpoint::{Checkpoint, CheckpointError};
use crate::format::mapping::Changed;
use crate::kv_cache::{Growth, KvCache, KvCacheOptions, KvUsage, SequenceError, SequenceHandle};
use crate::logits::Logits;
use crate::model::linear::LinearInput;
use crate::model::{Embedding, Model, Packing, not_finite};
use crate::note::Note;
use crate::plan::{HEAD_ROWS, Plan, PlanError, PlanOptions};
use crate::spec::config::Pooling;
use crate::spec::rope::Rope;

/// Runs a model: keys and values of its sequences, buffers, and threads.
#[derive(Debug)]
pub struct Engine {
    pub(crate) model: Arc<Model>,
    pub(crate) plan: Plan,
    pub(crate) threads: ThreadPool,
    pub(crate) rope: RopeTable,
    /// That of the layers with a sliding window.
    pub(crate) sliding_rope: Option<RopeTable>,
    pub(crate) kv: KvCache,
    /// Where the rows of the present batch stand.
    pub(crate) rows: Vec<RowPosition>,
    /// Tokens of the present inputs that sequences hold already.
    pub(crate) n_pushed: usize,
    /// For each row, where its logits go if they are requested.
    pub(crate) requests: Vec<Option<LogitsRequest>>,
    /// The residual stream, `[batch_tokens, hidden_dim]`.
    pub(crate) x: Buffer<f32>,
    /// What a block adds to it, `[batch_tokens, hidden_dim]`.
    pub(crate) branch: Buffer<f32>,
    /// `[batch_tokens, n_heads, head_dim]`
    pub(crate) q: Buffer<f32>,
    /// `[batch_tokens, n_kv_heads, head_dim]`
    pub(crate) k: Buffer<f32>,
    /// `[batch_tokens, n_kv_heads, head_dim]`
    pub(crate) v: Buffer<f32>,
    /// `[batch_tokens, n_heads, head_dim]`
    pub(crate) attn: Buffer<f32>,
    /// `[batch_tokens, ffn_dim]`
    pub(crate) gate: Buffer<f32>,
    /// `[batch_tokens, ffn_dim]`
    pub(crate) up: Buffer<f32>,
    pub(crate) input: LinearInput,
    /// `[n_threads][widest]`
    pub(crate) scratch: Vec<Buffer<f32>>,
    pub(crate) attention: AttentionScratch,
    /// The input of the exact head, `[HEAD_ROWS, hidden_dim]`.
    pub(crate) head_x: Buffer<f32>,
    /// `[HEAD_ROWS, vocab_size]`
    pub(crate) logits: Buffer<f32>,
    pub(crate) top_k: TopKScratch,
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
pub(crate) struct LogitsRequest {
    /// The row of the batch.
    pub(crate) row: usize,
    pub(crate) input: usize,
    /// Index of the token in the input.
    pub(crate) token: usize,
    /// How many of the largest, if not all.
    pub(crate) top: Option<usize>,
    /// The hidden state instead.
    pub(crate) hidden: bool,
}

impl Engine {
    /// Plans, reads all weights of a checkpoint, and makes an engine: the short way where
    /// nothing else shares the model or its pool of memory.
    pub fn load(checkpoint: &Checkpoint, options: PlanOptions) -> Result<Self, LoadError> {
        let plan = Plan::new(checkpoint.config(), options)?;
        let (pool, packing) = (HybridMemoryPool::new(), Packing::default());
        let mut threads = plan.thread_pool()?;
        let ctx = &mut ComputeContext::new(plan.isa, &mut threads);
        let model = Model::load(checkpoint, &pool, ctx, packing, |_, _| ())?;
        drop(threads);
        Ok(Self::new(Arc::new(model), plan)?)
    }

    /// Takes memory and starts threads as planned.
    pub fn new(model: Arc<Model>, plan: Plan) -> Result<Self, PlanError> {
        let (config, pool) = (model.config(), model.pool());
        let scratch = |what, len| {
            let buffer = pool.zeroed::<f32>(Category::Scratch, len);
            buffer.map_err(PlanError::memory(what))
        };
        let activations = |len| scratch("activations", plan.batch_tokens * len);
        let options = KvCacheOptions {
            precision: plan.kv_precision,
            n_sequences: plan.n_sequences,
            context_len: plan.context_len,
            max_pages: plan.kv_pages,
        };
        let kv = KvCache::new(pool, config, options);
        let table = |rope: &Rope| {
            let table = rope.table(pool, config.head_dim, plan.context_len);
            table.map_err(PlanError::memory("rotary positions"))
        };
        let top_k = TopKScratch::new(pool, config.head_shape());
        let extents = AttentionExtents {
            n_threads: plan.n_threads,
            max_rows: plan.batch_tokens,
            kv_shape: kv.paged().shape(),
            n_positions: plan.context_len,
            heads_per_kv_head: config.n_heads / config.n_kv_heads,
        };
        let attention = AttentionScratch::new(pool, extents);
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
            input: LinearInput::new(pool, config, plan.batch_tokens)
                .map_err(PlanError::memory("activations"))?,
            scratch: (0..plan.n_threads)
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
            is_first.then(|| Growth {
                sequence: input.sequence,
                n_new: n_new.sum(),
            })
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
                    row: self.rows.len(),
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
        self.embedding(self.rows.len(), token)?;
        let position = self.kv.len(sequence);
        self.kv.push(sequence, token);
        self.n_pushed += 1;
        self.rope.extend(position + 1);
        if let Some(rope) = &mut self.sliding_rope {
            rope.extend(position + 1);
        }
        self.rows.push(RowPosition { sequence, position });
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
        let mut requests = [LogitsRequest::default(); HEAD_ROWS];
        let mut n_requests = 0;
        for row in 0..self.rows.len() {
            match self.requests[row] {
                Some(request) if request.hidden => self.hidden_state(request, on_logits)?,
                Some(request) => {
                    requests[n_requests] = request;
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
}

/// Where a value was found that is no finite number.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NotFinite {
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

/// Why a checkpoint does not become an engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The plan is impossible, or there is too little memory for it.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The weights cannot be read.
    #[error(transparent)]
    Weights(#[from] CheckpointError),
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
