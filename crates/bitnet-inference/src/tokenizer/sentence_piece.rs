//! SentencePiece BPE from GGUF files (`llama`): pieces with scores, and byte fallback.
//!
//! SentencePiece merges the adjacent pair whose piece has the highest score. That is BPE
//! with a merge for every split of a piece in two, ordered by score, as in
//! `transformers`.

use std::cmp::Reverse;

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::utils::Sequence as Normalizers;
use tokenizers::{DecoderWrapper, NormalizerWrapper};

use super::gguf::{TYPE_NORMAL, Vocabulary, note_missing};
use super::{TokenizerError, TokenizerNote};

/// The symbol for a space (U+2581).
const SPACE: &str = "▁";
/// Maximum length in bytes of a merged piece. SentencePiece's default limit is 16
/// characters.
const MAX_PIECE: usize = 256;
/// Maximum average number of merges per piece; LLaMA 2 has 1.9. No learned vocabulary
/// has more.
const MAX_MERGES_PER_PIECE: usize = 8;

/// Returns the tokenizer of a vocabulary with `scores`.
pub(super) fn build(
    vocabulary: &Vocabulary<'_>,
    scores: &[f32],
    space_prefix: bool,
    notes: &mut Vec<TokenizerNote>,
) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let build_error = |source| TokenizerError::Build { source };
    let merges = merges(vocabulary, scores)?;
    let mut builder = BPE::builder()
        .vocab_and_merges(vocabulary.ids(), merges)
        .byte_fallback(true)
        .fuse_unk(true);
    if let Some(unknown) = vocabulary.unknown() {
        builder = builder.unk_token(unknown.to_owned());
    } else {
        let is_missing = |byte: &u8| vocabulary.id(&format!("<0x{byte:02X}>")).is_none();
        note_missing((0..=u8::MAX).filter(is_missing), notes);
    }
    let mut inner = tokenizers::Tokenizer::new(builder.build().map_err(build_error)?);

    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    let mut decoders: Vec<DecoderWrapper> = vec![
        Replace::new(SPACE, " ").map_err(build_error)?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if space_prefix {
        normalizers.push(Prepend::new(SPACE.to_owned()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    normalizers.push(Replace::new(" ", SPACE).map_err(build_error)?.into());
    inner
        .with_normalizer(Some(Normalizers::new(normalizers)))
        .map_err(build_error)?;
    inner.with_decoder(Some(Decoders::new(decoders)));
    Ok(inner)
}

/// Returns every split of a piece into two pieces, the highest score first.
fn merges(
    vocabulary: &Vocabulary<'_>,
    scores: &[f32],
) -> Result<Vec<(String, String)>, TokenizerError> {
    let mut merges = Vec::new();
    for (id, piece) in vocabulary.tokens.iter().enumerate() {
        if vocabulary.kind(id) != TYPE_NORMAL || piece.len() > MAX_PIECE {
            continue;
        }
        // Encoding uses the first of duplicate pieces.
        if vocabulary.id(piece) != u32::try_from(id).ok() {
            continue;
        }
        if scores[id].is_nan() {
            return Err(TokenizerError::Score {
                id,
                score: scores[id],
            });
        }
        let first = merges.len();
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(left), Some(right)) = (vocabulary.id(left), vocabulary.id(right)) {
                merges.push((scores[id], [left, right]));
            }
        }
        merges[first..].sort_by_key(|(_, parts)| *parts);
        if merges.len() > MAX_MERGES_PER_PIECE * vocabulary.tokens.len() {
            return Err(TokenizerError::TooManyMerges {
                n_tokens: vocabulary.tokens.len(),
            });
        }
    }
    let token = |id: u32| vocabulary.tokens[id as usize].as_str();
    let length = |id: u32| token(id).chars().count();
    // Ties: longer parts first, then the order of the vocabulary.
    merges.sort_by(|(a, [a_left, a_right]), (b, [b_left, b_right])| {
        b.total_cmp(a).then_with(|| {
            let key = |left, right| Reverse((length(left), length(right)));
            key(*a_left, *a_right).cmp(&key(*b_left, *b_right))
        })
    });
    Ok(merges
        .into_iter()
        .map(|(_, [left, right])| (token(left).to_owned(), token(right).to_owned()))
        .collect())
}
