//! Tokenizers from GGUF metadata: byte-level BPE, and SentencePiece BPE.

use ahash::AHashMap;
use tokenizers::AddedToken;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::pre_tokenizer::{self, PreTokenizer};
use super::stream::byte_of;
use super::{Tokenizer, TokenizerError, TokenizerNote, eog, put_in_front, sentence_piece};
use crate::format::gguf::Gguf;
use crate::spec::family::Family;

pub(crate) const MODEL: &str = "tokenizer.ggml.model";
pub(crate) const PRE: &str = "tokenizer.ggml.pre";
pub(crate) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(crate) const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
pub(crate) const SCORES: &str = "tokenizer.ggml.scores";
pub(crate) const MERGES: &str = "tokenizer.ggml.merges";
pub(crate) const BOS: &str = "tokenizer.ggml.bos_token_id";
pub(crate) const EOS: &str = "tokenizer.ggml.eos_token_id";
pub(crate) const EOT: &str = "tokenizer.ggml.eot_token_id";
const EOM: &str = "tokenizer.ggml.eom_token_id";
const FIM_PAD: &str = "tokenizer.ggml.fim_pad_token_id";
const FIM_REPO: &str = "tokenizer.ggml.fim_rep_token_id";
const FIM_FILE: &str = "tokenizer.ggml.fim_sep_token_id";
pub(crate) const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
pub(crate) const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
pub(crate) const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
pub(crate) const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
pub(crate) const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// A token of ordinary text, in [`TOKEN_TYPE`].
pub(crate) const TYPE_NORMAL: i32 = 1;
/// The token for unknown text.
pub(crate) const TYPE_UNKNOWN: i32 = 2;
/// A special token that is not part of the text.
pub(crate) const TYPE_CONTROL: i32 = 3;
/// A token added by hand, part of the text.
pub(crate) const TYPE_USER_DEFINED: i32 = 4;
/// An unused id.
pub(crate) const TYPE_UNUSED: i32 = 5;
/// A single byte, for text without a token.
pub(crate) const TYPE_BYTE: i32 = 6;

/// Default ids of SentencePiece, which llama.cpp assumes without a key.
const SENTENCE_PIECE_BOS: u32 = 1;
const SENTENCE_PIECE_EOS: u32 = 2;

/// The validated tokens of a file.
pub(super) struct Vocabulary<'a> {
    pub(super) tokens: &'a [String],
    /// The first id of each text.
    ids: AHashMap<&'a str, u32>,
    types: Option<Vec<i64>>,
    /// The token for unknown text.
    unknown: Option<usize>,
}

impl<'a> Vocabulary<'a> {
    /// Returns the vocabulary of these tokens and their types, if any.
    pub(super) fn new(
        tokens: &'a [String],
        types: Option<Vec<i64>>,
        unknown: Option<usize>,
        notes: &mut Vec<TokenizerNote>,
    ) -> Result<Self, TokenizerError> {
        if let Some(types) = &types {
            enough(TOKEN_TYPE, types.len(), tokens.len(), notes)?;
        }
        let mut ids = AHashMap::with_capacity(tokens.len());
        for (token, id) in tokens.iter().zip(0..) {
            ids.entry(token.as_str()).or_insert(id);
        }
        let vocabulary = Self {
            tokens,
            ids,
            types,
            unknown,
        };
        let repeated: Vec<_> = vocabulary.repeated().collect();
        if let Some(&(id, token)) = repeated.first() {
            notes.push(TokenizerNote::RepeatedTokens {
                token: token.to_owned(),
                first: vocabulary.ids[token],
                id,
                count: repeated.len(),
            });
        }
        Ok(vocabulary)
    }

