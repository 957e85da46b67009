//! Packing the codes of stored rows without decoding them.

use crate::arch::NullaryFnOnce;
use crate::panel::PackedBlock;

/// The order of the codes 0, 1, 2 of a row, for -1, 0, +1, that is stored in chunks of four
/// runs:
///
/// ```text
/// byte j of a chunk, j in 0..len:
///   bits 7:6          5:4          3:2        1:0
///   col  3·len + j    2·len + j    len + j    j
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeRuns {
    /// The bytes of a chunk.
    pub len: RunLen,
    /// Whether the first run is in the highest bits instead of the lowest.
    pub is_high_first: bool,
}

/// The length of the runs of [`CodeRuns`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunLen {
    /// 16 columns.
    Sixteen,
    /// 32 columns.
    ThirtyTwo,
}

/// The rows of a ternary matrix, in any order and on any thread.
///
/// Closures that fill a row with trits are rows.
pub trait TernaryRows<E>: Sync {
    /// Fills a row, `[n_cols]`, with -1, 0, +1.
    ///
    /// # Errors
    ///
    /// Returns an error if the row has none.
    fn decode(&self, row: usize, trits: &mut [i8]) -> Result<(), E>;

    /// Copies the codes of a row as they are stored, `[n_cols / 4]`, and returns their order;
    /// `None` if it is not of [`CodeRuns`]. Packing decodes the row if it returns `None` or
    /// there is a code 3.
    fn copy_codes(&self, row: usize, codes: &mut [u8]) -> Option<CodeRuns> {
        let _ = (row, codes);
        None
    }
}

impl<E, F> TernaryRows<E> for F
where
    F: Fn(usize, &mut [i8]) -> Result<(), E> + Sync,
{
    fn decode(&self, row: usize, trits: &mut [i8]) -> Result<(), E> {
        self(row, trits)
    }
}

/// Transposes the codes of all sixteen bytes, seen as four words: the bits `2f+1:2f` of the
/// bytes of word w become the bits `2w+1:2w` of word f, which then is the row's part of a
/// block of sixteen columns. Returns whether no code is 3.
pub(super) struct Transpose<'a>(pub(super) &'a mut [[u64; 2]]);

impl NullaryFnOnce for Transpose<'_> {
    type Output = bool;

    #[inline(always)]
    fn call(self) -> bool {
        const NIBBLES: u64 = 0x0f0f_0f0f_0f0f_0f0f;
        const ODD_OF_LOW_WORD: u64 = 0xcccc_cccc;
        const LOW_BITS: u64 = 0x5555_5555_5555_5555;
        let mut threes = 0;
        for [a, b] in self.0 {
            let (mut low, mut high) = (u64::from_le(*a), u64::from_le(*b));
            threes |= (low & low >> 1) | (high & high >> 1);
            // The 2 x 2 blocks of codes off the diagonal, then the codes of each block.
            let swapped = (low >> 4 ^ high) & NIBBLES;
            high ^= swapped;
            low ^= swapped << 4;
            for (word, out) in [(low, a), (high, b)] {
                let swapped = (word ^ word >> 30) & ODD_OF_LOW_WORD;
                *out = word ^ swapped ^ swapped << 30;
            }
        }
        threes & LOW_BITS == 0
    }
}

impl CodeRuns {
    /// Writes the transposed codes of a row to its bytes of each block.
    pub(super) fn scatter(
        self,
        words: &[[u64; 2]],
        row_in_panel: usize,
        blocks: &mut [PackedBlock],
    ) {
        match self.len {
            RunLen::Sixteen => self.scatter_chunks::<1, 4>(words, row_in_panel, blocks),
            RunLen::ThirtyTwo => self.scatter_chunks::<2, 8>(words, row_in_panel, blocks),
        }
    }

    /// Writes chunks of `PARTS` times sixteen bytes to `BLOCKS` blocks each.
    fn scatter_chunks<const PARTS: usize, const BLOCKS: usize>(
        self,
        words: &[[u64; 2]],
        row_in_panel: usize,
        blocks: &mut [PackedBlock],
    ) {
        assert!(words.len().is_multiple_of(PARTS), "whole chunks");
        let (blocks, _) = blocks.as_chunks_mut::<BLOCKS>();
        for (parts, blocks) in words.as_chunks::<PARTS>().0.iter().zip(blocks) {
            for (part, [low, high]) in parts.iter().enumerate() {
                let quads = [*low, low >> 32, *high, high >> 32];
                for (run, quad) in quads.into_iter().enumerate() {
                    let run = if self.is_high_first { 3 - run } else { run };
                    let quad = (quad as u32).to_le_bytes();
                    blocks[PARTS * run + part].0.as_chunks_mut().0[row_in_panel] = quad;
                }
            }
        }
    }
}
