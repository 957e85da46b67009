//! `cargo palisade bisect`

use std::path::PathBuf;

use super::{Context, flaky, launcher, write};
use crate::error::{CommandError, UsageError};
use palisade::bisect::FailureModel;
use palisade::flow::culprit::{BisectOptions, bisect};
use palisade::record::Question;
use palisade::speed::Measure;
use palisade::test_id::TestId;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo palisade bisect --test tests::connects --good v1.0.0")]
pub struct Args {
    #[command(flatten)]
    pub search: SearchArgs,
    /// Go on with the search that was interrupted
    #[arg(long, conflicts_with_all = ["question", "good", "bad", "first_parent", "mode"])]
    pub resume: bool,
    /// Write a Markdown report
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

/// Where a culprit is looked for.
#[derive(Debug, clap::Args)]
pub struct SearchArgs {
    #[command(flatten)]
    pub question: QuestionArgs,
    /// What of the benchmark, such as peak_memory [default: its time or rate]
    #[arg(long, value_name = "MEASURE", value_parser = measure, requires = "bench")]
    pub measure: Option<Measure>,
    /// Where all is well [default: the newest commit known to be good]
    #[arg(long, value_name = "REV")]
    pub good: Option<String>,
    /// Where it is not [default: HEAD]
    #[arg(long, value_name = "REV")]
    pub bad: Option<String>,
    /// Follow only the first parent of merges
    #[arg(long)]
    pub first_parent: bool,
    /// Take the failure for certain, or for flaky [default: find out]
    #[arg(long, value_enum, value_name = "MODE")]
    pub mode: Option<SearchMode>,
    /// End after so many observations [default: 200]
    #[arg(long, value_name = "N")]
    pub max_runs: Option<usize>,
}

/// What tells a good commit from a bad one.
#[derive(Debug, clap::Args)]
#[group(id = "question", multiple = false)]
pub struct QuestionArgs {
    /// The test that fails, or the end of its name
    #[arg(long, value_name = "TEST")]
    pub test: Option<String>,
    /// The benchmark that got worse, or a part of its name
    #[arg(long, value_name = "NAME")]
    pub bench: Option<String>,
    /// A command, run in each checkout: 0 is good, 125 skips the commit, others are bad
    #[arg(long, value_name = "COMMAND")]
    pub cmd: Option<String>,
    /// The ratio of palisade.toml that does not hold
    #[arg(long, value_name = "NAME")]
    pub ratio: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SearchMode {
    Certain,
    Flaky,
}

impl SearchMode {
    /// The same, as the library says it.
    pub fn model(self) -> FailureModel {
        match self {
            Self::Certain => FailureModel::Certain,
            Self::Flaky => FailureModel::Rates,
        }
    }
}

/// Reads `peak_memory`.
fn measure(text: &str) -> Result<Measure, String> {
    Measure::from_word(text).ok_or_else(|| format!("{text:?} is no measure, such as time"))
}

pub fn run(context: &mut Context<'_>, args: &Args) -> Result<u8, CommandError> {
    let ui = context.ui;
    let options = BisectOptions {
        resume: args.resume,
        ..options(context, &args.search)?
    };
    let launcher = launcher()?;
    let report = bisect(&mut context.session, &launcher, &options, &|event| {
        ui.event(event);
    })?;
    if let Some(path) = &args.markdown {
        write(path, &report.markdown())?;
    }
    context.print(&serde_json::to_value(&report)?, &report.text())?;
    Ok(report.exit_code)
}

/// What is looked for, and where.
pub(super) fn options(
    context: &Context<'_>,
    args: &SearchArgs,
) -> Result<BisectOptions, CommandError> {
    let question = question(context, args)?;
    Ok(BisectOptions {
        good: args.good.clone(),
        bad: args.bad.clone(),
        first_parent: args.first_parent,
        model: args.mode.map(SearchMode::model),
        max_runs: args.max_runs,
        ..BisectOptions::new(&context.session, question)
    })
}

fn question(context: &Context<'_>, args: &SearchArgs) -> Result<Option<Question>, CommandError> {
    let asked = &args.question;
    if let Some(name) = &asked.test {
        // A whole name need not have been seen before.
        let packages = &context.session.workspace.packages;
        let whole = name.parse::<TestId>().ok();
        let whole = whole.filter(|test| packages.contains_key(&test.package));
        let test = if let Some(test) = whole {
            test
        } else {
            let ledger = palisade::flow::quarantine::ledger(context.session.store.as_ref())?;
            flaky::find(&ledger, name)?.test.clone()
        };
        return Ok(Some(Question::Test(test)));
    }
    if let Some(name) = &asked.bench {
        return Ok(Some(Question::Bench {
            name: name.clone(),
            measure: args.measure,
        }));
    }
    if let Some(name) = &asked.ratio {
        return Ok(Some(Question::Ratio(name.clone())));
    }
    let Some(command) = &asked.cmd else {
        return Ok(None);
    };
    let words = palisade::flow::culprit::words(command);
    let words = words.ok_or_else(|| UsageError::NoCommand(command.clone()))?;
    Ok(Some(Question::Command(words)))
}
