//! Setting a milestone: all that is known of a commit, or measured now.

use super::{MilestoneError, known_claim};
use crate::flow::benchmark_comparison::{ComparisonError, SeriesOptions, measure_series};
use crate::flow::claims::{self, Claims};
use crate::host::git::Commit;
use crate::host::measure::launch::Launcher;
use crate::host::session::{Event, Events, Session};
use crate::host::{new_id, now};
use crate::observation::{Millis, Purpose, Subject};
use crate::record::{KnownTests, Milestone, Record, Snapshot};
use crate::scope::Scope;
use crate::speed::{SpeedPurpose, SpeedRun};
use crate::verdict::KnownClaim;

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
    session: &mut Session,
    options: &SetOptions,
    events: Events<'_>,
) -> Result<Milestone, MilestoneError> {
    let commit = session.repo.resolve(&options.revision)?;
    let tests = tests(session, options, events)?;
    let mut speed = series(session, &commit)?;
    if options.measure && speed.is_empty() {
        measure(session, options, events)?;
        speed = series(session, &commit)?;
    }
    let claims = claims(session, &commit, options, events)?;
    let milestone = Milestone {
        id: new_id(),
        name: options.name.clone(),
        set_ms: now(),
        subject: Subject {
            tree: commit.tree,
            commit: commit.id,
            dirty: false,
            checkout: true,
            branch: session.repo.branch(),
        },
        snapshot: Some(Snapshot {
            tests,
            speed,
            claims,
        }),
    };
    session.store.add(&Record::Milestone(milestone.clone()))?;
    Ok(milestone)
}

fn tests(
    session: &mut Session,
    options: &SetOptions,
    events: Events<'_>,
) -> Result<Option<KnownTests>, MilestoneError> {
    let scope = Scope::Workspace;
    let mut revision = session.revision_of(&options.revision)?;
    let mut known = session.known(&mut revision, &scope)?;
    if options.measure && known.covering.is_none() {
        events(Event::Step(format!("run the tests of {}", revision.name())));
        session.run(&mut revision, &scope, Purpose::Tests, events)?;
        known = session.known(&mut revision, &scope)?;
    }
    let environment = revision.environment(session)?;
    let of_known = |_| KnownTests::of(&known.set, environment);
    Ok(known.covering.as_ref().map(of_known))
}

/// The series that were measured of a commit, on every machine.
pub(super) fn series(session: &Session, commit: &Commit) -> Result<Vec<SpeedRun>, MilestoneError> {
    let mut runs = session.store.speed_runs(Millis::MIN)?;
    runs.retain(|run| {
        run.purpose == SpeedPurpose::Series && run.subject.commit == commit.id && !run.subject.dirty
    });
    Ok(runs)
}

/// Measures the benchmarks; a workspace without any has no speed to remember.
fn measure(
    session: &mut Session,
    options: &SetOptions,
    events: Events<'_>,
) -> Result<(), MilestoneError> {
    let series = SeriesOptions {
        revision: Some(options.revision.clone()),
        launches: LAUNCHES,
        ..SeriesOptions::default()
    };
    match measure_series(session, &options.launcher, &series, events) {
        Ok(_) | Err(ComparisonError::NoBenchmark(_)) => Ok(()),
        Err(other) => Err(other.into()),
    }
}

fn claims(
    session: &mut Session,
    commit: &Commit,
    options: &SetOptions,
    events: Events<'_>,
) -> Result<Option<Vec<KnownClaim>>, MilestoneError> {
    if session.repo.working_tree()? != commit.tree {
        return Ok(None);
    }
    let list = Claims::load(session)?;
    let options = claims::Options {
        costly: options.costly,
        launcher: Some(options.launcher.clone()),
        deadline: None,
    };
    let checked = claims::check(session, &list, &options, events)?;
    Ok(Some(checked.iter().map(known_claim).collect()))
}
