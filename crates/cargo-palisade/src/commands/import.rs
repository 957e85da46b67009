//! `cargo palisade import`

use super::Context;
use crate::error::CommandError;
use palisade::baseline::Tally;
use palisade::finding::{Finding, Severity};
use palisade::flow::import::{ImportError, Imported, TestSummary};
use palisade::record::counted;
use palisade::report::documents;
use palisade::verdict::{Verdict, judge_saved_speed, judge_saved_tests};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo palisade import new.log --base old.log")]
pub struct Args {
    /// Logs of cargo test, cargo bench or hyperfine, JUnit reports, folders of Criterion, JSON
    /// of hyperfine or Bencher; - is the standard input
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// What to take from them: all that is in them, or the sums of "test result" lines alone,
    /// which are held to min_success_rate and not remembered
    #[arg(
        long,
        value_name = "FORM",
        default_value = "auto",
        conflicts_with = "base"
    )]
    pub format: Format,
    /// The commit that they are of
    #[arg(
        long,
        value_name = "REV",
        default_value = "HEAD",
        conflicts_with = "base"
    )]
    pub commit: String,
    /// Compare one file with this one, and remember neither
    #[arg(long, value_name = "FILE")]
    pub base: Option<PathBuf>,
}

/// What is taken from files with results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// All that is in them.
    Auto,
    /// The sums of "test result" lines.
    Summary,
}

pub fn run(context: &mut Context<'_>, args: &Args) -> Result<u8, CommandError> {
    match (&args.base, args.format) {
        (Some(base), _) => compare(context, base, &args.files),
        (None, Format::Summary) => summarize(context, &args.files),
        (None, Format::Auto) => store(context, args),
    }
}

fn read(context: &Context<'_>, path: &Path) -> Result<Imported, ImportError> {
    Imported::read(path, &context.session.workspace)
}

fn store(context: &mut Context<'_>, args: &Args) -> Result<u8, CommandError> {
    let commit = context.session.repo.resolve(&args.commit)?;
    let mut text = String::new();
    let mut files = Vec::new();
    // All are read before any is remembered.
    let read: Result<Vec<Imported>, _> = args.files.iter().map(|f| read(context, f)).collect();
    for imported in read? {
        imported.store(&mut context.session, &commit)?;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{}: {}, as results of {}",
            imported.name(),
            holds(&imported),
            commit.short()
        );
        for said in imported.gaps.iter().chain(&imported.notes) {
            let _ = writeln!(text, "  {said}");
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
        return format!(
            "{} ({format})",
            counted(imported.benchmarks.len(), "benchmark")
        );
    }
    let tally: Tally = imported.test_set().tally();
    format!(
        "{} of {} pass, {} fail, {} ignored ({format})",
        tally.passing,
        counted(tally.ran(), "test"),
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
        "notes": imported.notes,
    })
}

/// Holds the sums of several runs to the policy's rate.
fn summarize(context: &Context<'_>, files: &[PathBuf]) -> Result<u8, CommandError> {
    let mut text = String::new();
    for file in files {
        text.push_str(&palisade::flow::import::read_text(file)?);
        text.push('\n');
    }
    let sum = TestSummary::read(&text, &files[0])?;
    let (rate, minimum) = (sum.success_rate, context.session.policy.min_success_rate);
    let verdict = if rate < minimum {
        Verdict::Regression
    } else {
        Verdict::Pass
    };
    let text = format!(
        "{} of {} pass ({rate:.2} %), {} fail, {} ignored, in {}\n\
         verdict    {}: min_success_rate is {minimum} % (exit code {})\n",
        sum.tests.passing,
        counted(sum.tests.ran(), "test"),
        sum.tests.failing,
        sum.tests.ignored,
        counted(sum.programs, "program"),
        verdict.word(),
        verdict.exit_code()
    );
    let json = json!({
        "schema": 1,
        "verdict": verdict,
        "exit_code": verdict.exit_code(),
        "programs": sum.programs,
        "tests": sum.tests,
        "success_rate": rate,
        "min_success_rate": minimum,
    });
    context.print(&json, &text)?;
    Ok(verdict.exit_code())
}

fn compare(context: &Context<'_>, base: &Path, files: &[PathBuf]) -> Result<u8, CommandError> {
    let base = read(context, base)?;
    let session = &context.session;
    let ledger = palisade::flow::quarantine::ledger(session.store.as_ref())?;
    let mut findings: Vec<Finding> = Vec::new();
    let mut text = format!("base       {}: {}\n", base.name(), holds(&base));
    let (mut candidates, mut notes) = (Vec::new(), Vec::new());
    for file in files {
        let candidate = read(context, file)?;
        notes.extend(candidate.notes.iter().cloned());
        if base.tests.is_empty() != candidate.tests.is_empty() {
            let (base, candidate) = (base.name(), candidate.name());
            return Err(ImportError::Kinds { base, candidate }.into());
        }
        let _ = writeln!(
            text,
            "candidate  {}: {}",
            candidate.name(),
            holds(&candidate)
        );
        findings.extend(if base.tests.is_empty() {
            judge_saved_speed(
                &base.saved_benchmarks(),
                &candidate.saved_benchmarks(),
                session.policy.speed.block / 100.0,
            )
        } else {
            judge_saved_tests(
                &base.saved_tests(),
                &candidate.saved_tests(),
                &session.policy,
                &ledger,
            )
        });
        candidates.push(document(&candidate));
    }
    let verdict = Verdict::of(&findings);
    for note in base.notes.iter().chain(notes.iter()) {
        let _ = writeln!(text, "note       {note}");
    }
    let findings = documents(&findings, &base.name());
    for finding in &findings {
        let head = match finding.severity {
            Severity::Regression => "REGRESSION",
            Severity::Unmeasured => "NOT MEASURED",
            Severity::Undecided => "UNDECIDED",
            Severity::Note => "note",
        };
        let state = finding.state_words();
        let _ = writeln!(
            text,
            "{head:<10} {} ({state}): {}; {}",
            finding.name, finding.reason, finding.meaning
        );
        if finding.severity != Severity::Note && !finding.next.is_empty() {
            let _ = writeln!(text, "{:<10} {}", "  next", finding.next);
        }
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
