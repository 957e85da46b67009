//! What callers change in the logits of a text.

use std::fmt;

/// Changes the logits of a text before each token is chosen.
///
/// A text with one is not drafted: positions come in order, and one comes again only if its
/// pass failed.
pub trait LogitsProcessor: fmt::Debug + Send {
    /// Changes `logits`, `[vocab_size]`, of the token after `tokens`, which are those of the
    /// prompt and of the text so far. Penalties, bias and temperature apply after it.
    ///
    /// # Errors
    ///
    /// Returns an error if the text cannot go on.
    fn process(&mut self, tokens: &[u32], logits: &mut [f32]) -> Result<(), LogitsProcessorError>;
}

/// A text that a [`LogitsProcessor`] ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the logits processor failed: {message}")]
pub struct LogitsProcessorError {
    /// Why.
    pub message: String,
}
