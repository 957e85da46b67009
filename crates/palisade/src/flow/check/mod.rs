//! The whole path: from a change to a verdict on its tests.
//!
//! ```text
//! trees ─► changed files ─► risk ─► scope ─► runs of both revisions ─► differences
//!                                              │   ▲                   │
//!                                            store └── reruns, stress ─┴─► verdict ─► report
//! ```

mod monitor;
mod other_checks;
mod rerun;
mod speed;
mod surroundings;
mod test_sets;

pub(crate) use test_sets::no_tests;

use std::time::{Duration, Instant};

use crate::baseline::{TestSet, TestStatus};
use crate::coverage::{Aspect, Coverage};
use crate::finding::{Cause, Finding, FindingKind, FindingSubject, Severity};
use crate::flaky::Ledger;
use crate::flow::benchmark_comparison::ComparisonError;
use crate::flow::change::assess_change;
use crate::flow::claims::ClaimsError;
use crate::flow::quarantine::release_due;
use crate::host::measure::launch::Launcher;
use crate::host::now;
use crate::host::session::{
    BaseChoice, CandidateChoice, Event, Events, Revision, Session, SessionError,
};
use crate::observation::Run;
use crate::record::{Advice, Report, RevisionReport, Source};
use crate::risk::Assessment;
use crate::scope::{Scope, ShardNumber};
use crate::surroundings::settle;
use crate::test_id::TestId;
use crate::test_set_diff::{Difference, TestState, diff};
use crate::verdict::{TestEvidence, Verdict, judge_tests};

/// Why a change cannot be judged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The claims of the documents cannot be read.
    #[error(transparent)]
    Claims(#[from] ClaimsError),
    /// The benchmarks cannot be compared.
    #[error(transparent)]
    Comparison(#[from] ComparisonError),
    /// The session failed: git, Cargo, the store, a run.
    #[error(transparent)]
    Session(SessionError),
}

impl<E: Into<SessionError>> From<E> for CheckError {
    fn from(error: E) -> Self {
        Self::Session(error.into())
    }
}

impl CheckError {
    fn inner(&self) -> &dyn Advice {
        match self {
            Self::Claims(error) => error,
            Self::Comparison(error) => error,
            Self::Session(error) => error,
        }
    }
}

impl Advice for CheckError {
    fn is_usage(&self) -> bool {
        self.inner().is_usage()
    }

    fn hint(&self) -> Option<String> {
        self.inner().hint()
    }

    fn output(&self) -> Option<&str> {
        self.inner().output()
    }
}

/// What a check compares, and how much time it may take.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// What to compare with.
    pub base: BaseChoice,
    /// What to judge.
    pub candidate: CandidateChoice,
    /// Use no stored run.
    pub fresh: bool,
    /// Judge all tests, not only those that the change can affect.
    pub everything: bool,
    /// Begin no more reruns after this time.
    pub budget: Option<Duration>,
    /// Run one part of the tests only, for [`merge`](crate::flow::merge) to put together.
    pub shard: Option<ShardNumber>,
    /// Whether speed and memory are measured too.
    pub speed: MeasureSpeed,
    /// Look at the tests alone, and say so.
    pub tests_only: bool,
}

/// Whether a check measures speed and memory, and what starts the benchmarks.
#[derive(Clone, Debug, Default)]
pub enum MeasureSpeed {
    /// It does not.
    #[default]
    Never,
    /// It does unless the policy says no, in what is left of the time.
    ByPolicy(Launcher),
    /// It does, and what cannot be measured is no pass.
    Always(Launcher),
}

