//! Turns differences and judgements into findings, and findings into one verdict: every rule
//! that decides an exit code is in this folder.

mod approval;
mod claims;
mod monitor;
mod saved;
mod speed;
mod test_outcomes;

pub use approval::{Approval, is_same, judge_approval};
pub use claims::{ClaimResult, Contradiction, KnownClaim, judge_claims, judge_claims_since};
pub use monitor::{judge_monitor, judge_monitored, unmeasured_monitor};
pub use saved::{
    ImportedBenchmark, SavedBenchmarks, SavedTests, judge_saved_speed, judge_saved_tests,
    judge_single_runs,
};
use serde::{Deserialize, Serialize};
pub use speed::{UnlaunchedBenchmarks, UnpairedBenchmarks, judge_speed, judge_speed_by_default};
pub use test_outcomes::{TestEvidence, judge_tests};

use crate::finding::{Finding, Severity};

/// The answer of a check, with the exit code it ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing became worse.
    Pass,
    /// Something became worse.
    Regression,
    /// Something could not be measured, or the two revisions cannot be compared.
    Incomparable,
    /// The budget was over before the answer was clear.
    Inconclusive,
}

impl Verdict {
    /// The exit code: 0, 1, 3 or 4. (2 is a usage error.)
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Regression => 1,
            Self::Incomparable => 3,
            Self::Inconclusive => 4,
        }
    }

    /// The word for it in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Regression => "regression",
            Self::Incomparable => "could not measure",
            Self::Inconclusive => "inconclusive",
        }
    }

    /// The verdict that some findings make together. A regression that was found
    /// stands, whatever else could not be measured.
    pub fn of(findings: &[Finding]) -> Self {
        let any = |severity| findings.iter().any(|finding| finding.severity == severity);
        if any(Severity::Regression) {
            Self::Regression
        } else if any(Severity::Unmeasured) {
            Self::Incomparable
        } else if any(Severity::Undecided) {
            Self::Inconclusive
        } else {
            Self::Pass
        }
    }
}
