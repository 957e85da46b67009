//! Launches in pairs, until each benchmark is decided or the time is over.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::ComparisonError;
use super::pair::{RevisionPair, commands, is_unchanged};
use crate::host::measure::bench::{Bench, Built, Reading};
use crate::host::measure::executor::{Executor, LaunchSettings};
use crate::host::measure::launch::LaunchError;
use crate::host::measure::machine;
use crate::host::run::Progress;
use crate::host::session::{Event, Events};
use crate::policy::{Policy, RatioPolicy};
use crate::speed::{
    BenchmarkResult, Bound, BoundDecision, BoundJudge, Calibration, Decision, DecisionRules,
    InterimLooks, Judge, JudgeStep, Limit, Measure, Measurement, NamedBound, NoiseThreshold,
};

/// How likely a bound may be misjudged in each direction.
const BOUND_LEVEL: f64 = 0.025;

/// A slowdown that is put into the candidate of some benchmarks, to see it found.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    /// A part of the names of the benchmarks.
    pub name: String,
    /// How much longer they take: .05 is 5 %.
    pub slowdown: f64,
}

/// What launches are made and judged with.
pub(crate) struct BenchmarkRunner<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) executor: Executor<'a>,
    pub(crate) events: Events<'a>,
    pub(crate) deadline: Option<Instant>,
    /// How much longer it may take until each benchmark had its first look.
    pub(crate) overtime: Duration,
    pub(crate) calibration: Option<&'a Calibration>,
}

/// What came out of launches in pairs.
#[derive(Debug, Default)]
pub(crate) struct PairedResults {
    /// Each measure of each benchmark.
    pub(crate) results: Vec<BenchmarkResult>,
    /// The values of each revision.
    pub(crate) measurements: [Vec<Measurement>; 2],
    /// What benchmarks say on one of the revisions only, such as of an argument.
    pub(crate) unpaired: [Vec<String>; 2],
}

impl PairedResults {
    pub(super) fn extend(&mut self, other: Self) {
        for (all, more) in self.unpaired.iter_mut().zip(other.unpaired) {
            all.extend(more);
        }
        self.results.extend(other.results);
        for (all, more) in self.measurements.iter_mut().zip(other.measurements) {
            all.extend(more);
        }
    }
}

/// What came out of launches of one revision.
pub(super) struct UnpairedResults {
    pub(super) measurements: Vec<Measurement>,
    /// Benchmarks that could not be launched, and why.
    pub(super) failed: Vec<(String, String)>,
}

/// A measure of a benchmark while it is judged.
pub(super) struct MeasureInProgress {
    name: String,
    measure: Measure,
    pub(super) judge: Judge,
    values: [Vec<f64>; 2],
}

/// A benchmark while it is measured.
pub(super) struct BenchmarkInProgress<'a> {
    bench: &'a Bench,
    /// Whether the programs of both revisions are equal.
    unchanged: bool,
    slowdown: f64,
    pub(super) measures: Vec<MeasureInProgress>,
    pub(super) failed: Option<String>,
    /// What it says on one of the revisions only.
    unpaired: [Vec<String>; 2],
    /// How long one pair took.
    pub(super) pair_duration: Duration,
}

impl BenchmarkInProgress<'_> {
    /// How many pairs it takes to the next looks; 0 when all is decided.
    pub(super) fn pairs_wanted(&self) -> usize {
        let wanted = |measure: &MeasureInProgress| match measure.judge.step() {
            JudgeStep::Measure { pairs } | JudgeStep::Confirm { pairs } => pairs,
            JudgeStep::Done => 0,
        };
        match self.failed {
            Some(_) => 0,
            None => self.measures.iter().map(wanted).max().unwrap_or(0),
        }
    }

    fn waits_for_first_look(&self) -> bool {
        let mut measures = self.measures.iter();
        self.failed.is_none() && measures.any(|measure| measure.judge.waits_for_first_look())
    }

    /// Takes what was said of both revisions when it was tried: it is measured what both said.
    fn set_measures(
        &mut self,
        [base, candidate]: [Vec<Reading>; 2],
        rules: impl Fn(&Reading) -> DecisionRules,
    ) {
        let lacks = |others: &[Reading], reading: &Reading| {
            let is_it = |r: &Reading| r.name == reading.name && r.measure == reading.measure;
            !others.iter().any(is_it)
        };
        let names = |of: &[Reading], others: &[Reading]| {
            let alone = of.iter().filter(|reading| lacks(others, reading));
            alone.map(|reading| reading.name.clone()).collect()
        };
        self.unpaired = [names(&base, &candidate), names(&candidate, &base)];
        let both = candidate
            .into_iter()
            .filter(|reading| !lacks(&base, reading));
        let measures = both.map(|reading| MeasureInProgress {
            judge: Judge::new(rules(&reading)),
            name: reading.name,
            measure: reading.measure,
            values: [Vec::new(), Vec::new()],
        });
        self.measures = measures.collect();
    }
}

