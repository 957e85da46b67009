//! Results that other programs wrote: logs of `cargo test`, JUnit reports, folders of
//! Criterion, JSON of hyperfine and Bencher.
//!
//! ```text
//! file ─► read ─► tests, measurements ─► remember (the store)
//!                         └────────────► judge two of them: verdict/saved.rs
//! ```
//!
//! What is read stands for no run of this machine: its environment says where it is from.

mod outcomes;
mod speed;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::Serialize;

pub use speed::ImportedBenchmark;

use crate::baseline::TestSet;
use crate::git::Commit;
use crate::hash::hash;
use crate::observation::{Environment, Millis, Observation, Purpose, Run, Subject};
use crate::record::{Record, now};
use crate::scope::Scope;
use crate::session::{Session, SessionError};
use crate::speed::{Fingerprint, Measurement, SpeedPurpose, SpeedRun};
use crate::workspace::Workspace;

/// A form in which results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// What `cargo test` printed, both streams.
    CargoTest,
    /// A JUnit report.
    Junit,
    /// A folder with Criterion's results, such as `target/criterion`.
    Criterion,
    /// `hyperfine --export-json`.
    Hyperfine,
    /// Bencher's metric format.
    Bencher,
}

impl Format {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CargoTest => "cargo-test",
            Self::Junit => "junit",
            Self::Criterion => "criterion",
            Self::Hyperfine => "hyperfine",
            Self::Bencher => "bencher",
        }
    }

    /// The form that a file or folder looks like.
    fn of(path: &Path, text: &str) -> Option<Self> {
        if path.is_dir() {
            return Some(Self::Criterion);
        }
        let text = text.trim_start_matches('\u{feff}').trim_start();
        if text.starts_with('<') {
            return Some(Self::Junit);
        }
        if text.starts_with('{') {
            let json: serde_json::Value = serde_json::from_str(text).ok()?;
            let is_hyperfine = json.get("results").is_some_and(serde_json::Value::is_array);
            return Some(if is_hyperfine {
                Self::Hyperfine
            } else {
                Self::Bencher
            });
        }
        text.contains("test result: ").then_some(Self::CargoTest)
    }
}

/// Why results cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file cannot be read.
    #[error("read {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// It looks like none of the forms.
    #[error(
        "read {}: it is no log of cargo test (with both streams), JUnit report, folder of \
         Criterion, or JSON of hyperfine or Bencher", .path.display()
    )]
    Unknown {
        /// The file.
        path: PathBuf,
    },
    /// It is of a form and has a fault.
    #[error("read {} as {}: {problem}", .path.display(), .format.name())]
    Form {
        /// The file.
        path: PathBuf,
        /// The form that it looks like.
        format: Format,
        /// What is wrong.
        problem: String,
    },
    /// There is nothing in it.
    #[error("read {} as {}: no result is in it", .path.display(), .format.name())]
    Empty {
        /// The file.
        path: PathBuf,
        /// The form that it looks like.
        format: Format,
    },
    /// One has tests and the other measurements.
    #[error("compare {base} with {candidate}: one holds tests, the other measurements")]
    Kinds {
        /// The first file.
        base: String,
        /// The second file.
        candidate: String,
    },
}

/// What a file holds.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The file.
    pub path: PathBuf,
    /// Its form.
    pub format: Format,
    /// The tests that were seen.
    pub tests: Vec<Observation>,
    /// The benchmarks that were measured.
    pub benchmarks: Vec<ImportedBenchmark>,
    /// What is not all there, in words.
    pub gaps: Vec<String>,
    /// When it was written.
    written_ms: Millis,
    /// A hash of what it says.
    content: String,
}

