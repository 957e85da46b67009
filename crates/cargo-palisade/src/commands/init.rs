//! `cargo palisade init`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{Context, baseline, launcher, write};
use crate::error::{CommandError, NOT_MEASURED};
use palisade::baseline::{Tally, TestStatus};
use palisade::flow::confirmed_run::{ConfirmedRun, confirmed_run};
use palisade::flow::policy_template::{PolicyFacts, claims_text, policy_text, survey_source};
use palisade::flow::proposals::{CLAIMS_FILE, Proposals, propose, propose_counts};
use palisade::policy::FILE_NAME;
use palisade::record::{BaselineMark, ConfirmedFailure, FailureKind, counted};
use palisade::report::printable;
use palisade::test_id::TestId;
use serde_json::{Value, json};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo palisade init --yes")]
pub struct Args {
    /// Put what is proposed in force, instead of writing it as comments
    #[arg(short, long)]
    pub yes: bool,
}

pub fn run(context: &mut Context<'_>, args: &Args) -> Result<u8, CommandError> {
    let ui = context.ui;
    let events = |event| ui.event(event);
    let path = context.session.workspace.root.join(FILE_NAME);
    let mut revision = context.session.working_revision()?;
    // The file is written after the run: the run stands for the tree without it,
    // which is the one that the next check compares with.
    let mut confirmed = confirmed_run(&mut context.session, &mut revision, &events)?;
    let is_new = !path.exists();
    let mut proposals = Proposals::default();
    if is_new {
        let launcher = launcher()?;
        proposals = propose(&context.session, &launcher, &confirmed.set, &events)?;
        let hidden = proposals.hidden.as_ref();
        let more = hidden.and_then(|hidden| hidden.cargo_args.clone());
        if let (true, Some(more)) = (args.yes, more) {
            // From now on these tests are expected too.
            context.session.policy.run.cargo_args = more;
            revision = context.session.working_revision()?;
            confirmed = confirmed_run(&mut context.session, &mut revision, &events)?;
        }
        propose_counts(&context.session, &confirmed.set, &mut proposals)?;
        write_policy(context, &path, &confirmed.failures, &proposals, args.yes)?;
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
        proposals,
        is_active: args.yes,
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
    proposals: &Proposals,
    is_active: bool,
) -> Result<(), CommandError> {
    let user = context.session.repo.user_name();
    let owner = user.unwrap_or_else(|| "unknown".to_owned());
    let survey = survey_source(&context.session.workspace);
    let facts = PolicyFacts {
        survey: &survey,
        failures,
        owner: &owner,
        proposals,
        is_active,
    };
    write(path, &policy_text(facts))?;
    let claims = context.session.workspace.root.join(CLAIMS_FILE);
    match claims_text(proposals, is_active).filter(|_| !claims.exists()) {
        Some(text) => write(&claims, &text),
        None => Ok(()),
    }
}

/// What was set up.
struct Setup {
    path: PathBuf,
    /// Whether the policy was written.
    is_new: bool,
    runner: String,
    confirmed: ConfirmedRun,
    proposals: Proposals,
    /// Whether what is proposed is in force.
    is_active: bool,
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
        self.push_proposals(&mut text);
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
            "ran {} with {} in {:.1} s: {} pass, {} fail{flaky}, {} ignored",
            counted(self.tally.ran(), "test"),
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

    fn push_proposals(&self, text: &mut String) {
        /// How many numbers without a proof are shown.
        const SHOWN: usize = 5;
        let found = &self.proposals;
        if let Some(hidden) = &found.hidden {
            let how = match &hidden.cargo_args {
                Some(args) if self.is_active => {
                    format!("were invisible without {}", args.join(" "))
                }
                Some(args) => format!("are invisible: they need {}", args.join(" ")),
                None => "are invisible, and no set of features that was tried builds".to_owned(),
            };
            let _ = writeln!(text, "{} of {} tests {how}", hidden.hidden, hidden.all);
        }
        let how = if self.is_active {
            "in force"
        } else {
            "as comments; --yes puts them in force"
        };
        let entries = [
            (found.workloads.len(), "workload"),
            (found.claims.len(), "claim"),
        ];
        for (count, what) in entries.into_iter().filter(|(count, _)| *count > 0) {
            let _ = writeln!(
                text,
                "proposed: {}, each tried, {how}",
                counted(count, what)
            );
        }
        for refused in &found.refused {
            let (place, command) = (&refused.place, printable(&refused.command));
            let reason = printable(&refused.reason);
            let _ = writeln!(text, "  not proposed: {place}: `{command}`: {reason}");
        }
        for number in found.unproved.iter().take(SHOWN) {
            let (path, line) = (&number.document, number.line);
            let _ = writeln!(
                text,
                "  no proof: {path}:{line}: {}",
                printable(&number.text)
            );
        }
        let more = found.unproved.len().saturating_sub(SHOWN);
        if more > 0 {
            let _ = writeln!(
                text,
                "  and {more} more without proof: cargo palisade claims list"
            );
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
            "proposals": self.proposals,
        })
    }
}
