//! `cargo palisade check`

use palisade::check::{CheckOptions, MeasureSpeed, check};
use palisade::record::now;
use palisade::report::{
    HistoryPoint, Report, ReportDocument, html, junit, markdown, sarif, terminal,
};

use super::{Context, launcher, write};
use crate::args::{CheckArgs, JudgeArgs, ReportArgs};

/// How many runs the curves of the page go back.
const HISTORY: u32 = 100;

pub fn run(context: &mut Context<'_>, args: &CheckArgs) -> anyhow::Result<u8> {
    let options = CheckOptions {
        base: args.change.base(),
        candidate: args.change.candidate(),
        fresh: args.judge.fresh,
        everything: args.all,
        budget: args.judge.budget.map(|budget| budget.0),
        shard: args.shard,
        speed: if args.speed {
            MeasureSpeed::Always(launcher()?)
        } else {
            MeasureSpeed::ByRisk(launcher()?)
        },
    };
    judge(context, &options, &args.judge)
}

/// Judges a change and tells the report.
pub fn judge(
    context: &mut Context<'_>,
    options: &CheckOptions,
    args: &JudgeArgs,
) -> anyhow::Result<u8> {
    let ui = context.ui;
    let report = check(&mut context.session, options, &|event| ui.event(event))?;
    tell(context, report, &args.reports)
}

/// Prints the report and writes the files that are asked for.
pub fn tell(context: &Context<'_>, report: Report, args: &ReportArgs) -> anyhow::Result<u8> {
    let report = &report.document();
    if let Some(path) = &args.junit {
        write(path, &junit(report)?)?;
    }
    if let Some(path) = &args.markdown {
        write(path, &markdown(report))?;
    }
    if let Some(path) = &args.sarif {
        write(path, &format!("{:#}\n", sarif(report)))?;
    }
    if let Some(path) = &args.html {
        write(path, &page(context, report)?)?;
    }
    let text = terminal(report, now(), context.ui.paint());
    context.print(&serde_json::to_value(report)?, &text)?;
    Ok(report.exit_code)
}

fn page(context: &Context<'_>, report: &ReportDocument) -> anyhow::Result<String> {
    let store = context.session.store.as_ref();
    let mut history: Vec<HistoryPoint> = store
        .recent_runs(HISTORY)?
        .iter()
        .filter_map(HistoryPoint::of)
        .collect();
    history.reverse();
    let ledger = palisade::quarantine::ledger(store)?;
    Ok(html(report, &history, &ledger.flaky(), now()))
}
