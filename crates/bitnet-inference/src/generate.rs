//! Text generation: prefill and the decode loop.

use std::ops::{ControlFlow, Range};
use std::time::Duration;

use crate::chooser::{ChooseError, Chooser, ChooserBuffers, Chosen, Row, TextEnd};
use crate::clock::Instant;
use crate::constraint::{Constraint, ConstraintError};
use crate::engine::{Engine, ForwardError, Input};
use crate::logits::Logits;
use crate::logits_processor::LogitsProcessorError;
use crate::sampler::{SamplerError, SamplerOptions, TokenChoice};
use crate::speculation::{DraftCost, Drafter, MAX_ROWS, draft_lengths};

/// Options of a generation.
#[derive(Clone, Copy, Debug)]
pub struct GenerateOptions<'a> {
    /// The prompt, BOS included.
    pub prompt: &'a [u32],
    /// Maximum number of tokens to generate. The context is a limit in any case, so
    /// [`usize::MAX`] means no other limit.
    pub max_tokens: usize,
    /// The sampling parameters.
    pub sampling: SamplerOptions,
    /// Added to the logits of these tokens, all of which are in the vocabulary.
    pub logit_bias: &'a [(u32, f32)],
    /// Number of leading prompt tokens that are already in sequence 0 from a previous call
    /// and not computed again; 0 to start a new sequence.
    pub reuse: usize,
    /// Whether tokens are drafted from what the text repeats, and several computed in one
    /// pass. The text is the same.
    pub speculate: bool,
}

impl<'a> GenerateOptions<'a> {
    /// Returns options with the default sampling parameters and drafts, without a reused
    /// prefix.
    pub fn new(prompt: &'a [u32], max_tokens: usize) -> Self {
        Self {
            prompt,
            max_tokens,
            sampling: SamplerOptions::default(),
            logit_bias: &[],
            reuse: 0,
            speculate: true,
        }
    }
}

/// An event of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Progress of prefill, in prompt positions.
    Prefill {
        /// Positions computed so far.
        done: usize,
        /// All positions.
        total: usize,
    },
    /// A token was sampled.
    Token(u32),
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The maximum number of tokens or the end of the context was reached.
    Length,
    /// The caller stopped it.
    Stop,
    /// An end-of-generation token was sampled.
    Eos,
}

impl FinishReason {
    /// Returns the name in JSON documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Stop => "stop",
            Self::Eos => "eos",
        }
    }
}

/// The result of a generation with its timings, which are zero in WebAssembly without a
/// clock.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The tokens, without the end-of-generation token.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Prompt tokens that were not computed again.
    pub reused: usize,
    /// Time of prefill, including the first token.
    pub prefill: Duration,
    /// Time of all tokens after the first.
    pub decode: Duration,
    /// Tokens sampled in that time, including the end-of-generation token.
    pub decode_steps: usize,
    /// Tokens that were drafted.
    pub drafted: usize,
    /// Those of them that are part of the text.
    pub accepted: usize,
}

/// Continues a prompt in sequence 0 until `is_eog`, the maximum number of tokens, the
/// context, or `on_event` ends it. Returns the tokens and timings.
///
/// # Errors
///
/// Returns an error if the prompt is empty or too long, an option is invalid, the forward
/// pass fails, or every logit is NaN or minus infinity.
pub fn generate(
    engine: &mut Engine,
    options: &GenerateOptions<'_>,
    is_eog: impl Fn(u32) -> bool,
    on_event: impl FnMut(Event) -> ControlFlow<()>,
) -> Result<Generation, GenerateError> {
    generate_within(engine, options, None, is_eog, on_event)
}

