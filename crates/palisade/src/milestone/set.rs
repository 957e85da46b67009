//! Setting a milestone: all that is known of a commit, or measured now.

use super::{KnownClaim, KnownTests, Milestone, Snapshot};
use crate::benchmark_comparison::{SeriesOptions, measure_series};
use crate::claims::{self, Claims};
use crate::git::Commit;
use crate::measure::launch::Launcher;
use crate::record::{Millis, Purpose, Record, Scope, Subject, new_id, now};
use crate::session::{Event, Events, Guard, GuardError};
use crate::speed::{SpeedPurpose, SpeedRun};

/// How often a benchmark is launched for a milestone.
const LAUNCHES: usize = 10;

/// What a milestone is to be.
#[derive(Clone, Debug)]
pub struct SetOptions {
    /// What to call it.
    pub name: String,
    /// The commit.
    pub revision: String,
    /// Run its tests and benchmarks now, as far as they are not known.
    pub measure: bool,
    /// Measure the costly claims too.
    pub costly: bool,
    /// What launches benchmarks.
    pub launcher: Launcher,
}

/// Sets a milestone and remembers it with what is known of its commit. Claims are
/// measured now: they can be only while the user's files are those of the commit.
pub fn set(
    guard: &mut Guard,
    options: &SetOptions,
    events: Events<'_>,
) -> Result<Milestone, GuardError> {
    let commit = guard.repo.resolve(&options.revision)?;
    let tests = tests(guard, options, events)?;
    let mut speed = series(guard, &commit)?;
    if options.measure && speed.is_empty() {
        measure(guard, options, events)?;
        speed = series(guard, &commit)?;
    }
    let claims = claims(guard, &commit, options, events)?;
    let milestone = Milestone {
        id: new_id(),
        name: options.name.clone(),
        set_ms: now(),
        subject: Subject {
            tree: commit.tree,
            commit: commit.id,
            dirty: false,
            checkout: true,
            branch: guard.repo.branch(),
        },
        snapshot: Some(Snapshot {
            tests,
            speed,
            claims,
        }),
    };
    guard.store.add(&Record::Milestone(milestone.clone()))?;
    Ok(milestone)
}

fn tests(
    guard: &mut Guard,
    options: &SetOptions,
    events: Events<'_>,
) -> Result<Option<KnownTests>, GuardError> {
    let scope = Scope::Workspace;
    let mut side = guard.side_of(&options.revision)?;
    let mut known = guard.known(&mut side, &scope)?;
    if options.measure && known.covering.is_none() {
        events(Event::Step(format!("run the tests of {}", side.name())));
        guard.run(&mut side, &scope, Purpose::Tests, events)?;
        known = guard.known(&mut side, &scope)?;
    }
    let environment = side.environment(guard)?;
    let of_known = |_| KnownTests::of(&known.set, environment);
    Ok(known.covering.as_ref().map(of_known))
}

/// The series that were measured of a commit, on every machine.
pub(super) fn series(guard: &Guard, commit: &Commit) -> Result<Vec<SpeedRun>, GuardError> {
    let mut runs = guard.store.speed_runs(Millis::MIN)?;
    runs.retain(|run| {
        run.purpose == SpeedPurpose::Series && run.subject.commit == commit.id && !run.subject.dirty
    });
    Ok(runs)
}

/// Measures the benchmarks; a workspace without any has no speed to remember.
fn measure(guard: &mut Guard, options: &SetOptions, events: Events<'_>) -> Result<(), GuardError> {
    let series = SeriesOptions {
        revision: Some(options.revision.clone()),
        launches: LAUNCHES,
        ..SeriesOptions::default()
    };
    match measure_series(guard, &options.launcher, &series, events) {
        Ok(_) | Err(GuardError::NoBenchmark(_)) => Ok(()),
        Err(other) => Err(other),
    }
}

fn claims(
    guard: &mut Guard,
    commit: &Commit,
    options: &SetOptions,
    events: Events<'_>,
) -> Result<Option<Vec<KnownClaim>>, GuardError> {
    if guard.repo.working_tree()? != commit.tree {
        return Ok(None);
    }
    let list = Claims::load(guard)?;
    let options = claims::Options {
        costly: options.costly,
        launcher: Some(options.launcher.clone()),
        deadline: None,
    };
    let checked = claims::check(guard, &list, &options, events)?;
    Ok(Some(checked.iter().map(KnownClaim::of).collect()))
}
