//! What the observations say about each suspect: three models of a failure, one form of
//! answer.

use statrs::distribution::{ContinuousCDF as _, Normal};
use statrs::function::beta::ln_beta;

use super::graph::Graph;
use super::{CommitEvidence, FailureModel};
use crate::stats::{Counts, median};

/// How likely it is, before anything was seen, that the ends do not differ at all: a failure
/// was seen, and seldom comes from nothing; a metric may just have been noisy.
const NO_CHANGE: f64 = 0.01;
const NO_STEP: f64 = 0.5;

/// A part of what is believed of a failure rate before anything was seen: its weight, and the
/// failures and passes of a Beta distribution.
type PriorComponent = (f64, [f64; 2]);

/// A failure rate before the change: none, hardly any, or that of a test that was flaky
/// already.
const OLD: [PriorComponent; 3] = [(0.5, [0.3, 30.0]), (0.4, [1.5, 40.0]), (0.1, [2.0, 7.0])];

/// A failure rate after the change: about every second time, or seldom. What fails nearly
/// each time is told apart well by either.
const NEW: [PriorComponent; 2] = [(0.8, [6.0, 6.0]), (0.2, [1.0, 4.0])];

/// The failure rates among which those are looked for that are least sure of a suspect.
const RATES: [f64; 20] = [
    0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9,
    0.95, 0.99, 1.0,
];

/// How much less likely, as a difference of logarithms, rates may make what was seen than those
/// that make it likeliest: 95 % of a chi-squared distribution with two degrees of freedom.
const PLAUSIBLE: f64 = 3.0;

/// The same after at most [`EARLY`] observations: a search that is sure so soon was favoured by
/// chance, and in it less likely rates are the true ones more often. 99.8 % of the distribution.
const PLAUSIBLE_EARLY: f64 = 6.0;

/// How many observations are few, and from how many on [`PLAUSIBLE`] holds.
const EARLY: f64 = 40.0;
const LATE: f64 = 60.0;

/// A failure rate without a change.
const SAME: [PriorComponent; 1] = [(1.0, [0.5, 1.0])];

/// How large a step of a metric may be, as a standard deviation of its logarithm.
const STEP: f64 = 0.3;

/// What the layout of a program changes from commit to commit, as a standard deviation
/// of the logarithm: more launches of the same program do not average it out.
const LAYOUT: f64 = 0.003;

/// The least noise of a pair: a clock is not finer than that.
const LEAST_NOISE: f64 = 1e-4;

/// What makes the median distance of normal values their standard deviation.
const OF_MEDIAN: f64 = 1.4826;

/// What is believed.
#[derive(Clone, Debug)]
pub(super) struct Belief {
    /// How likely each suspect is the culprit.
    pub(super) suspects: Vec<f64>,
    /// How likely the ends do not differ.
    pub(super) none: f64,
    /// What is expected of a commit, by suspect: the chance of a bad observation where
    /// the change is not in it, and where it is.
    expected: Vec<[f64; 2]>,
    /// The chance of a bad observation if the ends do not differ.
    expected_without: f64,
}

