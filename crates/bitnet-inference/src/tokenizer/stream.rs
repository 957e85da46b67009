//! Ids to text, as they come.

use tokenizers::{
    DecodeStream, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper,
    PreTokenizerWrapper,
};

use super::{Tokenizer, TokenizerError};

type Inner<'a> = DecodeStream<
    'a,
    ModelWrapper,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// Decodes ids one by one and never returns half a character: bytes wait until
/// their character is complete.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    inner: Inner<'a>,
    /// Ids whose text has not been returned.
    pending: Vec<u32>,
}

impl<'a> TextStream<'a> {
    /// Starts behind `before`.
    pub(super) fn after(tokenizer: &'a Tokenizer, before: &[u32]) -> Result<Self, TokenizerError> {
        let mut stream = Self {
            tokenizer,
            inner: tokenizer.inner().decode_stream(true),
            pending: Vec::new(),
        };
        // One token is enough to know that this is not the beginning.
        for id in before.last_chunk::<1>().into_iter().flatten() {
            stream.push(*id)?;
            stream.pending.clear();
        }
        Ok(stream)
    }

    /// Takes the next id and returns the text that it completes, which may be
    /// empty.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        let text = self
            .inner
            .step(id)
            .map_err(|source| TokenizerError::Decode { source })?;
        if let Some(text) = text {
            self.pending.clear();
            Ok(text)
        } else {
            self.pending.push(id);
            Ok(String::new())
        }
    }

    /// Returns the text that waited for more: what is left of a character at
    /// the end of the stream, as U+FFFD.
    pub fn finish(self) -> Result<String, TokenizerError> {
        self.tokenizer.decode(&self.pending, false)
    }
}

impl std::fmt::Debug for TextStream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextStream")
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}
