//! `cargo palisade history`

use std::fmt::Write as _;
use std::path::PathBuf;

use super::{Context, write};
use crate::error::{CommandError, NOT_MEASURED};
use palisade::hash::short;
use palisade::history::{BenchmarkHistory, History};
use palisade::observation::Millis;
use palisade::report::{amount, comparison, trends};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo palisade history --html history.html")]
pub struct Args {
    /// Only the benchmarks whose names hold this text
    pub benchmark: Option<String>,
    /// How many commits to look back
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub commits: u32,
    /// Print one line per commit and benchmark, separated by commas
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// Write a self-contained HTML page with charts
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

pub fn run(context: &mut Context<'_>, args: &Args) -> Result<u8, CommandError> {
    let session = &context.session;
    let mut commits: Vec<String> = session
        .repo
        .ancestors("HEAD", args.commits)?
        .into_iter()
        .map(|commit| commit.id)
        .collect();
    commits.reverse();
    let runs = session.store.speed_runs(Millis::MIN)?;
    let mut history = History::of(&runs, &session.store.calibrations()?, &commits);
    if let Some(part) = &args.benchmark {
        history
            .series
            .retain(|series| series.benchmark.contains(part));
    }
    if let Some(path) = &args.html {
        let page = trends(&history, session.repo.remote_url().as_deref());
        write(path, &page)?;
    }
    if args.csv {
        context.ui.out(&csv(&history))?;
    } else {
        let mut json = serde_json::to_value(&history)?;
        json["schema"] = 1.into();
        context.print(&json, &text(&history))?;
    }
    let is_empty = history.series.is_empty();
    Ok(if is_empty { NOT_MEASURED } else { 0 })
}

fn text(history: &History) -> String {
    let mut text = String::new();
    for series in &history.series {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", line(series));
        for change in &series.changes {
            let _ = writeln!(
                text,
                "  {:+.1} % at {}; {}",
                100.0 * (change.change.ratio - 1.0),
                short(&change.commit),
                comparison(change)
            );
        }
    }
    for left_out in &history.left_out {
        let _ = writeln!(text, "left out: {left_out}");
    }
    if history.series.is_empty() {
        text.push_str("nothing of this branch was measured\n");
    }
    text
}

fn line(series: &BenchmarkHistory) -> String {
    let name = series.title();
    let (Some(first), Some(last)) = (series.points.first(), series.points.last()) else {
        return name;
    };
    let now = amount(series.measure, last.value);
    match series.points.len() {
        1 => format!("{name}: {now} at {}", short(&last.commit)),
        n => format!(
            "{name}: {now} at {}, {:+.1} % since {} ({n} commits)",
            short(&last.commit),
            100.0 * (last.value / first.value - 1.0),
            short(&first.commit)
        ),
    }
}

/// One line per point. Names are quoted: they may hold anything.
fn csv(history: &History) -> String {
    let mut text =
        String::from("benchmark,measure,unit,commit,at_ms,value,launches,change,source\n");
    for series in &history.series {
        let name = series.benchmark.replace('"', "\"\"");
        for point in &series.points {
            let mut changes = series.changes.iter();
            let change = changes.find(|change| change.commit == point.commit);
            let change = change.map(|change| change.change.ratio.to_string());
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "\"{name}\",{},{},{},{},{},{},{},{}",
                series.measure.as_str(),
                series.unit,
                point.commit,
                point.at_ms,
                point.value,
                point.launches,
                change.unwrap_or_default(),
                series.source.as_deref().unwrap_or_default()
            );
        }
    }
    text
}
