//! What the tests of both revisions do to the verdict.

use std::collections::BTreeMap;

use crate::baseline::Tally;
use crate::finding::{
    Acceptance, Cause, Failure, FailureCause, Finding, FindingSubject, NotComparable, Severity,
};
use crate::flaky::{Judgement, Ledger, failures_to_blame};
use crate::policy::Policy;
use crate::rerun::{DurationRerunResult, RerunResult};
use crate::test_id::TestId;
use crate::test_set_diff::{Difference, TestState};

/// All that the findings about tests are made from.
#[derive(Clone, Copy)]
pub struct TestEvidence<'a> {
    /// The tests that differ.
    pub differences: &'a [Difference],
    /// What repeated runs said about failures.
    pub judged: &'a BTreeMap<TestId, RerunResult>,
    /// What repeated runs said about durations.
    pub slow: &'a BTreeMap<TestId, DurationRerunResult>,
    /// The tests that differ because of where they ran.
    pub places: &'a BTreeMap<TestId, NotComparable>,
    /// The base's tests by state.
    pub before: Tally,
    /// The candidate's tests by state.
    pub after: Tally,
    /// The failing tests of the candidate that the policy knows.
    pub known: usize,
    /// Whether every test of the candidate was seen. If not, a test without an
    /// outcome may just not have been reached.
    pub complete: bool,
    /// The policy.
    pub policy: &'a Policy,
    /// What is known about flaky tests.
    pub ledger: &'a Ledger,
    /// Whether each revision was seen once, and nothing was run again.
    pub single_runs: bool,
}

/// The findings about the tests, worst first.
pub fn judge_tests(evidence: &TestEvidence<'_>) -> Vec<Finding> {
    let differences = evidence.differences.iter();
    let mut findings: Vec<Finding> = differences.filter_map(|d| of_test(evidence, d)).collect();
    findings.extend(success_rate(evidence));
    findings.sort_by_key(|finding| finding.severity);
    findings
}

fn of_test(evidence: &TestEvidence<'_>, difference: &Difference) -> Option<Finding> {
    let test = &difference.test;
    let after = difference.after.as_ref();
    let (cause, severity) = match difference.state {
        TestState::NewlyFailing | TestState::StillFailing | TestState::NewlyPassing
            if evidence.places.contains_key(test) =>
        {
            let seen = evidence.places[test];
            let severity = if seen.is_open() {
                Severity::Unmeasured
            } else {
                Severity::Note
            };
            (Cause::NotComparable(seen), severity)
        }
        TestState::NewlyFailing | TestState::AddedFailing | TestState::StillFailing => {
            let failure = failure(evidence, difference);
            let severity = severity(&failure.taken_for);
            (Cause::Failing(failure), severity)
        }
        TestState::Missing if !evidence.complete => return None,
        TestState::Missing => {
            let before = difference.before.as_ref();
            let was_failing = before.is_some_and(|before| before.counts.failures > 0);
            (Cause::Missing { was_failing }, Severity::Regression)
        }
        TestState::NewlyIgnored => (Cause::NewlyIgnored, Severity::Regression),
        TestState::Slower => {
            let judged = *evidence.slow.get(test)?;
            let severity = match judged.slower {
                Some(true) => Severity::Regression,
                // A slow first run that the others do not repeat is noise.
                Some(false) => return None,
                None => Severity::Undecided,
            };
            (Cause::Slower(judged), severity)
        }
        TestState::NewlyPassing => {
            let is_known_failure = evidence.policy.known_failure(test).is_some();
            (Cause::NewlyPassing { is_known_failure }, Severity::Note)
        }
        TestState::Renamed => {
            let from = difference.old_name.clone()?;
            (Cause::Renamed { from }, Severity::Note)
        }
        TestState::NoLongerIgnored => (Cause::NoLongerIgnored, Severity::Note),
        state @ (TestState::Added | TestState::Changed) => {
            let counts = after.map(|after| after.counts).unwrap_or_default();
            // What failed, too, is told as that.
            if counts.passes == 0 || counts.failures > 0 {
                return None;
            }
            let runs = counts.passes;
            (Cause::New { state, runs }, Severity::Note)
        }
    };
    let accepted = evidence.policy.accepted(test, difference.state);
    let accepted = accepted.filter(|_| {
        matches!(
            cause,
            Cause::Missing { .. } | Cause::NewlyIgnored | Cause::Slower(_)
        )
    });
    Some(Finding {
        severity: if accepted.is_some() {
            Severity::Note
        } else {
            severity
        },
        accepted: accepted.map(|accepted| Acceptance {
            owner: accepted.owner.clone(),
            reason: accepted.reason.clone(),
        }),
        output: after.and_then(|after| after.message.clone()),
        ..Finding::new(FindingSubject::Test(test.clone()), cause, severity)
    })
}

