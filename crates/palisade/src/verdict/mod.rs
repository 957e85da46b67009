//! Turns differences and judgements into findings, and findings into one verdict.
//! Pure: every rule that decides an exit code is in this folder.

mod approval;
mod claims;
mod monitor;
mod saved;
mod speed;

use std::collections::BTreeMap;

pub use approval::{is_same, judge_approval};
pub use claims::{judge_claims, judge_claims_since};
pub use monitor::{judge_monitor, judge_monitored, unmeasured_monitor};
pub use saved::{judge_saved_speed, judge_saved_tests, judge_single_runs};
use serde::{Deserialize, Serialize};
pub use speed::{UnpairedBenchmarks, judge_speed};

use crate::baseline::{Expected, Tally};
use crate::flaky::{Judgement, Ledger, failures_to_blame};
use crate::policy::Policy;
use crate::stats::{Counts, failure_rate};
use crate::test_id::TestId;
use crate::test_set_diff::{Difference, TestState};

/// The answer of a check, with the exit code it ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing became worse.
    Pass,
    /// Something became worse.
    Regression,
    /// Something could not be measured, or the two revisions cannot be compared.
    Incomparable,
    /// The budget was over before the answer was clear.
    Inconclusive,
}

impl Verdict {
    /// The exit code: 0, 1, 3 or 4. (2 is a usage error.)
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Regression => 1,
            Self::Incomparable => 3,
            Self::Inconclusive => 4,
        }
    }

    /// The word for it in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Regression => "regression",
            Self::Incomparable => "could not measure",
            Self::Inconclusive => "inconclusive",
        }
    }

    /// The verdict that some findings make together. A regression that was found
    /// stands, whatever else could not be measured.
    pub fn of(findings: &[Finding]) -> Self {
        let any = |severity| findings.iter().any(|finding| finding.severity == severity);
        if any(Severity::Regression) {
            Self::Regression
        } else if any(Severity::Unmeasured) {
            Self::Incomparable
        } else if any(Severity::Undecided) {
            Self::Inconclusive
        } else {
            Self::Pass
        }
    }
}

/// How severe a finding is: what it does to the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It makes the verdict a regression.
    Regression,
    /// Something that was to be measured was not.
    Unmeasured,
    /// It leaves the verdict undecided. JSON calls it `open`.
    #[serde(rename = "open")]
    Undecided,
    /// It is worth knowing and changes nothing.
    Note,
}

/// What kind of thing a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A test.
    Test,
    /// A whole run, or the build it needs.
    Run,
    /// The success rate.
    Rate,
    /// The public API.
    Api,
    /// How fast something is.
    Speed,
    /// How much memory something takes.
    Memory,
    /// A number in a document.
    Claim,
    /// The risk of the change itself.
    Risk,
    /// What broke once, and is monitored.
    Monitor,
}

/// One thing that a report says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about.
    pub kind: FindingKind,
    /// The test, or the revision a run belongs to.
    pub name: String,
    /// What happened to it, as a word for programs.
    pub state: String,
    /// What it does to the verdict.
    #[serde(rename = "effect")]
    pub severity: Severity,
    /// What was seen, with numbers.
    pub reason: String,
    /// What that means.
    pub meaning: String,
    /// What to do next: a command where there is one.
    pub next: String,
    /// What not to do.
    pub avoid: String,
    /// What the failing test or the compiler said.
    pub output: Option<String>,
}

/// What repeated runs said about a test that failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RerunResult {
    /// The answer.
    pub judgement: Judgement,
    /// The p-value of Fisher's test; 1 where there is nothing to compare with.
    pub p: f64,
    /// The candidate's runs.
    pub candidate: Counts,
    /// The base's runs, if it has the test.
    pub base: Option<Counts>,
}

