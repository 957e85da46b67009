//! What a search for a culprit found.

use serde::{Deserialize, Serialize};

use crate::bisect::{FailureModel, SearchResult};
use crate::hash::short;
use crate::speed::Measure;
use crate::test_id::TestId;

/// What tells a good commit from a bad one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// A test passes or fails.
    Test(TestId),
    /// A benchmark got worse.
    Bench {
        /// Its name, or a part that no other one has.
        name: String,
        /// What is measured; its time or rate if nothing is said.
        measure: Option<Measure>,
    },
    /// A command ends with 0 where all is well, with 125 where nothing can be said.
    Command(Vec<String>),
    /// A ratio of the policy, by its name, holds.
    Ratio(String),
}

impl Question {
    /// What is looked for, in words.
    pub fn words(&self) -> String {
        match self {
            Self::Test(test) => format!("test {test}"),
            Self::Bench { name, measure } => match measure {
                Some(measure) => format!("benchmark {name}, {measure}"),
                None => format!("benchmark {name}"),
            },
            Self::Command(words) => format!("command `{}`", words.join(" ")),
            Self::Ratio(name) => format!("ratio {name}"),
        }
    }
}

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
    /// Whether the good end could not be measured, and was taken for good as it was said to be.
    #[serde(default)]
    pub good_on_trust: bool,
    /// The bad end that was asked for, if it could not be measured and an earlier commit stands
    /// in its place.
    #[serde(default)]
    pub bad_asked: Option<CommitReport>,
    /// The command that may find more, where this search cannot.
    #[serde(default)]
    pub hint: Option<String>,
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
