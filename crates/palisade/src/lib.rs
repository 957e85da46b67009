#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! ```text
//! git ─► changed files ─► risk ─► scope ─► run ─► observation ─► store
//!        (git, source)                                             │
//!                      report ◄─ verdict ◄─ test_set_diff ◄─ baseline (a set of tests)
//!                                   │          ▲
//!                                   └─ flaky ──┘  reruns of both revisions, ledger
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | `git`, `workspace`, `source` | the two trees, the packages and who depends on whom, what the source says without compiling it |
//! | `risk` | changed files to classes, levels with reasons, and the tests they can affect |
//! | `run` | tests by cargo-nextest or `cargo test`, documentation tests by `cargo test --doc`; sees, never judges |
//! | `record`, `store`, `quarantine` | what is remembered, where, and what follows for flaky tests |
//! | `verdict`, `report` | every rule that decides an exit code, and the forms it is told in |
//! | `api` | breaks of the public API, where cargo-semver-checks is installed |
//! | `session`, `check`, `merge` | the whole path, also in parts |
//!
//! The modules of [`palisade_judge`] are here, too.
//!
//! # What is absent
//!
//! - [`verdict`], [`risk`] and the modules of [`palisade_judge`] read no clock and no disk.
//! - [`run`] judges nothing; [`report`] judges nothing.
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
    baseline, bisect, change, finding, flaky, hash, history, level, observation, policy, rerun,
    risk, scope, shard, speed, stats, test_id, test_set_diff, verdict, workspace,
};
