//! What runs more than once: new tests, those that fail, and those that seem slower.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{Check, CheckError, Role};
use crate::baseline::{Expected, TestSet, TestStatus};
use crate::flaky::{FlakyRecord, Judgement, Ledger, judge, judge_last};
use crate::host::session::{Event, SessionError};
use crate::observation::Purpose;
use crate::record::counted;
use crate::rerun::{DurationRerunResult, RerunResult};
use crate::scope::Scope;
use crate::stats::{median, rank_test};
use crate::test_id::TestId;
use crate::test_set_diff::{Difference, TestState};

/// The error that a judgement "slower" accepts.
const SLOW_ALPHA: f64 = 0.01;

/// Reruns after which a test that runs into its time-out is judged: each costs the
/// whole time-out.
const TIME_OUT_RERUNS: u32 = 2;

impl Check<'_> {
    /// Runs some tests once more on a revision and adds what was seen to its tests.
    fn again(
        &mut self,
        role: Role,
        tests: &BTreeSet<TestId>,
        purpose: Purpose,
        set: &mut TestSet,
    ) -> Result<bool, CheckError> {
        if tests.is_empty() {
            return Ok(true);
        }
        let scope = Scope::Tests(tests.clone());
        let revision = role.revision(&mut self.base, &mut self.candidate);
        match self.session.run(revision, &scope, purpose, self.events) {
            Ok((run, _)) => {
                set.add(&run, &scope);
                self.keep_runs(&[run]);
                Ok(true)
            }
            // A base whose run is stored may not build any more, with another
            // system library for instance; then the answer stays open.
            Err(SessionError::Run(error)) if !error.is_interrupt() => Ok(false),
            // Where nothing can be written, the base cannot be checked out.
            Err(SessionError::Git(error)) => {
                let name = role.words(&role.revision(&mut self.base, &mut self.candidate).name());
                let note = format!("{name} cannot be run again: {error}");
                (self.events)(Event::Note(note));
                Ok(false)
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Runs tests once more on both revisions; says which revision could be run. The order
    /// turns round each time: what changes with time, or with every second run, does
    /// not fall on one revision.
    fn again_both(
        &mut self,
        round: u32,
        candidate: (&BTreeSet<TestId>, &mut TestSet),
        base: (&BTreeSet<TestId>, &mut TestSet),
    ) -> Result<(bool, bool), CheckError> {
        let base_first = round % 2 == 1;
        let mut revisions = [(Role::Candidate, candidate), (Role::Base, base)];
        if base_first {
            revisions.reverse();
        }
        let mut ran = Vec::new();
        for (role, (tests, set)) in revisions {
            ran.push(self.again(role, tests, Purpose::Rerun, set)?);
        }
        if base_first {
            ran.reverse();
        }
        Ok((ran[0], ran[1]))
    }

    /// Runs new and changed tests many times, so that a flaky one is named when
    /// it arrives.
    pub(super) fn stress(
        &mut self,
        differences: &[Difference],
        candidate: &mut TestSet,
    ) -> Result<(), CheckError> {
        let policy = self.session.policy.flaky;
        let is_new = |d: &&Difference| {
            matches!(
                d.state,
                TestState::Added | TestState::Changed | TestState::NoLongerIgnored
            )
        };
        let tests: BTreeSet<TestId> = differences
            .iter()
            .filter(is_new)
            .map(|d| d.test.clone())
            .collect();
        let started = Instant::now();
        let mut round = 0;
        loop {
            let open = tests.iter().filter(|test| {
                let counts = candidate.tests.get(*test).map(|seen| seen.counts);
                // One that also failed goes on: its rate is worth knowing.
                counts.is_some_and(|c| c.passes > 0 && c.total() < policy.stress_runs)
            });
            let open: BTreeSet<TestId> = open.cloned().collect();
            if open.is_empty() || started.elapsed() >= policy.stress_time.0 || self.is_over() {
                return Ok(());
            }
            round += 1;
            let count = open.len();
            self.step(format!(
                "stress {}, round {round}",
                counted(count, "new or changed test")
            ));
            if !self.again(Role::Candidate, &open, Purpose::Stress, candidate)? {
                return Ok(());
            }
        }
    }

    /// Runs tests that fail on the candidate again on both revisions, until each is
    /// judged or the reruns are used up.
    pub(super) fn rerun_failures(
        &mut self,
        differences: &[Difference],
        ledger: &Ledger,
        base: &mut TestSet,
        candidate: &mut TestSet,
    ) -> Result<BTreeMap<TestId, RerunResult>, CheckError> {
        let policy = self.session.policy.flaky;
        let suspects: Vec<&Difference> = differences
            .iter()
            .filter(|d| matches!(d.state, TestState::NewlyFailing | TestState::AddedFailing))
            .filter(|d| self.session.policy.known_failure(&d.test).is_none())
            .collect();
        let changed: BTreeSet<&TestId> = differences
            .iter()
            .filter(|d| d.state == TestState::Changed)
            .map(|d| &d.test)
            .collect();
        let mut judged = BTreeMap::new();
        let mut can_run_base = true;
        for round in 0..=policy.max_reruns {
            let mut open = BTreeSet::new();
            let mut open_base = BTreeSet::new();
            for suspect in &suspects {
                let test = &suspect.test;
                let old = suspect.old_name.as_ref().unwrap_or(test);
                let seen = candidate.tests.get(test);
                let counts = seen.map(|seen| seen.counts).unwrap_or_default();
                let before = base
                    .tests
                    .get(old)
                    .filter(|e| e.status() != TestStatus::Ignored);
                // A test whose body changed is another test: that the old one
                // never failed says nothing about the new one being flaky.
                let is_other = changed.contains(test) && counts.is_mixed();
                let before = before.map(|e| e.counts).filter(|_| !is_other);
                let known = ledger.get(test).is_some_and(FlakyRecord::is_flaky)
                    || base.tests.get(old).is_some_and(Expected::is_contradictory);
                let (judgement, p) = judge(counts, before, known);
                let timed_out = seen.is_some_and(|seen| seen.timed_out);
                let demanded = if timed_out {
                    TIME_OUT_RERUNS
                } else {
                    policy.reruns
                };
                let is_sure = counts.is_mixed() || counts.total() > demanded;
                if judgement == Judgement::Undecided || !is_sure {
                    open.insert(test.clone());
                    open_base.extend(before.map(|_| old.clone()));
                }
                let found = RerunResult {
                    judgement,
                    p,
                    candidate: counts,
                    base: before,
                };
                judged.insert(test.clone(), found);
            }
            if open.is_empty() || round == policy.max_reruns {
                break;
            }
            if self.is_over() {
                // Too few runs are no judgement.
                for test in &open {
                    judged
                        .entry(test.clone())
                        .and_modify(|j: &mut RerunResult| j.judgement = Judgement::Undecided);
                }
                break;
            }
            let count = open.len();
            self.step(format!(
                "rerun {} on both revisions, round {}",
                counted(count, "failing test"),
                round + 1
            ));
            if !can_run_base {
                open_base.clear();
            }
            let ran = self.again_both(round, (&open, candidate), (&open_base, base))?;
            can_run_base &= ran.1;
            if !ran.0 {
                break;
            }
        }
        for found in judged.values_mut() {
            if found.judgement == Judgement::Undecided {
                found.judgement = judge_last(found.candidate, found.base);
            }
        }
        Ok(judged)
    }

    /// Measures tests that seem slower again, the revisions in turn.
    pub(super) fn rerun_slow(
        &mut self,
        differences: &[Difference],
        base: &mut TestSet,
        candidate: &mut TestSet,
    ) -> Result<BTreeMap<TestId, DurationRerunResult>, CheckError> {
        let wanted = self.session.policy.flaky.reruns as usize + 1;
        let suspects = differences.iter().filter(|d| d.state == TestState::Slower);
        let suspects: BTreeMap<TestId, TestId> = suspects
            .map(|d| {
                (
                    d.test.clone(),
                    d.old_name.clone().unwrap_or_else(|| d.test.clone()),
                )
            })
            .collect();
        let durations = |set: &TestSet, test: &TestId| {
            set.tests
                .get(test)
                .map(|seen| seen.durations_ms.clone())
                .unwrap_or_default()
        };
        for round in 0..wanted as u32 {
            let lacking = |set: &TestSet, test: &TestId| durations(set, test).len() < wanted;
            let open: BTreeSet<TestId> = suspects
                .keys()
                .filter(|new| lacking(candidate, new))
                .cloned()
                .collect();
            let open_base: BTreeSet<TestId> = suspects
                .values()
                .filter(|old| lacking(base, old))
                .cloned()
                .collect();
            if (open.is_empty() && open_base.is_empty()) || self.is_over() {
                break;
            }
            let count = suspects.len();
            self.step(format!(
                "time {} on both revisions, round {}",
                counted(count, "slow test"),
                round + 1
            ));
            let ran = self.again_both(round, (&open, candidate), (&open_base, base))?;
            if ran != (true, true) {
                break;
            }
        }
        let judged = suspects.into_iter().map(|(new, old)| {
            let (before, after) = (durations(base, &old), durations(candidate, &new));
            let p = rank_test(&after, &before);
            let enough = before.len() >= wanted && after.len() >= wanted;
            let judged = DurationRerunResult {
                slower: enough.then_some(p <= SLOW_ALPHA),
                p,
                before_ms: median(&before).unwrap_or_default(),
                after_ms: median(&after).unwrap_or_default(),
                runs: (before.len(), after.len()),
            };
            (new, judged)
        });
        Ok(judged.collect())
    }
}
