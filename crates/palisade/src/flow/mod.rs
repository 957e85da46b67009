//! The commands: each is a short script over the host, the judge and the forms of reports.

pub mod benchmark_comparison;
pub mod change;
pub mod check;
pub mod claims;
mod command;
pub mod confirmed_run;
pub mod culprit;
pub mod hooks;
pub mod import;
pub mod merge;
pub mod milestone;
pub mod policy_template;
pub mod proposals;
pub mod quarantine;
pub mod recover;
#[cfg(test)]
mod tests;
