//! The matrix multiplication of packed weights and int8 activations, common to both weight
//! types and all kernels.

use crate::activations::{EXACT_PARTS, Int8Rows, PART_RADIX};
use crate::panel::{Acc, PANEL_ROWS};
use crate::thread_pool::{DisjointMut, ThreadPool};

/// The maximum number of tokens that share one pass over a panel.
pub(crate) const MAX_TILE: usize = 16;

/// Bytes of weights per chunk of work.
pub(crate) const CHUNK_BYTES: usize = 16 * 1024;

/// Calls `f(first row, sums)` for tiles of at most [`MAX_TILE`] rows of values, with all
/// their parts.
#[inline]
pub(crate) fn for_tiles(acts: &Int8Rows, f: impl FnMut(usize, &mut Acc)) {
    // Decoding has one token: zeroing the sums of sixteen took 4 % of its time with the
    // built-in model.
    match (acts.n_parts(), acts.n_rows() / acts.n_parts()) {
        (1, 1) => tiles_of::<1>(1, f),
        (1, n_tokens) => tiles_of::<MAX_TILE>(n_tokens, f),
        (_, 1) => tiles_of::<EXACT_PARTS>(EXACT_PARTS, f),
        (_, n_tokens) => tiles_of::<{ EXACT_PARTS * MAX_TILE }>(n_tokens * EXACT_PARTS, f),
    }
}

#[inline]
fn tiles_of<const N: usize>(n_rows: usize, mut f: impl FnMut(usize, &mut Acc)) {
    let mut acc = [[0; PANEL_ROWS]; N];
    for first in (0..n_rows).step_by(N) {
        f(first, &mut acc[..N.min(n_rows - first)]);
    }
}

/// Dequantizes a tile of sums, which begins at row `first` of `acts`, and calls
/// `put(token, products)` for each row of values.
#[inline]
pub(crate) fn dequantize(
    acts: &Int8Rows,
    first: usize,
    tile: &Acc,
    scales: &[f32; PANEL_ROWS],
    put: &mut impl FnMut(usize, &[f32; PANEL_ROWS]),
) {
    if acts.n_parts() == 1 {
        for (i, sums) in tile.iter().enumerate() {
            let act_scale = acts.scale(first + i);
            let value = |r: usize| sums[r] as f32 * (scales[r] / act_scale);
            put(first + i, &std::array::from_fn(value));
        }
    } else {
        for (i, parts) in tile.as_chunks::<EXACT_PARTS>().0.iter().enumerate() {
            let row = first + EXACT_PARTS * i;
            let act_scale = acts.scale(row);
            let value = |r: usize| {
                let [q0, q1, q2] = parts.map(|sums| sums[r] as f32);
                (q0 + (q1 + q2 / PART_RADIX) / PART_RADIX) * (scales[r] / act_scale)
            };
            put(row / EXACT_PARTS, &std::array::from_fn(value));
        }
    }
}

/// The interface of a matrix in panels to [`matmul`].
pub(crate) trait Panels: Sync {
    fn n_rows(&self) -> usize;
    /// Computes `Σ_col w[row, col] · a[token, col]` for the rows of `panel` and every
    /// token, and calls `put(token, products)`.
    fn products(&self, panel: usize, acts: &Int8Rows, put: impl FnMut(usize, &[f32; PANEL_ROWS]));
    /// Returns the bytes of a panel, which determine the chunk size.
    fn panel_bytes(&self) -> usize;
}

/// Computes `out[token, row] = Σ_col w[row, col] · a[token, col]`.
///
/// # Panics
///
/// Panics if `out` is not `[n_tokens, panels.n_rows()]`, where a token is a row of values
/// of `acts`.
pub(crate) fn matmul(
    panels: &impl Panels,
    threads: &mut ThreadPool,
    acts: &Int8Rows,
    out: &mut [f32],
) {
    let (n_tokens, n_rows) = (acts.n_rows() / acts.n_parts(), panels.n_rows());
    assert_eq!(out.len(), n_tokens * n_rows, "out is [n_tokens, n_rows]");
    let n_panels = n_rows.div_ceil(PANEL_ROWS);
    let out = DisjointMut(out.as_mut_ptr());
    let compute = |panel: usize| {
        let row = panel * PANEL_ROWS;
        let rows = PANEL_ROWS.min(n_rows - row);
        panels.products(panel, acts, |token, products| {
            assert!(token < n_tokens, "a product for a token of the batch");
            // SAFETY: `token < n_tokens` and `row + rows <= n_rows`, so the chunk lies
            // inside `out`; chunks of different panels or tokens do not overlap, and each
            // panel is computed once.
            let out = unsafe { std::slice::from_raw_parts_mut(out.at(token * n_rows + row), rows) };
            match out.as_mut_array() {
                // All panels but the last: without a call of `memcpy`.
                Some(out) => *out = *products,
                None => out.copy_from_slice(&products[..rows]),
            }
        });
    };
    // A chunk is about 16 KiB of weights, some microseconds of work for one token. Fewer
    // than four chunks are faster on one thread than waking another.
    let panel_bytes = panels.panel_bytes().max(1);
    let panels_per_chunk = if n_panels * panel_bytes * acts.n_rows() <= 4 * CHUNK_BYTES {
        n_panels.max(1)
    } else {
        (CHUNK_BYTES / panel_bytes).max(1)
    };
    threads.for_each(n_panels.div_ceil(panels_per_chunk), |_, chunk| {
        let first = chunk * panels_per_chunk;
        (first..n_panels.min(first + panels_per_chunk)).for_each(compute);
    });
}
