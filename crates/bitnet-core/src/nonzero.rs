//! Lists of the activations that are not zero.

use crate::memory::{Buffer, Category, HybridMemoryPool, OutOfMemory};
use crate::thread_pool::{DisjointMut, ThreadPool};

/// Entries of a list are in groups of this many.
const QUAD: usize = 4;

/// Columns per word of a mask.
const WORD_COLS: usize = u64::BITS as usize;

/// The columns of each row of a batch whose activation is not zero, in order, and these
/// activations.
#[derive(Debug)]
pub(crate) struct Nonzero {
    /// `[max_rows, stride]`
    cols: Buffer<u16>,
    /// `[max_rows, stride]`
    values: Buffer<i8>,
    /// `[max_rows]`, without padding.
    lens: Buffer<u32>,
    /// `[max_rows, n_words]`: the columns that are not zero.
    masks: Buffer<u64>,
    max_cols: usize,
    /// The listed rows.
    n_rows: usize,
    /// Columns that are not zero in at least one listed row.
    n_cols_in_any: usize,
}

impl Nonzero {
    /// The maximum number of columns.
    const MAX_COLS: usize = 1 << u16::BITS;

    /// Returns the bytes that [`with_capacity`](Self::with_capacity) allocates.
    pub(crate) fn n_bytes(max_rows: usize, max_cols: usize) -> usize {
        let entries = max_cols.next_multiple_of(QUAD) * (size_of::<u16>() + size_of::<i8>());
        let mask = max_cols.div_ceil(WORD_COLS) * size_of::<u64>();
        max_rows * (entries + mask + size_of::<u32>())
    }

    /// Returns lists for up to `max_rows` rows of `max_cols` columns.
    pub(crate) fn with_capacity(
        pool: &HybridMemoryPool,
        max_rows: usize,
        max_cols: usize,
    ) -> Result<Self, OutOfMemory> {
        assert!(max_cols <= Self::MAX_COLS, "columns are 16-bit numbers");
        let n_entries = max_rows.saturating_mul(max_cols.next_multiple_of(QUAD));
        let n_words = max_rows.saturating_mul(max_cols.div_ceil(WORD_COLS));
        Ok(Self {
            cols: pool.zeroed(Category::Scratch, n_entries)?,
            values: pool.zeroed(Category::Scratch, n_entries)?,
            lens: pool.zeroed(Category::Scratch, max_rows)?,
            masks: pool.zeroed(Category::Scratch, n_words)?,
            max_cols,
            n_rows: 0,
            n_cols_in_any: 0,
        })
    }

    fn stride(&self) -> usize {
        self.max_cols.next_multiple_of(QUAD)
    }

    /// Forgets the lists.
    pub(crate) fn clear(&mut self) {
        self.n_rows = 0;
    }

    /// Lists the rows of `data`, each `n_cols` of `stride` values.
    pub(crate) fn set(
        &mut self,
        threads: &mut ThreadPool,
        data: &[i8],
        n_cols: usize,
        stride: usize,
    ) {
        let n_rows = data.len() / stride;
        assert!(
            n_cols <= self.max_cols && n_rows <= self.lens.len(),
            "the lists fit the capacity"
        );
        let (list_stride, n_words) = (self.stride(), n_cols.div_ceil(WORD_COLS));
        let cols = DisjointMut(self.cols.as_mut_ptr());
        let values = DisjointMut(self.values.as_mut_ptr());
        let lens = DisjointMut(self.lens.as_mut_ptr());
        let masks = DisjointMut(self.masks.as_mut_ptr());
        threads.for_each(n_rows, |_, row| {
            let at = row * list_stride;
            // SAFETY: `row < n_rows <= lens.len()`, so these are the entries of the row in
            // each buffer; rows do not overlap, and each is handed out once.
            let (cols, values, len, masks) = unsafe {
                (
                    std::slice::from_raw_parts_mut(cols.at(at), list_stride),
                    std::slice::from_raw_parts_mut(values.at(at), list_stride),
                    &mut *lens.at(row),
                    std::slice::from_raw_parts_mut(masks.at(row * n_words), n_words),
                )
            };
            *len = list_row(&data[row * stride..][..n_cols], cols, values, masks) as u32;
        });
        self.n_rows = n_rows;
        self.n_cols_in_any = (0..n_words)
            .map(|word| {
                let words = self.masks[word..].iter().step_by(n_words).take(n_rows);
                words.fold(0, |any, mask| any | mask).count_ones() as usize
            })
            .sum();
    }

