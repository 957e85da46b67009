//! Errors of the program itself; `exit.rs` maps errors to exit codes.

/// The exit code of [`Interrupted`]: 128 + SIGINT, as in shells.
pub const INTERRUPTED: u8 = 130;

/// Arguments that are well-formed but invalid.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// A model without a chat template.
#[derive(Debug, thiserror::Error)]
#[error("{model} has no chat template")]
pub struct NoChatTemplate {
    pub model: String,
}

/// A chat in a pipe of which some lines were rejected.
#[derive(Debug, thiserror::Error)]
#[error("rejected lines: {0}")]
pub struct RefusedLines(pub usize);

/// A receipt whose text was not computed again; the message has already been printed.
#[derive(Debug, thiserror::Error)]
#[error("the receipt is not verified")]
pub struct Unverified;

/// The user pressed Ctrl-C; the message has already been printed.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;
