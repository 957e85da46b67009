//! Why a command gives no answer: the errors of all commands in one.

use crate::flow::benchmark_comparison::ComparisonError;
use crate::flow::check::CheckError;
use crate::flow::claims::ClaimsError;
use crate::flow::culprit::CulpritError;
use crate::flow::hooks::HookError;
use crate::flow::import::ImportError;
use crate::flow::merge::MergeError;
use crate::flow::milestone::MilestoneError;
use crate::flow::recover::RecoverError;
use crate::host::session::SessionError;
use crate::record::Advice;

/// Why a command gives no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A change could not be judged.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// Benchmarks could not be compared.
    #[error(transparent)]
    Comparison(#[from] ComparisonError),
    /// Claims could not be read or measured.
    #[error(transparent)]
    Claims(#[from] ClaimsError),
    /// There is no culprit to look for.
    #[error(transparent)]
    Culprit(#[from] CulpritError),
    /// A hook could not be installed, removed or run.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// Results of another program cannot be read.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// Reports are not those of shards.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// A milestone cannot be read, written or held.
    #[error(transparent)]
    Milestone(#[from] MilestoneError),
    /// An incident cannot go on.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The session failed: git, Cargo, the store, a run.
    #[error(transparent)]
    Session(SessionError),
}

impl<E: Into<SessionError>> From<E> for Error {
    fn from(error: E) -> Self {
        Self::Session(error.into())
    }
}

impl Error {
    fn inner(&self) -> &dyn Advice {
        match self {
            Self::Check(error) => error,
            Self::Comparison(error) => error,
            Self::Claims(error) => error,
            Self::Culprit(error) => error,
            Self::Hook(error) => error,
            Self::Import(error) => error,
            Self::Merge(error) => error,
            Self::Milestone(error) => error,
            Self::Recover(error) => error,
            Self::Session(error) => error,
        }
    }
}

impl Advice for Error {
    fn is_usage(&self) -> bool {
        self.inner().is_usage()
    }

    fn hint(&self) -> Option<String> {
        self.inner().hint()
    }

    fn output(&self) -> Option<&str> {
        self.inner().output()
    }
}
