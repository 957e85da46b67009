//! How many prompt positions fit into a step, so that running texts do not stall.

use std::time::Duration;

use super::StepReport;
use crate::moving_average::average;

/// Prompt positions of a step before any was measured.
const FIRST: f64 = 8.0;

/// Growth after a step that took less time than it may. The time of positions is not linear:
/// a few cost little, since the weights are read anyway.
const GROWTH: f64 = 1.25;

/// Decides, from the times of past steps, how many prompt positions a step may compute besides
/// its decodes. The caller measures; nothing here reads a clock.
#[derive(Clone, Debug)]
pub struct PrefillBudget {
    /// Maximum time of a step, as a multiple of one with decodes only.
    ratio: f64,
    /// Time in seconds that a step may take in any case.
    least: f64,
    /// Seconds of a step with decodes only, by their number.
    decodes: Vec<Option<f64>>,
    /// Positions of the next step.
    positions: f64,
}

impl PrefillBudget {
    /// Returns a budget of `ratio` times a step with decodes only, and at least `least`.
    pub fn new(ratio: f64, least: Duration) -> Self {
        Self {
            ratio,
            least: least.as_secs_f64(),
            decodes: Vec::new(),
            positions: FIRST,
        }
    }

    /// Returns how many prompt positions a step with so many decodes may compute; without
    /// decodes there is no limit.
    pub fn positions(&self, n_decodes: usize) -> usize {
        match n_decodes {
            0 => usize::MAX,
            _ => self.positions as usize,
        }
    }

    /// Takes the time of a step into account.
    pub fn observe(&mut self, step: StepReport, elapsed: Duration) {
        let elapsed = elapsed.as_secs_f64();
        let StepReport {
            n_decodes,
            n_prefill,
            n_drafted,
            ..
        } = step;
        if n_prefill == 0 && n_drafted > 0 {
            // Prompts take the place of drafts, and not the time of a step with them.
            return;
        }
        if n_prefill == 0 {
            if self.decodes.len() <= n_decodes {
                self.decodes.resize(n_decodes + 1, None);
            }
            average(&mut self.decodes[n_decodes], elapsed);
            return;
        }
        let Some(decode) = self.decode_time(n_decodes) else {
            return;
        };
        let allowed = (decode * self.ratio).max(self.least);
        if elapsed > allowed {
            // As many as would have fitted, if their time were linear; at least one, or prompts
            // would wait for ever.
            let share = (allowed - decode) / (elapsed - decode);
            self.positions = (n_prefill as f64 * share).max(1.0);
        } else if n_prefill >= self.positions as usize {
            self.positions = (self.positions * GROWTH).max(self.positions + 1.0);
        }
    }

    /// Returns the time of so many decodes: measured, or that of the nearest number.
    fn decode_time(&self, n_decodes: usize) -> Option<f64> {
        let known = self.decodes.iter().enumerate().skip(1);
        let known = known.filter_map(|(n, time)| Some((n.abs_diff(n_decodes), (*time)?)));
        let nearest = known.min_by_key(|(distance, _)| *distance);
        nearest.map(|(_, time)| time).filter(|_| n_decodes > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(n_decodes: usize, n_prefill: usize) -> StepReport {
        StepReport {
            n_decodes,
            n_prefill,
            ..StepReport::default()
        }
    }

    /// Runs steps with one decode of 40 ms, and returns the longest and the positions of the
    /// last one. A position takes `ms` milliseconds from the fifth on.
    fn run(budget: &mut PrefillBudget, decode: f64, ms: f64) -> (f64, usize) {
        let mut longest = 0.0f64;
        for _ in 0..60 {
            let n = budget.positions(1);
            let time = decode + ms * n.saturating_sub(4) as f64;
            budget.observe(step(1, n), Duration::from_secs_f64(time / 1e3));
            longest = longest.max(time);
        }
        (longest, budget.positions(1))
    }

    #[test]
    fn a_step_with_prompts_takes_hardly_longer_than_allowed() {
        let mut budget = PrefillBudget::new(1.6, Duration::from_millis(5));
        assert_eq!(budget.positions(0), usize::MAX);
        assert_eq!(budget.positions(3), FIRST as usize);
        budget.observe(step(1, 0), Duration::from_millis(40));
        // 24 ms are left: 4 positions that cost nothing and 12 of 2 ms.
        let (longest, positions) = run(&mut budget, 40.0, 2.0);
        assert!(longest <= 40.0 * 1.8, "{longest}");
        assert!((12..=20).contains(&positions), "{positions}");
        // Where positions are dearer, it follows.
        let (_, positions) = run(&mut budget, 40.0, 8.0);
        assert!((4..=8).contains(&positions), "{positions}");
    }

    #[test]
    fn fast_steps_may_take_the_least_time() {
        let mut budget = PrefillBudget::new(1.5, Duration::from_millis(5));
        budget.observe(step(1, 0), Duration::from_millis(1));
        let (longest, positions) = run(&mut budget, 1.0, 0.1);
        assert!(longest <= 6.1, "{longest}");
        assert!(positions >= 30, "{positions}");
    }

    #[test]
    fn drafts_leave_no_more_time_to_prompts() {
        let mut budget = PrefillBudget::new(1.5, Duration::ZERO);
        budget.observe(step(1, 0), Duration::from_millis(10));
        let drafted = StepReport {
            n_drafted: 15,
            ..step(1, 0)
        };
        for _ in 0..9 {
            budget.observe(drafted, Duration::from_millis(40));
        }
        // 30 ms are too long for 15.
        budget.observe(step(1, 8), Duration::from_millis(30));
        assert_eq!(budget.positions(1), 2);
    }

    #[test]
    fn prompts_always_go_on() {
        let mut budget = PrefillBudget::new(1.5, Duration::ZERO);
        budget.observe(step(1, 0), Duration::from_millis(1));
        for _ in 0..9 {
            budget.observe(step(1, 1), Duration::from_secs(1));
            assert_eq!(budget.positions(1), 1);
        }
    }
}
