//! What a scheduler needs of an engine.

use bitnet_core::Isa;

use crate::engine::{Engine, ForwardError, Input};
use crate::kv_cache::{SequenceError, SequenceHandle};

/// Computes steps for a batch of sequences. [`Engine`] is one; tests have another.
///
/// The methods are those of [`Engine`].
#[expect(missing_docs, reason = "they are documented at `Engine`")]
pub trait StepEngine {
    fn isa(&self) -> Isa;
    fn vocab_size(&self) -> usize;
    fn context_len(&self) -> usize;
    fn n_sequences(&self) -> usize;
    fn batch_tokens(&self) -> usize;
    fn len(&self, sequence: usize) -> usize;
    fn tokens(&self, sequence: usize) -> &[u32];
    fn start(&mut self, prompt: &[u32], max_len: usize) -> Result<SequenceHandle, SequenceError>;
    fn truncate(&mut self, sequence: usize, len: usize);
    fn release_guarantee(&mut self, sequence: usize);
    fn finish(&mut self, sequence: usize);
    fn forward(
        &mut self,
        inputs: &[Input<'_>],
        on_logits: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<(), ForwardError>;
    fn normalized(&self, hidden: Vec<f32>) -> Result<Vec<f32>, ForwardError>;
}

impl StepEngine for Engine {
    fn isa(&self) -> Isa {
        self.plan().isa
    }

    fn vocab_size(&self) -> usize {
        self.model().config().vocab_size
    }

    fn context_len(&self) -> usize {
        self.plan().context_len
    }

    fn n_sequences(&self) -> usize {
        self.plan().n_sequences
    }

    fn batch_tokens(&self) -> usize {
        self.plan().batch_tokens
    }

    fn len(&self, sequence: usize) -> usize {
        Engine::len(self, sequence)
    }

    fn tokens(&self, sequence: usize) -> &[u32] {
        Engine::tokens(self, sequence)
    }

    fn start(&mut self, prompt: &[u32], max_len: usize) -> Result<SequenceHandle, SequenceError> {
        Engine::start(self, prompt, max_len)
    }

    fn truncate(&mut self, sequence: usize, len: usize) {
        Engine::truncate(self, sequence, len);
    }

    fn release_guarantee(&mut self, sequence: usize) {
        Engine::release_guarantee(self, sequence);
    }

    fn finish(&mut self, sequence: usize) {
        Engine::finish(self, sequence);
    }

    fn forward(
        &mut self,
        inputs: &[Input<'_>],
        on_logits: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<(), ForwardError> {
        Engine::forward(self, inputs, on_logits)
    }

    fn normalized(&self, hidden: Vec<f32>) -> Result<Vec<f32>, ForwardError> {
        Engine::normalized(self, hidden)
    }
}
