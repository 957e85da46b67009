//! What decisions about speed and memory do to the verdict.

use super::{Finding, FindingKind, Severity};
use crate::benchmark_comparison::{NamedBound, SpeedReport};
use crate::report::{bound_word, named, state_word};
use crate::speed::{BenchmarkResult, BenchmarkState, BoundState, Measure, RegressionAction};

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
pub fn judge_speed(
    report: &SpeedReport,
    unpaired: &UnpairedBenchmarks,
    base: &str,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(report.benchmarks.iter().filter_map(|e| of_result(e, base)));
    findings.extend(report.bounds.iter().filter_map(of_bound));
    let finding = |name: &str, state: &str, severity, reason: String| Finding {
        kind: FindingKind::Speed,
        name: name.to_owned(),
        state: state.to_owned(),
        severity,
        reason,
        meaning: String::new(),
        next: String::new(),
        avoid: String::new(),
        output: None,
    };
    for name in &unpaired.gone {
        findings.push(Finding {
            meaning: "a slowdown of what it measured would not show".to_owned(),
            next: "bring it back, or compare again after this change is the base".to_owned(),
            avoid: "do not take this for a pass".to_owned(),
            ..finding(
                name,
                "missing",
                Severity::Unmeasured,
                format!("it is at {base}, and gone"),
            )
        });
    }
    for name in &unpaired.added {
        let reason = format!("it is new, and was not at {base}");
        findings.push(finding(name, "added", Severity::Note, reason));
    }
    for (place, why) in &unpaired.failed {
        findings.push(Finding {
            meaning: "its benchmarks are not known".to_owned(),
            next: "cargo bench shows the same".to_owned(),
            avoid: "do not take this for a pass".to_owned(),
            ..finding(place, "incomparable", Severity::Unmeasured, why.clone())
        });
    }
    let is_told = findings.iter().any(|f| f.severity == Severity::Unmeasured);
    if report.benchmarks.is_empty() && !is_told {
        findings.push(Finding {
            meaning: "nothing was measured, and that is not a pass".to_owned(),
            next: "cargo palisade bench lists what can be measured".to_owned(),
            ..finding(
                "benchmarks",
                "incomparable",
                Severity::Unmeasured,
                "there is none on both revisions".to_owned(),
            )
        });
    }
    findings
}

fn kind(measure: Measure) -> FindingKind {
    match measure {
        Measure::PeakMemory | Measure::AllocationCount | Measure::AllocationBytes => {
            FindingKind::Memory
        }
        _ => FindingKind::Speed,
    }
}

fn of_result(result: &BenchmarkResult, base: &str) -> Option<Finding> {
    let decision = &result.decision;
    let again = format!(
        "cargo palisade compare {base} --only '{}'",
        result.benchmark.replace('\'', "'\\''")
    );
    let (severity, meaning, next, avoid) = match (decision.state, decision.action) {
        (BenchmarkState::Equivalent, _) => return None,
        (BenchmarkState::Improved, _) => (
            Severity::Note,
            format!("it costs less than at {base}, and noise does not explain it"),
            "nothing to do".to_owned(),
            "",
        ),
        // Counters are never the only ground.
        (BenchmarkState::Inconclusive, _) if decision.measure == Measure::Instructions => {
            return None;
        }
        (BenchmarkState::Regressed, _) if decision.measure == Measure::Instructions => (
            Severity::Note,
            "a counter alone decides nothing".to_owned(),
            again,
            "",
        ),
        (BenchmarkState::Regressed, Some(RegressionAction::Block)) => (
            Severity::Regression,
            format!("it costs more than at {base}, and noise does not explain it"),
            again,
            "do not measure it again until it passes",
        ),
        (BenchmarkState::Regressed, _) => (
            Severity::Undecided,
            "the first launches say that it costs more; fresh ones have not confirmed it"
                .to_owned(),
            format!("{again}, with a larger --budget"),
            "do not take this for a pass",
        ),
        (BenchmarkState::Inconclusive, _) => (
            Severity::Undecided,
            "neither a change nor that there is none is shown".to_owned(),
            format!("{again}, with a larger --budget or on a quieter machine"),
            "do not take this for a pass",
        ),
        (BenchmarkState::Incomparable, _) => (
            Severity::Unmeasured,
            "the two revisions cannot be compared".to_owned(),
            again,
            "do not take this for a pass",
        ),
    };
    Some(Finding {
        kind: kind(decision.measure),
        name: named(&result.benchmark, decision.measure),
        state: state_word(decision.state).to_owned(),
        severity,
        reason: decision.reason.clone(),
        meaning,
        next,
        avoid: avoid.to_owned(),
        output: None,
    })
}

fn of_bound(bound: &NamedBound) -> Option<Finding> {
    let (severity, meaning, next) = match bound.decision.state {
        BoundState::Kept => return None,
        BoundState::Broken => (
            Severity::Regression,
            "the bound of palisade.toml does not hold",
            "find out what became slower or larger, on either side of the bound",
        ),
        BoundState::Inconclusive => (
            Severity::Undecided,
            "whether the bound of palisade.toml holds is not shown",
            "cargo palisade compare with a larger --budget",
        ),
    };
    Some(Finding {
        kind: kind(bound.measure),
        name: bound.name.clone(),
        state: bound_word(bound.decision.state).to_owned(),
        severity,
        reason: bound.decision.reason.clone(),
        meaning: meaning.to_owned(),
        next: next.to_owned(),
        avoid: "do not loosen the bound to get past this".to_owned(),
        output: None,
    })
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
        Verdict::of(&judge_speed(
            &report(decisions, Vec::new()),
            unpaired,
            "main",
        ))
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
            let findings = judge_speed(&report, &UnpairedBenchmarks::default(), "main");
            assert_eq!(Verdict::of(&findings), expected);
        }
    }
}
