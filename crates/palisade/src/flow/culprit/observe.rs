//! Looks at one commit: checks it out, builds it and runs what was asked for, once.

use super::CulpritError;
use crate::bisect::CommitObservation;
use crate::flow::benchmark_comparison::{GoodCommit, hold_ratio};
use crate::flow::command::run_command;
use crate::host::measure::launch::Launcher;
use crate::host::process::ProcessError;
use crate::host::run::RunError;
use crate::host::session::{Event, Events, Revision, Session, SessionError};
use crate::observation::{Outcome, Purpose};
use crate::record::Question;
use crate::scope::Scope;
use crate::speed::BoundState;
use crate::test_id::TestId;

/// Why nothing is seen of a commit.
pub(super) struct SkipReason {
    /// In words.
    pub(super) words: String,
    /// Whether it does not build.
    pub(super) does_not_build: bool,
}

/// What is seen, and why nothing is.
type ObservationAndReason = (CommitObservation, Option<SkipReason>);

/// Looks at commits, and keeps the last one checked out.
pub(crate) struct Observer<'a> {
    launcher: &'a Launcher,
    question: Question,
    revision: Option<Revision>,
    good_commit: Option<GoodCommit>,
    at: Option<String>,
}

impl<'a> Observer<'a> {
    pub(crate) fn new(launcher: &'a Launcher, question: &Question) -> Self {
        Self {
            launcher,
            question: question.clone(),
            revision: None,
            good_commit: None,
            at: None,
        }
    }

    /// The commit that is checked out.
    pub(super) fn at(&self) -> Option<&str> {
        self.at.as_deref()
    }

    /// Looks at a commit once. What cannot be built or run is skipped, with the reason.
    pub(super) fn observe(
        &mut self,
        session: &mut Session,
        good: &str,
        commit: &str,
        events: Events<'_>,
    ) -> Result<ObservationAndReason, CulpritError> {
        let seen = match self.question.clone() {
            Question::Test(test) => self.test(session, &test, commit, events),
            Question::Command(words) => self.command(session, &words, commit, events),
            Question::Ratio(name) => self.ratio(session, &name, commit, events),
            Question::Bench { name, measure } => {
                let what = (name.as_str(), measure);
                self.bench(session, what, good, commit, events)
            }
        };
        // An interrupt may end a child before it ends us: what that looks like is nothing
        // that was seen of the commit.
        let is_launch =
            |error: &CulpritError| matches!(error.session(), Some(SessionError::Launch(_)));
        if session.cancel().is_cancelled() && !seen.as_ref().is_err_and(is_launch) {
            let program = self.question.words();
            return Err(RunError::from(ProcessError::Interrupted { program }).into());
        }
        match seen {
            Ok(seen) => {
                self.at = Some(commit.to_owned());
                Ok(seen)
            }
            Err(error) => match error.session() {
                Some(SessionError::Run(failed)) if !failed.is_interrupt() => {
                    self.at = Some(commit.to_owned());
                    let reason = SkipReason {
                        words: reason(failed),
                        does_not_build: matches!(failed, RunError::Build { .. }),
                    };
                    Ok((CommitObservation::Skip, Some(reason)))
                }
                // A commit whose manifests Cargo cannot read.
                Some(SessionError::Workspace(failed)) => Ok(skip(failed.to_string())),
                _ => Err(error),
            },
        }
    }

    /// The checkout of a commit.
    fn revision(&mut self, session: &Session, commit: &str) -> Result<&mut Revision, CulpritError> {
        let is_it = |revision: &Revision| revision.subject.commit == commit;
        if !self.revision.as_ref().is_some_and(is_it) {
            // Its place is given back first, so that the next one finds what was built.
            self.revision = None;
            self.revision = Some(session.in_checkout(Some(commit))?);
        }
        Ok(self.revision.as_mut().expect("set above"))
    }

    fn test(
        &mut self,
        session: &mut Session,
        test: &TestId,
        commit: &str,
        events: Events<'_>,
    ) -> Result<ObservationAndReason, CulpritError> {
        let scope = Scope::Tests([test.clone()].into());
        let revision = self.revision(session, commit)?;
        let (run, gaps) = session.run(revision, &scope, Purpose::Rerun, events)?;
        let seen = run.observations.iter().find(|seen| seen.test == *test);
        Ok(match seen.map(|seen| seen.outcome) {
            Some(Outcome::Pass) => (CommitObservation::Good, None),
            Some(Outcome::Fail | Outcome::TimedOut) => (CommitObservation::Bad, None),
            Some(Outcome::Ignored) => skip("the test is ignored".to_owned()),
            None if gaps.is_empty() => skip("there is no such test".to_owned()),
            None => skip(gaps.join("; ")),
        })
    }

    fn command(
        &mut self,
        session: &Session,
        words: &[String],
        commit: &str,
        events: Events<'_>,
    ) -> Result<ObservationAndReason, CulpritError> {
        let revision = self.revision(session, commit)?;
        let result = run_command(session, revision, words, events)?;
        Ok((result.seen, result.why.map(SkipReason::new)))
    }

    /// Whether a ratio of the user's policy holds.
    fn ratio(
        &mut self,
        session: &Session,
        name: &str,
        commit: &str,
        events: Events<'_>,
    ) -> Result<ObservationAndReason, CulpritError> {
        let launcher = self.launcher;
        let revision = self.revision(session, commit)?;
        let Some(ratio) = session.policy.ratio.iter().find(|ratio| ratio.name == name) else {
            return Ok(skip(format!("no [[ratio]] is called {name}")));
        };
        let held = hold_ratio(session, launcher, revision, ratio, events)?;
        Ok(match held {
            Ok(held) => match held.state {
                BoundState::Kept => (CommitObservation::Good, None),
                BoundState::Broken => (CommitObservation::Bad, None),
                BoundState::Inconclusive | BoundState::Unrecorded => skip(held.reason),
            },
            Err(why) => skip(why),
        })
    }

    fn bench(
        &mut self,
        session: &mut Session,
        what: (&str, Option<crate::speed::Measure>),
        good: &str,
        commit: &str,
        events: Events<'_>,
    ) -> Result<ObservationAndReason, CulpritError> {
        let good_commit = match &mut self.good_commit {
            Some(good_commit) => good_commit,
            none => {
                events(Event::Step("build the good end to measure it".to_owned()));
                none.insert(GoodCommit::new(session, self.launcher, good, what, events)?)
            }
        };
        let block = good_commit.block(session, self.launcher, commit, events)?;
        Ok(block.map_or_else(skip, |ratios| (CommitObservation::LogRatios(ratios), None)))
    }
}

impl SkipReason {
    fn new(words: String) -> Self {
        Self {
            words,
            does_not_build: false,
        }
    }
}

fn skip(why: String) -> ObservationAndReason {
    (CommitObservation::Skip, Some(SkipReason::new(why)))
}

/// Why a run says nothing: the first line of what the compiler said.
fn reason(error: &RunError) -> String {
    match error {
        RunError::Build { output } => {
            let first = output.lines().next().unwrap_or_default();
            format!("it does not build: {first}")
        }
        other => other.to_string(),
    }
}
