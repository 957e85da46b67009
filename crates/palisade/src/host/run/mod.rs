//! Runs tests and says what was seen, without judging it.
//!
//! Unit and integration tests go through cargo-nextest when it is installed,
//! else through `cargo test`; documentation tests always through `cargo test
//! --doc`, since nextest cannot run them. A test program that lists no tests is one test.

use std::fmt::Write as _;
mod built_tests;
mod cargo_test;
mod nextest;
mod own_main;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub use built_tests::BuiltTests;
pub(crate) use cargo_test::{TargetKey, counts, is_header, read_log};
pub(crate) use nextest::observation as junit_observation;
use own_main::OwnMain;

use crate::hash::hash;
use crate::host::git::remove_hook_variables;
use crate::host::process::{
    self, Cancel, Limits, ProcessEnd, ProcessError, Stream, Tail, in_own_process_group,
};
use crate::host::source::TestBodies;
use crate::observation::{Environment, Observation};
use crate::policy::{RunPolicy, RunnerChoice};
use crate::record::Advice;
use crate::scope::Scope;
use crate::test_id::{TargetKind, TestId};
use crate::workspace::{Package, Workspace};

/// The most that is kept of what a failing test said.
const MESSAGE_LIMIT: usize = 4 * 1024;

/// Why tests could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The code or its tests do not compile.
    #[error("failed to build the tests")]
    Build {
        /// The errors that the compiler named.
        output: String,
    },
    /// The time was over before it was built.
    #[error("failed to build in the time that is left")]
    OutOfTime,
    /// A program that the build replaces still runs, which Windows does not allow.
    #[error("failed to replace a program of the last build, which is still running")]
    Locked {
        /// What the build said of it.
        output: String,
    },
    /// The runner ended in a way that says nothing about the tests.
    #[error("failed to run the tests: `{command}` ended with {end}")]
    Runner {
        /// The command.
        command: String,
        /// How it ended.
        end: String,
        /// The end of what it said.
        output: String,
    },
    /// What a runner wrote cannot be understood.
    #[error("failed to read the {what} of `{command}`")]
    Output {
        /// What was read.
        what: &'static str,
        /// The command that wrote it.
        command: String,
        /// The end of what it said.
        output: String,
    },
    /// A command of the user's says nothing about all tests.
    #[error("failed to watch `{command}`: {problem}")]
    Watch {
        /// The command.
        command: String,
        /// Why it does not.
        problem: String,
    },
    /// The policy asks for nextest, and it is not installed.
    #[error("failed to find cargo-nextest, which palisade.toml asks for")]
    NoNextest,
    /// A file for the runner cannot be written.
    #[error("failed to write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A child process could not be started or was interrupted.
    #[error("failed to run a child process")]
    Process(#[from] ProcessError),
}

impl Advice for RunError {
    fn is_usage(&self) -> bool {
        matches!(self, Self::NoNextest | Self::Watch { .. })
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoNextest => "cargo install --locked cargo-nextest",
            Self::Watch { .. } => "cargo palisade test -- cargo test --workspace",
            Self::Build { .. } => "cargo test --no-run",
            Self::Locked { .. } => {
                "end what runs from the target folder, then run the same command again"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }

    fn output(&self) -> Option<&str> {
        match self {
            Self::Build { output }
            | Self::Locked { output }
            | Self::Runner { output, .. }
            | Self::Output { output, .. } => Some(output),
            _ => None,
        }
    }
}

impl RunError {
    /// Whether the user ended it.
    pub fn is_interrupt(&self) -> bool {
        matches!(self, Self::Process(ProcessError::Interrupted { .. }))
    }
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something is being compiled or prepared.
    Building(String),
    /// A line that the user's own command printed.
    Said(String),
    /// Some of the benchmarks are decided.
    Measuring {
        /// How many are.
        done: usize,
        /// How many there are.
        total: usize,
        /// How long the others take at least, to the next look at what they say.
        left: Duration,
    },
    /// Some of the tests are done.
    Testing {
        /// How many are done.
        done: usize,
        /// How many there are, if that is known.
        total: Option<usize>,
    },
}

/// The program that runs unit and integration tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Runner {
    /// cargo-nextest, with its version.
    Nextest(String),
    /// `cargo test`.
    CargoTest,
}

