//! What a comparison of speed and memory says.

use serde::{Deserialize, Serialize};

use super::{BenchmarkResult, BoundDecision, Calibration, Fingerprint, Measure, Shift};

/// What is known about a bound of the policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamedBound {
    /// What the policy calls it, or the benchmark it is about.
    pub name: String,
    /// What was measured.
    pub measure: Measure,
    /// What is known.
    pub decision: BoundDecision,
}

/// All that was measured and decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpeedReport {
    /// On what.
    pub machine: Fingerprint,
    /// Each measure of each benchmark.
    pub benchmarks: Vec<BenchmarkResult>,
    /// The bounds of the policy.
    pub bounds: Vec<NamedBound>,
    /// How the clocks of all benchmarks moved.
    pub shift: Option<Shift>,
    /// How those moved that the change cannot have reached.
    pub environment: Option<Shift>,
    /// How many launches there were.
    pub launches: usize,
    /// How many of them ran while other programs used more than half of the processors;
    /// `None` where the system does not say.
    #[serde(default)]
    pub disturbed: Option<usize>,
    /// Which share of their time they waited for a processor.
    pub waited: f64,
    /// What this guard is worth on this machine, if it was calibrated here.
    pub calibration: Option<Calibration>,
    /// What else there is to say.
    pub notes: Vec<String>,
}
