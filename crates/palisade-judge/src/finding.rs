//! Findings: what was found of a change, as data. The words for it are made where it is
//! reported.

use serde::{Deserialize, Serialize};

use crate::level::Level;
use crate::observation::Millis;
use crate::rerun::{DurationRerunResult, RerunResult};
use crate::scope::ShardNumber;
use crate::speed::{BenchmarkState, BoundDecision, Decision, Measure};
use crate::stats::Counts;
use crate::test_id::TestId;
use crate::test_set_diff::TestState;

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

/// One thing that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What it is about.
    pub subject: FindingSubject,
    /// What happened to it, with the evidence.
    pub cause: Cause,
    /// What it does to the verdict.
    pub severity: Severity,
    /// Who accepted it in the policy, if somebody did.
    pub accepted: Option<Acceptance>,
    /// What the failing test or the compiler said.
    pub output: Option<String>,
}

impl Finding {
    /// A finding that nobody accepted, and of which nothing was printed.
    pub fn new(subject: FindingSubject, cause: Cause, severity: Severity) -> Self {
        Self {
            subject,
            cause,
            severity,
            accepted: None,
            output: None,
        }
    }

    /// The kind of its subject.
    pub fn kind(&self) -> FindingKind {
        self.subject.kind()
    }
}

/// Measurements that are not decided within what the policy calls small, and are not suspicious
/// either.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RoughComparisons {
    /// How many measurements there are in all.
    pub all: usize,
    /// How many are equivalent within a wider margin.
    pub equivalent: usize,
    /// The widest of these margins, as a share.
    pub widest: f64,
    /// How many differ too much from launch to launch for any.
    pub noisy: usize,
    /// How many had no time for a first look.
    pub unseen: usize,
}

/// An entry of the policy that accepts a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acceptance {
    /// Who answers for it.
    pub owner: String,
    /// Why.
    pub reason: String,
}

/// What a finding is about.
#[derive(Clone, Debug, PartialEq)]
pub enum FindingSubject {
    /// A test.
    Test(TestId),
    /// The base of the comparison.
    Base,
    /// All tests together.
    Tests,
    /// The build of the tests.
    Build,
    /// The run of a revision, which is called that.
    Revision(String),
    /// The stored run of a revision.
    StoredRun(String),
    /// A shard of the tests.
    Shard(ShardNumber),
    /// A file: of results, or one that is staged.
    File(String),
    /// A test in a file that is staged.
    StagedTest {
        /// The file.
        path: String,
        /// The test's function.
        test: String,
    },
    /// The time that a hook has.
    Budget,
    /// The share of tests that pass.
    SuccessRate,
    /// The public API of a package.
    PublicApi(String),
    /// All benchmarks together.
    Benchmarks,
    /// A benchmark, or a target with benchmarks where there is no measure.
    Benchmark {
        /// Its name.
        name: String,
        /// What was measured.
        measure: Option<Measure>,
    },
    /// A benchmark of a file with results.
    ImportedBenchmark {
        /// Its name.
        name: String,
        /// What was measured.
        measure: Measure,
    },
    /// A bound of the policy.
    Bound {
        /// What the policy calls it.
        name: String,
        /// What it is about.
        measure: Measure,
    },
    /// A number in a document.
    Claim {
        /// The document.
        document: String,
        /// The line of the number, counted from 1; `None` where it is no longer there.
        line: Option<usize>,
        /// What the claim is called.
        name: String,
    },
    /// Numbers of a document that count the same.
    Count {
        /// The document.
        document: String,
        /// What they count.
        what: String,
    },
    /// The approval of the change.
    Approval,
    /// A monitor of the policy.
    Monitor(String),
    /// What another report was about.
    Told {
        /// Of what kind it was.
        kind: FindingKind,
        /// What it was called.
        name: String,
    },
}

impl FindingSubject {
    /// What kind of thing it is.
    pub fn kind(&self) -> FindingKind {
        match self {
            Self::Test(_) => FindingKind::Test,
            Self::Base
            | Self::Tests
            | Self::Build
            | Self::Revision(_)
            | Self::StoredRun(_)
            | Self::Shard(_)
            | Self::File(_)
            | Self::StagedTest { .. }
            | Self::Budget => FindingKind::Run,
            Self::SuccessRate => FindingKind::Rate,
            Self::PublicApi(_) => FindingKind::Api,
            Self::Benchmark {
                measure: Some(measure),
                ..
            }
            | Self::Bound { measure, .. } => match measure {
                Measure::PeakMemory | Measure::AllocationCount | Measure::AllocationBytes => {
                    FindingKind::Memory
                }
                _ => FindingKind::Speed,
            },
            Self::Benchmarks
            | Self::Benchmark { measure: None, .. }
            | Self::ImportedBenchmark { .. } => FindingKind::Speed,
            Self::Claim { .. } | Self::Count { .. } => FindingKind::Claim,
            Self::Approval => FindingKind::Risk,
            Self::Monitor(_) => FindingKind::Monitor,
            Self::Told { kind, .. } => *kind,
        }
    }
}

