//! `bitnet completions`

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Cli;
use crate::ui::Ui;

/// Print a shell completion script
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bitnet completions bash > ~/.local/share/bash-completion/completions/bitnet
  bitnet completions fish > ~/.config/fish/completions/bitnet.fish")]
pub struct Args {
    /// The shell
    shell: Shell,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "bitnet", &mut script);
    ui.stream(&String::from_utf8(script)?)
}
