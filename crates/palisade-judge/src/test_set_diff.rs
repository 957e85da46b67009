//! Compares the tests of two trees. Pure: it reads no clock, no disk and no
//! policy but the thresholds it is handed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::baseline::{Expected, TestSet, TestStatus};
use crate::test_id::TestId;

/// How a test differs between the base and the candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestState {
    /// It passed and fails now.
    NewlyFailing,
    /// It is new, and fails at least sometimes.
    AddedFailing,
    /// It is gone.
    Missing,
    /// It ran and is ignored now.
    NewlyIgnored,
    /// It passes, and takes much longer.
    Slower,
    /// It fails on both revisions.
    StillFailing,
    /// It failed and passes now.
    NewlyPassing,
    /// It has another name, and the same body.
    Renamed,
    /// It was ignored and runs now.
    NoLongerIgnored,
    /// It is new.
    Added,
    /// It exists on both revisions, and its body changed.
    Changed,
}

impl TestState {
    /// The words for it in reports.
    pub fn words(self) -> &'static str {
        match self {
            Self::NewlyFailing => "newly failing",
            Self::AddedFailing => "new and failing",
            Self::Missing => "missing",
            Self::NewlyIgnored => "newly ignored",
            Self::Slower => "much slower",
            Self::StillFailing => "still failing",
            Self::NewlyPassing => "newly passing",
            Self::Renamed => "renamed",
            Self::NoLongerIgnored => "no longer ignored",
            Self::Added => "added",
            Self::Changed => "changed",
        }
    }
}

/// A test that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The test, by its name in the candidate if it is there.
    pub test: TestId,
    /// How it differs.
    pub state: TestState,
    /// Its name in the base, if that was another.
    pub old_name: Option<TestId>,
    /// What the base knows of it.
    pub before: Option<Expected>,
    /// What the candidate showed.
    pub after: Option<Expected>,
}

/// When a test counts as much slower.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowerRule {
    /// How many times the base's median it must take.
    pub factor: f64,
    /// How much longer than the base's median it must take.
    pub noise_threshold: Duration,
}

impl Default for SlowerRule {
    fn default() -> Self {
        Self {
            factor: 3.0,
            noise_threshold: Duration::from_millis(200),
        }
    }
}

/// All tests that differ, worst first.
pub fn diff(base: &TestSet, candidate: &TestSet, slower: &SlowerRule) -> Vec<Difference> {
    let renames = renames(base, candidate);
    let old_names: BTreeMap<&TestId, &TestId> =
        renames.iter().map(|(old, new)| (*new, *old)).collect();
    let mut differences = Vec::new();
    for (test, after) in &candidate.tests {
        let old_name = old_names.get(test).copied();
        let before = base.tests.get(old_name.unwrap_or(test));
        let states = match before {
            Some(before) => states(before, after, old_name.is_some(), slower),
            None if after.counts.failures > 0 => vec![TestState::AddedFailing],
            None => vec![TestState::Added],
        };
        differences.extend(states.into_iter().map(|state| Difference {
            test: test.clone(),
            state,
            old_name: old_name.cloned(),
            before: before.cloned(),
            after: Some(after.clone()),
        }));
    }
    for (test, before) in &base.tests {
        if !candidate.tests.contains_key(test) && !renames.contains_key(test) {
            differences.push(Difference {
                test: test.clone(),
                state: TestState::Missing,
                old_name: None,
                before: Some(before.clone()),
                after: None,
            });
        }
    }
    differences.sort_by(|a, b| (a.state, &a.test).cmp(&(b.state, &b.test)));
    differences
}

fn states(
    before: &Expected,
    after: &Expected,
    renamed: bool,
    slower: &SlowerRule,
) -> Vec<TestState> {
    let mut states = Vec::new();
    if renamed {
        states.push(TestState::Renamed);
    } else if before.body.is_some() && after.body.is_some() && before.body != after.body {
        states.push(TestState::Changed);
    }
    match (before.status(), after.status()) {
        (TestStatus::Ignored, TestStatus::Failing | TestStatus::Flaky) => {
            states.push(TestState::AddedFailing);
        }
        (TestStatus::Ignored, TestStatus::Passing) => states.push(TestState::NoLongerIgnored),
        (TestStatus::Passing | TestStatus::Failing | TestStatus::Flaky, TestStatus::Ignored) => {
            states.push(TestState::NewlyIgnored);
        }
        (TestStatus::Passing, TestStatus::Failing | TestStatus::Flaky)
        | (TestStatus::Flaky, TestStatus::Failing) => states.push(TestState::NewlyFailing),
        (TestStatus::Failing, TestStatus::Passing) => states.push(TestState::NewlyPassing),
        (TestStatus::Failing, TestStatus::Failing | TestStatus::Flaky) => {
            states.push(TestState::StillFailing);
        }
        (TestStatus::Passing | TestStatus::Flaky, TestStatus::Passing | TestStatus::Flaky) => {
            if is_slower(before, after, slower) {
                states.push(TestState::Slower);
            }
        }
        (TestStatus::Ignored, TestStatus::Ignored) => {}
    }
    states
}

/// Whether the medians differ by the factor *and* by the noise threshold. That is a
/// suspicion: one slow run proves nothing, so the caller measures both revisions again.
pub fn is_slower(before: &Expected, after: &Expected, slower: &SlowerRule) -> bool {
    let (Some(before), Some(after)) = (before.median_ms(), after.median_ms()) else {
        return false;
    };
    let noise_threshold = slower.noise_threshold.as_secs_f64() * 1e3;
    after > before * slower.factor && after - before > noise_threshold
}

