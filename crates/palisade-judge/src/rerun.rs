//! What runs more than once: new tests, those that fail, and those that seem slower.
//!
//! A [`RerunPlan`] asks for the next runs and is told what they were; nothing here runs a test.
//!
//! ```text
//! differences ─► RerunPlan ─► RerunRequest ─► runs, added to the sets of tests ─► RerunPlan …
//!                          └► none any more ─► results
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crate::baseline::{Expected, TestSet, TestStatus};
use crate::flaky::{FlakyRecord, Judgement, Ledger, judge, judge_last};
use crate::observation::Purpose;
use crate::policy::FlakyPolicy;
use crate::stats::{Counts, median, rank_test};
use crate::test_id::TestId;
use crate::test_set_diff::{Difference, TestState};

/// The error that a judgement "slower" accepts.
const SLOW_ALPHA: f64 = 0.01;

/// Reruns after which a test that runs into its time-out is judged: each costs the whole
/// time-out.
const TIME_OUT_RERUNS: u32 = 2;

/// What is to be run next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RerunRequest {
    /// The tests of the candidate.
    pub candidate: BTreeSet<TestId>,
    /// The tests of the base.
    pub base: BTreeSet<TestId>,
    /// Whether those of the base run first. The order turns round each time: what changes with
    /// time, or with every second run, does not fall on one revision.
    pub base_first: bool,
    /// Which round it is, counted from 1.
    pub round: u32,
    /// How many tests the round is about.
    pub tests: usize,
    /// Why they run.
    pub purpose: Purpose,
}

/// Which revisions could be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RanRevisions {
    /// Whether the candidate could.
    pub candidate: bool,
    /// Whether the base could.
    pub base: bool,
}

/// The two revisions, with all that was seen of their tests so far.
#[derive(Clone, Copy, Debug)]
pub struct SeenTests<'a> {
    /// The base's.
    pub base: &'a TestSet,
    /// The candidate's.
    pub candidate: &'a TestSet,
}

/// Decides what runs again.
pub trait RerunPlan {
    /// What is to be run next; nothing if all is known, or if the time is over.
    fn next(&mut self, seen: SeenTests<'_>, is_over: bool) -> Option<RerunRequest>;

    /// Says which revisions the last request could be run on.
    fn ran(&mut self, ran: RanRevisions);
}

/// What repeated runs said about a test that failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RerunResult {
    /// The answer.
    pub judgement: Judgement,
    /// The p-value of Fisher's test; 1 where there is nothing to compare with.
    pub p: f64,
    /// The candidate's runs.
    pub candidate: Counts,
    /// The base's runs, if it has the test.
    pub base: Option<Counts>,
}

/// What repeated runs said about a test that seemed slower.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DurationRerunResult {
    /// Whether it is; `None` while that is open.
    pub slower: Option<bool>,
    /// The p-value of the rank test.
    pub p: f64,
    /// The base's median, in milliseconds.
    pub before_ms: f64,
    /// The candidate's median.
    pub after_ms: f64,
    /// How many runs each revision had.
    pub runs: (usize, usize),
}

/// Runs new and changed tests of the candidate many times, so that a flaky one is named when it
/// arrives.
#[derive(Debug)]
pub struct StressPlan {
    tests: BTreeSet<TestId>,
    runs: u32,
    round: u32,
    is_stuck: bool,
}

impl StressPlan {
    /// A plan for the tests that are new or changed.
    pub fn new(differences: &[Difference], policy: FlakyPolicy) -> Self {
        let is_new = |difference: &&Difference| {
            matches!(
                difference.state,
                TestState::Added | TestState::Changed | TestState::NoLongerIgnored
            )
        };
        let new = differences.iter().filter(is_new);
        Self {
            tests: new.map(|difference| difference.test.clone()).collect(),
            runs: policy.stress_runs,
            round: 0,
            is_stuck: false,
        }
    }
}

impl RerunPlan for StressPlan {
    fn next(&mut self, seen: SeenTests<'_>, is_over: bool) -> Option<RerunRequest> {
        let is_open = |test: &&TestId| {
            let counts = seen.candidate.tests.get(*test).map(|seen| seen.counts);
            // One that also failed goes on: its rate is worth knowing.
            counts.is_some_and(|c| c.passes > 0 && c.total() < self.runs)
        };
        let open: BTreeSet<TestId> = self.tests.iter().filter(is_open).cloned().collect();
        if open.is_empty() || is_over || self.is_stuck {
            return None;
        }
        self.round += 1;
        Some(RerunRequest {
            tests: open.len(),
            candidate: open,
            base: BTreeSet::new(),
            base_first: false,
            round: self.round,
            purpose: Purpose::Stress,
        })
    }

