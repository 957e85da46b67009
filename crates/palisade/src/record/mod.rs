//! What is remembered: runs with their observations ([`Run`]), baselines, the entries of the
//! quarantine, and measurements of speed and memory ([`crate::speed`]). All of it is written
//! once and never changed.

use palisade_judge::flaky::QuarantineEntry;
use palisade_judge::observation::{Millis, Run};
use palisade_judge::speed::{Calibration, SpeedRun};
use serde::{Deserialize, Serialize};

mod advice;
mod bisection;
mod failure;
mod incident;
mod journal;
mod milestone;
mod report;
mod text;

pub use advice::Advice;
pub use bisection::{BisectReport, CommitReport, CommitSummary, Question};
pub use failure::{ConfirmedFailure, FailureKind};
pub use incident::{
    FOLDER, Incident, IncidentConfirmation, Revert, Stage, TimelineEntry, Validation,
};
pub use journal::{JournalEntry, JournalEvent, Recall, share_found};
pub use milestone::{KnownTests, Milestone, Snapshot};
pub use report::{FindingDocument, Origin, Place, Report, ReportDocument, RevisionReport, Source};
pub use text::{age, counted, shell_word};

/// A run that is the expected state of a branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaselineMark {
    /// The record's name.
    pub id: String,
    /// When it was recorded.
    pub recorded_ms: Millis,
    /// The branch; empty on a detached HEAD.
    pub branch: String,
    /// The run.
    pub run: String,
}

/// Any record, as one line of an export.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "record")]
pub enum Record {
    /// A run.
    Run(Run),
    /// A baseline.
    Baseline(BaselineMark),
    /// An entry of the quarantine.
    Quarantine(QuarantineEntry),
    /// A measurement of speed and memory.
    Speed(SpeedRun),
    /// What the guard is worth on one machine.
    Calibration(Calibration),
    /// A commit that later ones are held against.
    Milestone(Milestone),
    /// A regression with its culprit and the way back.
    Incident(Box<Incident>),
    /// What people and hooks did.
    Journal(JournalEntry),
}
