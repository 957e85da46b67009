//! The machine: git, Cargo, processes, the source, the store; and a session, which holds them
//! for one workspace. What is here observes and keeps, and judges nothing.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::observation::Millis;
use crate::record::{JournalEntry, JournalEvent};

pub mod feature_gates;
pub mod git;
pub mod measure;
pub mod metadata;
pub mod policy_file;
pub mod process;
pub mod reading;
pub mod run;
pub mod running_program;
pub mod semver_checks;
pub mod session;
pub mod source;
pub mod store;

/// The present.
pub fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as Millis)
}

/// A name for a new record that no other machine gives.
pub fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// An entry of the journal, of now.
pub fn journal_entry(tree: &str, commit: &str, event: JournalEvent) -> JournalEntry {
    JournalEntry {
        id: new_id(),
        at_ms: now(),
        tree: tree.to_owned(),
        commit: commit.to_owned(),
        event,
    }
}
