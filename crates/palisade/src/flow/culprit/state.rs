//! A search as it is kept between two observations.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{CulpritError, Observer};
use crate::bisect::{CommitObservation, FailureModel, SearchResult, SearchRules};
use crate::hash::short;
use crate::host::now;
use crate::host::session::{Event, Events, Session};
use crate::observation::Millis;
use crate::record::Question;

/// What was seen of a commit, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoggedObservation {
    /// The commit.
    pub commit: String,
    /// What was seen.
    pub seen: CommitObservation,
    /// Why it was skipped.
    pub why: Option<String>,
    /// Whether that is because it does not build.
    #[serde(default)]
    pub does_not_build: bool,
    /// When it ended.
    pub at_ms: Millis,
    /// How long it took, with checkout and build.
    pub seconds: f64,
}

/// A search that is under way, or over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchState {
    /// What tells good from bad.
    pub question: Question,
    /// The good end.
    pub good: String,
    /// The bad end.
    pub bad: String,
    /// The bad end that was asked for, if another one stands in its place.
    #[serde(default)]
    pub bad_asked: Option<String>,
    /// Whether of merges only the first parent is followed.
    pub first_parent: bool,
    /// What the failure is taken for, if that was said.
    pub model: Option<FailureModel>,
    /// After how many observations it ends at the latest.
    pub max_runs: usize,
    /// When it began.
    pub started_ms: Millis,
    /// How likely each suspect was before anything was seen, if that was asked for.
    pub weights: Option<Vec<f64>>,
    /// What was seen, in order.
    #[serde(rename = "looks")]
    pub log: Vec<LoggedObservation>,
    /// What was found.
    pub answer: Option<SearchResult>,
}

impl SearchState {
    pub(super) fn new(
        question: Question,
        (good, bad): (String, String),
        first_parent: bool,
        model: Option<FailureModel>,
    ) -> Self {
        Self {
            question,
            good,
            bad,
            bad_asked: None,
            first_parent,
            model,
            max_runs: SearchRules::default().max_runs,
            started_ms: now(),
            weights: None,
            log: Vec::new(),
            answer: None,
        }
    }

    pub(super) fn rules(&self) -> SearchRules {
        SearchRules {
            model: self.model,
            max_runs: self.max_runs,
            ..SearchRules::default()
        }
    }

    /// Looks at a commit once more, and adds what is seen.
    pub(crate) fn observe(
        &mut self,
        session: &mut Session,
        observer: &mut Observer<'_>,
        commit: &str,
        events: Events<'_>,
    ) -> Result<CommitObservation, CulpritError> {
        let began = Instant::now();
        let (seen, reason) = observer.observe(session, &self.good, commit, events)?;
        let does_not_build = reason.as_ref().is_some_and(|reason| reason.does_not_build);
        let why = reason.map(|reason| reason.words);
        if let Some(why) = &why {
            let note = format!("{} is skipped: {why}", short(commit));
            events(Event::Note(note));
        }
        self.log.push(LoggedObservation {
            commit: commit.to_owned(),
            seen: seen.clone(),
            why,
            does_not_build,
            at_ms: now(),
            seconds: began.elapsed().as_secs_f64(),
        });
        Ok(seen)
    }

    /// Puts the bad end that was asked for back in its place, and returns it.
    pub(super) fn restore_bad(&mut self) -> String {
        if let Some(asked) = self.bad_asked.take() {
            self.bad = asked;
        }
        self.bad.clone()
    }

    /// What was seen of a commit, in order.
    pub(crate) fn observations(&self, commit: &str) -> Vec<CommitObservation> {
        let of_it = self.log.iter().filter(|entry| entry.commit == commit);
        of_it.map(|entry| entry.seen.clone()).collect()
    }

    pub(crate) fn load(path: &Path) -> Result<Self, CulpritError> {
        let text = fs::read(path).map_err(|source| match source.kind() {
            ErrorKind::NotFound => CulpritError::NoState(path.to_owned()),
            _ => keep_error(path, source),
        })?;
        serde_json::from_slice(&text).map_err(|source| CulpritError::State {
            path: path.to_owned(),
            source,
        })
    }

    pub(crate) fn save(&self, path: &Path) -> Result<(), CulpritError> {
        let text = serde_json::to_vec_pretty(self).map_err(|source| CulpritError::State {
            path: path.to_owned(),
            source,
        })?;
        replace(path, &text).map_err(|source| keep_error(path, source))
    }
}

/// The right to keep a search in a file, for as long as it lives: a lock on a file beside it,
/// which ends with the program however that ends.
pub(super) struct SearchLock {
    _lock: File,
}

impl SearchLock {
    pub(super) fn acquire(search: &Path) -> Result<Self, CulpritError> {
        let mut path = search.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let lock = make_folder(&path).and_then(|()| File::create(&path));
        let lock = lock.map_err(|source| keep_error(&path, source))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(CulpritError::Busy(search.to_owned())),
            Err(TryLockError::Error(source)) => Err(keep_error(&path, source)),
        }
    }
}

fn keep_error(path: &Path, source: std::io::Error) -> CulpritError {
    CulpritError::Keep {
        path: path.to_owned(),
        source,
    }
}

/// Makes the folder of a file where there is none; a new one tells git to ignore it.
fn make_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    if !folder.exists() {
        fs::create_dir_all(folder)?;
        fs::write(folder.join(".gitignore"), "*\n")?;
    }
    Ok(())
}

/// Puts a file in the place of another one, whole or not at all.
pub(crate) fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    make_folder(path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
