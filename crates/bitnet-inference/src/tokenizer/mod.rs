//! Text to token ids and back.
//!
//! A wrapper of HuggingFace's `tokenizers` that adds construction from GGUF metadata,
//! BOS, and end-of-generation tokens.

mod eog;
pub(crate) mod gguf;
mod marked;
mod note;
pub(crate) mod pre_tokenizer;
mod sentence_piece;
mod sentence_piece_model;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Model};

use crate::format::checkpoint::{Checkpoint, Origin};
use crate::format::gguf::{Gguf, GgufError};
use crate::format::lax_json;
use crate::spec::family::Family;

pub use note::TokenizerNote;
pub use stream::TextStream;

/// Tokens that end a turn (Llama 3, ChatML, Gemma).
pub(crate) const EOT_TOKENS: [&str; 3] = ["<|eot_id|>", "<|im_end|>", "<end_of_turn>"];

/// A tokenizer with the special tokens of a model.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    add_bos: bool,
    eog: BTreeSet<u32>,
    /// The end tokens declared by the files; the first is the EOS.
    declared_eos: Vec<u32>,
    /// The token appended to complete texts, if the files specify one.
    appended_eos: Option<u32>,
    /// Rows of the model's embedding; larger ids are errors.
    vocab_size: usize,
    /// Duplicate ids, whose text also has a smaller id.
    repeated: BTreeMap<u32, String>,
    notes: Vec<TokenizerNote>,
}

