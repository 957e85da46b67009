//! The engine: splits the tokens of sequences into batches and computes them.
//!
//! All buffers are allocated at construction. A pass allocates only KV pages, one per 128
//! positions of a sequence, and the token lists of the sequences.

use std::sync::Arc;

use bitnet_core::{ComputeContext, HybridMemoryPool, PagedKv, RowPosition, ops};

use crate::format::checkpoint::{Checkpoint, CheckpointError};
use crate::format::mapping::Changed;
use crate::forward::Forward;
#[cfg(feature = "gpu")]
use crate::forward::gpu::GpuForward;
use crate::kv_cache::pages::Pages;
use crate::kv_cache::{
    self, Growth, KvCache, KvCacheOptions, KvUsage, SequenceError, SequenceHandle,
};
use crate::logits::Logits;
use crate::model::skipping::Skipped;
use crate::model::{Model, Packing, Weights, not_finite};
use crate::note::Note;
use crate::pass::{Batch, LogitsRequest, NotFinite, PassError};
use crate::plan::{Plan, PlanError, PlanOptions};
use crate::spec::config::Pooling;

/// Runs a model. Owns the KV cache of its sequences, and the buffers and the threads.
#[derive(Debug)]
pub struct Engine {
    model: Arc<Model>,
    plan: Plan,
    pub(crate) kv: KvCache,
    backend: Backend,
    /// The rows that are not computed yet.
    batch: Batch,
    /// Number of tokens of the current inputs already pushed to their sequences.
    n_pushed: usize,
}

/// What computes passes.
#[derive(Debug)]
enum Backend {
    Cpu(Box<Forward>),
    #[cfg(feature = "gpu")]
    Gpu(Box<GpuForward>),
}

/// Tokens to append to a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The sequence, less than [`Plan::n_sequences`].
    pub sequence: usize,
    /// The token ids.
    pub tokens: &'a [u32],
    /// The tokens to compute logits for.
    pub logits: Logits,
}

impl Engine {
    /// Loads a checkpoint and returns an engine with its own model and memory pool. To share
    /// them, use [`Model::load`] and [`Engine::new`].
    ///
    /// # Errors
    ///
    /// Returns an error if the plan is invalid, the weights cannot be loaded, or memory is
    /// exhausted.
    pub fn load(checkpoint: &Checkpoint, options: PlanOptions) -> Result<Self, LoadError> {
        let plan = Plan::new(checkpoint.config(), options)?;
        let (pool, packing) = (HybridMemoryPool::new(), Packing::default());
        let mut threads = plan.thread_pool()?;
        let ctx = &mut ComputeContext::new(plan.isa, &mut threads);
        let model = Model::load(checkpoint, &pool, ctx, packing, |_, _| ())?;
        drop(threads);
        Ok(Self::new(Arc::new(model), plan)?)
    }

    /// Allocates the buffers and starts the threads of a plan.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is exhausted, a thread cannot be pinned, or the model is on
    /// another device than that of the plan.
    pub fn new(model: Arc<Model>, plan: Plan) -> Result<Self, PlanError> {
        if model.device() != plan.device {
            return Err(PlanError::OtherDevice {
                planned: plan.device,
                loaded: model.device(),
            });
        }
        let (backend, pages) = match model.weights() {
            Weights::Packed(_) => {
                let shape = kv_cache::shape(model.config(), plan.kv_precision);
                let pages = PagedKv::new(model.pool(), shape, plan.n_sequences);
                let forward = Forward::new(Arc::clone(&model), &plan)?;
                (Backend::Cpu(Box::new(forward)), Pages::Host(pages))
            }
            #[cfg(feature = "gpu")]
            Weights::Gpu(weights) => {
                let forward = GpuForward::new(&weights.model, &plan, model.pool())?;
                let pages = Pages::Device(forward.pages(plan.n_sequences));
                (Backend::Gpu(Box::new(forward)), pages)
            }
        };
        let options = KvCacheOptions {
            n_sequences: plan.n_sequences,
            context_len: plan.context_len,
            max_pages: plan.kv_pages,
        };
        Ok(Self {
            kv: KvCache::new(pages, options),
            backend,
            batch: Batch::with_capacity(plan.batch_tokens),
            n_pushed: 0,
            plan,
            model,
        })
    }

