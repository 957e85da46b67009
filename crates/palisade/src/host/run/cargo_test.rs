//! Runs tests with `cargo test` and reads what libtest prints.
//!
//! Both outputs come through one pipe, so that the headers Cargo writes to
//! standard error stand before the tests they belong to. libtest prints no
//! durations and cannot end a test that hangs; a test that has no result when its
//! target is over is run again alone, under the time-out of a single test.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{
    Progress, Request, RunError, TestRunOutput, build_error, ended_badly, excerpt, while_locked,
};
use crate::host::process::{self, Limits, ProcessEnd, Stream, Tail};
use crate::observation::{Observation, Outcome};
use crate::scope::Scope;
use crate::test_id::{TargetKind, TestId, doctest_filter, doctest_paths};

/// Exit codes of `cargo test`.
const PASSED: i32 = 0;
const FAILED: i32 = 101;

/// What `cargo test` may need besides the tests' own time.
const SLACK: Duration = Duration::from_secs(10);

/// How long the documentation tests of a package may take to compile; nothing is
/// printed meanwhile.
const DOCTEST_BUILD: Duration = Duration::from_mins(5);

/// A target that tests are in, without the tests' paths: package, kind and name.
pub(crate) type TargetKey = (String, TargetKind, String);

/// What a saved output of `cargo test` says. `place_of` gives the target for what Cargo's
/// header says: a program's file name, or the name of a library.
pub(crate) fn read_log(text: &str, target_of: &dyn Fn(&str) -> Option<TargetKey>) -> TestRunOutput {
    let mut reader = LogReader::new(target_of);
    for line in text.lines() {
        reader.line(line);
    }
    reader.close();
    let mut seen = TestRunOutput::default();
    for section in reader.sections {
        if !section.is_sound() {
            let (package, kind, target) = &section.place;
            let place = crate::test_id::place(package, *kind, target);
            seen.gaps
                .push(format!("the results of {place} are not all there"));
            continue;
        }
        seen.observations.extend(section.observations());
    }
    seen
}

/// Runs the request's tests that are neither documentation tests nor `own`, which are run
/// otherwise.
pub(super) fn run(
    request: &Request<'_>,
    own: &BTreeSet<TestId>,
    deadline: Instant,
    seen: &mut TestRunOutput,
) -> Result<(), RunError> {
    let programs = build(request, deadline)?;
    if let Scope::Tests(tests) = request.scope {
        let tests = tests.iter().filter(|test| !own.contains(test));
        for test in tests.filter(|test| test.kind != TargetKind::Doc) {
            seen.observations.extend(run_alone(request, test)?);
        }
        return Ok(());
    }
    let target_of = |header: &str| programs.get(header).cloned();
    let mut missing = listed(request, &target_of, deadline)?;
    let total = missing.len();
    let mut reader = LogReader::new(&target_of);
    let quiet = request.policy.test_time_out.0 + SLACK;
    for selection in &request.selections() {
        let command = cargo_test(request, selection, &["--no-fail-fast"], &[]);
        read(request, command, deadline, quiet, &mut reader, Some(total))?;
    }
    for section in reader.sections.into_iter().filter(Section::is_sound) {
        for (name, result) in section.results {
            let (package, kind, target) = &section.place;
            let test = TestId::new(package, *kind, target, &name);
            // A test can print what looks like another one's result.
            if missing.remove(&test) {
                seen.observations.push(result.observation(test));
            }
        }
    }
    for test in missing {
        if Instant::now() >= deadline {
            seen.gaps
                .push(format!("{test} was not reached in the time of the run"));
            continue;
        }
        match run_alone(request, &test)? {
            Some(observation) => seen.observations.push(observation),
            None => seen.gaps.push(format!("{test} is listed but does not run")),
        }
    }
    Ok(())
}