/// The same as [`generate`], with a text that follows a constraint, if there is one.
///
/// # Errors
///
/// As [`generate`]; or if the constraint cannot be followed.
pub fn generate_within(
    engine: &mut Engine,
    options: &GenerateOptions<'_>,
    constraint: Option<Box<dyn Constraint>>,
    is_eog: impl Fn(u32) -> bool,
    mut on_event: impl FnMut(Event) -> ControlFlow<()>,
) -> Result<Generation, GenerateError> {
    let prompt = options.prompt;
    if prompt.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    let choice = TokenChoice::new(options.sampling)?.with_bias(options.logit_bias.to_vec());
    let start = Instant::now();
    let context_len = engine.plan().context_len;
    if prompt.len() > context_len {
        return Err(GenerateError::PromptTooLong {
            n_tokens: prompt.len(),
            context_len,
        });
    }
    let max_tokens = options.max_tokens.min(context_len - prompt.len() + 1);

    // The last token is always computed, since its logits are needed.
    let reuse = options.reuse.min(engine.len(0)).min(prompt.len() - 1);
    engine.truncate(0, reuse);
    let mut generation = Generation {
        ids: Vec::new(),
        finish_reason: FinishReason::Length,
        reused: reuse,
        prefill: Duration::ZERO,
        decode: Duration::ZERO,
        decode_steps: 0,
        drafted: 0,
        accepted: 0,
    };
    if max_tokens == 0 {
        return Ok(generation);
    }
    let vocab_size = engine.model().config().vocab_size;
    let mut text = Text {
        buffers: ChooserBuffers::new(engine.plan().isa, vocab_size),
        engine,
        chooser: Chooser::new(choice, constraint, None),
        is_end: &is_eog,
        history: prompt.to_vec(),
        n_prompt: prompt.len(),
        max_len: prompt.len() + max_tokens,
        drafter: options.speculate.then(Drafter::default),
        cost: DraftCost::default(),
    };
    let first = text.prefill(reuse, &mut on_event)?;
    generation.prefill = start.elapsed();
    let ControlFlow::Continue(mut chosen) = first else {
        generation.finish_reason = FinishReason::Stop;
        return Ok(generation);
    };
    let mut since = Instant::now();
    loop {
        for token in std::mem::take(&mut chosen.tokens) {
            generation.ids.push(token.id);
            text.history.push(token.id);
            if on_event(Event::Token(token.id)).is_break() {
                generation.finish_reason = FinishReason::Stop;
                return Ok(generation);
            }
            if generation.ids.len() == max_tokens {
                return Ok(generation);
            }
        }
        match chosen.end {
            None => {}
            Some(TextEnd::Eos(_) | TextEnd::Complete) => {
                generation.finish_reason = FinishReason::Eos;
                return Ok(generation);
            }
            Some(TextEnd::Failed(error)) => return Err(error.into()),
        }
        chosen = text.decode(&mut generation)?;
        generation.decode += since.elapsed();
        generation.decode_steps += chosen.n_sampled;
        since = Instant::now();
    }
}

/// A text in sequence 0 of an engine.
struct Text<'a> {
    engine: &'a mut Engine,
    chooser: Chooser,
    buffers: ChooserBuffers,
    is_end: &'a dyn Fn(u32) -> bool,
    /// All tokens so far.
    history: Vec<u32>,
    n_prompt: usize,
    max_len: usize,
    drafter: Option<Drafter>,
    cost: DraftCost,
}

