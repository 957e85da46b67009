//! What a check found, and the forms it is told in. Every form is made from the
//! same [`Report`]; none of them judges.

use std::fmt::Write as _;
use std::time::Duration;

mod html;
mod junit;
mod markdown;
mod sarif;
mod speed;
mod terminal;
mod trends;
mod words;

use serde::{Deserialize, Serialize};

pub use html::{HistoryPoint, html};
pub use junit::junit;
pub use markdown::markdown;
pub use sarif::sarif;
pub use speed::{amount, state_word};
pub(crate) use speed::{bound_word, named};
pub use terminal::{Paint, flaky_table, printable, risk_text, terminal};
pub use trends::{comparison, trends};
pub use words::{FindingDocument, Place, document, documents, numbers};

use crate::baseline::Tally;
use crate::finding::{Finding, Severity};
use crate::hash::short;
use crate::journal::Recall;
use crate::observation::{Millis, Run};
use crate::risk::Assessment;
use crate::scope::Scope;
use crate::scope::ShardNumber;
use crate::session::Revision;
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

impl RevisionReport {
    /// A revision of which no test was run.
    pub(crate) fn untested(revision: &Revision) -> Self {
        Self {
            name: revision.name(),
            commit: revision.subject.commit.clone(),
            subject: revision.commit.subject.clone(),
            tree: revision.subject.tree.clone(),
            dirty: revision.subject.dirty,
            tests: None,
            success_rate: None,
            source: None,
        }
    }
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

impl Report {
    /// The report in words.
    pub fn document(self) -> ReportDocument {
        let findings = documents(&self.findings, &self.base.name);
        Report {
            findings,
            schema: self.schema,
            verdict: self.verdict,
            exit_code: self.exit_code,
            base: self.base,
            candidate: self.candidate,
            unchanged: self.unchanged,
            scope: self.scope,
            risk: self.risk,
            min_success_rate: self.min_success_rate,
            runner: self.runner,
            seconds: self.seconds,
            speed: self.speed,
            recall: self.recall,
            shard: self.shard,
            runs: self.runs,
        }
    }
}

impl ReportDocument {
    /// The verdict in one sentence.
    pub fn sentence(&self) -> String {
        let base = &self.base.name;
        let blocking = self.blocking();
        let sentence = match self.verdict {
            Verdict::Pass if self.is_of_speed() => {
                format!("no benchmark became worse since {base}")
            }
            Verdict::Pass if self.unchanged => format!("nothing changed since {base}"),
            Verdict::Pass if self.scope.is_none() || self.risk.scope.is_none() => {
                format!("nothing that code is built from changed since {base}")
            }
            Verdict::Pass => format!("no test became worse since {base}"),
            Verdict::Regression => format!("{blocking} became worse since {base}"),
            Verdict::Incomparable => format!("{blocking} could not be measured"),
            Verdict::Inconclusive => format!("{blocking} could not be decided"),
        };
        match self.shard {
            Some(shard) => format!("{sentence}, in shard {shard}"),
            None => sentence,
        }
    }

    /// Whether only speed and memory were looked at.
    fn is_of_speed(&self) -> bool {
        let tests = [&self.base, &self.candidate].map(|revision| revision.tests);
        self.speed.is_some() && self.scope.is_none() && tests == [None, None]
    }

    /// The tests of a revision, in words; its commit's message where none were run.
    fn tests_of(&self, revision: &RevisionReport) -> String {
        match revision.tests {
            Some(tally) => tally_text(tally),
            None if self.is_of_speed() => revision.subject.clone(),
            None => "not known".to_owned(),
        }
    }

    /// What was looked at, in words.
    fn looked_at(&self) -> String {
        let tests = scope_text(self.scope.as_ref());
        let Some(speed) = &self.speed else {
            return tests;
        };
        let names = speed.benchmarks.iter().map(|result| &result.benchmark);
        let count = names.collect::<std::collections::BTreeSet<_>>().len();
        let benchmarks = counted(count, "benchmark");
        if self.is_of_speed() {
            benchmarks
        } else {
            format!("{tests}, and {benchmarks}")
        }
    }

