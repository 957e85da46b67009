//! The way back from a regression, step by step.
//!
//! ```text
//! confirm ─► bisect ─► revert ─► validate ─► monitor ─► incident record
//! fresh runs  culprit   branch    fails?      palisade.toml   Markdown, store
//!                                 risk plan   on the branch
//! ```
//!
//! Everything happens in checkouts beside the user's files. What stays is a branch
//! `palisade/recover-…` and the incident: a file that is replaced after every step, so
//! that a run that was ended goes on at the step it was at.

mod failing_test;
mod incident_file;
mod monitor;

use std::path::PathBuf;
use std::time::Instant;

use crate::flow::check::{CheckError, CheckOptions, MeasureSpeed, check};
use crate::flow::culprit::{BisectOptions, CulpritError, Observer, SearchState, bisect, start};
use crate::hash::short;
use crate::host::git::Reverted;
use crate::host::measure::launch::Launcher;
use crate::host::now;
use crate::host::session::{BaseChoice, CandidateChoice, Event, Events, Session, SessionError};
use crate::host::source::unix_lines;
use crate::policy::FILE_NAME;
use crate::record::{
    Advice, FOLDER, Incident, IncidentConfirmation, Question, Record, Revert, Stage, TimelineEntry,
    Validation,
};
use crate::report::documents;
use crate::speed::estimate;

/// How often what fails is run afresh to confirm it, and to see that it is gone.
const RUNS: usize = 5;

/// The same for a benchmark: blocks of pairs.
const BLOCKS: usize = 2;