/// An error and its causes in one line.
pub(super) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

impl<'a> BenchmarkRunner<'a> {
    /// The same runner, judging by a calibration.
    pub(super) fn with<'b>(&'b self, calibration: &'b Calibration) -> BenchmarkRunner<'b>
    where
        'a: 'b,
    {
        BenchmarkRunner {
            policy: self.policy,
            executor: self.executor.clone(),
            events: self.events,
            deadline: self.deadline,
            overtime: self.overtime,
            calibration: Some(calibration),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Whether a benchmark has a use for more pairs, and there is time for them.
    fn may_measure(&self, benchmark: &BenchmarkInProgress<'_>) -> bool {
        let is_over_for_all = |deadline: Instant| Instant::now() >= deadline + self.overtime;
        let may_start = !self.is_over()
            || benchmark.waits_for_first_look() && !self.deadline.is_some_and(is_over_for_all);
        may_start && benchmark.pairs_wanted() > 0
    }

    /// The rules for a measure of a benchmark, one of `family`.
    pub(super) fn rules(&self, name: &str, measure: Measure, family: usize) -> DecisionRules {
        let mut noise_threshold = NoiseThreshold::of(measure);
        if matches!(measure, Measure::Time | Measure::Rate) {
            noise_threshold.policy = self.policy.speed.noise_threshold / 100.0;
        }
        let known = self.calibration.and_then(|c| c.spread(name, measure));
        if let Some(spread) = known {
            noise_threshold = noise_threshold.with_spread(spread);
        }
        let mut rules = DecisionRules::new(measure, noise_threshold);
        rules.block = self.policy.speed.block / 100.0;
        rules.family = family;
        rules
    }

    /// Measures benchmarks on both revisions until each is decided or the time is over.
    pub(crate) fn compare(
        &self,
        pair: &RevisionPair,
        injections: &[Injection],
    ) -> Result<PairedResults, ComparisonError> {
        let mut benchmarks = self.trial_launches(&pair.benches, &pair.built, injections, 1)?;
        let mut has_measured = true;
        while has_measured {
            has_measured = false;
            self.report_progress(&benchmarks);
            for benchmark in &mut benchmarks {
                if self.may_measure(benchmark) {
                    has_measured = true;
                    self.measure_block_or_fail(benchmark, &pair.built)?;
                }
            }
        }
        Ok(results_of(benchmarks))
    }

    /// Compares the sizes of the workspace's programs that are measured.
    pub(super) fn sizes(&self, pair: &RevisionPair) -> Vec<BenchmarkResult> {
        let [base, candidate] = &pair.built;
        let size = |path: &Path| fs::metadata(path).ok().map(|meta| meta.len() as f64);
        let of_program = |(name, path): (&String, &PathBuf)| {
            let (before, after) = (size(path)?, size(candidate.programs.get(name)?)?);
            let rules = self.rules(name, Measure::BinarySize, 1);
            let mut judge = Judge::new(rules);
            judge.push(before, after).ok()?;
            Some(BenchmarkResult {
                benchmark: name.clone(),
                unchanged: false,
                decision: judge.decision(),
            })
        };
        base.programs.iter().filter_map(of_program).collect()
    }

    /// Measures benchmarks on one revision, so many launches of each, in turns. One that
    /// fails says why.
    pub(super) fn measure(
        &self,
        benches: &[Bench],
        built: &Built,
        launches: usize,
    ) -> Result<UnpairedResults, ComparisonError> {
        let mut measurements: BTreeMap<(String, Measure), Vec<f64>> = BTreeMap::new();
        let mut failed: BTreeMap<&str, String> = BTreeMap::new();
        // The first launch of each is not counted.
        for round in 0..=launches {
            if round > 0 && self.is_over() {
                break;
            }
            (self.events)(Event::Step(format!("launch {round} of {launches}")));
            for bench in benches {
                if failed.contains_key(bench.name.as_str()) {
                    continue;
                }
                let launched = match round {
                    0 => self.executor.trial_launch(bench, built).map(|_| Vec::new()),
                    _ => self.executor.launch(bench, built, LaunchSettings::random()),
                };
                match launched {
                    Ok(readings) => {
                        for Reading {
                            name,
                            measure,
                            value,
                        } in readings
                        {
                            measurements.entry((name, measure)).or_default().push(value);
                        }
                    }
                    Err(error) if error.is_interrupt() => return Err(error.into()),
                    Err(error) => {
                        failed.insert(&bench.name, error_chain(&error));
                    }
                }
            }
        }
        let named = |((benchmark, measure), values)| Measurement {
            benchmark,
            measure,
            values,
        };
        let failed = failed.into_iter().map(|(name, why)| (name.to_owned(), why));
        Ok(UnpairedResults {
            measurements: measurements.into_iter().map(named).collect(),
            failed: failed.collect(),
        })
    }

    /// Tries benchmarks out on both revisions. They are judged as a family of so many measures at
    /// least.
    pub(super) fn trial_launches<'b>(
        &self,
        benches: &'b [Bench],
        built: &[Built; 2],
        injections: &[Injection],
        family: usize,
    ) -> Result<Vec<BenchmarkInProgress<'b>>, ComparisonError> {
        let mut benchmarks = Vec::new();
        let mut seen: Vec<[Vec<Reading>; 2]> = Vec::new();
        for bench in benches {
            (self.events)(Event::Step(format!("try {}", bench.name)));
            let started = Instant::now();
            let [base, candidate] = built;
            let tried = self.executor.trial_launch(bench, base).and_then(|of_base| {
                let of_candidate = self.executor.trial_launch(bench, candidate)?;
                Ok([of_base, of_candidate])
            });
            let injected = injections.iter().find(|i| bench.name.contains(&i.name));
            let failed = match &tried {
                Err(error) if error.is_interrupt() => return Err(tried.unwrap_err().into()),
                Err(error) => Some(error_chain(error)),
                Ok(_) => None,
            };
            benchmarks.push(BenchmarkInProgress {
                bench,
                unchanged: is_unchanged(bench, built),
                slowdown: injected.map_or(0.0, |injected| injected.slowdown),
                measures: Vec::new(),
                failed,
                unpaired: [Vec::new(), Vec::new()],
                pair_duration: started.elapsed(),
            });
            seen.push(tried.unwrap_or_default());
        }
        let family = family.max(seen.iter().map(|[_, candidate]| candidate.len()).sum());
        for (benchmark, readings) in benchmarks.iter_mut().zip(seen) {
            let rules = |reading: &Reading| self.rules(&reading.name, reading.measure, family);
            benchmark.set_measures(readings, rules);
        }
        Ok(benchmarks)
    }