    fn read(gguf: &'a Gguf, notes: &mut Vec<TokenizerNote>) -> Result<Self, TokenizerError> {
        let tokens = gguf.strings(TOKENS)?.ok_or(missing(TOKENS))?;
        let mut vocabulary = Self::new(tokens, gguf.integers(TOKEN_TYPE)?, None, notes)?;
        vocabulary.unknown = match vocabulary.special_id(gguf, UNKNOWN, notes)? {
            Some(id) => Some(id as usize),
            None => (0..tokens.len()).find(|id| vocabulary.kind(*id) == TYPE_UNKNOWN),
        };
        Ok(vocabulary)
    }

    /// Returns the id of a text.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    pub(super) fn ids(&self) -> AHashMap<String, u32> {
        let ids = self.ids.iter();
        ids.map(|(token, id)| ((*token).to_owned(), *id)).collect()
    }

    /// Returns the duplicate ids: those whose text also has a smaller id, which is used
    /// for encoding.
    pub(super) fn repeated(&self) -> impl Iterator<Item = (u32, &'a str)> {
        let tokens = (0..).zip(self.tokens.iter().map(String::as_str));
        tokens.filter(|(id, token)| self.ids[token] != *id)
    }

    /// Returns the type of a token; normal if the file has no types.
    pub(super) fn kind(&self, id: usize) -> i32 {
        let types = self.types.as_ref();
        types.map_or(TYPE_NORMAL, |types| i32::try_from(types[id]).unwrap_or(0))
    }

    /// Returns the token for unknown text.
    pub(super) fn unknown(&self) -> Option<&'a str> {
        self.unknown.map(|id| self.tokens[id].as_str())
    }

    /// Returns the id of a special token. An id without a token is ignored.
    fn special_id(
        &self,
        gguf: &Gguf,
        key: &'static str,
        notes: &mut Vec<TokenizerNote>,
    ) -> Result<Option<u32>, TokenizerError> {
        let n_tokens = self.tokens.len();
        Ok(match gguf.unsigned(key)? {
            Some(id) if id >= n_tokens as u64 => {
                let id = id.into();
                notes.push(TokenizerNote::SpecialId { key, id, n_tokens });
                None
            }
            id => id.map(|id| id as u32),
        })
    }

    /// Returns an id if it is that of a control token.
    fn control(&self, id: u32) -> Option<u32> {
        let is_control =
            (id as usize) < self.tokens.len() && self.kind(id as usize) == TYPE_CONTROL;
        is_control.then_some(id)
    }

    /// Returns the added tokens, which are matched before pre-tokenization.
    pub(super) fn added(&self) -> Vec<AddedToken> {
        let added = self.tokens.iter().enumerate();
        let added = added.filter_map(|(id, token)| match self.kind(id) {
            _ if eog::is_control(token) => Some(AddedToken::from(token.clone(), true)),
            TYPE_CONTROL => Some(AddedToken::from(token.clone(), true)),
            TYPE_USER_DEFINED => Some(AddedToken::from(token.clone(), false).normalized(false)),
            _ => None,
        });
        added.collect()
    }
}

