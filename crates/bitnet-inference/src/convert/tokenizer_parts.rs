//! The parts of a tokenizer, for conversion to another format.

use std::path::Path;

use serde_json::Value;

use super::{ConvertError, piece_scores};
use crate::tokenizer::gguf::{TYPE_CONTROL, TYPE_NORMAL, TYPE_USER_DEFINED};
use crate::tokenizer::{self, EOT_TOKENS, Tokenizer, TokenizerError, pre_tokenizer};

/// The properties of a tokenizer that GGUF metadata represent.
#[derive(Debug)]
pub(crate) struct TokenizerParts {
    /// The model.
    pub(crate) model: BpeModel,
    /// Text and GGUF type of each token; `None` for an unused id.
    pub(crate) tokens: Vec<Option<(String, i32)>>,
    pub(crate) bos: Option<u32>,
    /// End of sequence.
    pub(crate) eos: Option<u32>,
    /// End of turn.
    pub(crate) eot: Option<u32>,
    pub(crate) add_bos: bool,
    /// Whether `eos` is appended to complete texts.
    pub(crate) add_eos: bool,
    pub(crate) chat_template: Option<String>,
}

/// The tokenizer models that GGUF files can represent.
#[derive(Debug)]
pub(crate) enum BpeModel {
    /// Byte-level BPE.
    ByteLevel {
        /// The pre-tokenizer's name in GGUF files.
        pre: &'static str,
        /// Pairs separated by a space, in order of priority.
        merges: Vec<String>,
    },
    /// SentencePiece BPE with byte fallback.
    SentencePiece {
        /// By id; higher scores are merged first.
        scores: Vec<f32>,
        /// Whether a space is prepended to a text.
        space_prefix: bool,
        /// The token for unknown text.
        unknown: Option<u32>,
    },
}

impl TokenizerParts {
    /// Reads the parts of the tokenizer of a HuggingFace folder.
    pub(crate) fn from_folder(folder: &Path) -> Result<Self, ConvertError> {
        let tokenizer = Tokenizer::from_folder(folder)?;
        let json: Value = (tokenizer.inner().to_string(false))
            .map_err(|source| TokenizerError::Build { source })
            .and_then(|json| {
                serde_json::from_str(&json).map_err(|source| TokenizerError::Json {
                    file: "tokenizer.json",
                    source,
                })
            })?;
        let kind = |reason| ConvertError::TokenizerKind { reason };
        let vocab = (json["model"]["vocab"].as_object())
            .filter(|_| json["model"]["type"] == "BPE")
            .ok_or(kind("it is not BPE"))?;
        let added: Vec<_> = json["added_tokens"]
            .as_array()
            .into_iter()
            .flatten()
            .collect();
        let normal = vocab
            .iter()
            .map(|(token, id)| (id, token.as_str(), TYPE_NORMAL));
        let special = added.iter().filter_map(|token| {
            let ty = match token["special"].as_bool() {
                Some(true) => TYPE_CONTROL,
                _ => TYPE_USER_DEFINED,
            };
            Some((&token["id"], token["content"].as_str()?, ty))
        });
        let mut tokens = Vec::new();
        for (id, token, ty) in normal.chain(special) {
            let id = id.as_u64().expect("`tokenizers` writes ids as numbers") as usize;
            if id >= tokens.len() {
                tokens.resize(id + 1, None);
            }
            tokens[id] = Some((token.to_owned(), ty));
        }
        let merges: Vec<String> = (json["model"]["merges"].as_array().into_iter().flatten())
            .map(|merge| match merge.as_array().map(Vec::as_slice) {
                Some([left, right]) => {
                    let part = |v: &Value| v.as_str().unwrap_or_default().to_owned();
                    part(left) + " " + &part(right)
                }
                _ => merge.as_str().unwrap_or_default().to_owned(),
            })
            .collect();
        let eot = EOT_TOKENS
            .iter()
            .find_map(|end| tokenizer.inner().token_to_id(end));
        let eos = (tokenizer.declared_eos().filter(|id| Some(*id) != eot).min()).or(eot);
        let model = match pre_tokenizer::described(&json) {
            Some(pre) => BpeModel::ByteLevel {
                pre: pre.name(),
                merges,
            },
            None => piece_scores::describe(&json, &merges, &mut tokens).map_err(kind)?,
        };
        Ok(Self {
            model,
            tokens,
            bos: tokenizer.bos(),
            eos,
            eot,
            add_bos: tokenizer.adds_bos(),
            add_eos: eos.is_some() && tokenizer.appended_eos() == eos,
            chat_template: tokenizer::chat_template(folder)?,
        })
    }
}
