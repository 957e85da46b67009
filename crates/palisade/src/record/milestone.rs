//! What was known of a commit that later ones are held against.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::baseline::{Expected, TestSet, TestStatus};
use crate::observation::{Environment, Millis, Subject};
use crate::speed::SpeedRun;
use crate::stats::Counts;
use crate::test_id::TestId;
use crate::verdict::KnownClaim;

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
    /// That of a set of tests.
    pub fn of(set: &TestSet, environment: Environment) -> Self {
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
    pub fn test_set(&self) -> TestSet {
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
