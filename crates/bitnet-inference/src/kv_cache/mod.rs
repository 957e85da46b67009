//! The KV cache: the tokens and pages of each sequence, and the pages guaranteed to it.
//!
//! - *Invariant:* the pages in use, plus those still needed to fulfil all guarantees, are at
//!   most `max_pages`. So a started sequence always gets its guaranteed pages.

#[cfg(feature = "gpu")]
pub(crate) mod device_pages;
pub(crate) mod page_file;
pub(crate) mod pages;

use bitnet_core::{KvPage, KvPrecision, KvShape, OutOfMemory};
use pages::Pages;

use crate::spec::config::Config;

/// The KV cache of several sequences.
#[derive(Debug)]
pub(crate) struct KvCache {
    pages: Pages,
    sequences: Vec<Sequence>,
    context_len: usize,
    max_pages: usize,
}

#[derive(Clone, Debug, Default)]
struct Sequence {
    is_started: bool,
    /// The tokens of its positions.
    tokens: Vec<u32>,
    /// Number of positions with guaranteed pages.
    guaranteed: usize,
}

/// A handle of a started sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceHandle {
    /// Index of the sequence.
    pub sequence: usize,
    /// Number of leading prompt tokens that are already in the KV cache and need not be
    /// computed.
    pub n_reused: usize,
}

/// Options of a [`KvCache`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvCacheOptions {
    pub(crate) n_sequences: usize,
    /// Positions per sequence.
    pub(crate) context_len: usize,
    pub(crate) max_pages: usize,
}

/// A number of positions to add to a sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Growth {
    pub(crate) sequence: usize,
    pub(crate) n_new: usize,
}

/// The memory usage of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvUsage {
    /// Pages in use; a shared page counts once.
    pub pages: usize,
    /// Maximum number of pages.
    pub max_pages: usize,
    /// Bytes per page.
    pub page_bytes: usize,
    /// Additional pages that would be in use without sharing.
    pub shared_pages: usize,
    /// Unused positions in the last pages of all sequences: internal fragmentation, less than
    /// a page per sequence. There is no external fragmentation, since any free page serves any
    /// sequence.
    pub unused_positions: usize,
}

/// Returns the shape of the keys and values of a position.
pub(crate) fn shape(config: &Config, precision: KvPrecision) -> KvShape {
    KvShape {
        precision,
        n_heads: config.n_layers * config.n_kv_heads,
        head_dim: config.head_dim,
    }
}

impl KvCache {
    /// Returns an empty cache.
    pub(crate) fn new(pages: Pages, options: KvCacheOptions) -> Self {
        Self {
            pages,
            sequences: vec![Sequence::default(); options.n_sequences],
            context_len: options.context_len,
            max_pages: options.max_pages,
        }
    }

    /// Returns the tokens of a sequence, one per position.
    pub(crate) fn tokens(&self, sequence: usize) -> &[u32] {
        &self.sequences[sequence].tokens
    }

    /// Returns the length of a sequence in positions.
    pub(crate) fn len(&self, sequence: usize) -> usize {
        self.tokens(sequence).len()
    }

    /// Starts a sequence for a prompt, which shares the pages of the longest common prefix
    /// with another sequence, and guarantees pages for `max_len` positions.
    pub(crate) fn start(
        &mut self,
        prompt: &[u32],
        max_len: usize,
    ) -> Result<SequenceHandle, SequenceError> {
        // The last token is always computed: its logits are needed.
        let known = &prompt[..prompt.len().saturating_sub(1)];
        let (len, source) = self.longest_prefix(known);
        // Sharing a partial page may need one page more than sharing only whole pages.
        let whole_pages = len / KvPage::POSITIONS * KvPage::POSITIONS;
        let max_len = max_len.max(prompt.len());
        let sequence = match self.begin(source, len, max_len) {
            Err(SequenceError::PagesExhausted { .. }) if whole_pages < len => {
                self.begin(source, whole_pages, max_len)
            }
            begun => begun,
        }?;
        Ok(SequenceHandle {
            sequence,
            n_reused: self.len(sequence),
        })
    }

    /// Returns the longest common prefix of these tokens with a sequence, and that sequence.
    fn longest_prefix(&self, tokens: &[u32]) -> (usize, usize) {
        let common = |other| {
            let same = tokens.iter().zip(self.tokens(other));
            same.take_while(|(a, b)| a == b).count()
        };
        let all = (0..self.sequences.len()).map(|other| (common(other), other));
        let best = all.max_by_key(|&(len, other)| (len, std::cmp::Reverse(other)));
        best.unwrap_or_default()
    }