    /// Makes two pairs of launches, in the order B C C B or C B B C, the candidate slowed
    /// down; returns the readings of base and candidate of each.
    pub(super) fn two_pairs(
        &self,
        bench: &Bench,
        revisions: [&Built; 2],
        slowdown: f64,
    ) -> Result<[[Vec<Reading>; 2]; 2], LaunchError> {
        let first = fastrand::usize(..2);
        let mut pairs = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
        for (pair, order) in pairs
            .iter_mut()
            .zip([[first, 1 - first], [1 - first, first]])
        {
            let settings = LaunchSettings::random();
            for revision in order {
                let slowdown = if revision == 1 { slowdown } else { 0.0 };
                let settings = LaunchSettings {
                    slowdown,
                    ..settings
                };
                pair[revision] = self.executor.launch(bench, revisions[revision], settings)?;
            }
        }
        Ok(pairs)
    }

    /// Measures one block more of a benchmark; one that fails says why from then on.
    pub(super) fn measure_block_or_fail(
        &self,
        benchmark: &mut BenchmarkInProgress<'_>,
        revisions: &[Built; 2],
    ) -> Result<(), ComparisonError> {
        match self.measure_block(benchmark, revisions) {
            Ok(()) => {}
            Err(error) if error.is_interrupt() => return Err(error.into()),
            Err(error) => benchmark.failed = Some(error_chain(&error)),
        }
        Ok(())
    }