    /// Returns the plan of the engine.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Returns the model of the engine.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Returns what was not read since the engine was made, because it is multiplied by zero.
    pub fn skipped(&self) -> Skipped {
        Skipped::of_layers(self.skipped_by_layer())
    }

    /// Returns [`skipped`](Self::skipped) of each layer.
    pub fn skipped_by_layer(&self) -> &[Skipped] {
        match &self.backend {
            Backend::Cpu(forward) => forward.skipped(),
            #[cfg(feature = "gpu")]
            Backend::Gpu(_) => &[],
        }
    }

    /// Returns the length of a sequence in positions.
    ///
    /// # Panics
    ///
    /// Panics if `sequence` is out of range.
    pub fn len(&self, sequence: usize) -> usize {
        self.kv.len(sequence)
    }

    /// Returns whether a sequence is empty.
    ///
    /// # Panics
    ///
    /// Panics if `sequence` is out of range.
    pub fn is_empty(&self, sequence: usize) -> bool {
        self.len(sequence) == 0
    }

    /// Returns the tokens of a sequence, one per position.
    ///
    /// # Panics
    ///
    /// Panics if `sequence` is out of range.
    pub fn tokens(&self, sequence: usize) -> &[u32] {
        self.kv.tokens(sequence)
    }

    /// Truncates a sequence to its first `len` positions.
    ///
    /// # Panics
    ///
    /// Panics if `sequence` is out of range.
    pub fn truncate(&mut self, sequence: usize, len: usize) {
        self.kv.truncate(sequence, len);
    }

    /// Starts a sequence for a prompt and returns its handle. The sequence shares the KV
    /// pages of the longest common prefix with another sequence; the tokens from
    /// [`SequenceHandle::n_reused`] on are still to be computed. Pages for `max_len`
    /// positions are guaranteed.
    ///
    /// Sequences may also be used by index without being started; `start` does not return a
    /// sequence that holds tokens.
    ///
    /// # Errors
    ///
    /// Returns an error if `max_len` or the prompt exceeds the context, all sequences are in
    /// use, or too few pages are free. Other sequences are not affected.
    pub fn start(
        &mut self,
        prompt: &[u32],
        max_len: usize,
    ) -> Result<SequenceHandle, SequenceError> {
        self.kv.start(prompt, max_len)
    }

    /// Forks a sequence and returns the index of the new one. Both share pages, which are
    /// copied on write. Pages for `max_len` positions are guaranteed.
    ///
    /// # Errors
    ///
    /// The same as for [`start`](Self::start).
    ///
    /// # Panics
    ///
    /// Panics if `sequence` is out of range.
    pub fn fork(&mut self, sequence: usize, max_len: usize) -> Result<usize, SequenceError> {
        self.kv.fork(sequence, max_len)
    }

    /// Ends a sequence and releases its pages, except those shared with other sequences.
    ///
    /// # Panics
    ///
    /// Panics if `sequence` is out of range.
    pub fn finish(&mut self, sequence: usize) {
        self.kv.finish(sequence);
    }

    /// Gives up the guarantee of pages for a sequence to grow. Its tokens stay, and can be
    /// shared, until it is finished.
    ///
    /// # Panics
    ///
    /// Panics if `sequence` is out of range.
    pub fn release_guarantee(&mut self, sequence: usize) {
        self.kv.release_guarantee(sequence);
    }

    /// Returns the memory usage of the KV cache.
    pub fn kv_usage(&self) -> KvUsage {
        self.kv.usage()
    }

    /// Returns what the bits of keys and values depend on, besides the weights: their shape,
    /// and the device if it is none of the CPU, which all compute the same.
    pub(crate) fn kv_identity(&self) -> String {
        let shape = kv_cache::shape(self.model.config(), self.plan.kv_precision);
        match &self.backend {
            Backend::Cpu(_) => format!("{shape:?}"),
            #[cfg(feature = "gpu")]
            Backend::Gpu(forward) => format!("{shape:?} {:?}", forward.adapter()),
        }
    }

