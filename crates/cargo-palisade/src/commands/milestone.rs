//! `cargo palisade milestone`

use std::fmt::Write as _;

use palisade::check::{BaseChoice, CandidateChoice, CheckOptions, check as judge};
use palisade::claims::{Claims, Options, contradictions};
use palisade::comparison::{CompareOptions, compare};
use palisade::git::short;
use palisade::guard::{Guard, GuardError, age};
use palisade::history::{Standing, standings};
use palisade::record::{Millis, Record, Subject, new_id, now};
use palisade::report::{Report, state_word};
use palisade::speed::{Milestone, State};
use palisade::verdict::{Finding, Verdict, judge_claims};
use serde_json::{Value, json};

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

/// Holds HEAD against a milestone: the newest one, or the newest of a name. What was
/// never seen of the milestone, its tests or its speed, is not held; `measure` runs it.
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
    if measure && speed_verdict(&standings) == Verdict::Incomparable {
        measure_speed(context, from, &head.id)?;
        standings = stand(&context.guard, from, &head.id)?;
    }
    let tests = tests(context, from, &head.id, measure)?;
    let verdict = match &tests {
        Tests::Unseen => speed_verdict(&standings),
        _ if standings.is_empty() => tests.verdict(),
        _ => worse(tests.verdict(), speed_verdict(&standings)),
    };
    let claims = if measure {
        claims(context)?
    } else {
        Vec::new()
    };
    let verdict = worse(verdict, Verdict::of(&claims));
    let (from, to) = (short(&milestone.subject.commit), head.short());
    let mut text = format!("{}: {from} to {to}\n{}", milestone.name, tests.text());
    for finding in &claims {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{}: {}: {}",
            finding.state, finding.name, finding.reason
        );
    }
    for standing in &standings {
        let decision = &standing.decision;
        // Writing to a string cannot fail.
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
            "speed: no comparison leads from {from} to {to}; --measure makes one"
        );
    }
    let _ = writeln!(text, "{}", verdict.word());
    let json = json!({
        "schema": 1,
        "verdict": verdict,
        "exit_code": verdict.exit_code(),
        "milestone": milestone,
        "commit": head.id,
        "tests": tests.json(),
        "claims": claims,
        "standings": standings,
    });
    context.print(&json, &text)?;
    Ok(verdict.exit_code())
}

/// What the documents say now that is not true, as far as that is cheap to measure.
fn claims(context: &mut Context<'_>) -> anyhow::Result<Vec<Finding>> {
    let ui = context.ui;
    let claims = Claims::load(&context.guard)?;
    let options = Options {
        launcher: Some(launcher()?),
        ..Options::default()
    };
    let checked = palisade::claims::check(&mut context.guard, &claims, &options, &|event| {
        ui.event(event);
    })?;
    Ok(judge_claims(&checked, &contradictions(&claims)))
}

/// Compares the two commits; a workspace without benchmarks has no speed to hold.
fn measure_speed(context: &mut Context<'_>, from: &str, to: &str) -> anyhow::Result<()> {
    let options = CompareOptions {
        base: from.to_owned(),
        candidate: Some(to.to_owned()),
        ..CompareOptions::default()
    };
    let ui = context.ui;
    let launcher = launcher()?;
    let compared = compare(&mut context.guard, &launcher, &options, &|event| {
        ui.event(event);
    });
    match compared {
        Ok(_) | Err(GuardError::NoBenchmark(_)) => Ok(()),
        Err(other) => Err(other.into()),
    }
}

/// How the tests of HEAD stand against those of a milestone.
enum Tests {
    /// Those of the milestone were never seen together.
    Unseen,
    /// Those of HEAD were not.
    Unknown,
    /// Both are known.
    Compared(Box<Report>),
}

fn tests(context: &mut Context<'_>, from: &str, to: &str, measure: bool) -> anyhow::Result<Tests> {
    if !measure && !context.guard.knows_all_tests(from)? {
        return Ok(Tests::Unseen);
    }
    if !measure && !context.guard.knows_all_tests(to)? {
        return Ok(Tests::Unknown);
    }
    let options = CheckOptions {
        base: BaseChoice::Revision(from.to_owned()),
        candidate: CandidateChoice::Beside(to.to_owned()),
        everything: true,
        ..CheckOptions::default()
    };
    let ui = context.ui;
    let report = judge(&mut context.guard, &options, &|event| ui.event(event))?;
    Ok(Tests::Compared(Box::new(report)))
}

impl Tests {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Unseen | Self::Unknown => Verdict::Incomparable,
            Self::Compared(report) => report.verdict,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Unseen => "tests: not known at the milestone; --measure runs them\n".to_owned(),
            Self::Unknown => "tests: not known at HEAD; --measure runs them\n".to_owned(),
            Self::Compared(report) => {
                let mut text = format!("tests: {}\n", report.verdict.word());
                for finding in &report.findings {
                    let state = finding.state.replace('_', " ");
                    // Writing to a string cannot fail.
                    let _ = writeln!(text, "{state}: {}: {}", finding.name, finding.reason);
                }
                text
            }
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Unseen => Value::Null,
            Self::Unknown => json!({"verdict": self.verdict(), "findings": []}),
            Self::Compared(report) => {
                json!({"verdict": report.verdict, "findings": report.findings})
            }
        }
    }
}

/// The worse of two verdicts: what is known to be a regression is one, and what is not
/// known is no pass.
fn worse(one: Verdict, other: Verdict) -> Verdict {
    let order = [
        Verdict::Regression,
        Verdict::Incomparable,
        Verdict::Inconclusive,
    ];
    let worst = order.into_iter().find(|v| [one, other].contains(v));
    worst.unwrap_or(Verdict::Pass)
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
fn speed_verdict(standings: &[Standing]) -> Verdict {
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
