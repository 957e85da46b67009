//! Searches for a known culprit among 64 commits.

use palisade_judge::bisect::{
    BLOCK_PAIRS, CommitObservation, FailureModel, Graph, Node, Search, SearchResult, SearchRules,
    SearchStep,
};
use palisade_judge::speed::{Measure, log_ratio};

use super::simulation::{Machine, Noise, Random};

/// How many commits are suspects.
pub const COMMITS: usize = 64;

/// What a commit does when it is run.
#[derive(Clone, Copy)]
pub enum Failure {
    /// It fails at one rate before the culprit, and at another from it on.
    Rates(f64, f64),
    /// It takes longer by a share from the culprit on.
    Slower(f64, Noise),
}

/// How a search went.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Whether the commit that it calls likeliest is the culprit.
    pub right: bool,
    /// Whether it was sure.
    pub sure: bool,
    /// How many observations it took, with those of the ends.
    pub runs: usize,
    /// How many of them were of commits between the ends.
    pub inside: usize,
}

/// A history without merges.
pub fn line(commits: usize) -> Graph {
    let node = |at: usize| Node {
        id: at.to_string(),
        parents: vec![
            at.checked_sub(1)
                .map_or("good".to_owned(), |at| at.to_string()),
        ],
    };
    Graph::new("good", (0..commits).map(node).collect()).expect("a line")
}

/// Searches once; culprit and outcomes follow from the seed.
pub fn search(failure: Failure, max_runs: usize, seed: u64) -> Found {
    let mut random = Random::new(seed);
    let culprit = (random.unit() * COMMITS as f64) as usize;
    let (model, noise) = match failure {
        Failure::Rates(..) => (None, Noise::CALM),
        Failure::Slower(_, noise) => (Some(FailureModel::Ratios), noise),
    };
    let mut machine = Machine::new(noise, seed);
    let rules = SearchRules {
        model,
        max_runs,
        ..SearchRules::default()
    };
    let mut search = Search::new(line(COMMITS), rules);
    let (mut at, mut inside) = (None, 0);
    loop {
        match search.step(at.as_deref()) {
            SearchStep::Observe(commit) => {
                let place = commit.parse::<usize>().ok();
                let has_it = place.is_some_and(|place| place >= culprit);
                inside += usize::from(place.is_some_and(|place| place < COMMITS - 1));
                let seen = match failure {
                    Failure::Rates(old, new) => {
                        let fails = random.unit() < if has_it { new } else { old };
                        if fails {
                            CommitObservation::Bad
                        } else {
                            CommitObservation::Good
                        }
                    }
                    Failure::Slower(share, _) => {
                        let cost = if has_it { 1.0 + share } else { 1.0 };
                        let pair = |_| {
                            let (base, candidate) = machine.pair(100.0, 100.0 * cost);
                            log_ratio(Measure::Time, base, candidate).expect("times")
                        };
                        CommitObservation::LogRatios((0..BLOCK_PAIRS).map(pair).collect())
                    }
                };
                search.observe(&commit, seen);
                at = Some(commit);
            }
            SearchStep::Done(answer) => {
                let (named, sure) = match answer {
                    SearchResult::Culprit { commits, .. } => (commits, true),
                    SearchResult::Undecided { commits, .. } => (commits, false),
                    _ => (Vec::new(), false),
                };
                return Found {
                    right: named == [culprit.to_string()],
                    sure,
                    runs: search.runs(),
                    inside,
                };
            }
        }
    }
}

/// What many searches were.
#[derive(Clone, Copy, Debug)]
pub struct Searches {
    /// The share that named the culprit, sure of it or not.
    pub right: f64,
    /// The share that was sure.
    pub sure: f64,
    /// The share of the sure ones that was right; not a number if none was sure.
    pub right_if_sure: f64,
    /// The mean number of observations.
    pub runs: f64,
}

/// Searches `trials` times, with the seeds from `seed` on.
pub fn searches(failure: Failure, max_runs: usize, trials: usize, seed: u64) -> Searches {
    let found: Vec<Found> = (0..trials as u64)
        .map(|trial| search(failure, max_runs, seed + trial))
        .collect();
    let count = |of: fn(&Found) -> bool| found.iter().filter(|found| of(found)).count() as f64;
    let runs: usize = found.iter().map(|found| found.runs).sum();
    let (all, sure) = (trials as f64, count(|found| found.sure));
    Searches {
        right: count(|found| found.right) / all,
        sure: sure / all,
        right_if_sure: count(|found| found.right && found.sure) / sure,
        runs: runs as f64 / all,
    }
}
