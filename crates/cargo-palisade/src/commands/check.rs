//! `cargo palisade check`

use super::page::page;
use super::{Context, launcher, write};
use crate::error::CommandError;
use palisade::flow::check::{CheckOptions, MeasureSpeed, check};
use palisade::host::now;
use palisade::host::session::{BaseChoice, CandidateChoice};
use palisade::policy::Span;
use palisade::record::Report;
use palisade::report::{junit, markdown, sarif, terminal};
use palisade::scope::ShardNumber;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo palisade check --base main --html report.html")]
pub struct Args {
    #[command(flatten)]
    pub change: ChangeArgs,
    /// Judge all tests, and say which failures the plan of the change would have missed
    #[arg(long, visible_alias = "full")]
    pub all: bool,
    /// Measure all benchmarks that the change can reach, whatever palisade.toml says; what
    /// cannot be measured is no pass
    #[arg(long, conflicts_with = "shard")]
    pub speed: bool,
    /// Look at the tests alone: neither at claims nor at speed and memory
    #[arg(long, conflicts_with = "speed")]
    pub tests_only: bool,
    /// Run one of N parts of the tests, such as 2/3; `merge` gives the verdict
    #[arg(long, value_name = "I/N")]
    pub shard: Option<ShardNumber>,
    #[command(flatten)]
    pub judge: JudgeArgs,
}

/// Which change is looked at.
#[derive(Debug, clap::Args)]
pub struct ChangeArgs {
    /// The revision to compare with [default: where the branch left the default branch]
    #[arg(long, value_name = "REV")]
    pub base: Option<String>,
    /// Compare with the newest earlier commit whose tests are known; build no base
    #[arg(long, conflicts_with = "base")]
    pub stored_base: bool,
    /// Look at what is staged instead of the files as they are
    #[arg(long)]
    pub staged: bool,
}

impl ChangeArgs {
    /// What the change is compared with.
    pub fn base(&self) -> BaseChoice {
        match &self.base {
            Some(revision) => BaseChoice::Revision(revision.clone()),
            None if self.stored_base => BaseChoice::Stored,
            None => BaseChoice::Branching,
        }
    }

    /// What is judged.
    pub fn candidate(&self) -> CandidateChoice {
        if self.staged {
            CandidateChoice::Staged
        } else {
            CandidateChoice::Files
        }
    }
}

/// How thoroughly a change is judged.
#[derive(Debug, clap::Args)]
pub struct JudgeArgs {
    /// Use no stored run
    #[arg(long)]
    pub fresh: bool,
    /// How long the check may take, such as 60s: no rerun and no benchmark begins later
    /// [default: reruns as needed, speed in what is left of `budget` in palisade.toml, 5m]
    #[arg(long, value_name = "TIME")]
    pub budget: Option<Span>,
    #[command(flatten)]
    pub reports: ReportArgs,
}

/// Where the reports go.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// Write a JUnit report
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Write a Markdown report, for a pull request
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Write a self-contained HTML page
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write a SARIF report, for annotations in the code
    #[arg(long, value_name = "FILE")]
    pub sarif: Option<PathBuf>,
}

pub fn run(context: &mut Context<'_>, args: &Args) -> Result<u8, CommandError> {
    let options = CheckOptions {
        base: args.change.base(),
        candidate: args.change.candidate(),
        fresh: args.judge.fresh,
        everything: args.all,
        budget: args.judge.budget.map(|budget| budget.0),
        shard: args.shard,
        speed: if args.tests_only {
            MeasureSpeed::Never
        } else if args.speed {
            MeasureSpeed::Always(launcher()?)
        } else {
            MeasureSpeed::ByPolicy(launcher()?)
        },
        tests_only: args.tests_only,
    };
    judge(context, &options, &args.judge)
}

/// Judges a change and tells the report.
pub fn judge(
    context: &mut Context<'_>,
    options: &CheckOptions,
    args: &JudgeArgs,
) -> Result<u8, CommandError> {
    let ui = context.ui;
    let report = check(&mut context.session, options, &|event| ui.event(event))?;
    tell(context, report, &args.reports)
}

/// Prints the report and writes the files that are asked for.
pub fn tell(context: &Context<'_>, report: Report, args: &ReportArgs) -> Result<u8, CommandError> {
    let report = &report.document();
    if let Some(path) = &args.junit {
        write(path, &junit(report)?)?;
    }
    if let Some(path) = &args.markdown {
        write(path, &markdown(report, now()))?;
    }
    if let Some(path) = &args.sarif {
        write(
            path,
            &format!("{:#}\n", sarif(report, &context.session.workspace.dir)),
        )?;
    }
    if let Some(path) = &args.html {
        write(path, &page(context, report)?)?;
    }
    let text = terminal(report, now(), context.ui.paint());
    context.print(&serde_json::to_value(report)?, &text)?;
    Ok(report.exit_code)
}
