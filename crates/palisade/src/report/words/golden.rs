//! What `--json` prints of every cause.

use super::*;
use crate::finding::{
    Acceptance, ApiReferenceName, BuildFailure, ClaimBefore, ClaimEvidence, Failure, FailureCause,
    FileComparison, HookGap, MonitorGap, NotComparable, RoughComparisons, Severity,
    ShardDifference, SpeedGap,
};
use crate::flaky::Judgement;
use crate::level::Level;
use crate::rerun::{DurationRerunResult, RerunResult};
use crate::scope::ShardNumber;
use crate::speed::{BenchmarkState, Bound, BoundJudge, Decision, Limit, Measure};
use crate::stats::Counts;
use crate::test_id::{TargetKind, TestId};
use crate::test_set_diff::TestState;

fn test() -> TestId {
    TestId::new("a", TargetKind::Lib, "", "tests::adds")
}

fn counts(failures: u32, passes: u32) -> Counts {
    Counts { failures, passes }
}

fn failing(taken_for: FailureCause) -> (FindingSubject, Cause) {
    let rerun = RerunResult {
        judgement: Judgement::Broken,
        p: 0.002,
        candidate: counts(6, 0),
        base: Some(counts(0, 6)),
    };
    let failure = Failure {
        state: TestState::NewlyFailing,
        timed_out: false,
        counts: counts(6, 0),
        base: Some(counts(0, 6)),
        rerun: Some(rerun),
        taken_for,
        single_runs: false,
    };
    (FindingSubject::Test(test()), Cause::Failing(failure))
}

fn of_tests() -> Vec<(FindingSubject, Cause)> {
    let owner = || "ada".to_owned();
    let reason = || "upstream".to_owned();
    let of = |cause| (FindingSubject::Test(test()), cause);
    let slower = |slower| DurationRerunResult {
        slower,
        p: 0.0001,
        before_ms: 100.0,
        after_ms: 2500.0,
        runs: (6, 6),
    };
    let new = |state, runs| Cause::New { state, runs };
    let by_place = |in_files, in_checkout| {
        Cause::NotComparable(NotComparable {
            in_files,
            in_checkout,
            base: counts(6, 0),
        })
    };
    vec![
        of(by_place(counts(0, 1), counts(3, 0))),
        of(by_place(counts(6, 0), counts(0, 3))),
        of(by_place(counts(6, 0), counts(1, 0))),
        failing(FailureCause::Known {
            owner: owner(),
            reason: reason(),
        }),
        failing(FailureCause::Broken),
        failing(FailureCause::MadeFlaky),
        failing(FailureCause::Quarantined {
            owner: owner(),
            reason: reason(),
        }),
        failing(FailureCause::Flaky),
        failing(FailureCause::ProbablyFlaky {
            failures_to_blame: Some(5),
        }),
        failing(FailureCause::BrokenBefore),
        failing(FailureCause::Undecided),
        of(Cause::Missing { was_failing: true }),
        of(Cause::NewlyIgnored),
        of(Cause::Slower(slower(Some(true)))),
        of(Cause::Slower(slower(None))),
        of(Cause::NewlyPassing {
            is_known_failure: true,
        }),
        of(Cause::Renamed { from: test() }),
        of(Cause::NoLongerIgnored),
        of(new(TestState::Added, 1)),
        of(new(TestState::Changed, 60)),
        (
            FindingSubject::SuccessRate,
            Cause::BelowMinimum {
                unknown: 3,
                ran: 100,
                rate: 97.0,
                minimum: 99.0,
                before: Some(100.0),
            },
        ),
    ]
}

fn of_runs() -> Vec<(FindingSubject, Cause)> {
    let shard = || FindingSubject::Shard(ShardNumber { index: 2, count: 3 });
    let differs = |difference| {
        let cause = Cause::ShardDiffers {
            report: "two.json".to_owned(),
            first: "one.json".to_owned(),
            difference,
        };
        (shard(), cause)
    };
    let trees = |name: &str| (name.to_owned(), "bbbb".to_owned());
    let revision = || FindingSubject::Revision("candidate 1a2b".to_owned());
    let gaps = |count: usize| (0..count).map(|n| format!("t{n} has no outcome")).collect();
    let built = |failure| (FindingSubject::Build, Cause::BuildFailed(failure));
    vec![
        (
            FindingSubject::Base,
            Cause::NoHistory {
                head: "1a2b".to_owned(),
            },
        ),
        (FindingSubject::Tests, Cause::NoTests),
        (revision(), Cause::Incomplete { gaps: gaps(1) }),
        (revision(), Cause::Incomplete { gaps: gaps(7) }),
        built(BuildFailure::Base),
        built(BuildFailure::Candidate),
        built(BuildFailure::CandidateAlone),
        (
            FindingSubject::StoredRun("base 1a2b".to_owned()),
            Cause::ReuseDiffers {
                age_ms: 7_200_000,
                tests: vec![test()],
                lists_differ: true,
            },
        ),
        differs(ShardDifference::Count { of: 2, first: 3 }),
        differs(ShardDifference::Trees([trees("aaaa"), trees("cccc")])),
        differs(ShardDifference::Cut),
        (shard(), Cause::ShardMissing),
        (
            FindingSubject::File("log".to_owned()),
            Cause::NotRun {
                targets: vec!["a/test:it".to_owned()],
                tests: 12,
            },
        ),
    ]
}

