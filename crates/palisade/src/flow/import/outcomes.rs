//! Tests that other programs ran.

use std::collections::BTreeMap;

use anstream::adapter::strip_str;
use quick_junit::Report;

use super::blocks::with_headers;
use crate::host::run::{TargetKey, junit_observation, read_log};
use crate::observation::Observation;
use crate::test_id::{TargetKind, TestId};
use crate::workspace::Workspace;

/// What a log of `cargo test` says.
pub(super) struct LogResults {
    /// The tests.
    pub tests: Vec<Observation>,
    /// The targets of which some tests have no result.
    pub gaps: Vec<String>,
    /// What was guessed of the programs, in words.
    pub notes: Vec<String>,
    /// Whether Cargo stopped at the first target that failed.
    pub stopped: bool,
}

/// Reads a log of `cargo test`.
pub(super) fn log(text: &str, workspace: &Workspace) -> LogResults {
    let text = strip_str(text).to_string();
    let log = with_headers(&text, workspace);
    let mut sources: BTreeMap<&str, &str> = BTreeMap::new();
    for line in text.lines() {
        if let Some((source, program)) = running(line) {
            sources.insert(program, source);
        }
    }
    let target_of = |header: &str| {
        let named = log.targets.get(header).cloned();
        Some(named.unwrap_or_else(|| match sources.get(header) {
            Some(source) => target(workspace, source, stem(header)),
            None => library(workspace, header),
        }))
    };
    let seen = read_log(&log.text, &target_of);
    // With --no-fail-fast Cargo lists the targets that failed at the end.
    let stopped = if log.targets.is_empty() {
        text.contains("error: test failed, to rerun pass")
            && !text.contains(" target failed:")
            && !text.contains(" targets failed:")
    } else {
        let last = text.rfind("\ntest result: ");
        let failed = last.is_some_and(|at| text[at..].starts_with("\ntest result: FAILED"));
        failed && log.ends_early
    };
    LogResults {
        tests: seen.observations,
        gaps: seen.gaps,
        notes: log.notes,
        stopped,
    }
}

/// The source and the program's file in Cargo's header:
/// `Running unittests src/lib.rs (target/debug/deps/a-0123456789abcdef)`.
fn running(line: &str) -> Option<(&str, &str)> {
    let rest = line
        .trim_start()
        .strip_prefix("Running ")?
        .strip_suffix(')')?;
    let (source, path) = rest.rsplit_once(" (")?;
    let source = source.strip_prefix("unittests").unwrap_or(source).trim();
    Some((source, path.rsplit(['/', '\\']).next()?))
}

/// A program's name without the hash that Cargo adds.
fn stem(program: &str) -> &str {
    let program = program.strip_suffix(".exe").unwrap_or(program);
    let is_hash = |hash: &str| hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    match program.rsplit_once('-') {
        Some((stem, hash)) if is_hash(hash) => stem,
        _ => program,
    }
}

/// The target that a header means; one of no package known here is called by its program.
fn target(workspace: &Workspace, source: &str, stem: &str) -> TargetKey {
    let source = source.replace('\\', "/");
    for package in workspace.packages.values() {
        for target in &package.targets {
            let is_it = target.name.replace('-', "_") == stem.replace('-', "_")
                && (source.is_empty() || target.source.ends_with(&source));
            if let (Some(kind), true) = (target.kind, is_it) {
                return (package.name.clone(), kind, target.name.clone());
            }
        }
    }
    let kind = match source.split('/').next().unwrap_or_default() {
        "tests" => TargetKind::Test,
        "benches" => TargetKind::Bench,
        "examples" => TargetKind::Example,
        _ if source.ends_with("main.rs") => TargetKind::Bin,
        _ => TargetKind::Lib,
    };
    (stem.to_owned(), kind, stem.to_owned())
}

