//! Cuts the tests of a check into shards that run on several machines.
//!
//! The smallest piece is a target (`parser/lib`, `parser/test:cli`, `parser/doc`): a
//! shard builds only what it runs. Every machine cuts alike, from the durations in
//! the store and the targets of the candidate; a target that neither names goes by
//! its name. So each test belongs to exactly one shard, also one that is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::record::{Run, Scope};
use crate::source::hash;
use crate::test_id::TestId;

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
#[error("read {0:?} as a shard (expected I/N, with I from 1 to N)")]
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

/// What a test without a known duration counts for, in milliseconds.
const UNTIMED_MS: f64 = 50.0;

/// What each target costs besides its tests' own time: it is linked and started.
const TARGET_MS: f64 = 500.0;

/// Gives each target the shard that has least to do so far, the longest target
/// first. `history` is a run of all tests; `targets` are the candidate's.
pub fn assign(
    count: u32,
    history: Option<&Run>,
    targets: &BTreeSet<String>,
) -> BTreeMap<String, u32> {
    let mut costs: BTreeMap<String, f64> = BTreeMap::new();
    for target in targets {
        costs.insert(target.clone(), TARGET_MS);
    }
    for seen in history.iter().flat_map(|run| &run.observations) {
        let cost = costs.entry(seen.test.place()).or_insert(TARGET_MS);
        *cost += seen.duration_ms.unwrap_or(UNTIMED_MS);
    }
    let mut costs: Vec<(String, f64)> = costs.into_iter().collect();
    costs.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let mut loads: Vec<f64> = vec![0.0; count as usize];
    let mut assigned = BTreeMap::new();
    for (target, cost) in costs {
        let least = (0..loads.len()).min_by(|a, b| loads[*a].total_cmp(&loads[*b]));
        let least = least.unwrap_or_default();
        if let Some(load) = loads.get_mut(least) {
            *load += cost;
        }
        assigned.insert(target, least as u32 + 1);
    }
    assigned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_id::TargetKind;

    #[test]
    fn numbers_are_read_and_nothing_else_is() {
        let number = "2/3".parse::<ShardNumber>().expect("valid");
        assert_eq!(number, ShardNumber { index: 2, count: 3 });
        for text in ["", "2", "0/3", "4/3", "1/0", "a/b", "-1/2", "1/2/3"] {
            assert!(text.parse::<ShardNumber>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn each_target_is_in_exactly_one_shard_and_the_loads_are_even() {
        let targets: BTreeSet<String> = (0..40).map(|n| format!("p{n}/lib")).collect();
        let assigned = assign(3, None, &targets);
        for place in targets
            .iter()
            .map(String::as_str)
            .chain(["new/lib", "gone/test:x"])
        {
            let holders = (1..=3).filter(|index| {
                let shard = Shard {
                    number: ShardNumber {
                        index: *index,
                        count: 3,
                    },
                    of: Box::new(Scope::Workspace),
                    assigned: assigned.clone(),
                };
                shard.holds(place)
            });
            assert_eq!(holders.count(), 1, "{place}");
        }
        for shard in 1..=3 {
            let size = assigned.values().filter(|found| **found == shard).count();
            assert!((13..=14).contains(&size), "{size}");
        }
    }

    #[test]
    fn long_targets_are_kept_apart() {
        let run = crate::record::tests::run_of(&[
            (TestId::new("a", TargetKind::Test, "slow", "x"), 60_000.0),
            (TestId::new("b", TargetKind::Test, "slow", "x"), 50_000.0),
            (TestId::new("a", TargetKind::Lib, "", "x"), 5.0),
            (TestId::new("b", TargetKind::Lib, "", "x"), 5.0),
        ]);
        let assigned = assign(2, Some(&run), &BTreeSet::new());
        assert_eq!(assigned["a/test:slow"], 1);
        assert_eq!(assigned["b/test:slow"], 2);
        assert_eq!((assigned["a/lib"], assigned["b/lib"]), (2, 2));
    }
}
