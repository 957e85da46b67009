//! What can go wrong with a server.

use std::io;

use serde_json::Value;

use crate::http::{self, CertificateError, TokenError};

/// Characters of an answer that is no error of the API.
const MAX_SHOWN: usize = 200;

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The key has a character that no key has.
    #[error(transparent)]
    Key(#[from] TokenError),
    /// The configured certificates cannot be read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// An error of a request.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no answer.
    #[error("cannot reach {url}")]
    Transfer { url: String, source: ureq::Error },
    /// The server refuses the request.
    #[error("{url} answers with status {status}: {message}")]
    Refused {
        url: String,
        status: u16,
        message: String,
        /// The name of the error in the API, if it has one.
        code: Option<String>,
    },
    /// The server ends a text that it has begun.
    #[error("{url} failed in the text: {message}")]
    Failed { url: String, message: String },
    /// The connection ends before the text.
    #[error("the connection to {url} broke off before the end of the text")]
    Broken {
        url: String,
        #[source]
        source: Option<io::Error>,
    },
    /// The answer is not in the form of the API.
    #[error("{url} sent an unexpected response: {what}")]
    Answer { url: String, what: String },
}

impl ClientError {
    pub(super) fn unexpected(url: &str, error: &impl ToString) -> Self {
        Self::Answer {
            url: url.to_owned(),
            what: error.to_string(),
        }
    }

    pub(super) fn broken(url: &str, source: Option<io::Error>) -> Self {
        Self::Broken {
            url: url.to_owned(),
            source,
        }
    }

    pub(super) fn failed(url: &str, error: &Value) -> Self {
        Self::Failed {
            url: url.to_owned(),
            message: message_of(error).unwrap_or_else(|| error.to_string()),
        }
    }

    /// Returns the error of an answer with this status and body.
    pub(super) fn refused(url: &str, status: u16, body: &[u8]) -> Self {
        let document: Value = serde_json::from_slice(body).unwrap_or_default();
        let error = &document["error"];
        let message = message_of(error).unwrap_or_else(|| {
            let text = String::from_utf8_lossy(body);
            let mut shown: String = text.trim().chars().take(MAX_SHOWN).collect();
            if shown.is_empty() {
                shown.push_str("nothing else");
            }
            shown
        });
        Self::Refused {
            url: url.to_owned(),
            status,
            message,
            code: error["code"].as_str().map(str::to_owned),
        }
    }

    /// Returns whether the prompt exceeds the context of the server's model.
    pub fn is_full(&self) -> bool {
        let Self::Refused { code, .. } = self else {
            return false;
        };
        code.as_deref() == Some("context_length_exceeded")
    }

    /// Returns a hint for the user, if there is one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Refused { status: 401, .. } => {
                Some("the key of the server is that of the variable OPENAI_API_KEY")
            }
            Self::Refused {
                status: 404,
                code: None,
                ..
            } => Some("`--url` is the base of the API, such as http://127.0.0.1:8080/v1"),
            Self::Transfer { source, .. } if http::is_untrusted(source) => {
                Some("SSL_CERT_FILE names the server's certificate, or that of its CA, in PEM")
            }
            _ => None,
        }
    }
}

/// Returns the message of an error of the API: `{"message": …}`, or a text.
fn message_of(error: &Value) -> Option<String> {
    let message = error.get("message").unwrap_or(error);
    message.as_str().map(str::to_owned)
}
