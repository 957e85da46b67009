//! What a search for a culprit found, in the forms it is told in.

use std::fmt::Write as _;

use crate::bisect::{FailureModel, SearchResult};
use crate::hash::short;
use crate::record::{BisectReport, CommitReport, CommitSummary, counted};

impl BisectReport {
    /// The answer in a sentence.
    pub fn sentence(&self) -> String {
        let names: Vec<String> = self.culprits.iter().map(CommitReport::words).collect();
        let percent = |confidence: f64| match confidence {
            all if all > 0.9995 => "99.9 %".to_owned(),
            part => format!("{:.1} %", 100.0 * part),
        };
        match &self.answer {
            SearchResult::Culprit { confidence, .. } => {
                let how = match self.model {
                    FailureModel::Certain => {
                        "it fails each time from there on, and never before".into()
                    }
                    FailureModel::Rates | FailureModel::Ratios => {
                        format!("{} likely", percent(*confidence))
                    }
                };
                match names.as_slice() {
                    [one] => format!("the culprit is {one}: {how}"),
                    many => format!(
                        "the culprit is one of {} that could not be told apart: {how}",
                        counted(many.len(), "commit")
                    ),
                }
            }
            SearchResult::Undecided { confidence, .. } => format!(
                "not decided after {}; likeliest, with {}: {}",
                counted(self.runs, "observation"),
                percent(*confidence),
                names.join(", ")
            ),
            SearchResult::Alike { confidence } => format!(
                "both ends show the same ({} likely): there is no culprit between them",
                percent(*confidence)
            ),
            SearchResult::Unmeasured { commit } => {
                format!(
                    "{}, an end of the search, cannot be measured",
                    short(commit)
                )
            }
            SearchResult::Contradiction => {
                "what was seen contradicts itself: the failure is not certain".to_owned()
            }
        }
    }

    /// The report as text.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", upper(&self.sentence()));
        for culprit in &self.culprits {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "  {}, {} {}",
                culprit.words(),
                culprit.author,
                culprit.date
            );
        }
        let _ = writeln!(
            text,
            "\n{} from {} (good) to {} (bad):",
            upper(&self.question.words()),
            self.good.words(),
            self.bad.words()
        );
        for note in self.notes() {
            let _ = writeln!(text, "  {note}");
        }
        for seen in &self.seen {
            let _ = writeln!(
                text,
                "  {}  {}  {}",
                short(&seen.commit),
                seen.words(),
                seen.subject
            );
        }
        let _ = writeln!(
            text,
            "{} of {} in {:.1} s (exit code {})",
            counted(self.runs, "observation"),
            counted(self.suspects + 1, "commit"),
            self.seconds,
            self.exit_code
        );
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "hint: {hint}");
        }
        text
    }

    /// What was done about an end that cannot be measured, in words.
    fn notes(&self) -> Vec<String> {
        let good = self.good_on_trust.then(|| {
            "the good end cannot be measured, and is taken for good as it was said to be".to_owned()
        });
        let bad = self.bad_asked.as_ref().map(|asked| {
            let asked = asked.words();
            format!("{asked}, the bad end that was asked for, cannot be measured")
        });
        good.into_iter().chain(bad).collect()
    }

    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("### {}\n\n", upper(&self.sentence()));
        for culprit in &self.culprits {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "- `{}` {} ({}, {})",
                short(&culprit.id),
                cell(&culprit.subject),
                cell(&culprit.author),
                culprit.date
            );
        }
        let _ = writeln!(
            text,
            "\n{}, good at `{}`, bad at `{}`; {} of {}.\n",
            upper(&self.question.words()),
            short(&self.good.id),
            short(&self.bad.id),
            counted(self.runs, "observation"),
            counted(self.suspects + 1, "commit"),
        );
        for note in self.notes().iter().chain(&self.hint) {
            let _ = writeln!(text, "{}.\n", cell(&upper(note)));
        }
        text.push_str("| commit | seen | subject |\n|---|---|---|\n");
        for seen in &self.seen {
            let _ = writeln!(
                text,
                "| `{}` | {} | {} |",
                short(&seen.commit),
                cell(&seen.words()),
                cell(&seen.subject)
            );
        }
        text
    }
}

impl CommitSummary {
    fn words(&self) -> String {
        match (&self.skipped, self.ratio) {
            (Some(why), _) => format!("skipped: {why}"),
            (None, Some(ratio)) => {
                let percent = 100.0 * (ratio - 1.0);
                format!("{percent:+.1} % ({})", counted(self.pairs, "pair"))
            }
            (None, None) => {
                let total = self.failures + self.passes;
                format!("failed {} of {total}", self.failures)
            }
        }
    }
}

/// A text as a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

/// A sentence with a capital letter.
fn upper(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}
