//! Keys and values of the positions seen so far: which sequence holds what, and
//! which pages are kept free for it.
//!
//! - *Invariant:* the pages in use, and those that sequences may still need up to
//!   what they were guaranteed, are at most the pages that there are. So a sequence that
//!   began is never refused what it was guaranteed, whatever others do.

use bitnet_core::{
    Heads, HybridMemoryPool, Isa, KeyValue, KvPage, KvPrecision, KvShape, OutOfMemory, PagedKv,
    RowPosition,
};

use crate::spec::config::Config;

/// Keys and values of several sequences side by side.
#[derive(Debug)]
pub(crate) struct KvCache {
    paged: PagedKv,
    sequences: Vec<Sequence>,
    /// The heads of the first layer.
    heads: Heads,
    context_len: usize,
    max_pages: usize,
}

#[derive(Clone, Debug, Default)]
struct Sequence {
    is_started: bool,
    /// Whose keys and values it holds.
    tokens: Vec<u32>,
    /// Positions up to which pages are kept free for it.
    guaranteed: usize,
}

/// A handle of a sequence that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceHandle {
    /// Which one it is.
    pub sequence: usize,
    /// Positions that it holds already: so many tokens of the prompt need not be
    /// computed.
    pub n_reused: usize,
}

/// What a [`KvCache`] has room for, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvCacheOptions {
    pub(crate) precision: KvPrecision,
    pub(crate) n_sequences: usize,
    /// Positions per sequence.
    pub(crate) context_len: usize,
    pub(crate) max_pages: usize,
}

/// Positions that are to be added to a sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Growth {
    pub(crate) sequence: usize,
    pub(crate) n_new: usize,
}

/// What keys and values take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvUsage {
    /// Pages that sequences hold; one that several share counts once.
    pub pages: usize,
    /// The most pages that there can be.
    pub max_pages: usize,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// Pages more that there would be if none were shared.
    pub shared_pages: usize,
    /// Positions that the last pages of all sequences have room for beyond what
    /// the sequences hold: internal fragmentation, less than a page for each.
    /// There is no other kind, since any free page serves any sequence.
    pub unused_positions: usize,
}

/// Returns the extents of a position.
pub(crate) fn shape(config: &Config, precision: KvPrecision) -> KvShape {
    KvShape {
        precision,
        n_heads: config.n_layers * config.n_kv_heads,
        head_dim: config.head_dim,
    }
}

impl KvCache {
    /// Makes an empty cache, which takes memory as it is filled.
    pub(crate) fn new(pool: &HybridMemoryPool, config: &Config, options: KvCacheOptions) -> Self {
        let shape = shape(config, options.precision);
        Self {
            paged: PagedKv::new(pool, shape, options.n_sequences),
            sequences: vec![Sequence::default(); options.n_sequences],
            heads: Heads {
                first: 0,
                n_kv_heads: config.n_kv_heads,
                n_heads: config.n_heads,
                scale: config.multipliers.attention,
                window: None,
            },
            context_len: options.context_len,
            max_pages: options.max_pages,
        }
    }

    /// Returns the tokens whose keys and values a sequence holds.
    pub(crate) fn tokens(&self, sequence: usize) -> &[u32] {
        &self.sequences[sequence].tokens
    }

    /// Returns the positions that a sequence holds.
    pub(crate) fn len(&self, sequence: usize) -> usize {
        self.tokens(sequence).len()
    }

