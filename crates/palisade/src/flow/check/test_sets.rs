//! The tests of both revisions: from the store, or by running them.

use std::collections::BTreeSet;

use super::{Check, CheckError, ComparedTests, Role};
use crate::baseline::{Expected, TestSet, TestStatus};
use crate::coverage::Part;
use crate::finding::{BuildFailure, Cause, Finding, FindingSubject, Severity};
use crate::host::feature_gates::behind_features;
use crate::host::now;
use crate::host::run::RunError;
use crate::host::session::{BaseChoice, Event, Revision, SessionError, StoredTests};
use crate::observation::{Purpose, Run};
use crate::record::{Origin, Source};
use crate::scope::Scope;
use crate::test_id::TestId;
use crate::workspace::Package;

impl Check<'_> {
    /// The tests of the candidate that are behind features, where its source is at hand and whole
    /// packages were looked at.
    pub(super) fn behind_features(&self, compared: &ComparedTests) -> Option<Part> {
        let is_here = self.candidate.in_place || self.candidate.is_checked_out();
        let packages = self.candidate.workspace(self.session).packages.values();
        let is_whole = |package: &&Package| match &compared.scope {
            Scope::Workspace => true,
            Scope::Packages(names) => names.contains(&package.name),
            Scope::Doctests(_) | Scope::Tests(_) | Scope::Shard(_) => false,
        };
        let policy = &self.session.policy.run;
        let packages = packages.filter(|package| is_here && !policy.excludes(&package.name));
        behind_features(packages.filter(is_whole), &compared.candidate)
    }

    /// Gets the tests of both revisions, from the store or by running them. `None` if
    /// a revision cannot be had; the findings then say why.
    pub(super) fn compared_tests(
        &mut self,
        scope: &Scope,
    ) -> Result<Option<ComparedTests>, CheckError> {
        let mut scope = scope.clone();
        let candidate = self.load_or_run(Role::Candidate, &scope)?;
        let mut candidate = match candidate {
            Ok(known) => known,
            Err(output) => return self.candidate_does_not_build(&scope, output),
        };
        let has_tests = |known: &StoredTests| known.set.tally().ran() > 0;
        if !has_tests(&candidate) && matches!(scope, Scope::Packages(_)) {
            // No data is no answer: what no test of these packages can say may
            // show in the others.
            scope = Scope::Workspace;
            match self.load_or_run(Role::Candidate, &scope)? {
                Ok(known) => candidate = known,
                Err(output) => return self.candidate_does_not_build(&scope, output),
            }
        }
        let base = if self.same {
            candidate.clone()
        } else {
            match self.load_or_run(Role::Base, &scope)? {
                Ok(known) => known,
                Err(output) => {
                    let subject = FindingSubject::Revision(Role::Base.words(&self.base.name()));
                    let cause = Cause::BuildFailed(BuildFailure::Base);
                    self.findings.push(Finding {
                        output: Some(output),
                        ..Finding::new(subject, cause, Severity::Unmeasured)
                    });
                    return Ok(None);
                }
            }
        };
        let is_empty = !has_tests(&candidate) && !has_tests(&base);
        // A shard may have nothing to do.
        if is_empty && !matches!(scope, Scope::Doctests(_) | Scope::Shard(_)) {
            self.findings.push(no_tests());
        }
        Ok(Some(ComparedTests {
            base_source: Source::of(&base, &self.base),
            candidate_source: Source::of(&candidate, &self.candidate),
            base: base.set,
            candidate: candidate.set,
            scope,
        }))
    }

    /// A change that does not build is a regression if its base does.
    fn candidate_does_not_build(
        &mut self,
        scope: &Scope,
        output: String,
    ) -> Result<Option<ComparedTests>, CheckError> {
        let base_builds = !self.same && self.load_or_run(Role::Base, scope)?.is_ok();
        let (failure, severity) = if base_builds {
            (BuildFailure::Candidate, Severity::Regression)
        } else {
            (BuildFailure::CandidateAlone, Severity::Unmeasured)
        };
        let cause = Cause::BuildFailed(failure);
        self.findings.push(Finding {
            output: Some(output),
            ..Finding::new(FindingSubject::Build, cause, severity)
        });
        Ok(None)
    }

    /// The tests of a revision: from the store if it has them, else by running them.
    /// The inner error is what the compiler said.
    fn load_or_run(
        &mut self,
        role: Role,
        scope: &Scope,
    ) -> Result<Result<StoredTests, String>, CheckError> {
        let revision = role.revision(&mut self.base, &mut self.candidate);
        let name = revision.name();
        let mut stored = None;
        if !self.options.fresh {
            let known = self.session.known(revision, scope)?;
            if let Some(covering) = &known.covering {
                if !self.is_due(covering)? {
                    self.keep_runs(&known.runs);
                    return Ok(Ok(known));
                }
                stored = Some(known);
            }
        }
        let revision = role.revision(&mut self.base, &mut self.candidate);
        let why = match &stored {
            Some(_) => format!("test {name} again, to see whether its stored run still holds"),
            None if role == Role::Base && !revision.in_place => {
                format!("test {name}, the base, of which no run is stored")
            }
            None => format!("test {name}"),
        };
        (self.events)(Event::Step(why));
        let revision = role.revision(&mut self.base, &mut self.candidate);
        let ran = self
            .session
            .run(revision, scope, Purpose::Tests, self.events);
        let (run, gaps) = match ran {
            Ok(ran) => ran,
            Err(SessionError::Run(RunError::Build { output })) => return Ok(Err(output)),
            Err(other) => return Err(other.into()),
        };
        if !gaps.is_empty() {
            self.complete = false;
            let subject = FindingSubject::Revision(role.words(&name));
            let gaps = gaps.clone();
            let cause = Cause::Incomplete { gaps };
            self.findings
                .push(Finding::new(subject, cause, Severity::Unmeasured));
        }
        if let (Some(stored), true) = (&stored, gaps.is_empty()) {
            let name = role.words(&name);
            self.findings.extend(differs(&name, stored, &run, scope));
        }
        let mut known = if self.options.fresh {
            StoredTests::default()
        } else {
            self.session
                .known(role.revision(&mut self.base, &mut self.candidate), scope)?
        };
        if self.options.fresh || !run.complete {
            known.set.add(&run, scope);
            self.keep_runs(&[run]);
        }
        self.keep_runs(&known.runs);
        known.covering = None;
        Ok(Ok(known))
    }

    /// Keeps runs for those who merge the shards.
    pub(super) fn keep_runs(&mut self, runs: &[Run]) {
        if self.options.shard.is_some() {
            self.runs.extend(runs.iter().cloned());
        }
    }

    /// Whether a stored run has stood for new ones for so long that it is measured
    /// again. Where nothing changed there is nothing to compare, and no need.
    fn is_due(&self, stored: &Run) -> Result<bool, CheckError> {
        let every = u64::from(self.session.policy.reuse.remeasure);
        // A base that is to be a stored one is not to be built.
        let is_due = !self.same
            && self.options.base != BaseChoice::Stored
            && every > 0
            && self.session.store.runs_since(stored.started_ms)? >= every;
        Ok(is_due)
    }

    /// Nothing that code is built from changed. What the store knows is used; else
    /// that very fact is the answer.
    pub(super) fn nothing_to_run(&mut self) -> Result<Option<ComparedTests>, CheckError> {
        let known = self.session.known(&mut self.base, &Scope::Workspace)?;
        if known.covering.is_none() {
            return Ok(None);
        }
        self.keep_runs(&known.runs);
        let source = Source::of(&known, &self.base);
        Ok(Some(ComparedTests {
            scope: Scope::Workspace,
            base: known.set.clone(),
            candidate: known.set,
            base_source: source.clone(),
            candidate_source: source,
        }))
    }
}

