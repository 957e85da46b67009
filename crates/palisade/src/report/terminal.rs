//! The report as text for a terminal: what blocks first, then what else there is,
//! then the numbers.

use std::fmt::Write as _;

use anstyle::AnsiColor;

use super::words::NOTHING;
use super::{recall_text, source_text, speed};
use crate::finding::Severity;
use crate::flaky::FlakyRecord;
use crate::hash::short;
use crate::level::Level;
use crate::observation::Millis;
use crate::record::{FindingDocument, ReportDocument, age, counted, shell_word};
use crate::risk::Assessment;
use crate::verdict::Verdict;

/// How many notes are told one by one.
const NOTES: usize = 12;

/// How many lines of a failing test's output are shown.
const OUTPUT_LINES: usize = 12;

/// Whether text may be coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// With ANSI colours.
    Colour,
    /// Without.
    Plain,
}

impl Paint {
    fn bold(self, colour: AnsiColor, text: &str) -> String {
        let style = colour.on_default().bold();
        match self {
            Self::Colour => format!("{style}{text}{style:#}"),
            Self::Plain => text.to_owned(),
        }
    }
}

/// The whole report.
pub fn terminal(report: &ReportDocument, now: Millis, paint: Paint) -> String {
    let mut text = String::new();
    let (blocking, notes) = report.split();
    for finding in blocking {
        push_finding(&mut text, finding, paint);
    }
    for finding in notes.iter().take(NOTES) {
        push_note(&mut text, finding, paint);
    }
    if notes.len() > NOTES {
        let more = notes.len() - NOTES;
        line(
            &mut text,
            &format!("… and {more} more notes: cargo palisade check --json"),
        );
    }
    if !notes.is_empty() {
        text.push('\n');
    }
    row(&mut text, "Risk", &risk_line(&report.risk));
    row(&mut text, "Looked at", &report.looked_at());
    for (name, revision) in [("Base", &report.base), ("Candidate", &report.candidate)] {
        let tests = report.tests_of(revision);
        row(&mut text, name, &format!("{}: {tests}", revision.name));
        if let Some(source) = &revision.source {
            row(&mut text, "", &source_text(source, now));
        }
    }
    if let Some(recall) = &report.recall {
        row(&mut text, "Plan", &recall_text(recall));
    }
    // Sides that come from stored runs share all of the key but the tree.
    let sources = [&report.base.source, &report.candidate.source];
    let stored = sources
        .into_iter()
        .flatten()
        .find(|source| !source.key.is_empty());
    if let Some(source) = stored {
        row(&mut text, "Reused for", &source.key);
    }
    if let Some(measured) = &report.speed {
        text.push('\n');
        push_table(
            &mut text,
            &speed::HEADS.map(str::to_owned),
            &speed::rows(measured),
        );
        text.push('\n');
        for (head, remark) in speed::remarks(measured, now) {
            row(&mut text, head, &remark);
        }
    }
    let colour = match report.verdict {
        Verdict::Pass => AnsiColor::Green,
        Verdict::Regression => AnsiColor::Red,
        Verdict::Incomparable | Verdict::Inconclusive => AnsiColor::Yellow,
    };
    let word = paint.bold(colour, &report.verdict_words());
    let rest = format!(
        "{word}: {} (exit code {}, {:.1} s, {})",
        report.sentence(),
        report.exit_code,
        report.seconds,
        report.runner
    );
    row(&mut text, "Verdict", &rest);
    if report.shard.is_some() {
        let next = "a shard is no verdict on the change: cargo palisade merge FILE...";
        row(&mut text, "Next", next);
    }
    text
}

/// A table with columns as wide as their widest cells.
fn push_table<const N: usize>(text: &mut String, heads: &[String; N], rows: &[[String; N]]) {
    let all = || std::iter::once(heads).chain(rows);
    let width = |column: usize| all().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
    for row in all() {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        line(text, cells.join("  ").trim_end());
    }
}

