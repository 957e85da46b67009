//! Cuts the tests of a check into shards that run on several machines.
//!
//! The smallest piece is a target (`parser/lib`, `parser/test:cli`, `parser/doc`): a
//! shard builds only what it runs. Every machine cuts alike, from the durations in
//! the store and the targets of the candidate; a target that neither names goes by
//! its name. So each test belongs to exactly one shard, also one that is gone.

use std::collections::{BTreeMap, BTreeSet};

use crate::observation::Run;

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
    use crate::observation::tests::run_of;
    use crate::scope::{Scope, Shard, ShardNumber};
    use crate::test_id::{TargetKind, TestId};

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
        let run = run_of(&[
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