/// What was seen of a test that fails on the candidate, and what it is taken for.
fn failure(evidence: &TestEvidence<'_>, difference: &Difference) -> Failure {
    let after = difference.after.clone().unwrap_or_default();
    let rerun = evidence.judged.get(&difference.test).copied();
    Failure {
        state: difference.state,
        timed_out: after.timed_out,
        counts: rerun.map_or(after.counts, |rerun| rerun.candidate),
        base: difference.before.as_ref().map(|before| before.counts),
        taken_for: taken_for(evidence, difference, rerun),
        rerun,
        single_runs: evidence.single_runs,
    }
}

fn taken_for(
    evidence: &TestEvidence<'_>,
    difference: &Difference,
    rerun: Option<RerunResult>,
) -> FailureCause {
    let test = &difference.test;
    if let Some(known) = evidence.policy.known_failure(test) {
        return FailureCause::Known {
            owner: known.owner.clone(),
            reason: known.reason.clone(),
        };
    }
    let Some(rerun) = rerun else {
        return if difference.state == TestState::StillFailing {
            FailureCause::BrokenBefore
        } else {
            FailureCause::Undecided
        };
    };
    match (rerun.judgement, evidence.ledger.quarantine(test)) {
        (Judgement::Broken, _) => FailureCause::Broken,
        (Judgement::MadeFlaky, _) => FailureCause::MadeFlaky,
        (Judgement::BrokenBefore, _) => FailureCause::BrokenBefore,
        (Judgement::Flaky | Judgement::ProbablyFlaky | Judgement::Undecided, Some(quarantine)) => {
            FailureCause::Quarantined {
                owner: quarantine.owner.clone(),
                reason: quarantine.reason.clone(),
            }
        }
        (Judgement::Flaky, None) => FailureCause::Flaky,
        (Judgement::ProbablyFlaky, None) => {
            let before = rerun.base.unwrap_or_default();
            FailureCause::ProbablyFlaky {
                failures_to_blame: failures_to_blame(rerun.candidate.total(), before),
            }
        }
        (Judgement::Undecided, None) => FailureCause::Undecided,
    }
}

fn severity(taken_for: &FailureCause) -> Severity {
    match taken_for {
        FailureCause::Broken | FailureCause::MadeFlaky => Severity::Regression,
        FailureCause::Undecided => Severity::Undecided,
        FailureCause::Known { .. }
        | FailureCause::Quarantined { .. }
        | FailureCause::Flaky
        | FailureCause::ProbablyFlaky { .. }
        | FailureCause::BrokenBefore => Severity::Note,
    }
}

