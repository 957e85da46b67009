//! `cargo palisade hooks`

use super::Context;
use crate::error::CommandError;
use palisade::finding::Severity;
use palisade::flow::hooks::{
    Hook, HookChange, Push, PushAnswer, bypassed, install, pre_commit, pre_push, record_run,
    uninstall,
};
use palisade::host::now;
use palisade::level::Level;
use palisade::policy::Span;
use palisade::record::FindingDocument;
use palisade::record::counted;
use palisade::report::{documents, terminal};
use palisade::verdict::Verdict;
use std::fmt::Write as _;
use std::io::Read as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Example: cargo palisade hooks install")]
pub enum Command {
    /// Install pre-commit and pre-push; hooks that are there are called first
    #[command(after_help = "Example: cargo palisade hooks install")]
    Install,
    /// Take them away and put back what was there
    #[command(after_help = "Example: cargo palisade hooks uninstall")]
    Uninstall,
    /// Do what a hook does
    #[command(after_help = "Example: cargo palisade hooks run pre-commit")]
    Run {
        /// The hook; pre-push reads what git says on standard input
        hook: HookName,
        /// Begin nothing new after this time [default: 5s before a commit, 90s before a push]
        #[arg(long, value_name = "TIME")]
        budget: Option<Span>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum HookName {
    PreCommit,
    PrePush,
}

pub fn run(context: &mut Context<'_>, command: &Command) -> Result<u8, CommandError> {
    match command {
        Command::Install => {
            let program = super::own_program()?;
            let done = install(&mut context.session, &program)?;
            tell(context, &done)
        }
        Command::Uninstall => {
            let done = uninstall(&context.session)?;
            tell(context, &done)
        }
        Command::Run { hook, budget } => {
            let hook = match hook {
                HookName::PreCommit => Hook::PreCommit,
                HookName::PrePush => Hook::PrePush,
            };
            let budget = budget.map_or(hook.budget(), |budget| budget.0);
            for commit in bypassed(&mut context.session)? {
                let name = commit.short();
                let subject = &commit.subject;
                context.ui.err(&format!(
                    "note: {name} “{subject}” was made without the pre-commit hook; remembered"
                ));
            }
            match hook {
                Hook::PreCommit => before_commit(context, budget),
                Hook::PrePush => before_push(context, budget),
            }
        }
    }
}

fn tell(
    context: &Context<'_>,
    done: &[(std::path::PathBuf, HookChange)],
) -> Result<u8, CommandError> {
    let mut text = String::new();
    let mut hooks = Vec::new();
    for (path, what) in done {
        let (word, said) = match what {
            HookChange::Installed => ("installed", "is installed"),
            HookChange::Chained => (
                "chained",
                "is installed, and calls the hook first that was there",
            ),
            HookChange::Removed => ("removed", "is gone"),
            HookChange::Restored => ("restored", "is the hook again that was there before"),
            HookChange::Nothing => ("nothing", "was not ours, and is left as it is"),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {said}", path.display());
        hooks.push(json!({"path": path, "done": word}));
    }
    context.print(&json!({"schema": 1, "hooks": hooks}), &text)?;
    Ok(0)
}

fn before_commit(context: &mut Context<'_>, budget: Duration) -> Result<u8, CommandError> {
    let started = Instant::now();
    let ui = context.ui;
    let events = |event| ui.event(event);
    let session = &mut context.session;
    let (risk, findings) = pre_commit(session, started + budget, &events)?;
    let verdict = Verdict::of(&findings);
    let code = verdict.exit_code();
    let tree = session.repo.staged_tree()?;
    let head = session.repo.head()?;
    record_run(session, Hook::PreCommit, &tree, &head.id, code)?;
    let seconds = started.elapsed().as_secs_f64();
    let findings = documents(&findings, "HEAD");
    let mut text: String = findings.iter().map(shown).collect();
    let level = risk.level.map_or("none", Level::word);
    let _ = writeln!(
        text,
        "pre-commit: {} ({seconds:.1} s); risk {level}, {}",
        verdict.word(),
        counted(risk.files.len(), "file")
    );
    if code != 0 {
        text.push_str(
            "git commit --no-verify commits it all the same, and the next hook remembers that\n",
        );
    }
    let json = json!({
        "schema": 1,
        "verdict": verdict,
        "exit_code": code,
        "risk": risk,
        "findings": findings,
        "seconds": seconds,
    });
    context.print(&json, &text)?;
    Ok(code)
}

/// A finding in one line, or with what to do if it blocks.
fn shown(finding: &FindingDocument) -> String {
    let state = finding.state_words();
    let mut text = format!("{}: {state}: {}\n", finding.name, finding.reason);
    if finding.severity != Severity::Note {
        let _ = writeln!(text, "  next: {}", finding.next);
    }
    text
}

fn before_push(context: &mut Context<'_>, budget: Duration) -> Result<u8, CommandError> {
    let mut said = String::new();
    std::io::stdin()
        .read_to_string(&mut said)
        .map_err(|source| CommandError::io("read what git pushes", source))?;
    let ui = context.ui;
    let events = |event| ui.event(event);
    let mut text = String::new();
    let mut answers: Vec<Value> = Vec::new();
    let mut worst = Verdict::Pass;
    let pushes = Push::read(&said);
    for push in &pushes {
        let answer = pre_push(&mut context.session, push, budget, &events)?;
        let commit = palisade::hash::short(&push.local);
        match answer {
            PushAnswer::TooLong(seconds) => {
                let _ = writeln!(
                    text,
                    "pre-push: the tests that {commit} can affect took {seconds:.0} s, more than \
                     {:.0} s: they are left to CI",
                    budget.as_secs_f64()
                );
                answers.push(json!({"commit": push.local, "left_out_seconds": seconds}));
            }
            PushAnswer::Judged(report) => {
                let report = report.document();
                text.push_str(&terminal(&report, now(), ui.paint()));
                let tree = report.candidate.tree.clone();
                let code = report.exit_code;
                record_run(
                    &mut context.session,
                    Hook::PrePush,
                    &tree,
                    &push.local,
                    code,
                )?;
                if worst == Verdict::Pass {
                    worst = report.verdict;
                }
                answers.push(serde_json::to_value(&report)?);
            }
        }
    }
    if pushes.is_empty() {
        text.push_str("pre-push: nothing is sent\n");
    }
    let code = worst.exit_code();
    context.print(
        &json!({"schema": 1, "exit_code": code, "pushes": answers}),
        &text,
    )?;
    Ok(code)
}
