//! Tokenizers from GGUF metadata: byte-level BPE, and SentencePiece BPE.

use std::collections::HashSet;

use ahash::AHashMap;
use tokenizers::AddedToken;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::pre_tokenizer::{self, PreTokenizer};
use super::{Tokenizer, TokenizerError, check_merges, put_in_front, sentence_piece};
use crate::format::gguf::Gguf;
use crate::model::family::Family;

pub(crate) const MODEL: &str = "tokenizer.ggml.model";
pub(crate) const PRE: &str = "tokenizer.ggml.pre";
pub(crate) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(crate) const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
pub(crate) const SCORES: &str = "tokenizer.ggml.scores";
pub(crate) const MERGES: &str = "tokenizer.ggml.merges";
pub(crate) const BOS: &str = "tokenizer.ggml.bos_token_id";
pub(crate) const EOS: &str = "tokenizer.ggml.eos_token_id";
pub(crate) const EOT: &str = "tokenizer.ggml.eot_token_id";
pub(crate) const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
pub(crate) const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
pub(crate) const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
pub(crate) const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
pub(crate) const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// A token of ordinary text, in [`TOKEN_TYPE`].
pub(crate) const TYPE_NORMAL: i32 = 1;
/// What stands for text without a token.
pub(crate) const TYPE_UNKNOWN: i32 = 2;
/// A special token that is not part of the text.
pub(crate) const TYPE_CONTROL: i32 = 3;
/// A token added by hand, part of the text.
pub(crate) const TYPE_USER_DEFINED: i32 = 4;
/// An id that no text has.
pub(crate) const TYPE_UNUSED: i32 = 5;
/// A byte of text that has no token.
pub(crate) const TYPE_BYTE: i32 = 6;

/// The tokens of a file, checked.
pub(super) struct Vocabulary<'a> {
    pub(super) tokens: &'a [String],
    types: Option<Vec<i64>>,
    /// The token for text that has none.
    unknown: Option<usize>,
}

impl<'a> Vocabulary<'a> {
    /// Takes tokens and the type of each, if they have any.
    pub(super) fn new(
        tokens: &'a [String],
        types: Option<Vec<i64>>,
        unknown: Option<usize>,
    ) -> Result<Self, TokenizerError> {
        let mut seen = HashSet::with_capacity(tokens.len());
        if let Some((id, token)) =
            (tokens.iter().enumerate()).find(|(_, token)| !seen.insert(*token))
        {
            return Err(TokenizerError::DuplicateToken {
                id,
                token: token.clone(),
            });
        }
        if let Some(types) = &types {
            same_number(TOKEN_TYPE, types.len(), tokens.len())?;
        }
        Ok(Self {
            tokens,
            types,
            unknown,
        })
    }

    fn read(gguf: &'a Gguf) -> Result<Self, TokenizerError> {
        let tokens = gguf.strings(TOKENS)?.ok_or(missing(TOKENS))?;
        let mut vocabulary = Self::new(tokens, gguf.integers(TOKEN_TYPE)?, None)?;
        vocabulary.unknown = match vocabulary.special_id(gguf, UNKNOWN)? {
            Some(id) => Some(id as usize),
            None => (0..tokens.len()).find(|id| vocabulary.kind(*id) == TYPE_UNKNOWN),
        };
        Ok(vocabulary)
    }

    pub(super) fn ids(&self) -> AHashMap<String, u32> {
        self.tokens.iter().cloned().zip(0..).collect()
    }

    /// Returns the type of a token; where the file has none, that of text.
    pub(super) fn kind(&self, id: usize) -> i32 {
        let types = self.types.as_ref();
        types.map_or(TYPE_NORMAL, |types| i32::try_from(types[id]).unwrap_or(0))
    }

    /// Returns the token for text that has none.
    pub(super) fn unknown(&self) -> Option<&'a str> {
        self.unknown.map(|id| self.tokens[id].as_str())
    }

    fn special_id(&self, gguf: &Gguf, key: &'static str) -> Result<Option<u32>, TokenizerError> {
        let n_tokens = self.tokens.len();
        match gguf.unsigned(key)? {
            Some(id) if id >= n_tokens as u64 => {
                Err(TokenizerError::SpecialId { key, id, n_tokens })
            }
            id => Ok(id.map(|id| id as u32)),
        }
    }

    /// Returns the tokens that are found in text before anything is cut.
    pub(super) fn added(&self) -> Vec<AddedToken> {
        let added = self.tokens.iter().enumerate();
        let added = added.filter_map(|(id, token)| match self.kind(id) {
            TYPE_CONTROL => Some(AddedToken::from(token.clone(), true)),
            TYPE_USER_DEFINED => Some(AddedToken::from(token.clone(), false).normalized(false)),
            _ => None,
        });
        added.collect()
    }
}

