//! One file per command.

mod baseline;
mod bench;
mod calibrate;
mod check;
mod compare;
mod flaky;
mod history;
mod init;
mod merge;
mod milestone;
mod risk;
mod store;
mod test;

use anyhow::Context as _;
use palisade::guard::Guard;
use palisade::measure::launch::Launcher;
use palisade::policy::RunnerChoice;
use palisade::process::Cancel;
use serde_json::Value;

use crate::args::{Args, Command, Runner};
use crate::ui::Ui;

/// Runs the command and returns its exit code.
pub fn run(args: &Args, ui: &Ui, cancel: Cancel) -> anyhow::Result<u8> {
    let global = &args.global;
    // What `cargo test` prints is what can be watched.
    let is_watched = matches!(&args.command, Command::Test(test) if !test.command.is_empty());
    let runner = match global.runner {
        _ if is_watched => Some(RunnerChoice::Cargo),
        runner => runner.map(Runner::choice),
    };
    let guard = Guard::open(&global.directory, global.store.as_deref(), runner, cancel)?;
    let mut context = Context {
        guard,
        ui,
        json: global.json,
    };
    match &args.command {
        Command::Init => init::run(&mut context),
        Command::Test(args) => test::run(&mut context, args),
        Command::Check(args) => check::run(&mut context, args),
        Command::Compare(args) => compare::run(&mut context, args),
        Command::Bench(args) => bench::run(&mut context, args),
        Command::Calibrate(args) => calibrate::run(&mut context, args),
        Command::Merge { files, reports } => merge::run(&mut context, files, reports),
        Command::Risk(args) => risk::run(&mut context, args),
        Command::Baseline { command } => baseline::run(&mut context, command),
        Command::Flaky { command } => flaky::run(&mut context, command),
        Command::History(args) => history::run(&mut context, args),
        Command::Milestone { command } => milestone::run(&mut context, command),
        Command::Store { command } => store::run(&mut context, command),
    }
}

/// This program, as what starts processes to be measured.
fn launcher() -> anyhow::Result<Launcher> {
    let program = std::env::current_exe().context("find this program's own file")?;
    Ok(Launcher::new(program))
}

/// What every command works with.
struct Context<'a> {
    guard: Guard,
    ui: &'a Ui,
    json: bool,
}

impl Context<'_> {
    /// Prints the result: as JSON if that is asked for, else as text.
    fn print(&self, json: &Value, text: &str) -> std::io::Result<()> {
        if self.json {
            self.ui.out(&format!("{json:#}\n"))
        } else {
            self.ui.out(text)
        }
    }
}
