//! What is odd about a tokenizer that is read all the same.

use std::fmt;

/// Something about the files of a tokenizer that its user should know, and that is no
/// error: other programs read them as they are read here.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenizerNote {
    /// No token stands for these bytes, and none for what has no token: characters
    /// that need them are left out of texts, as `tokenizers` does it.
    MissingBytes {
        /// Bytes that UTF-8 has, in ascending order.
        bytes: Vec<u8>,
    },
    /// Several ids have the same text: texts get the first of them.
    RepeatedTokens {
        /// The text that is the first to be there again.
        token: String,
        /// The id that texts get.
        first: u32,
        /// The id where it is there again.
        id: u32,
        /// How many ids have a text that is there before.
        count: usize,
    },
    /// Merges that join what is no token, or give none: they are left out.
    UnusedMerges {
        /// The place of the first in the list.
        index: usize,
        /// The pair.
        merge: String,
        /// How many there are.
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
    /// An array has more values than there are tokens: the rest is left out.
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
                write!(f, "{more}): characters that need them are left out")
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
                "merge {index} ({merge:?}){} gives no token of the vocabulary and is left out",
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
                "{key} has {found} values for {n_tokens} tokens: the rest is left out"
            ),
        }
    }
}

/// Says how many there are beside the first.
fn and_others(count: usize) -> String {
    match count {
        0 | 1 => String::new(),
        count => format!(" (and {} more like it)", count - 1),
    }
}
