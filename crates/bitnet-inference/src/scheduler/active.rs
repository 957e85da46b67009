//! A task from its submission to its end.

use std::ops::{ControlFlow, Range};

use super::StepEngine;
use super::task::{Task, TaskError, TaskEvent, TaskId, TaskUsage, Work};
use crate::chooser::{Chooser, Chosen, TextEnd};
use crate::generate::{FinishReason, GenerateError};
use crate::logits::Logits;
use crate::logprobs::TokenLogprobs;
use crate::sampler::TokenChoice;
use crate::speculation::Drafter;

/// Generated tokens that are computed in one step without counting as a prompt: what a
/// constraint forces is usually shorter.
const MAX_DECODE: usize = 16;

pub(super) type OnEvent<'a> = dyn FnMut(TaskId, TaskEvent) -> ControlFlow<()> + 'a;

/// A task without a sequence.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) id: TaskId,
    /// Prompt and generated tokens.
    pub(super) tokens: Vec<u32>,
    pub(super) n_prompt: usize,
    /// Prompt tokens that were shared when the task started first.
    pub(super) n_cached: Option<usize>,
    pub(super) state: State,
}

/// What a task is for, with its progress.
#[derive(Debug)]
pub(super) enum State {
    Generate(Box<Generating>),
    Embed,
}

#[derive(Debug)]
pub(super) struct Generating {
    pub(super) chooser: Chooser,
    pub(super) drafter: Drafter,
    /// Maximum length of prompt and text.
    pub(super) max_len: usize,
    pub(super) prompt_logprobs: Option<usize>,
    /// Of the prompt's tokens from the second on.
    pub(super) scores: Vec<TokenLogprobs>,
}

/// A task with a sequence of the engine.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) task: Active,
    pub(super) sequence: usize,
}

/// The tokens of a running task that a step computes.
#[derive(Clone, Debug)]
pub(super) struct Share {
    /// Index of the task.
    pub(super) index: usize,
    /// The tokens, by position.
    pub(super) range: Range<usize>,
    /// Tokens that may follow them.
    pub(super) draft: Vec<u32>,
    pub(super) is_decode: bool,
    pub(super) logits: Logits,
}

/// What was computed for a share.
#[derive(Debug, Default)]
pub(super) struct Computed {
    pub(super) chosen: Chosen,
    pub(super) scores: Vec<TokenLogprobs>,
    pub(super) hidden: Option<Vec<f32>>,
}

impl Running {
    /// Returns whether the next step continues the text, and not the prompt.
    pub(super) fn is_decode(&self, engine: &impl StepEngine) -> bool {
        let n_computed = engine.len(self.sequence);
        let n_pending = self.task.tokens.len() - n_computed;
        n_computed >= self.task.n_prompt && n_pending <= MAX_DECODE
    }

    pub(super) fn share(&self, index: usize, range: Range<usize>, is_decode: bool) -> Share {
        Share {
            index,
            logits: self.task.logits(&range, 0),
            range,
            draft: Vec::new(),
            is_decode,
        }
    }
}

impl Active {
    pub(super) fn new(id: TaskId, task: Task, engine: &impl StepEngine) -> Result<Self, TaskError> {
        task.validate(engine)?;
        let n_prompt = task.prompt.len();
        let state = match task.work {
            Work::Embed => State::Embed,
            Work::Generate(task) => {
                let left = engine.context_len() - n_prompt + 1;
                let choice = TokenChoice::new(task.sampling)
                    .map_err(GenerateError::from)?
                    .with_bias(task.logit_bias);
                State::Generate(Box::new(Generating {
                    chooser: Chooser::new(choice, task.constraint, task.logprobs)
                        .with_processor(task.processor),
                    drafter: Drafter::default(),
                    max_len: n_prompt + task.max_tokens.min(left),
                    prompt_logprobs: task.prompt_logprobs,
                    scores: Vec::new(),
                }))
            }
        };
        Ok(Self {
            id,
            tokens: task.prompt,
            n_prompt,
            n_cached: None,
            state,
        })
    }

