//! One file per command: what it takes from the command line, and what it does.

pub mod approve;
pub mod baseline;
pub mod bench;
pub mod bisect;
pub mod cache;
pub mod calibrate;
pub mod check;
pub mod ci;
pub mod claims;
pub mod compare;
pub mod flaky;
pub mod history;
pub mod hooks;
pub mod import;
pub mod init;
pub mod merge;
pub mod milestone;
pub mod page;
mod recover;
pub mod report;
pub mod risk;
pub mod store;
pub mod test;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::args::{Global, Runner};
use crate::error::CommandError;
use crate::ui::Ui;
use clap::{Parser, Subcommand};
use palisade::host::measure::launch::Launcher;
use palisade::host::process::Cancel;
use palisade::host::running_program;
use palisade::host::session::Session;
use palisade::policy::RunnerChoice;
use serde_json::Value;

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

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a commented palisade.toml and record the first baseline
    Init(init::Args),
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
    /// Show or clear the checkouts of other commits and what was built from them
    Cache(cache::Args),
    /// Copy the store out or in, as JSON lines
    #[command(subcommand)]
    Store(store::Command),
}

/// Runs the command and returns its exit code.
pub fn run(args: &Args, ui: &Ui, cancel: Cancel) -> Result<u8, CommandError> {
    let global = &args.global;
    if let Command::Ci(args) = &args.command {
        return ci::run(ui, args);
    }
    // What `cargo test` prints is what can be watched.
    let is_watched = matches!(&args.command, Command::Test(test) if !test.command.is_empty());
    let runner = match global.runner {
        _ if is_watched => Some(RunnerChoice::Cargo),
        runner => runner.map(Runner::choice),
    };
    let session = Session::open(&global.directory, global.store.as_deref(), runner, cancel)?;
    if cfg!(windows) {
        move_running_program(&session);
    }
    let mut context = Context {
        session,
        ui,
        json: global.json,
    };
    match &args.command {
        Command::Init(args) => init::run(&mut context, args),
        Command::Test(args) => test::run(&mut context, args),
        Command::Check(args) => check::run(&mut context, args),
        Command::Compare(args) => compare::run(&mut context, args),
        Command::Bench(args) => bench::run(&mut context, args),
        Command::Calibrate(args) => calibrate::run(&mut context, args),
        Command::Merge(args) => merge::run(&mut context, args),
        Command::Risk(args) => risk::run(&mut context, args),
        Command::Baseline(command) => baseline::run(&mut context, command),
        Command::Flaky(command) => flaky::run(&mut context, command),
        Command::History(args) => history::run(&mut context, args),
        Command::Milestone(command) => milestone::run(&mut context, command),
        Command::Approve(args) => approve::run(&mut context, args),
        Command::Report => report::run(&context),
        Command::Hooks(command) => hooks::run(&mut context, command),
        Command::Import(args) => import::run(&mut context, args),
        Command::Ci(_) => unreachable!("it needs no workspace, and has run"),
        Command::Claims(command) => claims::run(&mut context, command),
        Command::Bisect(args) => bisect::run(&mut context, args),
        Command::Recover(args) => recover::run(&mut context, args),
        Command::Cache(args) => cache::run(&context, args),
        Command::Store(command) => store::run(&mut context, command),
    }
}

/// Where this program's file is, if it made way for a build.
static MOVED: OnceLock<PathBuf> = OnceLock::new();

/// Lets the workspace's builds replace this program's file, if it is one of theirs. Where that
/// fails, so may a build, and it says why.
fn move_running_program(session: &Session) {
    let program = std::env::current_exe();
    let moved = program.and_then(|program| {
        running_program::move_running_program(&program, &session.workspace.target)
    });
    if let Ok(Some(moved)) = moved {
        // The program runs one command.
        let _ = MOVED.set(moved);
    }
}

/// This program, as what starts processes to be measured.
fn launcher() -> Result<Launcher, CommandError> {
    if let Some(moved) = MOVED.get() {
        return Ok(Launcher::new(moved.clone()));
    }
    Ok(Launcher::new(own_program()?))
}

/// The file of this program.
fn own_program() -> Result<PathBuf, CommandError> {
    let program = std::env::current_exe();
    program.map_err(|source| CommandError::io("find this program's own file", source))
}

/// Writes a file whole or not at all, and says which one could not be written.
fn write(path: &Path, text: &str) -> Result<(), CommandError> {
    replace(path, text)
        .map_err(|source| CommandError::io(format!("write {}", path.display()), source))
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    // A link stays one; what is no file, such as a pipe, is written to as it is.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(&path).is_ok_and(|meta| !meta.is_file()) {
        return fs::write(path, text);
    }
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    #[cfg_attr(not(unix), expect(unused_mut, reason = "there is no mask"))]
    let mut builder = tempfile::Builder::new();
    // As any new file: others may read what the user's mask lets them read.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.persist(&path)?;
    Ok(())
}

/// What every command works with.
pub struct Context<'a> {
    session: Session,
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

    #[test]
    fn a_file_is_written_whole_and_nothing_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("report.md");
        write(&path, "one").expect("written");
        write(&path, "two").expect("written again");
        assert_eq!(fs::read_to_string(&path).expect("read"), "two");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
        let nowhere = folder.path().join("none/report.md");
        let error = write(&nowhere, "").expect_err("no folder");
        assert_eq!(
            error.to_string(),
            format!("failed to write {}", nowhere.display())
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn links_stay_links_and_devices_devices() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").expect("written");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        write(&link, "new").expect("written");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(fs::read_to_string(&file).expect("read"), "new");
        // A device is no place for a file beside it.
        write(Path::new("/dev/null"), "text").expect("written");
        assert!(write(Path::new("/dev/full"), "text").is_err());
    }
}
