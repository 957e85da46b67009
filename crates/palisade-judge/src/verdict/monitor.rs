//! What the monitors of the policy do to the verdict.

use super::UnpairedBenchmarks;
use crate::finding::{Cause, Finding, FindingSubject, MonitorGap, Severity};
use crate::flaky::Judgement;
use crate::policy::{Monitor, Policy};
use crate::rerun::RerunResult;
use crate::speed::SpeedReport;

/// The finding about a monitored command that failed on the candidate; `output` is what it
/// said.
pub fn judge_monitor(monitor: &Monitor, rerun: RerunResult, output: String) -> Finding {
    let severity = match rerun.judgement {
        Judgement::Broken | Judgement::MadeFlaky => Severity::Regression,
        Judgement::Flaky | Judgement::BrokenBefore => Severity::Note,
        Judgement::Undecided | Judgement::ProbablyFlaky => Severity::Undecided,
    };
    let cause = Cause::MonitorFailed {
        command: monitor.command.clone().unwrap_or_default(),
        rerun,
        broken_by: monitor.reason.clone(),
    };
    Finding {
        output: Some(output).filter(|output| !output.is_empty()),
        ..Finding::new(
            FindingSubject::Monitor(monitor.name.clone()),
            cause,
            severity,
        )
    }
}

/// The finding about a monitor of which nothing can be said, and why.
pub fn unmeasured_monitor(monitor: &Monitor, gap: MonitorGap) -> Finding {
    let subject = FindingSubject::Monitor(monitor.name.clone());
    let cause = Cause::MonitorUnmeasured {
        gap,
        broken_by: monitor.reason.clone(),
    };
    Finding::new(subject, cause, Severity::Unmeasured)
}

/// The findings about monitored benchmarks and ratios that nothing was measured of, and
/// nothing else is said of. What was measured is judged as any benchmark and bound.
pub fn judge_monitored(
    policy: &Policy,
    report: Option<&SpeedReport>,
    unpaired: &UnpairedBenchmarks,
) -> Vec<Finding> {
    let alone: Vec<&String> = unpaired.gone.iter().chain(&unpaired.added).collect();
    let is_alone = |name: &str| alone.iter().any(|alone| alone.contains(name));
    let has_entry = |name: &str| {
        let mut entries = report.iter().flat_map(|report| &report.benchmarks);
        entries.any(|entry| entry.benchmark.contains(name))
    };
    let has_bound = |name: &str| {
        let mut bounds = report.iter().flat_map(|report| &report.bounds);
        bounds.any(|bound| bound.name == name)
    };
    let of_bench = policy.monitor.iter().filter_map(|monitor| {
        let name = monitor.bench.as_ref()?;
        let is_told = has_entry(name) || is_alone(name);
        let gap = MonitorGap::NoBenchmark(name.clone());
        (!is_told).then(|| unmeasured_monitor(monitor, gap))
    });
    let of_ratio = policy.monitor.iter().filter_map(|monitor| {
        let name = monitor.ratio.as_ref()?;
        let ratio = policy.ratio.iter().find(|ratio| ratio.name == *name)?;
        let is_told = has_bound(name) || is_alone(&ratio.of) || is_alone(&ratio.to);
        let gap = MonitorGap::NoRatio {
            of: ratio.of.clone(),
            to: ratio.to.clone(),
        };
        (ratio.is_for_this_machine() && !is_told).then(|| unmeasured_monitor(monitor, gap))
    });
    // A target that lists nothing is told by itself, and may hold any of them.
    let is_known = unpaired.failed.is_empty();
    of_bench.chain(of_ratio).filter(|_| is_known).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::stats::Counts;
    use crate::verdict::Verdict;

    fn policy(text: &str) -> Policy {
        Policy::parse(text, Path::new("palisade.toml")).expect("valid")
    }

    #[test]
    fn only_what_the_change_did_is_a_regression() {
        let policy = policy("[[monitor]]\nname = \"m\"\ncommand = \"run\"\nreason = \"by x\"\n");
        for (judgement, expected) in [
            (Judgement::Broken, Verdict::Regression),
            (Judgement::MadeFlaky, Verdict::Regression),
            (Judgement::Flaky, Verdict::Pass),
            (Judgement::BrokenBefore, Verdict::Pass),
            (Judgement::Undecided, Verdict::Inconclusive),
        ] {
            let judged = RerunResult {
                judgement,
                p: 0.001,
                candidate: Counts {
                    failures: 6,
                    passes: 0,
                },
                base: Some(Counts {
                    failures: 0,
                    passes: 6,
                }),
            };
            let found = judge_monitor(&policy.monitor[0], judged, "said".to_owned());
            assert_eq!(Verdict::of(&[found]), expected);
        }
    }

    #[test]
    fn what_is_monitored_and_not_measured_is_no_pass() {
        let ratio = "[[ratio]]\nname = \"simd\"\nof = \"a\"\nto = \"b\"\nat_least = 2.0\n";
        let monitors = "[[monitor]]\nname = \"m\"\nratio = \"simd\"\n\
                        [[monitor]]\nname = \"n\"\nbench = \"c\"\n";
        let here = policy(&format!("{ratio}{monitors}"));
        let names = |policy: &Policy, unpaired: &UnpairedBenchmarks| -> Vec<String> {
            let found = judge_monitored(policy, None, unpaired);
            assert!(found.iter().all(|f| f.severity == Severity::Unmeasured));
            let name = |finding: Finding| match finding.subject {
                FindingSubject::Monitor(name) => name,
                other => panic!("{other:?}"),
            };
            found.into_iter().map(name).collect()
        };
        assert_eq!(names(&here, &UnpairedBenchmarks::default()), ["n", "m"]);
        let elsewhere = policy(&format!("{ratio}arch = [\"no such\"]\n{monitors}"));
        assert_eq!(names(&elsewhere, &UnpairedBenchmarks::default()), ["n"]);
        let added = UnpairedBenchmarks {
            added: vec!["the c".to_owned()],
            ..UnpairedBenchmarks::default()
        };
        assert_eq!(names(&here, &added), ["m"]);
    }
}
