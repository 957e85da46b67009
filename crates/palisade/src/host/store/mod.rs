//! The store of the guard: every run ever made, append-only.
//!
//! A run is written in one transaction when it is over, so a killed run leaves
//! nothing behind that could count. Writing a record twice is the same as
//! writing it once.

#[cfg(feature = "postgres")]
mod postgres;
mod records;
mod sql;
mod sqlite;

use std::collections::BTreeSet;
use std::error::Error;
use std::ffi::OsStr;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

#[cfg(feature = "postgres")]
use postgres::PostgresStore;
pub use sqlite::SqliteStore;

use crate::flaky::{QuarantineEntry, TreeTally};
use crate::observation::{Environment, Millis, Run};
use crate::record::{Advice, BaselineMark, Incident, JournalEntry, Milestone, Record};
use crate::speed::{Calibration, SpeedRun};
use crate::test_id::TestId;

/// Why the store cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The folder or file cannot be made.
    #[error("failed to write {}", .path.display())]
    Create {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is no database, or is damaged.
    #[error("failed to read {}: the database is damaged or is not one", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the database said.
        #[source]
        source: rusqlite::Error,
    },
    /// The file belongs to another program.
    #[error("failed to read {}: it is a database of another program", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The store was written by a newer version.
    #[error(
        "failed to read {store}: its schema has version {found}, this program knows versions up to {known}"
    )]
    TooNew {
        /// The file or server.
        store: String,
        /// Its version.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// A statement failed: a full disk, missing rights, a lock held too long.
    #[error("failed to use {}", .path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What the database said.
        #[source]
        source: rusqlite::Error,
    },
    /// The server cannot be reached, or lets nobody in by that name.
    #[error("failed to connect to {server}")]
    Connect {
        /// The server, without a password.
        server: String,
        /// What went wrong.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// What is said to the server could be read on the way.
    #[error(
        "failed to connect to {server}: this program cannot encrypt what it says to another machine"
    )]
    Unencrypted {
        /// The server, without a password.
        server: String,
    },
    /// A statement failed on the server.
    #[error("failed to use {server}")]
    Server {
        /// The server, without a password.
        server: String,
        /// What the server said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The store is on a PostgreSQL server, and this build cannot speak to one.
    #[error(
        "failed to open the store on a PostgreSQL server: this build keeps its store in files only"
    )]
    NoPostgres,
    /// The store is named by a URL of another kind.
    #[error("failed to open the store {scheme}://…: it is neither a file nor postgres://…")]
    UnknownScheme {
        /// What stands before `://`.
        scheme: String,
    },
    /// A stored value is not what the schema says.
    #[error("failed to read the stored value {value:?} of {column}")]
    Value {
        /// The column.
        column: &'static str,
        /// The value.
        value: String,
    },
    /// A line of an import is not a record.
    #[error("failed to read line {line} of the import")]
    Line {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The import cannot be read, or the export not written.
    #[error("failed to copy records")]
    Copy(#[source] std::io::Error),
}

impl Advice for StoreError {
    fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::NoPostgres | Self::UnknownScheme { .. } | Self::Unencrypted { .. }
        )
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Damaged { path, .. } | Self::Foreign { path } => {
                let path = path.display();
                return Some(format!("mv {path} {path}.bad, and a new one is made"));
            }
            Self::NoPostgres => "cargo install --locked cargo-palisade --features postgres",
            Self::UnknownScheme { .. } => "--store FILE, or --store postgres://USER@HOST/DATABASE",
            Self::Unencrypted { .. } => {
                "a tunnel to localhost, or sslmode=disable in the URL where the network is trusted"
            }
            Self::Connect { .. } => {
                "psql with the same URL says more; --store FILE keeps the store in a file"
            }
            Self::TooNew { .. } => "cargo install cargo-palisade",
            Self::Create { .. } | Self::Database { .. } => {
                "make room if the disk is full; --store FILE keeps the store elsewhere"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// Opens the store: a file, or a PostgreSQL server if the place is a URL.
pub fn open(place: &OsStr) -> Result<Box<dyn Store>, StoreError> {
    let url = place.to_str().and_then(|text| text.split_once("://"));
    // `C://store.sqlite` is a file on a drive.
    let url = url.filter(|(scheme, _)| !cfg!(windows) || scheme.len() > 1);
    match url {
        None => Ok(Box::new(SqliteStore::open(Path::new(place))?)),
        #[cfg(feature = "postgres")]
        Some(("postgres" | "postgresql", _)) => {
            Ok(Box::new(PostgresStore::open(&place.to_string_lossy())?))
        }
        #[cfg(not(feature = "postgres"))]
        Some(("postgres" | "postgresql", _)) => Err(StoreError::NoPostgres),
        Some((scheme, _)) => Err(StoreError::UnknownScheme {
            scheme: scheme.to_owned(),
        }),
    }
}

/// The store of the guard.
pub trait Store {
    /// Adds a record; one that is there already is left as it is.
    fn add(&mut self, record: &Record) -> Result<(), StoreError>;

    /// The complete runs of one tree in one environment, newest first.
    fn runs_of(&self, tree: &str, environment: &Environment) -> Result<Vec<Run>, StoreError>;

    /// The newest `limit` runs of whole packages or workspaces, newest first.
    fn recent_runs(&self, limit: u32) -> Result<Vec<Run>, StoreError>;

    /// How many complete runs of whole packages or workspaces began after a time.
    fn runs_since(&self, since: Millis) -> Result<u64, StoreError>;

    /// The newest complete run of all tests of the workspace.
    fn whole_run(&self) -> Result<Option<Run>, StoreError>;

    /// A run by its name.
    fn run(&self, id: &str) -> Result<Option<Run>, StoreError>;

    /// The newest baseline of a branch.
    fn baseline(&self, branch: &str) -> Result<Option<BaselineMark>, StoreError>;

    /// Passes and failures of every test on every tree, or of one test only.
    /// Observations in incomplete runs count too: they were seen.
    fn tallies(&self, test: Option<&TestId>) -> Result<Vec<TreeTally>, StoreError>;

    /// The tests that failed on a tree in any run, in any environment.
    fn failed_on(&self, tree: &str) -> Result<BTreeSet<TestId>, StoreError>;

    /// The outcomes of a test from a time on, oldest first: true for a pass.
    fn outcomes_since(&self, test: &TestId, since: Millis) -> Result<Vec<bool>, StoreError>;

    /// All entries of the quarantine, oldest first.
    fn quarantine_entries(&self) -> Result<Vec<QuarantineEntry>, StoreError>;

    /// All measurements of speed and memory begun from a time on, oldest first.
    fn speed_runs(&self, since: Millis) -> Result<Vec<SpeedRun>, StoreError>;

    /// All calibrations, oldest first.
    fn calibrations(&self) -> Result<Vec<Calibration>, StoreError>;

    /// All milestones, oldest first.
    fn milestones(&self) -> Result<Vec<Milestone>, StoreError>;

    /// All incidents whose way back was prepared, oldest first.
    fn incidents(&self) -> Result<Vec<Incident>, StoreError>;

    /// What people and hooks did, oldest first.
    fn journal(&self) -> Result<Vec<JournalEntry>, StoreError>;

    /// Hands every record to `each`, runs first.
    fn for_each(
        &self,
        each: &mut dyn FnMut(Record) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;
}

/// Writes every record as a line of JSON.
pub fn export(store: &dyn Store, mut to: impl Write) -> Result<(), StoreError> {
    store.for_each(&mut |record| {
        let line = serde_json::to_string(&record).map_err(|e| StoreError::Copy(e.into()))?;
        writeln!(to, "{line}").map_err(StoreError::Copy)
    })
}

/// Reads what [`export`] wrote and returns how many lines it had. Records that
/// the store knows already change nothing.
pub fn import(store: &mut dyn Store, from: impl BufRead) -> Result<usize, StoreError> {
    let mut count = 0;
    for (index, line) in from.lines().enumerate() {
        let line = line.map_err(StoreError::Copy)?;
        if line.trim().is_empty() {
            continue;
        }
        let record = serde_json::from_str(&line).map_err(|source| StoreError::Line {
            line: index + 1,
            source,
        })?;
        store.add(&record)?;
        count += 1;
    }
    Ok(count)
}

fn value(column: &'static str, value: &str) -> StoreError {
    StoreError::Value {
        column,
        value: value.to_owned(),
    }
}
