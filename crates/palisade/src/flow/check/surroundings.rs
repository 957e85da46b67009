//! Looks whether a test differs because the candidate is in the user's files and the base in a
//! checkout: the candidate's own tree is run in a checkout, too.

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, CheckError};
use crate::baseline::TestSet;
use crate::finding::NotComparable;
use crate::host::session::SessionError;
use crate::observation::{Purpose, Run};
use crate::record::counted;
use crate::rerun::RerunResult;
use crate::scope::Scope;
use crate::surroundings::{by_surroundings, is_open, suspects};
use crate::test_id::TestId;
use crate::test_set_diff::Difference;

impl Check<'_> {
    /// Whether the revisions are not in like surroundings.
    pub(super) fn is_apart(&self) -> bool {
        self.candidate.in_place && !self.base.in_place && !self.same
    }

    /// The differences that come from where the tests ran.
    pub(super) fn differences_by_place(
        &mut self,
        differences: &[Difference],
        judged: &BTreeMap<TestId, RerunResult>,
        candidate: &TestSet,
    ) -> Result<BTreeMap<TestId, NotComparable>, CheckError> {
        if !self.is_apart() || differences.is_empty() {
            return Ok(BTreeMap::new());
        }
        let has_ignored_files = self.session.has_ignored_files()?;
        let policy = &self.session.policy;
        let mut suspects = suspects(differences, judged, has_ignored_files);
        suspects.retain(|test| policy.known_failure(test).is_none());
        if suspects.is_empty() {
            return Ok(BTreeMap::new());
        }
        let runs = policy.flaky.reruns;
        let all = Scope::Tests(suspects.iter().cloned().collect());
        let known = self.session.known(&mut self.candidate, &all)?.runs;
        let of_place = |checkout: bool| {
            let of_place = known.iter().filter(|run| run.subject.checkout == checkout);
            TestSet::of_runs(of_place, &all)
        };
        let mut here = of_place(false);
        if here.tests.is_empty() {
            here = candidate.clone();
        }
        let mut there = of_place(true);
        self.run_elsewhere(&suspects, &here, &mut there, runs)?;
        let of_suspect = |difference: &Difference| {
            let mut difference = difference.clone();
            difference.after = here.tests.get(&difference.test).cloned();
            let seen = by_surroundings(&difference, &there, runs)?;
            Some((difference.test, seen))
        };
        let differences = differences.iter().filter(|d| suspects.contains(&d.test));
        Ok(differences.filter_map(of_suspect).collect())
    }

    /// Runs tests of the candidate in a checkout until that says enough. A candidate that cannot
    /// be checked out or built there says nothing.
    fn run_elsewhere(
        &mut self,
        suspects: &[TestId],
        here: &TestSet,
        there: &mut TestSet,
        runs: u32,
    ) -> Result<(), CheckError> {
        let mut revision = self.candidate.in_checkout();
        for round in 1..=runs {
            let open = suspects.iter().filter(|t| is_open(t, here, there, runs));
            let open: BTreeSet<TestId> = open.cloned().collect();
            if open.is_empty() || self.is_over() {
                return Ok(());
            }
            let tests = counted(open.len(), "test");
            self.step(format!(
                "run {tests} in a checkout of the candidate, round {round}"
            ));
            let scope = Scope::Tests(open);
            let ran: Result<(Run, _), _> =
                self.session
                    .run(&mut revision, &scope, Purpose::Rerun, self.events);
            match ran {
                Ok((run, _)) => {
                    there.add(&run, &scope);
                    self.keep_runs(&[run]);
                }
                Err(SessionError::Run(error)) if !error.is_interrupt() => return Ok(()),
                Err(SessionError::Git(_)) => return Ok(()),
                Err(other) => return Err(other.into()),
            }
        }
        Ok(())
    }
}
