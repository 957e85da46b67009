//! What limits a text besides its length.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::token_set::TokenSet;

/// What a text shall follow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grammar {
    /// A JSON schema.
    JsonSchema(Value),
    /// A regular expression for the whole text, in the syntax of the crate `regex` without
    /// look-around.
    Regex(String),
    /// A grammar in the variant of Lark that `llguidance` reads.
    Lark(String),
}

/// Limits the tokens of a generation, as a grammar does.
pub trait Constraint: fmt::Debug + Send {
    /// Sets the tokens allowed next; end tokens only where the text may end.
    ///
    /// # Errors
    ///
    /// Returns an error if no token is possible, or a limit is exceeded.
    fn allowed(&mut self, allowed: &mut TokenSet) -> Result<(), ConstraintError>;

    /// Advances by an allowed token.
    ///
    /// # Errors
    ///
    /// Returns an error if the token is not allowed, or a limit is exceeded.
    fn accept(&mut self, token: u32) -> Result<(), ConstraintError>;

    /// Advances by the tokens that must come next, and returns them.
    ///
    /// # Errors
    ///
    /// Returns an error if a limit is exceeded.
    fn forced(&mut self) -> Result<Vec<u32>, ConstraintError>;

    /// Takes the last `n` tokens back, accepted or forced.
    fn rollback(&mut self, n: usize);

    /// Returns whether the text is complete and cannot be continued.
    fn is_complete(&self) -> bool;
}

/// A constraint that cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the grammar cannot be followed: {message}")]
pub struct ConstraintError {
    /// Why.
    pub message: String,
}
