//! What was measured, as rows that every form of a report shows.

use crate::observation::Millis;
use crate::policy::Bytes;
use crate::record::{age, counted};
use crate::speed::{BenchmarkResult, BenchmarkState, BoundState, Decision, Measure, SpeedReport};

/// The heads of [`rows`].
pub(super) const HEADS: [&str; 6] = ["what", "base", "candidate", "change", "95 %", "state"];

/// One row for each measure of each benchmark.
pub(super) fn rows(speed: &SpeedReport) -> Vec<[String; 6]> {
    speed.benchmarks.iter().map(row).collect()
}

fn row(result: &BenchmarkResult) -> [String; 6] {
    let decision = &result.decision;
    let measure = decision.measure;
    let value = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |v| amount(measure, v));
    let percent = |ratio: f64| format!("{:+.1} %", 100.0 * (ratio - 1.0));
    let (change, interval) = decision.estimate.map_or_else(
        || ("–".to_owned(), "–".to_owned()),
        |found| {
            let interval = format!("{} to {}", percent(found.low), percent(found.high));
            (percent(found.ratio), interval)
        },
    );
    [
        named(&result.benchmark, measure),
        value(decision.base),
        value(decision.candidate),
        change,
        interval,
        format!(
            "{}, {}",
            state_words(decision),
            counted(decision.pairs, "pair")
        ),
    ]
}

/// The state of a decision, with the margin where it is not the policy's.
fn state_words(decision: &Decision) -> String {
    match decision
        .reached_margin
        .filter(|_| !decision.is_suspicious())
    {
        Some(margin) => format!("equivalent within ±{:.1} %", 100.0 * margin),
        None => state_word(decision.state).to_owned(),
    }
}

/// A benchmark with its measure, if that is not the time.
pub(crate) fn named(benchmark: &str, measure: Measure) -> String {
    match measure {
        Measure::Time | Measure::Rate => benchmark.to_owned(),
        other => format!("{benchmark}: {other}"),
    }
}

/// The word for a state, in reports and for programs.
pub fn state_word(state: BenchmarkState) -> &'static str {
    match state {
        BenchmarkState::Improved => "improved",
        BenchmarkState::Regressed => "regressed",
        BenchmarkState::Equivalent => "equivalent",
        BenchmarkState::Inconclusive => "inconclusive",
        BenchmarkState::Incomparable => "incomparable",
    }
}

/// The word for the state of a bound.
pub(crate) fn bound_word(state: BoundState) -> &'static str {
    match state {
        BoundState::Kept => "kept",
        BoundState::Broken => "broken",
        BoundState::Inconclusive => "inconclusive",
        BoundState::Unrecorded => "unrecorded",
    }
}

/// A value as people read it: three digits or four, never a whole millisecond.
pub fn amount(measure: Measure, value: f64) -> String {
    match measure {
        Measure::Time | Measure::BuildTime => {
            let (size, unit) = [(1e9, "s"), (1e6, "ms"), (1e3, "µs")]
                .into_iter()
                .find(|(size, _)| value >= *size)
                .unwrap_or((1.0, "ns"));
            digits(value / size, unit)
        }
        Measure::AllocationBytes | Measure::PeakMemory | Measure::BinarySize => {
            Bytes(value as u64).to_string()
        }
        Measure::Rate => digits(value, "per s"),
        Measure::Instructions | Measure::AllocationCount => format!("{value:.0}"),
    }
}

fn digits(value: f64, unit: &str) -> String {
    match value {
        ..10.0 => format!("{value:.3} {unit}"),
        10.0..100.0 => format!("{value:.2} {unit}"),
        _ => format!("{value:.1} {unit}"),
    }
}

/// What there is to say besides the rows, as (head, text).
pub(super) fn remarks(speed: &SpeedReport, now: Millis) -> Vec<(&'static str, String)> {
    let mut remarks = Vec::new();
    for bound in &speed.bounds {
        let state = bound_word(bound.decision.state);
        remarks.push((
            "Bound",
            format!("{}: {state}; {}", bound.name, bound.decision.reason),
        ));
    }
    if let Some(shift) = speed.shift.filter(|shift| shift.of > 1) {
        remarks.push((
            "All together",
            format!("{:+.2} % (geometric mean)", 100.0 * (shift.ratio - 1.0)),
        ));
    }
    let disturbed = speed.disturbed.map(|disturbed| {
        let share = 100.0 * disturbed as f64 / speed.launches.max(1) as f64;
        format!(", {share:.0} % of them beside other work on more than half of the processors")
    });
    remarks.push((
        "Launches",
        format!(
            "{}{}; they waited {:.1} % of their time for a processor",
            speed.launches,
            disturbed.unwrap_or_default(),
            100.0 * speed.waited
        ),
    ));
    if let Some(calibration) = &speed.calibration {
        let alarms = calibration.false_alarms;
        let found = calibration.detections.iter().map(|detection| {
            format!(
                "{:.0} % slower found {} of {} times",
                100.0 * detection.slowdown,
                detection.rate.found,
                detection.rate.of
            )
        });
        let said: Vec<String> = std::iter::once(format!(
            "equal programs raised {} of {} alarms",
            alarms.found, alarms.of
        ))
        .chain(found)
        .collect();
        let age = age(calibration.at_ms, now);
        remarks.push((
            "Calibrated",
            format!("{age} ago on this machine: {}", said.join("; ")),
        ));
    }
    remarks.extend(speed.notes.iter().map(|note| ("Note", note.clone())));
    remarks.push(("Machine", speed.machine.to_string()));
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_keep_their_digits() {
        for (measure, value, text) in [
            (Measure::Time, 85.04, "85.04 ns"),
            (Measure::Time, 1_234_567.0, "1.235 ms"),
            (Measure::Time, 999.94, "999.9 ns"),
            (Measure::Time, 2.5e9, "2.500 s"),
            (Measure::PeakMemory, 33.0 * 1_048_576.0, "33.00 MiB"),
            (Measure::Rate, 1234.5, "1234.5 per s"),
            (Measure::AllocationCount, 0.0, "0"),
        ] {
            assert_eq!(amount(measure, value), text);
        }
    }
}