/// What happened to a subject, with the evidence.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// A test fails on the candidate.
    Failing(Failure),
    /// A test differs because of where it ran, and not because of the change.
    NotComparable(NotComparable),
    /// A test is gone.
    Missing {
        /// Whether it failed at the base.
        was_failing: bool,
    },
    /// A test ran and is ignored now.
    NewlyIgnored,
    /// A test takes longer.
    Slower(DurationRerunResult),
    /// A test failed and passes now.
    NewlyPassing {
        /// Whether the policy knows it to fail.
        is_known_failure: bool,
    },
    /// A test has another name.
    Renamed {
        /// The old one.
        from: TestId,
    },
    /// A test was ignored and passes now.
    NoLongerIgnored,
    /// A test is new, or its body is.
    New {
        /// Which of both.
        state: TestState,
        /// How often it ran.
        runs: u32,
    },
    /// Fewer tests pass, or are known to fail, than the policy wants.
    BelowMinimum {
        /// How many fail and are not known to.
        unknown: usize,
        /// How many ran.
        ran: usize,
        /// The share that counts, in percent.
        rate: f64,
        /// The least that the policy wants, in percent.
        minimum: f64,
        /// The share that passed at the base, in percent.
        before: Option<f64>,
    },
    /// No run of all tests is stored of a commit before the candidate.
    NoHistory {
        /// The candidate.
        head: String,
    },
    /// No test ran.
    NoTests,
    /// Tests have no outcome.
    Incomplete {
        /// Which, in words.
        gaps: Vec<String>,
    },
    /// The tests of a revision do not build.
    BuildFailed(BuildFailure),
    /// A stored run and a new one of the same tree differ.
    ReuseDiffers {
        /// How old the stored one is.
        age_ms: Millis,
        /// The tests that differ.
        tests: Vec<TestId>,
        /// Whether some ran in one of them only.
        lists_differ: bool,
    },
    /// A report is not that of a shard of the same check.
    ShardDiffers {
        /// The file of the report.
        report: String,
        /// The file of the first one.
        first: String,
        /// In what they differ.
        difference: ShardDifference,
    },
    /// There is no report of a shard.
    ShardMissing,
    /// Cargo stopped before it ran all targets.
    NotRun {
        /// The targets.
        targets: Vec<String>,
        /// How many tests they have.
        tests: usize,
    },
    /// The public API of a package is another one.
    ApiBreak {
        /// Compared with what.
        reference: ApiReferenceName,
        /// What version it needs: `major` or `minor`.
        version: String,
        /// The rules that are broken.
        rules: Vec<String>,
    },
    /// The public API of a package could not be compared.
    ApiNotCompared {
        /// Compared with what.
        reference: ApiReferenceName,
        /// What the tool said.
        why: String,
    },
    /// A benchmark was compared.
    Compared(Box<Decision>),
    /// Some of what was compared is equivalent within a wider margin than the policy's, or open.
    ComparedRoughly(RoughComparisons),
    /// Two files have results of a benchmark.
    ComparedFiles(FileComparison),
    /// A bound of the policy was measured.
    BoundMeasured(Box<BoundDecision>),
    /// A benchmark is at the base only; of files, in the first one only.
    BenchmarkGone,
    /// A benchmark is new.
    BenchmarkAdded,
    /// The benchmarks of a target are not known.
    NotListed {
        /// Why.
        why: String,
    },
    /// Benchmarks were not measured.
    NotMeasured(SpeedGap),
    /// A claim is not true.
    ClaimBroken(ClaimEvidence),
    /// Whether a claim is true was not shown.
    ClaimUnmeasured(ClaimEvidence),
    /// A claim held at the milestone and was not measured now.
    ClaimLeftOut(ClaimEvidence),
    /// A claim did not hold at the milestone either.
    ClaimStillBroken(ClaimEvidence),
    /// A claim held at the milestone and is in no document any more.
    ClaimGone {
        /// The number as it was written.
        written: String,
    },
    /// Numbers of a document contradict each other.
    Contradiction {
        /// The numbers as they are written, with their lines.
        places: Vec<(usize, String)>,
    },
    /// Somebody validated the change by hand.
    Approved {
        /// Who.
        by: String,
        /// What was done.
        note: String,
    },
    /// Nobody did who had to.
    NotApproved {
        /// What the change risks.
        level: Option<Level>,
        /// Who wrote it.
        authors: Vec<String>,
        /// An author who approved it.
        own: Option<String>,
    },
    /// The command of a monitor fails.
    MonitorFailed {
        /// The command.
        command: String,
        /// What repeated runs said.
        rerun: RerunResult,
        /// What broke it once.
        broken_by: Option<String>,
    },
    /// Nothing can be said of what is monitored.
    MonitorUnmeasured {
        /// Why.
        gap: MonitorGap,
        /// What broke it once.
        broken_by: Option<String>,
    },
    /// A hook had no time for it.
    LeftOut(HookGap),
    /// The policy that is staged cannot be used.
    PolicyUnreadable {
        /// Why.
        why: String,
    },
    /// A test is ignored from now on, without a reason.
    IgnoredWithoutReason,
    /// rustfmt could not be run.
    NotFormattable,
    /// rustfmt would write a file otherwise.
    NotFormatted,
    /// What another report said.
    Told(Box<ToldCause>),
}