/// What repeated runs said about a test that seemed slower.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DurationRerunResult {
    /// Whether it is; `None` while that is open.
    pub slower: Option<bool>,
    /// The p-value of the rank test.
    pub p: f64,
    /// The base's median, in milliseconds.
    pub before_ms: f64,
    /// The candidate's median.
    pub after_ms: f64,
    /// How many runs each revision had.
    pub runs: (usize, usize),
}

/// All that the findings about tests are made from.
#[derive(Clone, Copy)]
pub struct TestEvidence<'a> {
    /// The tests that differ.
    pub differences: &'a [Difference],
    /// What repeated runs said about failures.
    pub judged: &'a BTreeMap<TestId, RerunResult>,
    /// What repeated runs said about durations.
    pub slow: &'a BTreeMap<TestId, DurationRerunResult>,
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
    /// How people call the base.
    pub base_name: &'a str,
}

/// The findings about the tests, worst first.
pub fn judge_tests(evidence: &TestEvidence<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = evidence
        .differences
        .iter()
        .filter_map(|d| finding(evidence, d))
        .collect();
    findings.extend(rate_finding(evidence));
    findings.sort_by_key(|finding| finding.severity);
    findings
}

fn finding(evidence: &TestEvidence<'_>, difference: &Difference) -> Option<Finding> {
    let state = difference.state;
    let base = evidence.base_name;
    let test = &difference.test;
    let draft = |severity, reason: String, meaning: &str, next: String, avoid: &str| Finding {
        kind: FindingKind::Test,
        name: test.to_string(),
        state: state_word(state).to_owned(),
        severity,
        reason,
        meaning: meaning.to_owned(),
        next,
        avoid: avoid.to_owned(),
        output: difference
            .after
            .as_ref()
            .and_then(|after| after.message.clone()),
    };
    let accept = |example: &str| {
        format!(
            "restore it, or accept it in palisade.toml: [[accepted]] test = \"{test}\", state = \"{example}\", owner, reason"
        )
    };
    let found = match state {
        TestState::NewlyFailing | TestState::AddedFailing | TestState::StillFailing => {
            return Some(failing(evidence, difference));
        }
        TestState::Missing if !evidence.complete => return None,
        TestState::Missing => {
            let before = difference.before.as_ref();
            let failed = before.is_some_and(|before| before.counts.failures > 0);
            let how = if failed {
                "failing"
            } else {
                "part of the baseline"
            };
            draft(
                Severity::Regression,
                format!("it was {how} at {base} and is gone"),
                "what it checked is checked no more, and a rate cannot show that",
                accept("missing"),
                "do not delete a failing test to raise the success rate",
            )
        }
        TestState::NewlyIgnored => draft(
            Severity::Regression,
            format!("it ran at {base} and is marked #[ignore] now"),
            "what it checked is checked no more",
            accept("newly_ignored"),
            "do not ignore a test without an owner and a reason",
        ),
        TestState::Slower => return slower(evidence, difference, &draft),
        other => return harmless(evidence, difference, other, &draft),
    };
    if let Some(accepted) = evidence.policy.accepted(test, state) {
        return Some(Finding {
            severity: Severity::Note,
            reason: format!(
                "{}; accepted by {}: {}",
                found.reason, accepted.owner, accepted.reason
            ),
            meaning: "the policy says that this was done on purpose".to_owned(),
            next: "nothing to do".to_owned(),
            avoid: String::new(),
            ..found
        });
    }
    Some(found)
}

/// Makes a finding from its severity, status, meaning, next command and warning.
type Draft<'a> = &'a dyn Fn(Severity, String, &str, String, &str) -> Finding;

