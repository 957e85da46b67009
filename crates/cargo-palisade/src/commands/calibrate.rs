//! `cargo palisade calibrate`

use std::fmt::Write as _;

use super::compare::SelectionArgs;
use super::{Context, launcher};
use crate::error::{CommandError, NOT_MEASURED};
use palisade::flow::benchmark_comparison::{CalibrateOptions, calibrate};
use palisade::host::measure::launch::CAN_SLOW_DOWN;
use palisade::policy::Span;
use palisade::record::counted;
use palisade::speed::{Calibration, NoiseThreshold};
use serde_json::json;

/// The slowdowns that are put in.
const SLOWDOWNS: [f64; 3] = [0.02, 0.05, 0.10];

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo palisade calibrate --only parser/bench:speed")]
pub struct Args {
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// How many comparisons of equal programs
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub comparisons: usize,
    /// How many comparisons with each of the slowdowns of 2, 5 and 10 %
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub injected: usize,
    /// How long measuring may take [default: as long as it takes]
    #[arg(long, value_name = "TIME")]
    pub budget: Option<Span>,
}

pub fn run(context: &mut Context<'_>, args: &Args) -> Result<u8, CommandError> {
    let ui = context.ui;
    let options = CalibrateOptions {
        selection: args.selection.selection(),
        comparisons: args.comparisons,
        injected: args.injected,
        slowdowns: if CAN_SLOW_DOWN {
            SLOWDOWNS.to_vec()
        } else {
            Vec::new()
        },
        budget: args.budget.map(|budget| budget.0),
    };
    let launcher = launcher()?;
    let calibration = calibrate(&mut context.session, &launcher, &options, &|event| {
        ui.event(event);
    })?;
    // A calibration that had no time says nothing.
    let code = if calibration.false_alarms.of == 0 {
        NOT_MEASURED
    } else {
        0
    };
    let json = json!({"schema": 1, "exit_code": code, "calibration": calibration});
    context.print(&json, &text(&calibration))?;
    Ok(code)
}

fn text(calibration: &Calibration) -> String {
    let mut text = String::new();
    for known in &calibration.spreads {
        let noise_threshold = NoiseThreshold::of(known.measure).with_spread(known.spread);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{}: {}: spread {:.2} % in {}; a change counts from {:.1} % on",
            known.benchmark,
            known.measure,
            100.0 * known.spread,
            counted(known.comparisons as usize, "comparison"),
            100.0 * noise_threshold.threshold(f64::INFINITY)
        );
    }
    let alarms = calibration.false_alarms;
    let _ = writeln!(
        text,
        "Equal programs: {} of {} raised an alarm",
        alarms.found,
        counted(alarms.of as usize, "comparison")
    );
    for detection in &calibration.detections {
        let _ = writeln!(
            text,
            "{:.0} % slower: found in {} of {}",
            100.0 * detection.slowdown,
            detection.rate.found,
            counted(detection.rate.of as usize, "comparison")
        );
    }
    if !CAN_SLOW_DOWN {
        text.push_str("No program can be slowed down on purpose on this system: whether a slowdown is found was not tried\n");
    }
    let _ = writeln!(text, "On {}", calibration.fingerprint);
    text
}