/// What was seen of a test that fails on the candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// How it differs from the base.
    pub state: TestState,
    /// Whether it ran past its time.
    pub timed_out: bool,
    /// Its runs on the candidate.
    pub counts: Counts,
    /// Its runs on the base, if it has the test.
    pub base: Option<Counts>,
    /// What repeated runs said.
    pub rerun: Option<RerunResult>,
    /// What it is taken for.
    pub taken_for: FailureCause,
    /// Whether each revision was seen once, and nothing was run again.
    pub single_runs: bool,
}

/// What was seen of a test that depends on where it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotComparable {
    /// The runs of the candidate in the user's files.
    pub in_files: Counts,
    /// The runs of the candidate's tree in a checkout.
    pub in_checkout: Counts,
    /// The runs of the base, in a checkout.
    pub base: Counts,
}

impl NotComparable {
    /// Whether the change may have broken it all the same: it fails in the user's files, and a
    /// checkout cannot tell.
    pub fn is_open(&self) -> bool {
        self.in_files.passes == 0 && self.in_checkout.passes == 0
    }
}

/// What a failure is taken for.
#[derive(Clone, Debug, PartialEq)]
pub enum FailureCause {
    /// The policy knows it.
    Known {
        /// Who answers for it.
        owner: String,
        /// Why it may fail.
        reason: String,
    },
    /// The change broke it.
    Broken,
    /// The change made it flaky.
    MadeFlaky,
    /// It is flaky and in quarantine.
    Quarantined {
        /// Who answers for it.
        owner: String,
        /// Why.
        reason: String,
    },
    /// It was flaky before the change.
    Flaky,
    /// It may be chance.
    ProbablyFlaky {
        /// How many failures in as many runs would be the change.
        failures_to_blame: Option<u32>,
    },
    /// It fails at the base too.
    BrokenBefore,
    /// The runs do not tell.
    Undecided,
}

/// Which build failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildFailure {
    /// That of the base.
    Base,
    /// That of the candidate, and the base builds.
    Candidate,
    /// That of the candidate, and nothing is known of the base.
    CandidateAlone,
}

/// In what the report of a shard differs from the first one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardDifference {
    /// In the number of shards.
    Count {
        /// Of this report.
        of: u32,
        /// Of the first one.
        first: u32,
    },
    /// In the trees that are compared: of base and candidate, of this report and of the first.
    Trees([(String, String); 2]),
    /// In how the tests were shared out.
    Cut,
}

/// What a public API was compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiReferenceName {
    /// That of the base.
    Base,
    /// That of the last release.
    Release,
}

/// The results of a benchmark in two files.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FileComparison {
    /// What they say together.
    pub state: BenchmarkState,
    /// The value in the first file, in the measure's unit.
    pub before: f64,
    /// The value in the second file.
    pub after: f64,
    /// The second to the first; above 1 is worse.
    pub ratio: f64,
    /// The least that the ratio may be.
    pub low: f64,
    /// The most.
    pub high: f64,
    /// How far from 1 it must be to count.
    pub noise_threshold: f64,
}

/// Why benchmarks were not measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpeedGap {
    /// There is none on both revisions.
    NoneOnBoth,
    /// There is none that the change can reach.
    NoneInReach,
    /// The budget was over.
    Budget,
    /// They do not build.
    BuildFailed,
}

/// Whether a claim holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimState {
    /// It does.
    Holds,
    /// It does not.
    Broken,
    /// What proves it gave no number.
    Unmeasured,
    /// It was not to be measured here or now.
    LeftOut,
}

/// What was seen of a claim.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimEvidence {
    /// The number as it is written.
    pub written: String,
    /// Why it is in that state, in words.
    pub reason: String,
    /// What it was before.
    pub before: ClaimBefore,
}

/// What a claim was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimBefore {
    /// It is not compared with anything.
    NotCompared,
    /// It held at the milestone.
    Held,
    /// Nothing is known of it at the milestone.
    Unknown,
}

/// Why nothing can be said of what is monitored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MonitorGap {
    /// The budget was over.
    Budget,
    /// No benchmark has this in its name.
    NoBenchmark(String),
    /// One of two benchmarks was not measured.
    NoRatio {
        /// The benchmark that is divided.
        of: String,
        /// The one that it is divided by.
        to: String,
    },
    /// Its command said so, or could not be run.
    Command(String),
}

/// What a hook had no time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookGap {
    /// Format and rules of some files.
    Files,
    /// The claims.
    Claims,
    /// The claims, as the files are not what is staged.
    ClaimsOfStaged,
}

/// The words of another report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldCause {
    /// What happened, as a word for programs.
    pub state: String,
    /// What was seen.
    pub reason: String,
    /// What that means.
    pub meaning: String,
    /// What to do next.
    pub next: String,
    /// What not to do.
    pub avoid: String,
}
