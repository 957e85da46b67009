//! The words for what happened to tests.

use super::{NOTHING, Words, name, p_value};
use crate::finding::{Failure, FailureCause, FindingSubject, NotComparable};
use crate::record::{counted, shell_word};
use crate::rerun::DurationRerunResult;
use crate::stats::{Counts, failure_rate};
use crate::test_id::TestId;
use crate::test_set_diff::TestState;

pub(super) fn failing(subject: &FindingSubject, failure: &Failure, base: &str) -> Words {
    let test = name(subject);
    let word = shell_word(&test);
    let words = |state, meaning: String| Words::new(state, seen(failure, base)).meaning(meaning);
    let stress = format!("cargo palisade flaky stress {word}");
    let again = format!("cargo palisade test --test {word}");
    let single = if failure.single_runs {
        "; there is one run of each revision, and no rerun"
    } else {
        ""
    };
    match &failure.taken_for {
        FailureCause::Known { owner, reason } => {
            let meaning = format!("a known failure of {owner}: {reason}");
            words("known_failure", meaning).next("nothing to do for this change")
        }
        FailureCause::Broken => words(state(failure.state), format!("the change broke it{single}"))
            .next(again)
            .avoid("do not call it flaky, and do not ignore it: it fails each time"),
        FailureCause::MadeFlaky => {
            let rate = failure_rate(failure.counts);
            let meaning = format!(
                "it is flaky as of this change: it fails in {:.1} % of its runs (95 % interval {:.1} to {:.1} %){single}",
                100.0 * rate.mean,
                100.0 * rate.low,
                100.0 * rate.high
            );
            words("flaky", meaning)
                .next(again)
                .avoid("do not merge it and let it be blamed on a later change")
        }
        FailureCause::Quarantined { owner, reason } => {
            let meaning = format!("it is flaky and in quarantine ({owner}: {reason})");
            words("quarantined", meaning).next(format!("cargo palisade flaky show {word}"))
        }
        FailureCause::Flaky => {
            let meaning =
                "it both passes and fails on the same tree, and did so before this change";
            words("flaky", meaning.to_owned())
                .next(format!(
                    "cargo palisade flaky quarantine {word} --owner NAME --reason TEXT, or repair it"
                ))
                .avoid("do not blame this change for it, and do not rerun until it is green")
        }
        FailureCause::ProbablyFlaky { failures_to_blame } => {
            let blame = failures_to_blame.map_or_else(String::new, |failures| {
                let total = failure.counts.total();
                format!("; {failures} failures in {total} runs would be the change")
            });
            let meaning = format!("it is probably flaky: that may be chance{blame}");
            words("probably_flaky", meaning).next(stress)
        }
        FailureCause::BrokenBefore => {
            let meaning = format!("it fails at {base} too: this change did not break it");
            words("still_failing", meaning).next(format!(
                "repair it, or name it in palisade.toml: [[known_failure]] test = \"{test}\", owner, reason"
            ))
        }
        FailureCause::Undecided => {
            let meaning = "the runs so far do not tell whether the change did it";
            words("open", meaning.to_owned()).next(stress).no_pass()
        }
    }
}

pub(super) fn not_comparable(seen: &NotComparable, base: &str) -> Words {
    let runs = |counts: Counts| counted(counts.total() as usize, "run");
    let failed = |counts: Counts| format!("{} of {}", counts.failures, runs(counts));
    let reason = format!(
        "it failed in {} in your files, in {} in a checkout of the same content, and in {} at {base}",
        failed(seen.in_files),
        failed(seen.in_checkout),
        failed(seen.base),
    );
    let words = Words::new("not_comparable", reason);
    let lacks = "it needs what a checkout does not have, such as a file that git ignores";
    let carry = "let git carry what it needs, or let it make that itself";
    if seen.is_open() {
        words
            .meaning(format!(
                "{lacks}; the failure in your files is another one, and whether the change did it \
                 is not shown"
            ))
            .next(carry)
            .no_pass()
    } else if seen.in_files.failures == 0 {
        words
            .meaning(format!(
                "{lacks}: that it fails at {base} says nothing, and that it passes now neither"
            ))
            .next(carry)
    } else {
        words
            .meaning(
                "what is in your files and not in git makes it fail: where both revisions are in \
                 checkouts, it passes",
            )
            .next("git status --ignored")
    }
}