/// Builds the request's tests that are no documentation tests, and lists them.
pub(super) fn list(request: &Request<'_>, deadline: Instant) -> Result<BTreeSet<TestId>, RunError> {
    let programs = build(request, deadline)?;
    listed(request, &|header| programs.get(header).cloned(), deadline)
}

fn listed(
    request: &Request<'_>,
    target_of: &dyn Fn(&str) -> Option<TargetKey>,
    deadline: Instant,
) -> Result<BTreeSet<TestId>, RunError> {
    let mut listing = LogReader::new(target_of);
    for selection in &request.selections() {
        // A program that does not understand the question would end the list.
        let list = cargo_test(request, selection, &["--no-fail-fast"], &["--list"]);
        read(request, list, deadline, SLACK, &mut listing, None)?;
    }
    Ok(listing.listed)
}

/// Runs the documentation tests of the request.
pub(super) fn run_doctests(
    request: &Request<'_>,
    deadline: Instant,
    seen: &mut TestRunOutput,
) -> Result<(), RunError> {
    let packages = request.packages();
    let packages = packages.into_iter().filter(|package| {
        let targets = package.tested(request.scope);
        targets.iter().any(|(kind, _)| *kind == TargetKind::Doc)
    });
    // Cargo heads the tests of a package with the library's name, which two
    // packages may share; those are run apart.
    let mut groups: Vec<BTreeMap<String, String>> = Vec::new();
    for package in packages {
        let library = package.targets.iter().find(|target| target.doctests);
        let library = library
            .map(|target| target.name.replace('-', "_"))
            .unwrap_or_default();
        match groups
            .iter_mut()
            .find(|group| !group.contains_key(&library))
        {
            Some(group) => drop(group.insert(library, package.name.clone())),
            None => groups.push(BTreeMap::from([(library, package.name.clone())])),
        }
    }
    for group in groups {
        run_doctest_group(request, deadline, &group, seen)?;
    }
    Ok(())
}

/// Runs the documentation tests of packages, given by the names of their libraries.
fn run_doctest_group(
    request: &Request<'_>,
    deadline: Instant,
    group: &BTreeMap<String, String>,
    seen: &mut TestRunOutput,
) -> Result<(), RunError> {
    let mut command = request.cargo(&["test", "--doc", "--no-fail-fast"]);
    for package in group.values() {
        command.args(["--package", request.location.workspace.spec(package)]);
    }
    command.args(&request.policy.cargo_args).arg("--");
    if let Scope::Tests(tests) = request.scope {
        for test in tests.iter().filter(|test| test.kind == TargetKind::Doc) {
            command.arg(doctest_filter(&test.path));
        }
    }
    let target_of = |header: &str| {
        let package = group.get(header)?.clone();
        Some((package, TargetKind::Doc, String::new()))
    };
    let mut reader = LogReader::new(&target_of);
    let quiet = request.policy.test_time_out.0.max(DOCTEST_BUILD);
    read(request, command, deadline, quiet, &mut reader, None)?;
    let mut silent: BTreeSet<&String> = group.values().collect();
    for section in reader.sections {
        let (package, ..) = &section.place;
        if section.is_sound() {
            silent.remove(package);
        }
        let paths = doctest_paths(section.results.keys().map(String::as_str));
        for (name, result) in &section.results {
            let test = TestId::new(package, TargetKind::Doc, "", &paths[name.as_str()]);
            if request.scope.contains(&test) {
                seen.observations.push(result.clone().observation(test));
            }
        }
    }
    for package in silent {
        let gap = format!("the documentation tests of {package} came to no end");
        seen.gaps.push(gap);
    }
    Ok(())
}

/// Builds the tests and returns the target of each program by its file name.
fn build(
    request: &Request<'_>,
    deadline: Instant,
) -> Result<BTreeMap<String, TargetKey>, RunError> {
    let mut programs = BTreeMap::new();
    for selection in request.selections() {
        build_selection(request, &selection, deadline, &mut programs)?;
    }
    Ok(programs)
}

