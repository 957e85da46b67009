//! The report as Markdown, for a pull request.

use std::fmt::Write as _;

use super::{recall_text, speed};
use crate::observation::Millis;
use crate::record::{FindingDocument, ReportDocument, counted};
use crate::risk::Assessment;
use crate::speed::SpeedReport;
use crate::verdict::Verdict;

/// The whole report.
pub fn markdown(report: &ReportDocument, now: Millis) -> String {
    let mut text = String::new();
    push_verdict(&mut text, report);
    let (blocking, notes) = report.split();
    for finding in blocking {
        push_blocking(&mut text, finding);
    }
    push_revisions(&mut text, report);
    if let Some(recall) = &report.recall {
        let _ = writeln!(text, "\nThe plan: {}.", recall_text(recall));
    }
    if let Some(measured) = &report.speed {
        push_speed(&mut text, measured, now);
    }
    push_notes(&mut text, &notes);
    push_risk(&mut text, &report.risk);
    text
}

fn push_verdict(text: &mut String, report: &ReportDocument) {
    let mark = match report.verdict {
        Verdict::Pass => "✅",
        Verdict::Regression => "❌",
        Verdict::Incomparable | Verdict::Inconclusive => "⚠️",
    };
    let (word, sentence) = (report.verdict_words(), report.sentence());
    // Writing to a string cannot fail.
    let _ = writeln!(text, "### {mark} {word}: {sentence}\n");
}

/// A finding that decides the verdict.
fn push_blocking(text: &mut String, finding: &FindingDocument) {
    let state = finding.state_words();
    let place = finding.place.as_ref();
    let place = place.map_or_else(String::new, |at| format!(", at `{}:{}`", at.path, at.line));
    let _ = writeln!(text, "**`{}`** is {state}{place}\n", finding.name);
    for (name, value) in [
        ("Status", &finding.reason),
        ("Meaning", &finding.meaning),
        ("Next", &finding.next),
        ("What not to do", &finding.avoid),
    ] {
        if !value.is_empty() {
            let _ = writeln!(text, "- {name}: {}", escape(value));
        }
    }
    if let Some(output) = &finding.output {
        let fence = fence(output);
        let _ = write!(
            text,
            "\n<details><summary>Output</summary>\n\n{fence}text\n"
        );
        let _ = write!(text, "{}\n{fence}\n\n</details>\n", output.trim_end());
    }
    text.push('\n');
}

/// Both revisions, and what was looked at in them.
fn push_revisions(text: &mut String, report: &ReportDocument) {
    let _ = writeln!(text, "| | commit | tests |\n|---|---|---|");
    for (name, revision) in [("base", &report.base), ("candidate", &report.candidate)] {
        let tests = report.tests_of(revision);
        let _ = writeln!(text, "| {name} | `{}` | {tests} |", revision.name);
    }
    let _ = writeln!(text, "\nLooked at {}.", report.looked_at());
}

fn push_notes(text: &mut String, notes: &[&FindingDocument]) {
    if notes.is_empty() {
        return;
    }
    let count = counted(notes.len(), "note");
    let _ = writeln!(text, "\n<details><summary>{count}</summary>\n");
    for note in notes {
        let state = note.state_words();
        let _ = writeln!(text, "- `{}`: {state}: {}", note.name, escape(&note.reason));
    }
    let _ = writeln!(text, "\n</details>");
}

fn push_risk(text: &mut String, risk: &Assessment) {
    let Some(level) = risk.level else {
        return;
    };
    let (word, files) = (level.word(), counted(risk.files.len(), "file"));
    let _ = writeln!(
        text,
        "\n<details><summary>Risk: {word}, {files}</summary>\n"
    );
    for file in &risk.files {
        let (level, reasons) = (file.level.word(), escape(&file.reasons.join("; ")));
        let (path, class) = (&file.path, &file.class);
        let _ = writeln!(text, "- {level} `{path}`: {class}; {reasons}");
    }
    let _ = writeln!(text, "\n</details>");
}

fn push_speed(text: &mut String, measured: &SpeedReport, now: Millis) {
    let _ = writeln!(text, "\n| {} |", speed::HEADS.join(" | "));
    let _ = writeln!(text, "|{}", "---|".repeat(speed::HEADS.len()));
    for [what, rest @ ..] in speed::rows(measured) {
        let rest = rest.map(|cell| escape(&cell)).join(" | ");
        let _ = writeln!(text, "| `{}` | {rest} |", what.replace('|', "\\|"));
    }
    text.push('\n');
    for (head, remark) in speed::remarks(measured, now) {
        let _ = writeln!(text, "- {head}: {}", escape(&remark));
    }
}

/// A fence longer than any run of backticks in what it holds.
fn fence(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    "`".repeat(3.max(longest + 1))
}

/// Takes the meaning from characters that would start HTML or emphasis.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '*' | '[' | ']' | '|' => {
                escaped.push('\\');
                escaped.push(c);
            }
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn the_whole_report() {
        insta::assert_snapshot!(markdown(&example(), 0), @r#"
            ### ❌ regression: 1 thing became worse since 1a2b3c4d5e

            **`a/lib/tests::adds`** is newly failing

            - Status: it failed in 6 of 6 runs, and in 0 of 6 at 1a2b3c4d5e
            - Meaning: the change broke it
            - Next: cargo palisade test --test a/lib/tests::adds
            - What not to do: do not call it flaky

            <details><summary>Output</summary>

            ```text
            left: <1>
            right: & 2
            ```

            </details>

            | | commit | tests |
            |---|---|---|
            | base | `1a2b3c4d5e` | 10 of 10 pass (100.00 %), 1 ignored |
            | candidate | `1a2b3c4d5e with changes` | 9 of 10 pass (90.00 %), 1 fail, 1 ignored |

            Looked at all tests of the workspace.

            <details><summary>1 note</summary>

            - `a/lib/tests::subtracts`: renamed: it was called a/lib/tests::minus and has the same body

            </details>

            <details><summary>Risk: Medium, 1 file</summary>

            - Medium `a/src/lib.rs`: code; 1 of 2 packages depends on a

            </details>
        "#);
    }

    #[test]
    fn output_cannot_leave_its_fence() {
        assert_eq!(fence("a ``` b"), "````");
        assert_eq!(fence("plain"), "```");
    }
}