impl Runner {
    /// Follows the policy's choice; looks for cargo-nextest unless `cargo test` is
    /// asked for.
    pub fn choose(choice: RunnerChoice) -> Result<Self, RunError> {
        if choice == RunnerChoice::Cargo {
            return Ok(Self::CargoTest);
        }
        let version = first_line("cargo-nextest", &["nextest", "--version"]);
        // "cargo-nextest 0.9.143 (60fa45f63 2026-08-04)"
        let version = version.map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "));
        match (version, choice) {
            (Some(version), _) => Ok(Self::Nextest(version)),
            (None, RunnerChoice::Nextest) => Err(RunError::NoNextest),
            (None, _) => Ok(Self::CargoTest),
        }
    }

    /// How people call it.
    pub fn name(&self) -> &str {
        match self {
            Self::Nextest(version) => version,
            Self::CargoTest => "cargo test",
        }
    }
}

/// The first line a program prints, if it runs and succeeds.
pub(crate) fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let output = in_own_process_group(&mut Command::new(program))
        .args(args)
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default().trim().to_owned();
    output.status.success().then_some(line)
}

/// Variables that change what Cargo builds.
const BUILD_VARIABLES: [&str; 8] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTDOCFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_PROFILE_TEST_OPT_LEVEL",
    "RUSTC_WRAPPER",
    "RUSTC_BOOTSTRAP",
];

/// What decides the outcome of the tests in the workspace at `root`, besides the
/// tree; `lockfile` is the text of its `Cargo.lock`, `outside` a hash of the packages outside
/// of the repository, if there are any, and `sparse` the patterns of a sparse checkout, if it is
/// one: tests may need files that are not in it.
pub fn environment(
    root: &Path,
    lockfile: Option<&str>,
    outside: Option<&str>,
    sparse: Option<&str>,
    policy: &RunPolicy,
    runner: &Runner,
) -> Environment {
    let toolchain = in_own_process_group(&mut Command::new("rustc"))
        .arg("-vV")
        .current_dir(root)
        .output();
    let toolchain = toolchain.map_or_else(
        |_| "unknown".to_owned(),
        |output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let host = text.lines().find_map(|line| line.strip_prefix("host: "));
            let version = text.lines().next().unwrap_or_default();
            format!("{version} {}", host.unwrap_or_default())
        },
    );
    let mut config = format!("{:?} {}", policy.cargo_args, policy.doctests);
    for package in &policy.exclude {
        // Writing to a string cannot fail.
        let _ = write!(config, " without {package}");
    }
    config.push_str(&build_variables());
    let outside = outside.map(|hash| format!(", outside {}", &hash[..8]));
    let sparse = sparse.map(|patterns| format!(", sparse {}", &hash(patterns)[..8]));
    Environment {
        toolchain,
        machine: machine(),
        lockfile: lockfile.map(hash).unwrap_or_default(),
        config: format!(
            "{}, settings {}{}{}",
            runner.name(),
            &hash(&config)[..8],
            outside.unwrap_or_default(),
            sparse.unwrap_or_default()
        ),
    }
}

/// The variables that change what Cargo builds, as they are set now.
fn build_variables() -> String {
    let mut text = String::new();
    for name in BUILD_VARIABLES {
        if let Ok(value) = std::env::var(name) {
            // Writing to a string cannot fail.
            let _ = write!(text, " {name}={value}");
        }
    }
    text
}

/// The arguments and variables that change what Cargo builds.
pub(crate) fn build_settings(policy: &RunPolicy) -> String {
    let settings = format!("{} {}", policy.cargo_args.join(" "), build_variables());
    settings.trim().to_owned()
}

/// Operating system, architecture, processor and number of cores.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    });
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    // What Windows sets for every process.
    let model = model.or_else(|| std::env::var("PROCESSOR_IDENTIFIER").ok());
    let model = model.unwrap_or_else(|| "unnamed processor".to_owned());
    format!("{os} {arch}, {model}, {cores} cores")
}

