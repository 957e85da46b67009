//! Runs many tasks on one engine: which tokens each step computes.
//!
//! ```text
//! submit ──► queues, one per client ──► running ──► finished ──► cached prefixes
//!                  ▲  round-robin          │
//!                  └───── preempted ◄──────┘  when no page is free
//! ```
//!
//! A step computes the next token of each running generation, and then as many prompt
//! positions as its caller allows. A finished sequence stays in the KV cache until its
//! pages are needed: later tasks that begin with the same tokens share them. When no page
//! is free, the youngest task is put back, and later computed again.
//!
//! - *Invariant:* the tokens of a task depend on nothing but the task: the engine's logits
//!   are the same in any batch and with any shared prefix, and each task has its own
//!   random numbers.
//!
//! The scheduler has no clock, no threads and no channels.

mod active;
mod engine;
mod prefill_budget;
mod queue;
mod task;

use std::ops::ControlFlow;

use bitnet_core::KvPage;

use self::active::{Active, Computed, OnEvent, Running, Share, State};
use self::queue::{ClientQueues, Waiting};
use crate::chooser::{ChooserBuffers, Row};
use crate::engine::{ForwardError, Input};
use crate::generate::GenerateError;
use crate::kv_cache::SequenceError;
use crate::logprobs::token_logprobs;
use crate::speculation::{MAX_ROWS, draft_lengths};
use crate::token_set::TokenSet;

pub use self::engine::StepEngine;
pub use self::prefill_budget::PrefillBudget;
pub use self::task::{GenerationTask, Task, TaskError, TaskEvent, TaskId, TaskUsage, Work};

/// Sequences shorter than this are not kept after their end.
const MIN_CACHED: usize = 16;

/// A task waits for another one's prompt if they share at least this many tokens more than
/// are computed.
const MIN_SHARED: usize = 16;

/// The limits of a scheduler.
#[derive(Clone, Debug)]
pub struct SchedulerOptions {
    /// Maximum number of tasks that run at the same time. The engine has at least as many
    /// sequences; what it has more keeps the prefixes of finished tasks.
    pub max_running: usize,
    /// Maximum number of tasks that wait although as many run as may.
    pub max_waiting: usize,
    /// The tokens that end a generation.
    pub end_tokens: TokenSet,
}

/// Decides what an engine computes for many tasks.
#[derive(Debug)]
pub struct Scheduler {
    options: SchedulerOptions,
    next_id: u64,
    waiting: ClientQueues,
    /// Tasks that lost their pages, oldest first.
    preempted: Vec<Active>,
    /// In the order of their start.
    running: Vec<Running>,
    /// Sequences of finished tasks, least recently used first.
    cached: Vec<usize>,
    /// The task whose prompt is served first in the next step.
    next_prefill: Option<TaskId>,
    buffers: Option<ChooserBuffers>,
    counts: SchedulerCounts,
}

/// What a scheduler has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerCounts {
    /// Prompt tokens that were started, those shared with other sequences included.
    pub prompt_tokens: u64,
    /// Those of them that were in the KV cache.
    pub cached_tokens: u64,
    /// Generated tokens.
    pub generated_tokens: u64,
    /// Tasks that were put back for lack of pages.
    pub preemptions: u64,
    /// Tokens that were drafted.
    pub drafted_tokens: u64,
    /// Those of them that became part of a text.
    pub accepted_tokens: u64,
}

/// What a step may compute besides the next token of each generation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepLimits {
    /// Maximum number of prompt positions.
    pub max_prefill: usize,
    /// The time of a drafted row, as a share of the time of a step without drafts; `None` for
    /// no drafts. The texts are the same.
    pub draft_cost: Option<f64>,
}

/// What a step computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepReport {
    /// Generations that got their next token.
    pub n_decodes: usize,
    /// Prompt positions computed.
    pub n_prefill: usize,
    /// Drafted tokens computed.
    pub n_drafted: usize,
    /// Whether other rows were computed than one per generation and the drafted ones.
    pub has_other_rows: bool,
}

impl Scheduler {
    /// Returns a scheduler without tasks.
    pub fn new(options: SchedulerOptions) -> Self {
        Self {
            options,
            next_id: 0,
            waiting: ClientQueues::default(),
            preempted: Vec::new(),
            running: Vec::new(),
            cached: Vec::new(),
            next_prefill: None,
            buffers: None,
            counts: SchedulerCounts::default(),
        }
    }