pub(super) fn build(gguf: &Gguf, family: &Family) -> Result<Tokenizer, TokenizerError> {
    let mut notes = Vec::new();
    let vocabulary = Vocabulary::read(gguf, &mut notes)?;
    let mut bos = vocabulary.special_id(gguf, BOS, &mut notes)?;
    let mut eos = vocabulary.special_id(gguf, EOS, &mut notes)?;
    let (mut inner, adds_bos) = match gguf.string(MODEL)?.ok_or(missing(MODEL))? {
        "gpt2" => {
            let pre_tokenizer = pre_tokenizer(gguf, family)?;
            (
                byte_level(gguf, &vocabulary, pre_tokenizer, &mut notes)?,
                pre_tokenizer.adds_bos,
            )
        }
        "llama" => {
            let scores = gguf.floats(SCORES)?.ok_or(missing(SCORES))?;
            enough(SCORES, scores.len(), vocabulary.tokens.len(), &mut notes)?;
            let space_prefix = gguf.boolean(SPACE_PREFIX)?.unwrap_or(true);
            bos = bos.or(vocabulary.control(SENTENCE_PIECE_BOS));
            eos = eos.or(vocabulary.control(SENTENCE_PIECE_EOS));
            (
                sentence_piece::build(&vocabulary, scores, space_prefix, &mut notes)?,
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

    let mut declared_eos: Vec<u32> = eos.into_iter().collect();
    for key in [EOT, EOM, FIM_PAD, FIM_REPO, FIM_FILE] {
        declared_eos.extend(vocabulary.special_id(gguf, key, &mut notes)?);
    }
    let add_bos = gguf.boolean(ADD_BOS)?.unwrap_or(adds_bos);
    if let (true, Some(bos)) = (add_bos, bos) {
        put_in_front(&mut inner, &vocabulary.tokens[bos as usize], bos)?;
    }
    let appended_eos = match gguf.boolean(ADD_EOS)? {
        Some(true) => eos,
        _ => None,
    };
    let repeated = vocabulary.repeated();
    let repeated = repeated.map(|(id, token)| (id, token.to_owned())).collect();
    Ok(Tokenizer::new(inner, bos, add_bos, declared_eos)
        .with_appended_eos(appended_eos)
        .with_repeated(repeated)
        .with_notes(notes))
}

/// Returns the pre-tokenizer of the file.
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
    notes: &mut Vec<TokenizerNote>,
) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let merges = gguf.strings(MERGES)?.ok_or(missing(MERGES))?;
    // A byte-level token has no space, so the first one separates the pair.
    let pair = |merge: &'_ str| -> Option<(String, String)> {
        let (left, right) = merge.split_once(' ')?;
        let tokens = [left, right, &[left, right].concat()];
        let are_tokens = tokens.iter().all(|token| vocabulary.id(token).is_some());
        are_tokens.then(|| (left.to_owned(), right.to_owned()))
    };
    // `tokenizers` rejects merges of pairs that are not tokens or give none.
    let mut unused = (merges.iter().enumerate()).filter(|(_, merge)| pair(merge).is_none());
    if let Some((index, merge)) = unused.next() {
        notes.push(TokenizerNote::UnusedMerges {
            index,
            merge: merge.clone(),
            count: 1 + unused.count(),
        });
    }
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.retain(|c| vocabulary.id(c.encode_utf8(&mut [0; 4])).is_none());
    note_missing(alphabet.into_iter().filter_map(byte_of), notes);
    let bpe = BPE::builder()
        .vocab_and_merges(
            vocabulary.ids(),
            merges.iter().filter_map(|merge| pair(merge)).collect(),
        )
        .ignore_merges(pre_tokenizer.ignore_merges)
        .build()
        .map_err(|source| TokenizerError::Build { source })?;
    let mut inner = tokenizers::Tokenizer::new(bpe);
    pre_tokenizer.install(&mut inner)?;
    inner.with_decoder(Some(ByteLevel::default()));
    Ok(inner)
}

/// Adds a note about bytes without a token, if any of them occurs in UTF-8.
pub(super) fn note_missing(bytes: impl Iterator<Item = u8>, notes: &mut Vec<TokenizerNote>) {
    let mut bytes: Vec<u8> = bytes
        .filter(|byte| !matches!(byte, 0xc0 | 0xc1 | 0xf5..))
        .collect();
    bytes.sort_unstable();
    if !bytes.is_empty() {
        notes.push(TokenizerNote::MissingBytes { bytes });
    }
}

fn missing(key: &'static str) -> TokenizerError {
    TokenizerError::MissingKey { key }
}

/// Returns an error if an array has fewer values than there are tokens.
fn enough(
    key: &'static str,
    found: usize,
    n_tokens: usize,
    notes: &mut Vec<TokenizerNote>,
) -> Result<(), TokenizerError> {
    if found < n_tokens {
        return Err(TokenizerError::Number {
            key,
            expected: n_tokens,
            found,
        });
    }
    if found > n_tokens {
        notes.push(TokenizerNote::TooManyValues {
            key,
            found,
            n_tokens,
        });
    }
    Ok(())
}
