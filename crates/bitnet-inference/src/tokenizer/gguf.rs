//! Tokenizers from GGUF metadata: byte-level BPE.

use std::collections::HashSet;

use ahash::AHashMap;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::{Tokenizer, TokenizerError, check_merges};
use crate::format::gguf::Gguf;
use crate::model::family::Family;

pub(crate) const MODEL: &str = "tokenizer.ggml.model";
pub(crate) const PRE: &str = "tokenizer.ggml.pre";
pub(crate) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(crate) const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
pub(crate) const MERGES: &str = "tokenizer.ggml.merges";
pub(crate) const BOS: &str = "tokenizer.ggml.bos_token_id";
pub(crate) const EOS: &str = "tokenizer.ggml.eos_token_id";
pub(crate) const EOT: &str = "tokenizer.ggml.eot_token_id";
pub(crate) const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
pub(crate) const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// A token of ordinary text, in [`TOKEN_TYPE`].
pub(crate) const TYPE_NORMAL: i32 = 1;
/// A special token that is not part of the text.
pub(crate) const TYPE_CONTROL: i32 = 3;
/// A token added by hand, part of the text.
pub(crate) const TYPE_USER_DEFINED: i32 = 4;
/// An id that no text has.
pub(crate) const TYPE_UNUSED: i32 = 5;

/// How Llama 3 cuts text before merging, `llama-bpe` in GGUF.
pub(crate) const LLAMA_BPE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

pub(super) fn build(gguf: &Gguf, family: &Family) -> Result<Tokenizer, TokenizerError> {
    let unsupported = |key, found: &str, supported| TokenizerError::Unsupported {
        key,
        found: found.to_owned(),
        supported,
    };
    let missing = |key| TokenizerError::MissingKey { key };
    match gguf.string(MODEL)?.ok_or_else(|| missing(MODEL))? {
        "gpt2" => {}
        other => return Err(unsupported(MODEL, other, "gpt2 (byte-level BPE)")),
    }
    match gguf.string(PRE)?.or(family.pre_tokenizer) {
        Some("llama-bpe" | "llama3" | "llama-v3") => {}
        Some(other) => return Err(unsupported(PRE, other, "llama-bpe")),
        None => return Err(missing(PRE)),
    }
    let tokens = gguf.strings(TOKENS)?.ok_or_else(|| missing(TOKENS))?;
    let merges = gguf.strings(MERGES)?.ok_or_else(|| missing(MERGES))?;
    let types = gguf.integers(TOKEN_TYPE)?;
    if let Some(types) = &types
        && types.len() != tokens.len()
    {
        return Err(TokenizerError::TokenTypes {
            expected: tokens.len(),
            found: types.len(),
        });
    }
    let special_id = |key| match gguf.unsigned(key)? {
        Some(id) if id >= tokens.len() as u64 => Err(TokenizerError::SpecialId {
            key,
            id,
            n_tokens: tokens.len(),
        }),
        id => Ok(id.map(|id| id as u32)),
    };
    let bos = special_id(BOS)?;
    let eos: Vec<u32> = [special_id(EOS)?, special_id(EOT)?]
        .into_iter()
        .flatten()
        .collect();
    // Llama 3's tokenizer begins every text with BOS unless told otherwise.
    let add_bos = gguf.boolean(ADD_BOS)?.unwrap_or(true);

    let mut seen = HashSet::with_capacity(tokens.len());
    if let Some((id, token)) = (tokens.iter().enumerate()).find(|(_, token)| !seen.insert(*token)) {
        return Err(TokenizerError::DuplicateToken {
            id,
            token: token.clone(),
        });
    }
    // A byte-level token has no space, so the first one parts the pair.
    let pairs = || merges.iter().map(|m| m.split_once(' ').unwrap_or((m, "")));
    check_merges(tokens.iter().map(String::len), pairs(), "")?;
    let build_error = |source| TokenizerError::Build { source };
    let bpe = BPE::builder()
        .vocab_and_merges(
            tokens.iter().cloned().zip(0..).collect::<AHashMap<_, _>>(),
            pairs()
                .map(|(left, right)| (left.to_owned(), right.to_owned()))
                .collect(),
        )
        .ignore_merges(true)
        .build()
        .map_err(build_error)?;

    let mut inner = tokenizers::Tokenizer::new(bpe);
    let split = Split::new(
        SplitPattern::Regex(LLAMA_BPE.to_owned()),
        SplitDelimiterBehavior::Isolated,
        false,
    )
    .map_err(build_error)?;
    inner.with_pre_tokenizer(Some(Sequence::new(vec![
        split.into(),
        ByteLevel::new(false, true, false).into(),
    ])));
    inner.with_decoder(Some(ByteLevel::default()));
    let added = types.iter().flatten().zip(tokens);
    let added: Vec<_> = added
        .filter_map(|(&ty, token)| match i32::try_from(ty) {
            Ok(TYPE_CONTROL) => Some(AddedToken::from(token.clone(), true)),
            Ok(TYPE_USER_DEFINED) => Some(AddedToken::from(token.clone(), false).normalized(false)),
            _ => None,
        })
        .collect();
    inner.add_tokens(added).map_err(build_error)?;
    if let (true, Some(bos)) = (add_bos, bos) {
        let token = tokens[bos as usize].clone();
        let template = TemplateProcessing::builder()
            .try_single(vec![token.clone(), "$A".to_owned()])
            .map_err(|message| build_error(message.into()))?
            .special_tokens(vec![(token, bos)])
            .build()
            .map_err(|error| build_error(Box::new(error)))?;
        inner.with_post_processor(Some(template));
    }
    Ok(Tokenizer::new(inner, bos, add_bos, &eos))
}
