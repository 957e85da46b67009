//! A prompt to text: the loop that users wait for.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::clock::Instant;
use crate::engine::{Engine, ForwardError, Input};
use crate::logits::Logits;
use crate::sampler::{Sampler, SamplerError, SamplerOptions};

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub struct GenerateOptions<'a> {
    /// The prompt, BOS included.
    pub prompt: &'a [u32],
    /// The most tokens to generate; the end of the context ends it earlier, so
    /// [`usize::MAX`] stands for no limit but that.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplerOptions,
    /// How many tokens at the beginning of the prompt sequence 0 already holds,
    /// from a call before; 0 to start anew. They are not computed again.
    pub reuse: usize,
}

impl<'a> GenerateOptions<'a> {
    /// Starts anew, and chooses tokens as [`SamplerOptions::default`] does.
    pub fn new(prompt: &'a [u32], max_tokens: usize) -> Self {
        Self {
            prompt,
            max_tokens,
            sampling: SamplerOptions::default(),
            reuse: 0,
        }
    }
}

/// What happens while text is generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Positions of the prompt that have been read.
    Prefill {
        /// So far.
        done: usize,
        /// All.
        total: usize,
    },
    /// A token was chosen.
    Token(u32),
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The number of tokens, or the context, is used up.
    Length,
    /// The caller said so.
    Stop,
    /// The model chose a token that ends the text.
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

/// What was generated, and how fast: times are zero where there is no clock, in
/// WebAssembly without a system.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The tokens, without the one that ended the text.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt that the sequence held already.
    pub reused: usize,
    /// Time to read the rest of the prompt and choose the first token.
    pub prefill: Duration,
    /// Time of all tokens after the first.
    pub decode: Duration,
    /// Tokens chosen in that time, the one that ended the text included.
    pub decode_steps: usize,
}

/// Continues a prompt in sequence 0 until `is_eog`, the number of tokens, the
/// context, or `on_event` ends it.
///
/// # Errors
///
/// Returns an error if the prompt is empty, does not fit, or an option makes no
/// sense.
pub fn generate(
    engine: &mut Engine,
    options: &GenerateOptions<'_>,
    is_eog: impl Fn(u32) -> bool,
    mut on_event: impl FnMut(Event) -> ControlFlow<()>,
) -> Result<Generation, GenerateError> {
    let prompt = options.prompt;
    if prompt.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    let vocab_size = engine.model().config().vocab_size;
    let mut sampler = Sampler::new(options.sampling, engine.plan().isa, vocab_size)?;
    let start = Instant::now();
    let context_len = engine.plan().context_len;
    if prompt.len() > context_len {
        return Err(GenerateError::PromptTooLong {
            n_tokens: prompt.len(),
            context_len,
        });
    }
    let max_tokens = options.max_tokens.min(context_len - prompt.len() + 1);

    // The last token is computed in any case: its logits are wanted.
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
    let first = prefill(engine, &mut sampler, prompt, reuse, &mut on_event)?;
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
        generation.ids.push(token);
        history.push(token);
        if on_event(Event::Token(token)).is_break() {
            generation.finish_reason = FinishReason::Stop;
            break;
        }
        if generation.ids.len() == max_tokens {
            break;
        }
        token = decode(engine, &mut sampler, &history, prompt.len())?;
        generation.decode += since.elapsed();
        generation.decode_steps += 1;
        since = Instant::now();
    }
    Ok(generation)
}

/// Reads the prompt from position `reuse` on, and returns the first token, unless
/// `on_event` ends it.
fn prefill(
    engine: &mut Engine,
    sampler: &mut Sampler,
    prompt: &[u32],
    reuse: usize,
    on_event: &mut impl FnMut(Event) -> ControlFlow<()>,
) -> Result<ControlFlow<(), u32>, GenerateError> {
    let (mut done, total) = (reuse, prompt.len());
    let mut next = None;
    for tokens in prompt[reuse..].chunks(engine.plan().batch_tokens) {
        done += tokens.len();
        let input = Input {
            sequence: 0,
            tokens,
            logits: if done == total {
                sampler.logits()
            } else {
                Logits::None
            },
        };
        engine.forward(&[input], |_, _, logits| {
            next = sampler.sample(logits, prompt, total);
        })?;
        if on_event(Event::Prefill { done, total }).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    next.map(ControlFlow::Continue)
        .ok_or(GenerateError::NoCandidate)
}

/// Computes the last token of `history`, and returns the next one.
fn decode(
    engine: &mut Engine,
    sampler: &mut Sampler,
    history: &[u32],
    n_prompt: usize,
) -> Result<u32, GenerateError> {
    let input = Input {
        sequence: 0,
        tokens: &history[history.len() - 1..],
        logits: sampler.logits(),
    };
    let mut next = None;
    engine.forward(&[input], |_, _, logits| {
        next = sampler.sample(logits, history, n_prompt);
    })?;
    next.ok_or(GenerateError::NoCandidate)
}

/// Why nothing is generated.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// There is nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt leaves no room.
    #[error("the prompt has {n_tokens} tokens, but the context only {context_len}")]
    PromptTooLong {
        /// Tokens of the prompt.
        n_tokens: usize,
        /// Positions of the context.
        context_len: usize,
    },
    /// An option of the sampler makes no sense.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// No token can be chosen: every logit is NaN or minus infinity.
    #[error("no token can be chosen: every logit is NaN or minus infinity")]
    NoCandidate,
    /// The tokens cannot be computed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
}