fn push_finding(text: &mut String, finding: &FindingDocument, paint: Paint) {
    let (colour, head) = match finding.severity {
        Severity::Regression => (AnsiColor::Red, "REGRESSION"),
        Severity::Unmeasured => (AnsiColor::Yellow, "NOT MEASURED"),
        Severity::Undecided => (AnsiColor::Yellow, "UNDECIDED"),
        Severity::Note => (AnsiColor::Blue, "note"),
    };
    let state = finding.state_words();
    line(
        text,
        &format!("{} {} ({state})", paint.bold(colour, head), finding.name),
    );
    for (name, value) in [
        ("Status", &finding.reason),
        ("Meaning", &finding.meaning),
        ("Next", &finding.next),
        ("Don't", &finding.avoid),
    ] {
        let value = value.strip_prefix("do not ").unwrap_or(value);
        if !value.is_empty() {
            line(text, &format!("  {name:<8} {value}"));
        }
    }
    if let Some(output) = &finding.output {
        let lines = output.lines().collect::<Vec<_>>();
        for shown in lines.iter().take(OUTPUT_LINES) {
            line(text, &format!("  | {}", printable(shown)));
        }
        if lines.len() > OUTPUT_LINES {
            line(
                text,
                &format!("  | … {} more lines", lines.len() - OUTPUT_LINES),
            );
        }
    }
    text.push('\n');
}

fn push_note(text: &mut String, finding: &FindingDocument, paint: Paint) {
    let state = finding.state_words();
    line(
        text,
        &format!(
            "{} {}: {state}",
            paint.bold(AnsiColor::Blue, "note"),
            finding.name
        ),
    );
    line(
        text,
        &format!("     {}; {}", finding.reason, finding.meaning),
    );
    if finding.next != NOTHING {
        line(text, &format!("     next: {}", finding.next));
    }
}

/// Takes control characters out of what a test printed: they could move the
/// cursor or change the terminal.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\t' { '·' } else { c })
        .collect()
}

fn line(text: &mut String, content: &str) {
    text.push_str(content.trim_end());
    text.push('\n');
}

fn row(text: &mut String, name: &str, value: &str) {
    line(text, &format!("{name:<10} {value}"));
}

fn risk_line(risk: &Assessment) -> String {
    let Some(level) = risk.level else {
        return "none: no file changed".to_owned();
    };
    let files = counted(risk.files.len(), "file");
    let first = risk
        .files
        .first()
        .map(|file| format!("{}: {}; {}", file.path, file.class, file.reasons.join("; ")));
    format!("{}, {files} ({})", level.word(), first.unwrap_or_default())
}

/// The risk of a change, file by file, with the plan that follows from it.
pub fn risk_text(risk: &Assessment, expected_seconds: Option<f64>, paint: Paint) -> String {
    let mut text = String::new();
    let Some(level) = risk.level else {
        return "Risk       none: no file changed\n".to_owned();
    };
    for file in &risk.files {
        let level = paint.bold(level_colour(file.level), file.level.word());
        line(&mut text, &format!("{level} {}: {}", file.path, file.class));
        line(&mut text, &format!("     {}", file.reasons.join("; ")));
        if file.hunks > 0 {
            let lines = counted(file.lines as usize, "new or changed line");
            let places = counted(file.hunks, "place");
            line(&mut text, &format!("     {lines} in {places}"));
        }
    }
    text.push('\n');
    row(
        &mut text,
        "Risk",
        &paint.bold(level_colour(level), level.word()),
    );
    for (number, step) in plan(risk).iter().enumerate() {
        let name = if number == 0 { "Plan" } else { "" };
        row(&mut text, name, &format!("{}. {step}", number + 1));
    }
    let time = expected_seconds.map_or_else(
        || "not known yet: no stored run has durations".to_owned(),
        |seconds| {
            format!("about {seconds:.1} s of tests by the last stored run, builds not counted")
        },
    );
    row(&mut text, "Time", &time);
    text
}

fn level_colour(level: Level) -> AnsiColor {
    match level {
        Level::Critical => AnsiColor::Red,
        Level::High => AnsiColor::Yellow,
        Level::Medium => AnsiColor::Blue,
        Level::Low => AnsiColor::Green,
    }
}