fn success_rate(evidence: &TestEvidence<'_>) -> Option<Finding> {
    let minimum = evidence.policy.min_success_rate;
    let rate = evidence.after.guarded_rate(evidence.known)?;
    if rate >= minimum {
        return None;
    }
    let failing = evidence.after.failing;
    let cause = Cause::BelowMinimum {
        unknown: failing - evidence.known.min(failing),
        ran: evidence.after.ran(),
        rate,
        minimum,
        before: evidence.before.success_rate(),
    };
    let subject = FindingSubject::SuccessRate;
    Some(Finding::new(subject, cause, Severity::Regression))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::baseline::{Expected, TestSet};
    use crate::stats::Counts;
    use crate::test_id::TargetKind;
    use crate::test_set_diff::{SlowerRule, diff};
    use crate::verdict::Verdict;

    fn id(n: usize) -> TestId {
        TestId::new("a", TargetKind::Lib, "", &format!("t{n:03}"))
    }

    /// `total` tests of which the first `failing` fail.
    fn set(total: usize, failing: usize) -> TestSet {
        let tests = (0..total).map(|n| {
            let failed = u32::from(n < failing);
            let counts = Counts {
                failures: failed,
                passes: 1 - failed,
            };
            let expected = Expected {
                counts,
                ..Expected::default()
            };
            (id(n), expected)
        });
        TestSet {
            tests: tests.collect(),
        }
    }

    fn policy_with_known(count: usize) -> Policy {
        let mut text = String::new();
        for n in 0..count {
            let _ = write!(
                text,
                "[[known_failure]]\ntest = \"{}\"\nowner = \"ada\"\nreason = \"upstream\"\n",
                id(n)
            );
        }
        Policy::parse(&text, std::path::Path::new("palisade.toml")).expect("valid")
    }

    fn verdict(
        base: &TestSet,
        candidate: &TestSet,
        policy: &Policy,
        judgement: Judgement,
    ) -> (Verdict, Vec<Finding>) {
        let differences = diff(base, candidate, &SlowerRule::default());
        let judged = differences
            .iter()
            .filter(|d| d.state == TestState::NewlyFailing)
            .map(|d| {
                let judged = RerunResult {
                    judgement,
                    p: 0.004,
                    candidate: Counts {
                        failures: 6,
                        passes: 0,
                    },
                    base: Some(Counts {
                        failures: 0,
                        passes: 6,
                    }),
                };
                (d.test.clone(), judged)
            })
            .collect();
        let known = candidate
            .tests
            .iter()
            .filter(|(test, e)| e.counts.failures > 0 && policy.known_failure(test).is_some())
            .count();
        let findings = judge_tests(&TestEvidence {
            differences: &differences,
            judged: &judged,
            slow: &BTreeMap::new(),
            places: &BTreeMap::new(),
            before: base.tally(),
            after: candidate.tally(),
            known,
            complete: true,
            policy,
            ledger: &Ledger::default(),
            single_runs: false,
        });
        (Verdict::of(&findings), findings)
    }

    #[test]
    fn eight_known_failures_hold_and_a_ninth_does_not() {
        let policy = policy_with_known(8);
        let base = set(960, 8);
        let (held, findings) = verdict(&base, &set(960, 8), &policy, Judgement::Broken);
        assert_eq!(held, Verdict::Pass);
        assert_eq!(findings.len(), 8);
        let is_known = |finding: &Finding| match &finding.cause {
            Cause::Failing(failure) => {
                matches!(&failure.taken_for, FailureCause::Known { owner, .. } if owner == "ada")
            }
            _ => false,
        };
        assert!(findings.iter().all(is_known));
        let (ninth, findings) = verdict(&base, &set(960, 9), &policy, Judgement::Broken);
        assert_eq!(ninth, Verdict::Regression);
        assert_eq!(findings[0].subject, FindingSubject::Test(id(8)));
        let rate = set(960, 9).tally().success_rate().expect("tests ran");
        assert!(rate > 99.0, "{rate}");
    }

    #[test]
    fn what_differs_by_place_is_neither_broken_nor_repaired() {
        let counts = |failures, passes| Counts { failures, passes };
        let (fails, passes) = (counts(3, 0), counts(0, 3));
        for (before, after, in_files, in_checkout, expected) in [
            (1, 0, passes, fails, Verdict::Pass),
            (0, 1, fails, passes, Verdict::Pass),
            (1, 1, fails, fails, Verdict::Incomparable),
        ] {
            let (base, candidate) = (set(300, before), set(300, after));
            let seen = NotComparable {
                in_files,
                in_checkout,
                base: fails,
            };
            let findings = judge_tests(&TestEvidence {
                differences: &diff(&base, &candidate, &SlowerRule::default()),
                judged: &BTreeMap::new(),
                slow: &BTreeMap::new(),
                places: &[(id(0), seen)].into(),
                before: base.tally(),
                after: candidate.tally(),
                known: 0,
                complete: true,
                policy: &Policy::default(),
                ledger: &Ledger::default(),
                single_runs: false,
            });
            assert_eq!(Verdict::of(&findings), expected);
            assert_eq!(findings[0].cause, Cause::NotComparable(seen));
        }
    }

    #[test]
    fn deleting_a_failing_test_is_a_regression() {
        let base = set(10, 1);
        let mut candidate = set(10, 1);
        candidate.tests.remove(&id(0));
        let (found, findings) = verdict(&base, &candidate, &Policy::default(), Judgement::Broken);
        assert_eq!(found, Verdict::Regression);
        assert_eq!(findings[0].cause, Cause::Missing { was_failing: true });
    }

    #[test]
    fn a_low_rate_is_a_regression_of_its_own() {
        let both = set(10, 1);
        let (found, findings) = verdict(&both, &both, &Policy::default(), Judgement::Broken);
        assert_eq!(found, Verdict::Regression);
        assert!(matches!(findings[0].cause, Cause::BelowMinimum { .. }));
        assert!(matches!(
            &findings[1].cause,
            Cause::Failing(failure) if failure.taken_for == FailureCause::BrokenBefore
        ));
        let (found, _) = verdict(&both, &both, &policy_with_known(1), Judgement::Broken);
        assert_eq!(found, Verdict::Pass);
    }

    #[test]
    fn judgements_decide_a_new_failure() {
        let (base, candidate) = (set(960, 0), set(960, 1));
        let policy = Policy::default();
        for (judgement, expected) in [
            (Judgement::Broken, Verdict::Regression),
            (Judgement::MadeFlaky, Verdict::Regression),
            (Judgement::Flaky, Verdict::Pass),
            (Judgement::BrokenBefore, Verdict::Pass),
            (Judgement::ProbablyFlaky, Verdict::Pass),
            (Judgement::Undecided, Verdict::Inconclusive),
        ] {
            let (found, _) = verdict(&base, &candidate, &policy, judgement);
            assert_eq!(found, expected, "{judgement:?}");
        }
    }

    #[test]
    fn a_changed_test_that_fails_did_not_pass_so_often() {
        let mut base = set(3, 0);
        let mut candidate = set(3, 1);
        for (set, body) in [(&mut base, "old"), (&mut candidate, "new")] {
            for expected in set.tests.values_mut() {
                expected.body = Some(body.to_owned());
            }
        }
        let policy = Policy::default();
        let (_, findings) = verdict(&base, &candidate, &policy, Judgement::Broken);
        let is_new = |finding: &&Finding| matches!(finding.cause, Cause::New { .. });
        let new: Vec<_> = findings.iter().filter(is_new).map(|f| &f.subject).collect();
        let expected = [id(1), id(2)].map(FindingSubject::Test);
        assert_eq!(new, expected.iter().collect::<Vec<_>>());
    }

    #[test]
    fn what_is_accepted_is_a_note() {
        let base = set(3, 0);
        let mut candidate = set(3, 0);
        candidate.tests.remove(&id(0));
        let text = format!(
            "[[accepted]]\ntest = \"{}\"\nstate = \"missing\"\nowner = \"ada\"\nreason = \"gone\"",
            id(0)
        );
        let policy = Policy::parse(&text, std::path::Path::new("p")).expect("valid");
        let (found, findings) = verdict(&base, &candidate, &policy, Judgement::Broken);
        assert_eq!(found, Verdict::Pass);
        let accepted = findings[0].accepted.as_ref();
        assert_eq!(
            accepted.map(|accepted| accepted.owner.as_str()),
            Some("ada")
        );
    }

    #[test]
    fn the_worst_effect_decides() {
        let (_, findings) = verdict(
            &set(9, 0),
            &set(8, 0),
            &Policy::default(),
            Judgement::Undecided,
        );
        let with = |severity| Finding {
            severity,
            ..findings[0].clone()
        };
        let of = |severities: &[Severity]| {
            Verdict::of(
                &severities
                    .iter()
                    .map(|severity| with(*severity))
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(of(&[]), Verdict::Pass);
        assert_eq!(of(&[Severity::Note]), Verdict::Pass);
        assert_eq!(
            of(&[Severity::Undecided, Severity::Note]),
            Verdict::Inconclusive
        );
        assert_eq!(
            of(&[Severity::Undecided, Severity::Unmeasured]),
            Verdict::Incomparable
        );
        assert_eq!(
            of(&[Severity::Unmeasured, Severity::Regression]),
            Verdict::Regression
        );
    }
}
