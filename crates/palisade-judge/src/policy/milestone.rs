//! Where milestones are kept.

use serde::Deserialize;

/// Where milestones are kept.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MilestonePolicy {
    /// The folder of the workspace with those that git keeps, one file each.
    pub folder: String,
}

impl Default for MilestonePolicy {
    fn default() -> Self {
        Self {
            folder: "milestones".to_owned(),
        }
    }
}
