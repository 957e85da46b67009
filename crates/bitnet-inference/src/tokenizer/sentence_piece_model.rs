//! `tokenizer.model`: SentencePiece's protobuf message.
//!
//! Supports BPE models as used by LLaMA: no normalization except that of spaces. Field
//! numbers are those of `sentencepiece_model.proto`.

use prost::Message;

use super::gguf::{TYPE_NORMAL, TYPE_UNKNOWN, Vocabulary};
use super::{TokenizerError, TokenizerNote, sentence_piece};

pub(super) const FILE: &str = "tokenizer.model";

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<Trainer>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<Normalizer>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(float, tag = "2")]
    score: f32,
    /// The type, numbered as in GGUF files; default normal.
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct Trainer {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, tag = "24")]
    treat_whitespace_as_suffix: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Normalizer {
    /// Compiled normalization rules; empty for `identity`.
    #[prost(bytes = "vec", tag = "2")]
    precompiled_charsmap: Vec<u8>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    escape_whitespaces: Option<bool>,
}

/// The names of `model_type`, from 1 on.
const MODEL_TYPES: [&str; 4] = ["unigram", "bpe", "word", "char"];

/// The tokenizer of a `tokenizer.model`.
pub(super) struct Built {
    pub(super) inner: tokenizers::Tokenizer,
    /// Duplicate ids, whose text also has a smaller id.
    pub(super) repeated: Vec<(u32, String)>,
    pub(super) notes: Vec<TokenizerNote>,
}

/// Returns the tokenizer of a `tokenizer.model`. It recognizes special tokens in texts
/// and prepends none.
pub(super) fn build(bytes: &[u8]) -> Result<Built, TokenizerError> {
    let model = Model::decode(bytes).map_err(|source| TokenizerError::SentencePiece { source })?;
    let trainer = model.trainer.unwrap_or_default();
    let normalizer = model.normalizer.unwrap_or_default();
    let model_type = trainer.model_type.unwrap_or(1);
    let name = usize::try_from(model_type)
        .ok()
        .and_then(|ty| MODEL_TYPES.get(ty.checked_sub(1)?));
    let unsupported = |key, found: &str, supported: &str| TokenizerError::Unsupported {
        key,
        found: found.to_owned(),
        supported: supported.to_owned(),
    };
    if name != Some(&"bpe") {
        let found = name.map_or_else(|| model_type.to_string(), |name| (*name).to_owned());
        return Err(unsupported("model_type in tokenizer.model", &found, "bpe"));
    }
    if !normalizer.precompiled_charsmap.is_empty() {
        let key = "normalization in tokenizer.model";
        return Err(unsupported(key, "by compiled rules", "identity"));
    }
    // SentencePiece's defaults.
    let on_by_default = |value: Option<bool>| value.unwrap_or(true);
    let removes_spaces = on_by_default(normalizer.remove_extra_whitespaces);
    let keeps_spaces = !on_by_default(normalizer.escape_whitespaces);
    if removes_spaces || keeps_spaces || trainer.treat_whitespace_as_suffix {
        let found = match (removes_spaces, keeps_spaces) {
            (true, _) => "repeated spaces removed",
            (_, true) => "spaces as they are",
            _ => "spaces behind words",
        };
        let key = "treatment of spaces in tokenizer.model";
        return Err(unsupported(key, found, "all kept, as ▁"));
    }

    let scores: Vec<f32> = model.pieces.iter().map(|piece| piece.score).collect();
    let kind = |piece: &Piece| piece.kind.unwrap_or(TYPE_NORMAL);
    let kinds: Vec<i64> = model.pieces.iter().map(|p| kind(p).into()).collect();
    let unknown = model.pieces.iter().position(|p| kind(p) == TYPE_UNKNOWN);
    let tokens: Vec<String> = model.pieces.into_iter().map(|piece| piece.text).collect();
    let mut notes = Vec::new();
    let vocabulary = Vocabulary::new(&tokens, Some(kinds), unknown, &mut notes)?;
    let space_prefix = on_by_default(normalizer.add_dummy_prefix);
    let mut inner = sentence_piece::build(&vocabulary, &scores, space_prefix, &mut notes)?;
    inner
        .add_tokens(vocabulary.added())
        .map_err(|source| TokenizerError::Build { source })?;
    let repeated = vocabulary.repeated();
    let repeated = repeated.map(|(id, token)| (id, token.to_owned())).collect();
    Ok(Built {
        inner,
        repeated,
        notes,
    })
}