/// The documentation of a library.
fn library(workspace: &Workspace, name: &str) -> TargetKey {
    let mut packages = workspace.packages.values();
    let owner = packages.find(|package| {
        let mut targets = package.targets.iter();
        targets.any(|target| target.doctests && target.name.replace('-', "_") == name)
    });
    let package = owner.map_or(name, |package| &package.name);
    (package.to_owned(), TargetKind::Doc, String::new())
}

/// The tests of a JUnit report; suites are called as nextest calls programs.
pub(super) fn junit(text: &str) -> Result<Vec<Observation>, String> {
    let report = Report::deserialize_from_str(text).map_err(|error| error.to_string())?;
    let mut seen = Vec::new();
    for suite in &report.test_suites {
        let (package, kind, target) = suite_target(suite.name.as_str());
        for case in &suite.test_cases {
            let test = TestId::new(&package, kind, &target, case.name.as_str());
            seen.push(junit_observation(test, case));
        }
    }
    Ok(seen)
}

/// The target of `package`, `package::test` or `package::kind/target`.
fn suite_target(suite: &str) -> TargetKey {
    let (package, rest) = suite.split_once("::").unwrap_or((suite, ""));
    let package = package.replace('/', "-");
    let kind = rest.split_once('/').and_then(|(kind, target)| {
        let kind = TargetKind::from_cargo(kind)?;
        Some((kind, target))
    });
    match (kind, rest) {
        (Some((kind, target)), _) => (package, kind, target.replace('/', "-")),
        (None, "") => (package, TargetKind::Lib, String::new()),
        (None, test) => (package, TargetKind::Test, test.replace('/', "-")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Outcome;
    use crate::workspace::Workspace;

    const LOG: &str = "\
   Compiling alpha v0.1.0
\u{1b}[1m\u{1b}[32m     Running\u{1b}[0m unittests src/lib.rs (target/debug/deps/alpha-0123456789abcdef)

running 3 tests
test tests::adds ... ok
test tests::slow ... ignored, takes long
test tests::subtracts ... FAILED

failures:

---- tests::subtracts stdout ----
it is wrong

failures:
    tests::subtracts

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

     Running tests/cli.rs (target/debug/deps/cli-fedcba9876543210)

running 2 tests
test works ... ok
";

    #[test]
    fn a_log_is_read_and_what_is_cut_off_is_said() {
        let LogResults {
            tests: seen,
            gaps,
            stopped,
            ..
        } = log(LOG, &Workspace::new([]));
        assert!(!stopped);
        let listed: Vec<(String, Outcome)> = seen
            .iter()
            .map(|seen| (seen.test.to_string(), seen.outcome))
            .collect();
        assert_eq!(
            listed,
            [
                ("alpha/lib/tests::adds".to_owned(), Outcome::Pass),
                ("alpha/lib/tests::slow".to_owned(), Outcome::Ignored),
                ("alpha/lib/tests::subtracts".to_owned(), Outcome::Fail),
            ]
        );
        assert_eq!(seen[2].message.as_deref(), Some("it is wrong"));
        assert_eq!(gaps, ["the results of cli/test:cli are not all there"]);
    }

    #[test]
    fn junit_suites_are_targets() {
        let text = "<?xml version=\"1.0\"?><testsuites><testsuite name=\"a::bin/tool\" tests=\"2\">\
                    <testcase name=\"t::x\" classname=\"a\" time=\"0.5\"/>\
                    <testcase name=\"t::y\" classname=\"a\"><failure message=\"no\"/></testcase>\
                    </testsuite></testsuites>";
        let seen = junit(text).expect("is JUnit");
        assert_eq!(seen[0].test.to_string(), "a/bin:tool/t::x");
        assert_eq!(seen[0].duration_ms, Some(500.0));
        assert_eq!(seen[1].outcome, Outcome::Fail);
        assert_eq!(
            suite_target("a::it"),
            ("a".to_owned(), TargetKind::Test, "it".to_owned())
        );
        assert!(junit("<html>").is_err());
    }
}