/// How often a test failed on both revisions.
fn seen(failure: &Failure, base: &str) -> String {
    let how = if failure.timed_out {
        "ran past its time"
    } else {
        "failed"
    };
    let (failures, total) = (failure.counts.failures, failure.counts.total());
    let seen = format!("it {how} in {failures} of {total} runs");
    match failure.rerun.map(|rerun| (rerun.base, rerun.p)) {
        Some((Some(counts), p)) => format!(
            "{seen}, and in {} of {} at {base} (Fisher's exact test, p = {})",
            counts.failures,
            counts.total(),
            p_value(p)
        ),
        Some((None, _)) => format!("{seen}, and has no counterpart at {base}"),
        None => match failure.base {
            Some(counts) if counts.total() > 0 => format!(
                "{seen}, and in {} of {} at {base}",
                counts.failures,
                counts.total()
            ),
            _ => seen,
        },
    }
}

pub(super) fn missing(subject: &FindingSubject, was_failing: bool, base: &str) -> Words {
    let how = if was_failing {
        "failing"
    } else {
        "part of the baseline"
    };
    Words::new("missing", format!("it was {how} at {base} and is gone"))
        .meaning("what it checked is checked no more, and a rate cannot show that")
        .next(accept(subject, "missing"))
        .avoid("do not delete a failing test to raise the success rate")
}

pub(super) fn newly_ignored(subject: &FindingSubject, base: &str) -> Words {
    Words::new(
        "newly_ignored",
        format!("it ran at {base} and is marked #[ignore] now"),
    )
    .meaning("what it checked is checked no more")
    .next(accept(subject, "newly_ignored"))
    .avoid("do not ignore a test without an owner and a reason")
}

fn accept(subject: &FindingSubject, state: &str) -> String {
    let test = name(subject);
    format!(
        "restore it, or accept it in palisade.toml: [[accepted]] test = \"{test}\", state = \"{state}\", owner, reason"
    )
}

pub(super) fn slower(subject: &FindingSubject, seen: &DurationRerunResult) -> Words {
    let (before, after) = seen.runs;
    let words = Words::new(
        "slower",
        format!(
            "its median went from {} to {} ({:.1} times; {before} and {after} runs, rank test, p = {})",
            millis(seen.before_ms),
            millis(seen.after_ms),
            seen.after_ms / seen.before_ms.max(1e-9),
            p_value(seen.p)
        ),
    );
    if seen.slower == Some(true) {
        let test = shell_word(&name(subject));
        words
            .meaning("it takes much longer, and noise does not explain it")
            .next(format!("cargo palisade test --test {test}"))
            .avoid("do not raise its time-out before you know why")
    } else {
        words
            .meaning("it may take much longer; the budget was over before that was clear")
            .next("cargo palisade check with a larger --budget")
            .no_pass()
    }
}

pub(super) fn newly_passing(is_known_failure: bool, base: &str) -> Words {
    Words::new(
        "newly_passing",
        format!("it failed at {base} and passes now"),
    )
    .meaning("the change repaired it")
    .next(if is_known_failure {
        "take it out of [[known_failure]] in palisade.toml"
    } else {
        NOTHING
    })
}

pub(super) fn renamed(from: &TestId) -> Words {
    Words::new(
        "renamed",
        format!("it was called {from} and has the same body"),
    )
    .meaning("it is the same test, and keeps its history")
    .next(NOTHING)
}

pub(super) fn no_longer_ignored(base: &str) -> Words {
    Words::new(
        "no_longer_ignored",
        format!("it was ignored at {base} and passes now"),
    )
    .meaning("one more thing is checked")
    .next(NOTHING)
}

pub(super) fn new(state: TestState, runs: u32) -> Words {
    let times = if runs == 1 {
        "once".to_owned()
    } else {
        format!("{runs} times")
    };
    let luck = 100.0 * 0.95_f64.powf(f64::from(runs));
    Words::new(
        self::state(state),
        format!("it is {} and passed {times}", state.words()),
    )
    .meaning(format!(
        "a test that fails one time in twenty comes this far in {luck:.0} % of the cases"
    ))
    .next(NOTHING)
}

pub(super) fn below_minimum(
    (unknown, ran): (usize, usize),
    rate: f64,
    minimum: f64,
    before: Option<f64>,
    base: &str,
) -> Words {
    Words::new(
        "below_minimum",
        format!(
            "{unknown} of {ran} tests fail and are not known to: {rate:.2} % is below min_success_rate = {minimum} %"
        ),
    )
    .meaning(match before {
        Some(before) => format!("at {base} {before:.2} % of the tests passed"),
        None => format!("nothing ran at {base}"),
    })
    .next("repair them, or name each in palisade.toml: [[known_failure]] test, owner, reason")
    .avoid("do not lower min_success_rate to get past this")
}

fn state(state: TestState) -> &'static str {
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

/// A duration as people read it.
fn millis(ms: f64) -> String {
    if ms < 1000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.1} s", ms / 1000.0)
    }
}
