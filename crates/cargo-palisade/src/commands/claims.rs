//! `cargo palisade claims`

use super::{Context, launcher};
use crate::error::CommandError;
use palisade::finding::{Cause, ClaimState, Finding};
use palisade::flow::claims::{
    self, Checked, Claims, Cost, Options, contradictions, unproved, update,
};
use palisade::host::measure::machine::fingerprint;
use palisade::host::now;
use palisade::record::counted;
use palisade::report::{documents, numbers};
use palisade::verdict::{Verdict, judge_claims};
use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Example: cargo palisade claims check")]
pub enum Command {
    /// Measure what proves the claims, and say which do not hold
    #[command(after_help = "Example: cargo palisade claims check --costly")]
    Check(Args),
    /// Write what is measured into the documents, with date and machine beside its proof
    #[command(after_help = "Example: cargo palisade claims update 'size of the model'")]
    Update(Args),
    /// List the claims, and figures of speed and memory that nothing proves
    #[command(after_help = "Example: cargo palisade claims list")]
    List,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The claims; all if none is given
    pub claims: Vec<String>,
    /// Measure those too that take long, and those of benchmarks
    #[arg(long)]
    pub costly: bool,
}

pub fn run(context: &mut Context<'_>, command: &Command) -> Result<u8, CommandError> {
    match command {
        Command::Check(args) => check(context, args),
        Command::Update(args) => rewrite(context, args),
        Command::List => list(context),
    }
}

/// Reads the claims that are asked for, and measures them.
fn measured(
    context: &mut Context<'_>,
    args: &Args,
) -> Result<(Claims, Vec<Checked>), CommandError> {
    let ui = context.ui;
    let mut claims = Claims::load(&context.session)?;
    claims.only(&args.claims)?;
    let options = Options {
        costly: args.costly,
        deadline: None,
        launcher: Some(launcher()?),
    };
    let checked = claims::check(&mut context.session, &claims, &options, &|event| {
        ui.event(event);
    })?;
    Ok((claims, checked))
}

fn check(context: &mut Context<'_>, args: &Args) -> Result<u8, CommandError> {
    let (claims, checked) = measured(context, args)?;
    let findings = judge_claims(&claims::results(&checked), &contradictions(&claims));
    let verdict = verdict(&checked, &findings);
    let mut text = String::new();
    for checked in &checked {
        line(&mut text, checked);
    }
    let found = documents(&findings, "HEAD");
    let told = findings.iter().zip(&found);
    let is_contradiction = |finding: &Finding| matches!(finding.cause, Cause::Contradiction { .. });
    for (_, finding) in told.filter(|(finding, _)| is_contradiction(finding)) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "contradiction  {}: {}", finding.name, finding.reason);
    }
    let count = |state| checked.iter().filter(|c| c.state == state).count();
    let _ = writeln!(
        text,
        "{}: {} hold, {} broken, {} not measured, {} left out",
        verdict.word(),
        count(ClaimState::Holds),
        count(ClaimState::Broken),
        count(ClaimState::Unmeasured),
        count(ClaimState::LeftOut)
    );
    let json = json!({
        "schema": 1,
        "verdict": verdict,
        "exit_code": verdict.exit_code(),
        "claims": checked,
        "findings": found,
    });
    context.print(&json, &text)?;
    Ok(verdict.exit_code())
}

/// What the findings say together. Where nothing was measured, that is no pass.
fn verdict(checked: &[Checked], findings: &[Finding]) -> Verdict {
    let is_measured = |checked: &Checked| checked.state != ClaimState::LeftOut;
    match Verdict::of(findings) {
        Verdict::Pass if !checked.iter().any(is_measured) => Verdict::Incomparable,
        verdict => verdict,
    }
}

fn line(text: &mut String, checked: &Checked) {
    let word = match checked.state {
        ClaimState::Holds => "holds",
        ClaimState::Broken => "BROKEN",
        ClaimState::Unmeasured => "NOT MEASURED",
        ClaimState::LeftOut => "left out",
    };
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{word:<12}  {}: {}",
        checked.claim.title(),
        checked.reason
    );
}

fn rewrite(context: &mut Context<'_>, args: &Args) -> Result<u8, CommandError> {
    let (claims, checked) = measured(context, args)?;
    let date = DateTime::<Utc>::from_timestamp_millis(now()).unwrap_or_default();
    let machine = fingerprint("", "");
    let part = |name: &str| machine.0.get(name).map_or("unknown", String::as_str);
    let place = format!(
        "{}, {}, {} {}",
        date.format("%Y-%m-%d"),
        part("processor"),
        part("cores"),
        if part("cores") == "1" {
            "core"
        } else {
            "cores"
        }
    );
    let root = &context.session.workspace.root;
    let written = update(root, &claims, &checked, &place)?;
    let mut text = String::new();
    for checked in &checked {
        line(&mut text, checked);
    }
    for path in &written {
        let _ = writeln!(text, "wrote {path}");
    }
    if written.is_empty() {
        text.push_str("nothing was measured, and nothing is written\n");
    }
    let json = json!({"schema": 1, "claims": checked, "written": written, "measured": place});
    context.print(&json, &text)?;
    // A claim that gave no number is still to be shown.
    let is_open = |c: &Checked| c.state == ClaimState::Unmeasured;
    let verdict = if written.is_empty() || checked.iter().any(is_open) {
        Verdict::Incomparable
    } else {
        Verdict::Pass
    };
    Ok(verdict.exit_code())
}

fn list(context: &Context<'_>) -> Result<u8, CommandError> {
    let claims = Claims::load(&context.session)?;
    let unproved = unproved(&claims);
    let contradictions = contradictions(&claims);
    let mut text = String::new();
    for claim in &claims.list {
        let cost = match claim.definition.cost() {
            Cost::Cheap => "",
            Cost::Costly => " (costly)",
        };
        let measured = claim.definition.measured.as_ref();
        let _ = writeln!(
            text,
            "{}: {} {} {}{cost}{}",
            claim.title(),
            claim.written,
            claim.definition.relation.sign(),
            claim.definition.proof().title(),
            measured
                .map(|m| format!(", measured {m}"))
                .unwrap_or_default()
        );
    }
    for found in &contradictions {
        let _ = writeln!(
            text,
            "contradiction: {} {}: {}",
            found.document,
            found.what,
            numbers(&found.places)
        );
    }
    // Figures of one line are told together.
    for line in unproved.chunk_by(|a, b| (&a.document, a.line) == (&b.document, b.line)) {
        let numbers: Vec<&str> = line.iter().map(|found| found.written.as_str()).collect();
        let _ = writeln!(
            text,
            "no proof: {}:{}: {} in “{}”",
            line[0].document,
            line[0].line,
            numbers.join("; "),
            line[0].text
        );
    }
    let _ = writeln!(
        text,
        "{}, {}, {} without proof",
        counted(claims.list.len(), "claim"),
        counted(contradictions.len(), "contradiction"),
        counted(unproved.len(), "figure")
    );
    let json = json!({
        "schema": 1,
        "claims": claims.list,
        "contradictions": contradictions,
        "unproved": unproved,
    });
    context.print(&json, &text)?;
    Ok(0)
}