    /// Returns the contents of page `index` of a sequence, [`KvUsage::page_bytes`].
    ///
    /// # Errors
    ///
    /// Returns an error if the device fails.
    ///
    /// # Panics
    ///
    /// Panics if there is no such page.
    pub(crate) fn kv_page(
        &mut self,
        sequence: usize,
        index: usize,
    ) -> Result<Vec<u8>, ForwardError> {
        match &mut self.backend {
            Backend::Cpu(_) => {
                let pages = self.kv.pages();
                let mut bytes = Vec::with_capacity(pages.page_bytes());
                pages.host().page(sequence, index).write_to(&mut bytes);
                Ok(bytes)
            }
            #[cfg(feature = "gpu")]
            Backend::Gpu(forward) => {
                let pages = self.kv.pages_mut().device_mut();
                let index = pages.tables().pages(sequence)[index].index();
                let read = forward.read_page(pages, index);
                read.map_err(|error| ForwardError::Device {
                    error: error.to_string(),
                })
            }
        }
    }

    /// Appends tokens to sequences and passes the requested logits to
    /// `on_logits(input, token, logits)`: the index of the input, the index of the token in
    /// it, and the logits, `[vocab_size]`, or for [`Logits::Hidden`] the hidden state,
    /// `[hidden_dim]`.
    ///
    /// Inputs of any length are split into passes of [`Plan::batch_tokens`].
    ///
    /// # Errors
    ///
    /// Returns an error if an input is invalid, the context or the KV pages are exhausted,
    /// the model's file was changed, or a value is not finite. The sequences are then
    /// unchanged. [`ForwardError::NotFinite`] and [`ForwardError::Overflow`] are detected
    /// during computation: `on_logits` may have been called for earlier positions.
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
            // Roll back the positions of these inputs.
            let mut n_pushed = self.n_pushed;
            for input in inputs {
                let n = n_pushed.min(input.tokens.len());
                n_pushed -= n;
                let len = self.kv.len(input.sequence) - n;
                self.kv.truncate(input.sequence, len);
            }
        }
        computed.map_err(|error| match error {
            PassError::NotFinite(place) => self.cause(place),
            #[cfg(feature = "gpu")]
            PassError::Device(error) => ForwardError::Device { error },
        })
    }

    /// Computes validated inputs, one pass at a time.
    fn compute(
        &mut self,
        inputs: &[Input<'_>],
        on_logits: &mut impl FnMut(usize, usize, &[f32]),
    ) -> Result<(), PassError> {
        self.batch.clear();
        self.n_pushed = 0;
        for (input_idx, input) in inputs.iter().enumerate() {
            for (token_idx, &token) in input.tokens.iter().enumerate() {
                let is_last = token_idx + 1 == input.tokens.len();
                let (is_requested, top) = match input.logits {
                    Logits::None => (false, None),
                    Logits::Last | Logits::Hidden => (is_last, None),
                    Logits::All => (true, None),
                    Logits::Tail(n) => (token_idx + n >= input.tokens.len(), None),
                    Logits::Top(k) => (is_last, Some(k)),
                };
                let request = LogitsRequest {
                    row: self.batch.len(),
                    input: input_idx,
                    token: token_idx,
                    top,
                    hidden: input.logits == Logits::Hidden,
                };
                self.push_row(input.sequence, token, is_requested.then_some(request));
                if self.batch.len() == self.plan.batch_tokens {
                    self.pass(on_logits)?;
                }
            }
        }
        if self.batch.len() > 0 {
            self.pass(on_logits)?;
        }
        Ok(())
    }

    /// Returns the cause of a non-finite value: the first non-finite weight, or if there is
    /// none, the place of the overflow.
    fn cause(&self, place: NotFinite) -> ForwardError {
        let isa = self.plan.isa;
        if let (NotFinite::Token(token), Some(matrix)) = (place, self.model.dense_embedding()) {
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

    /// Returns the embedding of a text, `[hidden_dim]`: the hidden state of its last token,
    /// normalized to length 1. Clears sequence 0.
    ///
    /// # Errors
    ///
    /// Returns an error if there are no tokens or more than the context, the model requires
    /// another pooling, the hidden state is zero, or the forward pass fails.
    pub fn embed(&mut self, tokens: &[u32]) -> Result<Vec<f32>, ForwardError> {
        self.check_pooling()?;
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
        self.normalized(embedding)
    }

    /// Returns a hidden state, `[hidden_dim]`, with length 1: the embedding of the tokens up
    /// to it, if the model pools that way.
    ///
    /// # Errors
    ///
    /// Returns an error if the model requires another pooling, or the hidden state is zero.
    pub fn normalized(&self, mut hidden: Vec<f32>) -> Result<Vec<f32>, ForwardError> {
        self.check_pooling()?;
        let length = ops::dot(self.plan.isa, &hidden, &hidden).sqrt();
        if length == 0.0 {
            return Err(ForwardError::ZeroEmbedding);
        }
        for x in &mut hidden {
            *x /= length;
        }
        Ok(hidden)
    }

    /// Returns an error if embeddings of the model are not its last hidden state.
    fn check_pooling(&self) -> Result<(), ForwardError> {
        match self.model.config().pooling {
            Some(Pooling::Other(number)) => Err(ForwardError::Pooling { number }),
            _ => Ok(()),
        }
    }

    /// Checks sequences, token ids and lengths of inputs.
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

    /// Adds a token to the batch and to its sequence.
    fn push_row(&mut self, sequence: usize, token: u32, request: Option<LogitsRequest>) {
        let position = self.kv.len(sequence);
        self.kv.push(sequence, token);
        self.n_pushed += 1;
        self.batch.tokens.push(token);
        self.batch.rows.push(RowPosition { sequence, position });
        self.batch.requests.extend(request);
    }

    /// Computes the rows of the batch, reports their logits, and clears the batch.
    fn pass(&mut self, on_logits: &mut impl FnMut(usize, usize, &[f32])) -> Result<(), PassError> {
        let pages = self.kv.pages_mut();
        match &mut self.backend {
            Backend::Cpu(forward) => forward.pass(&self.batch, pages.host_mut(), on_logits)?,
            #[cfg(feature = "gpu")]
            Backend::Gpu(forward) => forward.pass(&self.batch, pages.device_mut(), on_logits)?,
        }
        self.batch.clear();
        Ok(())
    }
}

/// An error from [`Engine::load`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The plan is invalid, or memory is exhausted.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The weights cannot be loaded.
    #[error(transparent)]
    Weights(#[from] CheckpointError),
}

/// An error of the forward pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// A weight is not finite, or its square is not.
    #[error("the weights cannot be computed with: {error}")]
    NotFinite {
        /// The first such weight: tensor, row and column.
        error: String,
    },
    /// All weights are finite, but a computed value overflows f32.
    #[error(
        "values are too large to compute with, first in {place}, though every weight is finite{}",
        extreme.as_ref().map_or(String::new(), |extreme| format!(": {extreme}"))
    )]
    Overflow {
        /// The place: a block of a layer, an embedding, or the logits.
        place: String,
        /// The first tensor with an extreme scale or norm weight, if any.
        extreme: Option<String>,
    },
    /// The device failed.
    #[error("{error}")]
    Device {
        /// What happened; it names the device.
        error: String,
    },
    /// The hidden state is zero and cannot be normalized.
    #[error("the hidden state is zero, which makes no embedding")]
    ZeroEmbedding,
    /// The model's file was truncated or modified.
    #[error("{file} was changed while it was in use")]
    Changed {
        /// The file.
        file: String,
    },
    /// The sequence index is out of range.
    #[error("there is no sequence {sequence}, only {n_sequences}")]
    Sequence {
        /// The requested sequence.
        sequence: usize,
        /// Number of sequences.
        n_sequences: usize,
    },
    /// The token id is not in the vocabulary.
    #[error("token {id} is not in the vocabulary of {vocab_size} tokens")]
    Token {
        /// The token id.
        id: u32,
        /// Number of tokens in the vocabulary.
        vocab_size: usize,
    },
    /// There are no tokens to embed.
    #[error("there are no tokens to embed")]
    NoTokens,
    /// The model requires a pooling that is not implemented.
    #[error(
        "the model pools hidden states in way {number} of GGUF files, only 3 (the last token) is implemented"
    )]
    Pooling {
        /// The `pooling_type` of the GGUF file.
        number: u64,
    },
    /// A sequence would exceed the context.
    #[error("{needed} tokens do not fit into the context of {context_len}")]
    ContextFull {
        /// Required number of positions.
        needed: usize,
        /// Maximum number of positions.
        context_len: usize,
    },
    /// KV pages for a sequence cannot be allocated.
    #[error(transparent)]
    Grow(#[from] SequenceError),
}
