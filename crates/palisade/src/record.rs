//! What is remembered: runs with their observations ([`Run`]), baselines, the entries of the
//! quarantine, and measurements of speed and memory ([`crate::speed`]). All of it is written
//! once and never changed.

use std::time::{SystemTime, UNIX_EPOCH};

use palisade_judge::flaky::QuarantineEntry;
use palisade_judge::observation::{Millis, Run};
use palisade_judge::speed::{Calibration, SpeedRun};
use serde::{Deserialize, Serialize};

use crate::journal::JournalEntry;
use crate::milestone::Milestone;
use crate::recover::Incident;

/// The present.
pub fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as Millis)
}

/// A name for a new record that no other machine gives.
pub fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

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
