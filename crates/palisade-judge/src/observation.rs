//! What is observed of tests: runs of a tree, with how each test ended.

use serde::{Deserialize, Serialize};

use crate::scope::Scope;
use crate::test_id::TestId;

/// Milliseconds since 1970.
pub type Millis = i64;

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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

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
            id: String::new(),
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
}
