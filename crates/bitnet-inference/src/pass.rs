//! What one pass computes, whatever computes it.

use std::fmt;

use bitnet_core::RowPosition;

/// The rows of a pass: tokens of one or more sequences, each with its position.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The token of each row.
    pub(crate) tokens: Vec<u32>,
    /// Sequence and position of each row.
    pub(crate) rows: Vec<RowPosition>,
    /// The logits that are requested, in order of their rows.
    pub(crate) requests: Vec<LogitsRequest>,
}

/// A request for the logits of a row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogitsRequest {
    /// Index of the row in the batch.
    pub(crate) row: usize,
    /// Index of the input.
    pub(crate) input: usize,
    /// Index of the token in the input.
    pub(crate) token: usize,
    /// Number of the largest logits that are needed; `None` for all.
    pub(crate) top: Option<usize>,
    /// Whether the hidden state is requested instead of logits.
    pub(crate) hidden: bool,
}

impl Batch {
    /// Returns an empty batch for up to `n_rows`.
    pub(crate) fn with_capacity(n_rows: usize) -> Self {
        Self {
            tokens: Vec::with_capacity(n_rows),
            rows: Vec::with_capacity(n_rows),
            requests: Vec::with_capacity(n_rows),
        }
    }

    /// Returns the number of rows.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Removes all rows.
    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.rows.clear();
        self.requests.clear();
    }
}

/// Why a pass failed.
#[derive(Debug)]
pub(crate) enum PassError {
    /// A value is not finite.
    NotFinite(NotFinite),
    /// The device failed. The text names it.
    #[cfg(feature = "gpu")]
    Device(String),
}

impl From<NotFinite> for PassError {
    fn from(place: NotFinite) -> Self {
        Self::NotFinite(place)
    }
}

/// The place of a non-finite value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotFinite {
    /// In the embedding of a token.
    Token(u32),
    /// In the attention block of a layer.
    Attention(usize),
    /// In the feed-forward block of a layer.
    FeedForward(usize),
    /// In the logits or the hidden state.
    Head,
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(token) => write!(f, "the embedding of token {token}"),
            Self::Attention(layer) => write!(f, "the attention of layer {layer}"),
            Self::FeedForward(layer) => write!(f, "the feed-forward network of layer {layer}"),
            Self::Head => f.write_str("the logits"),
        }
    }
}