/// `config.json` or `generation_config.json`, the ids in it.
#[derive(Debug, Default, Deserialize)]
struct SpecialIds {
    bos_token_id: Option<i64>,
    eos_token_id: Option<OneOrMany>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(i64),
    Many(Vec<i64>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<i64> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

/// `tokenizer_config.json`, the special tokens and the chat template in it.
#[derive(Debug, Default, Deserialize)]
struct TokenizerConfig {
    bos_token: Option<NamedToken>,
    eos_token: Option<NamedToken>,
    chat_template: Option<OneTemplateOrMany>,
    /// The following fields are used with a `tokenizer.model`, which lacks them.
    add_bos_token: Option<bool>,
    #[serde(default)]
    added_tokens_decoder: BTreeMap<u32, LateToken>,
}

/// A token that was added to a vocabulary.
#[derive(Debug, Deserialize)]
struct LateToken {
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum NamedToken {
    Text(String),
    Described { content: String },
}

impl NamedToken {
    fn into_string(self) -> String {
        match self {
            Self::Text(text) | Self::Described { content: text } => text,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneTemplateOrMany {
    One(String),
    Many(Vec<NamedTemplate>),
}

#[derive(Debug, Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// The validated parts of `tokenizer.json`.
#[derive(Debug, Deserialize)]
struct TokenizerFile {
    model: TokenizerModel,
    #[serde(default)]
    added_tokens: Vec<AddedTokenEntry>,
}

#[derive(Debug, Deserialize)]
struct AddedTokenEntry {
    id: u32,
    content: String,
}

#[derive(Debug, Deserialize)]
struct TokenizerModel {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    vocab: serde_json::Value,
    #[serde(default)]
    merges: Vec<Merge>,
    continuing_subword_prefix: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair(String, String),
}

impl Tokenizer {
    /// Returns a tokenizer with the declared end tokens, the first of which is the EOS.
    fn new(
        inner: tokenizers::Tokenizer,
        bos: Option<u32>,
        add_bos: bool,
        declared_eos: Vec<u32>,
    ) -> Self {
        let mut eog = eog::by_text(|text| inner.token_to_id(text));
        eog.extend(&declared_eos);
        Self {
            inner,
            bos,
            add_bos: add_bos && bos.is_some(),
            eog,
            declared_eos,
            appended_eos: None,
            vocab_size: usize::MAX,
            repeated: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    /// Sets the duplicate ids, whose text also has a smaller id.
    fn with_repeated(self, repeated: Vec<(u32, String)>) -> Self {
        let repeated = repeated.into_iter().collect();
        Self { repeated, ..self }
    }

    fn with_notes(self, notes: Vec<TokenizerNote>) -> Self {
        Self { notes, ..self }
    }

    /// Sets the token appended to complete texts.
    fn with_appended_eos(self, appended_eos: Option<u32>) -> Self {
        Self {
            appended_eos,
            ..self
        }
    }

    /// Limits ids to `vocab_size`; text with a larger id becomes an error.
    pub(crate) fn for_model(self, vocab_size: usize) -> Self {
        Self { vocab_size, ..self }
    }

    /// Reads the tokenizer of a model.
    ///
    /// # Errors
    ///
    /// Returns an error if the model's files contain no complete and supported tokenizer.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, TokenizerError> {
        let config = checkpoint.config();
        let tokenizer = match checkpoint.origin() {
            Origin::Gguf(gguf) => Self::from_gguf(gguf, config.family)?,
            Origin::HuggingFace(folder) => Self::from_folder(folder)?,
        };
        Ok(tokenizer.for_model(config.vocab_size))
    }

    /// Reads `tokenizer.json` of a HuggingFace folder, or else `tokenizer.model`, and the
    /// ids that end generation from `generation_config.json` or `config.json`.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read, or contains no complete and supported
    /// tokenizer.
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        let file = folder.join("tokenizer.json");
        let names: TokenizerConfig = read_json(folder, TOKENIZER_CONFIG)?.unwrap_or_default();
        let mut is_sentence_piece = false;
        let (mut repeated, mut notes) = (Vec::new(), Vec::new());
        let (mut inner, added) = match std::fs::read(&file) {
            Ok(bytes) => from_json(&bytes)?,
            Err(source) => match read_optional(folder, sentence_piece_model::FILE)? {
                Some(bytes) if source.kind() == io::ErrorKind::NotFound => {
                    is_sentence_piece = true;
                    let built = sentence_piece_model::build(&bytes)?;
                    (repeated, notes) = (built.repeated, built.notes);
                    with_late_tokens(built.inner, folder, &names)?
                }
                _ => return Err(TokenizerError::Read { file, source }),
            },
        };
        for AddedTokenEntry { id, content } in added {
            // `tokenizers` numbers added tokens consecutively, whatever the file says.
            if let Some(found) = inner.token_to_id(&content)
                && found != id
            {
                return Err(TokenizerError::AddedToken {
                    token: content,
                    id,
                    found,
                });
            }
        }

        // With a `tokenizer.model`, the defaults are those of LLaMA.
        let or_else = |name: Option<NamedToken>, default: &str| {
            let default = || is_sentence_piece.then(|| default.to_owned());
            name.map(NamedToken::into_string).or_else(default)
        };
        let id = |token: Option<String>| inner.token_to_id(&token?);
        let mut bos = id(or_else(names.bos_token, "<s>"));
        let mut declared_eos: Vec<u32> = id(or_else(names.eos_token, "</s>")).into_iter().collect();
        for name in ["generation_config.json", "config.json"] {
            let ids: SpecialIds = read_json(folder, name)?.unwrap_or_default();
            let is_token = |id: &u32| inner.id_to_token(*id).is_some();
            let mut note = |key, id: i64| {
                let n_tokens = inner.get_vocab_size(true);
                let id = id.into();
                let note = TokenizerNote::SpecialId { key, id, n_tokens };
                if !notes.contains(&note) {
                    notes.push(note);
                }
            };
            for id in ids.eos_token_id.into_iter().flat_map(OneOrMany::into_vec) {
                // A model may have a row without a token as its end token.
                let as_row = u32::try_from(id).ok();
                if !as_row.as_ref().is_some_and(is_token) {
                    note("eos_token_id", id);
                }
                declared_eos.extend(as_row);
            }
            if let (None, Some(id)) = (bos, ids.bos_token_id) {
                bos = u32::try_from(id).ok().filter(is_token);
                if bos.is_none() {
                    note("bos_token_id", id);
                }
            }
        }
        if is_sentence_piece
            && names.add_bos_token.unwrap_or(true)
            && let Some(bos) = bos
        {
            let token = inner.id_to_token(bos).expect("the id was looked up above");
            put_in_front(&mut inner, &token, bos)?;
        }
        stream::check_decoder(inner.get_decoder())?;
        // The token that the post-processor prepends is the BOS.
        let text = inner
            .encode("a", true)
            .map_err(|source| TokenizerError::Encode { source })?;
        let (ids, is_special) = (text.get_ids(), text.get_special_tokens_mask());
        let prefix = match is_special {
            [1, ..] => Some(ids[0]),
            _ => None,
        };
        let appended_eos = match is_special {
            [_, .., 1] => ids.last().copied(),
            _ => None,
        };
        Ok(
            Self::new(inner, prefix.or(bos), prefix.is_some(), declared_eos)
                .with_appended_eos(appended_eos)
                .with_repeated(repeated)
                .with_notes(notes),
        )
    }

    /// Returns the tokenizer described by GGUF metadata.
    ///
    /// # Errors
    ///
    /// Returns an error if the metadata contain no complete and supported tokenizer.
    pub fn from_gguf(gguf: &Gguf, family: &Family) -> Result<Self, TokenizerError> {
        gguf::build(gguf, family)
    }

    /// Returns the ids of `text`. BOS is prepended if the model uses one and the text
    /// does not begin with it already. Spellings of special tokens are recognized.
    ///
    /// # Errors
    ///
    /// Returns an error if the text cannot be tokenized, or has a token beyond the
    /// vocabulary of the model.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = self.encode_without_bos(text)?;
        if let Some(bos) = self.bos
            && self.add_bos
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// Returns the ids of a complete text, for embedding models: as
    /// [`encode`](Self::encode), followed by the token that the files specify, if any.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode).
    pub fn encode_with_eos(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = self.encode(text)?;
        ids.extend(
            self.appended_eos
                .filter(|appended_eos| ids.last() != Some(appended_eos)),
        );
        Ok(ids)
    }

    /// Returns the ids of `text` alone, without BOS.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode).
    pub fn encode_without_bos(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|source| TokenizerError::Encode { source })?;
        let ids = encoding.get_ids();
        self.check_rows(ids)?;
        Ok(ids.to_vec())
    }

    /// Returns an error if the model has no row for an id.
    fn check_rows(&self, ids: &[u32]) -> Result<(), TokenizerError> {
        match ids.iter().find(|id| **id as usize >= self.vocab_size) {
            Some(&id) => Err(TokenizerError::BeyondModel {
                id,
                token: self.inner.id_to_token(id).unwrap_or_default(),
                vocab_size: self.vocab_size,
            }),
            None => Ok(()),
        }
    }

    /// Returns the text of `ids`. Bytes that are not UTF-8 become U+FFFD, as in
    /// `String::from_utf8_lossy`; ids without a token, such as padding rows of a
    /// vocabulary, have no text; special tokens are omitted unless `with_special`.
    pub fn decode(&self, ids: &[u32], with_special: bool) -> String {
        stream::decode(self, ids, with_special)
    }

    /// Returns a decoder for a stream of ids that continues `before`, which may be
    /// empty. A leading space of a token is removed at the beginning of a text, but not
    /// in its middle. Special tokens are omitted.
    pub fn stream(&self, before: &[u32]) -> TextStream<'_> {
        TextStream::after(self, before, false)
    }

    /// Returns the bytes that a token adds in the middle of a text. They may be part of a
    /// character. Special tokens have those of their spelling; ids without a token none.
    pub fn bytes(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.token(id, true) else {
            return Vec::new();
        };
        if self.is_special(id) {
            return token.into_bytes();
        }
        let bytes = stream::bytes(self.inner.get_decoder(), &token);
        bytes.unwrap_or_else(|| token.into_bytes())
    }

    /// Returns whether a token is special: a control token without text.
    pub fn is_special(&self, id: u32) -> bool {
        self.token(id, true).is_some() && self.token(id, false).is_none()
    }

    /// Returns the bytes of a token for a grammar: `marker` and the spelling, if it is
    /// special.
    #[cfg(feature = "grammar")]
    pub(crate) fn grammar_bytes(&self, id: u32, marker: u8) -> Vec<u8> {
        let mut bytes = self.bytes(id);
        if self.is_special(id) || self.is_eog(id) {
            bytes.insert(0, marker);
        }
        bytes
    }

    /// Returns whether a text is the bytes of its tokens, wherever it begins.
    #[cfg(feature = "grammar")]
    pub(crate) fn is_byte_level(&self) -> bool {
        stream::is_byte_level(self.inner.get_decoder())
    }

    /// Returns whether a token has this id.
    pub fn contains(&self, id: u32) -> bool {
        self.token(id, true).is_some()
    }

    /// Returns the vocabulary entry of an id, if it exists, and is not special unless
    /// `with_special`.
    fn token(&self, id: u32, with_special: bool) -> Option<String> {
        let added = self.inner.get_added_vocabulary();
        let token = (added.simple_id_to_token(id))
            .or_else(|| self.inner.get_model().id_to_token(id))
            .or_else(|| self.repeated.get(&id).cloned())?;
        (with_special || !added.is_special_token(&token)).then_some(token)
    }

    /// Returns notes on irregularities of the files.
    pub fn notes(&self) -> &[TokenizerNote] {
        &self.notes
    }

    /// Returns the beginning-of-sequence token (BOS), if there is one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Returns whether [`encode`](Self::encode) prepends BOS.
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// Returns whether generation ends with this token (end of generation, EOG).
    pub fn is_eog(&self, id: u32) -> bool {
        self.eog.contains(&id)
    }

    /// Returns the tokens that end generation (EOG), in ascending order.
    pub fn eog(&self) -> impl Iterator<Item = u32> {
        self.eog.iter().copied()
    }

    /// Returns the end-of-sequence token (EOS) of the files, if they name one.
    pub(crate) fn eos(&self) -> Option<u32> {
        self.declared_eos
            .iter()
            .copied()
            .find(|id| self.contains(*id))
    }

    /// Returns the tokens that the files declare as EOS.
    pub(crate) fn declared_eos(&self) -> impl Iterator<Item = u32> {
        self.declared_eos
            .iter()
            .copied()
            .filter(|id| self.contains(*id))
    }

    /// Returns the token appended to complete texts, if the files specify one.
    pub(crate) fn appended_eos(&self) -> Option<u32> {
        self.appended_eos
    }

    /// Returns the number of tokens, special ones included.
    pub fn n_tokens(&self) -> usize {
        self.inner.get_vocab_size(true) + self.repeated.len()
    }

    pub(crate) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }
}

/// Builds the tokenizer of a `tokenizer.json`, and returns the added tokens that it
/// lists.
fn from_json(
    bytes: &[u8],
) -> Result<(tokenizers::Tokenizer, Vec<AddedTokenEntry>), TokenizerError> {
    let parsed: TokenizerFile =
        serde_json::from_slice(bytes).map_err(|source| TokenizerError::Json {
            file: "tokenizer.json",
            source,
        })?;
    if parsed.model.kind.as_deref().unwrap_or("BPE") == "BPE" {
        let lengths =
            (parsed.model.vocab.as_object().into_iter().flatten()).map(|(token, _)| token.len());
        let merges = parsed.model.merges.iter().map(|merge| match merge {
            Merge::Line(line) => line.split_once(' ').unwrap_or((line, "")),
            Merge::Pair(left, right) => (left.as_str(), right.as_str()),
        });
        let prefix = parsed.model.continuing_subword_prefix.as_deref();
        check_merges(lengths, merges, prefix.unwrap_or_default())?;
    }
    let mut inner = tokenizers::Tokenizer::from_bytes(bytes)
        .map_err(|source| TokenizerError::Build { source })?;
    // As in `transformers`, the truncation and padding used in training do not apply to
    // prompts.
    inner
        .with_truncation(None)
        .map_err(|source| TokenizerError::Build { source })?;
    inner.with_padding(None);
    Ok((inner, parsed.added_tokens))
}

/// Adds the tokens that a folder lists in addition to its `tokenizer.model`, and returns
/// them.
fn with_late_tokens(
    mut inner: tokenizers::Tokenizer,
    folder: &Path,
    names: &TokenizerConfig,
) -> Result<(tokenizers::Tokenizer, Vec<AddedTokenEntry>), TokenizerError> {
    // Older folders have a separate file.
    let old: BTreeMap<String, u32> = read_json(folder, "added_tokens.json")?.unwrap_or_default();
    let mut late: BTreeMap<u32, (&str, bool)> = (old.iter())
        .map(|(content, id)| (*id, (content.as_str(), true)))
        .collect();
    let new = &names.added_tokens_decoder;
    late.extend((new.iter()).map(|(id, token)| (*id, (token.content.as_str(), token.special))));
    let tokens: Vec<_> = (late.values())
        .map(|&(content, special)| AddedToken::from(content, special).normalized(false))
        .collect();
    inner
        .add_tokens(tokens)
        .map_err(|source| TokenizerError::Build { source })?;
    let entries = late.into_iter().map(|(id, (content, _))| AddedTokenEntry {
        id,
        content: content.to_owned(),
    });
    Ok((inner, entries.collect()))
}

/// Sets the token to prepend to every text.
fn put_in_front(
    inner: &mut tokenizers::Tokenizer,
    token: &str,
    id: u32,
) -> Result<(), TokenizerError> {
    let build_error = |source| TokenizerError::Build { source };
    let template = TemplateProcessing::builder()
        .try_single(vec![token.to_owned(), "$A".to_owned()])
        .map_err(|message| build_error(message.into()))?
        .special_tokens(vec![(token.to_owned(), id)])
        .build()
        .map_err(|error| build_error(Box::new(error)))?;
    inner.with_post_processor(Some(template));
    Ok(())
}

/// Reads the chat template of a HuggingFace folder, from `chat_template.jinja` or
/// `tokenizer_config.json`; `None` if there is none.
pub(crate) fn chat_template(folder: &Path) -> Result<Option<String>, TokenizerError> {
    if let Some(bytes) = read_optional(folder, "chat_template.jinja")? {
        return match String::from_utf8(bytes) {
            Ok(template) => Ok(Some(template)),
            Err(error) => Err(TokenizerError::Read {
                file: folder.join("chat_template.jinja"),
                source: io::Error::new(io::ErrorKind::InvalidData, error),
            }),
        };
    }
    let config: TokenizerConfig = read_json(folder, TOKENIZER_CONFIG)?.unwrap_or_default();
    Ok(match config.chat_template {
        None => None,
        Some(OneTemplateOrMany::One(template)) => Some(template),
        // Other templates are for tools and documents.
        Some(OneTemplateOrMany::Many(templates)) => templates
            .into_iter()
            .find(|known| known.name == "default")
            .map(|known| known.template),
    })
}

/// Reads a JSON file of a folder, if it exists.
fn read_json<T: DeserializeOwned>(
    folder: &Path,
    file: &'static str,
) -> Result<Option<T>, TokenizerError> {
    let Some(bytes) = read_optional(folder, file)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes).or_else(|source| {
        // Opening the model adds the note about `config.json`.
        lax_json::from_slice(&bytes).ok_or(TokenizerError::Json { file, source })
    })
}

/// Reads a file of a folder, if it exists.
fn read_optional(folder: &Path, file: &str) -> Result<Option<Vec<u8>>, TokenizerError> {
    match std::fs::read(folder.join(file)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokenizerError::Read {
            file: folder.join(file),
            source,
        }),
    }
}

/// Rejects merges whose result is longer than every token, or whose second part lacks
/// the prefix to be removed: `tokenizers` 0.23 panics on them.
fn check_merges<'a>(
    token_lengths: impl Iterator<Item = usize>,
    merges: impl Iterator<Item = (&'a str, &'a str)>,
    prefix: &str,
) -> Result<(), TokenizerError> {
    let longest = token_lengths.max().unwrap_or(0);
    for (index, (left, right)) in merges.enumerate() {
        if left.len() + right.len() > longest || !right.starts_with(prefix) {
            return Err(TokenizerError::Merge {
                index,
                merge: format!("{left} {right}"),
            });
        }
    }
    Ok(())
}

