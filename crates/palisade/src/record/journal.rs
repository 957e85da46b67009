//! What people and hooks did around changes, beside what was measured: approvals, runs of
//! hooks, commits without them, and what the plan of a change missed.

use serde::{Deserialize, Serialize};

use crate::level::Level;
use crate::observation::Millis;
use crate::test_id::TestId;

/// Something that was done about a tree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// The record's name.
    pub id: String,
    /// When.
    pub at_ms: Millis,
    /// The hash of the content that it is about.
    pub tree: String,
    /// The commit that was checked out.
    pub commit: String,
    /// What was done.
    pub event: JournalEvent,
}

/// What can be done about a tree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum JournalEvent {
    /// Somebody validated it by hand.
    Approved {
        /// Who: `Name <address>`.
        by: String,
        /// What was done to validate it.
        note: String,
    },
    /// The hooks were installed.
    HooksInstalled,
    /// A hook judged it.
    HookRan {
        /// The hook.
        hook: String,
        /// How that ended.
        exit_code: u8,
    },
    /// It was committed without the hook before.
    HookBypassed {
        /// The hook.
        hook: String,
    },
    /// A check of all tests said what the plan of the change would have found.
    Scored(Recall),
}

/// What the tests that a plan selects find of the failures that all tests find.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recall {
    /// The risk of the change.
    pub level: Option<Level>,
    /// How many failures are in tests that the plan selects.
    pub found: u32,
    /// The failing tests that it leaves out.
    pub missed: Vec<TestId>,
}

impl Recall {
    /// How many failures there are.
    pub fn total(&self) -> u32 {
        self.found + self.missed.len() as u32
    }
}

/// The share of failures that plans found, over several checks; `None` if there were no
/// failures.
pub fn share_found<'a>(scores: impl IntoIterator<Item = &'a Recall>) -> Option<(u32, u32)> {
    let sums = scores.into_iter().fold((0, 0), |(found, total), score| {
        (found + score.found, total + score.total())
    });
    (sums.1 > 0).then_some(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_id::TargetKind;

    #[test]
    fn shares_are_over_failures_and_not_over_checks() {
        let score = |found, missed: usize| Recall {
            level: Some(Level::High),
            found,
            missed: vec![TestId::new("a", TargetKind::Lib, "", "t"); missed],
        };
        assert_eq!(share_found(&[score(0, 0)]), None);
        assert_eq!(
            share_found(&[score(3, 0), score(0, 1), score(0, 0)]),
            Some((3, 4))
        );
    }
}
