//! `cargo palisade import`

use std::fmt::Write as _;
use std::path::Path;

use palisade::baseline::Tally;
use palisade::import::{ImportError, Imported};
use palisade::session::SessionError;
use palisade::verdict::{Finding, Severity, Verdict, judge_saved_speed, judge_saved_tests};
use serde_json::{Value, json};

use super::Context;
use crate::args::ImportArgs;

pub fn run(context: &mut Context<'_>, args: &ImportArgs) -> anyhow::Result<u8> {
    match &args.base {
        Some(base) => compare(context, base, &args.files),
        None => remember(context, args),
    }
}

fn read(context: &Context<'_>, path: &Path) -> Result<Imported, SessionError> {
    Ok(Imported::read(path, &context.session.workspace)?)
}

fn remember(context: &mut Context<'_>, args: &ImportArgs) -> anyhow::Result<u8> {
    let commit = context.session.repo.resolve(&args.commit)?;
    let mut text = String::new();
    let mut files = Vec::new();
    // All are read before any is remembered.
    let read: Result<Vec<Imported>, _> = args.files.iter().map(|f| read(context, f)).collect();
    for imported in read? {
        imported.remember(&mut context.session, &commit)?;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{}: {}, as results of {}",
            imported.name(),
            holds(&imported),
            commit.short()
        );
        for gap in &imported.gaps {
            let _ = writeln!(text, "  {gap}");
        }
        files.push(document(&imported));
    }
    let json = json!({"schema": 1, "commit": commit.id, "files": files});
    context.print(&json, &text)?;
    Ok(0)
}

fn holds(imported: &Imported) -> String {
    let format = imported.format.name();
    if imported.tests.is_empty() {
        return format!("{} benchmarks ({format})", imported.benchmarks.len());
    }
    let tally: Tally = imported.test_set().tally();
    format!(
        "{} of {} tests pass, {} fail, {} ignored ({format})",
        tally.passing,
        tally.ran(),
        tally.failing,
        tally.ignored
    )
}

fn document(imported: &Imported) -> Value {
    json!({
        "file": imported.path,
        "format": imported.format,
        "tests": imported.test_set().tally(),
        "benchmarks": imported.benchmarks.len(),
        "gaps": imported.gaps,
    })
}

fn compare(context: &Context<'_>, base: &Path, files: &[std::path::PathBuf]) -> anyhow::Result<u8> {
    let base = read(context, base)?;
    let session = &context.session;
    let ledger = palisade::quarantine::ledger(session.store.as_ref())?;
    let mut findings: Vec<Finding> = Vec::new();
    let mut text = format!("base       {}: {}\n", base.name(), holds(&base));
    let mut candidates = Vec::new();
    for file in files {
        let candidate = read(context, file)?;
        if base.tests.is_empty() != candidate.tests.is_empty() {
            let (base, candidate) = (base.name(), candidate.name());
            return Err(SessionError::from(ImportError::Kinds { base, candidate }).into());
        }
        let _ = writeln!(
            text,
            "candidate  {}: {}",
            candidate.name(),
            holds(&candidate)
        );
        findings.extend(if base.tests.is_empty() {
            judge_saved_speed(&base, &candidate, session.policy.speed.block / 100.0)
        } else {
            judge_saved_tests(&base, &candidate, &session.policy, &ledger)
        });
        candidates.push(document(&candidate));
    }
    let verdict = Verdict::of(&findings);
    for finding in &findings {
        let head = match finding.severity {
            Severity::Regression => "REGRESSION",
            Severity::Unmeasured => "NOT MEASURED",
            Severity::Undecided => "UNDECIDED",
            Severity::Note => "note",
        };
        let state = finding.state.replace('_', " ");
        let _ = writeln!(
            text,
            "{head:<10} {} ({state}): {}; {}",
            finding.name, finding.reason, finding.meaning
        );
    }
    let _ = writeln!(
        text,
        "verdict    {} (exit code {})",
        verdict.word(),
        verdict.exit_code()
    );
    let json = json!({
        "schema": 1,
        "verdict": verdict,
        "exit_code": verdict.exit_code(),
        "findings": findings,
        "base": document(&base),
        "candidates": candidates,
    });
    context.print(&json, &text)?;
    Ok(verdict.exit_code())
}
