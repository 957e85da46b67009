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

use std::path::PathBuf;

pub use check::{MilestoneCheckOptions, MilestoneReport, MilestoneSection, check};
pub use file::write;
pub use set::{SetOptions, set};

use crate::flow::benchmark_comparison::ComparisonError;
use crate::flow::check::CheckError;
use crate::flow::claims::{Checked, ClaimsError};
use crate::host::session::{Session, SessionError};
use crate::record::{Advice, Milestone};
use crate::verdict::KnownClaim;

/// Why a milestone cannot be kept in a file or read from one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MilestoneError {
    /// A file or folder cannot be read or written.
    #[error("failed to use {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A file holds no milestone.
    #[error("failed to read {} as a milestone", .path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A file was written by a newer version of this program.
    #[error("failed to read {}: it has schema {found}, and this program knows {known}", .path.display())]
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
        "failed to keep the milestone {0:?} in a file (expected letters, digits, `.`, `-` and `_`, \
         and no `.` in front)"
    )]
    Name(String),
    /// The tests could not be judged.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// The claims could not be measured.
    #[error(transparent)]
    Claims(#[from] ClaimsError),
    /// The benchmarks could not be measured.
    #[error(transparent)]
    Comparison(#[from] ComparisonError),
    /// The session failed: git, Cargo, the store, a run.
    #[error(transparent)]
    Session(SessionError),
}

impl<E: Into<SessionError>> From<E> for MilestoneError {
    fn from(error: E) -> Self {
        Self::Session(error.into())
    }
}

impl MilestoneError {
    fn inner(&self) -> Option<&dyn Advice> {
        match self {
            Self::Check(error) => Some(error),
            Self::Claims(error) => Some(error),
            Self::Comparison(error) => Some(error),
            Self::Session(error) => Some(error),
            _ => None,
        }
    }
}

impl Advice for MilestoneError {
    fn is_usage(&self) -> bool {
        match self {
            Self::File { .. } => false,
            _ => self.inner().is_none_or(Advice::is_usage),
        }
    }

    fn hint(&self) -> Option<String> {
        match self.inner() {
            Some(inner) => inner.hint(),
            None if self.is_usage() => Some("cargo palisade milestone set NAME --file".to_owned()),
            None => None,
        }
    }

    fn output(&self) -> Option<&str> {
        self.inner()?.output()
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
pub fn all(session: &Session) -> Result<Vec<Milestone>, MilestoneError> {
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
