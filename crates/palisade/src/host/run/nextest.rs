//! Runs unit and integration tests with cargo-nextest and reads its list and its
//! JUnit report. Our profile inherits what the workspace's own settings say: groups, setup
//! scripts, overrides and the default filter, whose tests count as ignored. Retries are switched
//! off: one run is one observation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Instant;

use quick_junit::{Report, TestCase, TestCaseStatus};
use serde::Deserialize;
use tempfile::TempDir;

use super::built_tests::Programs;
use super::{
    Progress, Request, RunError, TestRunOutput, build_error, ended_badly, excerpt, shown,
    without_backtrace,
};
use crate::host::process::{ProcessEnd, Stream, Tail, in_own_process_group};
use crate::observation::{Observation, Outcome};
use crate::scope::Scope;
use crate::test_id::{TargetKind, TestId};

/// Exit codes that nextest documents.
const PASSED: i32 = 0;
const NO_TESTS: i32 = 4;
const TESTS_FAILED: i32 = 100;
const BUILD_FAILED: i32 = 101;

/// The name of our profile and of the tool that brings it.
const PROFILE: &str = "palisade";

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct List {
    rust_suites: BTreeMap<String, Suite>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Suite {
    package_name: String,
    binary_name: String,
    kind: String,
    #[serde(default)]
    testcases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Case {
    ignored: bool,
    filter_match: FilterMatch,
}

#[derive(Deserialize)]
struct FilterMatch {
    status: String,
    #[serde(default)]
    reason: String,
}

impl Case {
    /// Whether it is there and does not run: by its attribute, or by the `default-filter` of
    /// the workspace's own settings.
    fn is_left_out(&self) -> bool {
        self.ignored || self.filter_match.reason == "default-filter"
    }
}

/// Runs the request's tests that are neither documentation tests nor `own`, which are run
/// otherwise: nextest would ask their programs for a list, and give up.
pub(super) fn run(
    request: &Request<'_>,
    own: &BTreeSet<TestId>,
    deadline: Instant,
    seen: &mut TestRunOutput,
) -> Result<(), RunError> {
    let mut nextest = Nextest::new(request, own)?;
    nextest.find_programs(deadline)?;
    // Of named tests the report says all, unless one is ignored or gone. They run many
    // times, and a list takes as long as a run.
    let mut expected = match request.scope {
        Scope::Tests(tests) => named(&(tests - own)),
        _ => listed(request, nextest.command("list"), deadline, seen)?,
    };
    if expected.is_empty() {
        return Ok(());
    }
    run_to_end(request, nextest.run_command(), deadline)?;
    let report = nextest.report();
    if let Some(report) = &report {
        take_reported(report, &mut expected, seen);
    }
    if matches!(request.scope, Scope::Tests(_)) && !expected.is_empty() {
        let listed = listed(request, nextest.command("list"), deadline, seen)?;
        expected.retain(|name, _| listed.contains_key(name));
    }
    if !expected.is_empty() && report.is_none() {
        return Err(RunError::Output {
            what: "JUnit report",
            command: shown(&nextest.command("run")),
            output: String::new(),
        });
    }
    for test in expected.into_values() {
        seen.gaps
            .push(format!("{test} has no outcome in nextest's report"));
    }
    Ok(())
}

/// nextest with a configuration of our own, in a folder that lives as long as this does.
struct Nextest<'a> {
    request: &'a Request<'a>,
    /// Tests that are run otherwise.
    own: &'a BTreeSet<TestId>,
    folder: TempDir,
    /// What was built for the request, if it need not be asked for again.
    programs: Option<Rc<Programs>>,
}

impl<'a> Nextest<'a> {
    /// Writes the configuration.
    fn new(request: &'a Request<'a>, own: &'a BTreeSet<TestId>) -> Result<Self, RunError> {
        let folder = tempfile::tempdir().map_err(|source| RunError::Write {
            path: std::env::temp_dir(),
            source,
        })?;
        let nextest = Self {
            request,
            own,
            folder,
            programs: None,
        };
        // `store.dir` also brings the report to a place that is always the same,
        // whatever the target folder is, and that is not in the user's tree.
        let text = format!(
            "[store]\ndir = {}\n\
             [profile.{PROFILE}]\nfail-fast = false\n\
             slow-timeout = {{ period = \"{}ms\", terminate-after = 1, grace-period = \"1s\" }}\n\
             [profile.{PROFILE}.junit]\npath = \"junit.xml\"\n",
            toml::Value::from(nextest.store().to_string_lossy().into_owned()),
            request.policy.test_time_out.0.as_millis().max(1),
        );
        let path = nextest.config();
        match std::fs::write(&path, text) {
            Ok(()) => Ok(nextest),
            Err(source) => Err(RunError::Write { path, source }),
        }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("nextest.toml")
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Finds the programs of an earlier run of this revision, or builds them. Named tests that
    /// run for the first time leave that to the run itself.
    fn find_programs(&mut self, deadline: Instant) -> Result<(), RunError> {
        /// These decide where and for what Cargo builds, and nextest takes them with no list.
        const OTHERS: [&str; 5] = ["--target", "--config", "--manifest-path", "-Z", "-C"];
        let request = self.request;
        if let Scope::Tests(tests) = request.scope {
            let names = named(&(tests - self.own));
            let binaries = names.keys().map(|(binary, _)| binary.as_str()).collect();
            self.programs = request.built.with(&binaries);
            if self.programs.is_some() || !request.built.is_rerun() {
                return Ok(());
            }
        }
        let arguments = &request.policy.cargo_args;
        let is_other = |word: &String| OTHERS.iter().any(|other| word.starts_with(other));
        if !arguments.iter().any(is_other) {
            self.programs = self.build(deadline)?.map(Rc::new);
        }
        if let Some(programs) = &self.programs {
            request.built.keep(programs);
        }
        Ok(())
    }

    /// Builds the programs; `None` if what nextest or Cargo says of them is of no known form.
    fn build(&self, deadline: Instant) -> Result<Option<Programs>, RunError> {
        let mut list = self.cargo_command("list");
        // A long line would be cut.
        list.args([
            "--list-type",
            "binaries-only",
            "--message-format",
            "json-pretty",
        ]);
        let (list, _) = answer(self.request, &mut list, deadline)?;
        let Some(programs) = Programs::new(&list)? else {
            return Ok(None);
        };
        let words = [
            "metadata",
            "--format-version",
            "1",
            "--all-features",
            "--filter-platform",
        ];
        let mut metadata = self.request.cargo(&words);
        let arguments = self.request.policy.cargo_args.iter();
        let offline = ["--locked", "--offline", "--frozen"];
        metadata.arg(&programs.host);
        metadata.args(arguments.filter(|word| offline.contains(&word.as_str())));
        let output = in_own_process_group(&mut metadata)
            .stdin(Stdio::null())
            .output();
        match output.ok().filter(|output| output.status.success()) {
            Some(output) => programs.add_metadata(&output.stdout)?,
            None => return Ok(None),
        }
        Ok(Some(programs))
    }

    /// A subcommand of nextest for the tests of the request.
    fn command(&self, subcommand: &str) -> Command {
        let mut command = match &self.programs {
            None => self.cargo_command(subcommand),
            Some(programs) => {
                let mut command = self.request.cargo(&["nextest", subcommand]);
                command
                    .arg("--binaries-metadata")
                    .arg(programs.binaries_file());
                command
                    .arg("--cargo-metadata")
                    .arg(programs.metadata_file());
                command
            }
        };
        self.configure(&mut command);
        let filter = filter(self.request);
        if let Some(filter) = without(filter, self.own) {
            command.args(["-E", &filter]);
        }
        command
    }

    /// A subcommand that has Cargo build the packages of the request.
    fn cargo_command(&self, subcommand: &str) -> Command {
        let mut command = self.request.cargo(&["nextest", subcommand]);
        let mut words = self.request.selections().concat();
        // nextest takes this flag once only.
        if words.iter().any(|word| word == "--lib") {
            words.retain(|word| word != "--lib");
            words.push("--lib".to_owned());
        }
        command.args(words);
        command.args(&self.request.policy.cargo_args);
        command
    }

    fn configure(&self, command: &mut Command) {
        command
            .arg("--tool-config-file")
            .arg(format!("{PROFILE}:{}", self.config().display()))
            .args(["--profile", PROFILE])
            // It starts each program through another one, so that one that is stopped in a
            // terminal goes on well. There is none here, and each start takes its time.
            .env("NEXTEST_DOUBLE_SPAWN", "0");
    }

    /// The command that runs the tests once each and prints only how each ended.
    fn run_command(&self) -> Command {
        let mut command = self.command("run");
        command.args(["--no-fail-fast", "--retries", "0", "--no-tests", "pass"]);
        command.args(["--status-level", "all", "--final-status-level", "none"]);
        command.args(["--failure-output", "never", "--success-output", "never"]);
        command
    }

    /// The JUnit report of the last run; `None` if there is none that can be read.
    fn report(&self) -> Option<Report> {
        let path = self.store().join(PROFILE).join("junit.xml");
        let file = std::fs::File::open(path).ok()?;
        Report::deserialize(std::io::BufReader::new(file)).ok()
    }
}

/// Moves the expected tests that a report tells of to what was seen.
fn take_reported(report: &Report, expected: &mut ByName, seen: &mut TestRunOutput) {
    for suite in &report.test_suites {
        for case in &suite.test_cases {
            let key = (
                suite.name.as_str().to_owned(),
                case.name.as_str().to_owned(),
            );
            if let Some(test) = expected.remove(&key) {
                seen.observations.push(observation(test, case));
            }
        }
    }
}

/// Tests by what nextest calls them: the binary and the path in it.
type ByName = BTreeMap<(String, String), TestId>;

/// The tests that a scope names, but for documentation tests.
fn named(tests: &BTreeSet<TestId>) -> ByName {
    let tests = tests.iter().filter(|test| test.kind != TargetKind::Doc);
    tests
        .map(|test| {
            let binary = binary(&test.package, test.kind, &test.target);
            ((binary, test.path.clone()), test.clone())
        })
        .collect()
}

/// Builds the tests and returns those that run; ignored ones are added to `seen`.
fn listed(
    request: &Request<'_>,
    command: Command,
    deadline: Instant,
    seen: &mut TestRunOutput,
) -> Result<ByName, RunError> {
    let mut expected = BTreeMap::new();
    for (binary, suite) in list(request, command, deadline)?.rust_suites {
        let kind = TargetKind::from_cargo(&suite.kind).unwrap_or(TargetKind::Lib);
        for (path, case) in suite.testcases {
            let test = TestId::new(&suite.package_name, kind, &suite.binary_name, &path);
            if case.filter_match.status == "matches" {
                expected.insert((binary.clone(), path), test);
            } else if case.is_left_out() && request.scope.contains(&test) {
                seen.observations.push(Observation {
                    test,
                    outcome: Outcome::Ignored,
                    duration_ms: None,
                    body: None,
                    message: None,
                });
            }
        }
    }
    Ok(expected)
}

/// Builds the tests and lists them.
fn list(request: &Request<'_>, mut command: Command, deadline: Instant) -> Result<List, RunError> {
    command.args(["--message-format", "json-pretty"]);
    let (out, tail) = answer(request, &mut command, deadline)?;
    serde_json::from_slice(&out).map_err(|_| RunError::Output {
        what: "list of tests",
        command: shown(&command),
        output: tail.text(),
    })
}

/// What a command prints that builds tests, and what it said meanwhile.
fn answer(
    request: &Request<'_>,
    command: &mut Command,
    deadline: Instant,
) -> Result<(Vec<u8>, Tail), RunError> {
    let (mut out, mut tail) = (Vec::new(), Tail::default());
    let end = request.finish(command, deadline, |stream, line| match stream {
        Stream::Out => out.extend_from_slice(line),
        Stream::Err => {
            tail.push(line);
            let line = String::from_utf8_lossy(line).trim().to_owned();
            (request.progress)(Progress::Building(line));
        }
    })?;
    match end {
        ProcessEnd::Exited(Some(PASSED)) => Ok((out, tail)),
        ProcessEnd::Exited(Some(BUILD_FAILED)) => Err(build_error(&tail)),
        other => Err(ended_badly(command, other, &tail)),
    }
}

/// Runs the tests, after building what is not built yet.
fn run_to_end(
    request: &Request<'_>,
    mut command: Command,
    deadline: Instant,
) -> Result<(), RunError> {
    let mut tail = Tail::default();
    let mut is_built = false;
    let end = request.finish(&mut command, deadline, |_, line| {
        tail.push(line);
        let line = String::from_utf8_lossy(line);
        if let Some((done, total)) = position(&line) {
            let total = Some(total);
            (request.progress)(Progress::Testing { done, total });
        }
        is_built |= line.contains("Nextest run ID");
        if !is_built {
            (request.progress)(Progress::Building(line.trim().to_owned()));
        }
    })?;
    match end {
        ProcessEnd::Exited(Some(PASSED | TESTS_FAILED | NO_TESTS)) => Ok(()),
        ProcessEnd::Exited(Some(BUILD_FAILED)) => Err(build_error(&tail)),
        other => Err(ended_badly(&command, other, &tail)),
    }
}

/// Reads `(3/17)` from a line such as `PASS [   0.007s] ( 3/17) a tests::ok`.
fn position(line: &str) -> Option<(usize, usize)> {
    let (_, rest) = line.split_once("] (")?;
    let (done, rest) = rest.split_once('/')?;
    let (total, _) = rest.split_once(')')?;
    Some((done.trim().parse().ok()?, total.parse().ok()?))
}

/// The filter that selects single tests.
fn filter(request: &Request<'_>) -> Option<String> {
    match request.scope {
        Scope::Tests(tests) => Some(filter_of_tests(tests)),
        Scope::Shard(_) => {
            let mut filter = String::from("none()");
            for package in request.packages() {
                for (kind, target) in package.tested(request.scope) {
                    if kind != TargetKind::Doc {
                        let binary = binary(&package.name, kind, target);
                        // Writing to a string cannot fail.
                        let _ = write!(filter, " | binary_id(={binary})");
                    }
                }
            }
            Some(filter)
        }
        Scope::Workspace | Scope::Packages(_) | Scope::Doctests(_) => None,
    }
}

/// The same filter without the programs of some tests.
fn without(filter: Option<String>, own: &BTreeSet<TestId>) -> Option<String> {
    if own.is_empty() {
        return filter;
    }
    let mut text = format!("({})", filter.as_deref().unwrap_or("all()"));
    for test in own {
        let binary = binary(&test.package, test.kind, &test.target);
        // Writing to a string cannot fail.
        let _ = write!(text, " - binary_id(={binary})");
    }
    Some(text)
}

fn filter_of_tests(tests: &BTreeSet<TestId>) -> String {
    let mut filter = String::from("none()");
    for test in tests.iter().filter(|test| test.kind != TargetKind::Doc) {
        let binary = binary(&test.package, test.kind, &test.target);
        let path = &test.path;
        // Writing to a string cannot fail.
        let _ = write!(filter, " | (binary_id(={binary}) & test(={path}))");
    }
    filter
}

/// What nextest calls a target.
fn binary(package: &str, kind: TargetKind, target: &str) -> String {
    match kind {
        TargetKind::Lib | TargetKind::Doc => package.to_owned(),
        TargetKind::Test => format!("{package}::{target}"),
        kind => format!("{package}::{}/{target}", kind.as_str()),
    }
}

/// What a JUnit report says of a test.
pub(crate) fn observation(test: TestId, case: &TestCase) -> Observation {
    let text = |text: &Option<quick_junit::XmlString>| {
        text.as_ref()
            .map(|text| text.as_str().to_owned())
            .unwrap_or_default()
    };
    let (outcome, message) = match &case.status {
        TestCaseStatus::Success { .. } => (Outcome::Pass, None),
        TestCaseStatus::NonSuccess {
            message,
            ty,
            description,
            ..
        } => {
            let timed_out = ty
                .as_ref()
                .is_some_and(|ty| ty.as_str().contains("timeout"));
            let outcome = if timed_out {
                Outcome::TimedOut
            } else {
                Outcome::Fail
            };
            let said = [text(description), text(message), text(&case.system_out)];
            (
                outcome,
                said.iter()
                    .find_map(|said| excerpt(without_backtrace(said))),
            )
        }
        TestCaseStatus::Skipped { .. } => (Outcome::Ignored, None),
    };
    Observation {
        test,
        outcome,
        duration_ms: case.time.map(|time| time.as_secs_f64() * 1e3),
        body: None,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_name_one_test_each() {
        let tests = BTreeSet::from([
            TestId::new("a", TargetKind::Lib, "a", "t::x"),
            TestId::new("a", TargetKind::Test, "it", "y"),
            TestId::new("a", TargetKind::Bin, "tool", "z"),
            TestId::new("a", TargetKind::Doc, "a", "src/lib.rs - f"),
        ]);
        assert_eq!(
            filter_of_tests(&tests),
            "none() | (binary_id(=a) & test(=t::x)) | (binary_id(=a::bin/tool) & test(=z)) \
             | (binary_id(=a::it) & test(=y))"
        );
    }

    #[test]
    fn programs_that_list_no_tests_are_left_out() {
        let own = BTreeSet::from([TestId::new("a", TargetKind::Test, "own", "main")]);
        assert_eq!(
            without(None, &own).as_deref(),
            Some("(all()) - binary_id(=a::own)")
        );
        let some = Some("none() | test(=x)".to_owned());
        assert_eq!(
            without(some, &own).as_deref(),
            Some("(none() | test(=x)) - binary_id(=a::own)")
        );
        assert_eq!(without(None, &BTreeSet::new()), None);
    }

    #[test]
    fn tests_that_the_default_filter_leaves_out_are_there() {
        let is_left_out = |text: &str| {
            let case: Case = serde_json::from_str(text).expect("valid");
            case.is_left_out()
        };
        let case = |ignored: bool, rest: &str| {
            format!("{{\"ignored\": {ignored}, \"filter-match\": {{\"status\": {rest}}}}}")
        };
        assert!(!is_left_out(&case(false, "\"matches\"")));
        assert!(is_left_out(&case(
            true,
            "\"mismatch\", \"reason\": \"ignored\""
        )));
        assert!(is_left_out(&case(
            false,
            "\"mismatch\", \"reason\": \"default-filter\""
        )));
        assert!(!is_left_out(&case(
            false,
            "\"mismatch\", \"reason\": \"expression\""
        )));
    }

    #[test]
    fn positions_are_read() {
        assert_eq!(
            position("    PASS [   0.007s] ( 3/17) a tests::ok"),
            Some((3, 17))
        );
        assert_eq!(position("   Compiling a v0.1.0 (/x)"), None);
    }
}
