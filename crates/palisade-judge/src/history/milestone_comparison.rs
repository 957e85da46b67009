//! How a commit compares with a milestone, by the comparisons that lead from one to
//! the other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::Serialize;

use super::stored_comparison::StoredComparison;
use super::{calibrated_noise_threshold, drift};
use crate::hash::short;
use crate::speed::{
    BenchmarkState, Calibration, Decision, DecisionRules, Estimate, Fingerprint, Judge, JudgeStep,
    Measure, NoiseThreshold, SpeedPurpose, SpeedRun, log_ratio,
};
use crate::stats::median;

/// Why a benchmark that was measured at a milestone has no comparison.
const NO_COMPARISON: &str = "it was measured at the milestone, and no comparison leads here";

/// How one measure of one benchmark compares with a milestone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MilestoneComparison {
    /// The benchmark.
    pub benchmark: String,
    /// The commits whose comparisons were added up, from the milestone on.
    pub path: Vec<String>,
    /// Whether both were measured by themselves, at two times: that says enough of
    /// memory, and nothing of time.
    #[serde(rename = "apart")]
    pub separate_series: bool,
    /// What is known.
    #[serde(flatten)]
    pub decision: Decision,
}

/// How `commit` compares with `milestone` on one machine. If both were compared with
/// each other, that comparison decides; else the shortest chain of comparisons between
/// them, added up. Memory does not depend on how busy a machine was: where no chain leads,
/// series of both decide about it. A benchmark that was compared with the milestone and to
/// which neither leads is incomparable. Empty if nothing leads to the milestone.
pub fn compare_with_milestone(
    runs: &[SpeedRun],
    calibrations: &[Calibration],
    fingerprint: &Fingerprint,
    milestone: &str,
    commit: &str,
) -> Vec<MilestoneComparison> {
    let here: Vec<&SpeedRun> = runs
        .iter()
        .filter(|run| run.fingerprint == *fingerprint)
        .collect();
    let comparisons = StoredComparison::all(&here);
    let mut found = Vec::new();
    for (benchmark, measure) in measured(&here) {
        let steps = |from: &str, to: &str| -> Vec<(f64, f64)> {
            let between =
                |comparison: &StoredComparison| comparison.between(from, to, benchmark, measure);
            comparisons.iter().flat_map(between).collect()
        };
        let leads = |from: &str, to: &str| !steps(from, to).is_empty();
        let Some(path) = path(&comparisons, milestone, commit, leads) else {
            let noise_threshold =
                calibrated_noise_threshold(calibrations, fingerprint, benchmark, measure);
            if let Some(decision) = compare_separate_series(
                &here,
                milestone,
                commit,
                benchmark,
                measure,
                noise_threshold,
            ) {
                found.push(MilestoneComparison {
                    benchmark: benchmark.to_owned(),
                    path: vec![milestone.to_owned(), commit.to_owned()],
                    separate_series: true,
                    decision,
                });
                continue;
            }
            let of_milestone = |comparison: &StoredComparison| {
                comparison
                    .other_commit(milestone)
                    .is_some_and(|other| leads(milestone, other))
            };
            if comparisons.iter().any(of_milestone) {
                found.push(MilestoneComparison {
                    benchmark: benchmark.to_owned(),
                    path: Vec::new(),
                    separate_series: false,
                    decision: Decision::incomparable(measure, NO_COMPARISON),
                });
            }
            continue;
        };
        let pairs: Vec<_> = path
            .windows(2)
            .map(|step| steps(step[0], step[1]))
            .collect();
        let noise_threshold =
            calibrated_noise_threshold(calibrations, fingerprint, benchmark, measure);
        let decision = match &pairs[..] {
            [direct] => judge(measure, noise_threshold, direct),
            _ => add_up(measure, noise_threshold, &path, &pairs),
        };
        found.push(MilestoneComparison {
            benchmark: benchmark.to_owned(),
            path: path.into_iter().map(str::to_owned).collect(),
            separate_series: false,
            decision,
        });
    }
    found
}

/// What series of two commits say of memory; `None` of other measures, and where one of
/// the two was not measured.
fn compare_separate_series(
    runs: &[&SpeedRun],
    milestone: &str,
    commit: &str,
    benchmark: &str,
    measure: Measure,
    noise_threshold: NoiseThreshold,
) -> Option<Decision> {
    if !measure.is_memory() {
        return None;
    }
    let values = |of: &str| {
        let is_it = |run: &&&SpeedRun| {
            run.purpose == SpeedPurpose::Series && run.subject.commit == of && !run.subject.dirty
        };
        let newest_first = runs.iter().rev().filter(is_it);
        let seen = newest_first.flat_map(|run| &run.measurements);
        let mut seen = seen.filter(|m| m.benchmark == benchmark && m.measure == measure);
        seen.next().map(|m| m.values.clone())
    };
    let (base, candidate) = (values(milestone)?, values(commit)?);
    let pairs: Vec<(f64, f64)> = base.into_iter().zip(candidate).collect();
    (!pairs.is_empty()).then(|| judge(measure, noise_threshold, &pairs))
}

