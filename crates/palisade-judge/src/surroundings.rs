//! Tests that depend on where they run: on files that git does not carry, on what lies beside
//! the repository, on the machine. The candidate is in the user's files and the base in a
//! checkout, so such a test differs between them whatever the change did. The candidate's own
//! tree in a checkout tells it from one that the change broke or repaired.

use std::collections::BTreeMap;

use crate::baseline::{Expected, TestSet, TestStatus};
use crate::finding::NotComparable;
use crate::flaky::Judgement;
use crate::rerun::RerunResult;
use crate::test_id::TestId;
use crate::test_set_diff::{Difference, TestState};

/// The tests that may depend on where they run, of those that differ between a candidate in the
/// user's files and a base in a checkout. `has_ignored_files` says whether the user's files hold
/// more than git carries: only then is a failure that the change is blamed for looked at, too.
pub fn suspects(
    differences: &[Difference],
    judged: &BTreeMap<TestId, RerunResult>,
    has_ignored_files: bool,
) -> Vec<TestId> {
    let is_suspect = |difference: &&Difference| match difference.state {
        TestState::NewlyPassing | TestState::StillFailing => {
            let before = difference.before.as_ref();
            before.is_some_and(|before| before.in_place().total() == 0)
        }
        TestState::NewlyFailing => {
            let judged = judged.get(&difference.test);
            has_ignored_files && judged.is_some_and(|j| j.judgement == Judgement::Broken)
        }
        _ => false,
    };
    let suspects = differences.iter().filter(is_suspect);
    suspects.map(|d| d.test.clone()).collect()
}

/// Forgets the failures in checkouts of tests that pass in the candidate's files and fail in
/// every checkout of the base, too: they were seen here before.
pub fn settle(base: &TestSet, candidate: &mut TestSet) {
    let fails_apart = |test: &TestId| {
        let seen = base.tests.get(test);
        seen.is_some_and(|seen| seen.status() == TestStatus::Failing)
    };
    for (test, seen) in &mut candidate.tests {
        if seen.differs_by_place() && seen.in_place().failures == 0 && fails_apart(test) {
            seen.forget_checkouts();
        }
    }
}

/// Whether a suspect is run in a checkout once more: until that agrees with what was seen in the
/// user's files, or so many runs do not.
pub fn is_open(test: &TestId, candidate: &TestSet, elsewhere: &TestSet, runs: u32) -> bool {
    let counts = |set: &TestSet| set.tests.get(test).map(|seen| seen.counts);
    let here = counts(candidate).unwrap_or_default();
    let there = counts(elsewhere).unwrap_or_default();
    let agrees = if here.failures > 0 {
        there.failures > 0
    } else {
        there.passes > 0
    };
    !agrees && there.total() < runs
}

/// Says of a difference that it comes from where the tests ran, if it does.
pub fn by_surroundings(
    difference: &Difference,
    elsewhere: &TestSet,
    runs: u32,
) -> Option<NotComparable> {
    let here = difference.after.as_ref()?;
    let there = elsewhere.tests.get(&difference.test)?;
    let base = difference.before.as_ref()?;
    let is_failing = |seen: &Expected| seen.status() == TestStatus::Failing;
    let is_passing = |seen: &Expected| seen.status() == TestStatus::Passing;
    let is_known = there.counts.total() >= runs;
    let holds = match difference.state {
        TestState::NewlyPassing => is_passing(here) && is_failing(there) && is_known,
        TestState::NewlyFailing => is_failing(here) && is_passing(there) && is_known,
        // It fails everywhere; in the user's files in another way, which is not looked at where
        // the checkouts of both revisions agree.
        TestState::StillFailing => {
            is_failing(here)
                && is_failing(there)
                && is_same_failure(there, base)
                && !is_same_failure(here, there)
        }
        _ => false,
    };
    holds.then_some(NotComparable {
        in_files: here.counts,
        in_checkout: there.counts,
        base: base.counts,
    })
}

/// Whether two failures say the same, but for places and numbers. Where nothing was said,
/// nothing tells them apart.
fn is_same_failure(one: &Expected, other: &Expected) -> bool {
    match (&one.message, &other.message) {
        (Some(one), Some(other)) => gist(one) == gist(other),
        _ => true,
    }
}

