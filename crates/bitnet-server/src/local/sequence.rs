//! Sequences that a caller computes token by token, beside the texts of requests.
//!
//! - *Invariant:* whatever callers hold, one text of a full context can be computed.

use std::sync::{Arc, Mutex, PoisonError};

use bitnet_core::KvPage;
use bitnet_inference::{Engine, ForwardError, Input, Logits, Plan, Scheduler, SequenceError};

use super::{LocalError, Shared};
use crate::job::{Command, EngineWork};

/// What sequences may take of an engine.
#[derive(Debug)]
pub(super) struct Limits {
    max_sequences: usize,
    /// Pages that they may have, counted without sharing.
    free_pages: usize,
    max_pages: usize,
    /// Those that are held.
    held: Mutex<Vec<usize>>,
}

impl Limits {
    pub(super) fn new(plan: &Plan, max_running: usize) -> Self {
        Self {
            max_sequences: plan.n_sequences.saturating_sub(max_running),
            free_pages: plan.kv_pages.saturating_sub(n_pages(plan.context_len)),
            max_pages: plan.kv_pages,
            held: Mutex::default(),
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Vec<usize>) -> T) -> T {
        change(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a sequence to those that are held.
    fn hold(&self, start: impl FnOnce() -> Result<usize, LocalError>) -> Result<usize, LocalError> {
        self.with(|held| {
            if held.len() >= self.max_sequences {
                let max = self.max_sequences;
                return Err(LocalError::TooManySequences { max });
            }
            let sequence = start()?;
            held.push(sequence);
            Ok(sequence)
        })
    }

    /// Checks whether there may be `n_new` more positions: of a sequence that is held, or of
    /// another one.
    fn check(
        &self,
        engine: &Engine,
        sequence: Option<usize>,
        n_new: usize,
    ) -> Result<(), LocalError> {
        let len = sequence.map_or(0, |sequence| engine.len(sequence)) + n_new;
        let context_len = engine.plan().context_len;
        if len > context_len {
            let needed = len;
            return Err(SequenceError::ContextFull {
                needed,
                context_len,
            }
            .into());
        }
        let needed = self.with(|held| {
            let others = held.iter().filter(|other| Some(**other) != sequence);
            let of_others: usize = others.map(|other| n_pages(engine.len(*other))).sum();
            of_others + n_pages(len)
        });
        let (free, max_pages) = (self.free_pages, self.max_pages);
        if needed > free {
            return Err(LocalError::SequencePages {
                needed,
                free,
                max_pages,
            });
        }
        Ok(())
    }
}

fn n_pages(n_positions: usize) -> usize {
    n_positions.div_ceil(KvPage::POSITIONS)
}

/// A sequence of tokens whose keys and values are in the model's cache. Dropping it releases
/// them.
///
/// Each method waits until the thread of the model has done it, between two steps of the
/// texts of requests.
#[derive(Debug)]
pub struct LocalSequence {
    shared: Arc<Shared>,
    sequence: usize,
}

impl LocalSequence {
    /// Starts a sequence with the longest prefix of these tokens that is in the cache. The
    /// last token is never part of it, as its logits are needed.
    pub(super) fn new(shared: &Arc<Shared>, tokens: Vec<u32>) -> Result<(Self, usize), LocalError> {
        let at = Arc::clone(shared);
        let (sequence, n_reused) = on_engine(shared, move |engine, scheduler| {
            at.limits.check(engine, None, tokens.len())?;
            let mut n_reused = 0;
            let sequence = at.limits.hold(|| {
                let handle = evicting(engine, scheduler, |engine| engine.start(&tokens, 0))?;
                n_reused = handle.n_reused;
                Ok(handle.sequence)
            })?;
            engine.release_guarantee(sequence);
            Ok((sequence, n_reused))
        })?;
        let shared = Arc::clone(shared);
        Ok((Self { shared, sequence }, n_reused))
    }

    /// Appends tokens, and adds the logits that are asked for to `rows`: `[vocab_size]` each,
    /// in the order of the tokens.
    ///
    /// # Errors
    ///
    /// Returns an error if a token is not in the vocabulary, the context or the cache is full,
    /// or the model cannot be computed. The sequence is then unchanged.
    pub fn append(
        &self,
        tokens: Vec<u32>,
        logits: Logits,
        mut rows: Vec<f32>,
    ) -> Result<Vec<f32>, LocalError> {
        let sequence = self.sequence;
        let at = Arc::clone(&self.shared);
        on_engine(&self.shared, move |engine, scheduler| {
            at.limits.check(engine, Some(sequence), tokens.len())?;
            let input = Input {
                sequence,
                tokens: &tokens,
                logits,
            };
            let n_before = rows.len();
            loop {
                let add = |_, _, row: &[f32]| rows.extend_from_slice(row);
                match engine.forward(&[input], add) {
                    Ok(()) => return Ok(rows),
                    Err(ForwardError::Grow(SequenceError::PagesExhausted { .. }))
                        if scheduler.evict(engine) => {}
                    Err(error) => return Err(error.into()),
                }
                rows.truncate(n_before);
            }
        })
    }

    /// Returns another sequence with the same tokens. Both share pages until they differ.
    ///
    /// # Errors
    ///
    /// Returns an error if there are as many as may be, or the cache is full.
    pub fn fork(&self) -> Result<Self, LocalError> {
        let source = self.sequence;
        let at = Arc::clone(&self.shared);
        let sequence = on_engine(&self.shared, move |engine, scheduler| {
            at.limits.check(engine, None, engine.len(source))?;
            let sequence = at
                .limits
                .hold(|| evicting(engine, scheduler, |engine| engine.fork(source, 0)))?;
            engine.release_guarantee(sequence);
            Ok(sequence)
        })?;
        let shared = Arc::clone(&self.shared);
        Ok(Self { shared, sequence })
    }

    /// Keeps only the first `len` tokens.
    ///
    /// # Errors
    ///
    /// Returns an error if there are fewer.
    pub fn truncate(&self, wanted: usize) -> Result<(), LocalError> {
        let sequence = self.sequence;
        on_engine(&self.shared, move |engine, _| {
            let len = engine.len(sequence);
            if wanted > len {
                return Err(LocalError::Truncate { len, wanted });
            }
            engine.truncate(sequence, wanted);
            Ok(())
        })
    }

    /// Returns the number of its tokens.
    ///
    /// # Errors
    ///
    /// Returns an error if the model was closed.
    #[expect(clippy::len_without_is_empty, reason = "it asks another thread")]
    pub fn len(&self) -> Result<usize, LocalError> {
        let sequence = self.sequence;
        on_engine(&self.shared, move |engine, _| Ok(engine.len(sequence)))
    }

    /// Returns its tokens.
    ///
    /// # Errors
    ///
    /// Returns an error if the model was closed.
    pub fn tokens(&self) -> Result<Vec<u32>, LocalError> {
        let sequence = self.sequence;
        on_engine(&self.shared, move |engine, _| {
            Ok(engine.tokens(sequence).to_vec())
        })
    }
}

impl Drop for LocalSequence {
    fn drop(&mut self) {
        let (sequence, at) = (self.sequence, Arc::clone(&self.shared));
        let finish = EngineWork(Box::new(move |engine, _| {
            engine.finish(sequence);
            at.limits
                .with(|held| held.retain(|other| *other != sequence));
        }));
        // A worker that has ended has no sequences any more.
        let _ = self.shared.model.commands.send(Command::Engine(finish));
    }
}

/// Does something that takes pages, and drops prefixes of finished texts as long as there are
/// too few.
fn evicting<T>(
    engine: &mut Engine,
    scheduler: &mut Scheduler,
    mut start: impl FnMut(&mut Engine) -> Result<T, SequenceError>,
) -> Result<T, LocalError> {
    loop {
        match start(engine) {
            Ok(started) => return Ok(started),
            Err(SequenceError::PagesExhausted { .. } | SequenceError::NoneIdle { .. })
                if scheduler.evict(engine) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Has the thread of the model do something, and waits for it.
fn on_engine<T: Send + 'static>(
    shared: &Shared,
    work: impl FnOnce(&mut Engine, &mut Scheduler) -> Result<T, LocalError> + Send + 'static,
) -> Result<T, LocalError> {
    let (sender, done) = std::sync::mpsc::channel();
    let work = EngineWork(Box::new(move |engine, scheduler| {
        // Somebody waits for it.
        let _ = sender.send(work(engine, scheduler));
    }));
    let commands = &shared.model.commands;
    let sent = commands.send(Command::Engine(work));
    sent.map_err(|_| LocalError::Closed)?;
    done.recv().map_err(|_| LocalError::Closed)?
}