/// Pairs tests that are gone with new ones of the same body. Where several share
/// a body, only an equal function name in the same package makes a pair.
fn renames<'a>(base: &'a TestSet, candidate: &'a TestSet) -> BTreeMap<&'a TestId, &'a TestId> {
    type ByBody<'a> = BTreeMap<&'a str, Vec<&'a TestId>>;
    fn only_in<'a>(one: &'a TestSet, other: &TestSet) -> ByBody<'a> {
        let mut by_body = ByBody::new();
        for (test, expected) in &one.tests {
            if let (Some(body), false) = (&expected.body, other.tests.contains_key(test)) {
                by_body.entry(body).or_default().push(test);
            }
        }
        by_body
    }
    let mut new = only_in(candidate, base);
    let mut renames = BTreeMap::new();
    for (body, gone) in only_in(base, candidate) {
        let Some(new) = new.get_mut(body) else {
            continue;
        };
        if let ([old], [new]) = (gone.as_slice(), new.as_slice()) {
            renames.insert(*old, *new);
            continue;
        }
        for old in gone {
            let is_it =
                |new: &&TestId| (&new.package, new.function()) == (&old.package, old.function());
            if let Some(at) = new.iter().position(is_it) {
                renames.insert(old, new.swap_remove(at));
            }
        }
    }
    renames
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Counts;
    use crate::test_id::TargetKind;

    fn id(path: &str) -> TestId {
        TestId::new("a", TargetKind::Lib, "", path)
    }

    /// A test as (name, failures, passes, body, duration).
    type Row = (&'static str, u32, u32, &'static str, f64);

    fn set(rows: &[Row]) -> TestSet {
        let tests = rows.iter().map(|(name, failures, passes, body, duration)| {
            let expected = Expected {
                counts: Counts {
                    failures: *failures,
                    passes: *passes,
                },
                durations_ms: vec![*duration; *passes as usize],
                body: (!body.is_empty()).then(|| (*body).to_owned()),
                ..Expected::default()
            };
            (id(name), expected)
        });
        TestSet {
            tests: tests.collect(),
        }
    }

    fn check(base: &[Row], candidate: &[Row], expected: &[(&str, TestState)]) {
        let found = diff(&set(base), &set(candidate), &SlowerRule::default());
        let found: Vec<_> = found
            .iter()
            .map(|d| (d.test.path.as_str(), d.state))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn each_difference_has_its_state() {
        use TestState::*;
        let pass = ("t", 0, 1, "", 1.0);
        let fail = ("t", 1, 0, "", 1.0);
        let ignored = ("t", 0, 0, "", 1.0);
        let flaky = ("t", 1, 1, "", 1.0);
        check(&[pass], &[pass], &[]);
        check(&[pass], &[fail], &[("t", NewlyFailing)]);
        check(&[pass], &[flaky], &[("t", NewlyFailing)]);
        check(&[flaky], &[fail], &[("t", NewlyFailing)]);
        check(&[flaky], &[flaky], &[]);
        check(&[fail], &[pass], &[("t", NewlyPassing)]);
        check(&[fail], &[fail], &[("t", StillFailing)]);
        check(&[pass], &[], &[("t", Missing)]);
        check(&[fail], &[], &[("t", Missing)]);
        check(&[ignored], &[], &[("t", Missing)]);
        check(&[pass], &[ignored], &[("t", NewlyIgnored)]);
        check(&[fail], &[ignored], &[("t", NewlyIgnored)]);
        check(&[ignored], &[pass], &[("t", NoLongerIgnored)]);
        check(&[ignored], &[fail], &[("t", AddedFailing)]);
        check(&[], &[pass], &[("t", Added)]);
        check(&[], &[fail], &[("t", AddedFailing)]);
    }

    #[test]
    fn a_rename_is_not_a_removal_and_hides_nothing() {
        use TestState::*;
        let old = ("old", 0, 1, "b", 1.0);
        check(&[old], &[("new", 0, 1, "b", 1.0)], &[("new", Renamed)]);
        let broken = [("new", NewlyFailing), ("new", Renamed)];
        check(&[old], &[("new", 1, 0, "b", 1.0)], &broken);
        let ignored = [("new", NewlyIgnored), ("new", Renamed)];
        check(&[old], &[("new", 0, 0, "b", 1.0)], &ignored);
        let other_body = [("old", Missing), ("new", Added)];
        check(&[old], &[("new", 0, 1, "c", 1.0)], &other_body);
        check(&[old], &[("old", 0, 1, "c", 1.0)], &[("old", Changed)]);
    }

    #[test]
    fn tests_that_share_a_body_are_paired_only_by_name() {
        use TestState::*;
        let test = |name| (name, 0, 1, "b", 1.0);
        check(
            &[test("m::x"), test("m::y")],
            &[test("n::a"), test("n::y")],
            &[("m::x", Missing), ("n::y", Renamed), ("n::a", Added)],
        );
    }

    #[test]
    fn slower_needs_the_factor_and_the_floor() {
        use TestState::*;
        let test = |ms| ("t", 0, 3, "", ms);
        check(&[test(10.0)], &[test(100.0)], &[]);
        check(&[test(1000.0)], &[test(2000.0)], &[]);
        check(&[test(200.0)], &[test(1000.0)], &[("t", Slower)]);
    }
}
