//! What two files with results say of a change. Both were measured at some time by somebody:
//! reruns and pairs are not to be had, so the answers say less than those of a check.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, FindingKind, RerunResult, Severity, TestEvidence, judge_tests};
use crate::baseline::{TestSet, TestStatus};
use crate::flaky::{FlakyRecord, Judgement, Ledger};
use crate::import::{Imported, ImportedBenchmark};
use crate::policy::Policy;
use crate::report::amount;
use crate::stats::fisher;
use crate::test_id::TestId;
use crate::test_set_diff::{TestState, diff};

/// The findings about tests of two files.
pub fn judge_saved_tests(
    base: &Imported,
    candidate: &Imported,
    policy: &Policy,
    ledger: &Ledger,
) -> Vec<Finding> {
    let complete = candidate.gaps.is_empty();
    let (mut before, mut after) = (base.test_set(), candidate.test_set());
    let not_run = [
        leave_out_not_run(candidate, &after, &mut before),
        leave_out_not_run(base, &before, &mut after),
    ];
    let mut findings = judge_single_runs(&before, &after, complete, policy, ledger, &base.name());
    findings.extend(not_run.into_iter().flatten());
    findings.extend(gaps(base));
    findings.extend(gaps(candidate));
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// Takes the tests of targets that a stopped run did not come to out of the tests of the
/// other one, and says so.
fn leave_out_not_run(stopped: &Imported, ran: &TestSet, other: &mut TestSet) -> Option<Finding> {
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
    let targets: Vec<String> = left_out.into_iter().collect();
    (!targets.is_empty()).then(|| Finding {
        kind: FindingKind::Run,
        name: stopped.name(),
        state: "not_run".to_owned(),
        severity: Severity::Unmeasured,
        reason: format!(
            "cargo stopped at the first target that failed and did not run {}, {} tests",
            targets.join(", "),
            n_tests - other.tests.len()
        ),
        meaning: "the verdict is about the others".to_owned(),
        next: "run the tests with --no-fail-fast".to_owned(),
        avoid: "do not take this for a pass".to_owned(),
        output: None,
    })
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
    base_name: &str,
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
    let mut findings = judge_tests(&TestEvidence {
        differences: &differences,
        judged: &judged,
        slow: &BTreeMap::new(),
        before: before.tally(),
        after: after.tally(),
        known: known.count(),
        complete,
        policy,
        ledger,
        base_name,
    });
    for finding in &mut findings {
        if finding.kind == FindingKind::Test && finding.severity == Severity::Regression {
            finding
                .meaning
                .push_str("; there is one run of each revision, and no rerun");
        }
    }
    findings
}

/// The findings about benchmarks of two files. Each was measured in one process at one
/// time, which may differ by several percent for no reason: the intervals must lie apart by
/// `noise_threshold` (such as .03) for a change, or by the usual spread of such files, and
/// inside of it for none.
pub fn judge_saved_speed(
    base: &Imported,
    candidate: &Imported,
    noise_threshold: f64,
) -> Vec<Finding> {
    let noise_threshold = noise_threshold.max(base.spread()).max(candidate.spread());
    let key = |saved: &ImportedBenchmark| (saved.benchmark.clone(), saved.measure);
    let after: BTreeMap<_, &ImportedBenchmark> =
        candidate.benchmarks.iter().map(|s| (key(s), s)).collect();
    let mut findings = Vec::new();
    for before in &base.benchmarks {
        let found = after.get(&key(before));
        findings.push(found.map_or_else(
            || missing(before, &base.name()),
            |after| compared(before, after, noise_threshold),
        ));
    }
    findings.extend(gaps(base));
    findings.extend(gaps(candidate));
    findings.sort_by_key(|finding| finding.severity);
    findings
}

fn compared(
    before: &ImportedBenchmark,
    after: &ImportedBenchmark,
    noise_threshold: f64,
) -> Finding {
    // A rate that falls is a time that rises.
    let worse = |of: f64, to: f64| {
        if before.measure.is_better_higher() {
            to / of
        } else {
            of / to
        }
    };
    let ratio = worse(after.middle, before.middle);
    let ends = [
        worse(after.interval.0, before.interval.1),
        worse(after.interval.1, before.interval.0),
    ];
    let (low, high) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
    let (state, severity, meaning) = if low > 1.0 + noise_threshold {
        (
            "regressed",
            Severity::Regression,
            "it became worse, or the machine did between the two",
        )
    } else if high < 1.0 / (1.0 + noise_threshold) {
        (
            "improved",
            Severity::Note,
            "it became better, or the machine did between the two",
        )
    } else if high <= 1.0 + noise_threshold && low >= 1.0 / (1.0 + noise_threshold) {
        ("equivalent", Severity::Note, "nothing that counts")
    } else {
        (
            "inconclusive",
            Severity::Undecided,
            "two single runs cannot carry a difference this small",
        )
    };
    let measure = before.measure;
    Finding {
        state: state.to_owned(),
        severity,
        reason: format!(
            "{} → {}: {:+.1} % (between {:+.1} and {:+.1} %, noise threshold {:.0} %)",
            amount(measure, before.middle),
            amount(measure, after.middle),
            100.0 * (ratio - 1.0),
            100.0 * (low - 1.0),
            100.0 * (high - 1.0),
            100.0 * noise_threshold
        ),
        meaning: meaning.to_owned(),
        next: "cargo palisade compare BASE, which measures both by turns".to_owned(),
        ..finding(before)
    }
}

fn missing(before: &ImportedBenchmark, base: &str) -> Finding {
    Finding {
        state: "missing".to_owned(),
        severity: Severity::Regression,
        reason: format!("it is in {base} and was not measured any more"),
        meaning: "what it measured is guarded no more".to_owned(),
        next: "measure it again, or compare with a newer base".to_owned(),
        ..finding(before)
    }
}

fn finding(before: &ImportedBenchmark) -> Finding {
    Finding {
        kind: FindingKind::Speed,
        name: format!("{}: {}", before.benchmark, before.measure),
        state: String::new(),
        severity: Severity::Note,
        reason: String::new(),
        meaning: String::new(),
        next: String::new(),
        avoid: String::new(),
        output: None,
    }
}

fn gaps(imported: &Imported) -> Option<Finding> {
    let gaps = &imported.gaps;
    (!gaps.is_empty()).then(|| crate::check::incomplete(&imported.name(), gaps))
}