/// All benchmarks with all their measures.
fn measured<'a>(runs: &[&'a SpeedRun]) -> BTreeSet<(&'a str, Measure)> {
    let seen = runs.iter().flat_map(|run| &run.measurements);
    seen.map(|seen| (seen.benchmark.as_str(), seen.measure))
        .collect()
}

/// The shortest way from one commit to another, both included.
fn path<'a>(
    comparisons: &[StoredComparison<'a>],
    from: &'a str,
    to: &str,
    leads: impl Fn(&str, &str) -> bool,
) -> Option<Vec<&'a str>> {
    let mut before: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(at) = queue.pop_front() {
        for next in comparisons
            .iter()
            .filter_map(|comparison| comparison.other_commit(at))
        {
            if next == from || before.contains_key(next) || !leads(at, next) {
                continue;
            }
            before.insert(next, at);
            if next == to {
                let mut path = vec![next];
                while let Some(earlier) = before.get(path[path.len() - 1]) {
                    path.push(earlier);
                }
                path.reverse();
                return Some(path);
            }
            queue.push_back(next);
        }
    }
    None
}

/// The decision of a direct comparison, by the rules of every comparison.
fn judge(measure: Measure, noise_threshold: NoiseThreshold, pairs: &[(f64, f64)]) -> Decision {
    let mut judge = Judge::new(DecisionRules::new(measure, noise_threshold));
    for (base, candidate) in pairs {
        if judge.push(*base, *candidate) == Ok(JudgeStep::Done) {
            break;
        }
    }
    judge.decision()
}

/// The decision about a sum of steps.
fn add_up(
    measure: Measure,
    noise_threshold: NoiseThreshold,
    path: &[&str],
    steps: &[Vec<(f64, f64)>],
) -> Decision {
    let log_ratios = |step: &Vec<(f64, f64)>| -> Vec<f64> {
        let ratio = |(base, candidate): &(f64, f64)| log_ratio(measure, *base, *candidate).ok();
        step.iter().filter_map(ratio).collect()
    };
    let steps_taken: Vec<Vec<f64>> = steps.iter().map(log_ratios).collect();
    let median_of = |step: &Vec<(f64, f64)>, of: fn(&(f64, f64)) -> f64| {
        median(&step.iter().map(of).collect::<Vec<f64>>())
    };
    let base = median_of(&steps[0], |pair| pair.0);
    let (margin, threshold) = (
        noise_threshold.equivalence_margin(base.unwrap_or(0.0)),
        noise_threshold.threshold(base.unwrap_or(0.0)),
    );
    let found = drift(&steps_taken);
    let state = found.map_or(BenchmarkState::Inconclusive, |found| {
        state(found, margin, threshold)
    });
    let commits: Vec<&str> = path.iter().map(|commit| short(commit)).collect();
    let reason = found.map_or_else(
        || "a step was not measured".to_owned(),
        |found| {
            format!(
                "{:+.1} % (95 % interval {:+.1} % to {:+.1} %) over {} comparisons, {}",
                100.0 * (found.ratio - 1.0),
                100.0 * (found.low - 1.0),
                100.0 * (found.high - 1.0),
                steps.len(),
                commits.join(" → ")
            )
        },
    );
    Decision {
        state,
        action: (state == BenchmarkState::Regressed)
            .then_some(crate::speed::RegressionAction::Block),
        pairs: steps.iter().map(Vec::len).sum(),
        base,
        candidate: steps.last().and_then(|step| median_of(step, |pair| pair.1)),
        estimate: found,
        margin,
        threshold,
        ..Decision::incomparable(measure, reason)
    }
}

