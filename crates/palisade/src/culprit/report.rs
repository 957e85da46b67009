//! What a search found, in the forms it is told in.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{Question, SearchState};
use crate::bisect::{CommitEvidence, FailureModel, Search, SearchResult};
use crate::hash::short;
use crate::report::counted;
use crate::session::{Session, SessionError};
use crate::stats::median;

/// A commit as people know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitReport {
    /// The full hash.
    pub id: String,
    /// The first line of its message.
    pub subject: String,
    /// Who wrote it.
    pub author: String,
    /// When, as `2026-08-01`.
    pub date: String,
}

impl CommitReport {
    pub(crate) fn of(session: &Session, id: &str) -> Result<Self, SessionError> {
        let (author, date) = session.repo.signature(id)?;
        Ok(Self {
            id: id.to_owned(),
            subject: session.repo.resolve(id)?.subject,
            author,
            date,
        })
    }

    /// Hash and subject.
    pub fn words(&self) -> String {
        format!("{} “{}”", short(&self.id), self.subject)
    }
}

/// All that was seen of a commit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommitSummary {
    /// The commit.
    pub commit: String,
    /// The first line of its message.
    pub subject: String,
    /// How often it failed.
    pub failures: u32,
    /// How often it passed.
    pub passes: u32,
    /// How many pairs of launches there were.
    pub pairs: usize,
    /// The median ratio of those to the good end, above 1 is worse.
    pub ratio: Option<f64>,
    /// Why it was skipped.
    pub skipped: Option<String>,
    /// How likely it is the culprit.
    pub probability: f64,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BisectReport {
    /// The version of this form.
    pub schema: u32,
    /// 0 for a culprit, 4 where the observations did not suffice, 3 where nothing could be
    /// found.
    pub exit_code: u8,
    /// What was looked for.
    pub question: Question,
    /// The good end.
    pub good: CommitReport,
    /// The bad end.
    pub bad: CommitReport,
    /// What the failure was taken for in the end.
    pub model: FailureModel,
    /// What was found.
    pub answer: SearchResult,
    /// The commits that the answer names, oldest first.
    pub culprits: Vec<CommitReport>,
    /// How many commits were suspects.
    pub suspects: usize,
    /// How many observations there were.
    pub runs: usize,
    /// What was seen of each commit that was looked at, oldest first, the good end before
    /// all.
    pub seen: Vec<CommitSummary>,
    /// How long it took in this call, in seconds.
    pub seconds: f64,
}

impl BisectReport {
    pub(super) fn of(
        session: &Session,
        search: &Search,
        state: &SearchState,
        answer: SearchResult,
    ) -> Result<Self, SessionError> {
        let named: &[String] = match &answer {
            SearchResult::Culprit { commits, .. } | SearchResult::Undecided { commits, .. } => {
                commits
            }
            _ => &[],
        };
        let named = named.iter().map(|id| CommitReport::of(session, id));
        let culprits = named.collect::<Result<Vec<_>, _>>()?;
        let probabilities = search.probabilities();
        let all = search.graph().nodes().iter().zip(search.evidence());
        let mut seen = Vec::new();
        for (at, (node, evidence)) in all.enumerate() {
            let CommitEvidence {
                counts,
                log_ratios,
                skipped,
            } = evidence;
            if counts.total() == 0 && log_ratios.is_empty() && !skipped {
                continue;
            }
            let mut log = state.log.iter();
            let why = log.find(|entry| entry.commit == node.id && entry.why.is_some());
            seen.push(CommitSummary {
                commit: node.id.clone(),
                subject: session.repo.resolve(&node.id)?.subject,
                failures: counts.failures,
                passes: counts.passes,
                pairs: log_ratios.len(),
                ratio: median(log_ratios).map(f64::exp),
                skipped: why.and_then(|observe| observe.why.clone()),
                probability: probabilities.get(at).copied().unwrap_or(0.0),
            });
        }
        // The good end stands last in the graph.
        if seen.last().is_some_and(|last| last.commit == state.good) {
            seen.rotate_right(1);
        }
        Ok(Self {
            schema: 1,
            exit_code: match &answer {
                SearchResult::Culprit { .. } => 0,
                SearchResult::Undecided { .. } => 4,
                SearchResult::Alike { .. }
                | SearchResult::Unmeasured { .. }
                | SearchResult::Contradiction => 3,
            },
            question: state.question.clone(),
            good: CommitReport::of(session, &state.good)?,
            bad: CommitReport::of(session, &state.bad)?,
            model: search.model(),
            answer,
            culprits,
            suspects: search.graph().suspects(),
            runs: search.runs(),
            seen,
            seconds: 0.0,
        })
    }

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
        text
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
