//! The regression guard of a Cargo workspace as a library: from a change to a
//! verdict on its tests.
#![forbid(unsafe_code)]

pub mod baseline;
pub mod check;
pub mod compare;
pub mod flaky;
pub mod git;
pub mod guard;
pub mod identity;
pub mod policy;
pub mod process;
pub mod proposal;
pub mod record;
pub mod report;
pub mod risk;
pub mod run;
pub mod source;
pub mod stats;
pub mod store;
pub mod verdict;
pub mod workspace;

pub use identity::{TargetKind, TestId};