/// Where a revision is built and run: the user's tree, or a checkout.
#[derive(Clone, Copy, Debug)]
pub struct BuildLocation<'a> {
    /// The workspace there.
    pub workspace: &'a Workspace,
    /// Where the build goes; `None` for where Cargo puts it.
    pub target: Option<&'a Path>,
}

/// What to run, and how.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Where.
    pub location: BuildLocation<'a>,
    /// Which tests.
    pub scope: &'a Scope,
    /// The user's own `cargo test` of the whole workspace, to be watched instead.
    pub command: Option<&'a [String]>,
    /// How.
    pub policy: &'a RunPolicy,
    /// With what.
    pub runner: &'a Runner,
    /// What was built of the revision that is there.
    pub built: &'a BuiltTests,
    /// Ends it early.
    pub cancel: &'a Cancel,
    /// Is told how far it is.
    pub progress: &'a dyn Fn(Progress),
}

/// What a run saw.
#[derive(Clone, Debug, Default)]
pub struct TestRunOutput {
    /// The tests with their outcomes.
    pub observations: Vec<Observation>,
    /// Why some outcome is missing, in words; empty if none is.
    pub gaps: Vec<String>,
}

/// Runs the tests of a request once.
pub fn run_tests(request: &Request<'_>) -> Result<TestRunOutput, RunError> {
    let deadline = Instant::now() + request.policy.run_time_out.0;
    let mut seen = TestRunOutput::default();
    if let Some(words) = request.command {
        cargo_test::watch(request, words, deadline, &mut seen)?;
        add_bodies(request, &mut seen);
        return Ok(seen);
    }
    if has_tests(request, |kind| kind != TargetKind::Doc) {
        let own_mains = own_main::find(request, deadline)?;
        let own: BTreeSet<TestId> = own_mains.iter().map(OwnMain::test).collect();
        match request.runner {
            Runner::Nextest(_) => nextest::run(request, &own, deadline, &mut seen)?,
            Runner::CargoTest => cargo_test::run(request, &own, deadline, &mut seen)?,
        }
        for program in own_mains {
            seen.observations.push(program.run(request)?);
        }
    }
    if request.policy.doctests && has_tests(request, |kind| kind == TargetKind::Doc) {
        cargo_test::run_doctests(request, deadline, &mut seen)?;
    }
    add_bodies(request, &mut seen);
    Ok(seen)
}

/// Builds the tests of a workspace and lists those that are no documentation tests.
pub fn list_tests(
    workspace: &Workspace,
    policy: &RunPolicy,
    cancel: &Cancel,
    progress: &dyn Fn(Progress),
) -> Result<BTreeSet<TestId>, RunError> {
    let location = BuildLocation {
        workspace,
        target: None,
    };
    let request = Request {
        location,
        scope: &Scope::Workspace,
        command: None,
        policy,
        runner: &Runner::CargoTest,
        built: &BuiltTests::default(),
        cancel,
        progress,
    };
    cargo_test::list(&request, Instant::now() + policy.run_time_out.0)
}

fn add_bodies(request: &Request<'_>, seen: &mut TestRunOutput) {
    let packages = request.packages();
    let bodies = TestBodies::read(packages.iter().copied());
    for observation in &mut seen.observations {
        observation.body = bodies.hash(&observation.test).map(str::to_owned);
    }
}

/// Whether the scope may hold tests of some kind.
fn has_tests(request: &Request<'_>, of: impl Fn(TargetKind) -> bool) -> bool {
    match request.scope {
        Scope::Tests(tests) => {
            let packages = request.packages();
            let is_there =
                |test: &TestId| packages.iter().any(|package| package.name == test.package);
            tests.iter().any(|test| of(test.kind) && is_there(test))
        }
        Scope::Workspace | Scope::Packages(_) => !request.packages().is_empty(),
        Scope::Doctests(_) => of(TargetKind::Doc) && !request.packages().is_empty(),
        Scope::Shard(_) => request
            .packages()
            .iter()
            .flat_map(|package| package.tested(request.scope))
            .any(|(kind, _)| of(kind)),
    }
}

