//! A set of tests with what is expected of each: the state of one tree, put
//! together from all runs that saw it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::observation::{Outcome, Run};
use crate::scope::Scope;
use crate::stats::{Counts, median};
use crate::test_id::TestId;

/// What was seen of one test on one tree.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Expected {
    /// Its passes and failures.
    pub counts: Counts,
    /// Those of them that were seen in checkouts.
    pub in_checkouts: Counts,
    /// How long its passes took, in milliseconds.
    pub durations_ms: Vec<f64>,
    /// The hash of its body.
    pub body: Option<String>,
    /// What it said when it failed.
    pub message: Option<String>,
    /// Whether it was ended because it took too long.
    pub timed_out: bool,
}

/// The status of a test on one tree: what its runs there say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestStatus {
    /// It passed each time.
    Passing,
    /// It failed each time.
    Failing,
    /// It did both.
    Flaky,
    /// It did not run.
    Ignored,
}

impl TestStatus {
    /// The word for it in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Failing => "failing",
            Self::Flaky => "flaky",
            Self::Ignored => "ignored",
        }
    }
}

impl Expected {
    /// The status that the counts say.
    pub fn status(&self) -> TestStatus {
        match self.counts {
            Counts {
                failures: 0,
                passes: 0,
            } => TestStatus::Ignored,
            Counts { failures: 0, .. } => TestStatus::Passing,
            Counts { passes: 0, .. } => TestStatus::Failing,
            Counts { .. } => TestStatus::Flaky,
        }
    }

    /// Whether it both passed and failed in one place. A pass in the user's files and
    /// a failure in a checkout may come from a file that git ignores.
    pub fn is_contradictory(&self) -> bool {
        self.in_place().is_mixed() || self.in_checkouts.is_mixed()
    }

    /// Its passes and failures in the user's files.
    pub fn in_place(&self) -> Counts {
        Counts {
            failures: self.counts.failures - self.in_checkouts.failures,
            passes: self.counts.passes - self.in_checkouts.passes,
        }
    }

    /// Whether it passes each time in the one place and fails each time in the other.
    pub fn differs_by_place(&self) -> bool {
        let (here, there) = (self.in_place(), self.in_checkouts);
        here.total() > 0
            && there.total() > 0
            && !self.is_contradictory()
            && (here.failures > 0) != (there.failures > 0)
    }

    /// Forgets what was seen in checkouts.
    pub(crate) fn forget_checkouts(&mut self) {
        self.counts = self.in_place();
        self.in_checkouts = Counts::default();
        if self.counts.failures == 0 {
            self.message = None;
            self.timed_out = false;
        }
    }

    /// The median of its durations, in milliseconds.
    pub fn median_ms(&self) -> Option<f64> {
        median(&self.durations_ms)
    }
}

/// The tests of a tree.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TestSet {
    /// What is expected of each.
    pub tests: BTreeMap<TestId, Expected>,
}

impl TestSet {
    /// Puts runs of one tree together, newest first, as far as `scope` goes.
    pub fn of_runs<'a>(runs: impl IntoIterator<Item = &'a Run>, scope: &Scope) -> Self {
        let mut set = Self::default();
        for run in runs {
            set.add(run, scope);
        }
        set
    }

    /// Adds what another run of the same tree saw.
    pub fn add(&mut self, run: &Run, scope: &Scope) {
        let seen = run
            .observations
            .iter()
            .filter(|seen| scope.contains(&seen.test));
        for seen in seen {
            let expected = self.tests.entry(seen.test.clone()).or_default();
            let in_checkouts = u32::from(run.subject.checkout);
            match seen.outcome {
                Outcome::Ignored => {}
                Outcome::Pass => {
                    expected.counts.passes += 1;
                    expected.in_checkouts.passes += in_checkouts;
                    expected.durations_ms.extend(seen.duration_ms);
                }
                Outcome::Fail | Outcome::TimedOut => {
                    expected.counts.failures += 1;
                    expected.in_checkouts.failures += in_checkouts;
                    expected.timed_out |= seen.outcome == Outcome::TimedOut;
                    expected.message = expected.message.take().or_else(|| seen.message.clone());
                }
            }
            expected.body = expected.body.take().or_else(|| seen.body.clone());
        }
    }

    /// How many tests are in each state.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for expected in self.tests.values() {
            match expected.status() {
                TestStatus::Passing => tally.passing += 1,
                TestStatus::Failing => tally.failing += 1,
                TestStatus::Flaky => tally.flaky += 1,
                TestStatus::Ignored => tally.ignored += 1,
            }
        }
        tally
    }
}

/// How many tests are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// They passed each time.
    pub passing: usize,
    /// They failed each time.
    pub failing: usize,
    /// They did both.
    pub flaky: usize,
    /// They did not run.
    pub ignored: usize,
}

impl Tally {
    /// How many ran.
    pub fn ran(self) -> usize {
        self.passing + self.failing + self.flaky
    }

    /// The share of the tests that ran and passed each time, in percent; `None` if
    /// none ran.
    pub fn success_rate(self) -> Option<f64> {
        self.percent(self.passing)
    }

    /// The share that the policy's minimum is about: flaky tests, which are judged
    /// one by one, and `known` of the failing ones are let off.
    pub fn guarded_rate(self, known: usize) -> Option<f64> {
        self.percent(self.passing + self.flaky + known.min(self.failing))
    }

    fn percent(self, good: usize) -> Option<f64> {
        (self.ran() > 0).then(|| 100.0 * good as f64 / self.ran() as f64)
    }
}
