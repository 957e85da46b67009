//! Makes one report of what the shards of a check said.
//!
//! The shards' runs are put together and judged as if one machine had made them: a
//! test that moved from one shard to another is renamed, not gone. A shard that is
//! missing, or was cut in another way, makes the answer incomplete.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::baseline::TestSet;
use crate::coverage::Coverage;
use crate::finding::{Cause, Finding, FindingKind, FindingSubject, Severity, ShardDifference};
use crate::flow::check::{Check, CheckError, CheckOptions, ComparedTests, no_tests};
use crate::host::session::{Events, Revision, Session, SessionError};
use crate::observation::{Millis, Run};
use crate::record::{
    Advice, FindingDocument, Origin, Record, Report, ReportDocument, RevisionReport, Source,
};
use crate::scope::{Scope, Shard, ShardNumber};

/// Why reports cannot be merged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// There is none.
    #[error("failed to merge no report at all")]
    Nothing,
    /// A report is that of a whole check.
    #[error("failed to merge {0}: it is the report of a whole check, not of a shard")]
    NoShard(String),
    /// What was put together could not be judged.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// The session failed: git, Cargo, the store, a run.
    #[error(transparent)]
    Session(SessionError),
}

impl<E: Into<SessionError>> From<E> for MergeError {
    fn from(error: E) -> Self {
        Self::Session(error.into())
    }
}

impl MergeError {
    fn inner(&self) -> Option<&dyn Advice> {
        match self {
            Self::Check(error) => Some(error),
            Self::Session(error) => Some(error),
            _ => None,
        }
    }
}

impl Advice for MergeError {
    fn is_usage(&self) -> bool {
        self.inner().is_none_or(Advice::is_usage)
    }

    fn hint(&self) -> Option<String> {
        match self.inner() {
            Some(inner) => inner.hint(),
            None => Some(
                "cargo palisade check --shard I/N --json > FILE, once for each shard".to_owned(),
            ),
        }
    }

    fn output(&self) -> Option<&str> {
        self.inner()?.output()
    }
}

/// Merges the reports of shards, each with the name of where it comes from. All
/// their runs are remembered.
pub fn merge(
    session: &mut Session,
    reports: &[(String, ReportDocument)],
    events: Events<'_>,
) -> Result<Report, MergeError> {
    let (_, first) = reports.first().ok_or(MergeError::Nothing)?;
    let mut numbers = Vec::new();
    for (name, report) in reports {
        let no_shard = || MergeError::NoShard(name.clone());
        numbers.push(report.shard.ok_or_else(no_shard)?);
    }
    let (runs, mut findings) = gather(session, reports, &numbers)?;
    let is_whole = findings.iter().all(|f| f.severity != Severity::Unmeasured);
    let scope = first.scope.as_ref().map(|scope| match scope {
        Scope::Shard(shard) => (*shard.of).clone(),
        other => other.clone(),
    });
    let mut compared = scope.map(|scope| {
        let tests_of = |revision: &RevisionReport| {
            let of_tree = runs.iter().filter(|run| run.subject.tree == revision.tree);
            let oldest = of_tree.clone().map(|run| run.finished_ms).min();
            let set = TestSet::of_runs(of_tree, &scope);
            (set, source(revision, oldest.unwrap_or_default()))
        };
        let (base, base_source) = tests_of(&first.base);
        let (candidate, candidate_source) = tests_of(&first.candidate);
        ComparedTests {
            scope,
            base,
            candidate,
            base_source,
            candidate_source,
        }
    });
    let mut check = Check {
        session,
        options: &CheckOptions::default(),
        events,
        // Nothing is run any more: what the shards left open stays open.
        deadline: Some(Instant::now()),
        same: first.unchanged,
        base: Revision::elsewhere(&first.base),
        candidate: Revision::elsewhere(&first.candidate),
        findings: Vec::new(),
        complete: is_whole,
        runs: Vec::new(),
        started: Instant::now(),
        coverage: coverage(reports),
    };
    if let Some(compared) = &mut compared {
        findings.extend(check.judge(compared)?);
        let ran = compared.base.tally().ran() + compared.candidate.tally().ran();
        if is_whole && ran == 0 && !matches!(compared.scope, Scope::Doctests(_)) {
            findings.push(no_tests());
        }
    }
    findings.sort_by_key(|finding| finding.severity);
    let looked_at = compared.as_ref().map(|compared| compared.scope.clone());
    let report = check.report(first.risk.clone(), looked_at, compared.as_ref(), findings);
    let longest = reports.iter().map(|(_, report)| report.seconds);
    Ok(Report {
        runner: first.runner.clone(),
        seconds: longest.fold(0.0, f64::max),
        ..report
    })
}

