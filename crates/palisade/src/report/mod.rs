//! What a check found, and the forms it is told in. Every form is made from the
//! same [`Report`]; none of them judges.

use std::fmt::Write as _;

mod bisection;
mod chart;
mod html;
mod incident;
mod junit;
mod markdown;
mod sarif;
mod speed;
mod template;
mod terminal;
mod trends;
mod words;

pub use html::{ClaimLine, HistoryPoint, Surroundings, html};
pub use junit::junit;
pub use markdown::markdown;
pub use sarif::sarif;
pub use speed::{amount, state_word};
pub(crate) use speed::{bound_word, named};
pub use terminal::{Paint, flaky_table, printable, risk_text, terminal};
pub use trends::{comparison, trends};
pub use words::{document, documents, numbers};

use crate::baseline::Tally;
use crate::coverage::{Aspect, Coverage};
use crate::finding::Severity;
use crate::hash::short;
use crate::observation::Millis;
use crate::record::{
    FindingDocument, Origin, Recall, Report, ReportDocument, RevisionReport, Source, age, counted,
};
use crate::scope::Scope;
use crate::verdict::Verdict;

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
            coverage: self.coverage,
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
    /// The word for the verdict; a pass that left something out says of what it is one.
    pub fn verdict_words(&self) -> String {
        let word = self.verdict.word();
        let Coverage {
            looked_at,
            left_out,
            ..
        } = &self.coverage;
        let is_told = self.verdict == Verdict::Pass && !left_out.is_empty();
        if !is_told || looked_at.is_empty() {
            return word.to_owned();
        }
        let aspects: Vec<&str> = looked_at.iter().map(|what| words::aspect(*what)).collect();
        format!("{word} of {}", words::listed(&aspects))
    }

    /// The verdict in one sentence, with what was left out.
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
            Verdict::Pass if self.coverage.looked_at.contains(&Aspect::Speed) => {
                format!("no test or benchmark became worse since {base}")
            }
            Verdict::Pass => format!("no test became worse since {base}"),
            Verdict::Regression => format!("{blocking} became worse since {base}"),
            Verdict::Incomparable => format!("{blocking} could not be measured"),
            Verdict::Inconclusive => format!("{blocking} could not be decided"),
        };
        if let Some(shard) = self.shard {
            return format!("{sentence}, in shard {shard}");
        }
        let left_out = words::left_out_words(&self.coverage.left_out);
        [vec![sentence], left_out].concat().join("; ")
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

    /// What was looked at, and what of it is invisible, in words.
    fn looked_at(&self) -> String {
        let invisible = self.coverage.behind_features;
        let invisible = invisible.map(words::behind_features);
        let looked_at = [Some(self.things_looked_at()), invisible];
        looked_at
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("; ")
    }

    fn things_looked_at(&self) -> String {
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
        Some(Scope::Tests(tests)) => counted(tests.len(), "test"),
        Some(Scope::Shard(shard)) => {
            let whole = scope_text(Some(&shard.of));
            format!("shard {} of {whole}", shard.number)
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::coverage::LeftOutReason;
    use crate::finding::FindingKind;
    use crate::level::Level;
    use crate::risk::{Assessment, FileClass, FileRisk};

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
                shipped: vec!["a".to_owned(), "b".to_owned()],
            },
            findings: vec![broken, renamed],
            coverage: Coverage::default(),
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
    fn a_pass_says_of_what_it_is_one() {
        let mut report = example();
        report.verdict = Verdict::Pass;
        let told = |report: &ReportDocument| (report.verdict_words(), report.sentence());
        let plain = "no test became worse since 1a2b3c4d5e";
        assert_eq!(told(&report), ("pass".to_owned(), plain.to_owned()));
        report.coverage.looked_at = [Aspect::Tests, Aspect::Claims].into();
        let budget = LeftOutReason::Budget;
        report.coverage.leave_out(Aspect::Speed, budget);
        let (word, sentence) = told(&report);
        assert_eq!(word, "pass of tests and claims");
        assert_eq!(sentence, format!("{plain}; speed not measured: budget"));
        report.coverage.looked_at.insert(Aspect::Speed);
        report.coverage.left_out.clear();
        let coverage = &mut report.coverage;
        coverage.leave_out_part(Aspect::Speed, budget, (3, 12));
        coverage.leave_out_part(Aspect::Speed, LeftOutReason::Noise, (1, 12));
        let (word, sentence) = told(&report);
        assert_eq!(word, "pass of tests, claims and speed");
        assert_eq!(
            sentence,
            "no test or benchmark became worse since 1a2b3c4d5e; speed of 3 of 12 benchmarks not \
             measured: budget; speed of 1 of 12 benchmarks not decided: noise"
        );
        report.verdict = Verdict::Regression;
        assert_eq!(told(&report).0, "regression");
        let coverage = &mut report.coverage;
        coverage.left_out.clear();
        for what in [Aspect::Claims, Aspect::Speed] {
            coverage.leave_out(what, LeftOutReason::TestsOnly);
        }
        let (_, sentence) = told(&report);
        let end = "; claims and speed not measured: --tests-only";
        assert!(sentence.ends_with(end), "{sentence}");
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
}
