//! Runs again what the plans of the judge ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{Check, CheckError, Role};
use crate::baseline::TestSet;
use crate::flaky::Ledger;
use crate::host::session::{Event, SessionError};
use crate::observation::Purpose;
use crate::record::counted;
use crate::rerun::{
    BasePlan, DurationPlan, DurationRerunResult, FailurePlan, RanRevisions, RerunPlan, RerunResult,
    SeenTests, StressPlan,
};
use crate::scope::Scope;
use crate::test_id::TestId;
use crate::test_set_diff::Difference;

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

    /// Runs what a plan asks for, and adds what is seen to the tests, until it asks for nothing
    /// more or the time is over.
    fn follow(
        &mut self,
        plan: &mut dyn RerunPlan,
        deadline: Option<Instant>,
        what: &str,
        [base, candidate]: [&mut TestSet; 2],
    ) -> Result<(), CheckError> {
        loop {
            let seen = SeenTests { base, candidate };
            let is_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            let Some(request) = plan.next(seen, is_over || self.is_over()) else {
                return Ok(());
            };
            let tests = counted(request.tests, what);
            let round = request.round;
            self.step(match request.purpose {
                Purpose::Stress => format!("stress {tests}, round {round}"),
                _ => format!("run {tests} again, round {round}"),
            });
            let purpose = request.purpose;
            let mut can = RanRevisions {
                candidate: true,
                base: true,
            };
            let order = if request.base_first {
                [Role::Base, Role::Candidate]
            } else {
                [Role::Candidate, Role::Base]
            };
            for role in order {
                match role {
                    Role::Base => can.base = self.again(role, &request.base, purpose, base)?,
                    Role::Candidate => {
                        can.candidate = self.again(role, &request.candidate, purpose, candidate)?;
                    }
                }
            }
            plan.ran(can);
        }
    }

    /// Runs new and changed tests many times.
    pub(super) fn stress(
        &mut self,
        differences: &[Difference],
        base: &mut TestSet,
        candidate: &mut TestSet,
    ) -> Result<(), CheckError> {
        let policy = self.session.policy.flaky;
        let deadline = Instant::now() + policy.stress_time.0;
        let mut plan = StressPlan::new(differences, policy);
        let what = "new or changed test";
        self.follow(&mut plan, Some(deadline), what, [base, candidate])
    }

    /// Runs tests that fail on the base again there.
    pub(super) fn confirm_base(
        &mut self,
        differences: &[Difference],
        base: &mut TestSet,
        candidate: &mut TestSet,
    ) -> Result<(), CheckError> {
        // Both are the same runs.
        if self.same {
            return Ok(());
        }
        let policy = &self.session.policy;
        let is_known = |test: &TestId| policy.known_failure(test).is_some();
        let mut plan = BasePlan::new(differences, policy.flaky, is_known);
        self.follow(
            &mut plan,
            None,
            "failing test of the base",
            [base, candidate],
        )
    }

    /// Runs tests that fail on the candidate again on both revisions.
    pub(super) fn rerun_failures(
        &mut self,
        differences: &[Difference],
        ledger: &Ledger,
        base: &mut TestSet,
        candidate: &mut TestSet,
    ) -> Result<BTreeMap<TestId, RerunResult>, CheckError> {
        let policy = &self.session.policy;
        let is_known = |test: &TestId| policy.known_failure(test).is_some();
        let mut plan = FailurePlan::new(differences, policy.flaky, ledger, is_known);
        self.follow(&mut plan, None, "failing test", [base, candidate])?;
        Ok(plan.results())
    }

    /// Measures tests that seem slower again.
    pub(super) fn rerun_slow(
        &mut self,
        differences: &[Difference],
        base: &mut TestSet,
        candidate: &mut TestSet,
    ) -> Result<BTreeMap<TestId, DurationRerunResult>, CheckError> {
        let mut plan = DurationPlan::new(differences, self.session.policy.flaky);
        self.follow(&mut plan, None, "slow test", [base, candidate])?;
        Ok(plan.results(SeenTests { base, candidate }))
    }
}