/// A finding about a difference that makes nothing worse.
fn harmless(
    evidence: &TestEvidence<'_>,
    difference: &Difference,
    state: TestState,
    draft: Draft<'_>,
) -> Option<Finding> {
    let base = evidence.base_name;
    let note = |reason, meaning: &str, next: &str| {
        Some(draft(Severity::Note, reason, meaning, next.to_owned(), ""))
    };
    match state {
        TestState::NewlyPassing => {
            let known = evidence.policy.known_failure(&difference.test);
            let next = match known {
                Some(_) => "take it out of [[known_failure]] in palisade.toml",
                None => "nothing to do",
            };
            let reason = format!("it failed at {base} and passes now");
            note(reason, "the change repaired it", next)
        }
        TestState::Renamed => {
            let old = difference.old_name.as_ref().map(ToString::to_string);
            let reason = format!(
                "it was called {} and has the same body",
                old.unwrap_or_default()
            );
            note(
                reason,
                "it is the same test, and keeps its history",
                "nothing to do",
            )
        }
        TestState::NoLongerIgnored => {
            let reason = format!("it was ignored at {base} and passes now");
            note(reason, "one more thing is checked", "nothing to do")
        }
        _ => {
            let runs = difference
                .after
                .as_ref()
                .map_or(0, |after| after.counts.total());
            let times = if runs == 1 {
                "once".to_owned()
            } else {
                format!("{runs} times")
            };
            let luck = 100.0 * 0.95_f64.powf(f64::from(runs));
            let meaning = format!(
                "a test that fails one time in twenty comes this far in {luck:.0} % of the cases"
            );
            let reason = format!("it is {} and passed {times}", state.words());
            (runs > 0).then(|| note(reason, &meaning, "nothing to do"))?
        }
    }
}

/// A finding about a test that fails on the candidate.
fn failing(evidence: &TestEvidence<'_>, difference: &Difference) -> Finding {
    let test = &difference.test;
    let base = evidence.base_name;
    let after = difference.after.clone().unwrap_or_default();
    let judged = evidence.judged.get(test);
    let candidate = judged.map_or(after.counts, |judged| judged.candidate);
    let compared = counts_text(&after, judged, base);
    let mut finding = Finding {
        kind: FindingKind::Test,
        name: test.to_string(),
        state: state_word(difference.state).to_owned(),
        severity: Severity::Regression,
        reason: compared,
        meaning: String::new(),
        next: format!("cargo palisade test --test {}", quoted(test)),
        avoid: String::new(),
        output: after.message,
    };
    if let Some(known) = evidence.policy.known_failure(test) {
        finding.severity = Severity::Note;
        "known_failure".clone_into(&mut finding.state);
        finding.meaning = format!("a known failure of {}: {}", known.owner, known.reason);
        "nothing to do for this change".clone_into(&mut finding.next);
        return finding;
    }
    let quarantine = evidence.ledger.quarantine(test);
    let judgement = judged.map(|judged| judged.judgement);
    match judgement {
        Some(Judgement::Broken) => {
            "the change broke it".clone_into(&mut finding.meaning);
            "do not call it flaky, and do not ignore it: it fails each time"
                .clone_into(&mut finding.avoid);
        }
        Some(Judgement::MadeFlaky) => {
            let rate = failure_rate(candidate);
            "flaky".clone_into(&mut finding.state);
            finding.meaning = format!(
                "it is flaky as of this change: it fails in {:.1} % of its runs (95 % interval {:.1} to {:.1} %)",
                100.0 * rate.mean,
                100.0 * rate.low,
                100.0 * rate.high
            );
            "do not merge it and let it be blamed on a later change".clone_into(&mut finding.avoid);
        }
        Some(Judgement::Flaky | Judgement::ProbablyFlaky | Judgement::Undecided)
            if quarantine.is_some() =>
        {
            finding.severity = Severity::Note;
            "quarantined".clone_into(&mut finding.state);
            let (owner, reason) = quarantine
                .map(|q| (q.owner.as_str(), q.reason.as_str()))
                .unwrap_or_default();
            finding.meaning = format!("it is flaky and in quarantine ({owner}: {reason})");
            finding.next = format!("cargo palisade flaky show {}", quoted(test));
        }
        Some(Judgement::Flaky) => {
            finding.severity = Severity::Note;
            "flaky".clone_into(&mut finding.state);
            "it both passes and fails on the same tree, and did so before this change"
                .clone_into(&mut finding.meaning);
            finding.next = format!(
                "cargo palisade flaky quarantine {} --owner NAME --reason TEXT, or repair it",
                quoted(test)
            );
            "do not blame this change for it, and do not rerun until it is green"
                .clone_into(&mut finding.avoid);
        }
        Some(Judgement::ProbablyFlaky) => {
            finding.severity = Severity::Note;
            "probably_flaky".clone_into(&mut finding.state);
            let before = judged.and_then(|judged| judged.base).unwrap_or_default();
            let blame = failures_to_blame(candidate.total(), before);
            let blame = blame.map_or_else(String::new, |failures| {
                format!(
                    "; {failures} failures in {} runs would be the change",
                    candidate.total()
                )
            });
            finding.meaning = format!("it is probably flaky: that may be chance{blame}");
            finding.next = format!("cargo palisade flaky stress {}", quoted(test));
        }
        Some(Judgement::BrokenBefore) | None
            if difference.state == TestState::StillFailing || judgement.is_some() =>
        {
            finding.severity = Severity::Note;
            "still_failing".clone_into(&mut finding.state);
            finding.meaning = format!("it fails at {base} too: this change did not break it");
            finding.next = format!(
                "repair it, or name it in palisade.toml: [[known_failure]] test = \"{test}\", owner, reason"
            );
        }
        _ => {
            finding.severity = Severity::Undecided;
            "open".clone_into(&mut finding.state);
            "the runs so far do not tell whether the change did it"
                .clone_into(&mut finding.meaning);
            finding.next = format!("cargo palisade flaky stress {}", quoted(test));
            "do not take this for a pass".clone_into(&mut finding.avoid);
        }
    }
    finding
}