impl Imported {
    /// Reads a file or folder; its tests are named after the targets of `workspace`.
    pub fn read(path: &Path, workspace: &Workspace) -> Result<Self, ImportError> {
        let file = |source| ImportError::File {
            path: path.to_owned(),
            source,
        };
        let meta = fs::metadata(path).map_err(file)?;
        let text = if meta.is_dir() {
            String::new()
        } else {
            String::from_utf8_lossy(&fs::read(path).map_err(file)?).into_owned()
        };
        let format = Format::of(path, &text).ok_or_else(|| ImportError::Unknown {
            path: path.to_owned(),
        })?;
        let form = |problem: String| ImportError::Form {
            path: path.to_owned(),
            format,
            problem,
        };
        let (mut tests, mut benchmarks, mut gaps) = (Vec::new(), Vec::new(), Vec::new());
        match format {
            Format::CargoTest => (tests, gaps) = outcomes::log(&text, workspace),
            Format::Junit => tests = outcomes::junit(&text).map_err(form)?,
            Format::Criterion => benchmarks = speed::criterion(path),
            Format::Hyperfine => benchmarks = speed::hyperfine(&text).map_err(form)?,
            Format::Bencher => (benchmarks, gaps) = speed::bencher(&text).map_err(form)?,
        }
        if tests.is_empty() && benchmarks.is_empty() {
            return Err(ImportError::Empty {
                path: path.to_owned(),
                format,
            });
        }
        let written = meta.modified().ok();
        let since = written.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        Ok(Self {
            path: path.to_owned(),
            format,
            content: hash(&format!("{tests:?} {benchmarks:?}")),
            tests,
            benchmarks,
            gaps,
            written_ms: since.map_or_else(now, |since| since.as_millis() as Millis),
        })
    }

    /// What people call it.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// The state of its tests.
    pub fn test_set(&self) -> TestSet {
        let run = self.run(&unknown_commit());
        TestSet::of_runs([&run], &run.scope)
    }

    /// Remembers what it holds as results of a commit. Doing it twice is doing it once.
    pub fn remember(&self, session: &mut Session, commit: &Commit) -> Result<(), SessionError> {
        if !self.tests.is_empty() {
            session.store.add(&Record::Run(self.run(commit)))?;
        }
        if !self.benchmarks.is_empty() {
            session.store.add(&Record::Speed(self.speed_run(commit)))?;
        }
        Ok(())
    }

    fn id(&self, commit: &Commit) -> String {
        format!("import-{}-{}", &self.content[..16], commit.short())
    }

    fn run(&self, commit: &Commit) -> Run {
        let tests = self.tests.iter().map(|seen| seen.test.clone());
        Run {
            id: self.id(commit),
            started_ms: self.written_ms,
            finished_ms: self.written_ms,
            purpose: Purpose::Tests,
            subject: subject(commit),
            environment: Environment {
                toolchain: "imported".to_owned(),
                machine: "imported".to_owned(),
                lockfile: String::new(),
                config: self.format.name().to_owned(),
            },
            // That these are all tests of the workspace is not known.
            scope: Scope::Tests(tests.collect()),
            complete: self.gaps.is_empty(),
            observations: self.tests.clone(),
        }
    }

    fn speed_run(&self, commit: &Commit) -> SpeedRun {
        let measurement = |saved: &ImportedBenchmark| Measurement {
            benchmark: saved.benchmark.clone(),
            measure: saved.measure,
            values: saved.values.clone(),
        };
        SpeedRun {
            id: self.id(commit),
            comparison_id: self.id(commit),
            started_ms: self.written_ms,
            finished_ms: self.written_ms,
            purpose: SpeedPurpose::Series,
            subject: subject(commit),
            fingerprint: Fingerprint::imported(self.format.name()),
            measurements: self.benchmarks.iter().map(measurement).collect(),
        }
    }
}

fn subject(commit: &Commit) -> Subject {
    Subject {
        tree: commit.tree.clone(),
        commit: commit.id.clone(),
        dirty: false,
        checkout: true,
        branch: None,
    }
}

fn unknown_commit() -> Commit {
    Commit {
        id: String::new(),
        tree: String::new(),
        subject: String::new(),
    }
}