    /// Begins a sequence for a prompt with what others hold of its beginning, and
    /// guarantees pages for `max_len` positions.
    pub(crate) fn start(
        &mut self,
        prompt: &[u32],
        max_len: usize,
    ) -> Result<SequenceHandle, SequenceError> {
        // The last token has to be computed, since its logits are wanted.
        let known = &prompt[..prompt.len().saturating_sub(1)];
        let common = |tokens: &[u32]| known.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let best = (0..self.sequences.len())
            .map(|other| (common(self.tokens(other)), other))
            .max_by_key(|&(len, other)| (len, std::cmp::Reverse(other)));
        let (len, source) = best.unwrap_or_default();
        // To share a part of a page may take a page more than to share none of it.
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

    /// Begins a sequence with all that another one holds, and guarantees pages for
    /// `max_len` positions.
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
        self.paged.share(source, sequence, len);
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

    /// Ends a sequence: what no other shares is given back.
    pub(crate) fn finish(&mut self, sequence: usize) {
        self.paged.truncate(sequence, 0);
        self.sequences[sequence] = Sequence::default();
    }

    /// Forgets the positions of a sequence from `len` on. It keeps its
    /// guarantee, but for pages that others go on to use.
    pub(crate) fn truncate(&mut self, sequence: usize, len: usize) {
        self.sequences[sequence].tokens.truncate(len);
        self.paged.truncate(sequence, len);
        while self.n_claimed() > self.max_pages {
            let guaranteed = &mut self.sequences[sequence].guaranteed;
            *guaranteed = (guaranteed.div_ceil(KvPage::POSITIONS) - 1) * KvPage::POSITIONS;
        }
    }

    /// Takes the pages for sequences to grow, each sequence once.
    ///
    /// # Errors
    ///
    /// Nothing that can be seen has changed if there is an error.
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
        // Counting what is free takes a while; mostly nothing is needed.
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
            if let Err(error) = self.paged.reserve(sequence, len, len + n_new) {
                for Growth { sequence, .. } in growth {
                    self.paged.truncate(sequence, self.len(sequence));
                }
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Adds a position to a sequence, for which there is room. Its keys and values
    /// are to be stored, in every layer.
    pub(crate) fn push(&mut self, sequence: usize, token: u32) {
        self.sequences[sequence].tokens.push(token);
    }

    /// Stores one position of a sequence for a layer.
    pub(crate) fn store(&mut self, isa: Isa, layer: usize, at: RowPosition, kv: KeyValue<'_>) {
        let first = self.heads(layer).first;
        self.paged.store(isa, at, first, kv);
    }

    /// Returns the keys and values of all layers.
    pub(crate) fn paged(&self) -> &PagedKv {
        &self.paged
    }

    /// Returns which of them are a layer's.
    pub(crate) fn heads(&self, layer: usize) -> Heads {
        Heads {
            first: layer * self.heads.n_kv_heads,
            ..self.heads
        }
    }

    /// Returns what keys and values take.
    pub(crate) fn usage(&self) -> KvUsage {
        let sequences = 0..self.sequences.len();
        let in_tables: usize = sequences.map(|s| self.paged.n_pages_of(s)).sum();
        let n_positions: usize = self.sequences.iter().map(|s| s.tokens.len()).sum();
        KvUsage {
            pages: self.paged.n_pages(),
            max_pages: self.max_pages,
            page_bytes: self.paged.shape().page_bytes(),
            shared_pages: in_tables - self.paged.n_pages(),
            unused_positions: in_tables * KvPage::POSITIONS - n_positions,
        }
    }

    /// Returns the pages that a sequence may need to hold `len` positions.
    fn claim(&self, sequence: usize, len: usize) -> usize {
        (self.paged).n_pages_needed(sequence, self.len(sequence), len)
    }

    /// Returns the pages in use, and those that guarantees may still need.
    fn n_claimed(&self) -> usize {
        let sequences = self.sequences.iter().enumerate();
        let guaranteed = sequences.map(|(i, sequence)| self.claim(i, sequence.guaranteed));
        self.paged.n_pages() + guaranteed.sum::<usize>()
    }

    /// Returns the pages that nobody uses and nobody was guaranteed.
    fn n_free(&self) -> usize {
        self.max_pages - self.n_claimed()
    }
}

/// Why a sequence cannot begin or grow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SequenceError {
    /// Every sequence is in use.
    #[error("all {n_sequences} sequences are in use")]
    NoneIdle {
        /// Sequences that there are.
        n_sequences: usize,
    },
    /// A sequence would exceed the context.
    #[error("{needed} tokens do not fit into the context of {context_len}")]
    ContextFull {
        /// Positions that the sequence would have.
        needed: usize,
        /// Positions that it can have.
        context_len: usize,
    },
    /// There are not enough pages that nobody uses or was guaranteed.
    #[error(
        "keys and values need {needed} more pages of {} positions, but of {max_pages} only {free} are free",
        KvPage::POSITIONS
    )]
    PagesExhausted {
        /// Pages that would have to be taken.
        needed: usize,
        /// Pages that can be taken.
        free: usize,
        /// Pages that there are.
        max_pages: usize,
    },
    /// The system has not enough memory for a page.
    #[error("failed to take a page of keys and values")]
    Memory(#[from] OutOfMemory),
}

#[cfg(test)]
mod tests;
