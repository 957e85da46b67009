//! Sets of tokens of a vocabulary.

/// A set of token ids below a fixed number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSet {
    words: Vec<u32>,
}

impl TokenSet {
    /// Returns an empty set for ids below `vocab_size`.
    pub fn new(vocab_size: usize) -> Self {
        Self {
            words: vec![0; vocab_size.div_ceil(u32::BITS as usize)],
        }
    }

    /// Returns whether a token is in the set.
    pub fn contains(&self, id: u32) -> bool {
        let word = self.words.get((id / u32::BITS) as usize);
        word.is_some_and(|word| word >> (id % u32::BITS) & 1 == 1)
    }

    /// Adds a token.
    ///
    /// # Panics
    ///
    /// Panics if the id is beyond the vocabulary.
    pub fn insert(&mut self, id: u32) {
        self.words[(id / u32::BITS) as usize] |= 1 << (id % u32::BITS);
    }

    /// Replaces the set by that of these bits, 32 ids per word from the lowest bit on.
    /// Missing words are empty.
    pub fn set_words(&mut self, words: &[u32]) {
        let n = self.words.len().min(words.len());
        self.words[..n].copy_from_slice(&words[..n]);
        self.words[n..].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_inserted() {
        let mut set = TokenSet::new(70);
        for id in [0, 31, 32, 69] {
            set.insert(id);
        }
        let found: Vec<u32> = (0..100).filter(|id| set.contains(*id)).collect();
        assert_eq!(found, [0, 31, 32, 69]);
        set.set_words(&[0b101]);
        let found: Vec<u32> = (0..100).filter(|id| set.contains(*id)).collect();
        assert_eq!(found, [0, 2]);
    }
}
