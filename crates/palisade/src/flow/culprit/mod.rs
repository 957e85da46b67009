//! Finds the commit that broke a test, a command or a benchmark: drives a
//! [`Search`] by checking commits out beside the user's files, building and running them.
//!
//! ```text
//! Question ─► ends ─► git rev-list ─► Graph ─► Search ⇄ Observer (checkout, build, run)
//!                                                │
//!                        state file, after every observation ─► BisectReport
//! ```
//!
//! The state is the question and the list of observations. It is written to a temporary
//! file and renamed, so whatever ends the program leaves a search that can go on.

mod observe;
mod report;
mod state;

use std::path::PathBuf;
use std::time::{Duration, Instant};

pub(crate) use observe::Observer;
use state::SearchLock;
pub(crate) use state::replace;
pub use state::{LoggedObservation, SearchState};

use crate::bisect::{
    CommitObservation, FailureModel, Graph, GraphError, Search, SearchResult, SearchStep,
};
use crate::flow::benchmark_comparison::ComparisonError;
use crate::flow::change::assess_change;
use crate::flow::milestone;
use crate::flow::milestone::MilestoneError;
use crate::hash::short;
use crate::host::git::Commit;
use crate::host::measure::launch::Launcher;
use crate::host::session::{Event, Events, Session, SessionError};
use crate::level::Level;
use crate::record::{Advice, BisectReport, Question, counted};

/// The file of a search that is under way, from the workspace's root.
pub const STATE_FILE: &str = ".palisade/bisect.json";

/// Up to how many suspects are weighed by what they risk: each costs two calls of git.
const WEIGHED: usize = 200;

/// How many commits are tried in the place of a bad end that cannot be measured.
const MOVES: usize = 20;

/// How many commits before the bad end are looked through for a good one.
const BACK: u32 = 1000;

