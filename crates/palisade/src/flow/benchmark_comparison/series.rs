//! Measures the benchmarks of one tree, to know how fast it is and for its history.

use std::time::{Duration, Instant};

use super::pair::{Selection, prepare_revision};
use super::runner::{BenchmarkRunner, UnpairedResults};
use super::{ComparisonError, fingerprint, no_benchmark};
use crate::host::measure::executor::Executor;
use crate::host::measure::launch::Launcher;
use crate::host::session::{Event, Events, Session};
use crate::host::{new_id, now};
use crate::record::Record;
use crate::speed::{Fingerprint, Measurement, NamedBound, SpeedPurpose, SpeedRun};

/// What is measured, and how often.
#[derive(Clone, Debug, Default)]
pub struct SeriesOptions {
    /// The revision; the files as they are if none is given.
    pub revision: Option<String>,
    /// Which benchmarks.
    pub selection: Selection,
    /// How many launches of each.
    pub launches: usize,
    /// How long measuring may take; the policy says if nothing does.
    pub budget: Option<Duration>,
}

/// What was measured of a tree.
#[derive(Clone, Debug)]
pub struct SeriesReport {
    /// What people call the tree.
    pub name: String,
    /// On what it was measured.
    pub machine: Fingerprint,
    /// The values.
    pub measurements: Vec<Measurement>,
    /// The bounds of the policy.
    pub bounds: Vec<NamedBound>,
    /// Benchmarks that could not be measured, and why.
    pub failed: Vec<(String, String)>,
    /// What else there is to say.
    pub notes: Vec<String>,
}

/// Measures the benchmarks of one tree, and remembers the values.
pub fn measure_series(
    session: &mut Session,
    launcher: &Launcher,
    options: &SeriesOptions,
    events: Events<'_>,
) -> Result<SeriesReport, ComparisonError> {
    let mut revision = session.in_checkout(options.revision.as_deref())?;
    let machine = fingerprint(session, &mut revision)?;
    let started_ms = now();
    let series = {
        let runner = BenchmarkRunner {
            policy: &session.policy,
            executor: Executor::new(launcher, &session.policy.speed, session.cancel()),
            events,
            deadline: None,
            overtime: Duration::ZERO,
            calibration: None,
        };
        let selection = options.selection.or_policy(&session.policy.speed);
        let prepared = prepare_revision(session, &runner, &mut revision, &selection)?;
        let benches: Vec<_> = prepared.benches.into_values().collect();
        if benches.is_empty() && prepared.failed.is_empty() {
            return Err(no_benchmark(&selection, &prepared.notes));
        }
        runner
            .executor
            .wait_for_quiet(&|text| events(Event::Note(text)));
        let budget = options.budget.unwrap_or(session.policy.speed.budget.0);
        let runner = BenchmarkRunner {
            deadline: Some(Instant::now() + budget),
            ..runner
        };
        let UnpairedResults {
            measurements,
            failed,
        } = runner.measure(&benches, &prepared.built, options.launches)?;
        let mut bounds = runner.budgets(&measurements);
        bounds.extend(runner.ratios(&benches, &prepared.built, selection.is_all())?);
        SeriesReport {
            name: revision.name(),
            machine,
            measurements,
            bounds,
            failed: [prepared.failed, failed].concat(),
            notes: prepared.notes,
        }
    };
    session.store.add(&Record::Speed(SpeedRun {
        id: new_id(),
        comparison_id: new_id(),
        started_ms,
        finished_ms: now(),
        purpose: SpeedPurpose::Series,
        subject: revision.subject.clone(),
        fingerprint: series.machine.clone(),
        measurements: series.measurements.clone(),
    }))?;
    Ok(series)
}
