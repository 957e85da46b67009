#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! ```text
//! git ─► changed files ─► risk ─► scope ─► run ─► record ─► store
//!        (git, source)                                        │
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
//! | `test_id`, `record`, `store` | what makes two observations the same test, what is remembered, and where |
//! | `baseline`, `test_set_diff` | the state of a tree as a set of tests, and the differences of two of them |
//! | `flaky`, `stats` | the ledger of contradictory outcomes, quarantine, exact tests and intervals |
//! | `verdict`, `report` | every rule that decides an exit code, and the forms it is told in |
//! | `api` | breaks of the public API, where cargo-semver-checks is installed |
//! | `session`, `check`, `shard`, `merge` | the whole path, also in parts |
//!
//! # What is absent
//!
//! - [`bisect`], [`test_set_diff`], [`verdict`], [`risk`], [`stats`], [`speed`] and [`history`]
//!   read no clock and no disk.
//! - [`run`] judges nothing; [`report`] judges nothing.
//! - Nothing writes to the user's files, index or git objects.
//! - A run that did not finish is never taken for one that did.
#![forbid(unsafe_code)]

pub mod api;
pub mod baseline;
pub mod benchmark_comparison;
pub mod bisect;
pub mod check;
pub mod claims;
pub mod culprit;
pub mod flaky;
pub mod git;
pub mod history;
pub mod hooks;
pub mod import;
pub mod journal;
pub mod measure;
pub mod merge;
pub mod milestone;
pub mod policy;
pub mod policy_template;
pub mod process;
pub mod record;
pub mod recover;
pub mod report;
pub mod risk;
pub mod run;
pub mod running_program;
pub mod session;
pub mod shard;
pub mod source;
pub mod speed;
pub mod stats;
pub mod store;
pub mod test_id;
pub mod test_set_diff;
pub mod verdict;
pub mod workspace;