impl Text<'_> {
    /// Computes the prompt from position `reuse` on, and returns the first token, unless
    /// `on_event` stops it.
    fn prefill(
        &mut self,
        reuse: usize,
        on_event: &mut impl FnMut(Event) -> ControlFlow<()>,
    ) -> Result<ControlFlow<(), Chosen>, GenerateError> {
        let (mut done, total) = (reuse, self.n_prompt);
        let mut chosen = Chosen::default();
        while done < total {
            let end = total.min(done + self.engine.plan().batch_tokens);
            let logits = if end == total {
                self.chooser.logits(0)
            } else {
                Logits::None
            };
            self.forward(done..end, &[], logits, &mut chosen)?;
            done = end;
            if on_event(Event::Prefill { done, total }).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(chosen))
    }

    /// Computes the tokens that are not in the KV cache, and a draft of the next ones. Returns
    /// what follows.
    fn decode(&mut self, generation: &mut Generation) -> Result<Chosen, GenerateError> {
        let start = Instant::now();
        let range = self.engine.len(0)..self.history.len();
        let n_pending = range.len();
        let draft = self.draft(n_pending);
        let logits = self.chooser.logits(draft.len());
        let mut chosen = Chosen::default();
        let computed = self.forward(range.clone(), &draft, logits, &mut chosen);
        if draft.is_empty() {
            computed?;
        } else if computed.is_err() {
            // What was drafted may be what cannot be computed.
            self.chooser.undo(&chosen);
            chosen = Chosen::default();
            let logits = self.chooser.logits(0);
            self.forward(range, &[], logits, &mut chosen)?;
            return Ok(chosen);
        }
        let n_accepted = chosen.n_accepted(&draft);
        self.engine.truncate(0, self.history.len() + n_accepted);
        generation.drafted += draft.len();
        generation.accepted += n_accepted;
        if n_pending == 1 {
            self.cost.observe(1, draft.len(), start.elapsed());
        }
        Ok(chosen)
    }

    /// Drafts the next tokens, as many as are likely to pay.
    fn draft(&mut self, n_pending: usize) -> Vec<u32> {
        let Some(drafter) = &mut self.drafter else {
            return Vec::new();
        };
        drafter.extend(&self.history, self.n_prompt);
        // The token after the draft is part of the text, too.
        let left = self.max_len - self.history.len() - 1;
        let max = left.min(MAX_ROWS.saturating_sub(n_pending));
        let draft = [drafter.draft(&self.history, max)];
        let len = draft_lengths(&draft, self.cost.row(1), max)[0];
        draft[0][..len].iter().map(|drafted| drafted.id).collect()
    }

    /// Computes tokens of the text and a draft after them, and chooses those that follow.
    fn forward(
        &mut self,
        range: Range<usize>,
        draft: &[u32],
        logits: Logits,
        chosen: &mut Chosen,
    ) -> Result<(), ForwardError> {
        let len = self.history.len();
        self.history.extend_from_slice(draft);
        let history = &self.history;
        let input = Input {
            sequence: 0,
            tokens: &history[range.start..range.end + draft.len()],
            logits,
        };
        let (chooser, buffers) = (&mut self.chooser, &mut self.buffers);
        let computed = self.engine.forward(&[input], |_, token, logits| {
            let next = range.start + token + 1;
            let row = Row {
                logits,
                history: &history[..next],
                n_prompt: self.n_prompt,
                n_drafted: next - len,
            };
            chooser.choose(buffers, row, self.is_end, chosen);
        });
        self.history.truncate(len);
        computed
    }
}

/// An error of a generation.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The prompt is empty.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt exceeds the context.
    #[error("the prompt has {n_tokens} tokens, but the context only {context_len}")]
    PromptTooLong {
        /// Tokens of the prompt.
        n_tokens: usize,
        /// Positions of the context.
        context_len: usize,
    },
    /// A sampling parameter is invalid.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// No token can be chosen: every logit is NaN or minus infinity.
    #[error("no token can be chosen: every logit is NaN or minus infinity")]
    NoCandidate,
    /// The constraint cannot be followed.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// The logits processor failed.
    #[error(transparent)]
    Processor(#[from] LogitsProcessorError),
    /// The forward pass failed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
}

impl From<ChooseError> for GenerateError {
    fn from(error: ChooseError) -> Self {
        match error {
            ChooseError::NoCandidate => Self::NoCandidate,
            ChooseError::Constraint(error) => Self::Constraint(error),
            ChooseError::Processor(error) => Self::Processor(error),
        }
    }
}