/// Judges a change.
pub fn check(
    session: &mut Session,
    options: &CheckOptions,
    events: Events<'_>,
) -> Result<Report, CheckError> {
    let started = Instant::now();
    let (mut base, candidate) = session.revisions(&options.base, &options.candidate)?;
    let mut assessment = assess_change(session, &base.subject.tree, &candidate.subject.tree)?;
    if session.may_differ_outside(&mut base)? {
        assessment.scope = Some(Scope::Workspace);
    }
    for entry in release_due(session.store.as_mut(), now())? {
        events(Event::Note(format!("{} left quarantine", entry.test)));
    }
    let all = options.everything || assessment.files.is_empty();
    let scope = match &assessment.scope {
        _ if all => Some(Scope::Workspace),
        scope => Scope::with_packages(
            session.policy.with_monitored(scope.clone()),
            &session.failed_packages(&candidate.subject.tree)?,
        ),
    };
    let scope = match (scope, options.shard) {
        (Some(scope), Some(shard)) => Some(session.shard(scope, shard)?),
        (scope, _) => scope,
    };
    let mut check = Check {
        session,
        options,
        events,
        deadline: options.budget.map(|budget| started + budget),
        same: base.subject.tree == candidate.subject.tree,
        base,
        candidate,
        findings: Vec::new(),
        // The other shards have the tests that are missing here.
        complete: options.shard.is_none(),
        runs: Vec::new(),
        started,
        coverage: Coverage::default(),
    };
    let mut compared = match &scope {
        Some(scope) => check.compared_tests(scope)?,
        None => check.nothing_to_run()?,
    };
    if options.base == BaseChoice::Stored && check.same {
        let head = check.base.name();
        check.findings.push(Finding::new(
            FindingSubject::Base,
            Cause::NoHistory { head },
            Severity::Note,
        ));
    }
    let mut findings = std::mem::take(&mut check.findings);
    if let Some(compared) = &mut compared {
        check.coverage.looked_at.insert(Aspect::Tests);
        check.coverage.behind_features = check.behind_features(compared);
        findings.extend(check.judge(compared)?);
    }
    findings.extend(check.api(&assessment)?);
    findings.extend(check.claims()?);
    findings.extend(check.approval(&assessment)?);
    let recall = check.recall(&assessment, compared.is_some(), &findings)?;
    findings.extend(check.monitored_commands()?);
    let speed = check.speed(&assessment, &mut findings)?;
    findings.sort_by_key(|finding| finding.severity);
    let looked_at = compared
        .as_ref()
        .map(|compared| compared.scope.clone())
        .or(scope);
    let report = check.report(assessment, looked_at, compared.as_ref(), findings);
    Ok(Report {
        speed,
        recall,
        ..report
    })
}

/// The tests of both revisions.
pub(crate) struct ComparedTests {
    pub(crate) scope: Scope,
    pub(crate) base: TestSet,
    pub(crate) candidate: TestSet,
    pub(crate) base_source: Source,
    pub(crate) candidate_source: Source,
}

pub(crate) struct Check<'a> {
    pub(crate) session: &'a mut Session,
    pub(crate) options: &'a CheckOptions,
    pub(crate) events: Events<'a>,
    pub(crate) deadline: Option<Instant>,
    /// Whether both revisions are the same tree.
    pub(crate) same: bool,
    pub(crate) base: Revision,
    pub(crate) candidate: Revision,
    pub(crate) findings: Vec<Finding>,
    pub(crate) complete: bool,
    /// The runs that the answer rests on; kept for a shard only.
    pub(crate) runs: Vec<Run>,
    pub(crate) started: Instant,
    pub(crate) coverage: Coverage,
}

