//! The comparison that a check makes in what is left of its time: one benchmark is decided
//! before the next one is looked at, so that those next to the change are.

use std::slice::from_ref;
use std::time::Instant;

use super::counts::Counted;
use super::pair::{RevisionPair, Selection};
use super::runner::{BenchmarkInProgress, BenchmarkRunner, results_of};
use super::{ComparisonError, Launches, wait_for_quiet};
use crate::host::measure::counter::is_countable;
use crate::host::run::Progress;
use crate::host::session::Event;
use crate::speed::BenchmarkState;
use crate::verdict::UnlaunchedBenchmarks;

/// Measures of a benchmark: its time and its memory.
const MEASURES: usize = 2;

impl BenchmarkRunner<'_> {
    /// Measures the benchmarks of a pair in their order, as far as there is time.
    pub(super) fn launch_nearest(
        &self,
        pair: RevisionPair,
        selection: &Selection,
        mut notes: Vec<String>,
        mut unlaunched: UnlaunchedBenchmarks,
    ) -> Result<Launches, ComparisonError> {
        if !pair.benches.is_empty() {
            notes.extend(wait_for_quiet(self));
        }
        let mut counted = Counted::default();
        let has_countable = pair.benches.iter().any(is_countable);
        let counter = has_countable
            .then(|| self.choose_counter(&mut counted))
            .flatten();
        let mut measured = Vec::new();
        for (done, bench) in pair.benches.iter().enumerate() {
            let is_wanted = selection.also_wants(&bench.name);
            if self.is_over() && !is_wanted {
                break;
            }
            if let (Some(counter), true) = (counter, is_countable(bench)) {
                self.count_bench(bench, &pair.built, counter, &mut counted)?;
            }
            let family = MEASURES * pair.benches.len();
            let mut tried = self.trial_launches(from_ref(bench), &pair.built, &[], family)?;
            let Some(mut benchmark) = tried.pop() else {
                continue;
            };
            if self.fits(&benchmark) {
                self.decide(&mut benchmark, &pair, done)?;
            }
            if is_wanted || !self.is_cut_short(&benchmark) {
                measured.push(benchmark);
            }
        }
        unlaunched.out_of_time = pair.benches.len() - measured.len();
        let mut paired = results_of(measured);
        counted.remark(counter);
        notes.extend(counted.notes);
        paired.results.extend(counted.results);
        paired.results.extend(pair.changed_results());
        let mut bounds = self.budgets(&paired.measurements[1]);
        bounds.extend(self.ratios(&pair.benches, &pair.built[1], selection.is_all())?);
        Ok(Launches {
            disturbance: self.executor.disturbance(),
            pair,
            paired,
            bounds,
            notes,
            unlaunched,
        })
    }

    /// Whether the pairs to the first look fit into the time that is left.
    fn fits(&self, benchmark: &BenchmarkInProgress<'_>) -> bool {
        let needed = benchmark.pair_duration * benchmark.pairs_wanted() as u32;
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        self.deadline.is_none_or(|at| needed <= left(at))
    }

    /// Measures a benchmark until it is decided or the time is over.
    fn decide(
        &self,
        benchmark: &mut BenchmarkInProgress<'_>,
        pair: &RevisionPair,
        done: usize,
    ) -> Result<(), ComparisonError> {
        while benchmark.pairs_wanted() > 0 && !self.is_over() {
            (self.events)(Event::Progress(Progress::Measuring {
                done,
                total: pair.benches.len(),
                left: benchmark.pair_duration * benchmark.pairs_wanted() as u32,
            }));
            self.measure_block_or_fail(benchmark, &pair.built)?;
        }
        Ok(())
    }

    /// Whether the time was over before anything was known of a benchmark.
    fn is_cut_short(&self, benchmark: &BenchmarkInProgress<'_>) -> bool {
        if benchmark.failed.is_some() {
            // It may have been ended in the middle.
            return self.is_over();
        }
        let is_worse = benchmark
            .measures
            .iter()
            .any(|measure| measure.judge.decision().state == BenchmarkState::Regressed);
        benchmark.pairs_wanted() > 0 && !is_worse
    }
}
