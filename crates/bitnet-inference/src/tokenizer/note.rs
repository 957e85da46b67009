//! Notes on irregular tokenizers that are accepted.

use std::fmt;

/// An irregularity in the files of a tokenizer that is not an error: other programs read
/// them in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenizerNote {
    /// These bytes have no token, and there is no unknown token: characters that need
    /// them are dropped when encoding, as in `tokenizers`.
    MissingBytes {
        /// The bytes, of those that occur in UTF-8, in ascending order.
        bytes: Vec<u8>,
    },
    /// Several ids have the same text; encoding uses the first.
    RepeatedTokens {
        /// The first duplicate text.
        token: String,
        /// The id used for encoding.
        first: u32,
        /// The duplicate id.
        id: u32,
        /// The number of duplicate ids.
        count: usize,
    },
    /// Merges of parts that are not tokens, or that give no token; they are ignored.
    UnusedMerges {
        /// The place of the first in the list.
        index: usize,
        /// The pair.
        merge: String,
        /// The number of such merges.
        count: usize,
    },
    /// No token has the id of a special token.
    SpecialId {
        /// The key in GGUF metadata or `config.json`.
        key: &'static str,
        /// The id.
        id: i128,
        /// The number of tokens.
        n_tokens: usize,
    },
    /// An array has more values than there are tokens; the rest is ignored.
    TooManyValues {
        /// The metadata key.
        key: &'static str,
        /// The number of values.
        found: usize,
        /// The number of tokens.
        n_tokens: usize,
    },
}

impl fmt::Display for TokenizerNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingBytes { bytes } => {
                let count = bytes.len();
                write!(
                    f,
                    "the vocabulary has no token for {count} of the bytes of texts ("
                )?;
                for (i, byte) in bytes.iter().take(8).enumerate() {
                    write!(f, "{}0x{byte:02X}", if i == 0 { "" } else { ", " })?;
                }
                let more = if bytes.len() > 8 { ", …" } else { "" };
                write!(f, "{more}): characters that need them are dropped")
            }
            Self::RepeatedTokens {
                token,
                first,
                id,
                count,
            } => write!(
                f,
                "token {id} repeats {token:?} of token {first}{}: texts get the first id",
                and_others(*count)
            ),
            Self::UnusedMerges {
                index,
                merge,
                count,
            } => write!(
                f,
                "merge {index} ({merge:?}){} gives no token of the vocabulary and is ignored",
                and_others(*count)
            ),
            Self::SpecialId { key, id, n_tokens } => {
                write!(
                    f,
                    "{key} is {id}, which no token has (there are {n_tokens})"
                )
            }
            Self::TooManyValues {
                key,
                found,
                n_tokens,
            } => write!(
                f,
                "{key} has {found} values for {n_tokens} tokens: the rest is ignored"
            ),
        }
    }
}

/// Returns a description of the number of further items.
fn and_others(count: usize) -> String {
    match count {
        0 | 1 => String::new(),
        count => format!(" (and {} more like it)", count - 1),
    }
}
