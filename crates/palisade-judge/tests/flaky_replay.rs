//! Replays a public set of flaky tests with known failure rates through the
//! ledger: how many are known after so many runs, and does any test that never or
//! always fails come under suspicion?

use palisade_judge::flaky::Ledger;
use palisade_judge::flaky::TreeTally;
use palisade_judge::test_id::{TargetKind, TestId};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

const DAY: i64 = 86_400_000;

/// A group of tests with one failure rate.
struct Group {
    rate: f64,
    tests: usize,
}

fn groups() -> Vec<Group> {
    let text = include_str!("data/flaky-rates.csv");
    let group = |line: &str| {
        let numbers: Vec<f64> = line
            .split(',')
            .map(|n| n.parse().expect("a number"))
            .collect();
        Group {
            rate: numbers[0] / (numbers[0] + numbers[1]),
            tests: numbers[2] as usize,
        }
    };
    text.lines().skip(1).map(group).collect()
}

/// Runs each test `runs` times on one tree, and returns the share of the flaky ones
/// that the ledger knows, and how many others it calls flaky or would quarantine.
fn replay(runs: u32, seed: u64) -> (f64, usize) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut unit = || (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    let mut tallies = Vec::new();
    let mut is_flaky = Vec::new();
    for group in groups() {
        for _ in 0..group.tests {
            let failures = (0..runs).filter(|_| unit() < group.rate).count() as u32;
            let name = format!("t{:05}", tallies.len());
            tallies.push(TreeTally {
                test: TestId::new("a", TargetKind::Lib, "", &name),
                tree: "tree".to_owned(),
                passes: runs - failures,
                failures,
                commit: "commit".to_owned(),
                last_ms: DAY,
                last_failure_ms: if failures > 0 { DAY } else { 0 },
            });
            // A test that fails each time is broken.
            is_flaky.push(group.rate > 0.0 && group.rate < 1.0);
        }
    }
    let tests: Vec<TestId> = tallies.iter().map(|tally| tally.test.clone()).collect();
    let ledger = Ledger::of(tallies, &[]);
    let (mut flaky, mut known, mut wronged) = (0, 0, 0);
    for (test, is_flaky) in tests.iter().zip(is_flaky) {
        let record = ledger.get(test).expect("seen");
        if is_flaky {
            flaky += 1;
            known += usize::from(record.is_flaky());
        } else {
            wronged += usize::from(record.is_flaky() || record.deserves_quarantine(DAY));
        }
    }
    (f64::from(known as u32) / f64::from(flaky), wronged)
}

#[test]
fn the_ledger_knows_what_can_be_known_and_wrongs_no_other_test() {
    // The share of flaky tests that both pass and fail in so many runs, by the data.
    for (runs, possible) in [(10, 0.29), (100, 0.52), (1000, 0.74)] {
        let (recall, wronged) = replay(runs, 1);
        assert_eq!(wronged, 0, "after {runs} runs");
        assert!(
            recall > possible - 0.03,
            "after {runs} runs: {recall:.3} of {possible}"
        );
    }
}