fn state(found: Estimate, margin: f64, threshold: f64) -> BenchmarkState {
    let within = |share: f64| found.high <= 1.0 + share && found.low >= 1.0 / (1.0 + share);
    if found.low > 1.0 && found.ratio > 1.0 + threshold {
        BenchmarkState::Regressed
    } else if found.high < 1.0 && found.ratio < 1.0 / (1.0 + threshold) {
        BenchmarkState::Improved
    } else if within(margin) {
        BenchmarkState::Equivalent
    } else {
        BenchmarkState::Inconclusive
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Subject;
    use crate::speed::{KnownSpread, Measurement, Proportion};

    fn fingerprint() -> Fingerprint {
        Fingerprint([("cores".to_owned(), "2".to_owned())].into())
    }

    fn run_of(comparison: &str, commit: &str, values: Vec<f64>) -> SpeedRun {
        SpeedRun {
            id: format!("{comparison}{commit}"),
            comparison_id: comparison.to_owned(),
            started_ms: 0,
            finished_ms: 1,
            purpose: SpeedPurpose::Comparison,
            subject: Subject {
                tree: commit.to_owned(),
                commit: commit.to_owned(),
                dirty: false,
                checkout: true,
                branch: None,
            },
            fingerprint: fingerprint(),
            measurements: vec![Measurement {
                benchmark: "sort".to_owned(),
                measure: Measure::Time,
                values,
            }],
        }
    }

    /// A comparison of two commits of which the second is slower by `ratio`.
    fn comparison(base: &str, candidate: &str, ratio: f64) -> [SpeedRun; 2] {
        let name = format!("{base}-{candidate}");
        let noise = |i: usize| 1.0 + 0.002 * [0.5, -0.8, 0.1, 0.9, -0.4][i % 5];
        let times = |scale: f64, shift: usize| (0..24).map(|i| scale * noise(i + shift)).collect();
        [
            run_of(&name, base, times(100.0, 0)),
            run_of(&name, candidate, times(100.0 * ratio, 2)),
        ]
    }

    fn states(runs: &[SpeedRun], spread: f64, commit: &str) -> Vec<(BenchmarkState, usize)> {
        let calibration = Calibration {
            id: String::new(),
            at_ms: 0,
            fingerprint: fingerprint(),
            spreads: vec![KnownSpread {
                benchmark: "sort".to_owned(),
                measure: Measure::Time,
                comparisons: 20,
                spread,
            }],
            false_alarms: Proportion::default(),
            detections: Vec::new(),
        };
        let found = compare_with_milestone(runs, &[calibration], &fingerprint(), "m", commit);
        let short =
            |comparison: &MilestoneComparison| (comparison.decision.state, comparison.path.len());
        found.iter().map(short).collect()
    }

    #[test]
    fn a_chain_of_small_steps_adds_up_to_an_alarm() {
        // Each step is less than the threshold of 4.5 %.
        let runs = [
            comparison("m", "a", 1.03),
            comparison("a", "b", 1.03),
            comparison("b", "c", 1.03),
        ]
        .concat();
        assert_eq!(
            states(&runs, 0.015, "a"),
            [(BenchmarkState::Inconclusive, 2)]
        );
        assert_eq!(states(&runs, 0.015, "b"), [(BenchmarkState::Regressed, 3)]);
        assert_eq!(states(&runs, 0.015, "c"), [(BenchmarkState::Regressed, 4)]);
        assert_eq!(states(&runs, 0.1, "c"), [(BenchmarkState::Inconclusive, 4)]);
        assert_eq!(
            states(&runs, 0.015, "unknown"),
            [(BenchmarkState::Incomparable, 0)]
        );
    }

    #[test]
    fn a_direct_comparison_is_heard_first_and_direction_does_not_matter() {
        let chain = [comparison("m", "a", 1.03), comparison("a", "b", 1.03)].concat();
        let direct = [chain, comparison("b", "m", 1.0).to_vec()].concat();
        assert_eq!(states(&direct, 0.0, "b"), [(BenchmarkState::Equivalent, 2)]);
        let better = comparison("a", "m", 1.2).to_vec();
        assert_eq!(states(&better, 0.0, "a"), [(BenchmarkState::Improved, 2)]);
    }

    #[test]
    fn memory_is_held_by_series_and_time_is_not() {
        let series = |commit: &str, bytes: f64| {
            let mut run = run_of(commit, commit, vec![100.0; 10]);
            run.purpose = SpeedPurpose::Series;
            run.measurements.push(Measurement {
                benchmark: "sort".to_owned(),
                measure: Measure::PeakMemory,
                values: vec![bytes; 10],
            });
            run
        };
        let states = |bytes: f64| {
            let runs = [series("m", 64e6), series("a", bytes)];
            let found = compare_with_milestone(&runs, &[], &fingerprint(), "m", "a");
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].separate_series && found[0].decision.measure == Measure::PeakMemory);
            found[0].decision.state
        };
        assert_eq!(states(64e6), BenchmarkState::Equivalent);
        assert_eq!(states(96e6), BenchmarkState::Regressed);
        assert_eq!(states(32e6), BenchmarkState::Improved);
    }

    #[test]
    fn other_machines_say_nothing() {
        let mut runs = comparison("m", "a", 1.2).to_vec();
        for run in &mut runs {
            run.fingerprint = Fingerprint::default();
        }
        assert!(states(&runs, 0.0, "a").is_empty());
    }
}