    /// Returns the number of listed rows.
    pub(crate) fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Returns the columns of a row and their activations, padded to a multiple of four by
    /// zero activations of column 0.
    pub(crate) fn row(&self, row: usize) -> (&[u16], &[i8]) {
        assert!(row < self.n_rows, "a listed row");
        let len = (self.lens[row] as usize).next_multiple_of(QUAD);
        let at = row * self.stride();
        (&self.cols[at..][..len], &self.values[at..][..len])
    }

    /// Returns the number of activations that are not zero.
    pub(crate) fn n_values(&self) -> usize {
        self.lens[..self.n_rows]
            .iter()
            .map(|len| *len as usize)
            .sum()
    }

    /// Returns the number of columns that are not zero in at least one row.
    pub(crate) fn n_cols_in_any(&self) -> usize {
        self.n_cols_in_any
    }
}

/// Lists a row and returns the number of values that are not zero.
fn list_row(row: &[i8], cols: &mut [u16], values: &mut [i8], masks: &mut [u64]) -> usize {
    let mut n = 0;
    let (words, rest) = row.as_chunks::<WORD_COLS>();
    let mut last = [0; WORD_COLS];
    last[..rest.len()].copy_from_slice(rest);
    let words = words.iter().chain(std::iter::once(&last));
    for (i, (word, mask_out)) in words.zip(masks).enumerate() {
        let mut mask = mask_of(word);
        *mask_out = mask;
        while mask != 0 {
            let bit = mask.trailing_zeros() as usize;
            cols[n] = (WORD_COLS * i + bit) as u16;
            values[n] = word[bit];
            n += 1;
            mask &= mask - 1;
        }
    }
    let padded = n.next_multiple_of(QUAD);
    cols[n..padded].fill(0);
    values[n..padded].fill(0);
    n
}

/// Returns a mask of the values that are not zero.
#[inline(always)]
fn mask_of(values: &[i8; WORD_COLS]) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let mut mask = 0;
    for (i, bytes) in values.as_chunks::<8>().0.iter().enumerate() {
        let word = u64::from_le_bytes(bytes.map(|value| value as u8));
        // The high bit of each byte that is not zero; then these eight bits in a row.
        let high = (((word & LOW) + LOW) | word) & !LOW;
        let bits = (high >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        mask |= bits << (8 * i);
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_hold_what_is_not_zero_in_order() {
        for n_cols in [1, 4, 63, 64, 65, 200] {
            let stride = n_cols + 3;
            let n_rows = 5;
            let data: Vec<i8> = (0..n_rows * stride)
                .map(|i| match i % stride {
                    col if col >= n_cols => 77,
                    col if col * (i / stride) % 3 == 1 => (i % 255) as u8 as i8,
                    _ => 0,
                })
                .collect();
            let pool = HybridMemoryPool::new();
            for n_threads in [1, 3] {
                let mut lists = Nonzero::with_capacity(&pool, n_rows, n_cols).unwrap();
                lists.set(&mut ThreadPool::new(n_threads), &data, n_cols, stride);
                let mut in_any = vec![false; n_cols];
                let mut n_values = 0;
                for (row, values) in data.chunks(stride).enumerate() {
                    let nonzero = (0..n_cols).filter(|col| values[*col] != 0);
                    let mut expected: Vec<_> =
                        nonzero.map(|col| (col as u16, values[col])).collect();
                    n_values += expected.len();
                    for (col, _) in &expected {
                        in_any[usize::from(*col)] = true;
                    }
                    expected.resize(expected.len().next_multiple_of(4), (0, 0));
                    let (cols, values) = lists.row(row);
                    let found: Vec<_> = cols.iter().copied().zip(values.iter().copied()).collect();
                    assert_eq!(found, expected, "{n_cols} columns, row {row}");
                }
                assert_eq!(lists.n_values(), n_values);
                let n_in_any = in_any.iter().filter(|any| **any).count();
                assert_eq!(lists.n_cols_in_any(), n_in_any);
            }
        }
    }
}
