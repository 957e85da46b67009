//! Compares the speed and the memory of two revisions: from their benchmarks to decisions.
//!
//! ```text
//! checkouts ─► builds ─► lists of benchmarks ─► launches in pairs ─► Judge ─► Family ─► report
//!                                                 ▲                   │
//!                                                 └─── more pairs ────┘
//! ```
//!
//! Both revisions are checked out beside each other and built alike, also where they are
//! the same: a comparison of a revision with itself is measured like any other. Launches
//! come in blocks of two pairs, base–candidate–candidate–base or the reverse as chance
//! has it, so that what changes with time, or with every second launch, falls on both.

mod builds;
mod calibrate;
mod counts;
mod good_commit;
mod nearest;
mod pair;
mod ratio_records;
mod runner;
mod series;

use std::time::{Duration, Instant};

pub use calibrate::{CalibrateOptions, calibrate};
pub(crate) use good_commit::{GoodCommit, hold_ratio};
pub use pair::Selection;
pub(crate) use pair::may_have_benchmark;
use pair::{RevisionPair, prepare_pair};
pub use ratio_records::{RecordedRatios, record_ratios};
pub use runner::Injection;
use runner::{BenchmarkRunner, PairedResults};
pub use series::{SeriesOptions, SeriesReport, measure_series};

use crate::coverage::{Aspect, Coverage};
use crate::flow::change::assess_change;
use crate::host::measure::executor::{Disturbance, Executor};
use crate::host::measure::launch::Launcher;
use crate::host::measure::machine;
use crate::host::run::build_settings;
use crate::host::session::{Event, Events, Revision, Session, SessionError};
use crate::host::{new_id, now};
use crate::observation::Millis;
use crate::policy::Policy;
use crate::record::{Advice, Record, Report, RevisionReport};
use crate::speed::{
    Calibration, Family, Fingerprint, Measurement, NamedBound, SpeedPurpose, SpeedReport, SpeedRun,
};
use crate::verdict::{UnlaunchedBenchmarks, UnpairedBenchmarks, Verdict, judge_speed};

/// Why benchmarks cannot be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ComparisonError {
    /// Nothing is there to be measured.
    #[error("failed to find a benchmark{}", .0)]
    NoBenchmark(String),
    /// Several benchmarks have that in their names.
    #[error("failed to tell which benchmark is meant: {0}")]
    ManyBenchmarks(String),
    /// The session failed: git, Cargo, the store, a run.
    #[error(transparent)]
    Session(SessionError),
}

impl<E: Into<SessionError>> From<E> for ComparisonError {
    fn from(error: E) -> Self {
        Self::Session(error.into())
    }
}

impl ComparisonError {
    fn inner(&self) -> Option<&dyn Advice> {
        match self {
            Self::Session(error) => Some(error),
            _ => None,
        }
    }
}

impl Advice for ComparisonError {
    fn is_usage(&self) -> bool {
        match self {
            Self::Session(error) => error.is_usage(),
            Self::NoBenchmark(_) | Self::ManyBenchmarks(_) => true,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Session(error) => return error.hint(),
            Self::NoBenchmark(_) => {
                "cargo bench, or a [[bench]] or [[workload]] with a command in palisade.toml"
            }
            Self::ManyBenchmarks(_) => "--bench with one of these names",
        };
        Some(hint.to_owned())
    }

    fn output(&self) -> Option<&str> {
        self.inner()?.output()
    }
}

/// What is compared, and how much time it may take.
#[derive(Clone, Debug, Default)]
pub struct CompareOptions {
    /// The revision to compare with.
    pub base: String,
    /// The revision to judge; the files as they are if none is given.
    pub candidate: Option<String>,
    /// Which benchmarks.
    pub selection: Selection,
    /// How long measuring may take; the policy says if nothing does. Where that is too short for
    /// a first look at every benchmark, it may take as long again for that.
    pub budget: Option<Duration>,
    /// When measuring is over whatever is not looked at then.
    pub end: Option<Instant>,
    /// How much of the selection is measured.
    pub extent: Extent,
    /// Slowdowns of the candidate, to see whether they are found.
    pub injections: Vec<Injection>,
}