fn build_selection(
    request: &Request<'_>,
    selection: &[String],
    deadline: Instant,
    programs: &mut BTreeMap<String, TargetKey>,
) -> Result<(), RunError> {
    let command = cargo_test(request, selection, &["--no-run"], &[]);
    build_with(request, command, deadline, programs)
}

/// Runs a command that builds one test program.
pub(super) fn build_alone(
    request: &Request<'_>,
    command: Command,
    deadline: Instant,
) -> Result<(), RunError> {
    build_with(request, command, deadline, &mut BTreeMap::new())
}

/// Runs a command that builds tests without running them.
fn build_with(
    request: &Request<'_>,
    mut command: Command,
    deadline: Instant,
    programs: &mut BTreeMap<String, TargetKey>,
) -> Result<(), RunError> {
    command.arg("--message-format=json-render-diagnostics");
    while_locked(|| build_once(request, &mut command, deadline, programs))
}

fn build_once(
    request: &Request<'_>,
    command: &mut Command,
    deadline: Instant,
    programs: &mut BTreeMap<String, TargetKey>,
) -> Result<(), RunError> {
    let mut tail = Tail::default();
    let end = request.finish(command, deadline, |stream, line| {
        if stream == Stream::Err {
            tail.push(line);
            let line = String::from_utf8_lossy(line).trim().to_owned();
            (request.progress)(Progress::Building(line));
        } else if let Ok(artifact) = serde_json::from_slice::<Artifact>(line) {
            programs.extend(artifact.test_program(request));
        }
    })?;
    match end {
        ProcessEnd::Exited(Some(PASSED)) => Ok(()),
        ProcessEnd::Exited(Some(FAILED)) => Err(build_error(&tail)),
        other => Err(ended_badly(command, other, &tail)),
    }
}

/// What Cargo says that it built.
#[derive(Deserialize)]
struct Artifact {
    manifest_path: std::path::PathBuf,
    target: ArtifactTarget,
    profile: Profile,
    executable: Option<std::path::PathBuf>,
}

#[derive(Deserialize)]
struct Profile {
    /// Whether it is a program of tests, and not one that tests need.
    test: bool,
}

#[derive(Deserialize)]
struct ArtifactTarget {
    kind: Vec<String>,
    name: String,
}

impl Artifact {
    /// The file name and the target, if it is a program of tests of the workspace.
    fn test_program(self, request: &Request<'_>) -> Option<(String, TargetKey)> {
        if !self.profile.test {
            return None;
        }
        let mut packages = request.location.workspace.packages.values();
        let folder = self.manifest_path.parent()?;
        let package = packages.find(|package| package.root == folder)?;
        let mut kinds = self.target.kind.iter();
        let kind = kinds.find_map(|kind| TargetKind::from_cargo(kind))?;
        let file = self.executable.as_deref()?.file_name()?;
        let target = (package.name.clone(), kind, self.target.name);
        Some((file.to_string_lossy().into_owned(), target))
    }
}

