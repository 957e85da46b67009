//! Text generation: prefill and the decode loop.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::clock::Instant;
use crate::constraint::{Constraint, ConstraintError};
use crate::engine::{Engine, ForwardError, Input};
use crate::logits::Logits;
use crate::sampler::{Position, Sampler, SamplerError, SamplerOptions};
use crate::token_set::TokenSet;

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
    /// Number of leading prompt tokens that are already in sequence 0 from a previous call
    /// and not computed again; 0 to start a new sequence.
    pub reuse: usize,
}

impl<'a> GenerateOptions<'a> {
    /// Returns options with the default sampling parameters, without a reused prefix.
    pub fn new(prompt: &'a [u32], max_tokens: usize) -> Self {
        Self {
            prompt,
            max_tokens,
            sampling: SamplerOptions::default(),
            reuse: 0,
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
    let mut chooser = Chooser::new(engine, options.sampling, constraint)?;
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
    };
    if max_tokens == 0 {
        return Ok(generation);
    }
    let first = prefill(engine, &mut chooser, prompt, reuse, &mut on_event)?;
    generation.prefill = start.elapsed();
    let ControlFlow::Continue(mut token) = first else {
        generation.finish_reason = FinishReason::Stop;
        return Ok(generation);
    };
    let mut since = Instant::now();
    let mut history = prompt.to_vec();
    loop {
        if is_eog(token) {
            generation.finish_reason = FinishReason::Eos;
            break;
        }
        // The token, and those that the constraint forces after it.
        for token in chooser.accept(token)? {
            generation.ids.push(token);
            history.push(token);
            if on_event(Event::Token(token)).is_break() {
                generation.finish_reason = FinishReason::Stop;
                return Ok(generation);
            }
            if generation.ids.len() == max_tokens {
                return Ok(generation);
            }
        }
        if chooser.is_complete() {
            generation.finish_reason = FinishReason::Eos;
            break;
        }
        token = decode(engine, &mut chooser, &history, prompt.len())?;
        generation.decode += since.elapsed();
        generation.decode_steps += 1;
        since = Instant::now();
    }
    Ok(generation)
}

/// Chooses tokens within a constraint.
struct Chooser {
    sampler: Sampler,
    constraint: Option<Box<dyn Constraint>>,
    allowed: TokenSet,
}

impl Chooser {
    fn new(
        engine: &Engine,
        sampling: SamplerOptions,
        constraint: Option<Box<dyn Constraint>>,
    ) -> Result<Self, SamplerError> {
        let vocab_size = engine.model().config().vocab_size;
        Ok(Self {
            sampler: Sampler::new(sampling, engine.plan().isa, vocab_size)?,
            constraint,
            allowed: TokenSet::new(vocab_size),
        })
    }

    /// Returns the logits that the choice needs.
    fn logits(&self) -> Logits {
        match self.constraint {
            Some(_) => Logits::Last,
            None => self.sampler.logits(),
        }
    }

    fn sample(
        &mut self,
        logits: &[f32],
        history: &[u32],
        n_prompt: usize,
    ) -> Result<u32, GenerateError> {
        let allowed = match &mut self.constraint {
            Some(constraint) => {
                constraint.allowed(&mut self.allowed)?;
                Some(&self.allowed)
            }
            None => None,
        };
        let token = self.sampler.sample_at(Position {
            logits,
            history,
            n_prompt,
            allowed,
        });
        token.ok_or(GenerateError::NoCandidate)
    }

    /// Advances by a token, and returns it with those that must follow.
    fn accept(&mut self, token: u32) -> Result<Vec<u32>, ConstraintError> {
        let mut tokens = vec![token];
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(token)?;
            if !constraint.is_complete() {
                tokens.extend(constraint.forced()?);
            }
        }
        Ok(tokens)
    }

    fn is_complete(&self) -> bool {
        self.constraint.as_ref().is_some_and(|c| c.is_complete())
    }
}

/// Computes the prompt from position `reuse` on, and returns the first token, unless
/// `on_event` stops it.
fn prefill(
    engine: &mut Engine,
    chooser: &mut Chooser,
    prompt: &[u32],
    reuse: usize,
    on_event: &mut impl FnMut(Event) -> ControlFlow<()>,
) -> Result<ControlFlow<(), u32>, GenerateError> {
    let (mut done, total) = (reuse, prompt.len());
    let mut next = Err(GenerateError::NoCandidate);
    for tokens in prompt[reuse..].chunks(engine.plan().batch_tokens) {
        done += tokens.len();
        let input = Input {
            sequence: 0,
            tokens,
            logits: if done == total {
                chooser.logits()
            } else {
                Logits::None
            },
        };
        engine.forward(&[input], |_, _, logits| {
            next = chooser.sample(logits, prompt, total);
        })?;
        if on_event(Event::Prefill { done, total }).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    next.map(ControlFlow::Continue)
}

/// Computes the tokens of `history` that are not in the KV cache, and returns the next one.
fn decode(
    engine: &mut Engine,
    chooser: &mut Chooser,
    history: &[u32],
    n_prompt: usize,
) -> Result<u32, GenerateError> {
    let input = Input {
        sequence: 0,
        tokens: &history[engine.len(0)..],
        logits: chooser.logits(),
    };
    let mut next = Err(GenerateError::NoCandidate);
    engine.forward(&[input], |_, _, logits| {
        next = chooser.sample(logits, history, n_prompt);
    })?;
    next
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
    /// The forward pass failed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
}