pub(super) fn build(gguf: &Gguf, family: &Family) -> Result<Tokenizer, TokenizerError> {
    let vocabulary = Vocabulary::read(gguf)?;
    let (mut inner, adds_bos) = match gguf.string(MODEL)?.ok_or(missing(MODEL))? {
        "gpt2" => {
            let pre_tokenizer = pre_tokenizer(gguf, family)?;
            (
                byte_level(gguf, &vocabulary, pre_tokenizer)?,
                pre_tokenizer.adds_bos,
            )
        }
        "llama" => {
            let scores = gguf.floats(SCORES)?.ok_or(missing(SCORES))?;
            same_number(SCORES, scores.len(), vocabulary.tokens.len())?;
            let space_prefix = gguf.boolean(SPACE_PREFIX)?.unwrap_or(true);
            (
                sentence_piece::build(&vocabulary, scores, space_prefix)?,
                true,
            )
        }
        other => {
            return Err(TokenizerError::Unsupported {
                key: MODEL,
                found: other.to_owned(),
                supported: "gpt2 (byte-level BPE), llama (SentencePiece BPE)".to_owned(),
            });
        }
    };
    let build_error = |source| TokenizerError::Build { source };
    inner.add_tokens(vocabulary.added()).map_err(build_error)?;

    let bos = vocabulary.special_id(gguf, BOS)?;
    let eos: Vec<u32> = [EOS, EOT]
        .into_iter()
        .filter_map(|key| vocabulary.special_id(gguf, key).transpose())
        .collect::<Result<_, _>>()?;
    let add_bos = gguf.boolean(ADD_BOS)?.unwrap_or(adds_bos);
    if let (true, Some(bos)) = (add_bos, bos) {
        put_in_front(&mut inner, &vocabulary.tokens[bos as usize], bos)?;
    }
    let closing = match gguf.boolean(ADD_EOS)? {
        Some(true) => vocabulary.special_id(gguf, EOS)?,
        _ => None,
    };
    Ok(Tokenizer::new(inner, bos, add_bos, &eos).closed_by(closing))
}

/// Returns how the file's text is cut.
fn pre_tokenizer(gguf: &Gguf, family: &Family) -> Result<PreTokenizer, TokenizerError> {
    let name = gguf.string(PRE)?.or(family.pre_tokenizer);
    let name = name.ok_or(missing(PRE))?;
    pre_tokenizer::named(name).ok_or_else(|| TokenizerError::Unsupported {
        key: PRE,
        found: name.to_owned(),
        supported: pre_tokenizer::names(),
    })
}

fn byte_level(
    gguf: &Gguf,
    vocabulary: &Vocabulary<'_>,
    pre_tokenizer: PreTokenizer,
) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let tokens = vocabulary.tokens;
    let merges = gguf.strings(MERGES)?.ok_or(missing(MERGES))?;
    // Text would lose the byte, and nobody would know.
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let ids = vocabulary.ids();
    if let Some(byte) = (alphabet.into_iter().map(String::from)).find(|c| !ids.contains_key(c)) {
        return Err(TokenizerError::MissingToken { token: byte });
    }
    // A byte-level token has no space, so the first one parts the pair.
    let pairs = || merges.iter().map(|m| m.split_once(' ').unwrap_or((m, "")));
    check_merges(tokens.iter().map(String::len), pairs(), "")?;
    let bpe = BPE::builder()
        .vocab_and_merges(
            ids,
            pairs()
                .map(|(left, right)| (left.to_owned(), right.to_owned()))
                .collect(),
        )
        .ignore_merges(pre_tokenizer.ignore_merges)
        .build()
        .map_err(|source| TokenizerError::Build { source })?;
    let mut inner = tokenizers::Tokenizer::new(bpe);
    pre_tokenizer.install(&mut inner)?;
    inner.with_decoder(Some(ByteLevel::default()));
    Ok(inner)
}

fn missing(key: &'static str) -> TokenizerError {
    TokenizerError::MissingKey { key }
}

fn same_number(key: &'static str, found: usize, expected: usize) -> Result<(), TokenizerError> {
    if found == expected {
        Ok(())
    } else {
        Err(TokenizerError::Number {
            key,
            expected,
            found,
        })
    }
}