impl Belief {
    /// What is believed after some observations; `None` if they contradict each other
    /// under this model. `prior` has a weight for each suspect.
    pub(super) fn of(
        model: FailureModel,
        graph: &Graph,
        seen: &[CommitEvidence],
        prior: &[f64],
    ) -> Option<Self> {
        let steps = Steps::of(seen);
        let facts: Vec<Facts> = (0..graph.suspects())
            .map(|suspect| match model {
                FailureModel::Certain => certain(graph, seen, suspect),
                FailureModel::Rates => rates(graph, seen, suspect),
                FailureModel::Ratios => steps.facts(graph, suspect),
            })
            .collect();
        let without = match model {
            FailureModel::Certain => None,
            FailureModel::Rates => Some(same_rate(seen)),
            FailureModel::Ratios => Some(Facts {
                log_likelihood: 0.0,
                expected: [0.5, 0.5],
            }),
        };
        let total: f64 = prior.iter().sum();
        let no_change = match model {
            FailureModel::Certain => 0.0,
            FailureModel::Rates => NO_CHANGE,
            FailureModel::Ratios => NO_STEP,
        };
        let mut logs: Vec<f64> = facts
            .iter()
            .zip(prior)
            .map(|(facts, weight)| ((1.0 - no_change) * weight / total).ln() + facts.log_likelihood)
            .collect();
        logs.push(without.as_ref().map_or(f64::NEG_INFINITY, |facts| {
            no_change.ln() + facts.log_likelihood
        }));
        let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if largest == f64::NEG_INFINITY {
            return None;
        }
        let weights: Vec<f64> = logs.iter().map(|log| (log - largest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mut suspects: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
        let none = suspects.pop().unwrap_or(0.0);
        Some(Self {
            suspects,
            none,
            expected: facts.iter().map(|facts| facts.expected).collect(),
            expected_without: without.map_or(0.5, |facts| facts.expected[0]),
        })
    }

    /// What is believed at the two failure rates that are least sure of some suspects, among
    /// all rates that what was seen allows. Whichever of these are the true ones, it is at
    /// least so likely that the culprit is among them: no belief in rates enters.
    pub(super) fn least_sure(
        graph: &Graph,
        seen: &[CommitEvidence],
        prior: &[f64],
        class: &[usize],
    ) -> Option<Self> {
        let counts: Vec<_> = (0..graph.suspects())
            .map(|suspect| before_and_since(graph, seen, suspect))
            .collect();
        let rates = RATES.map(KnownRate::new);
        let pairs = rates.iter().enumerate().flat_map(|(at, old)| {
            let higher = rates[at + 1..].iter();
            higher.map(move |new| [*old, *new])
        });
        let at_rates = |rates: [KnownRate; 2]| {
            let logs: Vec<f64> = counts
                .iter()
                .zip(prior)
                .map(|(counts, weight)| weight.ln() + log_likelihood(*counts, rates))
                .collect();
            let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            if largest == f64::NEG_INFINITY {
                return None;
            }
            let weights: Vec<f64> = logs.iter().map(|log| (log - largest).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let suspects: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
            Some((largest + sum.ln(), rates.map(|known| known.rate), suspects))
        };
        let all: Vec<_> = pairs.filter_map(at_rates).collect();
        let most = all.iter().map(|(fit, ..)| *fit);
        let most = most.fold(f64::NEG_INFINITY, f64::max);
        let least = most - plausible(seen);
        let plausible = all.into_iter().filter(|(fit, ..)| *fit >= least);
        let beliefs = plausible.map(|(_, rates, suspects)| Self {
            expected: vec![rates; suspects.len()],
            suspects,
            none: 0.0,
            expected_without: 0.0,
        });
        beliefs.min_by(|a, b| a.weight(class).total_cmp(&b.weight(class)))
    }

    /// How likely the culprit is among some suspects.
    pub(super) fn weight(&self, class: &[usize]) -> f64 {
        class.iter().map(|suspect| self.suspects[*suspect]).sum()
    }

    /// How many bits are still to be learnt.
    pub(super) fn entropy(&self) -> f64 {
        let all = self.suspects.iter().chain([&self.none]);
        all.filter(|p| **p > 0.0).map(|p| -p * p.log2()).sum()
    }

    /// How many bits the next observation of a commit is expected to tell: the mutual
    /// information of what is seen and who is the culprit.
    pub(super) fn information(&self, graph: &Graph, commit: usize) -> f64 {
        let mut bad = self.none * self.expected_without;
        let mut noise = self.none * two_way(self.expected_without);
        for (suspect, probability) in self.suspects.iter().enumerate() {
            let chance = self.expected[suspect][usize::from(graph.holds(commit, suspect))];
            bad += probability * chance;
            noise += probability * two_way(chance);
        }
        (two_way(bad) - noise).max(0.0)
    }

    /// How likely the right one of the `classes` will be named after one more observation of
    /// a commit.
    pub(super) fn chance_to_name(
        &self,
        graph: &Graph,
        commit: usize,
        classes: &[Vec<usize>],
    ) -> f64 {
        let outcome = |is_bad: bool| {
            let joint = |suspect: &usize| {
                let bad = self.expected[*suspect][usize::from(graph.holds(commit, *suspect))];
                self.suspects[*suspect] * if is_bad { bad } else { 1.0 - bad }
            };
            let weights = classes.iter().map(|class| class.iter().map(joint).sum());
            weights.fold(0.0, f64::max)
        };
        outcome(true) + outcome(false)
    }
}

/// The entropy of a coin, in bits.
fn two_way(p: f64) -> f64 {
    let part = |p: f64| if p > 0.0 { -p * p.log2() } else { 0.0 };
    part(p) + part(1.0 - p)
}

/// What is known under the assumption that one suspect is the culprit.
struct Facts {
    log_likelihood: f64,
    /// The chance of a bad observation without the change, and with it.
    expected: [f64; 2],
}

/// Every observation with the change fails, and none without.
fn certain(graph: &Graph, seen: &[CommitEvidence], suspect: usize) -> Facts {
    let agrees = seen.iter().enumerate().all(|(commit, seen)| {
        if graph.holds(commit, suspect) {
            seen.counts.passes == 0
        } else {
            seen.counts.failures == 0
        }
    });
    Facts {
        log_likelihood: if agrees { 0.0 } else { f64::NEG_INFINITY },
        expected: [0.0, 1.0],
    }
}

/// What was seen of the commits without a suspect, and of those with it.
fn before_and_since(graph: &Graph, seen: &[CommitEvidence], suspect: usize) -> [Counts; 2] {
    let mut before_and_since = [Counts::default(); 2];
    for (commit, seen) in seen.iter().enumerate() {
        let counts = &mut before_and_since[usize::from(graph.holds(commit, suspect))];
        counts.failures += seen.counts.failures;
        counts.passes += seen.counts.passes;
    }
    before_and_since
}

/// How much less likely rates may make what was seen, see [`PLAUSIBLE`].
fn plausible(seen: &[CommitEvidence]) -> f64 {
    let observations = seen.iter().map(|seen| f64::from(seen.counts.total()));
    let share = (LATE - observations.sum::<f64>()) / (LATE - EARLY);
    PLAUSIBLE + share.clamp(0.0, 1.0) * (PLAUSIBLE_EARLY - PLAUSIBLE)
}

/// A failure rate, with the logarithms of the chances to fail and to pass.
#[derive(Clone, Copy)]
struct KnownRate {
    rate: f64,
    fails: f64,
    passes: f64,
}

impl KnownRate {
    fn new(rate: f64) -> Self {
        Self {
            rate,
            fails: rate.ln(),
            passes: (1.0 - rate).ln(),
        }
    }
}

/// The log-likelihood of some outcomes in one order, at two known rates.
fn log_likelihood(before_and_since: [Counts; 2], rates: [KnownRate; 2]) -> f64 {
    // What never happened is as likely at any rate.
    let times = |count: u32, log: f64| match count {
        0 => 0.0,
        count => f64::from(count) * log,
    };
    let of = |(counts, known): (Counts, KnownRate)| {
        times(counts.failures, known.fails) + times(counts.passes, known.passes)
    };
    before_and_since.into_iter().zip(rates).map(of).sum()
}

/// Two failure rates, without and with the change, each integrated out.
fn rates(graph: &Graph, seen: &[CommitEvidence], suspect: usize) -> Facts {
    let [before, since] = before_and_since(graph, seen, suspect);
    let [(old, bad_before), (new, bad_since)] = [rate(before, &OLD), rate(since, &NEW)];
    Facts {
        log_likelihood: old + new,
        expected: [bad_before, bad_since],
    }
}

fn same_rate(seen: &[CommitEvidence]) -> Facts {
    let mut all = Counts::default();
    for seen in seen {
        all.failures += seen.counts.failures;
        all.passes += seen.counts.passes;
    }
    let (log_likelihood, bad) = rate(all, &SAME);
    Facts {
        log_likelihood,
        expected: [bad; 2],
    }
}

/// The log-likelihood of some outcomes in one order, their rate integrated out, and the chance
/// that the next one is a failure.
fn rate(counts: Counts, prior: &[PriorComponent]) -> (f64, f64) {
    let [failures, passes] = [counts.failures, counts.passes].map(f64::from);
    let fits = |(weight, [a, b]): &PriorComponent| {
        let log = weight.ln() + ln_beta(a + failures, b + passes) - ln_beta(*a, *b);
        (log, (a + failures) / (a + b + failures + passes))
    };
    let fits: Vec<(f64, f64)> = prior.iter().map(fits).collect();
    let largest = fits.iter().map(|(log, _)| *log);
    let largest = largest.fold(f64::NEG_INFINITY, f64::max);
    let (mut sum, mut bad) = (0.0, 0.0);
    for (log, mean) in fits {
        let weight = (log - largest).exp();
        sum += weight;
        bad += weight * mean;
    }
    (largest + sum.ln(), bad / sum)
}

/// A metric that steps somewhere: the middle of each measured commit with its variance.
struct Steps {
    middles: Vec<(usize, f64, f64)>,
    /// The variance of one more block of pairs.
    of_block: f64,
}

impl Steps {
    fn of(seen: &[CommitEvidence]) -> Self {
        let noise = noise(seen);
        let middle = |(commit, seen): (usize, &CommitEvidence)| {
            let variance = variance_of_median(noise, seen.log_ratios.len());
            Some((commit, median(&seen.log_ratios)?, variance))
        };
        Self {
            middles: seen.iter().enumerate().filter_map(middle).collect(),
            of_block: variance_of_median(noise, super::BLOCK_PAIRS),
        }
    }

    /// The step is the same wherever the change is, and is integrated out. The likelihood
    /// is relative to that of no step.
    fn facts(&self, graph: &Graph, suspect: usize) -> Facts {
        let (mut precision, mut weighted) = (0.0, 0.0);
        for (commit, middle, variance) in &self.middles {
            if graph.holds(*commit, suspect) {
                precision += 1.0 / variance;
                weighted += middle / variance;
            }
        }
        let prior = STEP * STEP;
        let shrunk = 1.0 + prior * precision;
        let step = weighted * prior / shrunk;
        // A block of pairs is called bad if its median is nearer to the step than to none.
        let deviation = (self.of_block + prior / shrunk).sqrt();
        let standard = Normal::new(0.0, 1.0).expect("a standard deviation above 0");
        let mistaken = standard.cdf(-step.abs() / (2.0 * deviation));
        Facts {
            log_likelihood: weighted * weighted * prior / (2.0 * shrunk) - 0.5 * shrunk.ln(),
            expected: [mistaken, 1.0 - mistaken],
        }
    }
}

/// The variance of the median of so many pairs of one commit.
fn variance_of_median(noise: f64, pairs: usize) -> f64 {
    LAYOUT * LAYOUT + std::f64::consts::FRAC_PI_2 * noise * noise / pairs as f64
}

/// The standard deviation of a pair's log-ratio, by the distances from the medians of the
/// commits: what a spike does counts once.
fn noise(seen: &[CommitEvidence]) -> f64 {
    let mut distances = Vec::new();
    let mut commits = 0;
    for seen in seen.iter().filter(|seen| seen.log_ratios.len() > 1) {
        if let Some(middle) = median(&seen.log_ratios) {
            commits += 1;
            distances.extend(seen.log_ratios.iter().map(|ratio| (ratio - middle).abs()));
        }
    }
    let Some(middle) = median(&distances) else {
        return LEAST_NOISE;
    };
    // Each median took one of its commit's values away.
    let values = distances.len() as f64;
    let lost = (values / (values - f64::from(commits))).sqrt();
    (OF_MEDIAN * middle * lost).max(LEAST_NOISE)
}