    fn ran(&mut self, ran: RanRevisions) {
        self.is_stuck = !ran.candidate;
    }
}

/// Runs tests again that fail on the base, on the base alone, until as much is known of them as
/// of a failure of the candidate: that a test failed before, or was repaired, is not believed
/// from one run.
#[derive(Debug)]
pub struct BasePlan {
    /// The tests, as the base calls them.
    tests: BTreeSet<TestId>,
    reruns: u32,
    round: u32,
    is_stuck: bool,
}

impl BasePlan {
    /// A plan for the failures of the base that `is_known` does not know.
    pub fn new(
        differences: &[Difference],
        policy: FlakyPolicy,
        is_known: impl Fn(&TestId) -> bool,
    ) -> Self {
        let failed = differences.iter().filter(|d| {
            matches!(d.state, TestState::StillFailing | TestState::NewlyPassing)
                && !is_known(&d.test)
        });
        let names = failed.map(|d| d.old_name.clone().unwrap_or_else(|| d.test.clone()));
        Self::of_tests(names.collect(), policy)
    }

    /// A plan for tests that failed on a revision that is compared with nothing.
    pub fn of_tests(tests: BTreeSet<TestId>, policy: FlakyPolicy) -> Self {
        Self {
            tests,
            reruns: policy.reruns,
            round: 0,
            is_stuck: false,
        }
    }
}

impl RerunPlan for BasePlan {
    fn next(&mut self, seen: SeenTests<'_>, is_over: bool) -> Option<RerunRequest> {
        let is_open = |test: &&TestId| {
            let seen = seen.base.tests.get(*test);
            seen.is_some_and(|seen| {
                !seen.counts.is_mixed() && seen.counts.total() <= demanded(seen, self.reruns)
            })
        };
        let open: BTreeSet<TestId> = self.tests.iter().filter(is_open).cloned().collect();
        if open.is_empty() || is_over || self.is_stuck {
            return None;
        }
        self.round += 1;
        Some(RerunRequest {
            tests: open.len(),
            candidate: BTreeSet::new(),
            base: open,
            base_first: true,
            round: self.round,
            purpose: Purpose::Rerun,
        })
    }

    fn ran(&mut self, ran: RanRevisions) {
        self.is_stuck = !ran.base;
    }
}

/// How many reruns of a test are demanded before it is judged.
fn demanded(seen: &Expected, reruns: u32) -> u32 {
    if seen.timed_out {
        TIME_OUT_RERUNS
    } else {
        reruns
    }
}

/// A test that fails on the candidate.
#[derive(Clone, Debug)]
struct Suspect {
    test: TestId,
    /// What the base calls it.
    old: TestId,
    /// Whether its body is another one.
    is_changed: bool,
    /// Whether it did both in one place before.
    was_flaky: bool,
}

/// Runs tests that fail on the candidate again on both revisions, until each is judged or the
/// reruns are used up.
#[derive(Debug)]
pub struct FailurePlan {
    suspects: Vec<Suspect>,
    policy: FlakyPolicy,
    round: u32,
    can_run_base: bool,
    is_stuck: bool,
    judged: BTreeMap<TestId, RerunResult>,
}

impl FailurePlan {
    /// A plan for the new failures that `is_known` does not know.
    pub fn new(
        differences: &[Difference],
        policy: FlakyPolicy,
        ledger: &Ledger,
        is_known: impl Fn(&TestId) -> bool,
    ) -> Self {
        let changed: BTreeSet<&TestId> = differences
            .iter()
            .filter(|d| d.state == TestState::Changed)
            .map(|d| &d.test)
            .collect();
        let failing = differences
            .iter()
            .filter(|d| matches!(d.state, TestState::NewlyFailing | TestState::AddedFailing))
            .filter(|d| !is_known(&d.test));
        let suspects = failing.map(|difference| Suspect {
            test: difference.test.clone(),
            old: difference
                .old_name
                .clone()
                .unwrap_or_else(|| difference.test.clone()),
            is_changed: changed.contains(&difference.test),
            was_flaky: ledger
                .get(&difference.test)
                .is_some_and(FlakyRecord::is_flaky),
        });
        Self {
            suspects: suspects.collect(),
            policy,
            round: 0,
            can_run_base: true,
            is_stuck: false,
            judged: BTreeMap::new(),
        }
    }

    /// What was found of each test.
    pub fn results(mut self) -> BTreeMap<TestId, RerunResult> {
        for found in self.judged.values_mut() {
            if found.judgement == Judgement::Undecided {
                found.judgement = judge_last(found.candidate, found.base);
            }
        }
        self.judged
    }