    /// Returns how many whole pages of these tokens a sequence has.
    pub(crate) fn n_pages_of(&self, tokens: &[u32]) -> usize {
        self.longest_prefix(tokens).0 / KvPage::POSITIONS
    }

    /// Starts a sequence with tokens of whole pages. It shares the pages that other sequences
    /// have, and gets the bytes of the others from `read(index)`, up to the first `None`. Returns
    /// its index, or `None` if no page was read.
    ///
    /// # Errors
    ///
    /// Those of [`start`](Self::start). Other sequences are not affected.
    pub(crate) fn restore(
        &mut self,
        tokens: &[u32],
        mut read: impl FnMut(usize) -> Option<Vec<u8>>,
    ) -> Result<Option<usize>, SequenceError> {
        let (len, source) = self.longest_prefix(tokens);
        let n_shared = len / KvPage::POSITIONS;
        let sequence = self.begin(source, n_shared * KvPage::POSITIONS, tokens.len())?;
        let mut n_pages = n_shared;
        while n_pages < tokens.len() / KvPage::POSITIONS {
            let Some(bytes) = read(n_pages) else {
                break;
            };
            if self.pages.push(sequence, bytes).is_err() {
                break;
            }
            n_pages += 1;
        }
        if n_pages == n_shared {
            self.finish(sequence);
            return Ok(None);
        }
        let tokens = &tokens[..n_pages * KvPage::POSITIONS];
        self.sequences[sequence].tokens = tokens.to_vec();
        self.release_guarantee(sequence);
        Ok(Some(sequence))
    }

    /// Starts a copy of another sequence, which shares its pages, and guarantees pages for
    /// `max_len` positions. Returns its index.
    pub(crate) fn fork(&mut self, source: usize, max_len: usize) -> Result<usize, SequenceError> {
        let len = self.len(source);
        self.begin(source, len, max_len.max(len))
    }

    fn begin(&mut self, source: usize, len: usize, max_len: usize) -> Result<usize, SequenceError> {
        if max_len > self.context_len {
            return Err(SequenceError::ContextFull {
                needed: max_len,
                context_len: self.context_len,
            });
        }
        let is_idle = |s: &Sequence| !s.is_started && s.tokens.is_empty();
        let idle = self.sequences.iter().position(is_idle);
        let sequence = idle.ok_or(SequenceError::NoneIdle {
            n_sequences: self.sequences.len(),
        })?;
        let free = self.n_free();
        self.pages.share(source, sequence, len);
        self.sequences[sequence] = Sequence {
            is_started: true,
            tokens: self.tokens(source)[..len].to_vec(),
            guaranteed: max_len,
        };
        let needed = self.n_claimed() + free - self.max_pages;
        if needed > free {
            self.finish(sequence);
            return Err(SequenceError::PagesExhausted {
                needed,
                free,
                max_pages: self.max_pages,
            });
        }
        Ok(sequence)
    }

    /// Ends a sequence and releases its pages, except those shared with other sequences.
    pub(crate) fn finish(&mut self, sequence: usize) {
        self.pages.truncate(sequence, 0);
        self.sequences[sequence] = Sequence::default();
    }

    /// Gives up the guarantee of pages for a sequence to grow.
    pub(crate) fn release_guarantee(&mut self, sequence: usize) {
        self.sequences[sequence].guaranteed = 0;
    }

    /// Truncates a sequence to its first `len` positions. It keeps its guarantee, except for
    /// released pages that other sequences still use.
    pub(crate) fn truncate(&mut self, sequence: usize, len: usize) {
        self.sequences[sequence].tokens.truncate(len);
        self.pages.truncate(sequence, len);
        while self.n_claimed() > self.max_pages {
            let guaranteed = &mut self.sequences[sequence].guaranteed;
            *guaranteed = (guaranteed.div_ceil(KvPage::POSITIONS) - 1) * KvPage::POSITIONS;
        }
    }

