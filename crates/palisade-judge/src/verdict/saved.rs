//! What two files with results say of a change. Both were measured at some time by somebody:
//! reruns and pairs are not to be had, so the answers say less than those of a check.

use std::collections::{BTreeMap, BTreeSet};

use statrs::distribution::{Binomial, DiscreteCDF as _};

use super::{TestEvidence, judge_tests};
use crate::baseline::{TestSet, TestStatus};
use crate::finding::{Cause, FileComparison, Finding, FindingSubject, Severity};
use crate::flaky::{FlakyRecord, Judgement, Ledger};
use crate::policy::Policy;
use crate::rerun::RerunResult;
use crate::speed::{BenchmarkState, Measure};
use crate::stats::{fisher, median};
use crate::test_id::TestId;
use crate::test_set_diff::{TestState, diff};

/// The tests of a file.
#[derive(Clone, Debug)]
pub struct SavedTests {
    /// What people call the file.
    pub name: String,
    /// The tests.
    pub tests: TestSet,
    /// What is not all there, in words.
    pub gaps: Vec<String>,
    /// Whether the run stopped at the first target that failed.
    pub stopped: bool,
}

/// The benchmarks of a file.
#[derive(Clone, Debug)]
pub struct SavedBenchmarks {
    /// What people call the file.
    pub name: String,
    /// The benchmarks.
    pub benchmarks: Vec<ImportedBenchmark>,
    /// What is not all there, in words.
    pub gaps: Vec<String>,
    /// How far apart two such files of equal programs may lie, as a share, beyond what their
    /// intervals say.
    pub spread: f64,
}

/// A benchmark as a file has it.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportedBenchmark {
    /// The benchmark.
    pub benchmark: String,
    /// What was measured.
    pub measure: Measure,
    /// The values, in the measure's unit.
    pub values: Vec<f64>,
    /// The middle one.
    pub middle: f64,
    /// Where the middle lies with 95 % confidence, as far as one process can tell.
    pub interval: (f64, f64),
}

impl ImportedBenchmark {
    /// The middle of some values, and its interval; `None` if there is no value.
    pub fn of(benchmark: &str, measure: Measure, values: Vec<f64>) -> Option<Self> {
        let middle = median(&values)?;
        Some(Self {
            benchmark: benchmark.to_owned(),
            measure,
            interval: interval(&values),
            middle,
            values,
        })
    }
}

/// The order statistics between which the median lies with 95 % confidence: of fewer than
/// six values, all of them and a half more to each side.
fn interval(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    let Ok(below) = Binomial::new(0.5, n as u64) else {
        return (f64::NAN, f64::NAN);
    };
    // The largest rank with less than 2.5 % of the distribution before it.
    let rank = (0..n / 2)
        .take_while(|k| below.cdf(*k as u64) <= 0.025)
        .count();
    match rank {
        0 => (0.5 * sorted[0], 1.5 * sorted[n - 1]),
        rank => (sorted[rank - 1], sorted[n - rank]),
    }
}

