//! What proves to a server who asks.

use std::fmt;

/// An access token, or a key. It is never printed.
#[derive(Clone)]
pub struct Token {
    value: String,
    /// The variable or file of its origin.
    origin: String,
}

/// A token contains an invalid character.
#[derive(Debug, thiserror::Error)]
#[error("the token in {origin} has {what} in it, expected letters and digits")]
pub struct TokenError {
    /// The variable or file.
    origin: String,
    /// A description of the invalid character.
    what: &'static str,
}

impl Token {
    /// Returns the value of the header `Authorization`.
    pub fn header(&self) -> String {
        format!("Bearer {}", self.value)
    }

    /// Returns the variable or file of its origin.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Trims and validates a token; `None` if it is empty.
    ///
    /// # Errors
    ///
    /// Returns an error if it has a character that no token has.
    pub fn read(text: &str, origin: String) -> Result<Option<Self>, TokenError> {
        let value = text.trim().to_owned();
        let what = value.chars().find_map(|c| match c {
            '\n' | '\r' => Some("a line end"),
            c if c.is_whitespace() => Some("white space"),
            c if !c.is_ascii_graphic() => Some("an invalid character"),
            _ => None,
        });
        if let Some(what) = what {
            return Err(TokenError { origin, what });
        }
        Ok((!value.is_empty()).then_some(Self { value, origin }))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(from {})", self.origin)
    }
}