    /// Judges a suspect by what was seen so far, and says whether that is sure.
    fn judge(&self, suspect: &Suspect, seen: SeenTests<'_>) -> (RerunResult, bool) {
        let after = seen.candidate.tests.get(&suspect.test);
        let counts = after.map(|seen| seen.counts).unwrap_or_default();
        let before = seen.base.tests.get(&suspect.old);
        // A test whose body changed is another test: that the old one never failed says
        // nothing about the new one being flaky.
        let is_other = suspect.is_changed && counts.is_mixed();
        let base = before
            .filter(|before| before.status() != TestStatus::Ignored && !is_other)
            .map(|before| before.counts);
        let was_flaky = suspect.was_flaky || before.is_some_and(Expected::is_contradictory);
        let (judgement, p) = judge(counts, base, was_flaky);
        let reruns = self.policy.reruns;
        let demanded = after.map_or(reruns, |seen| demanded(seen, reruns));
        let is_sure = counts.is_mixed() || counts.total() > demanded;
        let result = RerunResult {
            judgement,
            p,
            candidate: counts,
            base,
        };
        (result, is_sure && judgement != Judgement::Undecided)
    }
}

impl RerunPlan for FailurePlan {
    fn next(&mut self, seen: SeenTests<'_>, is_over: bool) -> Option<RerunRequest> {
        if self.is_stuck {
            return None;
        }
        let (mut open, mut open_base) = (BTreeSet::new(), BTreeSet::new());
        let mut judged = BTreeMap::new();
        for suspect in &self.suspects {
            let (mut found, is_sure) = self.judge(suspect, seen);
            if !is_sure {
                open.insert(suspect.test.clone());
                open_base.extend(found.base.map(|_| suspect.old.clone()));
                if is_over && self.round < self.policy.max_reruns {
                    // Too few runs are no judgement.
                    found.judgement = Judgement::Undecided;
                }
            }
            judged.insert(suspect.test.clone(), found);
        }
        self.judged = judged;
        if open.is_empty() || is_over || self.round == self.policy.max_reruns {
            return None;
        }
        if !self.can_run_base {
            open_base.clear();
        }
        self.round += 1;
        Some(RerunRequest {
            tests: open.len(),
            candidate: open,
            base: open_base,
            base_first: self.round.is_multiple_of(2),
            round: self.round,
            purpose: Purpose::Rerun,
        })
    }

    fn ran(&mut self, ran: RanRevisions) {
        self.can_run_base &= ran.base;
        self.is_stuck = !ran.candidate;
    }
}

/// Measures tests that seem slower again, the revisions in turn.
#[derive(Debug)]
pub struct DurationPlan {
    /// The tests of the candidate, with what the base calls them.
    suspects: BTreeMap<TestId, TestId>,
    wanted: usize,
    round: u32,
    is_stuck: bool,
}

impl DurationPlan {
    /// A plan for the tests that are slower.
    pub fn new(differences: &[Difference], policy: FlakyPolicy) -> Self {
        let slower = differences.iter().filter(|d| d.state == TestState::Slower);
        let suspects = slower.map(|d| {
            let old = d.old_name.clone().unwrap_or_else(|| d.test.clone());
            (d.test.clone(), old)
        });
        Self {
            suspects: suspects.collect(),
            wanted: policy.reruns as usize + 1,
            round: 0,
            is_stuck: false,
        }
    }

    /// What was found of each test.
    pub fn results(self, seen: SeenTests<'_>) -> BTreeMap<TestId, DurationRerunResult> {
        let judged = self.suspects.into_iter().map(|(new, old)| {
            let (before, after) = (durations(seen.base, &old), durations(seen.candidate, &new));
            let p = rank_test(after, before);
            let enough = before.len() >= self.wanted && after.len() >= self.wanted;
            let found = DurationRerunResult {
                slower: enough.then_some(p <= SLOW_ALPHA),
                p,
                before_ms: median(before).unwrap_or_default(),
                after_ms: median(after).unwrap_or_default(),
                runs: (before.len(), after.len()),
            };
            (new, found)
        });
        judged.collect()
    }

    fn lacking<'a>(
        &self,
        set: &TestSet,
        tests: impl Iterator<Item = &'a TestId>,
    ) -> BTreeSet<TestId> {
        let lacking = tests.filter(|test| durations(set, test).len() < self.wanted);
        lacking.cloned().collect()
    }
}

fn durations<'a>(set: &'a TestSet, test: &TestId) -> &'a [f64] {
    set.tests.get(test).map_or(&[], |seen| &seen.durations_ms)
}