impl<'a> Request<'a> {
    /// The packages that the scope's tests are in.
    fn packages(&self) -> Vec<&'a Package> {
        let all = &self.location.workspace.packages;
        let names: BTreeSet<&str> = match self.scope {
            Scope::Workspace => all.keys().map(String::as_str).collect(),
            Scope::Packages(names) | Scope::Doctests(names) => {
                names.iter().map(String::as_str).collect()
            }
            Scope::Tests(tests) => tests.iter().map(|test| test.package.as_str()).collect(),
            Scope::Shard(_) => all
                .values()
                .filter(|package| !package.tested(self.scope).is_empty())
                .map(|package| package.name.as_str())
                .collect(),
        };
        let names = names.into_iter().filter(|name| !self.policy.excludes(name));
        names.filter_map(|name| all.get(name)).collect()
    }

    /// A `cargo` command in the request's place.
    fn cargo(&self, args: &[&str]) -> Command {
        let mut command = cargo(self.location);
        command.args(args);
        command
    }

    /// The arguments that select the scope's packages, and a shard's targets, without
    /// the documentation: one list for each command that is needed.
    fn selections(&self) -> Vec<Vec<String>> {
        let words = |words: &[&str]| -> Vec<String> {
            words.iter().map(|word| (*word).to_owned()).collect()
        };
        match self.scope {
            Scope::Workspace => {
                let all = &self.location.workspace.packages;
                let excluded = self.policy.exclude.iter().filter_map(|name| all.get(name));
                let excluded = excluded.flat_map(|package| words(&["--exclude", &package.spec]));
                vec![
                    words(&["--workspace"])
                        .into_iter()
                        .chain(excluded)
                        .collect(),
                ]
            }
            // The names of targets count for all packages of a command.
            Scope::Shard(_) => {
                let packages = self.packages().into_iter();
                let selection = |package: &Package| {
                    let flags = target_flags(package.tested(self.scope));
                    let package = words(&["--package", &package.spec]);
                    (!flags.is_empty()).then(|| [package, flags].concat())
                };
                packages.filter_map(selection).collect()
            }
            Scope::Packages(_) | Scope::Doctests(_) | Scope::Tests(_) => {
                let packages = self.packages().into_iter();
                let selection = packages.flat_map(|package| words(&["--package", &package.spec]));
                vec![selection.collect()]
            }
        }
    }

    /// Runs a command until the deadline.
    fn finish(
        &self,
        command: &mut Command,
        deadline: Instant,
        on_line: impl FnMut(Stream, &[u8]),
    ) -> Result<ProcessEnd, RunError> {
        let limits = Limits {
            total: Some(deadline.saturating_duration_since(Instant::now())),
            quiet: None,
        };
        Ok(process::run(command, limits, self.cancel, false, on_line)?)
    }
}

/// A `cargo` command in a place.
pub(crate) fn cargo(location: BuildLocation<'_>) -> Command {
    let mut command = Command::new("cargo");
    remove_hook_variables(&mut command)
        .current_dir(&location.workspace.root)
        .env("CARGO_TERM_COLOR", "never")
        .env("CARGO_TERM_PROGRESS_WHEN", "never");
    for inherited in ["RUST_TEST_THREADS", "NEXTEST_PROFILE", "CARGO_TERM_QUIET"] {
        command.env_remove(inherited);
    }
    if let Some(target) = location.target {
        command.env("CARGO_TARGET_DIR", target);
    }
    command
}

/// The flags by which Cargo selects targets.
fn target_flags<'a>(targets: impl IntoIterator<Item = (TargetKind, &'a str)>) -> Vec<String> {
    let flags = targets.into_iter().map(|(kind, name)| match kind {
        TargetKind::Doc => Vec::new(),
        TargetKind::Lib => vec!["--lib".to_owned()],
        kind => vec![format!("--{}", kind.as_str()), name.to_owned()],
    });
    flags.flatten().collect()
}

