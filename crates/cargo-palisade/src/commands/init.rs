//! `cargo palisade init`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{Context, baseline, write};
use crate::error::{CommandError, NOT_MEASURED};
use palisade::baseline::{Tally, TestSet, TestStatus};
use palisade::flow::policy_template::{policy_text, survey_source};
use palisade::observation::{Purpose, Run};
use palisade::policy::FILE_NAME;
use palisade::record::BaselineMark;
use palisade::scope::Scope;
use palisade::test_id::TestId;
use serde_json::{Value, json};

pub fn run(context: &mut Context<'_>) -> Result<u8, CommandError> {
    let ui = context.ui;
    let events = |event| ui.event(event);
    let path = context.session.workspace.root.join(FILE_NAME);
    let mut revision = context.session.working_revision()?;
    // The file is written after the run: the run stands for the tree without it,
    // which is the one that the next check compares with.
    let (run, gaps) =
        context
            .session
            .run(&mut revision, &Scope::Workspace, Purpose::Tests, &events)?;
    let set = TestSet::of_runs([&run], &Scope::Workspace);
    let failing = failing(&set);
    let is_new = !path.exists();
    if is_new {
        write_policy(context, &path, &failing)?;
    }
    let mark = if run.subject.dirty || !run.complete {
        None
    } else {
        Some(baseline::mark(context, &run)?)
    };
    let setup = Setup {
        path,
        is_new,
        runner: context.session.runner.name().to_owned(),
        tally: set.tally(),
        run,
        failing,
        gaps,
        mark,
    };
    context.print(&setup.json(), &setup.text())?;
    Ok(if setup.run.complete { 0 } else { NOT_MEASURED })
}

fn failing(set: &TestSet) -> Vec<TestId> {
    let tests = set.tests.iter();
    let failing = tests.filter(|(_, expected)| expected.status() == TestStatus::Failing);
    failing.map(|(test, _)| test.clone()).collect()
}

fn write_policy(
    context: &Context<'_>,
    path: &Path,
    failing: &[TestId],
) -> Result<(), CommandError> {
    let user = context.session.repo.user_name();
    let owner = user.unwrap_or_else(|| "unknown".to_owned());
    let survey = survey_source(&context.session.workspace);
    write(path, &policy_text(&survey, failing, &owner))
}

/// What was set up.
struct Setup {
    path: PathBuf,
    /// Whether the policy was written.
    is_new: bool,
    runner: String,
    run: Run,
    tally: Tally,
    failing: Vec<TestId>,
    /// Why some outcome is missing, in words.
    gaps: Vec<String>,
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
            None if !self.run.complete => "recorded no baseline: the run is not complete\n",
            None => "recorded the run, and no baseline: the working tree has changes that are not committed\n",
        });
        text.push_str("next: change something, then cargo palisade check\n");
        text
    }

    fn push_tests(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "ran {} tests with {} in {:.1} s: {} pass, {} fail, {} ignored",
            self.tally.ran(),
            self.runner,
            (self.run.finished_ms - self.run.started_ms) as f64 / 1000.0,
            self.tally.passing,
            self.tally.failing,
            self.tally.ignored
        );
        let note = if self.is_new {
            " (named as a known failure)"
        } else {
            ""
        };
        for test in &self.failing {
            let _ = writeln!(text, "  fails: {test}{note}");
        }
        for gap in &self.gaps {
            let _ = writeln!(text, "  no outcome: {gap}");
        }
    }

    fn json(&self) -> Value {
        json!({
            "schema": 1,
            "policy": self.path,
            "policy_written": self.is_new,
            "run": self.run.id,
            "baseline": self.mark.as_ref().map(|mark| &mark.id),
            "tests": self.tally,
            "failing": self.failing,
            "gaps": self.gaps,
        })
    }
}
