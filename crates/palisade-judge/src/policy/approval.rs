//! Which changes a second person must validate by hand.

use serde::Deserialize;

use crate::level::Level;

/// Which changes a second person must validate by hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApprovalPolicy {
    /// The least risk from which on a change needs an approval; none does if nothing is
    /// said.
    pub from: Option<Level>,
    /// Whether an author's own approval counts.
    pub by_author: bool,
}
