//! What is remembered: runs with their observations, baselines, the entries of the
//! quarantine, and measurements of speed and memory ([`crate::speed`]). All of it is written once and never changed.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::journal::JournalEntry;
use crate::milestone::Milestone;
use crate::recover::Incident;
use crate::shard::Shard;
use crate::speed::{Calibration, SpeedRun};
use crate::test_id::{TargetKind, TestId, place};

/// Milliseconds since 1970.
pub type Millis = i64;

/// The present.
pub fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as Millis)
}

/// A name for a new record that no other machine gives.
pub fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It passed.
    Pass,
    /// It failed.
    Fail,
    /// It ran past its time and was ended.
    TimedOut,
    /// It is marked as ignored and did not run.
    Ignored,
}

impl Outcome {
    /// Whether it ran and did not pass.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Fail | Self::TimedOut)
    }

    /// The word for it in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::TimedOut => "timed_out",
            Self::Ignored => "ignored",
        }
    }

    /// The outcome a word of the store stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        let all = [Self::Pass, Self::Fail, Self::TimedOut, Self::Ignored];
        all.into_iter().find(|outcome| outcome.as_str() == word)
    }
}

/// One test seen once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The test.
    pub test: TestId,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took, if the runner says so.
    pub duration_ms: Option<f64>,
    /// A hash of the test's source, without names and layout.
    pub body: Option<String>,
    /// The beginning of what a failing test said.
    pub message: Option<String>,
}

/// Why tests were run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// To know the state of a tree.
    Tests,
    /// To tell a broken test from a flaky one.
    Rerun,
    /// To find out whether a test is flaky.
    Stress,
}

impl Purpose {
    /// The word for it in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tests => "tests",
            Self::Rerun => "rerun",
            Self::Stress => "stress",
        }
    }

    /// The purpose a word of the store stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        let all = [Self::Tests, Self::Rerun, Self::Stress];
        all.into_iter().find(|purpose| purpose.as_str() == word)
    }
}

/// Which tests a run was to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All of the workspace.
    Workspace,
    /// All of some packages.
    Packages(BTreeSet<String>),
    /// The documentation tests of some packages.
    Doctests(BTreeSet<String>),
    /// Some tests only.
    Tests(BTreeSet<TestId>),
    /// A part of another scope.
    Shard(Shard),
}

impl Scope {
    /// Whether a run of this scope says everything that one of `other` would.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Workspace, _) => true,
            (Self::Packages(ours), Self::Packages(theirs) | Self::Doctests(theirs))
            | (Self::Doctests(ours), Self::Doctests(theirs)) => theirs.is_subset(ours),
            (Self::Shard(ours), Self::Shard(theirs)) => ours == theirs,
            (Self::Packages(_) | Self::Doctests(_), Self::Shard(theirs)) => self.covers(&theirs.of),
            (_, Self::Tests(theirs)) => theirs.iter().all(|test| self.contains(test)),
            _ => false,
        }
    }

    /// Whether a test belongs to it.
    pub fn contains(&self, test: &TestId) -> bool {
        match self {
            Self::Workspace => true,
            Self::Packages(packages) => packages.contains(&test.package),
            Self::Doctests(packages) => {
                test.kind == TargetKind::Doc && packages.contains(&test.package)
            }
            Self::Tests(tests) => tests.contains(test),
            Self::Shard(shard) => shard.contains(test),
        }
    }

    /// Whether some test of a target may belong to it.
    pub fn touches(&self, package: &str, kind: TargetKind, target: &str) -> bool {
        match self {
            Self::Workspace => true,
            Self::Packages(packages) => packages.contains(package),
            Self::Doctests(packages) => kind == TargetKind::Doc && packages.contains(package),
            Self::Tests(tests) => tests
                .iter()
                .any(|test| test.place() == place(package, kind, target)),
            Self::Shard(shard) => {
                shard.of.touches(package, kind, target)
                    && shard.holds(&place(package, kind, target))
            }
        }
    }
}

/// What besides the tree decides the outcome of a test. Two runs can stand for
/// each other only if all of it is equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// The compiler, as `rustc -vV` names it.
    pub toolchain: String,
    /// Operating system, architecture, processor and number of cores.
    pub machine: String,
    /// A hash of `Cargo.lock`; empty if there is none.
    pub lockfile: String,
    /// The runner and a hash of the arguments and variables that change builds.
    pub config: String,
}