/// What the user's own command may be: all tests, and nothing that chooses among them
/// or builds them in another way than the policy says.
fn check_watched(request: &Request<'_>, words: &[String]) -> Result<(), RunError> {
    const HARMLESS: [&str; 4] = ["--locked", "--offline", "--frozen", "--no-fail-fast"];
    let refuse = |problem: String| RunError::Watch {
        command: words.join(" "),
        problem,
    };
    let ([program, test], rest) = words
        .split_first_chunk()
        .ok_or_else(|| refuse("it is not `cargo test --workspace`".to_owned()))?;
    if program != "cargo" || test != "test" {
        return Err(refuse("it is not `cargo test --workspace`".to_owned()));
    }
    let is_all = |word: &str| matches!(word, "--workspace" | "--all");
    if !rest.iter().any(|word| is_all(word)) {
        return Err(refuse(
            "without --workspace it may leave packages out".to_owned(),
        ));
    }
    if rest.iter().any(|word| word == "--") {
        let problem = "what follows its own `--` is for the test programs, and may leave tests out";
        return Err(refuse(problem.to_owned()));
    }
    let exclude = request.policy.exclude.iter();
    let exclude: Vec<String> = exclude
        .flat_map(|name| ["--exclude".to_owned(), name.clone()])
        .collect();
    let mut own: Vec<&String> = request.policy.cargo_args.iter().chain(&exclude).collect();
    for word in rest {
        if let Some(at) = own.iter().position(|known| *known == word) {
            own.remove(at);
        } else if !is_all(word) && !HARMLESS.contains(&word.as_str()) {
            let problem = format!("{word} is not in run.cargo_args of palisade.toml");
            return Err(refuse(problem));
        }
    }
    match own.first() {
        Some(word) => Err(refuse(format!("it lacks {word} of [run] in palisade.toml"))),
        None => Ok(()),
    }
}

/// Runs the user's own `cargo test` of the whole workspace, hands on what it prints,
/// and reads the outcomes from it.
pub(super) fn watch(
    request: &Request<'_>,
    words: &[String],
    deadline: Instant,
    seen: &mut TestRunOutput,
) -> Result<(), RunError> {
    check_watched(request, words)?;
    let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
    let mut programs = BTreeMap::new();
    let mut build = request.cargo(&args);
    build.arg("--no-run");
    build_with(request, build, deadline, &mut programs)?;
    let libraries = doctest_libraries(request);
    let target_of = |header: &str| {
        programs.get(header).cloned().or_else(|| {
            // Two packages whose libraries have one name cannot be told apart.
            let [target] = libraries.get(header)?.as_slice() else {
                return None;
            };
            Some(target.clone())
        })
    };
    let mut reader = LogReader::new(&target_of);
    pass_on(request, request.cargo(&args), deadline, &mut reader)?;
    let docs = libraries.values().flatten();
    let mut missing: BTreeSet<&TargetKey> = programs.values().chain(docs).collect();
    for section in reader.sections.iter().filter(|section| section.is_sound()) {
        missing.remove(&section.place);
        seen.observations.extend(section.observations());
    }
    for (package, kind, target) in missing {
        let place = crate::test_id::place(package, *kind, target);
        seen.gaps
            .push(format!("the tests of {place} came to no end"));
    }
    Ok(())
}

/// The documentation tests of the packages, by what Cargo heads them with.
fn doctest_libraries(request: &Request<'_>) -> BTreeMap<String, Vec<TargetKey>> {
    let mut libraries: BTreeMap<String, Vec<TargetKey>> = BTreeMap::new();
    for package in request.packages() {
        for target in package.targets.iter().filter(|target| target.doctests) {
            let tests = (package.name.clone(), TargetKind::Doc, String::new());
            let library = target.name.replace('-', "_");
            libraries.entry(library).or_default().push(tests);
        }
    }
    libraries
}

/// Runs the user's own command and hands on what it prints.
fn pass_on(
    request: &Request<'_>,
    mut command: Command,
    deadline: Instant,
    reader: &mut LogReader<'_>,
) -> Result<(), RunError> {
    let mut tail = Tail::default();
    let limits = Limits {
        total: Some(deadline.saturating_duration_since(Instant::now())),
        quiet: Some(request.policy.test_time_out.0.max(DOCTEST_BUILD)),
    };
    let end = process::run(&mut command, limits, request.cancel, true, |_, line| {
        tail.push(line);
        let line = String::from_utf8_lossy(line);
        reader.line(&line);
        (request.progress)(Progress::Said(line.into_owned()));
    })?;
    reader.close();
    match end {
        // Where a crash has an exit code, which is below 0, Cargo ends with it.
        ProcessEnd::Exited(Some(PASSED | FAILED | ..0)) | ProcessEnd::TimedOut
            if !reader.sections.is_empty() =>
        {
            Ok(())
        }
        ProcessEnd::Exited(Some(FAILED)) => Err(build_error(&tail)),
        ProcessEnd::Exited(_) | ProcessEnd::TimedOut => Err(ended_badly(&command, end, &tail)),
    }
}

