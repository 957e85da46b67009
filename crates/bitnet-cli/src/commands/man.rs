//! `bitnet man`

use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;
use clap_mangen::Man;

use crate::Cli;
use crate::ui::Ui;

/// Print the manual page, or write a page for each command
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bitnet man | man -l -
  bitnet man ~/.local/share/man/man1")]
pub struct Args {
    /// Folder for bitnet.1, bitnet-run.1 and so on, which are replaced
    #[arg(value_hint = clap::ValueHint::DirPath)]
    folder: Option<PathBuf>,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    // It has no page of its own.
    let command = Cli::command().disable_help_subcommand(true);
    let Some(folder) = &args.folder else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        return ui.stream(&String::from_utf8(page)?);
    };
    clap_mangen::generate_to(command, folder)
        .with_context(|| format!("failed to write into {}", folder.display()))
}