impl Check<'_> {
    fn is_over(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn step(&self, text: String) {
        (self.events)(Event::Step(text));
    }

    /// Judges the differences of both revisions; what reruns see is added to them.
    pub(crate) fn judge(
        &mut self,
        compared: &mut ComparedTests,
    ) -> Result<Vec<Finding>, CheckError> {
        let ComparedTests {
            base, candidate, ..
        } = compared;
        let slower = self.session.policy.slower.rule();
        if self.is_apart() {
            settle(base, candidate);
        }
        let first = diff(base, candidate, &slower);
        // The ledger is made from every run ever seen, which takes its time.
        let ledger = if first.is_empty() {
            Ledger::default()
        } else {
            crate::flow::quarantine::ledger(self.session.store.as_ref())?
        };
        self.stress(&first, base, candidate)?;
        self.confirm_base(&first, base, candidate)?;
        let suspicious = diff(base, candidate, &slower);
        let judged = self.rerun_failures(&suspicious, &ledger, base, candidate)?;
        let slow = self.rerun_slow(&suspicious, base, candidate)?;
        let mut differences = diff(base, candidate, &slower);
        // A test that turned out to do both on both revisions no longer differs, and
        // is still worth a word.
        for difference in suspicious {
            let is_told =
                |told: &Difference| told.test == difference.test && is_failure(told.state);
            if judged.contains_key(&difference.test)
                && is_failure(difference.state)
                && !differences.iter().any(is_told)
            {
                differences.push(difference);
            }
        }
        let places = self.differences_by_place(&differences, &judged, candidate)?;
        let policy = &self.session.policy;
        let is_known = |test: &TestId| policy.known_failure(test).is_some();
        let failing = candidate
            .tests
            .iter()
            .filter(|(_, e)| e.status() == TestStatus::Failing);
        let known = failing.filter(|(test, _)| is_known(test)).count();
        let mut findings = judge_tests(&TestEvidence {
            differences: &differences,
            judged: &judged,
            slow: &slow,
            places: &places,
            before: base.tally(),
            after: candidate.tally(),
            known,
            complete: self.complete,
            policy,
            ledger: &ledger,
            single_runs: false,
        });
        // The share of the tests that pass is one of all tests.
        findings.retain(|f| f.kind() != FindingKind::Rate || self.options.shard.is_none());
        Ok(findings)
    }

    pub(crate) fn report(
        self,
        assessment: Assessment,
        scope: Option<Scope>,
        compared: Option<&ComparedTests>,
        findings: Vec<Finding>,
    ) -> Report {
        let verdict = Verdict::of(&findings);
        let revision =
            |revision: &Revision, set: Option<&TestSet>, source: Option<&Source>| RevisionReport {
                name: revision.name(),
                commit: revision.subject.commit.clone(),
                subject: revision.commit.subject.clone(),
                tree: revision.subject.tree.clone(),
                dirty: revision.subject.dirty,
                tests: set.map(TestSet::tally),
                success_rate: set.and_then(|set| set.tally().success_rate()),
                source: source.cloned(),
            };
        Report {
            schema: 1,
            verdict,
            exit_code: verdict.exit_code(),
            base: revision(
                &self.base,
                compared.map(|s| &s.base),
                compared.map(|s| &s.base_source),
            ),
            candidate: revision(
                &self.candidate,
                compared.map(|s| &s.candidate),
                compared.map(|s| &s.candidate_source),
            ),
            unchanged: self.same,
            scope,
            risk: assessment,
            findings,
            coverage: self.coverage,
            min_success_rate: self.session.policy.min_success_rate,
            runner: self.session.runner.name().to_owned(),
            seconds: self.started.elapsed().as_secs_f64(),
            speed: None,
            recall: None,
            shard: self.options.shard,
            runs: self.runs,
        }
    }
}

fn is_failure(state: TestState) -> bool {
    matches!(
        state,
        TestState::NewlyFailing | TestState::AddedFailing | TestState::StillFailing
    )
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Base,
    Candidate,
}

impl Role {
    fn revision<'a>(self, base: &'a mut Revision, candidate: &'a mut Revision) -> &'a mut Revision {
        match self {
            Self::Base => base,
            Self::Candidate => candidate,
        }
    }

    fn words(self, name: &str) -> String {
        match self {
            Self::Base => format!("base {name}"),
            Self::Candidate => format!("candidate {name}"),
        }
    }
}
