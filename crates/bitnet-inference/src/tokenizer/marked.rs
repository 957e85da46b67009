//! Encoding of text in which only marked spellings become control tokens.

use std::collections::HashMap;

use tokenizers::{AddedToken, Model, OffsetType, PreTokenizer};

use super::{Source, Tokenizer, TokenizerError};

impl Tokenizer {
    /// Returns the control tokens: added tokens that the files declare special, and
    /// those that end generation. Tokens of one character are excluded, since every
    /// character must be representable as text.
    pub(crate) fn control_tokens(&self) -> Vec<(u32, AddedToken)> {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let is_control = |id: u32, token: &AddedToken| {
            (token.special || self.is_eog(id)) && token.content.chars().nth(1).is_some()
        };
        let mut tokens: Vec<_> = (added.iter())
            .filter(|(id, token)| is_control(**id, token))
            .map(|(id, token)| (*id, token.clone()))
            .collect();
        tokens.sort_unstable_by_key(|(id, _)| *id);
        tokens
    }

    /// Returns the ids of a text, as [`encode_without_bos`](Self::encode_without_bos), in which only
    /// `control` tokens preceded by `mark` are recognized; all other spellings of them
    /// are text. The mark itself is not part of the text.
    pub(crate) fn encode_marked(
        &self,
        text: &str,
        mark: char,
        control: &[(u32, AddedToken)],
    ) -> Result<Vec<u32>, TokenizerError> {
        let failed = |source: Source| TokenizerError::Encode { source };
        let (model, normalizer) = (self.inner.get_model(), self.inner.get_normalizer());

        // Control tokens are not matched; their marked variants are, as temporary tokens
        // with ids of their own.
        let mut vocabulary = self.inner.get_added_vocabulary().clone();
        let twin = |token: &AddedToken| format!("{mark}{}", token.content);
        let unmarked = control.iter().map(|(_, token)| token.clone().special(true));
        let marked = control.iter().map(|(_, token)| AddedToken {
            content: twin(token),
            special: false,
            normalized: false,
            ..token.clone()
        });
        (vocabulary.add_tokens(unmarked.chain(marked), model, normalizer)).map_err(failed)?;
        vocabulary.set_encode_special_tokens(true);
        let twins: HashMap<u32, u32> = control
            .iter()
            .filter_map(|(id, token)| Some((vocabulary.token_to_id(&twin(token), model)?, *id)))
            .collect();

        let mut pieces = vocabulary.extract_and_normalize(normalizer, text);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(failed)?;
        }
        pieces
            .tokenize(|piece| model.tokenize(piece.get()))
            .map_err(failed)?;
        let encoding = (pieces.into_encoding(None, 0, OffsetType::None)).map_err(failed)?;

        let mut ids = Vec::with_capacity(encoding.get_ids().len());
        for id in encoding.get_ids() {
            if let Some(id) = twins.get(id) {
                ids.push(*id);
            } else if let Ok(i) = control.binary_search_by_key(id, |(id, _)| *id) {
                // The model itself merges the spelling to the token, so its characters are
                // encoded separately.
                for c in control[i].1.content.chars() {
                    let tokens = model.tokenize(&c.to_string()).map_err(failed)?;
                    ids.extend(tokens.iter().map(|token| token.id));
                }
            } else {
                ids.push(*id);
            }
        }
        self.check_rows(&ids)?;
        Ok(ids)
    }
}
