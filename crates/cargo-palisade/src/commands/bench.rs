//! `cargo palisade bench`

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;

use super::compare::SelectionArgs;
use super::{Context, launcher, write};
use crate::error::{CommandError, NOT_MEASURED};
use chrono::{DateTime, Utc};
use palisade::flow::benchmark_comparison::{
    RecordedRatios, SeriesOptions, SeriesReport, measure_series, record_ratios,
};
use palisade::host::measure::machine;
use palisade::host::now;
use palisade::host::session::SessionError;
use palisade::policy::{FILE_NAME, Span};
use palisade::report::amount;
use palisade::speed::{BoundState, estimate};
use serde_json::{Value, json};

/// A bound does not hold.
const BROKEN: u8 = 1;

/// Whether a bound holds is not shown.
const UNDECIDED: u8 = 4;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo palisade bench --only parser/bench:speed")]
pub struct Args {
    /// The revision to measure [default: the files as they are]
    pub revision: Option<String>,
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// How many launches of each benchmark
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub launches: usize,
    /// How long measuring may take [default: speed.budget of palisade.toml]
    #[arg(long, value_name = "TIME")]
    pub budget: Option<Span>,
    /// Write the ratios that palisade.toml has no values of this processor for into it
    #[arg(long)]
    pub record: bool,
}

pub fn run(context: &mut Context<'_>, args: &Args) -> Result<u8, CommandError> {
    let ui = context.ui;
    let options = SeriesOptions {
        revision: args.revision.clone(),
        selection: args.selection.selection(),
        launches: args.launches.max(1),
        budget: args.budget.map(|budget| budget.0),
    };
    let launcher = launcher()?;
    let series = measure_series(&mut context.session, &launcher, &options, &|event| {
        ui.event(event);
    })?;
    let any = |state| series.bounds.iter().any(|b| b.decision.state == state);
    let code = if any(BoundState::Broken) {
        BROKEN
    } else if !series.failed.is_empty() || series.measurements.is_empty() {
        NOT_MEASURED
    } else if any(BoundState::Inconclusive) {
        UNDECIDED
    } else {
        0
    };
    let (mut document, mut text) = (document(&series, code), text(&series, code));
    if args.record {
        let recorded = record(context, &series)?;
        for (name, limit) in &recorded {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "recorded {name}: {limit}");
        }
        if recorded.is_empty() {
            text.push_str("no ratio was measured that has no bound on this processor\n");
        }
        let names = recorded.into_iter().map(|(name, _)| name);
        document["recorded"] = names.collect::<Vec<_>>().into();
    }
    context.print(&document, &text)?;
    Ok(code)
}

/// Writes the ratios of this processor into the policy.
fn record(
    context: &Context<'_>,
    series: &SeriesReport,
) -> Result<Vec<(String, String)>, CommandError> {
    let path = context.session.workspace.root.join(FILE_NAME);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        // Without a policy there is no ratio.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(CommandError::io(format!("read {}", path.display()), source)),
    };
    let date = DateTime::<Utc>::from_timestamp_millis(now()).unwrap_or_default();
    let measured = format!(
        "{}, cargo palisade bench --record, {}",
        date.format("%Y-%m-%d"),
        series.name
    );
    let bounds = &series.bounds;
    let recorded = record_ratios(&text, &path, bounds, &machine::processor(), &measured);
    let RecordedRatios { names, text } = recorded.map_err(SessionError::from)?;
    if !names.is_empty() {
        write(&path, &text)?;
    }
    Ok(names)
}

/// Median and 95 % interval of positive values.
fn middle(values: &[f64]) -> Option<(f64, f64, f64)> {
    let logarithms: Vec<f64> = values.iter().map(|value| value.ln()).collect();
    let found = estimate(&logarithms)?;
    Some((found.ratio, found.low, found.high))
}

fn document(series: &SeriesReport, code: u8) -> Value {
    let benchmarks = series.measurements.iter().map(|m| {
        let (median, low, high) = middle(&m.values).unwrap_or_default();
        json!({
            "benchmark": m.benchmark,
            "measure": m.measure,
            "median": median,
            "low": low,
            "high": high,
            "values": m.values,
        })
    });
    let failed = series
        .failed
        .iter()
        .map(|(name, why)| json!({"benchmark": name, "reason": why}));
    json!({
        "schema": 1,
        "exit_code": code,
        "tree": series.name,
        "machine": series.machine,
        "benchmarks": benchmarks.collect::<Vec<_>>(),
        "bounds": series.bounds,
        "failed": failed.collect::<Vec<_>>(),
        "notes": series.notes,
    })
}

fn text(series: &SeriesReport, code: u8) -> String {
    let mut text = String::new();
    for (name, why) in &series.failed {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "NOT MEASURED {name}: {why}");
    }
    let name = |m: &palisade::speed::Measurement| format!("{}: {}", m.benchmark, m.measure);
    let width = series
        .measurements
        .iter()
        .map(|m| name(m).chars().count())
        .max();
    let width = width.unwrap_or(0);
    for measurement in &series.measurements {
        let shown = |value| amount(measurement.measure, value);
        let Some((median, low, high)) = middle(&measurement.values) else {
            continue;
        };
        let launches = measurement.values.len();
        let _ = writeln!(
            text,
            "{:width$}  {}  ({} to {} in 95 %, {launches} launches)",
            name(measurement),
            shown(median),
            shown(low),
            shown(high)
        );
    }
    for bound in &series.bounds {
        let word = match bound.decision.state {
            BoundState::Kept => "kept",
            BoundState::Broken => "BROKEN",
            BoundState::Inconclusive => "UNDECIDED",
            BoundState::Unrecorded => "no bound on this processor",
        };
        let _ = writeln!(
            text,
            "Bound {}: {word}; {}",
            bound.name, bound.decision.reason
        );
    }
    for note in &series.notes {
        let _ = writeln!(text, "Note: {note}");
    }
    let _ = writeln!(
        text,
        "Tree {} on {} (exit code {code})",
        series.name, series.machine
    );
    text
}