    /// Returns whether logits of the prompt are still to be computed.
    pub(super) fn needs_prompt_logits(&self) -> bool {
        match &self.state {
            State::Generate(generating) => {
                generating.prompt_logprobs.is_some() && generating.scores.len() + 1 < self.n_prompt
            }
            State::Embed => false,
        }
    }

    /// Returns the logits that tokens at these positions need, with so many drafted tokens
    /// after them.
    pub(super) fn logits(&self, range: &Range<usize>, n_drafted: usize) -> Logits {
        let is_last = range.end == self.tokens.len();
        match &self.state {
            State::Embed if is_last => Logits::Hidden,
            State::Generate(_) if self.needs_prompt_logits() => Logits::All,
            State::Generate(generating) if is_last && self.tokens.len() < generating.max_len => {
                generating.chooser.logits(n_drafted)
            }
            _ => Logits::None,
        }
    }

    pub(super) fn usage(&self) -> TaskUsage {
        TaskUsage {
            n_prompt: self.n_prompt,
            n_cached: self.n_cached.unwrap_or(0),
            n_generated: self.tokens.len() - self.n_prompt,
        }
    }

    /// Applies what was computed. Returns whether the task has ended.
    pub(super) fn apply(
        &mut self,
        share: &Share,
        computed: Computed,
        engine: &impl StepEngine,
        on_event: &mut OnEvent<'_>,
    ) -> bool {
        let id = self.id;
        if let Some(hidden) = computed.hidden {
            let event = match engine.normalized(hidden) {
                Ok(embedding) => TaskEvent::Embedding(embedding, self.usage()),
                Err(error) => TaskEvent::Failed(GenerateError::from(error).into()),
            };
            let _ = on_event(id, event);
            return true;
        }
        let State::Generate(generating) = &mut self.state else {
            return false;
        };
        // A task that was put back has told of its prompt already.
        if share.range.start < self.n_prompt && self.tokens.len() == self.n_prompt {
            generating.scores.extend(computed.scores);
            let (done, total) = (share.range.end, self.n_prompt);
            let mut flow = on_event(id, TaskEvent::Prefill { done, total });
            if done == total && generating.prompt_logprobs.take().is_some() {
                let scores = std::mem::take(&mut generating.scores);
                flow = on_event(id, TaskEvent::PromptLogprobs(scores));
            }
            if flow.is_break() {
                return self.finish(FinishReason::Stop, on_event);
            }
        }
        if share.range.end < self.tokens.len() {
            return false;
        }
        let Chosen { tokens, end, .. } = computed.chosen;
        if tokens.is_empty() && end.is_none() {
            // No token was asked for.
            return self.finish(FinishReason::Length, on_event);
        }
        for token in tokens {
            if let Some(reason) = self.emit(token.id, token.logprobs, on_event) {
                return self.finish(reason, on_event);
            }
        }
        match end {
            None => false,
            Some(TextEnd::Eos(token)) => {
                if let Some(scored) = token.logprobs {
                    // The text has ended, whatever the answer is.
                    let _ = on_event(id, TaskEvent::End(scored));
                }
                self.finish(FinishReason::Eos, on_event)
            }
            Some(TextEnd::Complete) => self.finish(FinishReason::Eos, on_event),
            Some(TextEnd::Failed(error)) => {
                let error = GenerateError::from(error).into();
                let _ = on_event(id, TaskEvent::Failed(error));
                true
            }
        }
    }

    /// Appends a token and reports it. Returns why the text ends with it, if it does.
    pub(super) fn emit(
        &mut self,
        token: u32,
        logprobs: Option<TokenLogprobs>,
        on_event: &mut OnEvent<'_>,
    ) -> Option<FinishReason> {
        self.tokens.push(token);
        if on_event(self.id, TaskEvent::Token { token, logprobs }).is_break() {
            return Some(FinishReason::Stop);
        }
        match &self.state {
            State::Generate(generating) if self.tokens.len() >= generating.max_len => {
                Some(FinishReason::Length)
            }
            _ => None,
        }
    }

    pub(super) fn finish(&self, reason: FinishReason, on_event: &mut OnEvent<'_>) -> bool {
        let usage = self.usage();
        let _ = on_event(self.id, TaskEvent::Finished { reason, usage });
        true
    }
}
