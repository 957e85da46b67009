//! `cargo palisade test`

use super::Context;
use crate::error::{CommandError, NOT_MEASURED, UsageError};
use palisade::baseline::{Tally, TestSet};
use palisade::flaky::Ledger;
use palisade::observation::{Observation, Outcome, Purpose, Run};
use palisade::policy::Policy;
use palisade::record::counted;
use palisade::report::printable;
use palisade::scope::Scope;
use palisade::test_id::TestId;
use palisade::workspace::Workspace;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// The exit code when a test fails.
const FAILED: u8 = 1;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo palisade test -- cargo test --workspace")]
pub struct Args {
    /// Only the tests of this package; may be given several times
    #[arg(short, long, value_name = "NAME")]
    pub package: Vec<String>,
    /// Only this test, as package/kind:target/path; may be given several times
    #[arg(long, value_name = "TEST", conflicts_with = "package")]
    pub test: Vec<TestId>,
    /// Your own `cargo test` of the whole workspace: run as it is, watched, remembered
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = ["package", "test"])]
    pub command: Vec<String>,
}

pub fn run(context: &mut Context<'_>, args: &Args) -> Result<u8, CommandError> {
    check_packages(&context.session.workspace, args)?;
    let scope = scope(args);
    let (run, mut gaps) = run_tests(context, args, &scope)?;
    let set = TestSet::of_runs([&run], &scope);
    let unseen = args
        .test
        .iter()
        .filter(|test| !set.tests.contains_key(test));
    gaps.extend(unseen.map(|test| format!("there is no test {test}")));
    let ledger = palisade::flow::quarantine::ledger(context.session.store.as_ref())?;
    let failures = failures(&run, &context.session.policy, &ledger);
    let blocking = failures.iter().any(|failure| failure.excuse.is_none());
    let tally = set.tally();
    let code = match () {
        () if blocking => FAILED,
        () if tally.ran() == 0 || !gaps.is_empty() => NOT_MEASURED,
        () => 0,
    };
    let mut text: String = failures.iter().map(Failure::text).collect();
    for gap in &gaps {
        let _ = writeln!(text, "no outcome: {gap}");
    }
    text.push_str(&summary(&run, tally, context.session.runner.name()));
    let json = json!({
        "schema": 1,
        "exit_code": code,
        "run": run.id,
        "subject": run.subject,
        "environment": run.environment,
        "tests": tally,
        "success_rate": tally.success_rate(),
        "failures": failures.iter().map(Failure::json).collect::<Vec<_>>(),
        "gaps": gaps,
    });
    context.print(&json, &text)?;
    Ok(code)
}

/// Whether the packages that the arguments name are there.
fn check_packages(workspace: &Workspace, args: &Args) -> Result<(), UsageError> {
    let of_tests = args.test.iter().map(|test| &test.package);
    let mut named = args.package.iter().chain(of_tests);
    match named.find(|name| !workspace.packages.contains_key(*name)) {
        Some(name) => Err(UsageError::NoPackage(name.clone())),
        None => Ok(()),
    }
}

fn scope(args: &Args) -> Scope {
    if !args.test.is_empty() {
        Scope::Tests(args.test.iter().cloned().collect())
    } else if !args.package.is_empty() {
        Scope::Packages(args.package.iter().cloned().collect())
    } else {
        Scope::Workspace
    }
}

/// Runs the tests, or watches the user's own command do it.
fn run_tests(
    context: &mut Context<'_>,
    args: &Args,
    scope: &Scope,
) -> Result<(Run, Vec<String>), CommandError> {
    let ui = context.ui;
    let events = |event| ui.event(event);
    let session = &mut context.session;
    if !args.command.is_empty() {
        return Ok(session.watch(&args.command, &events)?);
    }
    let mut revision = session.working_revision()?;
    Ok(session.run(&mut revision, scope, Purpose::Tests, &events)?)
}

/// How the run went, in words.
fn summary(run: &Run, tally: Tally, runner: &str) -> String {
    let mut text = format!(
        "{} of {} pass, {} fail, {} ignored ({:.1} s, {runner}); remembered as run {}\n",
        tally.passing,
        counted(tally.ran(), "test"),
        tally.failing,
        tally.ignored,
        (run.finished_ms - run.started_ms) as f64 / 1000.0,
        &run.id[..8]
    );
    if tally.ran() == 0 {
        text.push_str("no test ran, and that is not a pass\n");
    }
    text
}

/// A test that did not pass.
struct Failure<'a> {
    seen: &'a Observation,
    /// Why that does not count.
    excuse: Option<String>,
}

fn failures<'a>(run: &'a Run, policy: &Policy, ledger: &Ledger) -> Vec<Failure<'a>> {
    let failed = run
        .observations
        .iter()
        .filter(|seen| seen.outcome.is_failure());
    let failure = |seen: &'a Observation| {
        let known = policy.known_failure(&seen.test);
        let known = known.map(|k| format!("known failure of {}: {}", k.owner, k.reason));
        let quarantine = ledger.quarantine(&seen.test);
        let quarantine = quarantine.map(|q| format!("in quarantine, {}: {}", q.owner, q.reason));
        Failure {
            seen,
            excuse: known.or(quarantine),
        }
    };
    failed.map(failure).collect()
}

impl Failure<'_> {
    fn text(&self) -> String {
        /// How many lines of what a test said are shown.
        const LINES: usize = 20;
        let timed_out = self.seen.outcome == Outcome::TimedOut;
        let how = if timed_out { "timed out" } else { "failed" };
        let excuse = self.excuse.as_ref().map(|excuse| format!(" ({excuse})"));
        let mut text = format!("{how}: {}{}\n", self.seen.test, excuse.unwrap_or_default());
        let message = self.seen.message.as_ref().filter(|_| self.excuse.is_none());
        for line in message
            .iter()
            .flat_map(|message| message.lines())
            .take(LINES)
        {
            let _ = writeln!(text, "  | {}", printable(line));
        }
        text
    }

    fn json(&self) -> Value {
        json!({
            "name": self.seen.test,
            "outcome": self.seen.outcome,
            "message": self.seen.message,
            "excuse": self.excuse,
        })
    }
}
