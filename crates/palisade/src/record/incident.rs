//! An incident: what broke, what was seen, what was done.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{BisectReport, CommitReport, Question};
use crate::bisect::{CommitObservation, SearchResult};
use crate::hash::short;
use crate::observation::Millis;
use crate::speed::Estimate;
use crate::verdict::Verdict;

/// The folder of the incidents, from the workspace's root.
pub const FOLDER: &str = ".palisade/incidents";

/// A change of a benchmark that is smaller than this is none.
const SMALL: f64 = 0.01;

/// A step of the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Run what fails afresh.
    Confirm,
    /// Find the culprit.
    Bisect,
    /// Make a branch that takes it back.
    Revert,
    /// Run on the branch what failed, and what it risks.
    Validate,
    /// Have it watched from now on.
    Monitor,
}

impl Stage {
    /// All steps in order.
    pub const ALL: [Self; 5] = [
        Self::Confirm,
        Self::Bisect,
        Self::Revert,
        Self::Validate,
        Self::Monitor,
    ];

    /// What is done, in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Confirm => "confirm the failure",
            Self::Bisect => "find the culprit",
            Self::Revert => "prepare the revert",
            Self::Validate => "validate the branch",
            Self::Monitor => "write the monitor",
        }
    }
}

/// Something that was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimelineEntry {
    /// Which step.
    pub stage: Stage,
    /// When it ended.
    pub at_ms: Millis,
    /// How long it took.
    pub seconds: f64,
    /// What came of it.
    pub words: String,
}

/// What fresh runs of what fails show on one commit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IncidentConfirmation {
    /// How often it failed.
    pub failures: usize,
    /// How often it passed.
    pub passes: usize,
    /// The ratio to the good end with its 95 % interval, for a benchmark.
    pub ratio: Option<Estimate>,
    /// Whether it fails.
    #[serde(rename = "is_red")]
    pub is_failing: bool,
    /// Whether nothing can be said.
    pub is_unknown: bool,
}

impl IncidentConfirmation {
    /// What fresh runs show together; `estimate` is that of ratios.
    pub fn of(seen: &[CommitObservation], estimate: impl Fn(&[f64]) -> Option<Estimate>) -> Self {
        let count = |bad: bool| seen.iter().filter(|seen| is_bad(seen) == Some(bad)).count();
        let (failures, passes) = (count(true), count(false));
        let mut pairs = Vec::new();
        for seen in seen {
            if let CommitObservation::LogRatios(ratios) = seen {
                pairs.extend_from_slice(ratios);
            }
        }
        let ratio = estimate(&pairs);
        let is_slower = |ratio: &Estimate| ratio.low > 1.0 && ratio.ratio > 1.0 + SMALL;
        Self {
            failures,
            passes,
            is_failing: failures > 0 || ratio.as_ref().is_some_and(is_slower),
            is_unknown: failures + passes == 0 && ratio.is_none(),
            ratio,
        }
    }

    /// What was seen.
    pub fn words(&self) -> String {
        match &self.ratio {
            Some(ratio) => format!(
                "{:+.1} % ({:+.1} % to {:+.1} %) against the good end",
                100.0 * (ratio.ratio - 1.0),
                100.0 * (ratio.low - 1.0),
                100.0 * (ratio.high - 1.0)
            ),
            None if self.is_unknown => "it could not be run".to_owned(),
            None => format!(
                "failed {} of {} fresh runs",
                self.failures,
                self.failures + self.passes
            ),
        }
    }
}

/// The branch that takes the culprit back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revert {
    /// Its name; `None` where there are conflicts.
    pub branch: Option<String>,
    /// The commit that reverts.
    pub commit: Option<String>,
    /// Files that later commits changed in the same places.
    pub conflicts: Vec<String>,
}

/// What was seen of the branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// What fresh runs of what failed show there.
    #[serde(rename = "red")]
    pub rerun: IncidentConfirmation,
    /// What a check says of the revert against the bad end.
    pub verdict: Verdict,
    /// What it found.
    pub findings: Vec<String>,
}