/// How often a test failed on both revisions, in words.
fn counts_text(after: &Expected, judged: Option<&RerunResult>, base: &str) -> String {
    let candidate = judged.map_or(after.counts, |judged| judged.candidate);
    let how = if after.timed_out {
        "ran past its time"
    } else {
        "failed"
    };
    let (failures, total) = (candidate.failures, candidate.total());
    let seen = format!("it {how} in {failures} of {total} runs");
    match judged.map(|judged| (judged.base, judged.p)) {
        Some((Some(counts), p)) => format!(
            "{seen}, and in {} of {} at {base} (Fisher's exact test, p = {})",
            counts.failures,
            counts.total(),
            p_value(p)
        ),
        Some((None, _)) => format!("{seen}, and has no counterpart at {base}"),
        None => seen,
    }
}

fn slower(
    evidence: &TestEvidence<'_>,
    difference: &Difference,
    draft: Draft<'_>,
) -> Option<Finding> {
    let test = &difference.test;
    let judged = evidence.slow.get(test)?;
    let (before, after) = judged.runs;
    let reason = format!(
        "its median went from {} to {} ({:.1} times; {before} and {after} runs, rank test, p = {})",
        millis(judged.before_ms),
        millis(judged.after_ms),
        judged.after_ms / judged.before_ms.max(1e-9),
        p_value(judged.p)
    );
    if let Some(accepted) = evidence.policy.accepted(test, TestState::Slower) {
        let by = format!("accepted by {}: {}", accepted.owner, accepted.reason);
        return Some(draft(
            Severity::Note,
            reason,
            &by,
            "nothing to do".to_owned(),
            "",
        ));
    }
    let next = format!("cargo palisade test --test {}", quoted(test));
    match judged.slower {
        Some(true) => Some(draft(
            Severity::Regression,
            reason,
            "it takes much longer, and noise does not explain it",
            next,
            "do not raise its time-out before you know why",
        )),
        // A slow first run that the others do not repeat is noise.
        Some(false) => None,
        None => Some(draft(
            Severity::Undecided,
            reason,
            "it may take much longer; the budget was over before that was clear",
            "cargo palisade check with a larger --budget".to_owned(),
            "do not take this for a pass",
        )),
    }
}

