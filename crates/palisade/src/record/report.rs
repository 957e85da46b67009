//! What a check found.

use serde::{Deserialize, Serialize};

use super::Recall;
use crate::baseline::Tally;
use crate::coverage::Coverage;
use crate::finding::{Cause, Finding, FindingKind, FindingSubject, Severity, ToldCause};
use crate::observation::{Millis, Run};
use crate::risk::Assessment;
use crate::scope::{Scope, ShardNumber};
use crate::speed::SpeedReport;
use crate::verdict::Verdict;

/// Where the state of a revision comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// An earlier run.
    Store,
    /// A run in the user's files.
    WorkingTree,
    /// A run in a checkout beside them.
    Checkout,
    /// The reports of shards.
    Shards,
}

/// How the state of a revision is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Where it comes from.
    pub origin: Origin,
    /// The stored run.
    pub run: Option<String>,
    /// The commit that was checked out when it was measured.
    pub commit: String,
    /// The hash of the content that was measured.
    pub tree: String,
    /// When it was measured.
    pub measured_ms: Millis,
    /// What besides the tree the stored run and this revision have in common; empty for
    /// a new run.
    pub key: String,
}

/// One revision of the comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RevisionReport {
    /// What people call it.
    pub name: String,
    /// Its commit.
    pub commit: String,
    /// The first line of the commit's message.
    pub subject: String,
    /// The hash of its content.
    pub tree: String,
    /// Whether the content differs from the commit's.
    pub dirty: bool,
    /// Its tests by state; `None` if they are not known.
    pub tests: Option<Tally>,
    /// The share of its tests that ran and passed each time, in percent.
    pub success_rate: Option<f64>,
    /// How that is known.
    pub source: Option<Source>,
}

/// What a check found. With findings in words it is what `--json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report<F = Finding> {
    /// The version of this form; see `docs/report-schema.md`.
    pub schema: u32,
    /// The answer.
    pub verdict: Verdict,
    /// The exit code that goes with it.
    pub exit_code: u8,
    /// What the change is compared with.
    pub base: RevisionReport,
    /// The change.
    pub candidate: RevisionReport,
    /// Whether both revisions are the same tree.
    pub unchanged: bool,
    /// Which tests were looked at; `None` if no test can tell the revisions apart.
    pub scope: Option<Scope>,
    /// What the change risks.
    pub risk: Assessment,
    /// What was found, worst first.
    pub findings: Vec<F>,
    /// What was looked at, and what was left out.
    #[serde(default)]
    pub coverage: Coverage,
    /// The least success rate that the policy accepts, in percent.
    pub min_success_rate: f64,
    /// What ran the tests.
    pub runner: String,
    /// How long the check took.
    pub seconds: f64,
    /// What was measured of speed and memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<SpeedReport>,
    /// What the plan would have found of the failures that all tests show, where all were
    /// looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recall: Option<Recall>,
    /// Which shard of the check this is; `None` if it is the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<ShardNumber>,
    /// The runs that a shard's answer rests on, for those who merge the shards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<Run>,
}

/// A report in words.
pub type ReportDocument = Report<FindingDocument>;

/// A finding in words, as JSON has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingDocument {
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
    /// Where it is, if that is a place in a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file, from the workspace's root.
    pub path: String,
    /// The line, counted from 1.
    pub line: usize,
}

impl FindingDocument {
    /// The state in words for people.
    pub fn state_words(&self) -> String {
        self.state.replace('_', " ")
    }

    /// The finding that says the same.
    pub fn finding(&self) -> Finding {
        let subject = FindingSubject::Told {
            kind: self.kind,
            name: self.name.clone(),
        };
        let cause = Cause::Told(Box::new(ToldCause {
            state: self.state.clone(),
            reason: self.reason.clone(),
            meaning: self.meaning.clone(),
            next: self.next.clone(),
            avoid: self.avoid.clone(),
        }));
        Finding {
            output: self.output.clone(),
            ..Finding::new(subject, cause, self.severity)
        }
    }
}
