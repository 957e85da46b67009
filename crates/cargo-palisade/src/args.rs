//! The options that every command understands.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::ValueEnum;
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
