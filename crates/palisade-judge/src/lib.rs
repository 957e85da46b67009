#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! Each imports only modules of the lines below its own:
//!
//! ```text
//! verdict                     findings, and one verdict from them
//! surroundings                tests that depend on where they run
//! finding                     what was found, as data
//! rerun                       which tests run again
//! risk                        what a change risks
//! policy                      what a workspace wants to hold
//! history                     one benchmark over many commits: change points, drift
//! test_set_diff               two sets of tests
//! baseline    flaky    speed  a set of tests, flaky or broken, pairs of measurements
//! shard       bisect          the tests of one machine of several, the search for a culprit
//! observation                 runs of tests
//! change      workspace       files that differ, packages and who depends on whom
//! scope                       which tests a run is to run
//! test_id     level     hash     stats     coverage
//! ```
#![forbid(unsafe_code)]

pub mod baseline;
pub mod bisect;
pub mod change;
pub mod coverage;
pub mod finding;
pub mod flaky;
pub mod hash;
pub mod history;
pub mod level;
pub mod observation;
pub mod policy;
pub mod rerun;
pub mod risk;
pub mod scope;
pub mod shard;
pub mod speed;
pub mod stats;
pub mod surroundings;
pub mod test_id;
pub mod test_set_diff;
pub mod verdict;
pub mod workspace;
