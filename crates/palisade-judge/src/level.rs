//! How risky a change is.

use serde::{Deserialize, Serialize};

/// How risky a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Documentation and the like: no test can tell the difference.
    Low,
    /// Ordinary code or tests.
    Medium,
    /// Public items, manifests, or what is not understood.
    High,
    /// What everything stands on, or what the compiler does not check.
    Critical,
}

impl Level {
    /// The word for it in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Low => "Low",
            Self::Medium => "Medium",
            Self::High => "High",
            Self::Critical => "Critical",
        }
    }
}
