//! What decisions about speed and memory do to the verdict.

use std::collections::BTreeSet;

use crate::coverage::{Aspect, Coverage, LeftOutReason};
use crate::finding::{Cause, Finding, FindingSubject, RoughComparisons, Severity, SpeedGap};
use crate::speed::{
    BenchmarkResult, BenchmarkState, BoundState, Decision, Measure, NamedBound, RegressionAction,
    SpeedReport,
};

/// Benchmarks that stand alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnpairedBenchmarks {
    /// Those that only the base has.
    pub gone: Vec<String>,
    /// Those that only the candidate has.
    pub added: Vec<String>,
    /// Targets of which the benchmarks are not known, and why.
    pub failed: Vec<(String, String)>,
}

/// Benchmarks that were not launched, and need no other word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnlaunchedBenchmarks {
    /// How many run the same program on both revisions.
    pub equal: usize,
    /// For how many there was no time.
    pub out_of_time: usize,
}

/// How many open measurements are told one by one.
const FEW_OPEN: usize = 3;

/// The findings about what was measured. What is open and not suspicious is one finding where
/// it is much, and undecides the verdict only where it had no time for a first look, or is at
/// least half of all.
pub fn judge_speed(report: &SpeedReport, unpaired: &UnpairedBenchmarks) -> Vec<Finding> {
    let mut findings = findings_one_by_one(report, unpaired);
    let rough = rough_comparisons(report);
    let is_mostly_open = 2 * (rough.noisy + rough.unseen) >= rough.all;
    let is_summed = rough.noisy + rough.unseen > FEW_OPEN;
    findings.retain_mut(|finding| {
        let open = match &finding.cause {
            Cause::Compared(decision) if is_open(decision) => decision,
            _ => return true,
        };
        if open.has_first_look() && !is_mostly_open {
            finding.severity = Severity::Note;
        }
        !is_summed
    });
    if is_summed || rough.equivalent > 0 {
        let is_undecided = is_summed && (rough.unseen > 0 || is_mostly_open);
        let severity = if is_undecided {
            Severity::Undecided
        } else {
            Severity::Note
        };
        let cause = Cause::ComparedRoughly(rough);
        findings.push(Finding::new(FindingSubject::Benchmarks, cause, severity));
    }
    findings
}

/// Whether nothing is known of a measurement, and nothing speaks against it either.
fn is_open(decision: &Decision) -> bool {
    decision.state == BenchmarkState::Inconclusive
        && decision.measure != Measure::Instructions
        && decision.reached_margin.is_none()
        && !decision.is_suspicious()
}

fn rough_comparisons(report: &SpeedReport) -> RoughComparisons {
    let mut rough = RoughComparisons::default();
    for result in &report.benchmarks {
        let decision = &result.decision;
        rough.all += usize::from(decision.measure != Measure::Instructions);
        if is_open(decision) {
            let count = if decision.has_first_look() {
                &mut rough.noisy
            } else {
                &mut rough.unseen
            };
            *count += 1;
        } else if let Some(margin) = decision
            .reached_margin
            .filter(|_| !decision.is_suspicious())
        {
            rough.equivalent += 1;
            rough.widest = rough.widest.max(margin);
        }
    }
    rough
}

/// The findings about what was measured, each for itself.
fn findings_one_by_one(report: &SpeedReport, unpaired: &UnpairedBenchmarks) -> Vec<Finding> {
    let mut findings: Vec<Finding> = report.benchmarks.iter().filter_map(of_result).collect();
    findings.extend(report.bounds.iter().filter_map(of_bound));
    let finding = |name: &str, cause, severity| {
        let name = name.to_owned();
        let subject = FindingSubject::Benchmark {
            name,
            measure: None,
        };
        Finding::new(subject, cause, severity)
    };
    for name in &unpaired.gone {
        findings.push(finding(name, Cause::BenchmarkGone, Severity::Unmeasured));
    }
    for name in &unpaired.added {
        findings.push(finding(name, Cause::BenchmarkAdded, Severity::Note));
    }
    for (place, why) in &unpaired.failed {
        let why = why.clone();
        findings.push(finding(
            place,
            Cause::NotListed { why },
            Severity::Unmeasured,
        ));
    }
    let is_told = findings.iter().any(|f| f.severity == Severity::Unmeasured);
    if report.benchmarks.is_empty() && !is_told {
        let cause = Cause::NotMeasured(SpeedGap::NoneOnBoth);
        let subject = FindingSubject::Benchmarks;
        findings.push(Finding::new(subject, cause, Severity::Unmeasured));
    }
    findings
}

