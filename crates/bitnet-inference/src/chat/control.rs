//! Escaping of control tokens, such as `<|im_end|>`, in messages.
//!
//! A template combines its own text with that of the messages, and only its own may
//! become control tokens. Before the template runs, spellings of control tokens in
//! messages are enclosed in two otherwise unused characters. A marked spelling belongs to
//! a message, any other to the template. The marks are outside of the spelling, so
//! templates can still search messages for it.

use std::collections::HashSet;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::AddedToken;

use crate::tokenizer::{Tokenizer, TokenizerError};

/// The control tokens of a vocabulary.
#[derive(Debug)]
pub(super) struct ControlTokens {
    tokens: Vec<(u32, AddedToken)>,
    finder: AhoCorasick,
    /// Length in bytes of the longest spelling.
    longest: usize,
}

/// The characters before and after a spelling in a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    pub(super) open: char,
    close: char,
}

impl Marks {
    /// Returns two characters that occur in none of the texts, if there are any.
    /// Noncharacters are for such internal use; private-use characters are the fallback.
    pub(super) fn unused_in<'t>(texts: impl Iterator<Item = &'t str>) -> Option<Self> {
        let candidates = || ('\u{FDD0}'..='\u{FDEF}').chain('\u{F_0000}'..='\u{F_FFFD}');
        let is_candidate = |c: &char| ('\u{FDD0}'..='\u{FDEF}').contains(c) || *c >= '\u{F_0000}';
        let used: HashSet<char> = texts.flat_map(str::chars).filter(is_candidate).collect();
        let mut unused = candidates().filter(|c| !used.contains(c));
        Some(Self {
            open: unused.next()?,
            close: unused.next()?,
        })
    }

    /// Appends a text without its marks.
    fn append_unmarked(self, text: &mut String, marked: &str) {
        text.extend(
            marked
                .chars()
                .filter(|c| ![self.open, self.close].contains(c)),
        );
    }
}

impl ControlTokens {
    /// Returns the control tokens of a tokenizer.
    pub(super) fn new(tokenizer: &Tokenizer) -> Result<Self, TokenizerError> {
        let tokens = tokenizer.control_tokens();
        let spellings = tokens.iter().map(|(_, token)| token.content.as_str());
        let longest = spellings.clone().map(str::len).max().unwrap_or(0);
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(spellings)
            .map_err(|error| TokenizerError::Build {
                source: Box::new(error),
            })?;
        Ok(Self {
            tokens,
            finder,
            longest,
        })
    }

    /// Returns a message with marks around spellings of control tokens, and before a partial
    /// spelling at its end that the following text could complete.
    pub(super) fn mark(&self, message: &str, marks: Marks) -> String {
        let mut text = String::with_capacity(message.len());
        let mut at = 0;
        for found in self.finder.find_iter(message) {
            text += &message[at..found.start()];
            text.push(marks.open);
            text += &message[found.range()];
            text.push(marks.close);
            at = found.end();
        }
        let rest = &message[at..];
        // Templates may strip spaces.
        let end = rest.trim_end().len();
        for (i, c) in rest.char_indices() {
            if i < end && end - i < self.longest && self.is_beginning(&rest[i..end]) {
                text.push(marks.open);
            }
            text.push(c);
        }
        text
    }

    /// Returns whether `text` is a proper prefix of a spelling.
    fn is_beginning(&self, text: &str) -> bool {
        let mut spellings = self.tokens.iter().map(|(_, token)| &token.content);
        spellings.any(|spelling| spelling.len() > text.len() && spelling.starts_with(text))
    }

    /// Returns the rendered text of marked messages without their marks, but with `open`
    /// before each control token that the template wrote.
    pub(super) fn mark_written(&self, rendered: &str, marks: Marks) -> String {
        let mut text = String::with_capacity(rendered.len());
        let mut at = 0;
        for found in self.finder.find_iter(rendered) {
            let is_said = rendered[..found.start()].ends_with(marks.open)
                || rendered[found.end()..].starts_with(marks.close);
            if is_said {
                continue;
            }
            marks.append_unmarked(&mut text, &rendered[at..found.start()]);
            text.push(marks.open);
            text += &rendered[found.range()];
            at = found.end();
        }
        marks.append_unmarked(&mut text, &rendered[at..]);
        text
    }

    /// Returns the ids of the text from [`mark_written`](Self::mark_written).
    pub(super) fn encode(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        marks: Marks,
    ) -> Result<Vec<u32>, TokenizerError> {
        tokenizer.encode_marked(text, marks.open, &self.tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_characters_that_no_text_has() {
        let marks = Marks::unused_in(["a\u{FDD0}", "\u{FDD2}é"].into_iter()).unwrap();
        assert_eq!((marks.open, marks.close), ('\u{FDD1}', '\u{FDD3}'));
        let all: String = ('\u{FDD0}'..='\u{FDEF}').collect();
        let marks = Marks::unused_in([all.as_str()].into_iter()).unwrap();
        assert_eq!((marks.open, marks.close), ('\u{F0000}', '\u{F0001}'));
        let private: String = ('\u{F0000}'..='\u{FFFFD}').collect();
        assert!(Marks::unused_in([all.as_str(), &private].into_iter()).is_none());
    }
}