fn of_speed() -> Vec<(FindingSubject, Cause)> {
    let bench = |measure| FindingSubject::Benchmark {
        name: "parse it".to_owned(),
        measure,
    };
    let compared = |state| {
        let decision = Decision {
            state,
            ..Decision::incomparable(Measure::Time, "it was seen")
        };
        let cause = Cause::Compared(Box::new(decision));
        (bench(Some(Measure::PeakMemory)), cause)
    };
    let files = |state| {
        let subject = FindingSubject::ImportedBenchmark {
            name: "parse".to_owned(),
            measure: Measure::Time,
        };
        let found = FileComparison {
            state,
            before: 100.0,
            after: 120.0,
            ratio: 1.2,
            low: 1.1,
            high: 1.3,
            noise_threshold: 0.1,
        };
        (subject, Cause::ComparedFiles(found))
    };
    let limit = Bound {
        limit: Limit::AtLeast(2.0),
        within: 0.05,
    };
    let held = BoundJudge::exact(limit, 1.5).expect("a value");
    let unrecorded = held.clone().unrecorded(&["A"], "B");
    let ratio = || FindingSubject::Bound {
        name: "simd".to_owned(),
        measure: Measure::Time,
    };
    let all = FindingSubject::Benchmarks;
    let rough = RoughComparisons {
        all: 130,
        equivalent: 22,
        widest: 0.031,
        noisy: 1,
        unseen: 4,
    };
    vec![
        compared(BenchmarkState::Improved),
        compared(BenchmarkState::Regressed),
        compared(BenchmarkState::Inconclusive),
        compared(BenchmarkState::Incomparable),
        (all.clone(), Cause::ComparedRoughly(rough)),
        files(BenchmarkState::Regressed),
        files(BenchmarkState::Inconclusive),
        (ratio(), Cause::BoundMeasured(Box::new(held))),
        (ratio(), Cause::BoundMeasured(Box::new(unrecorded))),
        (bench(None), Cause::BenchmarkGone),
        (bench(None), Cause::BenchmarkAdded),
        (
            bench(None),
            Cause::NotListed {
                why: "it does not list".to_owned(),
            },
        ),
        (all.clone(), Cause::NotMeasured(SpeedGap::NoneOnBoth)),
        (all.clone(), Cause::NotMeasured(SpeedGap::NoneInReach)),
        (all.clone(), Cause::NotMeasured(SpeedGap::Budget)),
        (all, Cause::NotMeasured(SpeedGap::BuildFailed)),
    ]
}

fn of_claims() -> Vec<(FindingSubject, Cause)> {
    let claim = |line| FindingSubject::Claim {
        document: "README.md".to_owned(),
        line,
        name: "size".to_owned(),
    };
    let seen = |before| ClaimEvidence {
        written: "11.5".to_owned(),
        reason: "measured 12".to_owned(),
        before,
    };
    vec![
        (
            claim(Some(3)),
            Cause::ClaimBroken(seen(ClaimBefore::NotCompared)),
        ),
        (
            claim(Some(3)),
            Cause::ClaimUnmeasured(seen(ClaimBefore::Held)),
        ),
        (claim(Some(3)), Cause::ClaimLeftOut(seen(ClaimBefore::Held))),
        (
            claim(Some(3)),
            Cause::ClaimStillBroken(seen(ClaimBefore::Unknown)),
        ),
        (
            claim(None),
            Cause::ClaimGone {
                written: "11.5".to_owned(),
            },
        ),
        (
            FindingSubject::Count {
                document: "README.md".to_owned(),
                what: "failing".to_owned(),
            },
            Cause::Contradiction {
                places: vec![(1, "8".to_owned()), (3, "9".to_owned())],
            },
        ),
    ]
}

