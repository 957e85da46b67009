//! A machine with known noise, and the rules of other programs to set beside ours.

use palisade_judge::speed::{
    BenchmarkState, Decision, DecisionRules, Judge, JudgeStep, Measure, NoiseThreshold,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// Chance that comes out the same each time.
pub struct Random(ChaCha8Rng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Between 0 and 1.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From the normal distribution, by Box and Muller's transform.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// The noise of a machine. Standard deviations are of log-ratios.
#[derive(Clone, Copy)]
pub struct Noise {
    /// What differs from launch to launch.
    pub launch: f64,
    /// What differs from sample to sample within a launch.
    pub sample: f64,
    /// How many samples a launch takes; it reports their median.
    pub samples: usize,
    /// How often a whole launch is disturbed.
    pub spikes: f64,
    /// By how much it is then, on average (exponential).
    pub spike: f64,
    /// How much of the drift is left one launch later.
    pub memory: f64,
    /// What the drift gains with each launch.
    pub innovation: f64,
}

impl Noise {
    /// A machine without drift: .4 % between launches, 2 % within, and every twentieth
    /// launch disturbed by 10 % on average.
    pub const CALM: Self = Self {
        launch: 0.004,
        sample: 0.02,
        samples: 5,
        spikes: 0.05,
        spike: 0.1,
        memory: 0.98,
        innovation: 0.0,
    };

    /// The same with a drift that moves by 1 % per launch: within a hundred launches
    /// the machine's speed wanders by ±5 %.
    pub const DRIFTING: Self = Self {
        innovation: 0.01,
        ..Self::CALM
    };
}

/// A machine that runs programs of known cost.
pub struct Machine {
    noise: Noise,
    random: Random,
    drift: f64,
    /// The launches of a block that are still to come: true for the candidate.
    order: Vec<bool>,
}

impl Machine {
    pub fn new(noise: Noise, seed: u64) -> Self {
        let mut random = Random::new(seed);
        // The drift has been going on for ever.
        let settled = noise.innovation / (1.0 - noise.memory.powi(2)).sqrt();
        let drift = settled * random.normal();
        Self {
            noise,
            random,
            drift,
            order: Vec::new(),
        }
    }

    /// Time passes, as long as a launch takes.
    fn pass(&mut self) {
        self.drift = self.noise.memory * self.drift + self.noise.innovation * self.random.normal();
    }

    fn spike(&mut self) -> f64 {
        let is_disturbed = self.random.unit() < self.noise.spikes;
        let size = -self.noise.spike * (1.0 - self.random.unit()).ln();
        if is_disturbed { size } else { 0.0 }
    }

    /// Runs a program that costs `cost` once and returns the median of its samples.
    pub fn launch(&mut self, cost: f64) -> f64 {
        self.pass();
        let mut samples: Vec<f64> = (0..self.noise.samples)
            .map(|_| self.noise.sample * self.random.normal())
            .collect();
        samples.sort_by(f64::total_cmp);
        let bias = self.noise.launch * self.random.normal();
        let within = samples[samples.len() / 2];
        cost * (self.drift + bias + within + self.spike()).exp()
    }

    /// Runs base and candidate next to each other, in blocks of ABBA or BAAB.
    pub fn pair(&mut self, base: f64, candidate: f64) -> (f64, f64) {
        if self.order.is_empty() {
            let first = self.random.unit() < 0.5;
            self.order = vec![!first, first];
        }
        let is_candidate_first = self.order.pop().expect("just filled");
        if is_candidate_first {
            let candidate = self.launch(candidate);
            (self.launch(base), candidate)
        } else {
            let base = self.launch(base);
            (base, self.launch(candidate))
        }
    }

    /// Runs a program as Criterion does: one process, `n` samples that are all kept.
    pub fn process(&mut self, cost: f64, n: usize) -> Vec<f64> {
        let bias = self.noise.launch * self.random.normal();
        let mut spike = 0.0;
        let mut sample = |at: usize| {
            // A launch of ours takes as long as so many samples.
            if at.is_multiple_of(self.noise.samples) {
                self.pass();
                spike = self.spike();
            }
            let within = self.noise.sample * self.random.normal();
            cost * (self.drift + bias + within + spike).exp()
        };
        (0..n).map(&mut sample).collect()
    }
}

/// Measures a change of a cost by `ratio` until the judge is done.
pub fn judge(machine: &mut Machine, ratio: f64, noise_threshold: NoiseThreshold) -> Decision {
    let mut judge = Judge::new(DecisionRules::new(Measure::Time, noise_threshold));
    loop {
        let (base, candidate) = machine.pair(100.0, 100.0 * ratio);
        if judge.push(base, candidate).expect("times") == JudgeStep::Done {
            return judge.decision();
        }
    }
}

/// How often what was said about changes of one size.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    pub of: usize,
    /// Raised an alarm before it was confirmed.
    pub alarms: usize,
    pub regressed: usize,
    pub improved: usize,
    pub equivalent: usize,
    pub inconclusive: usize,
    /// Pairs of all, with those of confirmations.
    pub pairs: usize,
}

impl Said {
    pub fn add(&mut self, decision: &Decision) {
        let count = match decision.state {
            BenchmarkState::Regressed => &mut self.regressed,
            BenchmarkState::Improved => &mut self.improved,
            BenchmarkState::Equivalent => &mut self.equivalent,
            BenchmarkState::Inconclusive | BenchmarkState::Incomparable => &mut self.inconclusive,
        };
        *count += 1;
        self.of += 1;
        self.alarms += usize::from(decision.confirmation.is_some());
        self.pairs += decision.pairs + decision.confirmation.map_or(0, |fresh| fresh.pairs);
    }

    /// The share of all.
    pub fn share(&self, count: usize) -> f64 {
        count as f64 / self.of as f64
    }
}

/// Judges `trials` changes of one size on machines with this noise.
pub fn simulate(noise: Noise, ratio: f64, trials: usize, seed: u64) -> Said {
    let mut said = Said::default();
    for trial in 0..trials as u64 {
        let mut machine = Machine::new(noise, seed + trial);
        said.add(&judge(
            &mut machine,
            ratio,
            NoiseThreshold::of(Measure::Time),
        ));
    }
    said
}
