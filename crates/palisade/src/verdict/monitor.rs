//! What the monitors of the policy do to the verdict.

use super::{Finding, FindingKind, RerunResult, Severity, UnpairedBenchmarks, p_value};
use crate::benchmark_comparison::SpeedReport;
use crate::flaky::Judgement;
use crate::policy::{Monitor, Policy};

/// The finding about a monitored command that failed on the candidate; `output` is what it
/// said.
pub fn judge_monitor(
    monitor: &Monitor,
    judged: &RerunResult,
    base: &str,
    output: String,
) -> Finding {
    let (counts, before) = (judged.candidate, judged.base.unwrap_or_default());
    let reason = format!(
        "`{}` failed in {} of {} runs, and in {} of {} at {base} (Fisher's exact test, p = {})",
        monitor.command.as_deref().unwrap_or_default(),
        counts.failures,
        counts.total(),
        before.failures,
        before.total(),
        p_value(judged.p)
    );
    let (severity, state, meaning, avoid) = match judged.judgement {
        Judgement::Broken => (
            Severity::Regression,
            "newly_failing",
            "what broke once is broken again",
            "do not take the monitor away to get past this",
        ),
        Judgement::MadeFlaky => (
            Severity::Regression,
            "flaky",
            "it fails at times as of this change",
            "do not take the monitor away to get past this",
        ),
        Judgement::Flaky => (
            Severity::Note,
            "flaky",
            "it both passes and fails on the same tree, and did so before this change",
            "",
        ),
        Judgement::BrokenBefore => (
            Severity::Note,
            "still_failing",
            "it fails at the base too: this change did not break it",
            "",
        ),
        Judgement::Undecided | Judgement::ProbablyFlaky => (
            Severity::Undecided,
            "open",
            "the runs so far do not tell whether the change did it",
            "do not take this for a pass",
        ),
    };
    Finding {
        state: state.to_owned(),
        severity,
        reason,
        meaning: format!("{meaning}{}", broken_by(monitor)),
        next: "run the command; cargo palisade bisect --cmd COMMAND".to_owned(),
        avoid: avoid.to_owned(),
        output: Some(output).filter(|output| !output.is_empty()),
        ..unmeasured_monitor(monitor, String::new())
    }
}

/// The finding about a monitor of which nothing can be said, and why.
pub fn unmeasured_monitor(monitor: &Monitor, why: String) -> Finding {
    Finding {
        kind: FindingKind::Monitor,
        name: monitor.name.clone(),
        state: "unmeasured".to_owned(),
        severity: Severity::Unmeasured,
        reason: why,
        meaning: format!("what broke once would not show{}", broken_by(monitor)),
        next: "repair the [[monitor]] in palisade.toml".to_owned(),
        avoid: "do not take this for a pass".to_owned(),
        output: None,
    }
}

fn broken_by(monitor: &Monitor) -> String {
    let reason = monitor.reason.as_ref();
    reason.map_or_else(String::new, |reason| format!(" ({reason})"))
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
        let why = format!("no benchmark has {name:?} in its name");
        (!is_told).then(|| unmeasured_monitor(monitor, why))
    });
    let of_ratio = policy.monitor.iter().filter_map(|monitor| {
        let name = monitor.ratio.as_ref()?;
        let ratio = policy.ratio.iter().find(|ratio| ratio.name == *name)?;
        let is_told = has_bound(name) || is_alone(&ratio.of) || is_alone(&ratio.to);
        let why = format!("one of {} and {} was not measured", ratio.of, ratio.to);
        (ratio.is_for_this_machine() && !is_told).then(|| unmeasured_monitor(monitor, why))
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
            let found = judge_monitor(&policy.monitor[0], &judged, "main", "said".to_owned());
            assert_eq!(Verdict::of(std::slice::from_ref(&found)), expected);
            let seen = "`run` failed in 6 of 6 runs, and in 0 of 6 at main";
            assert!(found.reason.starts_with(seen), "{}", found.reason);
            assert!(found.meaning.ends_with("(by x)"), "{}", found.meaning);
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
            found.into_iter().map(|finding| finding.name).collect()
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
