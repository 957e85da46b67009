//! Why a command gives no answer: one sentence, a next command, and an exit code.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | pass |
//! | 1 | regression |
//! | 2 | usage error: the question cannot be asked like that here |
//! | 3 | could not measure |
//! | 4 | inconclusive within the budget |

use std::error::Error;
use std::path::PathBuf;

use crate::ui::Ui;
use palisade::flaky::QuarantineRefusal;
use palisade::flow::benchmark_comparison::ComparisonError;
use palisade::flow::check::CheckError;
use palisade::flow::claims::ClaimsError;
use palisade::flow::culprit::CulpritError;
use palisade::flow::hooks::HookError;
use palisade::flow::import::ImportError;
use palisade::flow::merge::MergeError;
use palisade::flow::milestone::MilestoneError;
use palisade::flow::recover::RecoverError;
use palisade::host::git::GitError;
use palisade::host::session::SessionError;
use palisade::host::store::StoreError;
use palisade::record::Advice;

/// The question cannot be asked like that here.
pub const USAGE: u8 = 2;

/// The answer could not be measured.
pub const NOT_MEASURED: u8 = 3;

/// What the user typed cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// No test of that name was ever seen.
    #[error("failed to find a test called {0:?}")]
    NoTest(String),
    /// Several tests end with that name.
    #[error("failed to tell which test {name:?} is: {candidates}")]
    ManyTests { name: String, candidates: String },
    /// A file with a report cannot be read.
    #[error("failed to read {}", .path.display())]
    ReadReport {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A file holds no report.
    #[error("failed to read {} as the report of a check", .path.display())]
    NoReport {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// No milestone of that name was set.
    #[error("failed to find a milestone{}", .0.as_ref().map(|name| format!(" called {name:?}")).unwrap_or_default())]
    NoMilestone(Option<String>),
    /// A command has no words.
    #[error("failed to read the command {0:?}")]
    NoCommand(String),
    /// One of the change's authors approves it, where somebody else must.
    #[error("failed to approve the change as {0}, who is an author of it")]
    OwnApproval(String),
    /// Nobody is named who approves, and git knows no name either.
    #[error("failed to approve the change: nobody is named who does")]
    Nobody,
    /// No package of that name is in the workspace.
    #[error("failed to find a package called {0:?}")]
    NoPackage(String),
    /// No baseline was recorded for a branch.
    #[error("failed to find a baseline of branch {0:?}")]
    NoBaseline(String),
    /// A baseline stands for a commit, and the working tree is not one.
    #[error("failed to record a baseline: the working tree has changes that are not committed")]
    Dirty,
}

impl Advice for UsageError {
    fn is_usage(&self) -> bool {
        true
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::ReadReport { .. } | Self::NoReport { .. } => {
                "cargo palisade check --shard I/N --json > FILE, once for each shard"
            }
            Self::NoCommand(_) => "--cmd 'sh -c \"COMMAND\"' runs what only a shell understands",
            Self::OwnApproval(_) => {
                "somebody else, with the same store: --store, or store export and import"
            }
            Self::Nobody => "--by NAME, or git config user.name",
            Self::NoMilestone(_) => "cargo palisade milestone set NAME, or milestone list",
            Self::NoBaseline(_) => "cargo palisade baseline record",
            Self::Dirty => "git commit or git stash, then cargo palisade baseline record",
            Self::NoTest(_) | Self::ManyTests { .. } | Self::NoPackage(_) => {
                "cargo palisade flaky list, or cargo palisade test"
            }
        };
        Some(hint.to_owned())
    }
}

/// Why a command gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The guard has none.
    #[error(transparent)]
    Guard(palisade::Error),
    /// What the user typed cannot be followed.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// A test cannot be put into quarantine.
    #[error(transparent)]
    Quarantine(#[from] QuarantineRefusal),
    /// A file, or what this program reads or prints.
    #[error("failed to {what}")]
    Io {
        /// What was to be done.
        what: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A report cannot be written as JSON.
    #[error("failed to write the report as JSON")]
    Json(#[from] serde_json::Error),
    /// A report cannot be written as JUnit.
    #[error("failed to write the report as JUnit")]
    Junit(#[from] quick_junit::SerializeError),
    /// Interrupts cannot be received.
    #[error("failed to wait for interrupts")]
    Interrupts(#[from] ctrlc::Error),
}

/// Lets `?` turn each error of the guard into one of a command.
macro_rules! from_guard {
    ($($error:ty),+ $(,)?) => {$(
        impl From<$error> for CommandError {
            fn from(error: $error) -> Self {
                Self::Guard(error.into())
            }
        }
    )+};
}

from_guard!(
    CheckError,
    ClaimsError,
    ComparisonError,
    CulpritError,
    GitError,
    HookError,
    ImportError,
    MergeError,
    MilestoneError,
    RecoverError,
    SessionError,
    StoreError,
);

impl From<std::io::Error> for CommandError {
    fn from(source: std::io::Error) -> Self {
        Self::io("print the answer", source)
    }
}

impl CommandError {
    /// That something could not be done, as the operating system says.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io {
            what: what.into(),
            source,
        }
    }

    fn inner(&self) -> Option<&dyn Advice> {
        match self {
            Self::Guard(error) => Some(error),
            Self::Usage(error) => Some(error),
            Self::Quarantine(_)
            | Self::Io { .. }
            | Self::Json(_)
            | Self::Junit(_)
            | Self::Interrupts(_) => None,
        }
    }
}

impl Advice for CommandError {
    fn is_usage(&self) -> bool {
        match self {
            Self::Quarantine(_) => true,
            _ => self.inner().is_some_and(Advice::is_usage),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Quarantine(_) => {
                Some("cargo palisade flaky stress TEST gathers evidence".to_owned())
            }
            _ => self.inner()?.hint(),
        }
    }

    fn output(&self) -> Option<&str> {
        self.inner()?.output()
    }
}

/// Prints an error and returns the exit code that goes with it. After an interrupt it
/// is its consequence, whatever it says.
pub fn report(ui: &Ui, error: &CommandError, is_interrupted: bool) -> u8 {
    if is_interrupted {
        ui.err("error: interrupted; the run that was under way is not recorded, earlier ones are");
        return NOT_MEASURED;
    }
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    ui.err(&format!("error: {message}"));
    if let Some(output) = error.output() {
        ui.err(output);
    }
    if let Some(hint) = error.hint() {
        ui.err(&format!("hint: {hint}"));
    }
    if error.is_usage() {
        USAGE
    } else {
        NOT_MEASURED
    }
}
