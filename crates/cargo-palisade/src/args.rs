//! The options that every command understands.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Error, ValueEnum};
use palisade::policy::RunnerChoice;

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

/// An error of the command line with what to do about arguments after `--`, which people add for
/// `cargo test`.
pub fn with_advice(mut error: Error, words: &[OsString]) -> Error {
    let is_after_dashes = words.iter().any(|word| word == "--");
    if error.kind() == ErrorKind::UnknownArgument && is_after_dashes {
        let advice = [
            "what follows `--` is for no test program here: each runs all tests, or those that \
             --package or --test name",
            "arguments of every build stand in run.cargo_args of palisade.toml",
            "your own command: cargo palisade test -- cargo test --workspace",
        ];
        let advice = advice.map(|line| line.to_owned().into());
        error.insert(
            ContextKind::Suggested,
            ContextValue::StyledStrs(advice.into()),
        );
    }
    error
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::commands::Args;

    #[test]
    fn arguments_for_test_programs_are_refused_with_advice() {
        let said = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let error = Args::try_parse_from(&words).expect_err("refused");
            with_advice(error, &words).to_string()
        };
        let refused = said("palisade check -- --nocapture");
        assert!(refused.contains("run.cargo_args"), "{refused}");
        let other = said("palisade check --nocapture");
        assert!(!other.contains("run.cargo_args"), "{other}");
    }
}