/// Why there is no culprit to look for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CulpritError {
    /// No commit is known to be good.
    #[error("failed to find a commit before {bad} that is known to be good")]
    NoGood {
        /// The bad end.
        bad: String,
    },
    /// The ends have no history in common.
    #[error("failed to find a commit that {good} and {bad} both hold")]
    Unrelated {
        /// The good end.
        good: String,
        /// The bad end.
        bad: String,
    },
    /// There is nothing between the ends.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// Nothing is asked.
    #[error("failed to begin a search: nothing says what to look for")]
    NoQuestion,
    /// The policy has no such ratio for this machine.
    #[error("failed to find a [[ratio]] called {0:?} that holds on this machine")]
    NoRatio(String),
    /// No search is under way.
    #[error("failed to find a search to go on with at {}", .0.display())]
    NoState(PathBuf),
    /// Another program is at this search.
    #[error("failed to begin a search while another one is kept in {}", .0.display())]
    Busy(PathBuf),
    /// The file is no search.
    #[error("failed to read {} as a search", .path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The benchmark could not be measured.
    #[error(transparent)]
    Comparison(#[from] ComparisonError),
    /// The milestones could not be read.
    #[error(transparent)]
    Milestone(#[from] MilestoneError),
    /// The session failed: git, Cargo, the store, a run.
    #[error(transparent)]
    Session(SessionError),
    /// The file cannot be read or written.
    #[error("failed to keep the search in {}", .path.display())]
    Keep {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
}

impl<E: Into<SessionError>> From<E> for CulpritError {
    fn from(error: E) -> Self {
        Self::Session(error.into())
    }
}

impl CulpritError {
    /// What failed below, if something did.
    fn session(&self) -> Option<&SessionError> {
        match self {
            Self::Session(error) | Self::Comparison(ComparisonError::Session(error)) => Some(error),
            _ => None,
        }
    }

    fn inner(&self) -> Option<&dyn Advice> {
        match self {
            Self::Comparison(error) => Some(error),
            Self::Milestone(error) => Some(error),
            Self::Session(error) => Some(error),
            _ => None,
        }
    }
}

impl Advice for CulpritError {
    fn is_usage(&self) -> bool {
        match self {
            Self::Keep { .. } => false,
            _ => self.inner().is_none_or(Advice::is_usage),
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoGood { .. } => {
                "--good REV, or cargo palisade milestone set NAME REV where all is well"
            }
            Self::NoQuestion | Self::NoState(_) => {
                "cargo palisade bisect --test TEST, --bench NAME, --cmd COMMAND or --ratio NAME"
            }
            Self::Busy(_) => {
                "wait for its end, or end it and go on with cargo palisade bisect --resume"
            }
            Self::NoRatio(_) => "a [[ratio]] of palisade.toml, by its name",
            Self::Graph(_) | Self::Unrelated { .. } => {
                "--good with a commit from before the bad end"
            }
            Self::State { .. } => "begin anew, without --resume",
            Self::Keep { .. } => "make room if the disk is full",
            Self::Comparison(_) | Self::Milestone(_) | Self::Session(_) => {
                return self.inner()?.hint();
            }
        };
        Some(hint.to_owned())
    }

    fn output(&self) -> Option<&str> {
        self.inner()?.output()
    }
}

/// The words of a command, as a shell would split them; `None` if there are none.
pub fn words(command: &str) -> Option<Vec<String>> {
    shlex::split(command).filter(|words| !words.is_empty())
}

/// What is looked for, and where.
#[derive(Clone, Debug)]
pub struct BisectOptions {
    /// What tells good from bad; a search that goes on knows it.
    pub question: Option<Question>,
    /// A commit where all is well; the newest one known to be if none is given.
    pub good: Option<String>,
    /// A commit where it is not; HEAD if none is given.
    pub bad: Option<String>,
    /// Whether of merges only the first parent is followed.
    pub first_parent: bool,
    /// What the failure is taken for; found out if nothing is said.
    pub model: Option<FailureModel>,
    /// After how many observations it ends at the latest.
    pub max_runs: Option<usize>,
    /// Go on with the search that is under way.
    pub resume: bool,
    /// The file that keeps it.
    pub state: PathBuf,
}

impl BisectOptions {
    /// A search in a workspace for an answer to a question, with nothing else said.
    pub fn new(session: &Session, question: Option<Question>) -> Self {
        Self {
            question,
            good: None,
            bad: None,
            first_parent: false,
            model: None,
            max_runs: None,
            resume: false,
            state: session.workspace.root.join(STATE_FILE),
        }
    }
}

/// Looks for the culprit. One search at a time is kept in a file: [`CulpritError::Busy`] is what
/// a second one gets.
pub fn bisect(
    session: &mut Session,
    launcher: &Launcher,
    options: &BisectOptions,
    events: Events<'_>,
) -> Result<BisectReport, CulpritError> {
    let started = Instant::now();
    let _lock = SearchLock::acquire(&options.state)?;
    let mut state = if options.resume {
        SearchState::load(&options.state)?
    } else {
        start(session, options, events)?
    };
    if let Some(max_runs) = options.max_runs {
        state.max_runs = max_runs;
    }
    let mut search = search_of(session, &state)?;
    if !options.resume {
        state.save(&options.state)?;
    }
    let mut observer = Observer::new(launcher, &state.question);
    let answer = loop {
        if search.model() != FailureModel::Certain && state.weights.is_none() {
            state.weights = Some(weights(session, search.graph(), events)?);
        }
        if let Some(weights) = &state.weights {
            search.weigh(weights);
        }
        if passes_at_stand_in(&state) {
            // Nothing that can be measured shows it.
            let commit = state.restore_bad();
            search = search_of(session, &state)?;
            break SearchResult::Unmeasured { commit };
        }
        match search.step(observer.at()) {
            SearchStep::Done(SearchResult::Unmeasured { commit }) => {
                let is_bad = commit == state.bad;
                if !(is_bad && move_bad(&mut state, &search, events)) {
                    let asked = state.restore_bad();
                    search = search_of(session, &state)?;
                    let commit = if is_bad { asked } else { commit };
                    break SearchResult::Unmeasured { commit };
                }
                search = search_of(session, &state)?;
            }
            SearchStep::Done(answer) => break answer,
            SearchStep::Observe(commit) => {
                events(Event::Step(progress(&search, &state, &commit)));
                let seen = state.observe(session, &mut observer, &commit, events)?;
                search.observe(&commit, seen);
                state.save(&options.state)?;
            }
        }
    };
    state.answer = Some(answer.clone());
    state.save(&options.state)?;
    drop(observer);
    let report = BisectReport::of(session, &search, &state, answer)?;
    Ok(BisectReport {
        seconds: started.elapsed().as_secs_f64(),
        ..report
    })
}

/// A search with all that was seen.
fn search_of(session: &Session, state: &SearchState) -> Result<Search, CulpritError> {
    let nodes = session
        .repo
        .between(&state.good, &state.bad, state.first_parent)?;
    let graph = Graph::new(&state.good, nodes).map_err(CulpritError::from)?;
    let mut search = Search::new(graph, state.rules());
    for entry in &state.log {
        search.observe(&entry.commit, entry.seen.clone());
    }
    Ok(search)
}

/// Puts the commit before a bad end that cannot be measured in its place; false if there is
/// none, or too many were tried.
fn move_bad(state: &mut SearchState, search: &Search, events: Events<'_>) -> bool {
    let graph = search.graph();
    let is_suspect = |id: &&String| graph.place(id).is_some_and(|at| at < graph.suspects());
    let before = search.bad().parents.first().filter(is_suspect);
    let tried = state.log.iter().filter(|entry| entry.why.is_some()).count();
    let Some(before) = before.filter(|_| tried < MOVES) else {
        return false;
    };
    events(Event::Note(format!(
        "{} cannot be measured: {}, the commit before it, is taken for the bad end",
        short(&state.bad),
        short(before)
    )));
    let asked = std::mem::replace(&mut state.bad, before.clone());
    state.bad_asked.get_or_insert(asked);
    state.weights = None;
    true
}

/// Whether a commit that stands for the bad end passes when it is first looked at.
fn passes_at_stand_in(state: &SearchState) -> bool {
    let first = || state.observations(&state.bad).into_iter().next();
    state.bad_asked.is_some() && first() == Some(CommitObservation::Good)
}

/// Resolves the ends of a search in which nothing was seen yet.
pub(crate) fn start(
    session: &Session,
    options: &BisectOptions,
    events: Events<'_>,
) -> Result<SearchState, CulpritError> {
    let question = options.question.clone().ok_or(CulpritError::NoQuestion)?;
    if let Question::Ratio(name) = &question {
        let mut ratios = session.policy.ratio.iter();
        if !ratios.any(|ratio| ratio.name == *name && ratio.is_for_this_machine()) {
            return Err(CulpritError::NoRatio(name.clone()));
        }
    }
    let bad = session
        .repo
        .resolve(options.bad.as_deref().unwrap_or("HEAD"))?;
    if options.bad.is_none() && session.repo.working_tree()? != bad.tree {
        let note = "changes that are not committed are no part of the search";
        events(Event::Note(note.to_owned()));
    }
    let mut good = match &options.good {
        Some(revision) => session.repo.resolve(revision)?,
        None => known_good(session, &question, &bad)?,
    };
    if !session.repo.is_ancestor(&good.id, &bad.id)? {
        let common = session.repo.merge_base(&good.id, &bad.id)?;
        let common = common.ok_or_else(|| CulpritError::Unrelated {
            good: good.short().to_owned(),
            bad: bad.short().to_owned(),
        })?;
        events(Event::Note(format!(
            "{} is not part of {}: the search begins at {}, which both hold",
            good.short(),
            bad.short(),
            common.short()
        )));
        good = common;
    }
    let model = match question {
        Question::Bench { .. } => Some(FailureModel::Ratios),
        Question::Test(_) | Question::Command(_) | Question::Ratio(_) => options.model,
    };
    Ok(SearchState::new(
        question,
        (good.id, bad.id),
        options.first_parent,
        model,
    ))
}

/// The newest commit before the bad one that is known to be good: of a test one whose tree
/// it passed on and never failed, else the newest milestone.
fn known_good(
    session: &Session,
    question: &Question,
    bad: &Commit,
) -> Result<Commit, CulpritError> {
    let before = session.repo.ancestors(&bad.id, BACK)?;
    let before = before.iter().filter(|commit| commit.id != bad.id);
    if let Question::Test(test) = question {
        let tallies = session.store.tallies(Some(test))?;
        let counts = |commit: &&Commit| {
            let of_tree = tallies.iter().filter(|tally| tally.tree == commit.tree);
            of_tree.fold((0, 0), |(passes, failures), tally| {
                (passes + tally.passes, failures + tally.failures)
            })
        };
        let is_good = |commit: &&Commit| matches!(counts(commit), (1.., 0));
        if let Some(commit) = before.clone().find(is_good) {
            return Ok(commit.clone());
        }
    }
    let milestones = milestone::all(session)?;
    let is_milestone = |commit: &&Commit| {
        let mut milestones = milestones.iter();
        milestones.any(|milestone| milestone.subject.commit == commit.id)
    };
    let found = before.clone().find(is_milestone).cloned();
    let no_good = || CulpritError::NoGood {
        bad: bad.short().to_owned(),
    };
    found.ok_or_else(no_good)
}

/// How likely each suspect is the culprit before anything is seen, by what it risks.
fn weights(session: &Session, graph: &Graph, events: Events<'_>) -> Result<Vec<f64>, CulpritError> {
    let suspects = &graph.nodes()[..graph.suspects()];
    if suspects.len() > WEIGHED {
        return Ok(vec![1.0; suspects.len()]);
    }
    events(Event::Step(
        "weigh the suspects by what they risk".to_owned(),
    ));
    let weight = |node: &crate::bisect::Node| {
        let tree = session.repo.resolve(&node.id)?.tree;
        let Some(parent) = node.parents.first() else {
            return Ok(2.0);
        };
        let parent = session.repo.resolve(parent)?.tree;
        Ok(match assess_change(session, &parent, &tree)?.level {
            Some(Level::Critical) => 8.0,
            Some(Level::High) => 4.0,
            Some(Level::Medium) => 2.0,
            // What no test can tell apart may still be what a command looks at.
            Some(Level::Low) | None => 0.25,
        })
    };
    suspects.iter().map(weight).collect()
}

/// How far the search is.
fn progress(search: &Search, state: &SearchState, commit: &str) -> String {
    /// How many of the last observations say how long the next ones take.
    const RECENT: usize = 8;
    let recent = state.log.iter().rev().take(RECENT);
    let seconds: Vec<f64> = recent.map(|entry| entry.seconds).collect();
    let mean = seconds.iter().sum::<f64>() / seconds.len().max(1) as f64;
    let left = match search.runs_left() {
        Some(left) if !seconds.is_empty() => {
            let time = Duration::from_secs_f64(mean * (left + 1) as f64).as_secs();
            format!(", about {left} after this one, {time} s left")
        }
        _ => ", an end of the search".to_owned(),
    };
    format!(
        "observation {} among {}: {}{left}",
        search.runs() + 1,
        counted(search.graph().suspects() + 1, "commit"),
        short(commit)
    )
}