fn of_the_rest() -> Vec<(FindingSubject, Cause)> {
    let monitor = || FindingSubject::Monitor("m".to_owned());
    let file = || FindingSubject::File("src/lib.rs".to_owned());
    let api = || FindingSubject::PublicApi("a".to_owned());
    let failed = Cause::MonitorFailed {
        command: "run".to_owned(),
        rerun: RerunResult {
            judgement: Judgement::Broken,
            p: 0.002,
            candidate: counts(6, 0),
            base: Some(counts(0, 6)),
        },
        broken_by: Some("by x".to_owned()),
    };
    let gap = |gap| {
        let cause = Cause::MonitorUnmeasured {
            gap,
            broken_by: None,
        };
        (monitor(), cause)
    };
    vec![
        (
            api(),
            Cause::ApiBreak {
                reference: ApiReferenceName::Base,
                version: "major".to_owned(),
                rules: vec!["function_missing".to_owned()],
            },
        ),
        (
            api(),
            Cause::ApiNotCompared {
                reference: ApiReferenceName::Release,
                why: "there is none".to_owned(),
            },
        ),
        (
            FindingSubject::Approval,
            Cause::Approved {
                by: "Ben".to_owned(),
                note: "ran it".to_owned(),
            },
        ),
        (
            FindingSubject::Approval,
            Cause::NotApproved {
                level: Some(Level::Critical),
                authors: vec!["Ada".to_owned()],
                own: Some("Ada".to_owned()),
            },
        ),
        (monitor(), failed),
        gap(MonitorGap::Budget),
        gap(MonitorGap::NoBenchmark("b".to_owned())),
        gap(MonitorGap::NoRatio {
            of: "b".to_owned(),
            to: "c".to_owned(),
        }),
        gap(MonitorGap::Command("it ended with 125".to_owned())),
        (FindingSubject::Budget, Cause::LeftOut(HookGap::Files)),
        (
            FindingSubject::Budget,
            Cause::LeftOut(HookGap::ClaimsOfStaged),
        ),
        (
            FindingSubject::File("palisade.toml".to_owned()),
            Cause::PolicyUnreadable {
                why: "it is not TOML".to_owned(),
            },
        ),
        (
            FindingSubject::StagedTest {
                path: "src/lib.rs".to_owned(),
                test: "adds".to_owned(),
            },
            Cause::IgnoredWithoutReason,
        ),
        (file(), Cause::NotFormattable),
        (file(), Cause::NotFormatted),
    ]
}

/// What `--json` prints of every cause.
#[test]
fn every_cause_has_its_words() {
    let parts = [
        of_tests(),
        of_runs(),
        of_speed(),
        of_claims(),
        of_the_rest(),
    ];
    let all = parts.into_iter().flatten();
    let findings: Vec<Finding> = all
        .map(|(subject, cause)| Finding::new(subject, cause, Severity::Undecided))
        .collect();
    let json = serde_json::to_string_pretty(&documents(&findings, "main"));
    insta::assert_snapshot!(json.expect("serialises"));
}

#[test]
fn what_is_accepted_names_who_answers_for_it() {
    let subject = FindingSubject::Test(test());
    let finding = Finding {
        accepted: Some(Acceptance {
            owner: "ada".to_owned(),
            reason: "replaced".to_owned(),
        }),
        ..Finding::new(subject, Cause::NewlyIgnored, Severity::Note)
    };
    let told = document(&finding, "main");
    assert!(
        told.reason.ends_with("; accepted by ada: replaced"),
        "{told:?}"
    );
    assert_eq!((told.next.as_str(), told.avoid.as_str()), (NOTHING, ""));
}

#[test]
fn a_failure_is_placed_where_the_test_panicked() {
    for (said, expected) in [
        (
            "thread 't' (12) panicked at a/src/lib.rs:12:5:\nleft: 1",
            Some(("a/src/lib.rs", 12)),
        ),
        ("thread 't' panicked at 'no', src/lib.rs:7:9", None),
        ("panicked at a\\src\\lib.rs:3:1:", Some(("a/src/lib.rs", 3))),
        ("panicked at /rustc/1/library/core/src/a.rs:3:1:", None),
        ("it said no", None),
    ] {
        let (subject, cause) = failing(FailureCause::Broken);
        let finding = Finding {
            output: Some(said.to_owned()),
            ..Finding::new(subject, cause, Severity::Regression)
        };
        let place = document(&finding, "main").place;
        let found = place
            .as_ref()
            .map(|place| (place.path.as_str(), place.line));
        assert_eq!(found, expected, "{said}");
    }
}

#[test]
fn what_another_report_told_is_told_again_as_it_was() {
    let (subject, cause) = failing(FailureCause::Broken);
    let finding = Finding {
        output: Some("said".to_owned()),
        ..Finding::new(subject, cause, Severity::Regression)
    };
    let told = document(&finding, "main");
    assert_eq!(document(&told.finding(), "another"), told);
}
