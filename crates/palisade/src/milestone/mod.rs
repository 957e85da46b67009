//! Named checkpoints that later commits are held against: what was known of their tests,
//! speed, memory and documents when they were set.
//!
//! ```text
//! commit ─► set ─► Snapshot (tests, speed and memory, claims) ─► store
//!                     │                                     └──► milestones/NAME.json
//!                     └─► check: files and HEAD now ─► verdict of each part
//! ```
//!
//! A snapshot in a file of the repository is what a fresh clone, which remembers nothing,
//! holds a change against.

mod check;
mod file;
mod set;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use check::{MilestoneCheckOptions, MilestoneReport, MilestoneSection, check};
pub use file::write;
pub use set::{SetOptions, set};

use crate::baseline::{Expected, TestSet, TestStatus};
use crate::claims::Checked;
use crate::observation::{Environment, Millis, Subject};
use crate::session::{Session, SessionError};
use crate::speed::SpeedRun;
use crate::stats::Counts;
use crate::test_id::TestId;
use crate::verdict::KnownClaim;

/// Why a milestone cannot be kept in a file or read from one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MilestoneError {
    /// A file or folder cannot be read or written.
    #[error("use {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A file holds no milestone.
    #[error("read {} as a milestone", .path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A file was written by a newer version of this program.
    #[error("read {}: it has schema {found}, and this program knows {known}", .path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// The version in it.
        found: u32,
        /// The version that is known.
        known: u32,
    },
    /// A name that cannot be one of a file.
    #[error(
        "keep the milestone {0:?} in a file (expected letters, digits, `.`, `-` and `_`, \
         and no `.` in front)"
    )]
    Name(String),
}

/// A commit that later ones are held against, however many there are between.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Milestone {
    /// The record's name.
    pub id: String,
    /// What people call it; the newest of a name counts.
    pub name: String,
    /// When it was set.
    pub set_ms: Millis,
    /// What it stands for.
    pub subject: Subject,
    /// What was known of it when it was set; `None` of one that was set by a version of
    /// this program that kept the commit alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
}

/// What was known of a milestone when it was set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// All tests of the workspace; `None` if they were not seen together.
    pub tests: Option<KnownTests>,
    /// What was measured of the speed and memory of its benchmarks, on each machine.
    pub speed: Vec<SpeedRun>,
    /// The claims of the documents; `None` if they were not measured.
    pub claims: Option<Vec<KnownClaim>>,
}

/// The state of all tests of a milestone, and where it was seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnownTests {
    /// What besides the tree decided the outcomes.
    pub environment: Environment,
    /// The tests by their state, each with a hash of its body where that is known.
    pub states: BTreeMap<TestStatus, BTreeMap<TestId, Option<String>>>,
}

impl KnownTests {
    fn of(set: &TestSet, environment: Environment) -> Self {
        let mut states: BTreeMap<TestStatus, BTreeMap<TestId, Option<String>>> = BTreeMap::new();
        for (test, expected) in &set.tests {
            let of_state = states.entry(expected.status()).or_default();
            of_state.insert(test.clone(), expected.body.clone());
        }
        Self {
            environment,
            states,
        }
    }

    /// The tests as one run that says the same would show them.
    fn test_set(&self) -> TestSet {
        let counts = |status: &TestStatus| {
            let (failures, passes) = match status {
                TestStatus::Passing => (0, 1),
                TestStatus::Failing => (1, 0),
                TestStatus::Flaky => (1, 1),
                TestStatus::Ignored => (0, 0),
            };
            Counts { failures, passes }
        };
        let of_state = |(status, tests): (&TestStatus, &BTreeMap<TestId, Option<String>>)| {
            let counts = counts(status);
            let expected = move |(test, body): (&TestId, &Option<String>)| {
                let expected = Expected {
                    counts,
                    body: body.clone(),
                    ..Expected::default()
                };
                (test.clone(), expected)
            };
            tests.iter().map(expected).collect::<Vec<_>>()
        };
        TestSet {
            tests: self.states.iter().flat_map(of_state).collect(),
        }
    }
}

fn known_claim(checked: &Checked) -> KnownClaim {
    KnownClaim {
        document: checked.claim.document.clone(),
        name: checked.claim.name.clone(),
        written: checked.claim.written.clone(),
        state: checked.state,
        found: checked.found,
    }
}

/// All milestones, oldest first: those of the store, and those that files of the
/// repository keep.
pub fn all(session: &Session) -> Result<Vec<Milestone>, SessionError> {
    let mut milestones = session.store.milestones()?;
    for kept in file::read_all(
        &session
            .workspace
            .root
            .join(&session.policy.milestone.folder),
    )? {
        if !milestones.iter().any(|known| known.id == kept.id) {
            milestones.push(kept);
        }
    }
    milestones.sort_by_key(|milestone| milestone.set_ms);
    Ok(milestones)
}
