//! `cargo palisade milestone`

use std::fmt::Write as _;

use palisade::comparison::{CompareOptions, compare};
use palisade::git::short;
use palisade::guard::{Guard, age};
use palisade::history::{Standing, standings};
use palisade::record::{Millis, Record, Subject, new_id, now};
use palisade::report::state_word;
use palisade::speed::{Milestone, State};
use palisade::verdict::Verdict;
use serde_json::json;

use super::{Context, launcher};
use crate::args::MilestoneCommand;
use crate::error::UsageError;

pub fn run(context: &mut Context<'_>, command: &MilestoneCommand) -> anyhow::Result<u8> {
    match command {
        MilestoneCommand::Set { name, revision } => set(context, name, revision),
        MilestoneCommand::List => list(context),
        MilestoneCommand::Check { name, measure } => check(context, name.as_deref(), *measure),
    }
}

fn set(context: &mut Context<'_>, name: &str, revision: &str) -> anyhow::Result<u8> {
    let guard = &mut context.guard;
    let commit = guard.repo.resolve(revision)?;
    let milestone = Milestone {
        id: new_id(),
        name: name.to_owned(),
        set_ms: now(),
        subject: Subject {
            tree: commit.tree.clone(),
            commit: commit.id.clone(),
            dirty: false,
            checkout: true,
            branch: guard.repo.branch(),
        },
    };
    guard.store.add(&Record::Milestone(milestone.clone()))?;
    let text = format!(
        "set {name} to {} “{}”\nmeasure it against later commits: \
         cargo palisade compare {0} HEAD\n",
        commit.short(),
        commit.subject
    );
    context.print(&json!({"schema": 1, "milestone": milestone}), &text)?;
    Ok(0)
}

fn list(context: &Context<'_>) -> anyhow::Result<u8> {
    let milestones = context.guard.store.milestones()?;
    let mut text = String::new();
    for milestone in &milestones {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{}: {}, set {} ago",
            milestone.name,
            short(&milestone.subject.commit),
            age(milestone.set_ms, now())
        );
    }
    if milestones.is_empty() {
        text.push_str("no milestone is set: cargo palisade milestone set NAME\n");
    }
    context.print(&json!({"schema": 1, "milestones": milestones}), &text)?;
    Ok(0)
}

/// Holds HEAD against a milestone: the newest one, or the newest of a name. If the
/// comparisons that were made do not lead there, `measure` makes one that does.
fn check(context: &mut Context<'_>, name: Option<&str>, measure: bool) -> anyhow::Result<u8> {
    let milestones = context.guard.store.milestones()?;
    let is_it = |milestone: &&Milestone| name.is_none_or(|name| milestone.name == name);
    let milestone = milestones.iter().rev().find(is_it).ok_or_else(|| {
        let name = name.map(str::to_owned);
        UsageError::NoMilestone(name)
    })?;
    let head = context.guard.repo.head()?;
    let from = &milestone.subject.commit;
    let mut standings = stand(&context.guard, from, &head.id)?;
    if measure && verdict(&standings) == Verdict::Incomparable {
        let options = CompareOptions {
            base: from.clone(),
            candidate: Some(head.id.clone()),
            ..CompareOptions::default()
        };
        let ui = context.ui;
        let launcher = launcher()?;
        compare(&mut context.guard, &launcher, &options, &|event| {
            ui.event(event);
        })?;
        standings = stand(&context.guard, from, &head.id)?;
    }
    let verdict = verdict(&standings);
    let (from, to) = (short(&milestone.subject.commit), head.short());
    let mut text = format!("{}: {from} to {to}\n", milestone.name);
    for standing in &standings {
        let decision = &standing.decision;
        let _ = writeln!(
            text,
            "{}: {}, {}: {}",
            state_word(decision.state),
            standing.benchmark,
            decision.measure,
            decision.reason
        );
    }
    if standings.is_empty() {
        let _ = writeln!(
            text,
            "no comparison leads from {from} to {to}; --measure makes one"
        );
    }
    let _ = writeln!(text, "{}", verdict.word());
    let json = json!({
        "schema": 1,
        "verdict": verdict,
        "exit_code": verdict.exit_code(),
        "milestone": milestone,
        "commit": head.id,
        "standings": standings,
    });
    context.print(&json, &text)?;
    Ok(verdict.exit_code())
}

/// How HEAD stands on the machine that measured it last.
fn stand(guard: &Guard, milestone: &str, head: &str) -> anyhow::Result<Vec<Standing>> {
    let runs = guard.store.speed_runs(Millis::MIN)?;
    let Some(of_head) = runs.iter().rev().find(|run| run.subject.commit == head) else {
        return Ok(Vec::new());
    };
    let calibrations = guard.store.calibrations()?;
    let machine = &of_head.fingerprint;
    Ok(standings(&runs, &calibrations, machine, milestone, head))
}

/// What the standings say together. Nothing measured is never a pass.
fn verdict(standings: &[Standing]) -> Verdict {
    let any = |state| {
        standings
            .iter()
            .any(|standing| standing.decision.state == state)
    };
    if any(State::Regressed) {
        Verdict::Regression
    } else if standings.is_empty() || any(State::Incomparable) {
        Verdict::Incomparable
    } else if any(State::Inconclusive) {
        Verdict::Inconclusive
    } else {
        Verdict::Pass
    }
}
