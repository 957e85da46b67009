//! `cargo palisade init`

use std::fmt::Write as _;

use super::{Context, baseline, write};
use crate::error::{CommandError, NOT_MEASURED};
use palisade::baseline::{TestSet, TestStatus};
use palisade::flow::policy_template::{policy_text, survey_source};
use palisade::observation::Purpose;
use palisade::policy::FILE_NAME;
use palisade::scope::Scope;
use serde_json::json;

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
    let failing: Vec<_> = set
        .tests
        .iter()
        .filter(|(_, expected)| expected.status() == TestStatus::Failing)
        .map(|(test, _)| test.clone())
        .collect();
    let is_new = !path.exists();
    if is_new {
        let owner = context
            .session
            .repo
            .user_name()
            .unwrap_or_else(|| "unknown".to_owned());
        let text = policy_text(&survey_source(&context.session.workspace), &failing, &owner);
        write(&path, &text)?;
    }
    let tally = set.tally();
    let mark = if run.subject.dirty || !run.complete {
        None
    } else {
        Some(baseline::mark(context, &run)?)
    };
    let mut text = if is_new {
        format!(
            "wrote {}: every policy has a default, nothing needs editing\n",
            path.display()
        )
    } else {
        format!(
            "{} is there already and was left as it is\n",
            path.display()
        )
    };
    let _ = writeln!(
        text,
        "ran {} tests with {} in {:.1} s: {} pass, {} fail, {} ignored",
        tally.ran(),
        context.session.runner.name(),
        (run.finished_ms - run.started_ms) as f64 / 1000.0,
        tally.passing,
        tally.failing,
        tally.ignored
    );
    for test in &failing {
        let note = if is_new {
            " (named as a known failure)"
        } else {
            ""
        };
        let _ = writeln!(text, "  fails: {test}{note}");
    }
    for gap in &gaps {
        let _ = writeln!(text, "  no outcome: {gap}");
    }
    text.push_str(match &mark {
        Some(_) => "recorded the baseline of this branch\n",
        None if !run.complete => "recorded no baseline: the run is not complete\n",
        None => "recorded the run, and no baseline: the working tree has changes that are not committed\n",
    });
    text.push_str("next: change something, then cargo palisade check\n");
    let json = json!({
        "schema": 1,
        "policy": path,
        "policy_written": is_new,
        "run": run.id,
        "baseline": mark.map(|mark| mark.id),
        "tests": tally,
        "failing": failing,
        "gaps": gaps,
    });
    context.print(&json, &text)?;
    Ok(if run.complete { 0 } else { NOT_MEASURED })
}
