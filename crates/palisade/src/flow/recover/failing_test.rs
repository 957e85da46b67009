//! The failing test with which a recovery begins that was asked for without a name, as the
//! store has it.

use std::collections::BTreeMap;

use super::RecoverError;
use crate::host::now;
use crate::host::session::{Event, Events, Session};
use crate::observation::{Outcome, Run};
use crate::record::{Question, age};
use crate::test_id::TestId;

/// How many runs are looked through for those of a commit.
const RUNS: u32 = 200;

/// The one test that fails in the newest complete run of a commit that has it, of HEAD if
/// none is named; says which it took. Tests that are known to fail or in quarantine are
/// not counted, and those of which an incident at this commit is closed are done.
pub(super) fn single_failing_test(
    session: &Session,
    revision: Option<&str>,
    events: Events<'_>,
) -> Result<TestId, RecoverError> {
    let commit = session.repo.resolve(revision.unwrap_or("HEAD"))?;
    let name = commit.short().to_owned();
    let is_of_it = |run: &Run| run.complete && run.subject.tree == commit.tree;
    let mut runs = session.store.recent_runs(RUNS)?;
    runs.retain(is_of_it);
    let Some(newest) = runs.first() else {
        return Err(RecoverError::NoRun(name));
    };
    let when = format!("{} ago", age(newest.finished_ms, now()));
    // Runs are listed newest first: the first outcome of a test is its newest one.
    let mut outcomes = BTreeMap::new();
    for seen in runs.iter().flat_map(|run| &run.observations) {
        outcomes.entry(&seen.test).or_insert(seen.outcome);
    }
    let ledger = crate::flow::quarantine::ledger(session.store.as_ref())?;
    let incidents = session.store.incidents()?;
    let closed_for = |test: &TestId| {
        let question = Question::Test(test.clone());
        let is_it = |bad: &str, asked: &Question| bad == commit.id && *asked == question;
        let mut about = incidents.iter();
        about.find(|incident| is_it(&incident.bad, &incident.question))
    };
    let is_failing = |test: &TestId, outcome: Outcome| {
        matches!(outcome, Outcome::Fail | Outcome::TimedOut)
            && session.policy.known_failure(test).is_none()
            && ledger.quarantine(test).is_none()
    };
    let failing = outcomes
        .into_iter()
        .filter(|(test, outcome)| is_failing(test, *outcome));
    let (done, failing): (Vec<_>, Vec<_>) = failing
        .map(|(test, _)| (test, closed_for(test)))
        .partition(|(_, incident)| incident.is_some());
    match failing.as_slice() {
        [] => {
            let done = done
                .iter()
                .filter_map(|(test, incident)| Some((test, (*incident)?)));
            let done = done.map(|(test, incident)| match incident.branch() {
                Some(branch) => format!("{branch} takes back what broke {test}"),
                None => format!("incident {} is about {test}", incident.id),
            });
            let done: Vec<String> = done.collect();
            let why = if done.is_empty() {
                format!("none does in its newest run, {when}")
            } else {
                done.join("; ")
            };
            Err(RecoverError::NoFailingTest { commit: name, why })
        }
        [(test, _)] => {
            let note =
                format!("{test} fails in the newest run of {name}, {when}: the way back from that");
            events(Event::Note(note));
            Ok((*test).clone())
        }
        many => {
            let tests: Vec<String> = many.iter().map(|(test, _)| test.to_string()).collect();
            let tests = tests.join(", ");
            Err(RecoverError::ManyFailingTests {
                commit: name,
                tests,
            })
        }
    }
}
