//! Chooses the tokens of one text: sampling, a constraint, and the check of drafts.

use bitnet_core::Isa;

use crate::constraint::{Constraint, ConstraintError};
use crate::logits::Logits;
use crate::logits_processor::{LogitsProcessor, LogitsProcessorError};
use crate::logprobs::{TokenLogprobs, token_logprobs};
use crate::sampler::{Position, SamplerBuffers, TokenChoice};
use crate::token_set::TokenSet;

/// How the tokens of one text are chosen, and how far its random numbers and its constraint
/// are.
#[derive(Debug)]
pub(crate) struct Chooser {
    choice: TokenChoice,
    constraint: Option<Box<dyn Constraint>>,
    /// Number of most likely tokens reported with each log-probability.
    logprobs: Option<usize>,
    processor: Option<Box<dyn LogitsProcessor>>,
}

/// Buffers that the texts of an engine share.
#[derive(Debug)]
pub(crate) struct ChooserBuffers {
    sampler: SamplerBuffers,
    allowed: TokenSet,
    /// The logits that a processor changed, `[vocab_size]`.
    processed: Vec<f32>,
}

impl ChooserBuffers {
    pub(crate) fn new(isa: Isa, vocab_size: usize) -> Self {
        Self {
            sampler: SamplerBuffers::new(isa, vocab_size),
            allowed: TokenSet::new(vocab_size),
            processed: Vec::new(),
        }
    }
}

/// A position of a text whose logits were computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    /// `[vocab_size]`
    pub(crate) logits: &'a [f32],
    /// All tokens up to the position, drafted ones included.
    pub(crate) history: &'a [u32],
    /// How many of them are the prompt.
    pub(crate) n_prompt: usize,
    /// How many of them are drafted.
    pub(crate) n_drafted: usize,
}

/// What a pass added to a text.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    /// The tokens, sampled or forced by the constraint.
    pub(crate) tokens: Vec<ChosenToken>,
    /// Why the text ends after them, if it does.
    pub(crate) end: Option<TextEnd>,
    /// How many of the tokens were sampled, an end-of-generation token included.
    pub(crate) n_sampled: usize,
    /// The random numbers before the first one.
    random: Option<u128>,
}

/// A token of a text.
#[derive(Debug)]
pub(crate) struct ChosenToken {
    pub(crate) id: u32,
    /// If asked for.
    pub(crate) logprobs: Option<TokenLogprobs>,
}

/// Why a text ends.
#[derive(Debug)]
pub(crate) enum TextEnd {
    /// An end-of-generation token was sampled.
    Eos(ChosenToken),
    /// The constraint allows no further token.
    Complete,
    /// No token can be chosen.
    Failed(ChooseError),
}

/// No token can be chosen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ChooseError {
    /// Every logit is NaN or minus infinity.
    NoCandidate,
    Constraint(ConstraintError),
    Processor(LogitsProcessorError),
}

impl From<ConstraintError> for ChooseError {
    fn from(error: ConstraintError) -> Self {
        Self::Constraint(error)
    }
}

impl From<LogitsProcessorError> for ChooseError {
    fn from(error: LogitsProcessorError) -> Self {
        Self::Processor(error)
    }
}

impl Chosen {
    /// Returns how many leading tokens are those of a draft.
    pub(crate) fn n_accepted(&self, draft: &[u32]) -> usize {
        let same = self.tokens.iter().zip(draft);
        same.take_while(|(token, drafted)| token.id == **drafted)
            .count()
    }
}

impl Chooser {
    pub(crate) fn new(
        choice: TokenChoice,
        constraint: Option<Box<dyn Constraint>>,
        logprobs: Option<usize>,
    ) -> Self {
        Self {
            choice,
            constraint,
            logprobs,
            processor: None,
        }
    }

    /// Returns the same with a processor of the logits, if there is one.
    pub(crate) fn with_processor(self, processor: Option<Box<dyn LogitsProcessor>>) -> Self {
        Self { processor, ..self }
    }

    /// Returns whether tokens may be drafted: a processor sees only tokens of the text.
    pub(crate) fn takes_drafts(&self) -> bool {
        self.processor.is_none()
    }

    /// Returns the logits that the choice after so many drafted tokens needs.
    pub(crate) fn logits(&self, n_drafted: usize) -> Logits {
        if n_drafted > 0 {
            Logits::Tail(n_drafted + 1)
        } else if self.logprobs.is_some() || self.constraint.is_some() || self.processor.is_some() {
            Logits::Last
        } else {
            self.choice.logits()
        }
    }

    /// Chooses the token after a row, and those that the constraint forces after it. Rows
    /// come in the order of their positions; those that are not part of the text, because
    /// another token than the drafted one was chosen, are left out.
    pub(crate) fn choose(
        &mut self,
        buffers: &mut ChooserBuffers,
        row: Row<'_>,
        is_end: &dyn Fn(u32) -> bool,
        chosen: &mut Chosen,
    ) {
        let draft = &row.history[row.history.len() - row.n_drafted..];
        let is_next = chosen.tokens.len() == row.n_drafted;
        if chosen.end.is_some() || !is_next || chosen.n_accepted(draft) < row.n_drafted {
            return;
        }
        if let Err(error) = self.choose_next(buffers, row, is_end, chosen) {
            chosen.end = Some(TextEnd::Failed(error));
        }
    }

    fn choose_next(
        &mut self,
        buffers: &mut ChooserBuffers,
        row: Row<'_>,
        is_end: &dyn Fn(u32) -> bool,
        chosen: &mut Chosen,
    ) -> Result<(), ChooseError> {
        let ChooserBuffers {
            sampler,
            allowed,
            processed,
        } = buffers;
        if let Some(constraint) = &mut self.constraint {
            constraint.allowed(allowed)?;
        }
        let logits = match &mut self.processor {
            Some(processor) => {
                processed.clear();
                processed.extend_from_slice(row.logits);
                processor.process(row.history, processed)?;
                processed.as_slice()
            }
            None => row.logits,
        };
        let position = Position {
            logits,
            history: row.history,
            n_prompt: row.n_prompt,
            allowed: self.constraint.is_some().then_some(&*allowed),
        };
        chosen
            .random
            .get_or_insert_with(|| self.choice.random_position());
        let id = self.choice.sample(sampler, position);
        let id = id.ok_or(ChooseError::NoCandidate)?;
        chosen.n_sampled += 1;
        let logprobs = (self.logprobs).map(|k| token_logprobs(sampler.isa(), row.logits, id, k));
        let token = ChosenToken { id, logprobs };
        if is_end(id) {
            chosen.end = Some(TextEnd::Eos(token));
            return Ok(());
        }
        let Some(constraint) = &mut self.constraint else {
            chosen.tokens.push(token);
            return Ok(());
        };
        constraint.accept(id)?;
        chosen.tokens.push(token);
        if !constraint.is_complete() {
            // The constraint leaves no choice: the probability of such a token is 1.
            let forced = constraint.forced()?.into_iter().map(|id| ChosenToken {
                id,
                logprobs: self.logprobs.map(|_| TokenLogprobs::certain(id)),
            });
            chosen.tokens.extend(forced);
        }
        if constraint.is_complete() {
            chosen.end = Some(TextEnd::Complete);
        }
        Ok(())
    }

    /// Takes back what was chosen in a pass that failed.
    pub(crate) fn undo(&mut self, chosen: &Chosen) {
        if let Some(random) = chosen.random {
            self.choice.set_random_position(random);
        }
        if let Some(constraint) = &mut self.constraint {
            constraint.rollback(chosen.tokens.len());
        }
    }
}
