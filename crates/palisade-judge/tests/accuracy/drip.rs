//! A slow drip: many commits, each a little slower than its parent.

use palisade_judge::history::drift;
use palisade_judge::speed::{BenchmarkState, Measure, NoiseThreshold, log_ratio};

use super::simulation::{Machine, Noise, judge};

/// A benchmark that shows 1.5 % between equal programs: its threshold is 4.5 %.
pub const SPREAD: f64 = 0.015;

/// At which step of so many a drip was seen, counted from 1; `None` if at none.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// By comparing each commit with its parent.
    pub parent: Option<usize>,
    /// By comparing each commit with the milestone.
    pub milestone: Option<usize>,
    /// By adding up what the comparisons with parents said.
    pub sum: Option<usize>,
}

/// Ten commits, each slower than its parent by `step`.
pub fn drip(noise: Noise, step: f64, seed: u64) -> Seen {
    const COMMITS: usize = 10;
    const PAIRS: usize = 40;
    let noise_threshold = NoiseThreshold::of(Measure::Time).with_spread(SPREAD);
    let mut machine = Machine::new(noise, seed);
    let mut seen = Seen {
        parent: None,
        milestone: None,
        sum: None,
    };
    let mut steps = Vec::new();
    for commit in 1..=COMMITS {
        let mut is_alarm =
            |ratio| judge(&mut machine, ratio, noise_threshold).state == BenchmarkState::Regressed;
        let parent = is_alarm(step);
        let milestone = is_alarm(step.powi(commit as i32));
        let pair = |_| {
            let (base, candidate) = machine.pair(100.0, 100.0 * step);
            log_ratio(Measure::Time, base, candidate).expect("times")
        };
        steps.push((0..PAIRS).map(pair).collect::<Vec<f64>>());
        let far = drift(&steps).expect("steps");
        let sum = far.low > 1.0 && far.ratio > 1.0 + noise_threshold.threshold(100.0);
        for (found, at) in [
            (parent, &mut seen.parent),
            (milestone, &mut seen.milestone),
            (sum, &mut seen.sum),
        ] {
            if found && at.is_none() {
                *at = Some(commit);
            }
        }
    }
    seen
}
