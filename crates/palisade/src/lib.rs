#![doc = include_str!("../README.md")]
//!
//! # Floors
//!
//! ```text
//! flow              the commands: each a short script over the floors below
//! host    report    the machine and a session on it; the forms that findings are told in
//! record            what is observed, stored and reported: plain data
//! ─────────────
//! palisade_judge    what decides: risk, reruns, comparisons, verdict
//! ```
//!
//! A floor imports only those below it; `report` does not know `host`. The way of the data:
//!
//! ```text
//! git ─► changed files ─► risk ─► scope ─► run ─► observation ─► store
//! host                    judge            host                    │
//!                      report ◄─ verdict ◄─ test_set_diff ◄─ baseline (a set of tests)
//!                                judge         ▲
//!                                   reruns ────┘
//! ```
//!
//! The modules of [`palisade_judge`] are here, too.
//!
//! # What is absent
//!
//! - The modules of [`palisade_judge`] read no clock and no disk.
//! - [`host`] and [`report`] judge nothing.
//! - Nothing writes to the user's files, index or git objects.
//! - A run that did not finish is never taken for one that did.
#![forbid(unsafe_code)]

mod error;
pub mod flow;
pub mod host;
pub mod record;
pub mod report;

pub use error::Error;
pub use palisade_judge::{
    baseline, bisect, change, coverage, finding, flaky, hash, history, level, observation, policy,
    rerun, risk, scope, shard, speed, stats, surroundings, test_id, test_set_diff, verdict,
    workspace,
};
