//! The words for what happened to whole runs.

use std::fmt::Write as _;

use super::{Words, name};
use crate::finding::{BuildFailure, FindingSubject, ShardDifference};
use crate::hash::short;
use crate::observation::Millis;
use crate::record::{age, counted};
use crate::test_id::TestId;

pub(super) fn no_history(head: &str) -> Words {
    Words::new(
        "no_history",
        format!("of no commit before {head} a run of all tests is stored"),
    )
    .meaning("the tests are judged by themselves: none may fail that is not known to")
    .next("keep the store for the next check, or share it: --store postgres://…")
}

pub(super) fn no_tests() -> Words {
    Words::new("no_tests", "no test ran on either revision")
        .meaning("nothing was measured, and that is not a pass")
        .next("write a test for what changed")
}

pub(super) fn incomplete(gaps: &[String]) -> Words {
    let reason = match gaps {
        [one] => one.clone(),
        _ => format!("{} tests have no outcome", gaps.len()),
    };
    Words::new("incomplete", reason)
        .meaning("what was not measured can hide a regression")
        .next("run it again; if it hangs, lower run.test_time_out in palisade.toml")
        .no_pass()
        .output(first(gaps))
}

/// The first of some lines, and how many more there are.
fn first(lines: &[String]) -> String {
    const NAMED: usize = 5;
    let mut text = lines[..lines.len().min(NAMED)].join("\n");
    if lines.len() > NAMED {
        let _ = write!(text, "\nand {} more", lines.len() - NAMED);
    }
    text
}

pub(super) fn build_failed(failure: BuildFailure, base: &str) -> Words {
    match failure {
        BuildFailure::Base => Words::new("build_failed", "the base does not build")
            .meaning("there is nothing to compare the change with")
            .next("cargo palisade check --base REV, with a revision that builds")
            .no_pass(),
        BuildFailure::Candidate | BuildFailure::CandidateAlone => {
            let reason = match failure {
                BuildFailure::Candidate => format!("the tests do not build, and did at {base}"),
                _ => "the tests do not build".to_owned(),
            };
            Words::new("build_failed", reason)
                .meaning("no test could run")
                .next("cargo test --no-run")
        }
    }
}

pub(super) fn reuse_differs(age_ms: Millis, tests: &[TestId], lists_differ: bool) -> Words {
    let named: Vec<String> = tests.iter().map(ToString::to_string).collect();
    let what = if lists_differ {
        "only once ran"
    } else {
        "there is another outcome of"
    };
    Words::new(
        "reuse_differs",
        format!(
            "it is {} old and was measured again: {what} {}",
            age(0, age_ms),
            counted(tests.len(), "test")
        ),
    )
    .meaning("they are flaky, or depend on something besides files, compiler, machine and settings")
    .next("cargo palisade check --fresh; cargo palisade flaky list")
    .avoid("do not trust stored runs before you know why")
    .output(named.join("\n"))
}

pub(super) fn shard_differs(report: &str, first: &str, difference: &ShardDifference) -> Words {
    let difference = match difference {
        ShardDifference::Count { of, first } => {
            format!("are parts of {of} and of {first} shards")
        }
        ShardDifference::Trees(trees) => {
            let words = |(base, candidate): &(String, String)| {
                format!("{} with {}", short(base), short(candidate))
            };
            let [ours, theirs] = [&trees[0], &trees[1]].map(words);
            format!("compare other trees: {ours}, and {theirs}")
        }
        ShardDifference::Cut => "were cut by different histories".to_owned(),
    };
    Words::new(
        "shard_differs",
        format!("{report} and {first} {difference}"),
    )
    .meaning("shards of different checks say nothing together")
    .next("run all shards of one commit again, with the same store")
    .no_pass()
}

pub(super) fn shard_missing(subject: &FindingSubject) -> Words {
    let number = match subject {
        FindingSubject::Shard(number) => number.to_string(),
        _ => name(subject),
    };
    Words::new("shard_missing", "there is no report of it")
        .meaning("what was not measured can hide a regression")
        .next(format!(
            "cargo palisade check --shard {number} --json, then merge again"
        ))
        .no_pass()
}

pub(super) fn not_run(targets: &[String], tests: usize) -> Words {
    Words::new(
        "not_run",
        format!(
            "cargo stopped at the first target that failed and did not run {}, {}",
            targets.join(", "),
            counted(tests, "test")
        ),
    )
    .meaning("the verdict is about the others")
    .next("run the tests with --no-fail-fast")
    .no_pass()
}