/// What the shards looked at together. None of them measures speed.
fn coverage(reports: &[(String, ReportDocument)]) -> Coverage {
    let looked_at = reports.iter().flat_map(|(_, r)| &r.coverage.looked_at);
    let mut coverage = Coverage {
        looked_at: looked_at.copied().collect(),
        ..Coverage::default()
    };
    for (_, report) in reports {
        for left_out in &report.coverage.left_out {
            if !coverage.left_out.contains(left_out) {
                coverage.left_out.push(*left_out);
            }
        }
    }
    coverage
}

/// The runs of all shards of one check, newest first, which are remembered; and the
/// findings that are not about tests, with those about shards that do not belong.
fn gather(
    session: &mut Session,
    reports: &[(String, ReportDocument)],
    numbers: &[ShardNumber],
) -> Result<(Vec<Run>, Vec<Finding>), MergeError> {
    let (first_name, first) = &reports[0];
    let count = numbers[0].count;
    let mut findings: Vec<Finding> = Vec::new();
    let mut told: Vec<&FindingDocument> = Vec::new();
    let mut runs: BTreeMap<&str, &Run> = BTreeMap::new();
    let mut present = BTreeSet::new();
    for ((name, report), number) in reports.iter().zip(numbers) {
        if let Some(difference) = difference(first, report, count) {
            let cause = Cause::ShardDiffers {
                report: name.clone(),
                first: first_name.clone(),
                difference,
            };
            let subject = FindingSubject::Shard(*number);
            findings.push(Finding::new(subject, cause, Severity::Unmeasured));
            continue;
        }
        present.insert(number.index);
        for run in &report.runs {
            if runs.insert(&run.id, run).is_none() {
                session.store.add(&Record::Run(run.clone()))?;
            }
        }
        // What is said about tests is judged anew; the rest stays.
        let about_runs = |finding: &&FindingDocument| finding.kind != FindingKind::Test;
        for finding in report.findings.iter().filter(about_runs) {
            let is_it = |f: &&FindingDocument| f.name == finding.name && f.state == finding.state;
            if !told.iter().any(is_it) {
                told.push(finding);
            }
        }
    }
    findings.extend(told.into_iter().map(FindingDocument::finding));
    for index in (1..=count).filter(|index| !present.contains(index)) {
        let number = ShardNumber { index, count };
        let subject = FindingSubject::Shard(number);
        findings.push(Finding::new(
            subject,
            Cause::ShardMissing,
            Severity::Unmeasured,
        ));
    }
    let mut runs: Vec<Run> = runs.into_values().cloned().collect();
    runs.sort_by_key(|run| std::cmp::Reverse(run.started_ms));
    Ok((runs, findings))
}

/// Why a report belongs to another check than the first one.
fn difference(
    first: &ReportDocument,
    report: &ReportDocument,
    count: u32,
) -> Option<ShardDifference> {
    let trees = |report: &ReportDocument| (report.base.tree.clone(), report.candidate.tree.clone());
    let shard_of = |report: &ReportDocument| match &report.scope {
        Some(Scope::Shard(shard)) => Some(shard.clone()),
        _ => None,
    };
    let is_sibling = match (shard_of(first), shard_of(report)) {
        (Some(first), Some(report)) => Shard::is_sibling(&first, &report),
        (None, None) => true,
        _ => false,
    };
    let number = report.shard.map_or(0, |number| number.count);
    if number != count {
        return Some(ShardDifference::Count {
            of: number,
            first: count,
        });
    }
    if trees(first) != trees(report) {
        return Some(ShardDifference::Trees([trees(report), trees(first)]));
    }
    (!is_sibling).then_some(ShardDifference::Cut)
}

fn source(revision: &RevisionReport, measured_ms: Millis) -> Source {
    Source {
        origin: Origin::Shards,
        run: None,
        commit: revision.commit.clone(),
        tree: revision.tree.clone(),
        measured_ms,
        key: String::new(),
    }
}