    /// Returns the number of tasks that can still be submitted.
    pub fn room(&self) -> usize {
        let n_idle = self.options.max_running.saturating_sub(self.running.len());
        (self.options.max_waiting + n_idle).saturating_sub(self.n_waiting())
    }

    /// Returns the number of waiting tasks, preempted ones included.
    pub fn n_waiting(&self) -> usize {
        self.waiting.len() + self.preempted.len()
    }

    /// Returns the number of running tasks.
    pub fn n_running(&self) -> usize {
        self.running.len()
    }

    /// Returns the number of running tasks whose next step is a single token.
    pub fn n_decodes(&self, engine: &impl StepEngine) -> usize {
        let decodes = self.running.iter().filter(|r| r.is_decode(engine));
        decodes.count()
    }

    /// Returns whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.n_waiting() == 0
    }

    /// Returns what was done so far.
    pub fn counts(&self) -> SchedulerCounts {
        self.counts
    }

    /// Adds a task of a client. Clients take turns, whatever the number of their tasks.
    ///
    /// # Errors
    ///
    /// Returns an error if the task is impossible for the engine, or too many are waiting.
    pub fn submit(
        &mut self,
        engine: &impl StepEngine,
        client: u64,
        task: Task,
    ) -> Result<TaskId, TaskError> {
        if self.room() == 0 {
            return Err(TaskError::QueueFull {
                max_waiting: self.options.max_waiting,
            });
        }
        let task = Active::new(TaskId(self.next_id), task, engine)?;
        self.next_id += 1;
        let id = task.id;
        self.waiting.push(client, Waiting(task));
        Ok(id)
    }

    /// Ends a task, wherever it is, without an event. Its pages are free at once; an unknown
    /// task is ignored.
    pub fn cancel(&mut self, engine: &mut impl StepEngine, id: TaskId) {
        self.waiting.remove(id);
        self.preempted.retain(|task| task.id != id);
        if let Some(index) = self.running.iter().position(|r| r.task.id == id) {
            let running = self.running.remove(index);
            self.retire(engine, running.sequence);
        }
    }

    /// Returns the sequences of finished tasks, least recently used first.
    pub fn cached(&self) -> &[usize] {
        &self.cached
    }

    /// Keeps a sequence as a prefix for later tasks, as one of a finished task. The scheduler
    /// finishes it.
    pub fn keep(&mut self, engine: &mut impl StepEngine, sequence: usize) {
        self.retire(engine, sequence);
    }

    /// Releases the pages of all finished tasks.
    pub fn clear_cache(&mut self, engine: &mut impl StepEngine) {
        for sequence in self.cached.drain(..) {
            engine.finish(sequence);
        }
    }

    /// Runs one step: the next token of each generation, and what the limits allow besides.
    /// Passes what happened to `on_event`, which may end a generation with `Break`, as after a
    /// stop sequence.
    pub fn step(
        &mut self,
        engine: &mut impl StepEngine,
        limits: StepLimits,
        mut on_event: impl FnMut(TaskId, TaskEvent) -> ControlFlow<()>,
    ) -> StepReport {
        let on_event: &mut OnEvent<'_> = &mut on_event;
        self.admit(engine);
        let mut draft_cost = limits.draft_cost;
        loop {
            let mut shares = self.shares(engine, limits.max_prefill);
            if shares.is_empty() {
                return StepReport::default();
            }
            let has_drafts = draft_cost.is_some_and(|cost| self.draft(engine, &mut shares, cost));
            match self.forward(engine, &shares) {
                Ok(computed) => return self.advance(engine, &shares, computed, on_event),
                // Drafts take no pages from others, and what was drafted may be what cannot be
                // computed.
                Err(_) if has_drafts => draft_cost = None,
                Err(ForwardError::Grow(SequenceError::PagesExhausted { .. }))
                    if self.evict(engine) || self.preempt(engine) => {}
                Err(error) if shares.len() == 1 => {
                    self.fail(
                        engine,
                        shares[0].index,
                        GenerateError::from(error).into(),
                        on_event,
                    );
                }
                Err(_) => return self.step_each(engine, &shares, on_event),
            }
        }
    }

    /// Runs the shares of a failed step one by one: an error of one task is no other's.
    fn step_each(
        &mut self,
        engine: &mut impl StepEngine,
        shares: &[Share],
        on_event: &mut OnEvent<'_>,
    ) -> StepReport {
        let mut report = StepReport {
            // Its time is that of several passes.
            has_other_rows: true,
            ..StepReport::default()
        };
        // From the last on, since a task that ends moves those behind it.
        let mut shares = shares.to_vec();
        shares.sort_by_key(|share| std::cmp::Reverse(share.index));
        for share in shares {
            let share = std::slice::from_ref(&share);
            match self.forward(engine, share) {
                Ok(computed) => {
                    let one = self.advance(engine, share, computed, on_event);
                    report.n_decodes += one.n_decodes;
                    report.n_prefill += one.n_prefill;
                }
                // The next step makes room.
                Err(ForwardError::Grow(SequenceError::PagesExhausted { .. })) => {}
                Err(error) => self.fail(
                    engine,
                    share[0].index,
                    GenerateError::from(error).into(),
                    on_event,
                ),
            }
        }
        report
    }

    /// Starts tasks while there is room: preempted ones first, then those of the clients in
    /// turn.
    fn admit(&mut self, engine: &mut impl StepEngine) {
        while self.running.len() < self.options.max_running && !self.preempted.is_empty() {
            let task = self.preempted.remove(0);
            if let Err(task) = self.start(engine, task) {
                self.preempted.insert(0, task);
                // Younger ones wait, or this one might never get its pages.
                return;
            }
        }
        while self.running.len() < self.options.max_running {
            let running = &self.running;
            let is_ready = |task: &Active| !waits_for_prefix(engine, running, task);
            let Some((turn, Waiting(task))) = self.waiting.take(|w| is_ready(&w.0)) else {
                return;
            };
            if let Err(task) = self.start(engine, task) {
                self.waiting.put_back(turn, Waiting(task));
                return;
            }
        }
    }

    /// Starts a task; returns it if there are too few pages.
    fn start(&mut self, engine: &mut impl StepEngine, mut task: Active) -> Result<(), Active> {
        // A page more than needed, so that it is not put back at once.
        let n_tokens = task.tokens.len();
        let max_len = (n_tokens + KvPage::POSITIONS).min(engine.context_len());
        let handle = loop {
            match engine.start(&task.tokens, max_len) {
                Ok(handle) => break handle,
                Err(_) if self.evict(engine) => {}
                Err(_) => return Err(task),
            }
        };
        let mut n_reused = handle.n_reused;
        if task.needs_prompt_logits() {
            engine.truncate(handle.sequence, 0);
            n_reused = 0;
        }
        if task.n_cached.is_none() {
            task.n_cached = Some(n_reused);
            self.counts.prompt_tokens += task.n_prompt as u64;
            self.counts.cached_tokens += n_reused as u64;
        }
        self.running.push(Running {
            task,
            sequence: handle.sequence,
        });
        Ok(())
    }

    /// Returns what the next step computes.
    fn shares(&mut self, engine: &impl StepEngine, max_prefill: usize) -> Vec<Share> {
        let pending = |r: &Running| engine.len(r.sequence)..r.task.tokens.len();
        let mut shares: Vec<_> = (self.running.iter().enumerate())
            .filter(|(_, r)| r.is_decode(engine))
            .map(|(index, r)| r.share(index, pending(r), true))
            .collect();
        let n_decodes: usize = shares.iter().map(|share| share.range.len()).sum();
        let mut left = max_prefill.min(engine.batch_tokens().saturating_sub(n_decodes));
        let mut prompts: Vec<usize> = (0..self.running.len())
            .filter(|&index| !self.running[index].is_decode(engine))
            .collect();
        let first = (prompts.iter())
            .position(|&index| Some(self.running[index].task.id) >= self.next_prefill);
        prompts.rotate_left(first.unwrap_or(0));
        let n_prompts = prompts.len();
        for (nth, &index) in prompts.iter().enumerate() {
            let running = &self.running[index];
            let mut range = pending(running);
            let n = range.len().min(left.div_ceil(n_prompts - nth));
            range.end = range.start + n;
            left -= n;
            if n > 0 {
                shares.push(running.share(index, range, false));
            }
        }
        // The one after the first: each is first in turn.
        self.next_prefill = prompts.get(1).map(|&index| self.running[index].task.id);
        shares
    }

    /// Drafts tokens for a step without prompts. Returns whether there are any.
    fn draft(&mut self, engine: &impl StepEngine, shares: &mut [Share], cost: f64) -> bool {
        let n_rows: usize = shares.iter().map(|share| share.range.len()).sum();
        let max_rows = MAX_ROWS.min(engine.batch_tokens()).saturating_sub(n_rows);
        if max_rows == 0 || shares.iter().any(|share| !share.is_decode) {
            return false;
        }
        let drafts: Vec<_> = (shares.iter())
            .map(|share| {
                let task = &mut self.running[share.index].task;
                let State::Generate(generating) = &mut task.state else {
                    return Vec::new();
                };
                if !generating.chooser.takes_drafts() {
                    return Vec::new();
                }
                generating.drafter.extend(&task.tokens, task.n_prompt);
                // The token after the draft is part of the text, too.
                let left = generating.max_len.saturating_sub(task.tokens.len() + 1);
                generating.drafter.draft(&task.tokens, left.min(max_rows))
            })
            .collect();
        let lengths = draft_lengths(&drafts, cost, max_rows);
        for ((share, draft), len) in shares.iter_mut().zip(drafts).zip(&lengths) {
            share.draft = draft[..*len].iter().map(|drafted| drafted.id).collect();
            let task = &self.running[share.index].task;
            share.logits = task.logits(&share.range, *len);
        }
        lengths.iter().any(|len| *len > 0)
    }

    /// Computes shares. If it fails, nothing has changed.
    fn forward(
        &mut self,
        engine: &mut impl StepEngine,
        shares: &[Share],
    ) -> Result<Vec<Computed>, ForwardError> {
        let isa = engine.isa();
        let vocab_size = engine.vocab_size();
        let buffers = (self.buffers).get_or_insert_with(|| ChooserBuffers::new(isa, vocab_size));
        let end_tokens = &self.options.end_tokens;
        for share in shares {
            let task = &mut self.running[share.index].task;
            task.tokens.extend_from_slice(&share.draft);
        }
        let mut inputs = Vec::with_capacity(shares.len());
        let mut states = Vec::with_capacity(shares.len());
        let mut by_index: Vec<Option<&mut Running>> = self.running.iter_mut().map(Some).collect();
        for share in shares {
            let running = by_index[share.index].take().expect("one share per task");
            let Running { task, sequence } = running;
            inputs.push(Input {
                sequence: *sequence,
                tokens: &task.tokens[share.range.start..share.range.end + share.draft.len()],
                logits: share.logits,
            });
            states.push((&task.tokens[..], task.n_prompt, &mut task.state));
        }
        let mut computed: Vec<Computed> = shares.iter().map(|_| Computed::default()).collect();
        let result = engine.forward(&inputs, &mut |input, token, logits| {
            let (tokens, n_prompt, state) = &mut states[input];
            let (computed, share) = (&mut computed[input], &shares[input]);
            let State::Generate(generating) = state else {
                computed.hidden = Some(logits.to_vec());
                return;
            };
            let next = share.range.start + token + 1;
            if let (Some(k), Some(&target)) = (
                generating.prompt_logprobs,
                tokens[..*n_prompt].get(next).filter(|_| next < *n_prompt),
            ) {
                // A task that was put back has the first of them already.
                if generating.scores.len() + computed.scores.len() < next {
                    let scored = token_logprobs(isa, logits, target, k);
                    computed.scores.push(scored);
                }
            }
            let len = tokens.len() - share.draft.len();
            if next >= len && next < generating.max_len {
                let row = Row {
                    logits,
                    history: &tokens[..next],
                    n_prompt: *n_prompt,
                    n_drafted: next - len,
                };
                let is_end = |id| end_tokens.contains(id);
                (generating.chooser).choose(buffers, row, &is_end, &mut computed.chosen);
            }
        });
        for (share, computed) in shares.iter().zip(&computed) {
            let Running { task, sequence } = &mut self.running[share.index];
            task.tokens.truncate(task.tokens.len() - share.draft.len());
            match (&result, &mut task.state) {
                (Ok(()), _) if share.draft.is_empty() => {}
                (Ok(()), _) => {
                    let n_accepted = computed.chosen.n_accepted(&share.draft);
                    engine.truncate(*sequence, task.tokens.len() + n_accepted);
                }
                (Err(_), State::Generate(generating)) => generating.chooser.undo(&computed.chosen),
                (Err(_), State::Embed) => {}
            }
        }
        result.map(|()| computed)
    }

    /// Applies what was computed, and ends the tasks that are done.
    fn advance(
        &mut self,
        engine: &mut impl StepEngine,
        shares: &[Share],
        computed: Vec<Computed>,
        on_event: &mut OnEvent<'_>,
    ) -> StepReport {
        let mut report = StepReport::default();
        let mut done = Vec::new();
        for (share, computed) in shares.iter().zip(computed) {
            let task = &mut self.running[share.index].task;
            if share.is_decode {
                report.n_decodes += 1;
                report.n_drafted += share.draft.len();
                report.has_other_rows |= share.range.len() > 1;
            } else {
                report.n_prefill += share.range.len();
                report.has_other_rows = true;
            }
            self.counts.drafted_tokens += share.draft.len() as u64;
            self.counts.accepted_tokens += computed.chosen.n_accepted(&share.draft) as u64;
            let n_before = task.tokens.len();
            if task.apply(share, computed, engine, on_event) {
                done.push(share.index);
            }
            self.counts.generated_tokens += (task.tokens.len() - n_before) as u64;
        }
        done.sort_unstable();
        for index in done.into_iter().rev() {
            let running = self.running.remove(index);
            self.retire(engine, running.sequence);
        }
        report
    }

    /// Ends a task with an error.
    fn fail(
        &mut self,
        engine: &mut impl StepEngine,
        index: usize,
        error: TaskError,
        on_event: &mut OnEvent<'_>,
    ) {
        let running = self.running.remove(index);
        engine.finish(running.sequence);
        let _ = on_event(running.task.id, TaskEvent::Failed(error));
    }

    /// Keeps a sequence as a prefix for later tasks, if that is worth a sequence.
    fn retire(&mut self, engine: &mut impl StepEngine, sequence: usize) {
        let max_cached = engine
            .n_sequences()
            .saturating_sub(self.options.max_running);
        if engine.len(sequence) < MIN_CACHED || max_cached == 0 {
            engine.finish(sequence);
            return;
        }
        // Those that this one begins with serve nobody more.
        let is_within = |engine: &_, other| {
            let tokens = StepEngine::tokens(engine, sequence);
            tokens.starts_with(StepEngine::tokens(engine, other))
        };
        let (within, kept): (Vec<_>, Vec<_>) =
            (self.cached.drain(..)).partition(|&other| is_within(&*engine, other));
        for other in within {
            engine.finish(other);
        }
        self.cached = kept;
        engine.release_guarantee(sequence);
        self.cached.push(sequence);
        while self.cached.len() > max_cached {
            engine.finish(self.cached.remove(0));
        }
    }

    /// Drops the least recently used prefix. Returns whether there was one.
    pub fn evict(&mut self, engine: &mut impl StepEngine) -> bool {
        if self.cached.is_empty() {
            return false;
        }
        engine.finish(self.cached.remove(0));
        true
    }

    /// Puts the youngest task back, unless it is the only one. Returns whether it was.
    fn preempt(&mut self, engine: &mut impl StepEngine) -> bool {
        let youngest = (0..self.running.len()).max_by_key(|&index| self.running[index].task.id);
        let Some(index) = youngest.filter(|_| self.running.len() > 1) else {
            return false;
        };
        let Running { task, sequence } = self.running.remove(index);
        engine.finish(sequence);
        self.counts.preemptions += 1;
        let at = self.preempted.partition_point(|other| other.id < task.id);
        self.preempted.insert(at, task);
        true
    }
}

/// Returns whether a running task is about to compute a longer common prefix with this task
/// than there is now.
fn waits_for_prefix(engine: &impl StepEngine, running: &[Running], task: &Active) -> bool {
    let common = |tokens: &[u32]| {
        let same = tokens.iter().zip(&task.tokens).take_while(|(a, b)| a == b);
        same.count().min(task.tokens.len() - 1)
    };
    running.iter().any(|other| {
        let n_computed = engine.len(other.sequence);
        n_computed < other.task.n_prompt
            && common(&other.task.tokens) >= n_computed + MIN_SHARED
            && !task.needs_prompt_logits()
    })
}

#[cfg(test)]
mod tests;