/// How much of what is selected is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// All of it together; what the time is too short for stays open.
    #[default]
    All,
    /// One benchmark after the other, the nearest to the change first. What there is no time
    /// for is left out, and so are the sizes of programs and the times of builds.
    Nearest {
        /// When the builds, too, are over.
        until: Instant,
        /// Whether benchmarks are launched of which both programs are equal: what these read
        /// may differ.
        equal_too: bool,
    },
}

impl Extent {
    fn deadline(self) -> Option<Instant> {
        match self {
            Self::All => None,
            Self::Nearest { until, .. } => Some(until),
        }
    }
}

/// Compares two revisions, and remembers what was measured.
pub fn compare(
    session: &mut Session,
    launcher: &Launcher,
    options: &CompareOptions,
    events: Events<'_>,
) -> Result<Report, ComparisonError> {
    let started = Instant::now();
    let mut base = session.in_checkout(Some(&options.base))?;
    let mut candidate = session.in_checkout(options.candidate.as_deref())?;
    let risk = assess_change(session, &base.subject.tree, &candidate.subject.tree)?;
    let revisions = [&mut base, &mut candidate];
    let measured = measure(session, launcher, revisions, options, events)?;
    let mut findings = judge_speed(&measured.report, &measured.unpaired);
    findings.sort_by_key(|finding| finding.severity);
    let verdict = Verdict::of(&findings);
    Ok(Report {
        schema: 1,
        verdict,
        exit_code: verdict.exit_code(),
        unchanged: base.subject.tree == candidate.subject.tree,
        base: RevisionReport::untested(&base),
        candidate: RevisionReport::untested(&candidate),
        scope: None,
        risk,
        findings,
        coverage: Coverage {
            looked_at: [Aspect::Speed].into(),
            ..Coverage::default()
        },
        min_success_rate: session.policy.min_success_rate,
        runner: "launches in pairs".to_owned(),
        seconds: started.elapsed().as_secs_f64(),
        speed: Some(measured.report),
        recall: None,
        shard: None,
        runs: Vec::new(),
    })
}

/// What was measured, and what could not be.
pub(crate) struct Measured {
    pub(crate) report: SpeedReport,
    pub(crate) unpaired: UnpairedBenchmarks,
    pub(crate) unlaunched: UnlaunchedBenchmarks,
}

/// Builds, measures and decides; remembers the values unless a slowdown was put in.
pub(crate) fn measure(
    session: &mut Session,
    launcher: &Launcher,
    revisions: [&mut Revision; 2],
    options: &CompareOptions,
    events: Events<'_>,
) -> Result<Measured, ComparisonError> {
    let [base, candidate] = revisions;
    let machine = fingerprint(session, candidate)?;
    let machine_of_base = fingerprint(session, base)?;
    let calibration = newest_calibration(session, &machine)?;
    let started_ms = now();
    let known = calibration.as_ref().ok();
    let launches = launch(session, launcher, [base, candidate], known, options, events)?;
    let measurements = launches.paired.measurements;
    let has_measured = measurements
        .iter()
        .any(|of_revision| !of_revision.is_empty());
    if options.injections.is_empty() && (has_measured || options.extent == Extent::All) {
        let machines = [&machine_of_base, &machine];
        store_speed_runs(
            session,
            [base, candidate],
            machines,
            measurements,
            started_ms,
        )?;
    }
    let mut notes = launches.notes;
    notes.extend(what_else_differs(&machine, &machine_of_base));
    notes.extend(options.injections.iter().map(injection_note));
    let calibration = calibration.map_err(|why| notes.push(why)).ok();
    let disturbance = launches.disturbance;
    if !disturbance.has_priority {
        notes.push("the system did not let the launches run before other work".to_owned());
    }
    let family = Family::judge(launches.paired.results);
    let report = SpeedReport {
        machine,
        benchmarks: family.results,
        bounds: launches.bounds,
        shift: family.shift,
        environment: family.environment,
        launches: disturbance.launches,
        disturbed: disturbance.disturbed,
        waited: disturbance.waited,
        calibration,
        notes,
    };
    let [mut gone, mut added] = launches.pair.unpaired;
    let [gone_rows, added_rows] = launches.paired.unpaired;
    gone.extend(gone_rows);
    added.extend(added_rows);
    Ok(Measured {
        report,
        unpaired: UnpairedBenchmarks {
            gone,
            added,
            failed: launches.pair.failed,
        },
        unlaunched: launches.unlaunched,
    })
}