fn cargo_test(
    request: &Request<'_>,
    selection: &[String],
    args: &[&str],
    test_args: &[&str],
) -> Command {
    let mut command = request.cargo(&["test"]);
    if !matches!(request.scope, Scope::Shard(_)) {
        command.arg("--tests");
    }
    command.args(args).args(selection);
    command.args(&request.policy.cargo_args);
    if !test_args.is_empty() {
        command.arg("--").args(test_args);
    }
    command
}

/// Runs a command to its end, or until it has printed nothing for `quiet`.
fn read(
    request: &Request<'_>,
    mut command: Command,
    deadline: Instant,
    quiet: Duration,
    reader: &mut LogReader<'_>,
    total: Option<usize>,
) -> Result<(), RunError> {
    let limits = Limits {
        total: Some(deadline.saturating_duration_since(Instant::now())),
        quiet: Some(quiet),
    };
    let mut tail = Tail::default();
    let mut done = 0;
    let end = process::run(&mut command, limits, request.cancel, true, |_, line| {
        tail.push(line);
        if reader.line(&String::from_utf8_lossy(line)) {
            done += 1;
            (request.progress)(Progress::Testing { done, total });
        }
    })?;
    reader.close();
    let started = !reader.sections.is_empty();
    match end {
        ProcessEnd::Exited(Some(PASSED)) | ProcessEnd::TimedOut => Ok(()),
        ProcessEnd::Exited(Some(FAILED)) if started => Ok(()),
        ProcessEnd::Exited(Some(FAILED)) => Err(build_error(&tail)),
        ProcessEnd::Exited(_) => Err(ended_badly(&command, end, &tail)),
    }
}

/// Runs one test by itself; `None` if there is no such test.
fn run_alone(request: &Request<'_>, test: &TestId) -> Result<Option<Observation>, RunError> {
    let package = request.location.workspace.spec(&test.package);
    let mut command = request.cargo(&["test", "--package", package]);
    match test.kind {
        TargetKind::Lib | TargetKind::Doc => command.arg("--lib"),
        kind => command
            .arg(format!("--{}", kind.as_str()))
            .arg(&test.target),
    };
    command.args(&request.policy.cargo_args);
    command.args(["--", "--exact", &test.path]);
    let limits = Limits {
        total: Some(request.policy.test_time_out.0 + SLACK),
        quiet: None,
    };
    let target_of = |_: &str| Some((test.package.clone(), test.kind, test.target.clone()));
    let mut reader = LogReader::new(&target_of);
    let mut tail = Tail::default();
    let end = process::run(&mut command, limits, request.cancel, true, |_, line| {
        tail.push(line);
        reader.line(&String::from_utf8_lossy(line));
    })?;
    reader.close();
    let sound = reader.sections.iter().find(|section| section.is_sound());
    let result = match (end, sound) {
        (ProcessEnd::TimedOut, _) => Some(TestResult {
            outcome: Outcome::TimedOut,
            message: excerpt(&tail.text()),
        }),
        (_, Some(section)) => section.results.get(&test.path).cloned(),
        // The program ended before libtest could print: it crashed or exited.
        (ProcessEnd::Exited(code), None) => Some(TestResult {
            outcome: if code == Some(PASSED) {
                Outcome::Pass
            } else {
                Outcome::Fail
            },
            message: excerpt(&tail.text()),
        }),
    };
    Ok(result.map(|result| result.observation(test.clone())))
}

#[derive(Clone, Debug)]
struct TestResult {
    outcome: Outcome,
    message: Option<String>,
}