    /// Measures one block more of a benchmark.
    fn measure_block(
        &self,
        benchmark: &mut BenchmarkInProgress<'_>,
        revisions: &[Built; 2],
    ) -> Result<(), LaunchError> {
        self.executor
            .wait_if_disturbed(&|text| (self.events)(Event::Note(text)));
        let started = Instant::now();
        let revisions = [&revisions[0], &revisions[1]];
        for readings in self.two_pairs(benchmark.bench, revisions, benchmark.slowdown)? {
            for measure in &mut benchmark.measures {
                measure.push(&readings).map_err(|end| LaunchError::Failed {
                    command: benchmark.bench.name.clone(),
                    end,
                    output: String::new(),
                })?;
            }
        }
        benchmark.pair_duration = started.elapsed() / 2;
        Ok(())
    }

    /// Says how far it is.
    fn report_progress(&self, benchmarks: &[BenchmarkInProgress<'_>]) {
        let open = benchmarks
            .iter()
            .filter(|benchmark| benchmark.pairs_wanted() > 0);
        let left: Duration = open
            .clone()
            .map(|benchmark| benchmark.pair_duration * benchmark.pairs_wanted() as u32)
            .sum();
        let until = self
            .deadline
            .map(|at| at.saturating_duration_since(Instant::now()));
        (self.events)(Event::Progress(Progress::Measuring {
            done: benchmarks.len() - open.count(),
            total: benchmarks.len(),
            left: until.map_or(left, |until| until.min(left)),
        }));
    }

    /// Holds ratios against their bounds, on one revision. Each value is that of two launches
    /// next to each other. `is_all` says that every benchmark was asked for.
    pub(crate) fn ratios(
        &self,
        benches: &[Bench],
        built: &Built,
        is_all: bool,
    ) -> Result<Vec<NamedBound>, ComparisonError> {
        let mut bounds = Vec::new();
        let here = machine::processor();
        let ratios = self.policy.ratio.iter();
        for ratio in ratios.filter(|ratio| ratio.is_for_this_machine()) {
            let Some((bound, decides)) = ratio.bound_on(&here) else {
                continue;
            };
            let decision = match self.ratio(ratio, bound, benches, built)? {
                Ok(decision) if decides => decision,
                Ok(decision) => {
                    let known = ratio.on.iter().flatten();
                    let known: Vec<&str> = known.map(|known| known.processor.as_str()).collect();
                    decision.unrecorded(&known, &here)
                }
                // Where only some benchmarks were asked for, the others are not missed.
                Err(_) if !is_all => continue,
                Err(missing) => {
                    let judge = BoundJudge::new(bound, InterimLooks::default(), BOUND_LEVEL);
                    BoundDecision {
                        reason: missing,
                        ..judge.decision()
                    }
                }
            };
            bounds.push(NamedBound {
                name: ratio.name.clone(),
                measure: ratio.measure.measure(),
                decision,
            });
        }
        Ok(bounds)
    }

    /// Holds a ratio against its bound, on one revision; `Err` says which benchmark is missing.
    pub(super) fn ratio(
        &self,
        ratio: &RatioPolicy,
        bound: Bound,
        benches: &[Bench],
        built: &Built,
    ) -> Result<Result<BoundDecision, String>, ComparisonError> {
        let find = |name: &str| {
            let found = benches.iter().find(|bench| bench.may_say(name));
            found.ok_or_else(|| format!("there is no benchmark called {name}"))
        };
        let (of, to) = match (find(&ratio.of), find(&ratio.to)) {
            (Ok(of), Ok(to)) => (of, to),
            (Err(missing), _) | (_, Err(missing)) => return Ok(Err(missing)),
        };
        let measure = ratio.measure.measure();
        let mut judge = BoundJudge::new(bound, InterimLooks::default(), BOUND_LEVEL);
        (self.events)(Event::Step(format!("measure the ratio {}", ratio.name)));
        let mut is_open = true;
        while is_open && !self.is_over() {
            let settings = LaunchSettings::random();
            let mut values = [None, None];
            let first = fastrand::usize(..2);
            for at in [first, 1 - first] {
                let readings = self.executor.launch([of, to][at], built, settings);
                let readings = match readings {
                    Ok(readings) => readings,
                    Err(error) if error.is_interrupt() => return Err(error.into()),
                    Err(_) => Vec::new(),
                };
                let name = [&ratio.of, &ratio.to][at];
                let is_it = |r: &&Reading| {
                    let is_of_all = [of, to][at].name == *name;
                    r.measure == measure && (is_of_all || r.name == *name)
                };
                values[at] = readings.iter().find(is_it).map(|r| r.value);
            }
            let [Some(of), Some(to)] = values else { break };
            is_open = judge
                .push(of / to)
                .is_ok_and(|pairs_wanted| pairs_wanted.is_some());
        }
        Ok(Ok(judge.decision()))
    }

    /// Holds what was measured against the budgets of the policy.
    pub(crate) fn budgets(&self, measurements: &[Measurement]) -> Vec<NamedBound> {
        let mut bounds = Vec::new();
        for (command, _) in commands(self.policy) {
            let memory = command
                .max_rss
                .map(|bytes| (Measure::PeakMemory, bytes.0 as f64));
            let time = command
                .max_time
                .map(|span| (Measure::Time, span.0.as_nanos() as f64));
            for (measure, limit) in [memory, time].into_iter().flatten() {
                let is_it =
                    |m: &&Measurement| m.benchmark == command.name() && m.measure == measure;
                let Some(measured) = measurements.iter().find(is_it) else {
                    continue;
                };
                bounds.push(at_most(command.name(), measure, limit, &measured.values));
            }
        }
        bounds
    }
}

/// Holds values against a budget.
pub(super) fn at_most(name: &str, measure: Measure, limit: f64, values: &[f64]) -> NamedBound {
    let bound = Bound {
        limit: Limit::AtMost(limit),
        within: 0.0,
    };
    let mut judge = BoundJudge::new(bound, InterimLooks::default(), BOUND_LEVEL);
    for value in values {
        if !judge
            .push(*value)
            .is_ok_and(|pairs_wanted| pairs_wanted.is_some())
        {
            break;
        }
    }
    NamedBound {
        name: name.to_owned(),
        measure,
        decision: judge.decision(),
    }
}

impl MeasureInProgress {
    /// Takes the readings of one pair.
    fn push(&mut self, readings: &[Vec<Reading>; 2]) -> Result<(), String> {
        let mut values = [0.0; 2];
        for (value, readings) in values.iter_mut().zip(readings) {
            let is_it = |r: &&Reading| r.name == self.name && r.measure == self.measure;
            let found = readings.iter().find(is_it);
            *value = found.ok_or("did not say what it said before")?.value;
        }
        // What is decided stays so; its later values are kept all the same.
        for (all, value) in self.values.iter_mut().zip(values) {
            all.push(value);
        }
        let [base, candidate] = values;
        self.judge
            .push(base, candidate)
            .map(drop)
            .map_err(|error| format!("said what is no measurement: {error}"))
    }
}

pub(super) fn results_of(benchmarks: Vec<BenchmarkInProgress<'_>>) -> PairedResults {
    let mut paired = PairedResults::default();
    for benchmark in benchmarks {
        if let Some(reason) = &benchmark.failed {
            paired.results.push(BenchmarkResult {
                benchmark: benchmark.bench.name.clone(),
                unchanged: benchmark.unchanged,
                decision: Decision::incomparable(Measure::Time, reason.clone()),
            });
            continue;
        }
        for (all, names) in paired.unpaired.iter_mut().zip(benchmark.unpaired) {
            all.extend(names);
        }
        for measure in benchmark.measures {
            for (revision, values) in paired.measurements.iter_mut().zip(measure.values) {
                revision.push(Measurement {
                    benchmark: measure.name.clone(),
                    measure: measure.measure,
                    values,
                });
            }
            paired.results.push(BenchmarkResult {
                benchmark: measure.name,
                unchanged: benchmark.unchanged,
                decision: measure.judge.decision(),
            });
        }
    }
    paired
}
