//! Many benchmarks together, in a time that ends before all of them are decided.

use palisade_judge::speed::{
    BenchmarkResult, BenchmarkState, DecisionRules, Family, Fingerprint, Judge, JudgeStep, Measure,
    NoiseThreshold, SpeedReport,
};
use palisade_judge::verdict::{UnpairedBenchmarks, Verdict, judge_speed};

use super::simulation::{Machine, Noise};

/// How many benchmarks are compared at a time.
pub const BENCHMARKS: usize = 65;

/// What comparisons of [`BENCHMARKS`] benchmarks said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    /// How many comparisons there were.
    pub comparisons: usize,
    /// How many of them were a pass.
    pub passed: usize,
    /// How many benchmarks were equivalent within the policy's margin.
    pub equivalent: usize,
    /// How many were equivalent within a wider one.
    pub roughly: usize,
    /// The sum of these wider margins.
    pub margins: f64,
    /// How many were called equivalent, within either, and changed by more.
    pub wrong: usize,
}

impl Said {
    /// A share of all benchmarks.
    pub fn share(&self, count: usize) -> f64 {
        count as f64 / (self.comparisons * BENCHMARKS) as f64
    }
}

/// Compares benchmarks again and again; in each comparison there is time for `pairs` of each,
/// and the first `changed` of them cost more by the share `change`.
pub fn compare(
    noise: Noise,
    (changed, change): (usize, f64),
    pairs: usize,
    comparisons: usize,
    seed: u64,
) -> Said {
    let mut said = Said::default();
    for comparison in 0..comparisons as u64 {
        let mut machine = Machine::new(noise, seed + comparison);
        let change_of = |at: usize| if at < changed { change } else { 0.0 };
        let results = (0..BENCHMARKS).map(|at| benchmark(&mut machine, at, change_of(at), pairs));
        let family = Family::judge(results.collect());
        for (at, result) in family.results.iter().enumerate() {
            let decision = &result.decision;
            let is_equivalent = decision.state == BenchmarkState::Equivalent;
            let margin = is_equivalent
                .then_some(decision.margin)
                .or(decision.reached_margin);
            said.equivalent += usize::from(is_equivalent);
            said.roughly += usize::from(decision.reached_margin.is_some());
            said.margins += decision.reached_margin.unwrap_or(0.0);
            said.wrong += usize::from(margin.is_some_and(|margin| change_of(at) > margin));
        }
        let report = SpeedReport {
            machine: Fingerprint::default(),
            benchmarks: family.results,
            bounds: Vec::new(),
            shift: family.shift,
            environment: family.environment,
            launches: 2 * pairs * BENCHMARKS,
            disturbed: None,
            waited: 0.0,
            calibration: None,
            notes: Vec::new(),
        };
        let findings = judge_speed(&report, &UnpairedBenchmarks::default());
        said.comparisons += 1;
        said.passed += usize::from(Verdict::of(&findings) == Verdict::Pass);
    }
    said
}

fn benchmark(machine: &mut Machine, at: usize, change: f64, pairs: usize) -> BenchmarkResult {
    let rules = DecisionRules::new(Measure::Time, NoiseThreshold::of(Measure::Time));
    let mut judge = Judge::new(DecisionRules {
        family: BENCHMARKS,
        ..rules
    });
    for _ in 0..pairs {
        let (base, candidate) = machine.pair(100.0, 100.0 * (1.0 + change));
        if judge.push(base, candidate).expect("times") == JudgeStep::Done {
            break;
        }
    }
    BenchmarkResult {
        benchmark: at.to_string(),
        unchanged: false,
        decision: judge.decision(),
    }
}
