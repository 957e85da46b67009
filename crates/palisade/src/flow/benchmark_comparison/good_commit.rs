//! One benchmark of one commit after the other, each in pairs with the same good commit.

use std::time::Duration;

use super::pair::{PreparedRevision, Selection, prepare_revision};
use super::runner::{BenchmarkRunner, error_chain};
use super::{ComparisonError, fingerprint};
use crate::bisect::BLOCK_PAIRS;
use crate::host::measure::bench::{Bench, Built, Reading};
use crate::host::measure::executor::Executor;
use crate::host::measure::launch::{LaunchError, Launcher};
use crate::host::measure::machine;
use crate::host::session::{Events, Revision, Session};
use crate::host::{new_id, now};
use crate::policy::RatioPolicy;
use crate::record::Record;
use crate::speed::{
    BoundDecision, Fingerprint, Measure, Measurement, SpeedPurpose, SpeedRun, log_ratio,
};

/// A good commit, built, with the benchmark that others are held against.
pub(crate) struct GoodCommit {
    good: Revision,
    built: Built,
    bench: Bench,
    name: String,
    measure: Measure,
    machine: Fingerprint,
    /// The commit that is compared with it now, checked out and built.
    compared: Option<(Revision, Built)>,
}

impl GoodCommit {
    /// Checks the good commit out, builds it, and finds the one benchmark that is called
    /// `name`, or has it in its name. Without a measure, it is its time or rate.
    pub(crate) fn new(
        session: &Session,
        launcher: &Launcher,
        good: &str,
        (name, measure): (&str, Option<Measure>),
        events: Events<'_>,
    ) -> Result<Self, ComparisonError> {
        let mut good = session.in_checkout(Some(good))?;
        let machine = fingerprint(session, &mut good)?;
        let runner = runner(session, launcher, events);
        let selection = Selection {
            only: vec![name.to_owned()],
            ..Selection::default()
        };
        let PreparedRevision { built, benches, .. } =
            prepare_revision(session, &runner, &mut good, &selection)?;
        let missing = || ComparisonError::NoBenchmark(selection.words());
        let bench = match benches.get(name) {
            Some(exact) => exact.clone(),
            None if benches.len() > 1 => {
                let names: Vec<String> = benches.into_keys().collect();
                return Err(ComparisonError::ManyBenchmarks(names.join(", ")));
            }
            None => benches.into_values().next().ok_or_else(missing)?,
        };
        let readings = runner.executor.trial_launch(&bench, &built)?;
        let is_it = |reading: &&Reading| match measure {
            Some(measure) => reading.measure == measure,
            None => matches!(reading.measure, Measure::Time | Measure::Rate),
        };
        let exact = readings.iter().find(|r| r.name == name && is_it(r));
        let reading = exact.or_else(|| readings.iter().find(is_it));
        let reading = reading.ok_or_else(missing)?;
        Ok(Self {
            name: reading.name.clone(),
            measure: reading.measure,
            good,
            built,
            bench,
            machine,
            compared: None,
        })
    }

    /// Measures a commit in one block of pairs, and remembers the values. Returns the
    /// logarithms of its ratios to the good commit; `Err` says why there are none.
    pub(crate) fn block(
        &mut self,
        session: &mut Session,
        launcher: &Launcher,
        commit: &str,
        events: Events<'_>,
    ) -> Result<Result<Vec<f64>, String>, ComparisonError> {
        let is_compared = |(revision, _): &(Revision, Built)| revision.subject.commit == commit;
        if !self.compared.as_ref().is_some_and(is_compared) {
            // Its place is given back first, so that the next one finds what was built.
            self.compared = None;
            let mut revision = session.in_checkout(Some(commit))?;
            let runner = runner(session, launcher, events);
            let selection = Selection {
                only: vec![self.bench.name.clone()],
                ..Selection::default()
            };
            let prepared = prepare_revision(session, &runner, &mut revision, &selection)?;
            if !prepared.benches.contains_key(&self.bench.name) {
                return Ok(Err(format!("there is no {}", self.bench.name)));
            }
            if let Err(error) = runner.executor.trial_launch(&self.bench, &prepared.built) {
                return unless_interrupted(error);
            }
            self.compared = Some((revision, prepared.built));
        }
        let Some((revision, built)) = &self.compared else {
            unreachable!("it was checked out above");
        };
        let started_ms = now();
        let mut values: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
        {
            let runner = runner(session, launcher, events);
            while values[0].len() < BLOCK_PAIRS {
                let pairs = match runner.two_pairs(&self.bench, [&self.built, built], 0.0) {
                    Ok(pairs) => pairs,
                    Err(error) => return unless_interrupted(error),
                };
                for readings in pairs {
                    for (values, readings) in values.iter_mut().zip(&readings) {
                        let is_it = |r: &&Reading| r.name == self.name && r.measure == self.measure;
                        let Some(reading) = readings.iter().find(is_it) else {
                            return Ok(Err(format!("it did not say its {}", self.measure)));
                        };
                        values.push(reading.value);
                    }
                }
            }
        }
        let pairs = values[0].iter().zip(&values[1]);
        let ratios = pairs.map(|(good, other)| log_ratio(self.measure, *good, *other));
        let ratios = ratios.collect::<Result<Vec<f64>, _>>();
        let comparison_id = new_id();
        if revision.subject.commit != self.good.subject.commit {
            for (revision, values) in [&self.good, revision].into_iter().zip(values) {
                session.store.add(&Record::Speed(SpeedRun {
                    id: new_id(),
                    comparison_id: comparison_id.clone(),
                    started_ms,
                    finished_ms: now(),
                    purpose: SpeedPurpose::Comparison,
                    subject: revision.subject.clone(),
                    fingerprint: self.machine.clone(),
                    measurements: vec![Measurement {
                        benchmark: self.name.clone(),
                        measure: self.measure,
                        values,
                    }],
                }))?;
            }
        }
        Ok(ratios.map_err(|error| error.to_string()))
    }
}

/// Holds a ratio of the policy against its bound, on one revision; `Err` says why nothing is
/// known of it.
pub(crate) fn hold_ratio(
    session: &Session,
    launcher: &Launcher,
    revision: &mut Revision,
    ratio: &RatioPolicy,
    events: Events<'_>,
) -> Result<Result<BoundDecision, String>, ComparisonError> {
    let Some((bound, _)) = ratio.bound_on(&machine::processor()) else {
        return Ok(Err("it has no bound".to_owned()));
    };
    let runner = runner(session, launcher, events);
    let selection = Selection {
        only: vec![ratio.of.clone(), ratio.to.clone()],
        ..Selection::default()
    };
    let PreparedRevision { built, benches, .. } =
        prepare_revision(session, &runner, revision, &selection)?;
    let benches: Vec<Bench> = benches.into_values().collect();
    runner.ratio(ratio, bound, &benches, &built)
}

fn runner<'a>(
    session: &'a Session,
    launcher: &'a Launcher,
    events: Events<'a>,
) -> BenchmarkRunner<'a> {
    BenchmarkRunner {
        policy: &session.policy,
        executor: Executor::new(launcher, &session.policy.speed, session.cancel()),
        events,
        deadline: None,
        overtime: Duration::ZERO,
        calibration: None,
    }
}

/// What a launch that failed says of its commit.
fn unless_interrupted(error: LaunchError) -> Result<Result<Vec<f64>, String>, ComparisonError> {
    if error.is_interrupt() {
        return Err(error.into());
    }
    Ok(Err(error_chain(&error)))
}
