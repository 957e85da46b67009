//! `cargo palisade milestone`

use std::fmt::Write as _;

use super::{Context, launcher};
use crate::error::{CommandError, UsageError};
use palisade::finding::ClaimState;
use palisade::flow::milestone::{self, MilestoneCheckOptions, MilestoneReport, SetOptions, write};
use palisade::hash::short;
use palisade::host::now;
use palisade::record::{Milestone, Snapshot, age};
use palisade::report::state_word;
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
#[command(
    after_help = "Example: cargo palisade milestone set 1.0 && cargo palisade milestone check"
)]
pub enum Command {
    /// Set a milestone: what is known of tests, speed, memory and claims; the newest of a name counts
    #[command(after_help = "Example: cargo palisade milestone set 1.0 --measure --file")]
    Set(SetArgs),
    /// Hold the files against a milestone: tests, claims, and the speed and memory of HEAD
    #[command(after_help = "Example: cargo palisade milestone check 1.0")]
    Check {
        /// The milestone [default: the newest]
        name: Option<String>,
        /// Run now what is not known: the tests of both, a comparison of their speed, claims of benchmarks
        #[arg(long)]
        measure: bool,
    },
    /// List the milestones
    #[command(after_help = "Example: cargo palisade milestone list")]
    List,
}

#[derive(Debug, clap::Args)]
pub struct SetArgs {
    /// What to call it
    pub name: String,
    /// The commit it stands for; claims are measured only while the files are those of it
    #[arg(value_name = "REV", default_value = "HEAD")]
    pub revision: String,
    /// Run its tests and its benchmarks now, where nothing is known of them
    #[arg(long)]
    pub measure: bool,
    /// Measure the costly claims too
    #[arg(long)]
    pub costly: bool,
    /// Write it to milestones/NAME.json too, which git keeps for every clone
    #[arg(long)]
    pub file: bool,
}

pub fn run(context: &mut Context<'_>, command: &Command) -> Result<u8, CommandError> {
    match command {
        Command::Set(args) => set(context, args),
        Command::List => list(context),
        Command::Check { name, measure } => check(context, name.as_deref(), *measure),
    }
}

fn set(context: &mut Context<'_>, args: &SetArgs) -> Result<u8, CommandError> {
    let options = SetOptions {
        name: args.name.clone(),
        revision: args.revision.clone(),
        measure: args.measure,
        costly: args.costly,
        launcher: launcher()?,
    };
    let ui = context.ui;
    let milestone = milestone::set(&mut context.session, &options, &|event| ui.event(event))?;
    let session = &context.session;
    let file = if args.file {
        let folder = session
            .workspace
            .root
            .join(&session.policy.milestone.folder);
        Some(write(&folder, &milestone)?)
    } else {
        None
    };
    let commit = short(&milestone.subject.commit);
    let mut text = format!("set {} to {commit}\n", milestone.name);
    push_parts(&mut text, &milestone);
    if let Some(file) = &file {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "wrote {}", file.display());
    }
    let _ = writeln!(
        text,
        "hold later commits against it: cargo palisade milestone check {}",
        milestone.name
    );
    let json = json!({"schema": 1, "milestone": milestone, "file": file});
    context.print(&json, &text)?;
    Ok(0)
}

/// What is known of a milestone, a line for each part.
fn push_parts(text: &mut String, milestone: &Milestone) {
    let unknown = Snapshot::default();
    let snapshot = milestone.snapshot.as_ref().unwrap_or(&unknown);
    // Writing to a string cannot fail.
    let _ = match &snapshot.tests {
        Some(tests) => {
            let states = tests.states.iter();
            let counts: Vec<String> = states
                .map(|(state, tests)| format!("{} {}", tests.len(), state.word()))
                .collect();
            writeln!(text, "  tests: {}", counts.join(", "))
        }
        None => writeln!(text, "  tests: not known"),
    };
    let series: usize = snapshot
        .speed
        .iter()
        .map(|run| run.measurements.len())
        .sum();
    let _ = match series {
        0 => writeln!(text, "  speed and memory: not known"),
        series => writeln!(text, "  speed and memory: {series} series"),
    };
    let _ = match &snapshot.claims {
        Some(claims) => {
            let count = |state| claims.iter().filter(|claim| claim.state == state).count();
            writeln!(
                text,
                "  claims: {} hold, {} broken, {} not measured, {} left out",
                count(ClaimState::Holds),
                count(ClaimState::Broken),
                count(ClaimState::Unmeasured),
                count(ClaimState::LeftOut)
            )
        }
        None => writeln!(text, "  claims: not known"),
    };
}

fn list(context: &Context<'_>) -> Result<u8, CommandError> {
    let milestones = milestone::all(&context.session)?;
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
        push_parts(&mut text, milestone);
    }
    if milestones.is_empty() {
        text.push_str("no milestone is set: cargo palisade milestone set NAME\n");
    }
    context.print(&json!({"schema": 1, "milestones": milestones}), &text)?;
    Ok(0)
}

/// Holds the files, and the speed of HEAD, against a milestone: the newest one, or the
/// newest of a name.
fn check(context: &mut Context<'_>, name: Option<&str>, measure: bool) -> Result<u8, CommandError> {
    let milestones = milestone::all(&context.session)?;
    let is_it = |milestone: &&Milestone| name.is_none_or(|name| milestone.name == name);
    let milestone = milestones.iter().rev().find(is_it).ok_or_else(|| {
        let name = name.map(str::to_owned);
        UsageError::NoMilestone(name)
    })?;
    let options = MilestoneCheckOptions {
        measure,
        launcher: launcher()?,
    };
    let ui = context.ui;
    let report = milestone::check(&mut context.session, milestone, &options, &|event| {
        ui.event(event);
    })?;
    let json = json!({
        "schema": 1,
        "verdict": report.verdict,
        "exit_code": report.verdict.exit_code(),
        "milestone": milestone,
        "commit": report.commit,
        "tests": report.tests.verdict.map(|verdict| {
            json!({"verdict": verdict, "findings": report.tests.findings})
        }),
        "claims": report.claims.findings,
        "claims_verdict": report.claims.verdict,
        "standings": report.comparisons,
        "notes": report.notes,
    });
    context.print(&json, &text(milestone, &report))?;
    Ok(report.verdict.exit_code())
}

fn text(milestone: &Milestone, report: &MilestoneReport) -> String {
    let (from, to) = (short(&milestone.subject.commit), short(&report.commit));
    let mut text = format!("{}: {from} to {to}\n", milestone.name);
    for (name, part) in [("tests", &report.tests), ("claims", &report.claims)] {
        if let Some(verdict) = part.verdict {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name}: {}", verdict.word());
        }
        for finding in &part.findings {
            let _ = writeln!(
                text,
                "{}: {}: {}",
                finding.state_words(),
                finding.name,
                finding.reason
            );
        }
    }
    for comparison in &report.comparisons {
        let decision = &comparison.decision;
        let _ = writeln!(
            text,
            "{}: {}, {}: {}",
            state_word(decision.state),
            comparison.benchmark,
            decision.measure,
            decision.reason
        );
    }
    for note in &report.notes {
        let _ = writeln!(text, "{note}");
    }
    let _ = writeln!(text, "{}", report.verdict.word());
    text
}
