//! The first look at a comparison: counted instructions, which decide nothing alone.

use std::time::{Duration, Instant};

use super::ComparisonError;
use super::pair::{RevisionPair, is_unchanged};
use super::runner::{BenchmarkRunner, error_chain};
use crate::host::measure::bench::{Bench, Built};
use crate::host::measure::counter::{Counter, is_countable};
use crate::host::measure::launch::LaunchError;
use crate::host::session::Event;
use crate::speed::{BenchmarkResult, BenchmarkState, InstructionCounts, judge_counts};

/// Which part of the time that is left one counted launch may take: the four of a
/// benchmark take a quarter at most.
const PART: u32 = 16;

/// What was counted.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) results: Vec<BenchmarkResult>,
    /// What was not counted, and why; by what the rest was.
    pub(super) notes: Vec<String>,
}

impl Counted {
    /// Says by what was counted, if anything was.
    pub(super) fn remark(&mut self, counter: Option<Counter>) {
        let counter = counter.filter(|_| !self.results.is_empty());
        self.notes
            .extend(counter.map(|counter| counter.remark().to_owned()));
    }
}

impl BenchmarkRunner<'_> {
    /// Counts the instructions of what does the same work each time, twice on each revision.
    pub(super) fn count(&self, pair: &RevisionPair) -> Result<Counted, ComparisonError> {
        let mut counted = Counted::default();
        let countable = pair.benches.iter().filter(|bench| is_countable(bench));
        let mut countable = countable.peekable();
        if countable.peek().is_none() {
            return Ok(counted);
        }
        let counter = self.choose_counter(&mut counted);
        if let Some(counter) = counter {
            for bench in countable {
                if self.is_over() {
                    break;
                }
                self.count_bench(bench, &pair.built, counter, &mut counted)?;
            }
        }
        counted.remark(counter);
        Ok(counted)
    }

    /// What counts here, if anything does; a note says why nothing does that was asked for.
    pub(super) fn choose_counter(&self, counted: &mut Counted) -> Option<Counter> {
        let note = |why| format!("instructions were not counted: {why}");
        let chosen = self.executor.counter();
        let chosen = chosen.map_err(|why| counted.notes.push(note(why)));
        chosen.ok().flatten()
    }

    /// Counts the instructions of a benchmark, twice on each revision.
    pub(super) fn count_bench(
        &self,
        bench: &Bench,
        revisions: &[Built; 2],
        counter: Counter,
        counted: &mut Counted,
    ) -> Result<(), ComparisonError> {
        (self.events)(Event::Step(format!("count {}", bench.name)));
        let not_counted = |why: &str| format!("{} was not counted: {why}", bench.name);
        let counts = match self.counts(bench, revisions, counter) {
            Ok(counts) => counts,
            Err(error) if error.is_interrupt() => return Err(error.into()),
            Err(error) => {
                counted.notes.push(not_counted(&error_chain(&error)));
                return Ok(());
            }
        };
        match judge_counts(&counts) {
            Ok(Ok(decision)) => {
                if matches!(
                    decision.state,
                    BenchmarkState::Regressed | BenchmarkState::Improved
                ) {
                    let look = format!("first look: {}, {}", bench.name, decision.reason);
                    (self.events)(Event::Note(look));
                }
                counted.results.push(BenchmarkResult {
                    benchmark: bench.name.clone(),
                    unchanged: is_unchanged(bench, revisions),
                    decision,
                });
            }
            Ok(Err(apart)) => counted.notes.push(not_counted(&format!(
                "two launches of the same program differ by {:.1} % in their instructions",
                100.0 * apart
            ))),
            Err(error) => counted.notes.push(not_counted(&error.to_string())),
        }
        Ok(())
    }

    fn counts(
        &self,
        bench: &Bench,
        revisions: &[Built; 2],
        counter: Counter,
    ) -> Result<InstructionCounts, LaunchError> {
        let left = |at: Instant| at.saturating_duration_since(Instant::now()) / PART;
        let mut counts = InstructionCounts::default();
        for round in 0..2 {
            for (revision, counts) in counts.iter_mut().enumerate() {
                let limit = self.deadline.map_or(Duration::MAX, left);
                counts[round] = self
                    .executor
                    .count(bench, &revisions[revision], counter, limit)?;
            }
        }
        Ok(counts)
    }
}
