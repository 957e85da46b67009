//! The program as a user meets it: few tests, each a whole story.

mod approval;
mod claims;
mod culprit;
mod fixture;
mod history;
mod hooks;
mod imports;
mod init;
mod milestones;
mod monitors;
mod recall;
mod recover;
mod reports;
mod robustness;
#[cfg(feature = "postgres")]
mod server;
mod shards;
mod speed;
mod verdicts;