/// The command as a line, for messages.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn ended_badly(command: &Command, end: ProcessEnd, output: &Tail) -> RunError {
    RunError::Runner {
        command: shown(command),
        end: match end {
            ProcessEnd::Exited(Some(code)) => process::exit_code(code),
            ProcessEnd::Exited(None) => "a signal".to_owned(),
            ProcessEnd::TimedOut => "the time-out of the run".to_owned(),
        },
        output: output.text(),
    }
}

/// How often a build is tried that cannot replace a program, and how long it waits between:
/// Windows keeps the files of a process locked for a moment after its end.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// Runs a build again, a few times, while a program that just ended is locked.
pub(crate) fn while_locked<T>(
    mut build: impl FnMut() -> Result<T, RunError>,
) -> Result<T, RunError> {
    for _ in 1..TRIES {
        match build() {
            Err(RunError::Locked { .. }) => std::thread::sleep(PAUSE),
            ended => return ended,
        }
    }
    build()
}

/// Whether a build says that it could not write a program: Cargo's words, those of Microsoft's
/// linker, and those of GNU's. Only on Windows are programs locked, and called so.
fn is_locked(said: &str) -> bool {
    const WORDS: [&str; 3] = [
        "failed to remove file",
        "LNK1104",
        "cannot open output file",
    ];
    said.lines()
        .any(|line| line.contains(".exe") && WORDS.iter().any(|words| line.contains(words)))
}

/// The error of a build that failed, from the end of what it said: the progress
/// and warnings before the first error are left out.
pub(crate) fn build_error(said: &Tail) -> RunError {
    let text = said.text();
    if is_locked(&text) {
        return RunError::Locked { output: text };
    }
    let mut lines = text.lines();
    let first = lines.position(|line| line.starts_with("error"));
    let output = first.map(|first| text.lines().skip(first).collect::<Vec<_>>().join("\n"));
    RunError::Build {
        output: output.unwrap_or(text),
    }
}

/// Cuts a message to what is kept of it, at a character.
fn excerpt(text: &str) -> Option<String> {
    let text = text.trim();
    let mut end = text.len().min(MESSAGE_LIMIT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    (!text.is_empty()).then(|| text[..end].to_owned())
}

/// What a panic says before its backtrace.
fn without_backtrace(text: &str) -> &str {
    let end = ["\nstack backtrace:", "\nnote: run with `RUST_BACKTRACE"]
        .into_iter()
        .filter_map(|mark| text.find(mark))
        .min();
    &text[..end.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_program_is_no_broken_code() {
        let error = |text: &str| {
            let mut said = Tail::default();
            for line in text.lines() {
                said.push(line.as_bytes());
            }
            build_error(&said)
        };
        for said in [
            "   Compiling a v0.1.0\nerror: failed to remove file `C:\\w\\target\\debug\\a.exe`\n\n\
             Caused by:\n  Access is denied. (os error 5)",
            "error: linking with `link.exe` failed: exit code: 1104\n  = note: LINK : fatal error \
             LNK1104: cannot open file 'C:\\w\\target\\debug\\deps\\a-31.exe'",
            "  = note: ld.exe: cannot open output file target\\debug\\deps\\a-31.exe: Permission denied",
        ] {
            let error = error(said);
            assert!(
                matches!(&error, RunError::Locked { output } if output.contains(".exe")),
                "{error:?}"
            );
        }
        for said in [
            "error[E0308]: mismatched types\n --> src\\lib.rs:3:5",
            "error: linking with `link.exe` failed: exit code: 1120",
            "error: failed to remove file `/w/target/debug/a`",
        ] {
            assert!(matches!(error(said), RunError::Build { .. }), "{said}");
        }
    }

    #[test]
    fn a_locked_build_is_tried_again() {
        let mut tries = 0;
        let locked = || RunError::Locked {
            output: String::new(),
        };
        let built = while_locked(|| {
            tries += 1;
            if tries < 3 { Err(locked()) } else { Ok(tries) }
        });
        assert_eq!(built.expect("built"), 3);
        let mut tries = 0;
        let built = while_locked(|| {
            tries += 1;
            Err::<(), _>(locked())
        });
        assert!(matches!(built, Err(RunError::Locked { .. })));
        assert_eq!(tries, TRIES);
    }
}
