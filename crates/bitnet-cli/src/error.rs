//! Errors of the program itself; what ends with which code is in `exit.rs`.

/// The exit code of [`Interrupted`]: 128 + SIGINT, as shells have it.
pub const INTERRUPTED: u8 = 130;

/// Arguments that are each well-formed but make no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// A model that was not made for conversations.
#[derive(Debug, thiserror::Error)]
#[error("{model} has no chat template")]
pub struct NoChatTemplate {
    pub model: String,
}

/// A conversation in a pipe that went on without some of its lines.
#[derive(Debug, thiserror::Error)]
#[error("lines that were refused: {0}")]
pub struct RefusedLines(pub usize);

/// The user pressed Ctrl-C, and whatever there is to say about it is said.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;