/// The content that was tested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The hash of the files' content.
    pub tree: String,
    /// The commit that was checked out.
    pub commit: String,
    /// Whether the content differs from the commit's.
    pub dirty: bool,
    /// Whether it was tested in a checkout beside the user's files, where files that
    /// git ignores are missing.
    pub checkout: bool,
    /// The branch that was checked out.
    pub branch: Option<String>,
}

/// One set of observations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The run's name, unique everywhere.
    pub id: String,
    /// When it began.
    pub started_ms: Millis,
    /// When it ended.
    pub finished_ms: Millis,
    /// Why it was made.
    pub purpose: Purpose,
    /// What was tested.
    pub subject: Subject,
    /// What else decides the outcome.
    pub environment: Environment,
    /// Which tests were to run.
    pub scope: Scope,
    /// Whether every test of the scope has its outcome. A run that is not
    /// complete is kept as history, and stands for nothing.
    pub complete: bool,
    /// What was seen.
    pub observations: Vec<Observation>,
}

/// A run that is the expected state of a branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaselineMark {
    /// The record's name.
    pub id: String,
    /// When it was recorded.
    pub recorded_ms: Millis,
    /// The branch; empty on a detached HEAD.
    pub branch: String,
    /// The run.
    pub run: String,
}

/// Something that happened to a test's quarantine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuarantineEntry {
    /// The record's name.
    pub id: String,
    /// When.
    pub at_ms: Millis,
    /// Which test.
    pub test: TestId,
    /// What happened.
    pub event: QuarantineEvent,
}

/// What can happen to a test's quarantine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum QuarantineEvent {
    /// Its failures stop counting.
    Quarantined {
        /// Who answers for it.
        owner: String,
        /// Why.
        reason: String,
        /// A link to the issue.
        issue: Option<String>,
        /// When it ends by itself.
        expires_ms: Millis,
        /// How many passes in a row end it.
        release_after: u32,
    },
    /// Its failures count again.
    Released {
        /// Why.
        reason: String,
    },
}

/// Any record, as one line of an export.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "record")]
pub enum Record {
    /// A run.
    Run(Run),
    /// A baseline.
    Baseline(BaselineMark),
    /// An entry of the quarantine.
    Quarantine(QuarantineEntry),
    /// A measurement of speed and memory.
    Speed(SpeedRun),
    /// What the guard is worth on one machine.
    Calibration(Calibration),
    /// A commit that later ones are held against.
    Milestone(Milestone),
    /// A regression with its culprit and the way back.
    Incident(Box<Incident>),
    /// What people and hooks did.
    Journal(JournalEntry),
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::shard::ShardNumber;

    /// A complete run of some passing tests with their durations.
    pub(crate) fn run_of(tests: &[(TestId, f64)]) -> Run {
        let observations = tests.iter().map(|(test, ms)| Observation {
            test: test.clone(),
            outcome: Outcome::Pass,
            duration_ms: Some(*ms),
            body: None,
            message: None,
        });
        Run {
            id: new_id(),
            started_ms: 0,
            finished_ms: 1,
            purpose: Purpose::Tests,
            subject: Subject {
                tree: String::new(),
                commit: String::new(),
                dirty: false,
                checkout: false,
                branch: None,
            },
            environment: Environment {
                toolchain: String::new(),
                machine: String::new(),
                lockfile: String::new(),
                config: String::new(),
            },
            scope: Scope::Workspace,
            complete: true,
            observations: observations.collect(),
        }
    }

    #[test]
    fn a_shard_is_covered_by_what_it_is_cut_from_and_covers_only_itself() {
        let packages = Scope::Packages(["a".to_owned()].into());
        let shard = |index| {
            Scope::Shard(Shard {
                number: ShardNumber { index, count: 2 },
                of: Box::new(packages.clone()),
                assigned: [("a/lib".to_owned(), 1), ("a/doc".to_owned(), 2)].into(),
            })
        };
        assert!(Scope::Workspace.covers(&shard(1)));
        assert!(packages.covers(&shard(1)));
        assert!(shard(1).covers(&shard(1)));
        assert!(!shard(1).covers(&shard(2)));
        assert!(!shard(1).covers(&packages));
        let test = |kind| TestId::new("a", kind, "", "x");
        assert!(shard(1).contains(&test(TargetKind::Lib)));
        assert!(!shard(1).contains(&test(TargetKind::Doc)));
        assert!(shard(2).touches("a", TargetKind::Doc, ""));
        assert!(!shard(2).touches("b", TargetKind::Doc, ""));
    }
}
