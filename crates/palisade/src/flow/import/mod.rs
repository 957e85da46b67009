//! Results that other programs wrote: logs of `cargo test` and `cargo bench`, JUnit reports,
//! folders of Criterion, JSON of hyperfine and Bencher.
//!
//! ```text
//! file ─► read ─► tests, measurements ─► remember (the store)
//!                         └────────────► judge two of them: verdict/saved.rs
//! ```
//!
//! What is read stands for no run of this machine: its environment says where it is from.

mod blocks;
mod outcomes;
mod speed;
mod summary;
mod text;

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::Serialize;

pub use summary::TestSummary;

use crate::baseline::TestSet;
use crate::hash::hash;
use crate::host::git::Commit;
use crate::host::now;
use crate::host::session::Session;
use crate::host::store::StoreError;
use crate::observation::{Environment, Millis, Observation, Purpose, Run, Subject};
use crate::record::{Advice, Record};
use crate::scope::Scope;
use crate::speed::{Fingerprint, Measurement, SpeedPurpose, SpeedRun};
use crate::verdict::{ImportedBenchmark, SavedBenchmarks, SavedTests};
use crate::workspace::Workspace;

/// The path that means the standard input.
const STDIN: &str = "-";

/// How far apart single runs of equal programs may lie. In 97 of 100 rows of
/// `same-code-benchmarks.csv` (palisade-judge) the first and the last value, of one program,
/// are no further apart.
const SINGLE_RUNS: f64 = 0.10;

/// A form in which results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// What `cargo test` printed.
    CargoTest,
    /// What `cargo bench` printed: Criterion, libtest and divan.
    CargoBench,
    /// A JUnit report.
    Junit,
    /// A folder with Criterion's results, such as `target/criterion`.
    Criterion,
    /// `hyperfine --export-json`.
    Hyperfine,
    /// What hyperfine printed.
    HyperfineText,
    /// Bencher's metric format.
    Bencher,
}

impl Format {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CargoTest => "cargo-test",
            Self::CargoBench => "cargo-bench",
            Self::Junit => "junit",
            Self::Criterion => "criterion",
            Self::Hyperfine => "hyperfine",
            Self::HyperfineText => "hyperfine-text",
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
        // A run of benchmarks also says that it ran no tests.
        if !text::cargo_bench(text).is_empty() {
            return Some(Self::CargoBench);
        }
        if !text::hyperfine(text).is_empty() {
            return Some(Self::HyperfineText);
        }
        text.contains("test result: ").then_some(Self::CargoTest)
    }
}

/// Why results cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file cannot be read.
    #[error("failed to read {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// It looks like none of the forms.
    #[error(
        "failed to read {}: it is no log of cargo test, cargo bench or hyperfine, JUnit report, folder of \
         Criterion, or JSON of hyperfine or Bencher", .path.display()
    )]
    Unknown {
        /// The file.
        path: PathBuf,
    },
    /// It is of a form and has a fault.
    #[error("failed to read {} as {}: {problem}", .path.display(), .format.name())]
    Form {
        /// The file.
        path: PathBuf,
        /// The form that it looks like.
        format: Format,
        /// What is wrong.
        problem: String,
    },
    /// There is nothing in it.
    #[error("failed to read {} as {}: no result is in it", .path.display(), .format.name())]
    Empty {
        /// The file.
        path: PathBuf,
        /// The form that it looks like.
        format: Format,
    },
    /// One has tests and the other measurements.
    #[error("failed to compare {base} with {candidate}: one holds tests, the other measurements")]
    Kinds {
        /// The first file.
        base: String,
        /// The second file.
        candidate: String,
    },
}

impl Advice for ImportError {
    fn is_usage(&self) -> bool {
        true
    }

    fn hint(&self) -> Option<String> {
        let hint = "cargo test --no-fail-fast > FILE 2>&1".to_owned();
        matches!(self, Self::Unknown { .. }).then_some(hint)
    }
}

/// The text of a file, or of the standard input for `-`; what is no UTF-8 is replaced.
///
/// # Errors
///
/// Fails if it cannot be read.
pub fn read_text(path: &Path) -> Result<String, ImportError> {
    let mut bytes = Vec::new();
    let read = if path == Path::new(STDIN) {
        std::io::stdin().lock().read_to_end(&mut bytes)
    } else {
        fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.map_err(|source| ImportError::File {
        path: path.to_owned(),
        source,
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
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
    /// What was guessed, in words.
    pub notes: Vec<String>,
    /// Whether the run stopped at the first target that failed.
    pub stopped: bool,
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
        let (text, written) = if path == Path::new(STDIN) {
            (read_text(path)?, None)
        } else {
            let meta = fs::metadata(path).map_err(file)?;
            let is_file = !meta.is_dir();
            let text = is_file.then(|| read_text(path)).transpose()?;
            (text.unwrap_or_default(), meta.modified().ok())
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
        let (mut notes, mut stopped) = (Vec::new(), false);
        match format {
            Format::CargoTest => {
                let log = outcomes::log(&text, workspace);
                (tests, gaps) = (log.tests, log.gaps);
                (notes, stopped) = (log.notes, log.stopped);
            }
            Format::CargoBench => benchmarks = text::cargo_bench(&text),
            Format::HyperfineText => benchmarks = text::hyperfine(&text),
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
        let since = written.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        Ok(Self {
            path: path.to_owned(),
            format,
            content: hash(&format!("{tests:?} {benchmarks:?}")),
            tests,
            benchmarks,
            gaps,
            notes,
            stopped,
            written_ms: since.map_or_else(now, |since| since.as_millis() as Millis),
        })
    }

    /// What people call it.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// How far apart two files of this form may lie that were measured of equal programs, as a
    /// share, beyond what their intervals say.
    fn spread(&self) -> f64 {
        match self.format {
            Format::CargoBench | Format::HyperfineText => SINGLE_RUNS,
            _ => 0.0,
        }
    }

    /// The state of its tests.
    pub fn test_set(&self) -> TestSet {
        let run = self.run(&unknown_commit());
        TestSet::of_runs([&run], &run.scope)
    }

    /// What the judge wants to know of its tests.
    pub fn saved_tests(&self) -> SavedTests {
        SavedTests {
            name: self.name(),
            tests: self.test_set(),
            gaps: self.gaps.clone(),
            stopped: self.stopped,
        }
    }

    /// What the judge wants to know of its benchmarks.
    pub fn saved_benchmarks(&self) -> SavedBenchmarks {
        SavedBenchmarks {
            name: self.name(),
            benchmarks: self.benchmarks.clone(),
            gaps: self.gaps.clone(),
            spread: self.spread(),
        }
    }

    /// Stores what it holds as results of a commit. Doing it twice is doing it once.
    pub fn store(&self, session: &mut Session, commit: &Commit) -> Result<(), StoreError> {
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