/// The findings about what was measured because the change could reach it, and nobody asked
/// for it; but for those benchmarks that `is_asked_for`. A regression counts the same. What is
/// open says nothing against the change, and what cannot be compared is a note; `coverage` says
/// how much that is.
pub fn judge_speed_by_default(
    report: &SpeedReport,
    unpaired: &UnpairedBenchmarks,
    unlaunched: UnlaunchedBenchmarks,
    is_asked_for: &dyn Fn(&str) -> bool,
    coverage: &mut Coverage,
) -> Vec<Finding> {
    // A counter is no clock.
    let is_measured = |r: &&BenchmarkResult| r.decision.measure != Measure::Instructions;
    let measured = report.benchmarks.iter().filter(is_measured);
    let mut names: BTreeSet<&str> = measured.clone().map(|r| r.benchmark.as_str()).collect();
    let failed = unpaired.failed.iter().map(|(place, _)| place);
    names.extend(unpaired.gone.iter().chain(failed).map(String::as_str));
    let all = names.len() + unlaunched.equal + unlaunched.out_of_time;
    let mut compared = measured.map(|r| r.decision.state != BenchmarkState::Incomparable);
    if unlaunched.equal > 0 || compared.any(|is_compared| is_compared) {
        coverage.looked_at.insert(Aspect::Speed);
    } else if all == 0 {
        coverage.leave_out(Aspect::Speed, LeftOutReason::NoBenchmark);
    }
    let (mut open, mut apart) = (BTreeSet::new(), BTreeSet::new());
    let mut findings = findings_one_by_one(report, unpaired);
    findings.retain_mut(|finding| {
        let (FindingSubject::Benchmark { name, .. } | FindingSubject::Bound { name, .. }) =
            &finding.subject
        else {
            // That there is nothing to compare is what the coverage says.
            return false;
        };
        if is_asked_for(name) {
            return true;
        }
        match (&finding.cause, finding.severity) {
            (Cause::Compared(decision), Severity::Undecided) => {
                let is_open = decision.state == BenchmarkState::Inconclusive;
                open.extend(is_open.then(|| name.clone()));
                // An alarm that nothing confirmed is no note.
                !is_open
            }
            (_, Severity::Undecided) => false,
            (_, Severity::Unmeasured) => {
                apart.insert(name.clone());
                finding.severity = Severity::Note;
                true
            }
            _ => true,
        }
    });
    let mut left_out = |why, part| coverage.leave_out_part(Aspect::Speed, why, (part, all));
    left_out(LeftOutReason::Budget, unlaunched.out_of_time);
    left_out(LeftOutReason::Noise, open.len());
    left_out(LeftOutReason::NotComparable, apart.len());
    findings
}

fn of_result(result: &BenchmarkResult) -> Option<Finding> {
    let decision = &result.decision;
    let is_count = decision.measure == Measure::Instructions;
    let severity = match (decision.state, decision.action) {
        (BenchmarkState::Equivalent, _) => return None,
        (BenchmarkState::Improved, _) => Severity::Note,
        // Counters are never the only ground.
        (BenchmarkState::Inconclusive, _) if is_count => return None,
        (BenchmarkState::Inconclusive, _)
            if decision.reached_margin.is_some() && !decision.is_suspicious() =>
        {
            return None;
        }
        (BenchmarkState::Regressed, _) if is_count => Severity::Note,
        (BenchmarkState::Regressed, Some(RegressionAction::Block)) => Severity::Regression,
        (BenchmarkState::Regressed | BenchmarkState::Inconclusive, _) => Severity::Undecided,
        (BenchmarkState::Incomparable, _) => Severity::Unmeasured,
    };
    let subject = FindingSubject::Benchmark {
        name: result.benchmark.clone(),
        measure: Some(decision.measure),
    };
    let cause = Cause::Compared(Box::new(decision.clone()));
    Some(Finding::new(subject, cause, severity))
}

