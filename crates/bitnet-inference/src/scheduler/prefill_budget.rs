//! How many prompt positions fit into a step, so that running texts do not stall.

use std::time::Duration;

use super::StepReport;

/// Weight of a new measurement in the moving averages.
const WEIGHT: f64 = 0.25;

/// Prompt positions of a step before any was measured.
const FIRST: usize = 16;

/// Estimates, from the times of past steps, how many prompt positions a step may compute
/// besides its decodes. The caller measures; nothing here reads a clock.
#[derive(Clone, Debug)]
pub struct PrefillBudget {
    /// Maximum time of a step, as a multiple of one with decodes only.
    ratio: f64,
    /// Time in seconds that a step may take in any case.
    least: f64,
    /// Seconds of a step with decodes only, by their number.
    decodes: Vec<Option<f64>>,
    /// Seconds per prompt position, beyond the decodes.
    position: Option<f64>,
}

impl PrefillBudget {
    /// Returns a budget of `ratio` times a step with decodes only, and at least `least`.
    pub fn new(ratio: f64, least: Duration) -> Self {
        Self {
            ratio,
            least: least.as_secs_f64(),
            decodes: Vec::new(),
            position: None,
        }
    }

    /// Returns how many prompt positions a step with so many decodes may compute; without
    /// decodes there is no limit.
    pub fn positions(&self, n_decodes: usize) -> usize {
        if n_decodes == 0 {
            return usize::MAX;
        }
        match (self.decode_time(n_decodes), self.position) {
            (Some(decode), Some(position)) => {
                let left = (decode * self.ratio).max(self.least) - decode;
                // At least one, or prompts would wait for ever.
                (left / position).max(1.0) as usize
            }
            _ => FIRST,
        }
    }

    /// Takes the time of a step into account.
    pub fn observe(&mut self, step: StepReport, elapsed: Duration) {
        let elapsed = elapsed.as_secs_f64();
        let StepReport {
            n_decodes,
            n_prefill,
        } = step;
        if n_prefill == 0 {
            if self.decodes.len() <= n_decodes {
                self.decodes.resize(n_decodes + 1, None);
            }
            average(&mut self.decodes[n_decodes], elapsed);
        } else if let Some(decode) = self.decode_time(n_decodes) {
            let beyond = (elapsed - decode).max(elapsed / 100.0);
            average(&mut self.position, beyond / n_prefill as f64);
        }
    }

    /// Returns the time of so many decodes: measured, or that of the nearest number.
    fn decode_time(&self, n_decodes: usize) -> Option<f64> {
        if n_decodes == 0 {
            return Some(0.0);
        }
        let known = self.decodes.iter().enumerate().skip(1);
        let known = known.filter_map(|(n, time)| Some((n.abs_diff(n_decodes), (*time)?)));
        known
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, time)| time)
    }
}

/// Moves an average towards a new value.
fn average(average: &mut Option<f64>, value: f64) {
    *average = Some(match *average {
        Some(old) => old + WEIGHT * (value - old),
        None => value,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(n_decodes: usize, n_prefill: usize) -> StepReport {
        StepReport {
            n_decodes,
            n_prefill,
        }
    }

    #[test]
    fn a_step_with_prompts_takes_no_longer_than_allowed() {
        let mut budget = PrefillBudget::new(1.75, Duration::from_millis(5));
        assert_eq!(budget.positions(0), usize::MAX);
        assert_eq!(budget.positions(3), FIRST);
        // 40 ms for a decode, and 2 ms for a position.
        let time = |step: StepReport| {
            let decode = if step.n_decodes > 0 { 40 } else { 0 };
            Duration::from_millis(decode + 2 * step.n_prefill as u64)
        };
        for seen in [step(1, 0), step(1, 16), step(0, 64)] {
            budget.observe(seen, time(seen));
        }
        // 30 ms are left.
        assert_eq!(budget.positions(1), 15);
        // The nearest number is taken.
        assert_eq!(budget.positions(9), 15);
    }

    #[test]
    fn fast_steps_may_take_the_least_time() {
        let mut budget = PrefillBudget::new(1.5, Duration::from_millis(5));
        budget.observe(step(1, 0), Duration::from_millis(1));
        budget.observe(step(0, 10), Duration::from_millis(1));
        assert_eq!(budget.positions(1), 40);
    }

    #[test]
    fn prompts_always_go_on() {
        let mut budget = PrefillBudget::new(1.5, Duration::ZERO);
        budget.observe(step(1, 0), Duration::from_millis(1));
        budget.observe(step(1, 1), Duration::from_secs(1));
        assert_eq!(budget.positions(1), 1);
    }
}