impl TestResult {
    fn observation(self, test: TestId) -> Observation {
        Observation {
            test,
            outcome: self.outcome,
            duration_ms: None,
            body: None,
            message: self.message,
        }
    }
}

/// What one test program printed.
#[derive(Debug)]
struct Section {
    place: TargetKey,
    results: BTreeMap<String, TestResult>,
    /// Passed, failed and ignored, as the last line counts them.
    counts: Option<[usize; 3]>,
}

impl Section {
    /// Whether the results are what the program itself counted.
    fn is_sound(&self) -> bool {
        let count = |of: &[Outcome]| {
            let is_one = |result: &&TestResult| of.contains(&result.outcome);
            self.results.values().filter(is_one).count()
        };
        self.counts
            == Some([
                count(&[Outcome::Pass]),
                count(&[Outcome::Fail]),
                count(&[Outcome::Ignored]),
            ])
    }

    /// The results, with those of documentation tests under paths without line numbers.
    fn observations(&self) -> impl Iterator<Item = Observation> {
        let (package, kind, target) = &self.place;
        let paths = doctest_paths(self.results.keys().map(String::as_str));
        self.results.iter().map(move |(name, result)| {
            let path = match kind {
                TargetKind::Doc => &paths[name.as_str()],
                _ => name,
            };
            let test = TestId::new(package, *kind, target, path);
            result.clone().observation(test)
        })
    }
}

/// Reads the output of `cargo test` line by line.
struct LogReader<'a> {
    /// The target for what Cargo's header says: a program's file name, or the
    /// name of a library.
    target_of: &'a dyn Fn(&str) -> Option<TargetKey>,
    sections: Vec<Section>,
    current: Option<Section>,
    /// A test whose name was printed and whose result was not.
    open: Option<String>,
    /// Whose output is being printed.
    speaker: Option<String>,
    said: String,
    /// What `--list` printed.
    listed: BTreeSet<TestId>,
}

impl<'a> LogReader<'a> {
    fn new(target_of: &'a dyn Fn(&str) -> Option<TargetKey>) -> Self {
        Self {
            target_of,
            sections: Vec::new(),
            current: None,
            open: None,
            speaker: None,
            said: String::new(),
            listed: BTreeSet::new(),
        }
    }

    /// Reads a line; true if it was the result of a test.
    fn line(&mut self, line: &str) -> bool {
        if let Some(header) = header(line) {
            self.close();
            self.current = (self.target_of)(header).map(|place| Section {
                place,
                results: BTreeMap::new(),
                counts: None,
            });
            return false;
        }
        let Some(section) = &mut self.current else {
            return false;
        };
        if let Some(counts) = counts(line) {
            section.counts = Some(counts);
            return false;
        }
        let named = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "));
        if let Some((name, status)) = named {
            let name = name
                .strip_suffix(" - should panic")
                .unwrap_or(name)
                .to_owned();
            return if let Some(outcome) = outcome(status) {
                self.result(name, outcome)
            } else {
                self.open = Some(name);
                false
            };
        }
        // Something printed past the capture stands between a name and its result.
        if let Some(name) = &self.open
            && let Some(outcome) = outcome(line.trim())
        {
            let name = name.clone();
            return self.result(name, outcome);
        }
        if let Some(speaker) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            self.keep_message();
            self.speaker = Some(speaker.to_owned());
        } else if line == "failures:" {
            self.keep_message();
        } else if self.speaker.is_some() {
            if self.said.len() < super::MESSAGE_LIMIT {
                self.said.push_str(line);
                self.said.push('\n');
            }
        } else if let Some(name) = line.strip_suffix(": test") {
            let (package, kind, target) = &section.place;
            self.listed
                .insert(TestId::new(package, *kind, target, name));
        }
        false
    }

    fn result(&mut self, name: String, outcome: Outcome) -> bool {
        self.open = None;
        if let Some(section) = &mut self.current {
            let message = None;
            section
                .results
                .insert(name, TestResult { outcome, message });
        }
        true
    }

    fn keep_message(&mut self) {
        let said = std::mem::take(&mut self.said);
        let (Some(name), Some(section)) = (self.speaker.take(), &mut self.current) else {
            return;
        };
        if let Some(result) = section.results.get_mut(&name) {
            result.message = excerpt(super::without_backtrace(&said));
        }
    }

    /// Ends the section that is open.
    fn close(&mut self) {
        self.keep_message();
        self.open = None;
        self.sections.extend(self.current.take());
    }
}