impl Validation {
    /// What was seen.
    pub fn words(&self) -> String {
        format!(
            "{}; the check of the revert says {}",
            self.rerun.words(),
            self.verdict.word()
        )
    }
}

/// An incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Its name.
    pub id: String,
    /// When it was opened.
    pub opened_ms: Millis,
    /// When the way back was prepared.
    pub closed_ms: Option<Millis>,
    /// What fails.
    pub question: Question,
    /// A commit where it is not.
    pub good: String,
    /// A commit where it is.
    pub bad: String,
    /// What was done.
    pub timeline: Vec<TimelineEntry>,
    /// What fresh runs of the bad end show.
    pub confirmation: Option<IncidentConfirmation>,
    /// What the search found.
    pub bisection: Option<BisectReport>,
    /// The branch.
    pub revert: Option<Revert>,
    /// What was seen of it.
    pub validation: Option<Validation>,
    /// What was added to the policy of the branch.
    pub monitor: Option<String>,
}

impl Incident {
    /// The page for people.
    pub fn page(&self, root: &Path) -> PathBuf {
        root.join(FOLDER).join(format!("{}.md", self.id))
    }

    pub(crate) fn is_done(&self, stage: Stage) -> bool {
        self.timeline.iter().any(|entry| entry.stage == stage)
    }

    /// A step without which another one has nothing to work with.
    pub(crate) fn missing_for(&self, stage: Stage) -> Option<Stage> {
        let at = Stage::ALL.iter().position(|other| *other == stage)?;
        let needed = match stage {
            // The branch is all that it needs.
            Stage::Monitor => &Stage::ALL[..3],
            _ => &Stage::ALL[..at],
        };
        needed.iter().find(|stage| !self.is_done(**stage)).copied()
    }

    /// Whether somebody has to look at it before it goes on.
    pub(crate) fn is_stuck(&self) -> bool {
        self.confirmation
            .as_ref()
            .is_some_and(|found| !found.is_failing)
            || self.bisection.is_some() && self.culprit().is_none()
            || self.revert.as_ref().is_some_and(|r| r.branch.is_none())
            || self
                .validation
                .as_ref()
                .is_some_and(|v| v.rerun.is_failing || v.rerun.is_unknown)
    }

    /// The one commit that is the culprit.
    pub fn culprit(&self) -> Option<&CommitReport> {
        let found = self.bisection.as_ref()?;
        let [culprit] = found.culprits.as_slice() else {
            return None;
        };
        matches!(found.answer, SearchResult::Culprit { .. }).then_some(culprit)
    }

    /// The branch that takes it back.
    pub fn branch(&self) -> Option<&str> {
        self.revert.as_ref()?.branch.as_deref()
    }

    /// The commit that does.
    pub(crate) fn reverted(&self) -> Option<&str> {
        self.revert.as_ref()?.commit.as_deref()
    }

    /// What it is about, in a line.
    pub fn title(&self) -> String {
        format!(
            "Incident {}: {} at {}",
            self.id,
            self.question.words(),
            short(&self.bad)
        )
    }
}

impl Incident {
    /// The exit code: 0 where the way back is prepared, 1 where somebody has to look at it, 3
    /// where the failure was not confirmed, 4 where the culprit is not known.
    pub fn exit_code(&self) -> u8 {
        let confirmed = self
            .confirmation
            .as_ref()
            .is_none_or(|found| found.is_failing);
        let found = self.bisection.as_ref();
        match () {
            () if !confirmed => 3,
            () if found
                .is_some_and(|found| !matches!(found.answer, SearchResult::Culprit { .. })) =>
            {
                4
            }
            () if self.is_stuck() => 1,
            () if self
                .validation
                .as_ref()
                .is_some_and(|v| v.verdict != Verdict::Pass) =>
            {
                1
            }
            () => 0,
        }
    }
}

/// Whether an observation is bad, good or neither.
fn is_bad(seen: &CommitObservation) -> Option<bool> {
    match seen {
        CommitObservation::Good => Some(false),
        CommitObservation::Bad => Some(true),
        CommitObservation::Skip | CommitObservation::LogRatios(_) => None,
    }
}