/// A finding about a check in which nothing ran.
pub(crate) fn no_tests() -> Finding {
    Finding::new(FindingSubject::Tests, Cause::NoTests, Severity::Unmeasured)
}

/// A finding if what is stored of a tree and a new run of it do not agree.
fn differs(revision: &str, stored: &StoredTests, run: &Run, scope: &Scope) -> Option<Finding> {
    let new = TestSet::of_runs([run], scope);
    let state_of = |set: &TestSet, test: &TestId| set.tests.get(test).map(Expected::status);
    let tests: BTreeSet<&TestId> = stored.set.tests.keys().chain(new.tests.keys()).collect();
    let mut outcomes = Vec::new();
    let mut lists = Vec::new();
    for test in tests {
        let (before, after) = (state_of(&stored.set, test), state_of(&new, test));
        let ran = |state: Option<TestStatus>| state.filter(|state| *state != TestStatus::Ignored);
        match (ran(before), ran(after)) {
            (Some(_), None) | (None, Some(_)) => lists.push(test),
            // One that is known to do both agrees with either.
            (Some(TestStatus::Flaky), _) => {}
            (before, after) if before != after => outcomes.push(test),
            _ => {}
        }
    }
    if outcomes.is_empty() && lists.is_empty() {
        return None;
    }
    let lists_differ = !lists.is_empty();
    let cause = Cause::ReuseDiffers {
        age_ms: now() - stored.covering.as_ref().map_or(0, |run| run.finished_ms),
        tests: lists.into_iter().chain(outcomes).cloned().collect(),
        lists_differ,
    };
    let severity = if lists_differ {
        Severity::Unmeasured
    } else {
        Severity::Note
    };
    let subject = FindingSubject::StoredRun(revision.to_owned());
    Some(Finding::new(subject, cause, severity))
}

impl Source {
    fn of(known: &StoredTests, revision: &Revision) -> Self {
        let from_store = |run: &Run| Self {
            origin: Origin::Store,
            run: Some(run.id.clone()),
            commit: run.subject.commit.clone(),
            tree: run.subject.tree.clone(),
            measured_ms: run.finished_ms,
            key: key(run),
        };
        known.covering.as_ref().map_or_else(
            || Self {
                origin: if revision.is_checked_out() {
                    Origin::Checkout
                } else {
                    Origin::WorkingTree
                },
                run: None,
                commit: revision.subject.commit.clone(),
                tree: revision.subject.tree.clone(),
                measured_ms: now(),
                key: String::new(),
            },
            from_store,
        )
    }
}

/// What a stored run had to share with the revision it stands for, besides the tree.
fn key(run: &Run) -> String {
    let environment = &run.environment;
    format!(
        "lockfile {}, {}, {}, {}",
        crate::hash::short(&environment.lockfile),
        environment.toolchain,
        environment.machine,
        environment.config
    )
}
