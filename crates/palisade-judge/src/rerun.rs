//! What runs more than once: new tests, those that fail, and those that seem slower.

use crate::flaky::Judgement;
use crate::stats::Counts;

/// What repeated runs said about a test that failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RerunResult {
    /// The answer.
    pub judgement: Judgement,
    /// The p-value of Fisher's test; 1 where there is nothing to compare with.
    pub p: f64,
    /// The candidate's runs.
    pub candidate: Counts,
    /// The base's runs, if it has the test.
    pub base: Option<Counts>,
}

/// What repeated runs said about a test that seemed slower.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DurationRerunResult {
    /// Whether it is; `None` while that is open.
    pub slower: Option<bool>,
    /// The p-value of the rank test.
    pub p: f64,
    /// The base's median, in milliseconds.
    pub before_ms: f64,
    /// The candidate's median.
    pub after_ms: f64,
    /// How many runs each revision had.
    pub runs: (usize, usize),
}
