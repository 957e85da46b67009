//! The tasks of a scheduler and what happens to them.

use super::StepEngine;
use crate::constraint::Constraint;
use crate::generate::{FinishReason, GenerateError};
use crate::logits_processor::LogitsProcessor;
use crate::logprobs::TokenLogprobs;
use crate::sampler::SamplerOptions;

/// Identifies a task of a scheduler. A later task has a greater id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub(super) u64);

/// Something to compute from a prompt.
#[derive(Debug)]
pub struct Task {
    /// The prompt, BOS included.
    pub prompt: Vec<u32>,
    /// What is wanted.
    pub work: Work,
}

/// What a task is for.
#[derive(Debug)]
pub enum Work {
    /// A continuation of the prompt.
    Generate(GenerationTask),
    /// The embedding of the prompt.
    Embed,
}

/// Options of a generation.
#[derive(Debug, Default)]
pub struct GenerationTask {
    /// Maximum number of tokens to generate; the context is a limit in any case. 0 only
    /// computes the prompt.
    pub max_tokens: usize,
    /// The sampling parameters.
    pub sampling: SamplerOptions,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// If set, the log-probability of each generated token is reported, and that of so
    /// many most likely ones.
    pub logprobs: Option<usize>,
    /// The same for the tokens of the prompt. The prompt is then computed as a whole.
    pub prompt_logprobs: Option<usize>,
    /// Limits the text.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Changes the logits of the text.
    pub processor: Option<Box<dyn LogitsProcessor>>,
}

/// What happened to a task.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskEvent {
    /// Prompt positions were computed.
    Prefill {
        /// Positions computed so far, shared ones included.
        done: usize,
        /// All positions.
        total: usize,
    },
    /// The log-probabilities of the prompt's tokens from the second on.
    PromptLogprobs(Vec<TokenLogprobs>),
    /// A token was generated.
    Token {
        /// The token.
        token: u32,
        /// Its log-probability, if requested.
        logprobs: Option<TokenLogprobs>,
    },
    /// The token that ends the text, without being part of it; if log-probabilities were
    /// requested.
    End(TokenLogprobs),
    /// The generation ended.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Its tokens.
        usage: TaskUsage,
    },
    /// The embedding, `[hidden_dim]`, of length 1.
    Embedding(Vec<f32>, TaskUsage),
    /// The task failed.
    Failed(TaskError),
}

/// The numbers of tokens of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskUsage {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Those that were in the KV cache.
    pub n_cached: usize,
    /// Generated tokens, without the one that ends the text.
    pub n_generated: usize,
}

/// A task that is impossible, or failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// Too many tasks are waiting.
    #[error("{max_waiting} tasks are waiting already")]
    QueueFull {
        /// The limit.
        max_waiting: usize,
    },
    /// A token id is beyond the vocabulary.
    #[error("there is no token {id} in the vocabulary of {vocab_size} tokens")]
    Token {
        /// The id.
        id: u32,
        /// Number of tokens.
        vocab_size: usize,
    },
    /// The generation is impossible, or failed.
    #[error(transparent)]
    Generate(#[from] GenerateError),
}

impl Task {
    /// Checks a task against the limits of an engine.
    ///
    /// # Errors
    ///
    /// Returns an error for the first thing that is impossible.
    pub fn validate(&self, engine: &impl StepEngine) -> Result<(), TaskError> {
        let (n_tokens, context_len) = (self.prompt.len(), engine.context_len());
        if n_tokens == 0 {
            return Err(GenerateError::EmptyPrompt.into());
        }
        if n_tokens > context_len {
            let too_long = GenerateError::PromptTooLong {
                n_tokens,
                context_len,
            };
            return Err(too_long.into());
        }
        let vocab_size = engine.vocab_size();
        let mut ids = self.prompt.iter().copied();
        let mut unknown = ids.find(|&id| id as usize >= vocab_size);
        if let Work::Generate(task) = &self.work {
            task.sampling.validate().map_err(GenerateError::from)?;
            let mut biased = task.logit_bias.iter().map(|(id, _)| *id);
            unknown = unknown.or_else(|| biased.find(|&id| id as usize >= vocab_size));
        }
        match unknown {
            Some(id) => Err(TaskError::Token { id, vocab_size }),
            None => Ok(()),
        }
    }
}
