//! `cargo palisade init`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{Context, baseline, write};
use crate::error::{CommandError, NOT_MEASURED};
use palisade::baseline::{Tally, TestStatus};
use palisade::flow::confirmed_run::{ConfirmedRun, confirmed_run};
use palisade::flow::policy_template::{policy_text, survey_source};
use palisade::policy::FILE_NAME;
use palisade::record::{BaselineMark, ConfirmedFailure, FailureKind};
use palisade::report::printable;
use palisade::test_id::TestId;
use serde_json::{Value, json};

pub fn run(context: &mut Context<'_>) -> Result<u8, CommandError> {
    let ui = context.ui;
    let events = |event| ui.event(event);
    let path = context.session.workspace.root.join(FILE_NAME);
    let mut revision = context.session.working_revision()?;
    // The file is written after the run: the run stands for the tree without it,
    // which is the one that the next check compares with.
    let confirmed = confirmed_run(&mut context.session, &mut revision, &events)?;
    let is_new = !path.exists();
    if is_new {
        write_policy(context, &path, &confirmed.failures)?;
    }
    let mark = if confirmed.run.subject.dirty || !confirmed.run.complete {
        None
    } else {
        Some(baseline::mark(context, &confirmed.run)?)
    };
    let setup = Setup {
        path,
        is_new,
        runner: context.session.runner.name().to_owned(),
        tally: confirmed.set.tally(),
        confirmed,
        mark,
    };
    context.print(&setup.json(), &setup.text())?;
    let is_complete = setup.confirmed.run.complete;
    Ok(if is_complete { 0 } else { NOT_MEASURED })
}

fn write_policy(
    context: &Context<'_>,
    path: &Path,
    failures: &[ConfirmedFailure],
) -> Result<(), CommandError> {
    let user = context.session.repo.user_name();
    let owner = user.unwrap_or_else(|| "unknown".to_owned());
    let survey = survey_source(&context.session.workspace);
    write(path, &policy_text(&survey, failures, &owner))
}

/// What was set up.
struct Setup {
    path: PathBuf,
    /// Whether the policy was written.
    is_new: bool,
    runner: String,
    confirmed: ConfirmedRun,
    tally: Tally,
    /// The baseline that was recorded.
    mark: Option<BaselineMark>,
}

impl Setup {
    fn text(&self) -> String {
        let path = self.path.display();
        let mut text = if self.is_new {
            format!("wrote {path}: every policy has a default, nothing needs editing\n")
        } else {
            format!("{path} is there already and was left as it is\n")
        };
        self.push_tests(&mut text);
        text.push_str(match &self.mark {
            Some(_) => "recorded the baseline of this branch\n",
            None if !self.confirmed.run.complete => "recorded no baseline: the run is not complete\n",
            None => "recorded the run, and no baseline: the working tree has changes that are not committed\n",
        });
        text.push_str("next: change something, then cargo palisade check\n");
        text
    }

    fn push_tests(&self, text: &mut String) {
        let run = &self.confirmed.run;
        let flaky = match self.tally.flaky {
            0 => String::new(),
            count => format!(", {count} flaky"),
        };
        let _ = writeln!(
            text,
            "ran {} tests with {} in {:.1} s: {} pass, {} fail{flaky}, {} ignored",
            self.tally.ran(),
            self.runner,
            (run.finished_ms - run.started_ms) as f64 / 1000.0,
            self.tally.passing,
            self.tally.failing,
            self.tally.ignored
        );
        for failure in &self.confirmed.failures {
            let (word, note) = match failure.kind {
                FailureKind::Flaky => ("flaky", " (in the ledger, no known failure)"),
                _ if self.is_new => ("fails", " (named as a known failure)"),
                _ => ("fails", ""),
            };
            let reason = printable(&failure.reason());
            let _ = writeln!(text, "  {word}: {}{note}: {reason}", failure.test);
        }
        for gap in &self.confirmed.gaps {
            let _ = writeln!(text, "  no outcome: {gap}");
        }
    }

    /// The tests that fail each time.
    fn failing(&self) -> Vec<&TestId> {
        let tests = self.confirmed.set.tests.iter();
        let failing = tests.filter(|(_, expected)| expected.status() == TestStatus::Failing);
        failing.map(|(test, _)| test).collect()
    }

    fn json(&self) -> Value {
        json!({
            "schema": 1,
            "policy": self.path,
            "policy_written": self.is_new,
            "run": self.confirmed.run.id,
            "baseline": self.mark.as_ref().map(|mark| &mark.id),
            "tests": self.tally,
            "failing": self.failing(),
            "failures": self.confirmed.failures,
            "gaps": self.confirmed.gaps,
        })
    }
}