    /// Allocates the pages for sequences to grow; `growth` has each sequence at most once.
    ///
    /// # Errors
    ///
    /// Returns an error if too few pages are free or an allocation fails. The cache is then
    /// unchanged.
    pub(crate) fn reserve(
        &mut self,
        growth: impl Iterator<Item = Growth> + Clone,
    ) -> Result<(), SequenceError> {
        let beyond = |Growth { sequence, n_new }| {
            let guaranteed = self.claim(sequence, self.sequences[sequence].guaranteed);
            let claim = self.claim(sequence, self.len(sequence) + n_new);
            claim.saturating_sub(guaranteed)
        };
        let needed = growth.clone().map(beyond).sum();
        // Counting free pages is slow, and usually none are needed.
        if needed > 0 && needed > self.n_free() {
            return Err(SequenceError::PagesExhausted {
                needed,
                free: self.n_free(),
                max_pages: self.max_pages,
            });
        }
        for Growth { sequence, n_new } in growth.clone() {
            let len = self.len(sequence);
            self.sequences[sequence].tokens.reserve(n_new);
            if let Err(error) = self.pages.reserve(sequence, len, len + n_new) {
                for Growth { sequence, .. } in growth {
                    self.pages.truncate(sequence, self.len(sequence));
                }
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Appends a position to a sequence. Its page must be reserved; keys and values must then
    /// be stored for every layer.
    pub(crate) fn push(&mut self, sequence: usize, token: u32) {
        self.sequences[sequence].tokens.push(token);
    }

    /// Returns the pages.
    pub(crate) fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Returns the pages, to store keys and values in reserved ones.
    pub(crate) fn pages_mut(&mut self) -> &mut Pages {
        &mut self.pages
    }

    /// Returns the memory usage.
    pub(crate) fn usage(&self) -> KvUsage {
        let sequences = 0..self.sequences.len();
        let in_tables: usize = sequences.map(|s| self.pages.n_pages_of(s)).sum();
        let n_positions: usize = self.sequences.iter().map(|s| s.tokens.len()).sum();
        KvUsage {
            pages: self.pages.n_pages(),
            max_pages: self.max_pages,
            page_bytes: self.pages.page_bytes(),
            shared_pages: in_tables - self.pages.n_pages(),
            unused_positions: in_tables * KvPage::POSITIONS - n_positions,
        }
    }

    /// Returns the number of pages that must be allocated for a sequence of `len` positions.
    fn claim(&self, sequence: usize, len: usize) -> usize {
        (self.pages).n_pages_needed(sequence, self.len(sequence), len)
    }

    /// Returns the number of pages in use, plus those still needed to fulfil guarantees.
    fn n_claimed(&self) -> usize {
        let sequences = self.sequences.iter().enumerate();
        let guaranteed = sequences.map(|(i, sequence)| self.claim(i, sequence.guaranteed));
        self.pages.n_pages() + guaranteed.sum::<usize>()
    }

    /// Returns the number of pages neither in use nor guaranteed.
    fn n_free(&self) -> usize {
        self.max_pages - self.n_claimed()
    }
}

/// An error when a sequence starts or grows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SequenceError {
    /// All sequences are in use.
    #[error("all {n_sequences} sequences are in use")]
    NoneIdle {
        /// Number of sequences.
        n_sequences: usize,
    },
    /// A sequence would exceed the context.
    #[error("{needed} tokens do not fit into the context of {context_len}")]
    ContextFull {
        /// Required number of positions.
        needed: usize,
        /// Maximum number of positions.
        context_len: usize,
    },
    /// Too few pages are free, that is neither in use nor guaranteed.
    #[error(
        "keys and values need {needed} more pages of {} positions, but of {max_pages} only {free} are free",
        KvPage::POSITIONS
    )]
    PagesExhausted {
        /// Number of additional pages required.
        needed: usize,
        /// Number of free pages.
        free: usize,
        /// Maximum number of pages.
        max_pages: usize,
    },
    /// The allocation of a page failed.
    #[error("failed to take a page of keys and values")]
    Memory(#[from] OutOfMemory),
}

/// A tiny configuration.
#[cfg(test)]
pub(crate) fn test_config() -> Config {
    use crate::spec::config::{Activation, ActivationPrecision};
    use crate::spec::family::LLAMA;
    use crate::spec::multipliers::Multipliers;
    use crate::spec::rope::{Rope, RopeScaling};

    Config {
        family: &LLAMA,
        hidden_dim: 4,
        n_layers: 2,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 2,
        ffn_dim: 4,
        vocab_size: 100,
        context_len: 1000,
        rms_norm_eps: 1e-5,
        rope: Rope {
            theta: 10_000.0,
            n_dims: 2,
            scaling: RopeScaling::None,
        },
        activation: Activation::Silu,
        tied_embeddings: true,
        projection_norms: false,
        dense_linears: false,
        activations: ActivationPrecision::Int8,
        pooling: None,
        multipliers: Multipliers::plain(2),
        sliding: None,
    }
}

#[cfg(test)]
mod tests;
