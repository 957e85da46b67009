//! Errors as JavaScript gets them.

use std::error::Error;

use bitnet_inference::{
    ChatError, CheckpointError, EmptyStopError, GrammarError, LoadError, PlanError, TaskError,
    TokenizerError,
};
use serde::Serialize;

/// What went wrong, for the class `BitnetError`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The kind.
    pub code: Code,
    /// The message with all its causes.
    pub message: String,
}

/// The kind of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// An option or a prompt is wrong.
    BadArgument,
    /// The model is invalid or not supported.
    BadModel,
    /// The model, or what is to be computed, does not fit into memory.
    OutOfMemory,
    /// The computation failed.
    Failed,
}

impl Failure {
    /// Returns a failure with the message of an error and its causes.
    pub fn of(code: Code, error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        Self { code, message }
    }

    /// Returns a failure with a message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message }
    }

    /// Returns the document that JavaScript gets: `code` and `message`.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("two strings")
    }
}

/// Errors that are always of one kind.
macro_rules! of_code {
    ($($error:ty => $code:ident),* $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::of(Code::$code, &error)
            }
        }
    )*};
}

of_code! {
    ChatError => BadArgument,
    EmptyStopError => BadArgument,
    GrammarError => BadArgument,
    TaskError => BadArgument,
    TokenizerError => BadModel,
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        let code = match error {
            CheckpointError::Memory(_) => Code::OutOfMemory,
            _ => Code::BadModel,
        };
        Self::of(code, &error)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        let code = match error {
            PlanError::Memory { .. } => Code::OutOfMemory,
            _ => Code::BadArgument,
        };
        Self::of(code, &error)
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Plan(error) => error.into(),
            LoadError::Weights(error) => error.into(),
            error => Self::of(Code::Failed, &error),
        }
    }
}