fn of_bound(bound: &NamedBound) -> Option<Finding> {
    let severity = match bound.decision.state {
        BoundState::Kept => return None,
        BoundState::Broken => Severity::Regression,
        BoundState::Inconclusive => Severity::Undecided,
        BoundState::Unrecorded => Severity::Note,
    };
    let subject = FindingSubject::Bound {
        name: bound.name.clone(),
        measure: bound.measure,
    };
    let cause = Cause::BoundMeasured(Box::new(bound.decision.clone()));
    Some(Finding::new(subject, cause, severity))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coverage::Part;
    use crate::speed::{Bound, BoundJudge, Estimate, Fingerprint, Limit};
    use crate::verdict::Verdict;

    fn report(decisions: Vec<Decision>, bounds: Vec<NamedBound>) -> SpeedReport {
        let result = |decision| BenchmarkResult {
            benchmark: "b".to_owned(),
            unchanged: false,
            decision,
        };
        SpeedReport {
            machine: Fingerprint::default(),
            benchmarks: decisions.into_iter().map(result).collect(),
            bounds,
            shift: None,
            environment: None,
            launches: 12,
            disturbed: None,
            waited: 0.0,
            calibration: None,
            notes: Vec::new(),
        }
    }

    fn verdict(decisions: Vec<Decision>, unpaired: &UnpairedBenchmarks) -> Verdict {
        Verdict::of(&judge_speed(&report(decisions, Vec::new()), unpaired))
    }

    fn decision(state: BenchmarkState, action: Option<RegressionAction>) -> Decision {
        Decision {
            state,
            action,
            ..Decision::incomparable(Measure::Time, "seen")
        }
    }

    #[test]
    fn every_state_has_its_verdict() {
        let none = UnpairedBenchmarks::default();
        for (state, action, expected) in [
            (BenchmarkState::Equivalent, None, Verdict::Pass),
            (BenchmarkState::Improved, None, Verdict::Pass),
            (
                BenchmarkState::Regressed,
                Some(RegressionAction::Block),
                Verdict::Regression,
            ),
            (
                BenchmarkState::Regressed,
                Some(RegressionAction::Warn),
                Verdict::Inconclusive,
            ),
            (BenchmarkState::Inconclusive, None, Verdict::Inconclusive),
            (BenchmarkState::Incomparable, None, Verdict::Incomparable),
        ] {
            assert_eq!(
                verdict(vec![decision(state, action)], &none),
                expected,
                "{state:?}"
            );
        }
        let counted = Decision {
            measure: Measure::Instructions,
            ..decision(BenchmarkState::Regressed, Some(RegressionAction::Warn))
        };
        assert_eq!(verdict(vec![counted], &none), Verdict::Pass);
    }

    #[test]
    fn what_is_open_and_not_suspicious_is_told_in_one_line() {
        let calm = decision(BenchmarkState::Equivalent, None);
        let open = |pairs, reached_margin, q| Decision {
            pairs,
            reached_margin,
            q: Some(q),
            estimate: Some(Estimate {
                ratio: 1.01,
                low: 0.97,
                high: 1.05,
            }),
            ..decision(BenchmarkState::Inconclusive, None)
        };
        let (within, noisy, unseen, suspicious) = (
            open(8, Some(0.031), 0.4),
            open(40, None, 0.4),
            open(4, None, 0.4),
            open(8, Some(0.031), 0.04),
        );
        let judged = |some: &Decision, count: usize, calm_ones: usize| {
            let decisions = [vec![some.clone(); count], vec![calm.clone(); calm_ones]].concat();
            let found = judge_speed(
                &report(decisions, Vec::new()),
                &UnpairedBenchmarks::default(),
            );
            (Verdict::of(&found), found.len())
        };
        for (some, count, calm_ones, expected) in [
            // As many as there are.
            (&within, 65, 0, (Verdict::Pass, 1)),
            (&noisy, 20, 45, (Verdict::Pass, 1)),
            // Not where little else is known.
            (&noisy, 33, 32, (Verdict::Inconclusive, 1)),
            (&noisy, 1, 0, (Verdict::Inconclusive, 1)),
            // Few are named.
            (&noisy, 3, 62, (Verdict::Pass, 3)),
            // What there was no time for is no pass.
            (&unseen, 20, 45, (Verdict::Inconclusive, 1)),
            (&unseen, 1, 64, (Verdict::Inconclusive, 1)),
            // What points at a regression is named, and nothing sums it up.
            (&suspicious, 5, 60, (Verdict::Inconclusive, 5)),
        ] {
            assert_eq!(judged(some, count, calm_ones), expected, "{some:?} {count}");
        }
        let all = [vec![within; 2], vec![noisy; 4], vec![calm; 10]].concat();
        let found = judge_speed(&report(all, Vec::new()), &UnpairedBenchmarks::default());
        let expected = RoughComparisons {
            all: 16,
            equivalent: 2,
            widest: 0.031,
            noisy: 4,
            unseen: 0,
        };
        assert_eq!(found[0].cause, Cause::ComparedRoughly(expected));
    }

    #[test]
    fn nothing_measured_is_no_pass() {
        assert_eq!(
            verdict(Vec::new(), &UnpairedBenchmarks::default()),
            Verdict::Incomparable
        );
        let name = || vec!["b".to_owned()];
        let calm = || vec![decision(BenchmarkState::Equivalent, None)];
        let gone = UnpairedBenchmarks {
            gone: name(),
            ..UnpairedBenchmarks::default()
        };
        assert_eq!(verdict(calm(), &gone), Verdict::Incomparable);
        let added = UnpairedBenchmarks {
            added: name(),
            ..UnpairedBenchmarks::default()
        };
        assert_eq!(verdict(calm(), &added), Verdict::Pass);
    }

    #[test]
    fn by_default_only_what_became_worse_counts() {
        let block = Some(RegressionAction::Block);
        let states = [
            (BenchmarkState::Equivalent, None, Verdict::Pass),
            (BenchmarkState::Inconclusive, None, Verdict::Pass),
            (BenchmarkState::Incomparable, None, Verdict::Pass),
            (BenchmarkState::Regressed, block, Verdict::Regression),
            (
                BenchmarkState::Regressed,
                Some(RegressionAction::Warn),
                Verdict::Inconclusive,
            ),
        ];
        let gone = UnpairedBenchmarks {
            gone: vec!["c".to_owned()],
            ..UnpairedBenchmarks::default()
        };
        let judge = |state, action, is_asked_for: bool| {
            let report = report(vec![decision(state, action)], Vec::new());
            let mut coverage = Coverage::default();
            let asked = |name: &str| is_asked_for && name == "b";
            let unlaunched = UnlaunchedBenchmarks {
                equal: 0,
                out_of_time: 2,
            };
            let found = judge_speed_by_default(&report, &gone, unlaunched, &asked, &mut coverage);
            let is_compared = state != BenchmarkState::Incomparable;
            assert_eq!(coverage.looked_at.contains(&Aspect::Speed), is_compared);
            let told = coverage.left_out.iter();
            let part = |part: Option<Part>| part.map(|part| (part.left_out, part.all));
            let told: Vec<_> = told.map(|l| (l.why, part(l.part))).collect();
            (Verdict::of(&found), told)
        };
        for (state, action, expected) in states {
            let (verdict, left_out) = judge(state, action, false);
            assert_eq!(verdict, expected, "{state:?}");
            let two = (LeftOutReason::Budget, Some((2, 4)));
            assert_eq!(left_out[0], two, "{state:?}");
            let apart = usize::from(state == BenchmarkState::Incomparable) + 1;
            let apart = (LeftOutReason::NotComparable, Some((apart, 4)));
            assert_eq!(left_out.last(), Some(&apart), "{state:?}");
            let noise = (LeftOutReason::Noise, Some((1, 4)));
            let is_open = state == BenchmarkState::Inconclusive;
            assert_eq!(left_out.contains(&noise), is_open, "{state:?}");
        }
        // What a monitor watches must be measured.
        let (verdict, _) = judge(BenchmarkState::Inconclusive, None, true);
        assert_eq!(verdict, Verdict::Inconclusive);
        let (verdict, _) = judge(BenchmarkState::Incomparable, None, true);
        assert_eq!(verdict, Verdict::Incomparable);
    }

    #[test]
    fn what_has_nothing_to_compare_is_told_apart_from_equal_programs() {
        let none = UnpairedBenchmarks::default();
        let empty = report(Vec::new(), Vec::new());
        for (equal, left_out) in [(0, vec![LeftOutReason::NoBenchmark]), (3, Vec::new())] {
            let unlaunched = UnlaunchedBenchmarks {
                equal,
                out_of_time: 0,
            };
            let mut coverage = Coverage::default();
            let found =
                judge_speed_by_default(&empty, &none, unlaunched, &|_| false, &mut coverage);
            assert_eq!(found, []);
            let told: Vec<_> = coverage.left_out.iter().map(|l| l.why).collect();
            assert_eq!(told, left_out);
            assert_eq!(coverage.looked_at.len(), usize::from(equal > 0));
        }
    }

    #[test]
    fn a_broken_bound_is_a_regression() {
        let bound = Bound {
            limit: Limit::AtLeast(2.0),
            within: 0.05,
        };
        for (value, expected) in [(1.5, Verdict::Regression), (2.1, Verdict::Pass)] {
            let held = BoundJudge::exact(bound, value).expect("a value");
            let bound = NamedBound {
                name: "simd".to_owned(),
                measure: Measure::Time,
                decision: held,
            };
            let calm = || decision(BenchmarkState::Equivalent, None);
            let on_another = NamedBound {
                decision: bound.decision.clone().unrecorded(&["A"], "B"),
                ..bound.clone()
            };
            let none = UnpairedBenchmarks::default();
            let findings = judge_speed(&report(vec![calm()], vec![bound]), &none);
            assert_eq!(Verdict::of(&findings), expected);
            // What it is on another processor is told, and decides nothing.
            let findings = judge_speed(&report(vec![calm()], vec![on_another]), &none);
            assert_eq!(findings.len(), 1, "{value}");
            assert_eq!(findings[0].severity, Severity::Note);
        }
    }
}
