//! What is judged besides the tests: the public API, the claims of the documents, the
//! approval of a change, and the recall of its plan.

use super::{Check, CheckError};
use crate::coverage::{Aspect, LeftOutReason};
use crate::finding::{ApiReferenceName, Cause, ClaimState, Finding, FindingSubject, Severity};
use crate::flow::claims::{self, Claims};
use crate::host::journal_entry;
use crate::host::run::RunError;
use crate::host::semver_checks::{self, ApiAnswer, ApiReference};
use crate::host::session::{CandidateChoice, Event};
use crate::level::Level;
use crate::policy::ApiBreaks;
use crate::record::{JournalEntry, JournalEvent, Recall, Record};
use crate::risk::Assessment;
use crate::test_id::{TargetKind, TestId};
use crate::verdict::{Approval, ClaimResult, judge_approval, judge_claims};
use crate::workspace::{Target, Workspace};

impl Check<'_> {
    /// What cargo-semver-checks says about the changed packages, where it is installed
    /// and the risk is High or above.
    pub(super) fn api(&mut self, assessment: &Assessment) -> Result<Vec<Finding>, CheckError> {
        let is_risky = assessment.level >= Some(Level::High);
        let is_first_shard = self.options.shard.is_none_or(|shard| shard.index == 1);
        if !is_risky || !is_first_shard || self.same || !semver_checks::is_installed() {
            return Ok(Vec::new());
        }
        let base = self.base.root(self.session, self.events)?;
        let candidate = self.candidate.root(self.session, self.events)?;
        let policy = self.session.policy.api;
        let mut findings = Vec::new();
        for name in &assessment.changed {
            let has_library = |workspace: &Workspace| {
                let package = workspace.packages.get(name)?;
                let is_library = |target: &Target| target.kind == Some(TargetKind::Lib);
                package
                    .targets
                    .iter()
                    .any(is_library)
                    .then_some(package.published)
            };
            let published = has_library(self.candidate.workspace(self.session));
            if has_library(self.base.workspace(self.session)).is_none() {
                continue;
            }
            let Some(published) = published else {
                continue;
            };
            let base_name = self.base.name();
            let release = (policy.release && published).then_some(ApiReference::Release);
            for reference in [Some(ApiReference::Base(&base)), release]
                .into_iter()
                .flatten()
            {
                let (compared, other) = match reference {
                    ApiReference::Base(_) => (ApiReferenceName::Base, base_name.as_str()),
                    ApiReference::Release => (ApiReferenceName::Release, "the last release"),
                };
                let step = format!("compare the public API of {name} with {other}");
                (self.events)(Event::Step(step));
                let limit = self.session.policy.run.run_time_out.0;
                let answer = semver_checks::compare(
                    &candidate,
                    name,
                    reference,
                    limit,
                    self.session.cancel(),
                )
                .map_err(RunError::from)?;
                findings.extend(api_finding(name, compared, answer, policy.breaks));
            }
        }
        Ok(findings)
    }

    /// Whether the cheap claims of the documents hold, where the candidate is: in the user's
    /// files, or in a checkout where just that was asked for.
    pub(super) fn claims(&mut self) -> Result<Vec<Finding>, CheckError> {
        let is_first_shard = self.options.shard.is_none_or(|shard| shard.index == 1);
        let is_checkout = matches!(self.options.candidate, CandidateChoice::Checkout(_));
        let is_here = self.candidate.in_place || is_checkout;
        if !is_first_shard {
            return Ok(Vec::new());
        }
        let reason = if self.options.tests_only {
            Some(LeftOutReason::TestsOnly)
        } else if !self.session.policy.claims.check {
            Some(LeftOutReason::Policy)
        } else {
            (!is_here).then_some(LeftOutReason::NotInFiles)
        };
        if let Some(reason) = reason {
            self.coverage.leave_out(Aspect::Claims, reason);
            return Ok(Vec::new());
        }
        let root = self.candidate.root(self.session, self.events)?;
        let claims = Claims::load_in(self.session, &root)?;
        let options = claims::Options {
            deadline: self.deadline,
            ..claims::Options::default()
        };
        let revision = &mut self.candidate;
        let checked =
            claims::check_revision(self.session, revision, &claims, &options, self.events)?;
        let results = claims::results(&checked);
        let is_measured = |result: &ClaimResult| result.state != ClaimState::LeftOut;
        if results.iter().any(is_measured) {
            self.coverage.looked_at.insert(Aspect::Claims);
        } else if !results.is_empty() && self.is_over() {
            self.coverage
                .leave_out(Aspect::Claims, LeftOutReason::Budget);
        }
        Ok(judge_claims(&results, &claims::contradictions(&claims)))
    }

    /// Whether a change that needs somebody's eyes had them.
    pub(super) fn approval(
        &mut self,
        assessment: &Assessment,
    ) -> Result<Option<Finding>, CheckError> {
        let is_first_shard = self.options.shard.is_none_or(|shard| shard.index == 1);
        if self.same || !is_first_shard {
            return Ok(None);
        }
        let journal = self.session.store.journal()?;
        let of_tree = |entry: &JournalEntry| entry.tree == self.candidate.subject.tree;
        let approval = |entry: JournalEntry| match entry.event {
            JournalEvent::Approved { by, note } => Some(Approval { by, note }),
            _ => None,
        };
        let entries = journal.into_iter().filter(of_tree);
        let approvals: Vec<Approval> = entries.filter_map(approval).collect();
        let policy = self.session.policy.approval;
        let subject = &self.candidate.subject;
        let mut authors = self
            .session
            .repo
            .authors(&self.base.commit.id, &subject.commit)?;
        if subject.dirty {
            authors.extend(self.session.repo.user());
        }
        Ok(judge_approval(
            policy,
            assessment.level,
            &authors,
            &approvals,
        ))
    }

    /// What the plan of the change would have found of the failures that all tests show;
    /// remembered. `None` unless all tests of both revisions were looked at for that.
    pub(super) fn recall(
        &mut self,
        assessment: &Assessment,
        has_run: bool,
        findings: &[Finding],
    ) -> Result<Option<Recall>, CheckError> {
        let is_whole = self.options.everything && self.options.shard.is_none();
        if !is_whole || self.same || !has_run {
            return Ok(None);
        }
        // A failure that stayed open is one that the plan had to find, too.
        let failing = findings
            .iter()
            .filter(|f| matches!(f.severity, Severity::Regression | Severity::Undecided));
        let tests = failing.filter_map(|finding| match &finding.subject {
            FindingSubject::Test(test) => Some(test.clone()),
            _ => None,
        });
        let scope = self.session.policy.with_monitored(assessment.scope.clone());
        let is_selected = |test: &TestId| scope.as_ref().is_some_and(|scope| scope.contains(test));
        let (found, missed): (Vec<_>, Vec<_>) = tests.partition(is_selected);
        let recall = Recall {
            level: assessment.level,
            found: found.len() as u32,
            missed,
        };
        let subject = &self.candidate.subject;
        let event = JournalEvent::Scored(recall.clone());
        let entry = journal_entry(&subject.tree, &subject.commit, event);
        self.session.store.add(&Record::Journal(entry))?;
        Ok(Some(recall))
    }
}

/// A finding about the public API of a package.
fn api_finding(
    package: &str,
    reference: ApiReferenceName,
    answer: ApiAnswer,
    breaks: ApiBreaks,
) -> Option<Finding> {
    let subject = FindingSubject::PublicApi(package.to_owned());
    match answer {
        ApiAnswer::Compatible => None,
        ApiAnswer::Break {
            version,
            rules,
            output,
        } => {
            let cause = Cause::ApiBreak {
                reference,
                version,
                rules,
            };
            let severity = match breaks {
                ApiBreaks::Note => Severity::Note,
                ApiBreaks::Regression => Severity::Regression,
            };
            Some(Finding {
                output: Some(output),
                ..Finding::new(subject, cause, severity)
            })
        }
        ApiAnswer::Unknown(why) => {
            let cause = Cause::ApiNotCompared { reference, why };
            Some(Finding::new(subject, cause, Severity::Note))
        }
    }
}
