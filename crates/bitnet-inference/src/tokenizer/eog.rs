//! End-of-generation tokens by their text.
//!
//! Files name one end, or a few; models write others, too. The lists are those of
//! llama.cpp (`llama_vocab::impl::load`), whatever the type of the token.

use std::collections::BTreeSet;

/// Ends of texts, turns and messages.
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Separators between code files, and padding.
const GAPS: [&str; 11] = [
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Returns the ids of the tokens of a vocabulary that end generation by their text.
pub(super) fn by_text(id_of: impl Fn(&str) -> Option<u32>) -> BTreeSet<u32> {
    let mut ends: BTreeSet<u32> = ENDS
        .iter()
        .chain(&GAPS)
        .filter_map(|end| id_of(end))
        .collect();
    let has = |text| id_of(text).is_some();
    let has_call = has("<|call|>") || has("<|calls|>");
    // With these, the token separates the channels of one answer.
    if has_call && (has("<|return|>") || has("<|flush|>")) {
        ends.retain(|id| Some(*id) != id_of("<|end|>"));
    }
    // With this one, the token is an HTML tag.
    if has("<|tool_response>") {
        ends.retain(|id| Some(*id) != id_of("</s>"));
    }
    ends
}

/// Returns whether llama.cpp treats a token of this text as a control token, regardless
/// of its type in the file.
pub(super) fn is_control(text: &str) -> bool {
    ENDS.contains(&text) || GAPS.contains(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(vocabulary: &[&str]) -> Vec<u32> {
        let id_of = |text: &str| vocabulary.iter().position(|known| *known == text);
        let ends = by_text(|text| id_of(text).map(|id| id as u32));
        ends.into_iter().collect()
    }

    #[test]
    fn one_text_ends_some_models_and_not_others() {
        assert_eq!(ends(&["a", "<|end|>", "<|endoftext|>"]), [1, 2]);
        assert_eq!(ends(&["<|end|>", "<|return|>", "<|call|>"]), [1, 2]);
        assert_eq!(ends(&["<|end|>", "<|flush|>", "<|calls|>"]), [1, 2]);
        assert_eq!(ends(&["<|end|>", "<|return|>"]), [0, 1]);
        assert_eq!(ends(&["</s>", "<eos>"]), [0, 1]);
        assert_eq!(ends(&["</s>", "<eos>", "<|tool_response>"]), [1, 2]);
        assert!(ends(&["<s>", "<|im_start|>", "<pad>"]).is_empty());
    }
}
