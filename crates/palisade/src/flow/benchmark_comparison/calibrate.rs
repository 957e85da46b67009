//! What the guard is worth on a machine: how often it errs where nothing changed, and
//! how often it finds a slowdown that was put in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::pair::{RevisionPair, Selection, prepare_pair};
use super::runner::{BenchmarkRunner, Injection, PairedResults};
use super::{ComparisonError, fingerprint, no_benchmark};
use crate::host::measure::executor::Executor;
use crate::host::measure::launch::Launcher;
use crate::host::session::{Event, Events, Session};
use crate::host::{new_id, now};
use crate::record::Record;
use crate::speed::{
    BenchmarkState, Calibration, Detection, Family, Fingerprint, KnownSpread, Measure, Proportion,
    log_ratio, same_code_spread,
};

/// What is measured, and how often.
#[derive(Clone, Debug, Default)]
pub struct CalibrateOptions {
    /// Which benchmarks.
    pub selection: Selection,
    /// How many comparisons of equal programs there are.
    pub comparisons: usize,
    /// How many comparisons there are with each slowdown.
    pub injected: usize,
    /// The slowdowns that are put in: .05 is 5 %.
    pub slowdowns: Vec<f64>,
    /// How long measuring may take; no limit if nothing is said.
    pub budget: Option<Duration>,
}

/// Compares the files as they are with themselves, and with themselves slowed down, and
/// remembers what that showed.
pub fn calibrate(
    session: &mut Session,
    launcher: &Launcher,
    options: &CalibrateOptions,
    events: Events<'_>,
) -> Result<Calibration, ComparisonError> {
    let mut revisions = [session.in_checkout(None)?, session.in_checkout(None)?];
    let machine = fingerprint(session, &mut revisions[0])?;
    let calibration = {
        let runner = BenchmarkRunner {
            policy: &session.policy,
            executor: Executor::new(launcher, &session.policy.speed, session.cancel()),
            events,
            deadline: None,
            overtime: Duration::ZERO,
            calibration: None,
        };
        let selection = options.selection.or_policy(&session.policy.speed);
        let [base, candidate] = &mut revisions;
        let pair = prepare_pair(session, &runner, [base, candidate], &selection)?;
        if pair.benches.is_empty() {
            return Err(no_benchmark(&selection, &pair.notes));
        }
        runner
            .executor
            .wait_for_quiet(&|text| events(Event::Note(text)));
        let runner = BenchmarkRunner {
            deadline: options.budget.map(|budget| Instant::now() + budget),
            ..runner
        };
        run_calibration(&runner, &pair, options, machine)?
    };
    // What says nothing does not take the place of what says something.
    if calibration.false_alarms.of > 0 {
        session
            .store
            .add(&Record::Calibration(calibration.clone()))?;
    }
    Ok(calibration)
}

fn run_calibration(
    runner: &BenchmarkRunner<'_>,
    pair: &RevisionPair,
    options: &CalibrateOptions,
    machine: Fingerprint,
) -> Result<Calibration, ComparisonError> {
    let (spreads, false_alarms) = compare_equal(runner, pair, options.comparisons)?;
    let mut calibration = Calibration {
        id: new_id(),
        at_ms: now(),
        fingerprint: machine,
        spreads,
        false_alarms,
        detections: Vec::new(),
    };
    for slowdown in &options.slowdowns {
        let calibrated = calibration.clone();
        let runner = runner.with(&calibrated);
        calibration.detections.push(Detection {
            slowdown: *slowdown,
            rate: compare_slowed(&runner, pair, *slowdown, options.injected)?,
        });
    }
    Ok(calibration)
}

/// Compares equal programs, so many times: how far they are apart, and how often that is
/// taken for a change.
fn compare_equal(
    runner: &BenchmarkRunner<'_>,
    pair: &RevisionPair,
    comparisons: usize,
) -> Result<(Vec<KnownSpread>, Proportion), ComparisonError> {
    let mut log_ratios: BTreeMap<(String, Measure), Vec<Vec<f64>>> = BTreeMap::new();
    let mut false_alarms = Proportion::default();
    for at in 1..=comparisons {
        (runner.events)(Event::Note(format!(
            "equal programs, comparison {at} of {comparisons}"
        )));
        let paired = runner.compare(pair, &[])?;
        // What the time cut off says nothing.
        if runner.is_over() {
            break;
        }
        if !is_measured(&paired) {
            continue;
        }
        for (key, pairs) in pairs(&paired) {
            log_ratios.entry(key).or_default().push(pairs);
        }
        false_alarms.of += 1;
        false_alarms.found += u32::from(!alarms(paired).is_empty());
    }
    let known =
        |((benchmark, measure), comparisons): ((String, Measure), Vec<Vec<f64>>)| KnownSpread {
            benchmark,
            measure,
            comparisons: comparisons.len() as u32,
            spread: same_code_spread(&comparisons),
        };
    Ok((log_ratios.into_iter().map(known).collect(), false_alarms))
}

/// Compares with a slowdown put in, so many times: how often it is found.
fn compare_slowed(
    runner: &BenchmarkRunner<'_>,
    pair: &RevisionPair,
    slowdown: f64,
    comparisons: usize,
) -> Result<Proportion, ComparisonError> {
    let mut rate = Proportion::default();
    for at in 1..=comparisons {
        let percent = 100.0 * slowdown;
        let note = format!("slowed down by {percent:.0} %, comparison {at} of {comparisons}");
        (runner.events)(Event::Note(note));
        // One benchmark at a time, in turns: others must not be named with it.
        let slow = &pair.benches[at % pair.benches.len()].name;
        let injection = Injection {
            name: slow.clone(),
            slowdown,
        };
        let paired = runner.compare(pair, &[injection])?;
        if runner.is_over() {
            break;
        }
        if !is_measured(&paired) {
            continue;
        }
        rate.of += 1;
        rate.found += u32::from(alarms(paired).contains(slow));
    }
    Ok(rate)
}

/// Whether there are numbers of both revisions of every benchmark: no alarm about what could
/// not be run is no merit.
fn is_measured(paired: &PairedResults) -> bool {
    let mut states = paired.results.iter().map(|result| result.decision.state);
    states.all(|state| state != BenchmarkState::Incomparable)
}

/// The log-ratios of each measure of each benchmark.
fn pairs(paired: &PairedResults) -> BTreeMap<(String, Measure), Vec<f64>> {
    let [base, candidate] = &paired.measurements;
    let of_measure = base.iter().zip(candidate).map(|(base, candidate)| {
        let measure = base.measure;
        let pairs = base.values.iter().zip(&candidate.values);
        let ratios = pairs.filter_map(|(b, c)| log_ratio(measure, *b, *c).ok());
        ((base.benchmark.clone(), measure), ratios.collect())
    });
    of_measure.collect()
}

/// The benchmarks that are called slower or larger. That both revisions are the same counts
/// for nothing here: the question is what is said where that is not known.
fn alarms(paired: PairedResults) -> Vec<String> {
    let blind = paired.results.into_iter().map(|mut result| {
        result.unchanged = false;
        result
    });
    let family = Family::judge(blind.collect());
    let alarms = family.results.into_iter();
    let alarms = alarms.filter(|result| result.decision.state == BenchmarkState::Regressed);
    alarms.map(|result| result.benchmark).collect()
}
