//! The regression guard of a Cargo workspace as a library: from a change to a
//! verdict on its tests.
//!
//! It runs the tests of both revisions of a change, remembers every run, and says what
//! became worse and how sure that is. It has no terminal and no command line, and
//! prints nothing; that is the program `cargo-palisade`. It knows nothing about
//! the workspace it guards but what Cargo, git and the source say.
//!
//! ```text
//! git ─► changed files ─► risk ─► scope ─► run ─► record ─► store
//!        (git, source)                                        │
//!                      report ◄─ verdict ◄─ test_set_diff ◄─ baseline (a set of tests)
//!                                   │          ▲
//!                                   └─ flaky ──┘  reruns of both revisions, ledger
//! ```
//!
//! # What is absent
//!
//! - [`bisect`], [`test_set_diff`], [`verdict`], [`risk`], [`stats`], [`speed`] and [`history`]
//!   read no clock and no disk.
//! - [`run`] judges nothing; [`report`] judges nothing.
//! - Nothing writes to the user's files, index or git objects.
//! - A run that did not finish is never taken for one that did.
//!
//! # Example
//!
//! ```
//! use palisade::baseline::{Expected, TestSet};
//! use palisade::test_set_diff::{TestState, diff};
//! use palisade::test_id::{TargetKind, TestId};
//! use palisade::policy::SlowerPolicy;
//! use palisade::stats::Counts;
//!
//! let test = TestId::new("parser", TargetKind::Lib, "", "tests::reads");
//! let revision = |failures, passes| {
//!     let counts = Counts { failures, passes };
//!     let expected = Expected { counts, ..Expected::default() };
//!     TestSet { tests: [(test.clone(), expected)].into() }
//! };
//! let found = diff(&revision(0, 1), &revision(1, 0), &SlowerPolicy::default());
//! assert_eq!(found[0].state, TestState::NewlyFailing);
//! ```
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