/// What a check of this change does, in order.
fn plan(risk: &Assessment) -> Vec<String> {
    let names = |set: &std::collections::BTreeSet<String>| {
        set.iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut steps = Vec::new();
    match &risk.scope {
        None => {
            steps.push("compare with the stored run of the base; nothing has to be run".to_owned());
            return steps;
        }
        Some(crate::scope::Scope::Workspace) => {
            steps.push("all tests of the workspace".to_owned());
        }
        Some(crate::scope::Scope::Doctests(packages)) => {
            steps.push(format!("documentation tests of {}", names(packages)));
        }
        Some(_) => {
            if !risk.changed.is_empty() {
                steps.push(format!("tests of what changed: {}", names(&risk.changed)));
            }
            if !risk.dependents.is_empty() {
                steps.push(format!(
                    "tests of what depends on it: {}",
                    names(&risk.dependents)
                ));
            }
        }
    }
    steps.push("new and changed tests many times, to name a flaky one now".to_owned());
    steps.push("new failures again on both revisions, to tell broken from flaky".to_owned());
    steps
}

/// The flaky tests as a table.
pub fn flaky_table(records: &[&FlakyRecord], now: Millis) -> String {
    if records.is_empty() {
        return "no test ever passed and failed on the same tree\n".to_owned();
    }
    let mut text = String::new();
    line(
        &mut text,
        "rate   95 % interval   failed of  last failure          test",
    );
    for record in records {
        let rate = record.rate;
        let interval = format!("{:.1} to {:.1} %", 100.0 * rate.low, 100.0 * rate.high);
        let seen = format!("{} of {}", record.counts.failures, record.counts.total());
        let last = match record.last_failure_ms {
            0 => "never".to_owned(),
            at => format!("{} ago", age(at, now)),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:>4.1} % {interval:<15} {seen:<10} {last:<21} {}",
            100.0 * rate.mean,
            record.test
        );
        if record.fails_now {
            line(
                &mut text,
                "       fails each time on the tree it was last seen on: broken, not flaky",
            );
        }
        match &record.quarantine {
            Some(quarantine) => {
                let issue = quarantine.issue.as_ref().map(|issue| format!(", {issue}"));
                let left = age(now, quarantine.expires_ms);
                line(
                    &mut text,
                    &format!(
                        "       in quarantine: {}, {}{}; ends after {}{} in a row, or in {left}",
                        quarantine.owner,
                        quarantine.reason,
                        issue.unwrap_or_default(),
                        quarantine.release_after,
                        if quarantine.release_after == 1 {
                            " pass"
                        } else {
                            " passes"
                        }
                    ),
                );
            }
            None if record.deserves_quarantine(now) => line(
                &mut text,
                &format!(
                    "       last failed at {}; next: cargo palisade flaky quarantine {} --owner NAME --reason TEXT",
                    short(&record.last_failure_commit),
                    shell_word(&record.test.to_string())
                ),
            ),
            None => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn colours_are_all_that_paint_adds() {
        let coloured = terminal(&example(), 60_000, Paint::Colour);
        assert!(coloured.starts_with("\u{1b}[1m\u{1b}[31mREGRESSION\u{1b}[0m "));
        let without = anstream::adapter::strip_str(&coloured).to_string();
        assert_eq!(without, terminal(&example(), 60_000, Paint::Plain));
    }

    #[test]
    fn a_regression_is_told_first_and_in_full() {
        insta::assert_snapshot!(terminal(&example(), 60_000, Paint::Plain), @r#"
            REGRESSION a/lib/tests::adds (newly failing)
              Status   it failed in 6 of 6 runs, and in 0 of 6 at 1a2b3c4d5e
              Meaning  the change broke it
              Next     cargo palisade test --test a/lib/tests::adds
              Don't    call it flaky
              | left: <1>
              | right: & 2

            note a/lib/tests::subtracts: renamed
                 it was called a/lib/tests::minus and has the same body; it is the same test, and keeps its history

            Risk       Medium, 1 file (a/src/lib.rs: code; 1 of 2 packages depends on a)
            Looked at  all tests of the workspace
            Base       1a2b3c4d5e: 10 of 10 pass (100.00 %), 1 ignored
                       stored run 0f1e2d3c, 1 minute old, made at commit 1a2b3c4d5e, tree aaaabbbbcc
            Candidate  1a2b3c4d5e with changes: 9 of 10 pass (90.00 %), 1 fail, 1 ignored
                       run now, in the working tree
            Reused for rustc 1.95.0, x86_64
            Verdict    regression: 1 thing became worse since 1a2b3c4d5e (exit code 1, 4.2 s, cargo-nextest 0.9)
        "#);
    }

    #[test]
    fn output_of_tests_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\tc\r"), "a·[31mb\tc·");
    }

    #[test]
    fn risk_is_told_file_by_file() {
        insta::assert_snapshot!(risk_text(&example().risk, Some(2.0), Paint::Plain), @r#"
            Medium a/src/lib.rs: code
                 1 of 2 packages depends on a
                 3 new or changed lines in 1 place

            Risk       Medium
            Plan       1. all tests of the workspace
                       2. new and changed tests many times, to name a flaky one now
                       3. new failures again on both revisions, to tell broken from flaky
            Time       about 2.0 s of tests by the last stored run, builds not counted
        "#);
    }
}