/// The findings about tests of two files.
pub fn judge_saved_tests(
    base: &SavedTests,
    candidate: &SavedTests,
    policy: &Policy,
    ledger: &Ledger,
) -> Vec<Finding> {
    let complete = candidate.gaps.is_empty();
    let (mut before, mut after) = (base.tests.clone(), candidate.tests.clone());
    let not_run = [
        leave_out_not_run(candidate, &after, &mut before),
        leave_out_not_run(base, &before, &mut after),
    ];
    let mut findings = judge_single_runs(&before, &after, complete, policy, ledger);
    findings.extend(not_run.into_iter().flatten());
    findings.extend(incomplete(&base.name, &base.gaps));
    findings.extend(incomplete(&candidate.name, &candidate.gaps));
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// Takes the tests of targets that a stopped run did not come to out of the tests of the
/// other one, and says so.
fn leave_out_not_run(stopped: &SavedTests, ran: &TestSet, other: &mut TestSet) -> Option<Finding> {
    if !stopped.stopped {
        return None;
    }
    let places: BTreeSet<String> = ran.tests.keys().map(TestId::place).collect();
    let mut left_out = BTreeSet::new();
    let n_tests = other.tests.len();
    other.tests.retain(|test, _| {
        let place = test.place();
        let keeps = places.contains(&place);
        if !keeps {
            left_out.insert(place);
        }
        keeps
    });
    let cause = Cause::NotRun {
        targets: left_out.into_iter().collect(),
        tests: n_tests - other.tests.len(),
    };
    let subject = FindingSubject::File(stopped.name.clone());
    (n_tests > other.tests.len()).then(|| Finding::new(subject, cause, Severity::Unmeasured))
}

/// The findings about tests that were seen once on each revision; `complete` says whether all
/// were on the second. A test that fails in the second and passed in the first counts as
/// broken, unless it is known to be flaky.
pub fn judge_single_runs(
    before: &TestSet,
    after: &TestSet,
    complete: bool,
    policy: &Policy,
    ledger: &Ledger,
) -> Vec<Finding> {
    let differences = diff(before, after, &policy.slower.rule());
    let counts = |set: &TestSet, test| set.tests.get(test).map(|seen| seen.counts);
    let mut judged = BTreeMap::new();
    for difference in &differences {
        let is_new = matches!(
            difference.state,
            TestState::NewlyFailing | TestState::AddedFailing
        );
        let test = &difference.test;
        let old = difference.old_name.as_ref().unwrap_or(test);
        if let (true, Some(candidate)) = (is_new, counts(after, test)) {
            let base = counts(before, old);
            let is_flaky = ledger.get(test).is_some_and(FlakyRecord::is_flaky);
            let found = RerunResult {
                judgement: if is_flaky {
                    Judgement::Flaky
                } else {
                    Judgement::Broken
                },
                p: base.map_or(1.0, |base| fisher(candidate, base)),
                candidate,
                base,
            };
            judged.insert(test.clone(), found);
        }
    }
    let failing = after
        .tests
        .iter()
        .filter(|(_, seen)| seen.status() == TestStatus::Failing);
    let known = failing.filter(|(test, _)| policy.known_failure(test).is_some());
    judge_tests(&TestEvidence {
        differences: &differences,
        judged: &judged,
        slow: &BTreeMap::new(),
        places: &BTreeMap::new(),
        before: before.tally(),
        after: after.tally(),
        known: known.count(),
        complete,
        policy,
        ledger,
        single_runs: true,
    })
}

/// The findings about benchmarks of two files. Each was measured in one process at one
/// time, which may differ by several percent for no reason: the intervals must lie apart by
/// `noise_threshold` (such as .03) for a change, or by the usual spread of such files, and
/// inside of it for none.
pub fn judge_saved_speed(
    base: &SavedBenchmarks,
    candidate: &SavedBenchmarks,
    noise_threshold: f64,
) -> Vec<Finding> {
    let noise_threshold = noise_threshold.max(base.spread).max(candidate.spread);
    let key = |saved: &ImportedBenchmark| (saved.benchmark.clone(), saved.measure);
    let after: BTreeMap<_, &ImportedBenchmark> =
        candidate.benchmarks.iter().map(|s| (key(s), s)).collect();
    let mut findings = Vec::new();
    for before in &base.benchmarks {
        let (cause, severity) = match after.get(&key(before)) {
            None => (Cause::BenchmarkGone, Severity::Regression),
            Some(after) => {
                let found = compare(before, after, noise_threshold);
                (Cause::ComparedFiles(found), severity(found.state))
            }
        };
        let subject = FindingSubject::ImportedBenchmark {
            name: before.benchmark.clone(),
            measure: before.measure,
        };
        findings.push(Finding::new(subject, cause, severity));
    }
    findings.extend(incomplete(&base.name, &base.gaps));
    findings.extend(incomplete(&candidate.name, &candidate.gaps));
    findings.sort_by_key(|finding| finding.severity);
    findings
}

fn severity(state: BenchmarkState) -> Severity {
    match state {
        BenchmarkState::Regressed => Severity::Regression,
        BenchmarkState::Improved | BenchmarkState::Equivalent => Severity::Note,
        BenchmarkState::Inconclusive => Severity::Undecided,
        BenchmarkState::Incomparable => Severity::Unmeasured,
    }
}

fn compare(
    before: &ImportedBenchmark,
    after: &ImportedBenchmark,
    noise_threshold: f64,
) -> FileComparison {
    // A rate that falls is a time that rises.
    let worse = |of: f64, to: f64| {
        if before.measure.is_better_higher() {
            to / of
        } else {
            of / to
        }
    };
    let ends = [
        worse(after.interval.0, before.interval.1),
        worse(after.interval.1, before.interval.0),
    ];
    let (low, high) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
    let (least, most) = (1.0 / (1.0 + noise_threshold), 1.0 + noise_threshold);
    let state = if low > most {
        BenchmarkState::Regressed
    } else if high < least {
        BenchmarkState::Improved
    } else if high <= most && low >= least {
        BenchmarkState::Equivalent
    } else {
        BenchmarkState::Inconclusive
    };
    FileComparison {
        state,
        before: before.middle,
        after: after.middle,
        ratio: worse(after.middle, before.middle),
        low,
        high,
        noise_threshold,
    }
}

fn incomplete(file: &str, gaps: &[String]) -> Option<Finding> {
    let subject = FindingSubject::File(file.to_owned());
    let gaps = gaps.to_vec();
    (!gaps.is_empty())
        .then(|| Finding::new(subject, Cause::Incomplete { gaps }, Severity::Unmeasured))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_hold_the_median() {
        // Ranks 2 and 9 of ten values, 40 and 61 of a hundred: the usual tables.
        let values = |n: u32| (1..=n).map(f64::from).collect::<Vec<f64>>();
        assert_eq!(interval(&values(10)), (2.0, 9.0));
        assert_eq!(interval(&values(100)), (40.0, 61.0));
        assert_eq!(interval(&values(3)), (0.5, 4.5));
    }
}
