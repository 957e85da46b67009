//! Which tests a run is to run: all, those of some packages, or a shard of another scope.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::hash::hash;
use crate::test_id::{TargetKind, TestId, place};

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

    /// A scope, or nothing, and all tests of some packages.
    pub fn with_packages(scope: Option<Self>, more: &BTreeSet<String>) -> Option<Self> {
        match scope {
            _ if more.is_empty() => scope,
            None => Some(Self::Packages(more.clone())),
            Some(Self::Packages(packages) | Self::Doctests(packages)) => {
                Some(Self::Packages(&packages | more))
            }
            other => other,
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

/// Which shard of how many: `2/3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShardNumber {
    /// Which one, counted from 1.
    pub index: u32,
    /// How many there are.
    pub count: u32,
}

/// Why a text is not the number of a shard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a shard (expected I/N, with I from 1 to N)")]
pub struct ParseShardError(String);

impl FromStr for ShardNumber {
    type Err = ParseShardError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (index, count) = text.split_once('/')?;
            let (index, count) = (index.parse().ok()?, count.parse().ok()?);
            (1..=count)
                .contains(&index)
                .then_some(Self { index, count })
        };
        parse().ok_or_else(|| ParseShardError(text.to_owned()))
    }
}

impl fmt::Display for ShardNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.index, self.count)
    }
}

/// The part of a scope that one shard runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Which one.
    pub number: ShardNumber,
    /// The scope that is cut.
    pub of: Box<Scope>,
    /// The shard of each target that was known when the scope was cut.
    pub assigned: BTreeMap<String, u32>,
}

impl Shard {
    /// Whether the target that a test is in belongs to this shard.
    pub fn holds(&self, place: &str) -> bool {
        let count = self.number.count;
        let by_name = || {
            let digits = hash(place);
            let number = digits
                .get(..8)
                .and_then(|d| u32::from_str_radix(d, 16).ok());
            number.unwrap_or_default() % count + 1
        };
        let shard = self.assigned.get(place).copied().unwrap_or_else(by_name);
        shard == self.number.index
    }

    /// Whether a test belongs to this shard.
    pub fn contains(&self, test: &TestId) -> bool {
        self.of.contains(test) && self.holds(&test.place())
    }

    /// Whether another shard is of the same cut.
    pub fn is_sibling(&self, other: &Self) -> bool {
        self.number.count == other.number.count
            && self.of == other.of
            && self.assigned == other.assigned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_nothing_else_is() {
        let number = "2/3".parse::<ShardNumber>().expect("valid");
        assert_eq!(number, ShardNumber { index: 2, count: 3 });
        for text in ["", "2", "0/3", "4/3", "1/0", "a/b", "-1/2", "1/2/3"] {
            assert!(text.parse::<ShardNumber>().is_err(), "{text:?}");
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
