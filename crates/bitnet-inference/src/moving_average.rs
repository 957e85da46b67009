//! A moving average of measurements.

/// Weight of a new measurement.
const WEIGHT: f64 = 0.25;

/// Moves an average towards a new value; the first one is the average.
pub(crate) fn average(average: &mut Option<f64>, value: f64) {
    *average = Some(match *average {
        Some(old) => old + WEIGHT * (value - old),
        None => value,
    });
}
