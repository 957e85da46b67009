//! The program `bitnet`.
//!
//! ```text
//! arguments ──► commands/NAME ──► bitnet-inference ──► ui ──► stdout: the result
//!                                                          └► stderr: the rest
//! ```

#![forbid(unsafe_code)]

mod client;
mod commands;
mod device;
mod embedded;
mod error;
mod exit;
mod hex;
mod http;
mod hub;
mod input;
mod interrupt;
mod machine;
mod memory;
mod model;
mod new_file;
mod pulled;
mod ui;
mod weight_cache;
mod windows_names;

use std::ffi::OsString;

use clap::{Parser, Subcommand};

pub use crate::embedded::{EmbeddedModel, load_model};
pub use crate::exit::Failure;
use crate::ui::{Ui, Verbosity};

/// Run ternary (1.58-bit) language models: BitNet b1.58 and its family.
#[derive(Debug, Parser)]
#[command(
    name = "bitnet",
    bin_name = "bitnet",
    version,
    after_help = "Start with:  bitnet run \"Once upon a time\"
Models:      -m FILE.gguf or -m HUGGINGFACE_FOLDER; without -m, a built-in one
Exit codes:  0 done, 1 something failed, 2 bad arguments, 130 interrupted"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print only errors on stderr
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "verbose",
        display_order = 900
    )]
    quiet: bool,
    /// Print settings and timings on stderr
    #[arg(short, long, global = true, display_order = 901)]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(commands::run::Args),
    Chat(commands::chat::Args),
    Serve(commands::serve::Args),
    Batch(commands::batch::Args),
    Verify(commands::verify::Args),
    Inspect(commands::inspect::Args),
    Devices(commands::devices::Args),
    Tokenize(commands::tokenize::Args),
    Logits(commands::logits::Args),
    Embed(commands::embed::Args),
    Perplexity(commands::perplexity::Args),
    Bench(commands::bench::Args),
    Convert(commands::convert::Args),
    Pull(commands::pull::Args),
    Cache(commands::cache::Args),
    Completions(commands::completions::Args),
    Man(commands::man::Args),
}

/// Exits with an error message if a mapped model file is truncated. Otherwise the
/// process would be killed by a signal without one.
fn watch_files() {
    #[cfg(unix)]
    {
        let ui = Ui::new(Verbosity::Quiet);
        let watched = bitnet_inference::watch_mapped_files(move |file| {
            exit::exit_for_shortened_file(file, &ui);
        });
        let _ = watched;
    }
}

/// Runs the program with these arguments, of which the first is its name. Returns its exit
/// code; wrong arguments and `--help` end the process.
///
/// It belongs to a process of its own: it handles Ctrl-C, and writes to stdout and stderr.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = Cli::parse_from(args);
    let ui = Ui::new(match (cli.quiet, cli.verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Normal,
    });
    interrupt::listen();
    watch_files();
    let result = match cli.command {
        Command::Run(args) => commands::run::run(&args, &ui),
        Command::Chat(args) => commands::chat::run(&args, &ui),
        Command::Serve(args) => commands::serve::run(&args, &ui),
        Command::Batch(args) => commands::batch::run(&args, &ui),
        Command::Verify(args) => commands::verify::run(&args, &ui),
        Command::Inspect(args) => commands::inspect::run(&args, &ui),
        Command::Devices(args) => commands::devices::run(&args, &ui),
        Command::Tokenize(args) => commands::tokenize::run(&args, &ui),
        Command::Logits(args) => commands::logits::run(&args, &ui),
        Command::Embed(args) => commands::embed::run(&args, &ui),
        Command::Perplexity(args) => commands::perplexity::run(&args, &ui),
        Command::Bench(args) => commands::bench::run(&args, &ui),
        Command::Convert(args) => commands::convert::run(&args, &ui),
        Command::Pull(args) => commands::pull::run(&args, &ui),
        Command::Cache(args) => commands::cache::run(&args, &ui),
        Command::Completions(args) => commands::completions::run(&args, &ui),
        Command::Man(args) => commands::man::run(&args, &ui),
    };
    match result {
        Ok(()) => exit::DONE,
        Err(error) => exit::report(&error, &ui),
    }
}
