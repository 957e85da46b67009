//! The command line: what is global. What a command takes stands in the file of the command.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use palisade::policy::RunnerChoice;

use crate::commands::{
    approve, baseline, bench, bisect, calibrate, check, ci, claims, compare, flaky, history, hooks,
    import, merge, milestone, recover, risk, store, test,
};

/// Says whether a change made a Cargo workspace worse, and how sure that is.
///
/// Exit codes: 0 pass, 1 regression, 2 usage error, 3 could not measure,
/// 4 inconclusive. No data is never a pass.
#[derive(Debug, Parser)]
#[command(
    name = "palisade",
    bin_name = "cargo palisade",
    version,
    max_term_width = 100
)]
#[command(after_help = "Example: cargo palisade init && cargo palisade check")]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub global: Global,
}

/// What every command understands.
#[derive(Debug, clap::Args)]
pub struct Global {
    /// The folder to work in
    #[arg(
        short = 'C',
        long,
        value_name = "DIR",
        default_value = ".",
        global = true
    )]
    pub directory: PathBuf,
    /// The store: a file or postgres://… [default: .palisade/store.sqlite]
    // A URL may hold a password, which help must not print.
    #[arg(
        long,
        value_name = "FILE|URL",
        env = "PALISADE_STORE",
        hide_env_values = true,
        global = true
    )]
    pub store: Option<OsString>,
    /// What runs the tests [default: run.runner of palisade.toml]
    #[arg(long, value_enum, value_name = "NAME", global = true)]
    pub runner: Option<Runner>,
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Print no progress and no notes
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Print each step, also where there is no terminal
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// When to use colours
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value_t,
        global = true,
        hide_possible_values = true
    )]
    pub color: Color,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Runner {
    Auto,
    Nextest,
    Cargo,
}

impl Runner {
    /// The same, as the policy says it.
    pub fn choice(self) -> RunnerChoice {
        match self {
            Self::Auto => RunnerChoice::Auto,
            Self::Nextest => RunnerChoice::Nextest,
            Self::Cargo => RunnerChoice::Cargo,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a commented palisade.toml and record the first baseline
    #[command(after_help = "Example: cargo palisade init")]
    Init,
    /// Run tests and remember what they did
    Test(test::Args),
    /// Judge a change: risk, affected tests, comparison with the base, verdict
    Check(check::Args),
    /// Put the reports of shards together to one verdict
    Merge(merge::Args),
    /// Say what a change risks and which tests it can affect; run nothing
    Risk(risk::Args),
    /// Compare the speed and memory of two revisions, launch by launch
    Compare(compare::Args),
    /// Measure speed and memory of a tree, and hold them against budgets and ratios
    Bench(bench::Args),
    /// Learn how often `compare` errs on this machine, and what it finds
    Calibrate(calibrate::Args),
    /// Record, show or compare the expected state of a branch
    #[command(subcommand)]
    Baseline(baseline::Command),
    /// List, show, quarantine, release or stress flaky tests
    #[command(subcommand)]
    Flaky(flaky::Command),
    /// Show how speed and memory went over the commits, and where they changed
    History(history::Args),
    /// Name a commit that later ones are held against, so that slow drips are caught
    #[command(subcommand)]
    Milestone(milestone::Command),
    /// Say that you validated a change by hand, and how
    Approve(approve::Args),
    /// Show what the guard did: plans that missed, approvals, commits without hooks
    #[command(after_help = "Example: cargo palisade report")]
    Report,
    /// Run the guard in git hooks, beside the hooks that are there
    #[command(subcommand)]
    Hooks(hooks::Command),
    /// Remember results that other programs wrote, or compare two of them
    Import(import::Args),
    /// Print a workflow for a CI that runs the guard in parts and merges them
    Ci(ci::Args),
    /// Hold numbers in documents to what proves them
    #[command(subcommand)]
    Claims(claims::Command),
    /// Find the commit that broke a test, a benchmark or a command
    Bisect(bisect::Args),
    /// Prepare the way back: confirm, find the culprit, revert on a branch, validate, watch
    Recover(recover::Args),
    /// Copy the store out or in, as JSON lines
    #[command(subcommand)]
    Store(store::Command),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_help_fits_a_page_and_has_an_example() {
        fn visit(mut command: clap::Command) {
            let help = command.render_help().to_string();
            let name = command.get_name().to_owned();
            // The list of all commands is longer than the help of one.
            let page = if name == "palisade" { 48 } else { 40 };
            assert!(help.lines().count() <= page, "{name}:\n{help}");
            assert!(help.contains("Example: cargo palisade"), "{name}:\n{help}");
            for sub in command
                .get_subcommands()
                .filter(|sub| sub.get_name() != "help")
            {
                visit(sub.clone());
            }
        }
        let mut command = Args::command();
        command.build();
        visit(command);
    }
}
