//! One file per command: what it takes from the command line, and what it does.

pub mod approve;
pub mod baseline;
pub mod bench;
pub mod bisect;
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
pub mod recover;
pub mod report;
pub mod risk;
pub mod store;
pub mod test;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Context as _;
use palisade::measure::launch::Launcher;
use palisade::policy::RunnerChoice;
use palisade::process::Cancel;
use palisade::running_program;
use palisade::session::Session;
use serde_json::Value;

use crate::args::{Args, Command, Runner};
use crate::ui::Ui;

/// Runs the command and returns its exit code.
pub fn run(args: &Args, ui: &Ui, cancel: Cancel) -> anyhow::Result<u8> {
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
        Command::Init => init::run(&mut context),
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
fn launcher() -> anyhow::Result<Launcher> {
    if let Some(moved) = MOVED.get() {
        return Ok(Launcher::new(moved.clone()));
    }
    let program = std::env::current_exe().context("find this program's own file")?;
    Ok(Launcher::new(program))
}

/// Writes a file whole or not at all, and says which one could not be written.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    replace(path, text).with_context(|| format!("write {}", path.display()))
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
    use super::*;

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
        assert_eq!(error.to_string(), format!("write {}", nowhere.display()));
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
