//! Products with dense matrices in their storage format, such as the exact output head.

use crate::compute_context::ComputeContext;
use crate::ops;
use crate::shape::Shape;
use crate::thread_pool::DisjointMut;

/// Rows per chunk of work, enough to outweigh the scheduling cost.
const ROWS_PER_CHUNK: usize = 64;

/// Computes `out[token, row] = Σ_col w[row, col] · x[token, col]` in f32, where
/// `decode_row(row, values)` writes one row of w. Each row is decoded once for all tokens;
/// rows are decoded in any order on all threads, in the scratch memory of `ctx`.
///
/// # Panics
///
/// Panics if the scratch memory is too small or the shapes disagree: `x` is
/// `[n_tokens, n_cols]`, `out` is `[n_tokens, n_rows]`.
pub fn matmul_rows(
    ctx: &mut ComputeContext<'_>,
    Shape { n_rows, n_cols }: Shape,
    decode_row: impl Fn(usize, &mut [f32]) + Sync,
    x: &[f32],
    out: &mut [f32],
) {
    assert!(n_cols > 0 && x.len().is_multiple_of(n_cols), "whole rows");
    let n_tokens = x.len() / n_cols;
    assert_eq!(out.len(), n_tokens * n_rows, "out is [n_tokens, n_rows]");
    ctx.assert_scratch(n_cols);
    let isa = ctx.isa;
    let out = DisjointMut(out.as_mut_ptr());
    let scratch = DisjointMut(ctx.scratch.as_mut_ptr());
    ctx.threads
        .for_each(n_rows.div_ceil(ROWS_PER_CHUNK), |thread, chunk| {
            // SAFETY: `thread` is less than the number of threads, and so than the number
            // of buffers; a thread works on one chunk at a time.
            let values = unsafe { &mut *scratch.at(thread) };
            let values = &mut values[..n_cols];
            let first = chunk * ROWS_PER_CHUNK;
            for row in first..n_rows.min(first + ROWS_PER_CHUNK) {
                decode_row(row, values);
                for (token, x) in x.chunks_exact(n_cols).enumerate() {
                    let product = ops::dot(isa, values, x);
                    // SAFETY: `token < n_tokens` and `row < n_rows`, so the element lies
                    // inside `out`; each row belongs to one chunk.
                    unsafe { *out.at(token * n_rows + row) = product };
                }
            }
        });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::memory::{Category, HybridMemoryPool};
    use crate::thread_pool::ThreadPool;

    #[test]
    fn products_equal_single_dot_products_with_any_number_of_threads() {
        let pool = HybridMemoryPool::new();
        for n_rows in [0, 1, 63, 64, 65, 200] {
            for n_tokens in [0, 1, 3] {
                let n_cols = 37;
                let w = |row: usize, col: usize| (row * 31 + col * 17 % 11) as f32 - 7.5;
                let x: Vec<f32> = (0..n_tokens * n_cols).map(|i| i as f32 / 9.0).collect();
                for n_threads in [1, 3] {
                    for isa in Isa::available() {
                        let mut out = vec![f32::NAN; n_tokens * n_rows];
                        let mut scratch = Vec::new();
                        for _ in 0..n_threads {
                            let mut row = pool.zeroed(Category::Scratch, n_cols + 1).unwrap();
                            row.fill(f32::NAN);
                            scratch.push(row);
                        }
                        let mut ctx = ComputeContext {
                            isa,
                            threads: &mut ThreadPool::new(n_threads),
                            scratch: &mut scratch,
                        };
                        matmul_rows(
                            &mut ctx,
                            Shape { n_rows, n_cols },
                            |row, out| {
                                for (col, out) in out.iter_mut().enumerate() {
                                    *out = w(row, col);
                                }
                            },
                            &x,
                            &mut out,
                        );
                        for (i, &y) in out.iter().enumerate() {
                            let (token, row) = (i / n_rows, i % n_rows);
                            let w: Vec<f32> = (0..n_cols).map(|col| w(row, col)).collect();
                            let x = &x[token * n_cols..][..n_cols];
                            assert_eq!(y, ops::dot(Isa::Scalar, &w, x));
                        }
                    }
                }
            }
        }
    }
}