/// What came out of all launches of a comparison.
struct Launches {
    pair: RevisionPair,
    paired: PairedResults,
    bounds: Vec<NamedBound>,
    notes: Vec<String>,
    disturbance: Disturbance,
    unlaunched: UnlaunchedBenchmarks,
}

/// Builds both revisions and launches what they measure.
fn launch(
    session: &Session,
    launcher: &Launcher,
    [base, candidate]: [&mut Revision; 2],
    calibration: Option<&Calibration>,
    options: &CompareOptions,
    events: Events<'_>,
) -> Result<Launches, ComparisonError> {
    let executor = Executor::new(launcher, &session.policy.speed, session.cancel());
    let deadline = options.extent.deadline();
    let runner = BenchmarkRunner {
        policy: &session.policy,
        executor: match deadline {
            Some(deadline) => executor.until(deadline),
            None => executor,
        },
        events,
        deadline,
        overtime: Duration::ZERO,
        calibration,
    };
    let selection = options.selection.or_policy(&session.policy.speed);
    let mut pair = prepare_pair(session, &runner, [base, candidate], &selection)?;
    require_benchmark(&session.policy, &pair, &selection, options.extent)?;
    let mut notes = std::mem::take(&mut pair.notes);
    if let Extent::Nearest { equal_too, .. } = options.extent {
        let mut unlaunched = UnlaunchedBenchmarks::default();
        if !equal_too {
            unlaunched.equal = pair.leave_out_equal(&selection);
        }
        pair.sort_by_nearness(&selection, candidate.workspace(session));
        return runner.launch_nearest(pair, &selection, notes, unlaunched);
    }
    notes.extend(wait_for_quiet(&runner));
    // Builds do not count.
    let budget = options.budget.unwrap_or(session.policy.speed.budget.0);
    let deadline = Instant::now() + budget;
    let end = deadline + budget;
    let end = options.end.map_or(end, |at| at.clamp(deadline, end));
    let runner = BenchmarkRunner {
        deadline: Some(deadline),
        overtime: end - deadline,
        ..runner
    };
    let counted = runner.count(&pair)?;
    notes.extend(counted.notes);
    let mut paired = runner.compare(&pair, &options.injections)?;
    // Not remembered: a history of counters would be held against milestones alone.
    paired.results.extend(counted.results);
    paired.results.extend(pair.changed_results());
    paired.results.extend(runner.sizes(&pair));
    let mut bounds = runner.budgets(&paired.measurements[1]);
    let places = [base.location(session), candidate.location(session)];
    let (of_builds, of_budgets) = runner.builds(places, &selection)?;
    paired.extend(of_builds);
    bounds.extend(of_budgets);
    bounds.extend(runner.ratios(&pair.benches, &pair.built[1], selection.is_all())?);
    Ok(Launches {
        disturbance: runner.executor.disturbance(),
        pair,
        paired,
        bounds,
        notes,
        unlaunched: UnlaunchedBenchmarks::default(),
    })
}

/// Fails if a selection leaves nothing to measure, and nothing to say about it.
fn require_benchmark(
    policy: &Policy,
    pair: &RevisionPair,
    selection: &Selection,
    extent: Extent,
) -> Result<(), ComparisonError> {
    let has_builds = extent == Extent::All && policy.build.iter().any(|build| selection.has(build));
    if pair.benches.is_empty() && pair.is_all_paired() && !has_builds {
        return Err(no_benchmark(selection, &pair.notes));
    }
    Ok(())
}