/// An error inside `tokenizers`.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// An error of loading or using a tokenizer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file cannot be opened.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A JSON file is invalid.
    #[error("{file} is not as expected")]
    Json {
        /// The name of the file.
        file: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// `tokenizer.model` is invalid.
    #[error("tokenizer.model is not as SentencePiece writes it")]
    SentencePiece {
        /// What is wrong with it.
        source: prost::DecodeError,
    },
    /// A GGUF metadata value has the wrong type.
    #[error("the tokenizer metadata are not as expected")]
    Gguf(#[from] GgufError),
    /// The file contains no complete tokenizer.
    #[error("key {key:?} is missing")]
    MissingKey {
        /// The metadata key.
        key: &'static str,
    },
    /// An unsupported kind of tokenizer.
    #[error("{key} {found:?} is not supported (supported: {supported})")]
    Unsupported {
        /// The metadata key.
        key: &'static str,
        /// The value in the file.
        found: String,
        /// The supported values.
        supported: String,
    },
    /// An array has fewer values than there are tokens.
    #[error("{key} has {found} values for {expected} tokens")]
    Number {
        /// The metadata key.
        key: &'static str,
        /// Number of tokens.
        expected: usize,
        /// Number of values.
        found: usize,
    },
    /// The score of a token is NaN.
    #[error("the score of token {id} is {score}, expected a number")]
    Score {
        /// The token.
        id: usize,
        /// Its score.
        score: f32,
    },
    /// The tokens have more possible merges than any learned vocabulary.
    #[error("the {n_tokens} tokens can be made of each other in too many ways")]
    TooManyMerges {
        /// Number of tokens.
        n_tokens: usize,
    },
    /// The text has a token without a row in the model's embedding.
    #[error("token {id} ({token:?}) is beyond the model's vocabulary of {vocab_size}")]
    BeyondModel {
        /// The id.
        id: u32,
        /// Its text.
        token: String,
        /// Rows of the model's embedding.
        vocab_size: usize,
    },
    /// A merge does not give a token.
    #[error("merge {index} ({merge:?}) gives no token of the vocabulary")]
    Merge {
        /// Its place in the list.
        index: usize,
        /// The pair.
        merge: String,
    },
    /// The tokenizer cannot be built.
    #[error("the tokenizer cannot be built")]
    Build {
        /// The error of `tokenizers`.
        source: Source,
    },
    /// An added token cannot have the id that the file gives it.
    #[error("added token {token:?} has id {id}, expected {found} by the tokens before it")]
    AddedToken {
        /// Its text.
        token: String,
        /// The id in the file.
        id: u32,
        /// The id in the order of the file.
        found: u32,
    },
    /// Text cannot be encoded.
    #[error("the text cannot be tokenized")]
    Encode {
        /// The error of `tokenizers`.
        source: Source,
    },
}