/// The program's file name or the library's name in a header of Cargo's.
fn header(line: &str) -> Option<&str> {
    let line = line.trim_start();
    if let Some(library) = line.strip_prefix("Doc-tests ") {
        return Some(library);
    }
    let path = line.strip_prefix("Running ")?.strip_suffix(')')?;
    let (_, path) = path.rsplit_once(" (")?;
    path.rsplit(['/', '\\']).next()
}

/// Whether a line is a header of Cargo's, before what a program prints.
pub(crate) fn is_header(line: &str) -> bool {
    header(line).is_some()
}

fn outcome(status: &str) -> Option<Outcome> {
    match status {
        "ok" => Some(Outcome::Pass),
        "FAILED" => Some(Outcome::Fail),
        _ if status == "ignored" || status.starts_with("ignored, ") => Some(Outcome::Ignored),
        _ => None,
    }
}

/// Reads `test result: FAILED. 1 passed; 2 failed; 3 ignored; …`.
pub(crate) fn counts(line: &str) -> Option<[usize; 3]> {
    let (_, rest) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut numbers = rest
        .split("; ")
        .map(|part| part.split(' ').next()?.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Section> {
        let target_of = |header: &str| Some((header.to_owned(), TargetKind::Lib, String::new()));
        let mut reader = LogReader::new(&target_of);
        for line in text.lines() {
            reader.line(line);
        }
        reader.close();
        reader.sections
    }

    #[test]
    fn results_messages_and_counts_are_read() {
        let sections = read(
            "
     Running unittests src/lib.rs (target/debug/deps/a-31)

running 4 tests
test tests::ok ... ok
test tests::sp - should panic ... ok
test tests::ign ... ignored, why
test tests::bad ... FAILED

failures:

---- tests::bad stdout ----
thread 'tests::bad' panicked at src/lib.rs:1:1:
no

failures:
    tests::bad

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0s

   Doc-tests a

running 1 test
test src/lib.rs - f (line 2) ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s
",
        );
        assert_eq!(sections.len(), 2);
        assert!(sections.iter().all(Section::is_sound));
        assert_eq!(sections[0].place.0, "a-31");
        let results = &sections[0].results;
        assert_eq!(results["tests::sp"].outcome, Outcome::Pass);
        assert_eq!(results["tests::ign"].outcome, Outcome::Ignored);
        assert_eq!(results["tests::bad"].outcome, Outcome::Fail);
        let message = results["tests::bad"].message.as_deref();
        assert_eq!(
            message,
            Some("thread 'tests::bad' panicked at src/lib.rs:1:1:\nno")
        );
    }

    #[test]
    fn a_crash_or_garbage_leaves_a_section_unsound() {
        let crash = read("     Running tests/it.rs (x/it-1)\nrunning 2 tests\ntest a ... ok\n");
        assert!(!crash[0].is_sound());
        let garbage = read(
            "     Running tests/it.rs (x/it-1)\nrunning 2 tests\ntest a ... ok\ngarbagetest b ... \
             ok\n\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured",
        );
        assert!(!garbage[0].is_sound());
    }

    #[test]
    fn a_result_after_uncaptured_output_is_read() {
        let sections = read(
            "     Running tests/it.rs (x/it-1)\nrunning 1 test\ntest a ... noise\nmore\nok\n\n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured",
        );
        assert!(sections[0].is_sound());
    }
}