/// Why an incident cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// There is none of that name.
    #[error("failed to find an incident called {0}")]
    None(String),
    /// No incident is open, and the store has no run of the tests of a commit.
    #[error("failed to find an open incident, or a run of the tests of {0} in the store")]
    NoRun(String),
    /// No incident is open, and no test is known to fail that none was about.
    #[error("failed to find an open incident, or a test that fails at {commit}: {why}")]
    NoFailingTest {
        /// The commit.
        commit: String,
        /// Why there is none.
        why: String,
    },
    /// No incident is open, and several tests fail.
    #[error("failed to tell which of the tests is meant that fail at {commit}: {tests}")]
    ManyFailingTests {
        /// The commit.
        commit: String,
        /// Their names.
        tests: String,
    },
    /// The file is no incident.
    #[error("failed to read {} as an incident", .path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The file cannot be written.
    #[error("failed to keep the incident in {}", .path.display())]
    Keep {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A step needs what an earlier one finds.
    #[error("failed to {} before {}", .stage.words(), .missing.words())]
    TooEarly {
        /// The step.
        stage: Stage,
        /// The step that is missing.
        missing: Stage,
    },
    /// No single commit is known to be the culprit.
    #[error("failed to take a culprit back: no single commit is known to be it")]
    NoCulprit,
    /// No branch was made.
    #[error("failed to find the branch of the incident")]
    NoBranch,
    /// The revert could not be judged.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// There is no culprit to look for.
    #[error(transparent)]
    Culprit(#[from] CulpritError),
    /// The session failed: git, Cargo, the store, a run.
    #[error(transparent)]
    Session(SessionError),
}

impl<E: Into<SessionError>> From<E> for RecoverError {
    fn from(error: E) -> Self {
        Self::Session(error.into())
    }
}

impl RecoverError {
    fn inner(&self) -> Option<&dyn Advice> {
        match self {
            Self::Check(error) => Some(error),
            Self::Culprit(error) => Some(error),
            Self::Session(error) => Some(error),
            _ => None,
        }
    }
}

impl Advice for RecoverError {
    fn is_usage(&self) -> bool {
        match self {
            Self::Form { .. } | Self::Keep { .. } => false,
            _ => self.inner().is_none_or(Advice::is_usage),
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoRun(_) => {
                "cargo palisade test with the files of that commit; or recover --test TEST"
            }
            Self::ManyFailingTests { .. } => "cargo palisade recover --test TEST with one of these",
            Self::None(_) | Self::NoFailingTest { .. } => {
                "cargo palisade recover --test TEST, --bench NAME, --cmd COMMAND or --ratio NAME"
            }
            Self::TooEarly { .. } => "without --step, all that is left is done in order",
            Self::NoCulprit => "cargo palisade recover --step bisect --max-runs N",
            Self::NoBranch => "git revert the culprit on a branch, and resolve what conflicts",
            Self::Form { .. } | Self::Keep { .. } => "make room if the disk is full",
            Self::Check(_) | Self::Culprit(_) | Self::Session(_) => return self.inner()?.hint(),
        };
        Some(hint.to_owned())
    }

    fn output(&self) -> Option<&str> {
        self.inner()?.output()
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct RecoverOptions {
    /// The incident; a new one where a question is asked, else the newest that is open,
    /// else a new one about the one test that the store knows to fail.
    pub incident: Option<String>,
    /// What fails, and where a culprit is looked for.
    pub search: BisectOptions,
    /// Do this step only.
    pub only: Option<Stage>,
}

/// All incidents of the workspace, from old to new.
pub fn incidents(session: &Session) -> Result<Vec<Incident>, RecoverError> {
    incident_file::all(&session.workspace.root)
}

/// Goes on with an incident, or opens one, and does what is left to do.
pub fn recover(
    session: &mut Session,
    launcher: &Launcher,
    options: &RecoverOptions,
    events: Events<'_>,
) -> Result<Incident, RecoverError> {
    let mut incident = match (&options.incident, &options.search.question) {
        (Some(id), _) => incident_file::load(&session.workspace.root, id)?,
        (None, Some(_)) => open(session, &options.search, events)?,
        (None, None) => {
            if let Some(incident) = incident_file::newest_open(&session.workspace.root)? {
                incident
            } else {
                let test = failing_test::single_failing_test(
                    session,
                    options.search.bad.as_deref(),
                    events,
                )?;
                let search = BisectOptions {
                    question: Some(Question::Test(test)),
                    ..options.search.clone()
                };
                open(session, &search, events)?
            }
        }
    };
    let stages: Vec<Stage> = match options.only {
        Some(stage) => vec![stage],
        None => Stage::ALL.to_vec(),
    };
    for stage in stages {
        if options.only.is_none() && incident.is_done(stage) {
            continue;
        }
        if let Some(missing) = incident.missing_for(stage) {
            return Err(RecoverError::TooEarly { stage, missing });
        }
        let began = Instant::now();
        events(Event::Note(format!("{}: {}", incident.id, stage.words())));
        let words = match stage {
            Stage::Confirm => confirm(session, launcher, &mut incident, events)?,
            Stage::Bisect => find(session, launcher, &mut incident, options, events)?,
            Stage::Revert => revert(session, &mut incident)?,
            Stage::Validate => validate(session, launcher, &mut incident, events)?,
            Stage::Monitor => watch(session, &mut incident)?,
        };
        incident.timeline.push(TimelineEntry {
            stage,
            at_ms: now(),
            seconds: began.elapsed().as_secs_f64(),
            words,
        });
        incident_file::save(&incident, &session.workspace.root)?;
        if incident.is_stuck() {
            break;
        }
    }
    if incident.is_done(Stage::Monitor) && incident.closed_ms.is_none() {
        incident.closed_ms = Some(now());
        session
            .store
            .add(&Record::Incident(Box::new(incident.clone())))?;
        incident_file::save(&incident, &session.workspace.root)?;
    }
    Ok(incident)
}

/// Opens an incident and the search that belongs to it.
fn open(
    session: &Session,
    search: &BisectOptions,
    events: Events<'_>,
) -> Result<Incident, RecoverError> {
    let state = start(session, search, events)?;
    let incident = incident_file::opened(&state);
    state.save(&search_file(session, &incident))?;
    incident_file::save(&incident, &session.workspace.root)?;
    Ok(incident)
}

fn search_file(session: &Session, incident: &Incident) -> PathBuf {
    let folder = session.workspace.root.join(FOLDER);
    folder.join(format!("{}.search.json", incident.id))
}

/// Runs what fails afresh at the bad end. What it sees is the beginning of the search.
fn confirm(
    session: &mut Session,
    launcher: &Launcher,
    incident: &mut Incident,
    events: Events<'_>,
) -> Result<String, RecoverError> {
    let path = search_file(session, incident);
    let mut state = SearchState::load(&path)?;
    let bad = incident.bad.clone();
    let before = state.observations(&bad).len();
    let runs = runs(&state);
    let mut observer = Observer::new(launcher, &state.question);
    for _ in before..runs {
        state.observe(session, &mut observer, &bad, events)?;
        state.save(&path)?;
    }
    let seen = state.observations(&bad);
    let found = IncidentConfirmation::of(&seen, estimate);
    let words = found.words();
    incident.confirmation = Some(found);
    Ok(words)
}

fn runs(state: &SearchState) -> usize {
    match state.question {
        Question::Bench { .. } => BLOCKS,
        _ => RUNS,
    }
}

fn find(
    session: &mut Session,
    launcher: &Launcher,
    incident: &mut Incident,
    options: &RecoverOptions,
    events: Events<'_>,
) -> Result<String, RecoverError> {
    let search = BisectOptions {
        resume: true,
        state: search_file(session, incident),
        max_runs: options.search.max_runs,
        ..BisectOptions::new(session, None)
    };
    let report = bisect(session, launcher, &search, events)?;
    let words = report.sentence();
    incident.bisection = Some(report);
    Ok(words)
}

fn revert(session: &Session, incident: &mut Incident) -> Result<String, RecoverError> {
    let culprit = incident.culprit().ok_or(RecoverError::NoCulprit)?.clone();
    let branch = format!("palisade/recover-{}", short(&culprit.id));
    let on = session.repo.resolve(&incident.bad)?;
    let (revert, words) = match session.repo.revert(&on, &culprit.id, &branch)? {
        Reverted::Done(commit) => {
            let words = format!("branch {branch} takes {} back", short(&culprit.id));
            let revert = Revert {
                branch: Some(branch),
                commit: Some(commit.id),
                conflicts: Vec::new(),
            };
            (revert, words)
        }
        Reverted::Conflicts(conflicts) => {
            let words = format!("conflicts with later commits in {}", conflicts.join(", "));
            let revert = Revert {
                branch: None,
                commit: None,
                conflicts,
            };
            (revert, words)
        }
    };
    incident.revert = Some(revert);
    Ok(words)
}

/// Runs on the branch what failed, and what a change like it risks.
fn validate(
    session: &mut Session,
    launcher: &Launcher,
    incident: &mut Incident,
    events: Events<'_>,
) -> Result<String, RecoverError> {
    let commit = incident
        .reverted()
        .ok_or(RecoverError::NoBranch)?
        .to_owned();
    let mut state = SearchState::load(&search_file(session, incident))?;
    state.log.clear();
    let mut observer = Observer::new(launcher, &state.question);
    for _ in 0..runs(&state) {
        state.observe(session, &mut observer, &commit, events)?;
    }
    drop(observer);
    let rerun = IncidentConfirmation::of(&state.observations(&commit), estimate);
    let options = CheckOptions {
        base: BaseChoice::Revision(incident.bad.clone()),
        candidate: CandidateChoice::Checkout(commit),
        speed: MeasureSpeed::ByPolicy(launcher.clone()),
        ..CheckOptions::default()
    };
    let report = check(session, &options, events)?;
    let found = documents(&report.findings, &report.base.name);
    let found = found.iter().map(|finding| {
        format!(
            "{} is {}: {}",
            finding.name,
            finding.state_words(),
            finding.reason
        )
    });
    let validation = Validation {
        rerun,
        verdict: report.verdict,
        findings: found.collect(),
    };
    let words = validation.words();
    incident.validation = Some(validation);
    Ok(words)
}

/// Writes the monitor into the policy of the branch.
fn watch(session: &Session, incident: &mut Incident) -> Result<String, RecoverError> {
    let branch = incident.branch().ok_or(RecoverError::NoBranch)?.to_owned();
    let path = match session.workspace.dir.as_str() {
        "" => FILE_NAME.to_owned(),
        dir => format!("{dir}/{FILE_NAME}"),
    };
    let tip = session
        .repo
        .branch_commit(&branch)
        .ok_or(RecoverError::NoBranch)?;
    let before = session.repo.file(&tip.tree, &path)?.unwrap_or_default();
    let before = String::from_utf8_lossy(&before);
    let ours = std::fs::read_to_string(session.workspace.root.join(FILE_NAME)).unwrap_or_default();
    let ours = unix_lines(&ours);
    let file = session.workspace.root.join(FILE_NAME);
    let added = monitor::MonitorEntry::new(incident, &before, &ours, &file)?;
    if let Some(text) = &added.file {
        let message = format!("palisade.toml: watch {}", incident.question.words());
        session.repo.commit_file(&branch, &path, text, &message)?;
    }
    incident.monitor = Some(added.entries);
    Ok(format!("{path} of {branch} watches it from now on"))
}
