//! `cargo palisade baseline`

use super::Context;
use super::check::{self, JudgeArgs};
use crate::error::{CommandError, NOT_MEASURED, UsageError};
use palisade::baseline::{TestSet, TestStatus};
use palisade::flow::check::CheckOptions;
use palisade::flow::confirmed_run::{ConfirmedRun, confirmed_run};
use palisade::host::session::{BaseChoice, Event, Session};
use palisade::host::{new_id, now};
use palisade::observation::Run;
use palisade::record::{BaselineMark, FailureKind, Record, age, counted};
use palisade::report::printable;
use palisade::scope::Scope;
use serde_json::json;
use std::fmt::Write as _;

#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Example: cargo palisade baseline record")]
pub enum Command {
    /// Run all tests and keep the result as the expected state of this branch
    #[command(after_help = "Example: cargo palisade baseline record")]
    Record,
    /// Show the expected state of this branch
    #[command(after_help = "Example: cargo palisade baseline show --branch main")]
    Show(BranchArgs),
    /// Compare all tests of the files as they are with the expected state
    #[command(after_help = "Example: cargo palisade baseline diff")]
    Diff {
        #[command(flatten)]
        branch: BranchArgs,
        #[command(flatten)]
        judge: JudgeArgs,
    },
}

#[derive(Debug, clap::Args)]
pub struct BranchArgs {
    /// The branch [default: the one that is checked out]
    #[arg(long, value_name = "BRANCH")]
    pub branch: Option<String>,
}

pub fn run(context: &mut Context<'_>, command: &Command) -> Result<u8, CommandError> {
    match command {
        Command::Record => record(context),
        Command::Show(branch) => show(context, branch),
        Command::Diff { branch, judge } => {
            let (_, run) = find(&context.session, branch)?;
            let options = CheckOptions {
                base: BaseChoice::Revision(run.subject.commit),
                fresh: judge.fresh,
                everything: true,
                budget: judge.budget.map(|budget| budget.0),
                shard: None,
                ..CheckOptions::default()
            };
            check::judge(context, &options, judge)
        }
    }
}

/// Makes a run the expected state of the branch that is checked out.
pub fn mark(context: &mut Context<'_>, run: &Run) -> Result<BaselineMark, CommandError> {
    let mark = BaselineMark {
        id: new_id(),
        recorded_ms: now(),
        branch: run.subject.branch.clone().unwrap_or_default(),
        run: run.id.clone(),
    };
    context.session.store.add(&Record::Baseline(mark.clone()))?;
    Ok(mark)
}

fn record(context: &mut Context<'_>) -> Result<u8, CommandError> {
    let ui = context.ui;
    let mut revision = context.session.working_revision()?;
    if revision.subject.dirty {
        return Err(UsageError::Dirty.into());
    }
    ui.event(Event::Step(format!("test {}", revision.name())));
    let events = |event| ui.event(event);
    let ConfirmedRun {
        run,
        gaps,
        set,
        failures,
    } = confirmed_run(&mut context.session, &mut revision, &events)?;
    let tally = set.tally();
    let is_usable = run.complete && tally.ran() > 0;
    let flaky = match tally.flaky {
        0 => String::new(),
        count => format!(", {count} flaky"),
    };
    let mut text = format!(
        "{} of {} pass at {}, {} fail{flaky}, {} ignored\n",
        tally.passing,
        counted(tally.ran(), "test"),
        revision.name(),
        tally.failing,
        tally.ignored
    );
    for failure in &failures {
        let word = match failure.kind {
            FailureKind::Flaky => "flaky",
            FailureKind::Broken | FailureKind::OnlyUnderNextest => "fails",
        };
        let reason = printable(&failure.reason());
        let _ = writeln!(text, "  {word}: {}: {reason}", failure.test);
    }
    let mark = if is_usable {
        Some(mark(context, &run)?)
    } else {
        None
    };
    for gap in &gaps {
        let _ = writeln!(text, "no outcome: {gap}");
    }
    text.push_str(match &mark {
        Some(_) => "recorded the baseline of this branch\n",
        None => "recorded no baseline: the run is not complete, or ran no test\n",
    });
    let json = json!({
        "schema": 1,
        "baseline": mark.as_ref().map(|mark| &mark.id),
        "run": run.id,
        "commit": run.subject.commit,
        "tests": tally,
        "failures": failures,
        "gaps": gaps,
    });
    context.print(&json, &text)?;
    Ok(if is_usable { 0 } else { NOT_MEASURED })
}

/// The baseline of a branch with its run.
fn find(session: &Session, args: &BranchArgs) -> Result<(BaselineMark, Run), CommandError> {
    let branch = args
        .branch
        .clone()
        .or_else(|| session.repo.branch())
        .unwrap_or_default();
    let mark = session.store.baseline(&branch)?;
    let run = match &mark {
        Some(mark) => session.store.run(&mark.run)?,
        None => None,
    };
    Ok(mark.zip(run).ok_or(UsageError::NoBaseline(branch))?)
}

fn show(context: &mut Context<'_>, branch: &BranchArgs) -> Result<u8, CommandError> {
    let (mark, run) = find(&context.session, branch)?;
    let set = TestSet::of_runs([&run], &Scope::Workspace);
    let tally = set.tally();
    let mut text = String::new();
    for (test, expected) in &set.tests {
        let word = match expected.status() {
            TestStatus::Passing => "passes",
            TestStatus::Failing => "fails",
            TestStatus::Flaky => "flaky",
            TestStatus::Ignored => "ignored",
        };
        let median = expected
            .median_ms()
            .map(|ms| format!("{ms:.0} ms"))
            .unwrap_or_default();
        let _ = writeln!(text, "{word:<8} {median:>9}  {test}");
    }
    let _ = writeln!(
        text,
        "{} of {} pass, {} fail, {} ignored; branch {}, commit {}, recorded {} ago",
        tally.passing,
        counted(tally.ran(), "test"),
        tally.failing,
        tally.ignored,
        if mark.branch.is_empty() {
            "(none)"
        } else {
            &mark.branch
        },
        palisade::hash::short(&run.subject.commit),
        age(mark.recorded_ms, now())
    );
    let tests: Vec<_> = set
        .tests
        .iter()
        .map(|(test, expected)| {
            json!({
                "name": test,
                "expected": expected.status(),
                "median_ms": expected.median_ms(),
            })
        })
        .collect();
    let json = json!({
        "schema": 1,
        "baseline": mark,
        "commit": run.subject.commit,
        "tally": tally,
        "success_rate": tally.success_rate(),
        "tests": tests,
    });
    context.print(&json, &text)?;
    Ok(0)
}