    /// The findings that decide the verdict, and the notes.
    fn split(&self) -> (Vec<&FindingDocument>, Vec<&FindingDocument>) {
        let decides = |finding: &&FindingDocument| finding.severity != Severity::Note;
        self.findings.iter().partition(decides)
    }

    fn blocking(&self) -> String {
        let worst = self.findings.iter().map(|finding| finding.severity).min();
        let is_one = |finding: &&FindingDocument| Some(finding.severity) == worst;
        counted(self.findings.iter().filter(is_one).count(), "thing")
    }
}

/// A number of things, in words.
pub(crate) fn counted(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// The age of something, in words.
pub fn age(since_ms: i64, now_ms: i64) -> String {
    let seconds = Duration::from_millis(u64::try_from(now_ms - since_ms).unwrap_or(0)).as_secs();
    let units = [
        (86_400, "day"),
        (3_600, "hour"),
        (60, "minute"),
        (1, "second"),
    ];
    let unit = units.iter().find(|(size, _)| seconds >= *size);
    unit.map_or_else(
        || "less than a second".to_owned(),
        |(size, name)| {
            let count = seconds / size;
            let plural = if count == 1 { "" } else { "s" };
            format!("{count} {name}{plural}")
        },
    )
}

/// A tally in words.
fn tally_text(tally: Tally) -> String {
    let Tally {
        passing,
        failing,
        flaky,
        ignored,
    } = tally;
    let mut text = format!("{passing} of {} pass", tally.ran());
    if let Some(rate) = tally.success_rate() {
        let _ = write!(text, " ({rate:.2} %)");
    }
    for (count, word) in [(failing, "fail"), (flaky, "flaky"), (ignored, "ignored")] {
        if count > 0 {
            let _ = write!(text, ", {count} {word}");
        }
    }
    text
}

/// What a plan found, in words.
fn recall_text(recall: &Recall) -> String {
    let total = recall.total();
    if total == 0 {
        return "no failing test, so nothing that the plan could miss".to_owned();
    }
    let mut text = format!(
        "it selects {} of {}",
        recall.found,
        counted(total as usize, "failing test")
    );
    if !recall.missed.is_empty() {
        let missed: Vec<String> = recall.missed.iter().map(ToString::to_string).collect();
        let _ = write!(text, "; it misses {}", missed.join(", "));
    }
    text
}

/// How the state of a revision is known, in words.
fn source_text(source: &Source, now: Millis) -> String {
    let age = age(source.measured_ms, now);
    match source.origin {
        Origin::Store => format!(
            "stored run {}, {age} old, made at commit {}, tree {}",
            source
                .run
                .as_deref()
                .unwrap_or_default()
                .split('-')
                .next()
                .unwrap_or_default(),
            short(&source.commit),
            short(&source.tree)
        ),
        Origin::WorkingTree => "run now, in the working tree".to_owned(),
        Origin::Checkout => "run now, in a checkout beside the working tree".to_owned(),
        Origin::Shards => format!("merged from shards, {age} old"),
    }
}

/// Which tests were looked at, in words.
fn scope_text(scope: Option<&Scope>) -> String {
    let list = |names: &std::collections::BTreeSet<String>| {
        names
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ")
    };
    match scope {
        None => "no test: none can tell the revisions apart".to_owned(),
        Some(Scope::Workspace) => "all tests of the workspace".to_owned(),
        Some(Scope::Packages(names)) => format!("the tests of {}", list(names)),
        Some(Scope::Doctests(names)) => format!("the documentation tests of {}", list(names)),
        Some(Scope::Tests(tests)) => format!("{} tests", tests.len()),
        Some(Scope::Shard(shard)) => {
            let whole = scope_text(Some(&shard.of));
            format!("shard {} of {whole}", shard.number)
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::finding::FindingKind;
    use crate::level::Level;
    use crate::risk::{FileClass, FileRisk};

    /// A report with one broken test.
    pub(crate) fn example() -> ReportDocument {
        let revision = |name: &str, passing, failing| RevisionReport {
            name: name.to_owned(),
            commit: "1a2b3c4d5e6f".to_owned(),
            subject: "add the parser".to_owned(),
            tree: "aaaabbbbccccdddd".to_owned(),
            dirty: failing > 0,
            tests: Some(Tally {
                passing,
                failing,
                flaky: 0,
                ignored: 1,
            }),
            success_rate: Some(100.0 * passing as f64 / 10.0),
            source: Some(Source {
                origin: if failing > 0 {
                    Origin::WorkingTree
                } else {
                    Origin::Store
                },
                run: Some("0f1e2d3c-4b5a".to_owned()),
                commit: "1a2b3c4d5e6f".to_owned(),
                tree: "aaaabbbbccccdddd".to_owned(),
                measured_ms: 0,
                key: "rustc 1.95.0, x86_64".to_owned(),
            }),
        };
        let broken = FindingDocument {
            kind: FindingKind::Test,
            name: "a/lib/tests::adds".to_owned(),
            state: "newly_failing".to_owned(),
            severity: Severity::Regression,
            reason: "it failed in 6 of 6 runs, and in 0 of 6 at 1a2b3c4d5e".to_owned(),
            meaning: "the change broke it".to_owned(),
            next: "cargo palisade test --test a/lib/tests::adds".to_owned(),
            avoid: "do not call it flaky".to_owned(),
            output: Some("left: <1>\nright: & 2".to_owned()),
            place: None,
        };
        let renamed = FindingDocument {
            name: "a/lib/tests::subtracts".to_owned(),
            state: "renamed".to_owned(),
            severity: Severity::Note,
            reason: "it was called a/lib/tests::minus and has the same body".to_owned(),
            meaning: "it is the same test, and keeps its history".to_owned(),
            next: "nothing to do".to_owned(),
            avoid: String::new(),
            output: None,
            ..broken.clone()
        };
        Report {
            schema: 1,
            verdict: Verdict::Regression,
            exit_code: 1,
            base: revision("1a2b3c4d5e", 10, 0),
            candidate: revision("1a2b3c4d5e with changes", 9, 1),
            unchanged: false,
            scope: Some(Scope::Workspace),
            risk: Assessment {
                level: Some(Level::Medium),
                files: vec![FileRisk {
                    path: "a/src/lib.rs".to_owned(),
                    package: Some("a".to_owned()),
                    level: Level::Medium,
                    class: FileClass::Code,
                    reasons: vec!["1 of 2 packages depends on a".to_owned()],
                    lines: 3,
                    hunks: 1,
                }],
                changed: ["a".to_owned()].into(),
                dependents: ["b".to_owned()].into(),
                scope: Some(Scope::Workspace),
            },
            findings: vec![broken, renamed],
            min_success_rate: 99.0,
            runner: "cargo-nextest 0.9".to_owned(),
            seconds: 4.25,
            speed: None,
            recall: None,
            shard: None,
            runs: Vec::new(),
        }
    }

    #[test]
    fn the_schema_is_stable() {
        let json = serde_json::to_value(example()).expect("serialises");
        assert_eq!(json["schema"], 1);
        assert_eq!(json["verdict"], "regression");
        assert_eq!(json["exit_code"], 1);
        let finding = &json["findings"][0];
        for key in [
            "kind", "name", "state", "effect", "reason", "meaning", "next", "avoid", "output",
        ] {
            assert!(finding.get(key).is_some(), "{key}");
        }
        assert_eq!(finding["kind"], "test");
        assert_eq!(json["base"]["source"]["origin"], "store");
        assert_eq!(json["risk"]["level"], "medium");
    }

    #[test]
    fn ages_are_words() {
        for (seconds, words) in [
            (0, "less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "1 minute"),
            (7_300, "2 hours"),
            (200_000, "2 days"),
        ] {
            assert_eq!(age(0, seconds * 1000), words);
        }
        assert_eq!(age(5, 0), "less than a second");
    }
}