/// What a failing test says, from the panic to the backtrace, without the folders of paths and
/// without digits.
fn gist(message: &str) -> Vec<String> {
    const ENDS: [&str; 2] = ["stack backtrace:", "note: "];
    let from = message.find("panicked at").unwrap_or(0);
    let lines = message[from..].lines();
    let lines = lines.take_while(|line| !ENDS.iter().any(|end| line.starts_with(end)));
    let words = lines.flat_map(str::split_whitespace);
    let name = |word: &str| {
        let name = word.rsplit(['/', '\\']).next().unwrap_or(word);
        name.replace(|c: char| c.is_ascii_digit(), "")
    };
    words.map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Counts;
    use crate::test_id::TargetKind;

    const RUNS: u32 = 3;

    fn id() -> TestId {
        TestId::new("a", TargetKind::Lib, "", "t")
    }

    fn seen(failures: u32, passes: u32, message: &str) -> Expected {
        Expected {
            counts: Counts { failures, passes },
            message: (failures > 0).then(|| message.to_owned()),
            ..Expected::default()
        }
    }

    fn set(seen: Expected) -> TestSet {
        TestSet {
            tests: [(id(), seen)].into(),
        }
    }

    fn difference(state: TestState, before: Expected, after: Expected) -> Difference {
        Difference {
            test: id(),
            state,
            old_name: None,
            before: Some(Expected {
                in_checkouts: before.counts,
                ..before
            }),
            after: Some(after),
        }
    }

    #[test]
    fn a_repair_is_none_where_the_candidate_fails_in_a_checkout_too() {
        let lacks = "thread 't' (12) panicked at src/lib.rs:3:5:\nno file /cache/0/tree/data/x";
        let (fails, passes) = (seen(6, 0, lacks), seen(0, 1, ""));
        let repaired = difference(TestState::NewlyPassing, fails.clone(), passes.clone());
        let differences = [repaired];
        assert_eq!(suspects(&differences, &BTreeMap::new(), false), [id()]);
        let [repaired] = &differences;
        let judged = |there: Expected| by_surroundings(repaired, &set(there), RUNS);
        assert!(judged(seen(3, 0, lacks)).is_some());
        // One run is none, and a pass there says that the change repaired it.
        assert_eq!(judged(seen(1, 0, lacks)), None);
        assert_eq!(judged(passes), None);
        assert_eq!(judged(seen(2, 1, lacks)), None);
        // A base that was seen in the user's files stands.
        let mut in_place = differences[0].clone();
        in_place.before = Some(fails);
        assert_eq!(suspects(&[in_place], &BTreeMap::new(), true), []);
    }

    #[test]
    fn a_failure_is_not_the_change_where_the_candidate_passes_in_a_checkout() {
        let (fails, passes) = (seen(6, 0, "no"), seen(0, 6, ""));
        let broken = difference(TestState::NewlyFailing, passes.clone(), fails.clone());
        let judged = RerunResult {
            judgement: Judgement::Broken,
            p: 0.001,
            candidate: fails.counts,
            base: Some(passes.counts),
        };
        let judged = [(id(), judged)].into();
        let differences = [broken];
        assert_eq!(suspects(&differences, &judged, true), [id()]);
        assert_eq!(suspects(&differences, &judged, false), []);
        let by = |there| by_surroundings(&differences[0], &set(there), RUNS);
        assert!(by(seen(0, 3, "")).is_some());
        assert_eq!(by(seen(0, 1, "")), None);
        assert_eq!(by(seen(3, 0, "no")), None);
    }

    #[test]
    fn two_failures_are_told_apart_by_what_they_say() {
        let lacks = |place: &str| {
            format!(
                "thread 't' ({place}) panicked at src/lib.rs:3:5:\nno file /cache/{place}/tree/x\n\
                 note: run with `RUST_BACKTRACE=1`"
            )
        };
        let wrong = "thread 't' (7) panicked at src/lib.rs:9:5:\nassertion failed: left == right";
        let judged = |here: &str, there: &str| {
            let before = seen(6, 0, &lacks("0"));
            let failing = difference(TestState::StillFailing, before, seen(1, 0, here));
            by_surroundings(&failing, &set(seen(1, 0, there)), RUNS)
        };
        let found = judged(wrong, &lacks("1")).expect("another failure in the files");
        assert!(found.is_open());
        // The same failure in the files, or one that the checkouts do not share.
        assert_eq!(judged(&lacks("33"), &lacks("1")), None);
        assert_eq!(judged(wrong, wrong), None);
    }

    #[test]
    fn what_fails_in_every_checkout_and_passes_here_passes() {
        let mut here = seen(3, 1, "no file");
        here.in_checkouts = Counts {
            failures: 3,
            passes: 0,
        };
        for (base, expected) in [
            (seen(6, 0, "no file"), TestStatus::Passing),
            // A checkout of the base has what one of the candidate lacks.
            (seen(0, 1, ""), TestStatus::Flaky),
        ] {
            let mut candidate = set(here.clone());
            settle(&set(base), &mut candidate);
            assert_eq!(candidate.tests[&id()].status(), expected);
        }
    }

    #[test]
    fn runs_end_where_they_agree_or_are_enough() {
        let (failing, passing) = (set(seen(6, 0, "")), set(seen(0, 6, "")));
        let open = |here: &TestSet, there: Expected| is_open(&id(), here, &set(there), RUNS);
        assert!(is_open(&id(), &failing, &TestSet::default(), RUNS));
        assert!(open(&passing, seen(1, 0, "")));
        assert!(!open(&passing, seen(3, 0, "")));
        assert!(!open(&passing, seen(1, 1, "")));
        assert!(open(&failing, seen(0, 2, "")));
        // What fails in both is told by its words.
        assert!(!open(&failing, seen(1, 0, "")));
    }
}
