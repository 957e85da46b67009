//! What decisions about speed and memory do to the verdict.

use crate::finding::{Cause, Finding, FindingSubject, Severity, SpeedGap};
use crate::speed::{
    BenchmarkResult, BenchmarkState, BoundState, Measure, NamedBound, RegressionAction, SpeedReport,
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

/// The findings about what was measured.
pub fn judge_speed(report: &SpeedReport, unpaired: &UnpairedBenchmarks) -> Vec<Finding> {
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

fn of_result(result: &BenchmarkResult) -> Option<Finding> {
    let decision = &result.decision;
    let is_count = decision.measure == Measure::Instructions;
    let severity = match (decision.state, decision.action) {
        (BenchmarkState::Equivalent, _) => return None,
        (BenchmarkState::Improved, _) => Severity::Note,
        // Counters are never the only ground.
        (BenchmarkState::Inconclusive, _) if is_count => return None,
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
    use crate::speed::{Bound, BoundJudge, Decision, Fingerprint, Limit};
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
            let calm = decision(BenchmarkState::Equivalent, None);
            let report = report(vec![calm], vec![bound]);
            let findings = judge_speed(&report, &UnpairedBenchmarks::default());
            assert_eq!(Verdict::of(&findings), expected);
        }
    }
}
