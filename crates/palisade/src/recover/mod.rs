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
mod incident;
mod monitor;
mod report;

use std::path::PathBuf;
use std::time::Instant;

pub use incident::{
    Incident, IncidentConfirmation, IncidentError, Revert, Stage, TimelineEntry, Validation,
};

use crate::bisect::{CommitObservation, SearchResult};
use crate::check::{BaseChoice, CandidateChoice, CheckOptions, MeasureSpeed, check};
use crate::culprit::{BisectOptions, CulpritError, Observer, Question, SearchState, bisect, start};
use crate::git::Reverted;
use crate::hash::short;
use crate::measure::launch::Launcher;
use crate::policy::FILE_NAME;
use crate::record::{Record, now};
use crate::report::documents;
use crate::session::{Event, Events, Session, SessionError};
use crate::source::unix_lines;
use crate::speed::estimate;
use crate::verdict::Verdict;

/// How often what fails is run afresh to confirm it, and to see that it is gone.
const RUNS: usize = 5;

/// The same for a benchmark: blocks of pairs.
const BLOCKS: usize = 2;

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

/// Goes on with an incident, or opens one, and does what is left to do.
pub fn recover(
    session: &mut Session,
    launcher: &Launcher,
    options: &RecoverOptions,
    events: Events<'_>,
) -> Result<Incident, SessionError> {
    let mut incident = match (&options.incident, &options.search.question) {
        (Some(id), _) => Incident::load(&session.workspace.root, id)?,
        (None, Some(_)) => open(session, &options.search, events)?,
        (None, None) => {
            if let Some(incident) = Incident::newest_open(&session.workspace.root)? {
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
            return Err(IncidentError::TooEarly { stage, missing }.into());
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
        incident.save(&session.workspace.root)?;
        if incident.is_stuck() {
            break;
        }
    }
    if incident.is_done(Stage::Monitor) && incident.closed_ms.is_none() {
        incident.closed_ms = Some(now());
        session
            .store
            .add(&Record::Incident(Box::new(incident.clone())))?;
        incident.save(&session.workspace.root)?;
    }
    Ok(incident)
}

/// Opens an incident and the search that belongs to it.
fn open(
    session: &Session,
    search: &BisectOptions,
    events: Events<'_>,
) -> Result<Incident, SessionError> {
    let state = start(session, search, events)?;
    let incident = Incident::new(&state);
    state.save(&search_file(session, &incident))?;
    incident.save(&session.workspace.root)?;
    Ok(incident)
}

fn search_file(session: &Session, incident: &Incident) -> PathBuf {
    let folder = session.workspace.root.join(incident::FOLDER);
    folder.join(format!("{}.search.json", incident.id))
}

/// Runs what fails afresh at the bad end. What it sees is the beginning of the search.
fn confirm(
    session: &mut Session,
    launcher: &Launcher,
    incident: &mut Incident,
    events: Events<'_>,
) -> Result<String, SessionError> {
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
) -> Result<String, SessionError> {
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

fn revert(session: &Session, incident: &mut Incident) -> Result<String, SessionError> {
    let culprit = incident.culprit().ok_or(IncidentError::NoCulprit)?.clone();
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
) -> Result<String, SessionError> {
    let commit = incident
        .reverted()
        .ok_or(IncidentError::NoBranch)?
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
        speed: MeasureSpeed::ByRisk(launcher.clone()),
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
fn watch(session: &Session, incident: &mut Incident) -> Result<String, SessionError> {
    let branch = incident.branch().ok_or(IncidentError::NoBranch)?.to_owned();
    let path = match session.workspace.dir.as_str() {
        "" => FILE_NAME.to_owned(),
        dir => format!("{dir}/{FILE_NAME}"),
    };
    let tip = session
        .repo
        .branch_commit(&branch)
        .ok_or(IncidentError::NoBranch)?;
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

impl Incident {
    /// The exit code: 0 where the way back is prepared, 1 where somebody has to look at it, 3
    /// where the failure was not confirmed, 4 where the culprit is not known.
    pub fn exit_code(&self) -> u8 {
        let confirmed = self
            .confirmation
            .as_ref()
            .is_none_or(|found| found.is_failing);
        let found = self.bisection.as_ref();
        match () {
            () if !confirmed => 3,
            () if found
                .is_some_and(|found| !matches!(found.answer, SearchResult::Culprit { .. })) =>
            {
                4
            }
            () if self.is_stuck() => 1,
            () if self
                .validation
                .as_ref()
                .is_some_and(|v| v.verdict != Verdict::Pass) =>
            {
                1
            }
            () => 0,
        }
    }
}

/// Whether an observation is bad, good or neither.
pub(crate) fn is_bad(seen: &CommitObservation) -> Option<bool> {
    match seen {
        CommitObservation::Good => Some(false),
        CommitObservation::Bad => Some(true),
        CommitObservation::Skip | CommitObservation::LogRatios(_) => None,
    }
}

impl From<IncidentError> for SessionError {
    fn from(error: IncidentError) -> Self {
        Self::Culprit(CulpritError::Incident(error))
    }
}
