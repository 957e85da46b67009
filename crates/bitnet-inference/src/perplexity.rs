//! Perplexity of a text.

use std::ops::ControlFlow;

use bitnet_core::ops;

use crate::engine::{Engine, ForwardError, Input};
use crate::logits::Logits;

/// The negative log-likelihood of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// Number of windows scored.
    pub windows: usize,
    /// Number of tokens scored.
    pub tokens: usize,
    /// Sum of -ln p over all tokens.
    pub nll_sum: f64,
}

impl Perplexity {
    /// Returns the mean of -ln p in nats.
    pub fn nll_per_token(&self) -> f64 {
        self.nll_sum / self.tokens as f64
    }

    /// Returns the perplexity: e to the mean of -ln p.
    pub fn perplexity(&self) -> f64 {
        libm::exp(self.nll_per_token())
    }
}

/// Scores `tokens` in windows of `window` tokens without overlap, each preceded by `bos`:
/// every token is predicted from BOS and the tokens before it in its window. Without a
/// BOS, a window is preceded by the token before it, and the first token of the text is
/// not scored.
///
/// `progress(done)` is called with the intermediate result and may end the run early;
/// then that result is returned.
///
/// # Errors
///
/// Returns an error if there is nothing to score, or the window exceeds the
/// context.
pub fn perplexity(
    engine: &mut Engine,
    tokens: &[u32],
    window: usize,
    bos: impl Into<Option<u32>>,
    mut progress: impl FnMut(&Perplexity) -> ControlFlow<()>,
) -> Result<Perplexity, PerplexityError> {
    let bos = bos.into();
    let (mut before, scored) = match (bos, tokens) {
        (Some(bos), _) => (bos, tokens),
        (None, [first, rest @ ..]) => (*first, rest),
        (None, []) => return Err(PerplexityError::NoTokens),
    };
    if scored.is_empty() {
        return Err(PerplexityError::NoTokens);
    }
    if window == 0 || window > engine.plan().context_len {
        return Err(PerplexityError::Window {
            window,
            context_len: engine.plan().context_len,
        });
    }
    let vocab_size = engine.model().config().vocab_size;
    if let Some(&id) = tokens.iter().find(|id| **id as usize >= vocab_size) {
        return Err(ForwardError::Token { id, vocab_size }.into());
    }
    let isa = engine.plan().isa;
    let mut result = Perplexity {
        windows: 0,
        tokens: 0,
        nll_sum: 0.0,
    };
    let mut input = Vec::with_capacity(window);
    for targets in scored.chunks(window) {
        input.clear();
        input.push(before);
        input.extend_from_slice(&targets[..targets.len() - 1]);
        engine.truncate(0, 0);
        let inputs = [Input {
            sequence: 0,
            tokens: &input,
            logits: Logits::All,
        }];
        engine.forward(&inputs, |_, position, logits| {
            let target = logits[targets[position] as usize];
            result.nll_sum += ops::log_sum_exp(isa, logits) - target as f64;
        })?;
        before = bos.unwrap_or(targets[targets.len() - 1]);
        result.windows += 1;
        result.tokens += targets.len();
        if progress(&result).is_break() {
            break;
        }
    }
    Ok(result)
}

/// An error of scoring a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PerplexityError {
    /// The text is empty or, without a BOS, has only one token.
    #[error("there are no tokens to score")]
    NoTokens,
    /// The window is empty or exceeds the context.
    #[error("windows of {window} tokens do not fit into the context of {context_len}")]
    Window {
        /// Tokens per window.
        window: usize,
        /// Positions of the context.
        context_len: usize,
    },
    /// The forward pass failed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
}