/// That a selection leaves nothing to measure; notes say what was left out, and why.
fn no_benchmark(selection: &Selection, notes: &[String]) -> ComparisonError {
    let all = [vec![selection.words()], notes.to_vec()].concat();
    ComparisonError::NoBenchmark(all.join("; "))
}

/// Waits until other programs leave the processors alone; says so if they do not.
fn wait_for_quiet(runner: &BenchmarkRunner<'_>) -> Option<String> {
    let note = |text: String| (runner.events)(Event::Note(text));
    let busy = runner.executor.wait_for_quiet(&note)?;
    Some(format!(
        "other work used {:.0} % of the processors when measuring began",
        100.0 * busy
    ))
}

/// Keeps what was measured of both revisions as one comparison.
fn store_speed_runs(
    session: &mut Session,
    revisions: [&Revision; 2],
    machines: [&Fingerprint; 2],
    measurements: [Vec<Measurement>; 2],
    started_ms: Millis,
) -> Result<(), ComparisonError> {
    let comparison_id = new_id();
    for ((revision, machine), measurements) in revisions.into_iter().zip(machines).zip(measurements)
    {
        session.store.add(&Record::Speed(SpeedRun {
            id: new_id(),
            comparison_id: comparison_id.clone(),
            started_ms,
            finished_ms: now(),
            purpose: SpeedPurpose::Comparison,
            subject: revision.subject.clone(),
            fingerprint: machine.clone(),
            measurements,
        }))?;
    }
    Ok(())
}

/// Says that a slowdown was injected.
fn injection_note(injection: &Injection) -> String {
    format!(
        "{} was slowed down by {:.1} % on purpose in the candidate",
        injection.name,
        100.0 * injection.slowdown
    )
}

/// What a revision is measured on.
pub(crate) fn fingerprint(
    session: &Session,
    revision: &mut Revision,
) -> Result<Fingerprint, ComparisonError> {
    let toolchain = revision.environment(session)?.toolchain;
    let settings = build_settings(&session.policy.run);
    Ok(machine::fingerprint(&toolchain, &settings))
}

/// What differs between the revisions besides the programs, such as the compiler where the
/// toolchain file was changed: it is measured with the change, and that must be said.
fn what_else_differs(candidate: &Fingerprint, base: &Fingerprint) -> Option<String> {
    let differences = candidate.differences(base);
    (!differences.is_empty()).then(|| {
        format!(
            "the revisions differ in more than the programs, and what is measured is all of it together \
             ({}; here is the candidate)",
            differences.join("; ")
        )
    })
}

/// The newest calibration on this machine; else why there is none, in words.
fn newest_calibration(
    session: &Session,
    machine: &Fingerprint,
) -> Result<Result<Calibration, String>, ComparisonError> {
    let mut all = session.store.calibrations()?;
    all.sort_by_key(|calibration| calibration.at_ms);
    let Some(newest) = all.last() else {
        let why = "not calibrated here: cargo palisade calibrate says how often this errs";
        return Ok(Err(why.to_owned()));
    };
    let differs = machine.differences(&newest.fingerprint).join("; ");
    let here = all.iter().rfind(|c| c.fingerprint == *machine);
    Ok(here.cloned().ok_or_else(|| {
        format!("the newest calibration is incomparable, it was made elsewhere ({differs})")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_compiler_on_one_side_is_said() {
        let of = |compiler: &str| machine::fingerprint(compiler, "");
        assert_eq!(
            what_else_differs(&of("rustc 1.95"), &of("rustc 1.95")),
            None
        );
        let said = what_else_differs(&of("rustc 1.96"), &of("rustc 1.95")).expect("a difference");
        assert!(
            said.ends_with("(compiler: rustc 1.96 here, rustc 1.95 there; here is the candidate)"),
            "{said}"
        );
    }
}
