//! `cargo palisade compare`

use super::check::{self, ReportArgs};
use super::{Context, launcher};
use crate::error::CommandError;
use palisade::flow::benchmark_comparison::{CompareOptions, Injection, Selection, compare};
use palisade::policy::Span;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo palisade compare main --only parser/bench:speed")]
pub struct Args {
    /// The revision to compare with
    pub base: String,
    /// The revision to judge [default: the files as they are]
    pub candidate: Option<String>,
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// How long measuring may take [default: speed.budget of palisade.toml]
    #[arg(long, value_name = "TIME")]
    pub budget: Option<Span>,
    /// Slow benchmarks of the candidate down, to see it found, such as parse=5%
    #[arg(long, value_name = "PART=SHARE", value_parser = injection)]
    pub inject: Vec<Injection>,
    #[command(flatten)]
    pub reports: ReportArgs,
}

/// Which benchmarks are measured.
#[derive(Debug, clap::Args)]
pub struct SelectionArgs {
    /// Only benchmarks with this in their names; may be given several times
    #[arg(long, value_name = "PART")]
    pub only: Vec<String>,
    /// Only benchmarks of this package; may be given several times
    #[arg(short, long, value_name = "NAME")]
    pub package: Vec<String>,
}

impl SelectionArgs {
    /// The same, as the library says it.
    pub fn selection(&self) -> Selection {
        Selection {
            packages: self.package.clone(),
            only: self.only.clone(),
            ..Selection::default()
        }
    }
}

/// Reads `part=5%`.
fn injection(text: &str) -> Result<Injection, String> {
    let expected = || format!("{text:?} is not like parse=5%");
    let (name, share) = text.rsplit_once('=').ok_or_else(expected)?;
    let percent: f64 = share
        .trim_end_matches('%')
        .parse()
        .map_err(|_| expected())?;
    if !(percent > 0.0 && percent <= 100.0) {
        return Err(format!("{percent} % is not between 0 and 100 %"));
    }
    Ok(Injection {
        name: name.to_owned(),
        slowdown: percent / 100.0,
    })
}

pub fn run(context: &mut Context<'_>, args: &Args) -> Result<u8, CommandError> {
    let ui = context.ui;
    let options = CompareOptions {
        base: args.base.clone(),
        candidate: args.candidate.clone(),
        selection: args.selection.selection(),
        budget: args.budget.map(|budget| budget.0),
        injections: args.inject.clone(),
        ..CompareOptions::default()
    };
    let launcher = launcher()?;
    let report = compare(&mut context.session, &launcher, &options, &|event| {
        ui.event(event);
    })?;
    check::tell(context, report, &args.reports)
}