fn rate_finding(evidence: &TestEvidence<'_>) -> Option<Finding> {
    let minimum = evidence.policy.min_success_rate;
    let rate = evidence.after.guarded_rate(evidence.known)?;
    if rate >= minimum {
        return None;
    }
    let failing = evidence.after.failing;
    let unknown = failing - evidence.known.min(failing);
    Some(Finding {
        kind: FindingKind::Rate,
        name: "success rate".to_owned(),
        state: "below_minimum".to_owned(),
        severity: Severity::Regression,
        reason: format!(
            "{unknown} of {} tests fail and are not known to: {rate:.2} % is below min_success_rate = {minimum} %",
            evidence.after.ran()
        ),
        meaning: match evidence.before.success_rate() {
            Some(before) => format!(
                "at {} {before:.2} % of the tests passed",
                evidence.base_name
            ),
            None => format!("nothing ran at {}", evidence.base_name),
        },
        next: "repair them, or name each in palisade.toml: [[known_failure]] test, owner, reason"
            .to_owned(),
        avoid: "do not lower min_success_rate to get past this".to_owned(),
        output: None,
    })
}

fn state_word(state: TestState) -> &'static str {
    match state {
        TestState::NewlyFailing => "newly_failing",
        TestState::AddedFailing => "added_failing",
        TestState::Missing => "missing",
        TestState::NewlyIgnored => "newly_ignored",
        TestState::Slower => "slower",
        TestState::StillFailing => "still_failing",
        TestState::NewlyPassing => "newly_passing",
        TestState::Renamed => "renamed",
        TestState::NoLongerIgnored => "no_longer_ignored",
        TestState::Added => "added",
        TestState::Changed => "changed",
    }
}

fn p_value(p: f64) -> String {
    if p < 0.001 {
        "< 0.001".to_owned()
    } else {
        format!("{p:.3}")
    }
}

/// A test's name as one word of a shell command.
pub fn quoted(test: &TestId) -> String {
    let name = test.to_string();
    if name.contains([' ', '#', '<', '>', '\'', '&']) {
        format!("'{}'", name.replace('\'', "'\\''"))
    } else {
        name
    }
}

/// A duration as people read it.
fn millis(ms: f64) -> String {
    if ms < 1000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.1} s", ms / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::baseline::TestSet;
    use crate::test_id::TargetKind;
    use crate::test_set_diff::{SlowerRule, diff};

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
            before: base.tally(),
            after: candidate.tally(),
            known,
            complete: true,
            policy,
            ledger: &Ledger::default(),
            base_name: "main",
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
        assert!(
            findings
                .iter()
                .all(|f| f.state == "known_failure" && f.meaning.contains("ada"))
        );
        let (ninth, findings) = verdict(&base, &set(960, 9), &policy, Judgement::Broken);
        assert_eq!(ninth, Verdict::Regression);
        assert_eq!(findings[0].name, id(8).to_string());
        let rate = set(960, 9).tally().success_rate().expect("tests ran");
        assert!(rate > 99.0, "{rate}");
    }

    #[test]
    fn deleting_a_failing_test_is_a_regression() {
        let base = set(10, 1);
        let mut candidate = set(10, 1);
        candidate.tests.remove(&id(0));
        let (found, findings) = verdict(&base, &candidate, &Policy::default(), Judgement::Broken);
        assert_eq!(found, Verdict::Regression);
        assert_eq!(findings[0].state, "missing");
    }

    #[test]
    fn a_low_rate_is_a_regression_of_its_own() {
        let both = set(10, 1);
        let (found, findings) = verdict(&both, &both, &Policy::default(), Judgement::Broken);
        assert_eq!(found, Verdict::Regression);
        assert_eq!(findings[0].state, "below_minimum");
        assert_eq!(findings[1].state, "still_failing");
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
        assert!(findings[0].reason.contains("ada"));
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
