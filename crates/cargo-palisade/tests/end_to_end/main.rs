//! The program as a user meets it: few tests, each a whole story.

mod claims;
mod culprit;
mod fixture;
mod history;
mod reports;
mod robustness;
#[cfg(feature = "postgres")]
mod server;
mod shards;
mod speed;
mod verdicts;
