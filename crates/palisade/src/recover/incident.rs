//! An incident: what broke, what was seen, what was done.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::is_bad;
use crate::bisect::{CommitObservation, SearchResult};
use crate::culprit::{BisectReport, CommitReport, Question, SearchState, replace};
use crate::hash::short;
use crate::observation::Millis;
use crate::record::{new_id, now};
use crate::speed::Estimate;
use crate::verdict::Verdict;

/// The folder of the incidents, from the workspace's root.
pub const FOLDER: &str = ".palisade/incidents";

/// A change of a benchmark that is smaller than this is none.
const SMALL: f64 = 0.01;

/// Why an incident cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IncidentError {
    /// There is none of that name.
    #[error("find an incident called {0}")]
    None(String),
    /// No incident is open, and the store has no run of the tests of a commit.
    #[error("find an open incident, or a run of the tests of {0} in the store")]
    NoRun(String),
    /// No incident is open, and no test is known to fail that none was about.
    #[error("find an open incident, or a test that fails at {commit}: {why}")]
    NoFailingTest {
        /// The commit.
        commit: String,
        /// Why there is none.
        why: String,
    },
    /// No incident is open, and several tests fail.
    #[error("tell which of the tests is meant that fail at {commit}: {tests}")]
    ManyFailingTests {
        /// The commit.
        commit: String,
        /// Their names.
        tests: String,
    },
    /// The file is no incident.
    #[error("read {} as an incident", .path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The file cannot be written.
    #[error("keep the incident in {}", .path.display())]
    Keep {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A step needs what an earlier one finds.
    #[error("{} before {}", .stage.words(), .missing.words())]
    TooEarly {
        /// The step.
        stage: Stage,
        /// The step that is missing.
        missing: Stage,
    },
    /// No single commit is known to be the culprit.
    #[error("take a culprit back: no single commit is known to be it")]
    NoCulprit,
    /// No branch was made.
    #[error("find the branch of the incident")]
    NoBranch,
}

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
    pub(super) fn of(
        seen: &[CommitObservation],
        estimate: impl Fn(&[f64]) -> Option<Estimate>,
    ) -> Self {
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
    pub(super) fn new(search: &SearchState) -> Self {
        let opened_ms = now();
        let day = chrono::DateTime::from_timestamp_millis(opened_ms).unwrap_or_default();
        Self {
            id: format!("{}-{}", day.format("%Y%m%d"), &new_id()[..6]),
            opened_ms,
            closed_ms: None,
            question: search.question.clone(),
            good: search.good.clone(),
            bad: search.bad.clone(),
            timeline: Vec::new(),
            confirmation: None,
            bisection: None,
            revert: None,
            validation: None,
            monitor: None,
        }
    }

    pub(super) fn load(root: &Path, id: &str) -> Result<Self, IncidentError> {
        let path = root.join(FOLDER).join(format!("{id}.json"));
        let text = fs::read(&path).map_err(|_| IncidentError::None(id.to_owned()))?;
        serde_json::from_slice(&text).map_err(|source| IncidentError::Form { path, source })
    }

    /// The incident that was opened last and is still open, if one is.
    pub(super) fn newest_open(root: &Path) -> Result<Option<Self>, IncidentError> {
        let entries = fs::read_dir(root.join(FOLDER)).into_iter().flatten();
        let ids = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let id = name.strip_suffix(".json")?;
            (!id.ends_with(".search")).then(|| id.to_owned())
        });
        let mut open = Vec::new();
        for id in ids {
            let incident = Self::load(root, &id)?;
            if incident.closed_ms.is_none() {
                open.push(incident);
            }
        }
        Ok(open.into_iter().max_by_key(|incident| incident.opened_ms))
    }

    /// Writes it for the next run, and for people.
    pub(super) fn save(&self, root: &Path) -> Result<(), IncidentError> {
        let folder = root.join(FOLDER);
        let path = folder.join(format!("{}.json", self.id));
        let keep = |path: PathBuf| move |source| IncidentError::Keep { path, source };
        let text = serde_json::to_vec_pretty(self).map_err(|source| IncidentError::Form {
            path: path.clone(),
            source,
        })?;
        replace(&path, &text).map_err(keep(path))?;
        let page = self.page(root);
        replace(&page, self.markdown().as_bytes()).map_err(keep(page.clone()))
    }

    /// The page for people.
    pub fn page(&self, root: &Path) -> PathBuf {
        root.join(FOLDER).join(format!("{}.md", self.id))
    }

    pub(super) fn is_done(&self, stage: Stage) -> bool {
        self.timeline.iter().any(|entry| entry.stage == stage)
    }

    /// A step without which another one has nothing to work with.
    pub(super) fn missing_for(&self, stage: Stage) -> Option<Stage> {
        let at = Stage::ALL.iter().position(|other| *other == stage)?;
        let needed = match stage {
            // The branch is all that it needs.
            Stage::Monitor => &Stage::ALL[..3],
            _ => &Stage::ALL[..at],
        };
        needed.iter().find(|stage| !self.is_done(**stage)).copied()
    }

    /// Whether somebody has to look at it before it goes on.
    pub(super) fn is_stuck(&self) -> bool {
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
    pub(super) fn reverted(&self) -> Option<&str> {
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
