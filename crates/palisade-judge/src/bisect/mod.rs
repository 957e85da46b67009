//! Finds the commit that broke something, from observations that may be noise.
//!
//! Nothing here starts a process: a [`Search`] is told what was seen of a commit and says
//! which commit to look at next.
//!
//! ```text
//! both ends ─► FailureModel ─► belief in each suspect ─► SearchStep::Observe ─► observation …
//!                                                    ─► SearchStep::Done(SearchResult)
//! ```
//!
//! - **Both ends are measured.** What fails at the bad end each time and never at the
//!   good one is searched by halving ([`FailureModel::Certain`]); the culprit and the last good
//!   commit are then looked at again, a few times: what fails often but not always may have
//!   misled a single look. As soon as something contradicts that, the failure counts as
//!   flaky ([`FailureModel::Rates`]): two unknown failure rates, before and after the culprit.
//!   Metrics are a step in the logarithm of a ratio to the good end ([`FailureModel::Ratios`]).
//! - **The next commit** is the one whose observation is expected to tell most; the last that
//!   is allowed, the one that most raises the chance to name the culprit.
//! - **It ends** when one suspect is at least 95 % likely ([`SearchRules::confidence`]), after
//!   it was allowed for that the ends may not differ at all. Where a failure is flaky, it must
//!   be so at whatever failure rates the observations allow: the rates are not known, and a
//!   failure that is rarer than most would else be traced to the wrong commit. Commits that
//!   cannot be measured are skipped; a culprit that they hide is named as a set. A good end
//!   that cannot be measured is taken on trust; a bad one ends the search.
//! - **Merges.** A commit is bad if it holds the culprit, directly or through any of its
//!   parents, as in `git bisect`.
//!
//! The only state is the list of observations: a search that is told the same ones again
//! goes on where it was.
//!
//! # Example
//!
//! ```
//! use palisade_judge::bisect::{
//!     CommitObservation, Graph, Node, Search, SearchResult, SearchRules, SearchStep,
//! };
//!
//! let commits = ["a", "b", "c", "d", "e"];
//! let node = |(at, id): (usize, &&str)| Node {
//!     id: (*id).to_owned(),
//!     parents: vec![at.checked_sub(1).map_or("good", |at| commits[at]).to_owned()],
//! };
//! let graph = Graph::new("good", commits.iter().enumerate().map(node).collect())?;
//! let mut search = Search::new(graph, SearchRules::default());
//! let answer = loop {
//!     match search.step(None) {
//!         SearchStep::Observe(commit) => {
//!             let is_bad = ["d", "e"].contains(&commit.as_str());
//!             let seen = if is_bad { CommitObservation::Bad } else { CommitObservation::Good };
//!             search.observe(&commit, seen);
//!         }
//!         SearchStep::Done(answer) => break answer,
//!     }
//! };
//! assert_eq!(answer, SearchResult::Culprit { commits: vec!["d".to_owned()], confidence: 1.0 });
//! # Ok::<(), palisade_judge::bisect::GraphError>(())
//! ```

mod graph;
mod model;

pub use graph::{Graph, GraphError, Node};
use model::Belief;
use serde::{Deserialize, Serialize};

use crate::stats::Counts;

/// How many pairs of launches are one observation of a metric.
pub const BLOCK_PAIRS: usize = 6;

/// How often the bad end has to fail to be searched by halving: of what fails every second
/// time, one in 64 does. The others are found out by the first contradiction.
const FAILURES_IF_CERTAIN: u32 = 6;

/// How often the culprit of a certain failure must have failed, and its parents passed. A commit
/// that holds a culprit which fails in three runs of five passes so often by chance in one of 244.
const LOOKS_IF_CERTAIN: u32 = 6;

/// The rate from which on a failure is waited for. Where none was seen in 59 looks at the bad
/// end, it is 95 % sure that the rate is lower, and the ends count as alike.
const RARE_FAILURE_RATE: f64 = 0.05;

/// How much of the best information the commit that is checked out must promise to be
/// looked at once more: another one has to be built.
const STAY_SHARE: f64 = 0.95;

/// What was seen of a commit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitObservation {
    /// What is searched for did not happen.
    Good,
    /// It happened.
    Bad,
    /// Nothing can be said of this commit, such as one that does not build.
    Skip,
    /// The logarithms of a metric's ratio to the good end, one for each pair of launches;
    /// above 0 is worse.
    LogRatios(Vec<f64>),
}

/// What the failure is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureModel {
    /// It happens each time or never.
    Certain,
    /// It happens at one rate before the culprit and at another from it on.
    Rates,
    /// A metric steps at the culprit.
    Ratios,
}

