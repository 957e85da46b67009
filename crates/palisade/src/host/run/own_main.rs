//! Test programs with a `main` of their own (`harness = false`) that list no tests: each is one
//! test, which passes if the program ends with 0.
//!
//! Programs that speak as libtest does, such as those of libtest-mimic, are run like others.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Request, RunError, cargo_test, excerpt};
use crate::host::process::{self, Limits, ProcessEnd, Stream, Tail};
use crate::observation::{Observation, Outcome};
use crate::scope::Scope;
use crate::test_id::{TargetKind, TestId};
use crate::workspace::{Package, Target};

/// What the one test of such a program is called.
const PATH: &str = "main";

/// How long a program may take to list its tests; one that runs them all instead takes longer.
const LIST_TIME: Duration = Duration::from_secs(10);

/// A test program that lists no tests.
pub(super) struct OwnMain<'a> {
    package: &'a Package,
    kind: TargetKind,
    target: &'a str,
}

/// The programs of the scope that list no tests, built.
pub(super) fn find<'a>(
    request: &Request<'a>,
    deadline: Instant,
) -> Result<Vec<OwnMain<'a>>, RunError> {
    let mut found = Vec::new();
    for package in request.packages() {
        for target in package.targets.iter().filter(|target| target.tested) {
            let Some(kind) = target
                .kind
                .filter(|kind| has_own_main(package, *kind, target))
            else {
                continue;
            };
            let program = OwnMain {
                package,
                kind,
                target: &target.name,
            };
            if program.is_in(request.scope) && !program.lists_tests(request, deadline)? {
                found.push(program);
            }
        }
    }
    Ok(found)
}

fn has_own_main(package: &Package, kind: TargetKind, target: &Target) -> bool {
    let name = match kind {
        TargetKind::Lib => "",
        _ => &target.name,
    };
    package.own_mains.contains(&(kind, name.to_owned()))
}

impl OwnMain<'_> {
    /// Its one test.
    pub(super) fn test(&self) -> TestId {
        TestId::new(&self.package.name, self.kind, self.target, PATH)
    }

    fn is_in(&self, scope: &Scope) -> bool {
        match scope {
            Scope::Tests(tests) => tests.contains(&self.test()),
            scope => scope.touches(&self.package.name, self.kind, self.target),
        }
    }

    /// What selects it.
    fn selection(&self, request: &Request<'_>) -> Vec<String> {
        let mut words = vec!["--package".to_owned(), self.package.spec.clone()];
        words.extend(super::target_flags([(self.kind, self.target)]));
        words.extend(request.policy.cargo_args.iter().cloned());
        words
    }

    /// `cargo test` for this program alone.
    fn command(&self, request: &Request<'_>, args: &[&str]) -> Command {
        let mut command = request.cargo(&["test"]);
        command.args(self.selection(request)).args(args);
        command
    }

    /// Builds it and asks it for a list of tests, as cargo-nextest does.
    fn lists_tests(&self, request: &Request<'_>, deadline: Instant) -> Result<bool, RunError> {
        cargo_test::build_alone(request, self.command(request, &["--no-run"]), deadline)?;
        let mut command = self.command(request, &["--", "--list", "--format", "terse"]);
        let limits = Limits {
            total: Some(LIST_TIME),
            quiet: None,
        };
        let mut lines = BTreeSet::new();
        let end = process::run(
            &mut command,
            limits,
            request.cancel,
            false,
            |stream, line| {
                if stream == Stream::Out {
                    lines.insert(String::from_utf8_lossy(line).trim().to_owned());
                }
            },
        )?;
        Ok(end == ProcessEnd::Exited(Some(0)) && is_list(&lines))
    }

    /// Runs it once.
    pub(super) fn run(&self, request: &Request<'_>) -> Result<Observation, RunError> {
        let limits = Limits {
            total: Some(request.policy.test_time_out.0),
            quiet: None,
        };
        let mut tail = Tail::default();
        let mut command = self.command(request, &[]);
        let end = process::run(&mut command, limits, request.cancel, true, |_, line| {
            tail.push(line);
        })?;
        let outcome = match end {
            ProcessEnd::Exited(Some(0)) => Outcome::Pass,
            ProcessEnd::Exited(_) => Outcome::Fail,
            ProcessEnd::TimedOut => Outcome::TimedOut,
        };
        Ok(Observation {
            test: self.test(),
            outcome,
            duration_ms: None,
            body: None,
            message: excerpt(&tail.text()).filter(|_| outcome != Outcome::Pass),
        })
    }
}

/// Whether what a program printed is a list of tests. One that lists none may just as well have
/// ignored the question.
fn is_list(lines: &BTreeSet<String>) -> bool {
    let is_test = |line: &String| line.ends_with(": test") || line.ends_with(": benchmark");
    let mut lines = lines.iter().filter(|line| !line.is_empty()).peekable();
    lines.peek().is_some() && lines.all(is_test)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_prints_something_else_lists_no_tests() {
        let is_list = |text: &str| is_list(&text.lines().map(str::to_owned).collect());
        assert!(is_list("a: test\nb::c: test\nd: benchmark\n\n"));
        assert!(!is_list(""));
        assert!(!is_list("a: test\nall went well\n"));
        assert!(!is_list("all went well\n"));
    }
}
