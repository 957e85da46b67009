//! A run of all tests that is to be kept as what is expected: no failure in it is believed from
//! one run.

use std::collections::{BTreeMap, BTreeSet};

use crate::baseline::{TestSet, TestStatus};
use crate::host::run::Runner;
use crate::host::session::{Event, Events, Revision, Session, SessionError};
use crate::observation::{Outcome, Purpose, Run};
use crate::record::{ConfirmedFailure, FailureKind, counted};
use crate::rerun::{BasePlan, RanRevisions, RerunPlan as _, SeenTests};
use crate::scope::Scope;
use crate::test_id::{TargetKind, TestId};

/// A run of all tests of a revision, and reruns of those that failed.
#[derive(Clone, Debug)]
pub struct ConfirmedRun {
    /// The run of all tests.
    pub run: Run,
    /// Why some outcome is missing, in words.
    pub gaps: Vec<String>,
    /// The state of each test, by all runs.
    pub set: TestSet,
    /// The tests that failed, but for failures that the policy knows.
    pub failures: Vec<ConfirmedFailure>,
}

/// Runs all tests of a revision, those that fail again as often as the policy asks for, and what
/// only fails under cargo-nextest once more under `cargo test`.
pub fn confirmed_run(
    session: &mut Session,
    revision: &mut Revision,
    events: Events<'_>,
) -> Result<ConfirmedRun, SessionError> {
    let (run, gaps) = session.run(revision, &Scope::Workspace, Purpose::Tests, events)?;
    let mut set = TestSet::of_runs([&run], &Scope::Workspace);
    let is_new = |test: &&TestId| session.policy.known_failure(test).is_none();
    let failed = with_status(&set, TestStatus::Failing);
    let failed: BTreeSet<TestId> = failed.iter().filter(is_new).cloned().collect();
    let mut plan = BasePlan::of_tests(failed.clone(), session.policy.flaky);
    loop {
        let seen = SeenTests {
            base: &set,
            candidate: &set,
        };
        let Some(request) = plan.next(seen, false) else {
            break;
        };
        let tests = counted(request.tests, "failing test");
        events(Event::Step(format!(
            "run {tests} again, round {}",
            request.round
        )));
        let scope = Scope::Tests(request.base);
        let (again, _) = session.run(revision, &scope, request.purpose, events)?;
        set.add(&again, &scope);
        plan.ran(RanRevisions {
            candidate: true,
            base: true,
        });
    }
    let broken = with_status(&set, TestStatus::Failing);
    let broken: BTreeSet<TestId> = broken.intersection(&failed).cloned().collect();
    let passing = passing_under_cargo_test(session, revision, &broken, events)?;
    let failure = |test: TestId| {
        let seen = &set.tests[&test];
        let kind = if !broken.contains(&test) {
            FailureKind::Flaky
        } else if passing.contains(&test) {
            FailureKind::OnlyUnderNextest
        } else {
            FailureKind::Broken
        };
        ConfirmedFailure {
            kind,
            failures: seen.counts.failures,
            runs: seen.counts.total(),
            message: seen.message.clone(),
            test,
        }
    };
    let failures = failed.into_iter().map(failure).collect();
    Ok(ConfirmedRun {
        run,
        gaps,
        set,
        failures,
    })
}

fn with_status(set: &TestSet, status: TestStatus) -> BTreeSet<TestId> {
    let tests = set.tests.iter();
    let tests = tests.filter(|(_, expected)| expected.status() == status);
    tests.map(|(test, _)| test.clone()).collect()
}

/// Those of the tests that pass where `cargo test` runs all tests of their packages, those of a
/// target in one process. None where cargo-nextest is not what they failed under.
fn passing_under_cargo_test(
    session: &mut Session,
    revision: &mut Revision,
    tests: &BTreeSet<TestId>,
    events: Events<'_>,
) -> Result<BTreeSet<TestId>, SessionError> {
    let tests = tests.iter().filter(|test| test.kind != TargetKind::Doc);
    let tests: BTreeSet<TestId> = tests.cloned().collect();
    if tests.is_empty() || session.runner == Runner::CargoTest {
        return Ok(BTreeSet::new());
    }
    let count = counted(tests.len(), "failing test");
    events(Event::Step(format!("run {count} under `cargo test`")));
    let packages = tests.iter().map(|test| test.package.clone());
    let scope = Scope::Packages(packages.collect());
    let (run, _) = session.run_as_cargo_test(revision, &scope, events)?;
    let outcomes = run
        .observations
        .iter()
        .map(|seen| (&seen.test, seen.outcome));
    let outcomes: BTreeMap<&TestId, Outcome> = outcomes.collect();
    let passes = |test: &TestId| outcomes.get(test) == Some(&Outcome::Pass);
    Ok(tests.into_iter().filter(passes).collect())
}