/// How a search is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SearchRules {
    /// What the failure is taken for; `None` to begin as certain, until something
    /// contradicts that.
    pub model: Option<FailureModel>,
    /// How likely one suspect must be.
    pub confidence: f64,
    /// After how many observations it ends at the latest.
    pub max_runs: usize,
}

impl Default for SearchRules {
    fn default() -> Self {
        Self {
            model: None,
            confidence: 0.95,
            max_runs: 200,
        }
    }
}

/// All that was seen of a commit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CommitEvidence {
    /// Good and bad observations.
    pub counts: Counts,
    /// The pairs of a metric.
    pub log_ratios: Vec<f64>,
    /// Whether it cannot be measured.
    pub skipped: bool,
}

impl CommitEvidence {
    fn observations(&self) -> u32 {
        self.counts.total() + (self.log_ratios.len() / BLOCK_PAIRS) as u32
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum SearchStep {
    /// Look at a commit, once.
    Observe(String),
    /// The search is over.
    Done(SearchResult),
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum SearchResult {
    /// The culprit; several commits where those that could not be measured hide which of
    /// them it is.
    Culprit {
        /// The commits, oldest first.
        commits: Vec<String>,
        /// How likely it is among them.
        confidence: f64,
    },
    /// Both ends show the same.
    Alike {
        /// How likely that is.
        confidence: f64,
    },
    /// The observations are used up before one suspect is likely enough.
    #[serde(rename = "open")]
    Undecided {
        /// The likeliest commits, oldest first.
        commits: Vec<String>,
        /// How likely it is among them.
        confidence: f64,
    },
    /// An end that the search cannot do without cannot be measured.
    Unmeasured {
        /// The end.
        commit: String,
    },
    /// What was seen cannot be if the failure is as certain as it was said to be.
    Contradiction,
}

/// A search for the culprit.
#[derive(Clone, Debug)]
pub struct Search {
    graph: Graph,
    rules: SearchRules,
    prior: Vec<f64>,
    seen: Vec<CommitEvidence>,
    runs: usize,
}

impl Search {
    /// A search in which every suspect is as likely as any other.
    pub fn new(graph: Graph, rules: SearchRules) -> Self {
        let count = graph.suspects();
        Self {
            seen: vec![CommitEvidence::default(); count + 1],
            prior: vec![1.0; count],
            graph,
            rules,
            runs: 0,
        }
    }

    /// Weighs the suspects, in the order of the graph, by how likely they are before
    /// anything is seen. What fails each time is searched without weights: halving is
    /// never worse.
    pub fn weigh(&mut self, weights: &[f64]) {
        for (own, weight) in self.prior.iter_mut().zip(weights) {
            *own = weight.max(f64::MIN_POSITIVE);
        }
    }

    /// The commits that are searched.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// What was seen so far of each commit of the graph.
    pub fn evidence(&self) -> &[CommitEvidence] {
        &self.seen
    }

    /// How many observations there were, skips not counted.
    pub fn runs(&self) -> usize {
        self.runs
    }

    /// Takes what was seen of a commit; of one that is not in the graph nothing.
    pub fn observe(&mut self, commit: &str, observation: CommitObservation) {
        let Some(place) = self.graph.place(commit) else {
            return;
        };
        let seen = &mut self.seen[place];
        match observation {
            CommitObservation::Skip => {
                seen.skipped = true;
                return;
            }
            CommitObservation::Good => seen.counts.passes += 1,
            CommitObservation::Bad => seen.counts.failures += 1,
            CommitObservation::LogRatios(pairs) => seen.log_ratios.extend(pairs),
        }
        self.runs += 1;
    }

    /// What the failure is taken for, by all that was seen.
    pub fn model(&self) -> FailureModel {
        self.rules.model.unwrap_or_else(|| {
            let fits = self.belief(FailureModel::Certain).is_some();
            if fits {
                FailureModel::Certain
            } else {
                FailureModel::Rates
            }
        })
    }

    fn belief(&self, model: FailureModel) -> Option<Belief> {
        let even = vec![1.0; self.graph.suspects()];
        let prior = if model == FailureModel::Certain {
            &even
        } else {
            &self.prior
        };
        Belief::of(model, &self.graph, &self.seen, prior)
    }

    /// How likely each suspect is the culprit, in the order of the graph.
    pub fn probabilities(&self) -> Vec<f64> {
        let belief = self.belief(self.model());
        belief.map_or_else(Vec::new, |belief| belief.suspects)
    }

    /// What to do next. `at` is the commit that is checked out, if one is: it is looked
    /// at again where that tells nearly as much as another one would.
    pub fn step(&self, at: Option<&str>) -> SearchStep {
        let model = self.model();
        if let Some(commit) = self.unmeasured_end(model) {
            return SearchStep::Done(SearchResult::Unmeasured { commit });
        }
        let Some(belief) = self.belief(model) else {
            return SearchStep::Done(SearchResult::Contradiction);
        };
        let measurable = self.measurable();
        let classes = self.ranked_classes(&belief, &measurable);
        let likeliest = &classes[0];
        let believed = belief.weight(likeliest);
        // Before one suspect is likely, there is nothing to doubt.
        let doubt = (believed >= self.rules.confidence || self.runs >= self.rules.max_runs)
            .then(|| self.doubt_of_rates(model, likeliest));
        let doubt = doubt.flatten();
        let doubted = doubt.as_ref().map_or(1.0, |doubt| doubt.weight(likeliest));
        let confidence = believed.min(doubted);
        let is_found = confidence >= self.rules.confidence
            && (self.has_failed() || model == FailureModel::Ratios);
        if self.runs >= self.rules.max_runs {
            return SearchStep::Done(self.answer(likeliest, confidence, is_found));
        }
        if let Some(end) = self.open_end(model, at) {
            return SearchStep::Observe(self.name(end));
        }
        if let Some(step) = self.doubt_of_ends(model, &belief) {
            return step;
        }
        if is_found {
            return match self.unconfirmed(model, likeliest, at) {
                Some(commit) => SearchStep::Observe(self.name(commit)),
                None => SearchStep::Done(self.answer(likeliest, confidence, is_found)),
            };
        }
        if model == FailureModel::Rates
            && self.runs + 1 == self.rules.max_runs
            && let Some(last) = self.best_last(&belief, &measurable, &classes)
        {
            return SearchStep::Observe(self.name(last));
        }
        // What is believed is sure already: what tells most is what the doubt is about.
        let open = doubt.as_ref().unwrap_or(&belief);
        SearchStep::Observe(self.name(self.most_telling(open, &measurable, at)))
    }

    /// What is believed at the failure rates that are least sure of some suspects; `None`
    /// where no rates are in question. What was taken for certain has some if the search ends
    /// before it was confirmed.
    fn doubt_of_rates(&self, model: FailureModel, class: &[usize]) -> Option<Belief> {
        let is_over = self.runs >= self.rules.max_runs;
        let is_open = model == FailureModel::Rates
            || is_over && self.unconfirmed(model, class, None).is_some();
        is_open.then(|| Belief::least_sure(&self.graph, &self.seen, &self.prior, class))?
    }

    /// An end that cannot be measured and has to be. That the good end is good may be taken on
    /// trust, unless the others are compared with it.
    fn unmeasured_end(&self, model: FailureModel) -> Option<String> {
        let good = Some(self.graph.good()).filter(|_| model == FailureModel::Ratios);
        let mut ends = [Some(self.graph.bad()), good].into_iter().flatten();
        let end = ends.find(|end| self.seen[*end].skipped)?;
        Some(self.name(end))
    }

    /// Whether the good end could not be measured, and is taken for good as it was said to be.
    pub fn is_good_on_trust(&self) -> bool {
        self.seen[self.graph.good()].skipped
    }

    /// The bad end.
    pub fn bad(&self) -> &Node {
        &self.graph.nodes()[self.graph.bad()]
    }

    /// The sets of suspects that can be told apart, the likeliest first.
    fn ranked_classes(&self, belief: &Belief, measurable: &[usize]) -> Vec<Vec<usize>> {
        let mut classes = self.graph.classes(measurable);
        classes.sort_by(|a, b| belief.weight(b).total_cmp(&belief.weight(a)));
        classes
    }

    /// Whether it failed once. Before it did there is nothing to be found.
    fn has_failed(&self) -> bool {
        self.seen.iter().any(|seen| seen.counts.failures > 0)
    }

    fn answer(&self, class: &[usize], confidence: f64, is_found: bool) -> SearchResult {
        let commits = self.names(class);
        if is_found {
            SearchResult::Culprit {
                commits,
                confidence,
            }
        } else {
            SearchResult::Undecided {
                commits,
                confidence,
            }
        }
    }

    /// What to do where the ends may show the same; `None` where they differ.
    fn doubt_of_ends(&self, model: FailureModel, belief: &Belief) -> Option<SearchStep> {
        if belief.none >= self.rules.confidence {
            let confidence = belief.none;
            return Some(SearchStep::Done(SearchResult::Alike { confidence }));
        }
        if model != FailureModel::Rates || self.has_failed() {
            return None;
        }
        let bad = self.graph.bad();
        let looks = f64::from(self.seen[bad].observations());
        let confidence = 1.0 - (1.0 - RARE_FAILURE_RATE).powf(looks);
        Some(if confidence >= self.rules.confidence {
            SearchStep::Done(SearchResult::Alike { confidence })
        } else {
            SearchStep::Observe(self.name(bad))
        })
    }

    /// The commit whose observation most raises the chance to name the culprit. `None` where
    /// no outcome would change the answer: it may still become sure.
    fn best_last(
        &self,
        belief: &Belief,
        measurable: &[usize],
        classes: &[Vec<usize>],
    ) -> Option<usize> {
        let chance = |commit: usize| belief.chance_to_name(&self.graph, commit, classes);
        let (last, chance) = best(measurable, chance)?;
        (chance > belief.weight(&classes[0]) + 1e-9).then_some(last)
    }

    /// The commit whose observation is expected to tell most.
    fn most_telling(&self, belief: &Belief, measurable: &[usize], at: Option<&str>) -> usize {
        let information = |commit: usize| belief.information(&self.graph, commit);
        let (next, most) = best(measurable, information).unwrap_or((self.graph.bad(), 0.0));
        let here = at.and_then(|at| self.graph.place(at));
        let tells_enough =
            |here: &usize| measurable.contains(here) && information(*here) >= STAY_SHARE * most;
        here.filter(tells_enough).unwrap_or(next)
    }

    /// An estimate of how many observations are left; `None` while the ends are looked at.
    pub fn runs_left(&self) -> Option<usize> {
        let model = self.model();
        if self.open_end(model, None).is_some() {
            return None;
        }
        let belief = self.belief(model)?;
        let measurable = self.measurable();
        let each = measurable
            .iter()
            .map(|commit| belief.information(&self.graph, *commit))
            .fold(0.0, f64::max);
        let known = self.rules.max_runs.saturating_sub(self.runs);
        // What one suspect of 95 % and many others of 5 % together leave open.
        let bits = belief.entropy()
            - if model == FailureModel::Certain {
                0.0
            } else {
                0.3
            };
        let left = (bits.max(0.0) / each.max(1e-6)).ceil() as usize;
        Some(left.min(known))
    }

    /// An end that has to be looked at before anything else; first the one that is
    /// checked out.
    fn open_end(&self, model: FailureModel, at: Option<&str>) -> Option<usize> {
        let (bad, good) = (self.graph.bad(), self.graph.good());
        let looks_certain = model == FailureModel::Certain && self.rules.model.is_none();
        let is_open = |end: &usize| {
            let wanted = if looks_certain && *end == bad {
                FAILURES_IF_CERTAIN
            } else {
                1
            };
            let seen = &self.seen[*end];
            !seen.skipped && seen.observations() < wanted
        };
        let here = at.and_then(|at| self.graph.place(at));
        let mut ends = [bad, good];
        if here == Some(good) {
            ends.reverse();
        }
        ends.into_iter().find(is_open)
    }

    /// A commit that halving for a certain failure ended at, on either side, and that was not
    /// looked at often enough to be believed; first the one that is checked out.
    fn unconfirmed(&self, model: FailureModel, class: &[usize], at: Option<&str>) -> Option<usize> {
        if model != FailureModel::Certain || self.rules.model.is_some() {
            return None;
        }
        let before = class
            .iter()
            .flat_map(|suspect| self.graph.parents(*suspect));
        let is_open = |commit: &usize| {
            let seen = &self.seen[*commit];
            !seen.skipped && seen.counts.total() < LOOKS_IF_CERTAIN
        };
        let open: Vec<usize> = class
            .iter()
            .copied()
            .chain(before)
            .filter(is_open)
            .collect();
        let here = at.and_then(|at| self.graph.place(at));
        here.filter(|here| open.contains(here))
            .or(open.first().copied())
    }

    fn measurable(&self) -> Vec<usize> {
        let all = 0..self.graph.nodes().len();
        all.filter(|commit| !self.seen[*commit].skipped).collect()
    }

    fn name(&self, commit: usize) -> String {
        self.graph.nodes()[commit].id.clone()
    }

    fn names(&self, commits: &[usize]) -> Vec<String> {
        commits.iter().map(|commit| self.name(*commit)).collect()
    }
}

/// The first commit of those with the highest value, and that value: the same observations
/// lead to the same commit.
fn best(commits: &[usize], value: impl Fn(usize) -> f64) -> Option<(usize, f64)> {
    let valued = commits.iter().rev().map(|commit| (*commit, value(*commit)));
    valued.max_by(|a, b| a.1.total_cmp(&b.1))
}

#[cfg(test)]
mod tests;