impl RerunPlan for DurationPlan {
    fn next(&mut self, seen: SeenTests<'_>, is_over: bool) -> Option<RerunRequest> {
        let candidate = self.lacking(seen.candidate, self.suspects.keys());
        let base = self.lacking(seen.base, self.suspects.values());
        let is_done =
            (candidate.is_empty() && base.is_empty()) || self.round as usize == self.wanted;
        if is_done || is_over || self.is_stuck {
            return None;
        }
        self.round += 1;
        Some(RerunRequest {
            candidate,
            base,
            base_first: self.round.is_multiple_of(2),
            round: self.round,
            tests: self.suspects.len(),
            purpose: Purpose::Rerun,
        })
    }

    fn ran(&mut self, ran: RanRevisions) {
        self.is_stuck = !(ran.candidate && ran.base);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_id::TargetKind;
    use crate::test_set_diff::{SlowerRule, diff};

    fn id() -> TestId {
        TestId::new("a", TargetKind::Lib, "", "t")
    }

    fn add(set: &mut TestSet, passes: bool, duration_ms: f64) {
        let expected = set.tests.entry(id()).or_default();
        if passes {
            expected.counts.passes += 1;
            expected.durations_ms.push(duration_ms);
        } else {
            expected.counts.failures += 1;
        }
    }

    /// Follows a plan, where the run of a number (of 0, the first) passes on a revision or does
    /// not and takes its time; returns the rounds.
    fn follow(
        plan: &mut dyn RerunPlan,
        sets: &mut [TestSet; 2],
        outcome: impl Fn(usize, u32) -> (bool, f64),
        budget: u32,
    ) -> Vec<RerunRequest> {
        let mut rounds: Vec<RerunRequest> = Vec::new();
        loop {
            let seen = SeenTests {
                base: &sets[0],
                candidate: &sets[1],
            };
            let is_over = rounds.len() as u32 >= budget;
            let Some(request) = plan.next(seen, is_over) else {
                return rounds;
            };
            for (at, tests) in [&request.base, &request.candidate].into_iter().enumerate() {
                for test in tests {
                    let runs = sets[at].tests[test].counts.total();
                    let (passes, duration_ms) = outcome(at, runs);
                    add(&mut sets[at], passes, duration_ms);
                }
            }
            plan.ran(RanRevisions {
                candidate: true,
                base: true,
            });
            rounds.push(request);
        }
    }

    /// Both revisions after their first run.
    fn first(outcome: impl Fn(usize, u32) -> (bool, f64)) -> [TestSet; 2] {
        [0, 1].map(|at| {
            let mut set = TestSet::default();
            let (passes, duration_ms) = outcome(at, 0);
            add(&mut set, passes, duration_ms);
            set
        })
    }

    fn failures(outcome: impl Fn(usize, u32) -> (bool, f64), budget: u32) -> (Judgement, usize) {
        let mut sets = first(&outcome);
        let differences = diff(&sets[0], &sets[1], &SlowerRule::default());
        let policy = FlakyPolicy::default();
        let mut plan = FailurePlan::new(&differences, policy, &Ledger::default(), |_| false);
        let rounds = follow(&mut plan, &mut sets, outcome, budget);
        (plan.results()[&id()].judgement, rounds.len())
    }

    #[test]
    fn a_test_that_fails_each_time_is_broken_after_the_reruns_of_the_policy() {
        let broken = |at, _| (at == 0, 1.0);
        assert_eq!(failures(broken, u32::MAX), (Judgement::Broken, 5));
    }

    #[test]
    fn one_that_fails_on_both_revisions_was_broken_before() {
        // The base was lucky once, and that is why it was a suspect.
        let both = |at, run| (at == 0 && run == 0, 1.0);
        let (judgement, rounds) = failures(both, u32::MAX);
        assert_ne!(judgement, Judgement::Broken);
        assert!(rounds > 5, "{rounds}");
    }

    #[test]
    fn a_rare_failure_of_both_is_no_judgement_against_the_change() {
        let rare = |at, run: u32| (!(at == 1 && run == 0) && run % 7 != 6, 1.0);
        let (judgement, _) = failures(rare, u32::MAX);
        assert_eq!(judgement, Judgement::Flaky);
        let once = |at, run| (at == 0 || run > 0, 1.0);
        assert_eq!(failures(once, u32::MAX), (Judgement::ProbablyFlaky, 20));
    }

    #[test]
    fn without_time_nothing_is_judged() {
        let broken = |at, _| (at == 0, 1.0);
        assert_eq!(failures(broken, 2), (Judgement::Undecided, 2));
    }

    #[test]
    fn the_order_turns_round_and_a_base_that_cannot_run_is_not_asked_again() {
        let mut sets = first(|at, _| (at == 0, 1.0));
        let differences = diff(&sets[0], &sets[1], &SlowerRule::default());
        let policy = FlakyPolicy::default();
        let mut plan = FailurePlan::new(&differences, policy, &Ledger::default(), |_| false);
        let next = |sets: &[TestSet; 2], plan: &mut FailurePlan| {
            let seen = SeenTests {
                base: &sets[0],
                candidate: &sets[1],
            };
            plan.next(seen, false)
        };
        let one = next(&sets, &mut plan).expect("a rerun");
        assert!(!one.base_first && one.base.contains(&id()));
        plan.ran(RanRevisions {
            candidate: true,
            base: false,
        });
        add(&mut sets[1], false, 1.0);
        let two = next(&sets, &mut plan).expect("another one");
        assert!(two.base_first && two.base.is_empty());
        plan.ran(RanRevisions {
            candidate: false,
            base: true,
        });
        assert_eq!(next(&sets, &mut plan), None);
    }

    #[test]
    fn known_failures_are_not_run_again() {
        let sets = first(|at, _| (at == 0, 1.0));
        let differences = diff(&sets[0], &sets[1], &SlowerRule::default());
        let policy = FlakyPolicy::default();
        let plan = FailurePlan::new(&differences, policy, &Ledger::default(), |_| true);
        assert!(plan.results().is_empty());
    }

    #[test]
    fn a_failure_of_the_base_is_confirmed_before_it_is_believed() {
        let confirm = |outcome: fn(usize, u32) -> (bool, f64)| {
            let mut sets = first(outcome);
            let differences = diff(&sets[0], &sets[1], &SlowerRule::default());
            let mut plan = BasePlan::new(&differences, FlakyPolicy::default(), |_| false);
            let rounds = follow(&mut plan, &mut sets, outcome, u32::MAX);
            assert!(rounds.iter().all(|round| round.candidate.is_empty()));
            let differences = diff(&sets[0], &sets[1], &SlowerRule::default());
            let state = differences.first().map(|difference| difference.state);
            (rounds.len(), state)
        };
        let repaired = |at, _| (at == 1, 1.0);
        assert_eq!(confirm(repaired), (5, Some(TestState::NewlyPassing)));
        let lucky = |at, run| (at == 1 || run > 0, 1.0);
        assert_eq!(confirm(lucky), (1, None));
        // One that the base shows to be flaky may have been broken all the same.
        let hidden = |at, run| (at == 0 && run > 0, 1.0);
        assert_eq!(confirm(hidden), (1, Some(TestState::NewlyFailing)));
        let failing = |_, _| (false, 1.0);
        assert_eq!(confirm(failing), (5, Some(TestState::StillFailing)));
    }

    #[test]
    fn a_new_test_is_stressed_until_its_runs_are_used_up() {
        let passes = |_, _| (true, 1.0);
        let mut sets = [TestSet::default(), first(passes)[1].clone()];
        let differences = diff(&sets[0], &sets[1], &SlowerRule::default());
        let policy = FlakyPolicy {
            stress_runs: 9,
            ..FlakyPolicy::default()
        };
        let mut plan = StressPlan::new(&differences, policy);
        let rounds = follow(&mut plan, &mut sets, passes, u32::MAX);
        assert_eq!(rounds.len(), 8);
        assert!(rounds.iter().all(|round| round.purpose == Purpose::Stress));
        assert_eq!(sets[1].tests[&id()].counts.total(), 9);
    }

    #[test]
    fn a_slow_first_run_that_the_others_do_not_repeat_is_noise() {
        let slower = |duration: fn(usize, u32) -> f64| {
            let outcome = move |at, run| (true, duration(at, run));
            let mut sets = first(outcome);
            let differences = diff(&sets[0], &sets[1], &SlowerRule::default());
            let mut plan = DurationPlan::new(&differences, FlakyPolicy::default());
            follow(&mut plan, &mut sets, outcome, u32::MAX);
            let seen = SeenTests {
                base: &sets[0],
                candidate: &sets[1],
            };
            plan.results(seen)[&id()].slower
        };
        let always = |at, run| if at == 0 { 100.0 } else { 900.0 } + f64::from(run);
        assert_eq!(slower(always), Some(true));
        let once = |at, run| if at == 1 && run == 0 { 900.0 } else { 100.0 } + f64::from(run);
        assert_eq!(slower(once), Some(false));
    }
}
