//! Matrix-vector multiplication for the k largest products only: top-k matmul with an int8
//! bound.
//!
//! An int8 copy of the matrix gives every product with an error bound. Only rows that may
//! be among the k largest are computed from the matrix itself, so the result is exact by
//! construction and most of the matrix is never read.

use crate::activations::Int8Rows;
use crate::arch::NullaryFnOnce;
use crate::compute_context::ComputeContext;
use crate::int8::PackedInt8;
use crate::isa::Isa;
use crate::memory::{Buffer, Category, HybridMemoryPool, OutOfMemory};
use crate::ops;
use crate::shape::Shape;
use crate::thread_pool::DisjointMut;

/// Rows per chunk of work.
const ROWS_PER_CHUNK: usize = 8;

/// With fewer rows per candidate than this, sparse reads take longer than reading all rows.
const MIN_ROWS_PER_CANDIDATE: usize = 4;

/// The operands of [`top_k_matmul`].
#[derive(Clone, Copy, Debug)]
pub struct TopKOperands<'a, F> {
    /// The int8 copy of the matrix.
    pub int8: &'a PackedInt8,
    /// `decode_row(row, values)` writes a row of the original matrix.
    pub decode_row: F,
    /// `[n_cols]`
    pub x: &'a [f32],
    /// The number of largest products to compute.
    pub k: usize,
}

/// Scratch memory of [`top_k_matmul`].
#[derive(Debug)]
pub struct TopKScratch {
    /// The activations as one row in two parts.
    acts: Int8Rows,
    candidates: Buffer<u32>,
}

impl TopKScratch {
    /// Allocates scratch memory for matrices of this shape.
    ///
    /// # Errors
    ///
    /// Returns an error if the system is out of memory.
    pub fn new(pool: &HybridMemoryPool, shape: Shape) -> Result<Self, OutOfMemory> {
        let n_candidates = Self::max_candidates(shape.n_rows);
        Ok(Self {
            acts: Int8Rows::with_capacity(pool, 2, shape.n_cols)?,
            candidates: pool.zeroed(Category::Scratch, n_candidates)?,
        })
    }

    /// Returns the bytes that [`new`](Self::new) allocates.
    pub fn n_bytes(shape: Shape) -> usize {
        2 * shape.n_cols + Self::max_candidates(shape.n_rows) * size_of::<u32>()
    }

    fn max_candidates(n_rows: usize) -> usize {
        n_rows / MIN_ROWS_PER_CANDIDATE
    }
}

/// Computes the `k` largest of the products `Σ_col w[row, col] · x[col]` and writes them to
/// their rows of `out`, `[n_rows]`. Other rows, whose products are smaller, are minus
/// infinity, but some of them may be computed too. Products are bit-identical to those of
/// [`matmul_rows`](crate::matmul_rows).
///
/// Rows are decoded in the scratch memory of `ctx`; `products`, `[2, n_rows]`, is scratch
/// too. Returns the number of computed rows.
///
/// # Panics
///
/// Panics if the shapes disagree or the scratch memory is too small.
pub fn top_k_matmul(
    ctx: &mut ComputeContext<'_>,
    operands: TopKOperands<'_, impl Fn(usize, &mut [f32]) + Sync>,
    scratch: &mut TopKScratch,
    products: &mut [f32],
    out: &mut [f32],
) -> usize {
    let TopKOperands {
        int8,
        decode_row,
        x,
        k,
    } = operands;
    let isa = ctx.isa;
    let (n_rows, n_cols) = (int8.n_rows(), x.len());
    assert_eq!(out.len(), n_rows, "one product per row");
    ctx.assert_scratch(n_cols);
    let TopKScratch { acts, candidates } = scratch;
    acts.reshape(2, n_cols);
    acts.quantize_parts(isa, 0, x);
    int8.matmul(ctx, acts, products);
    // The maximum error of a product, in quantization steps of its row.
    let steps = isa.vectorize(ErrorBound {
        x,
        step: 1.0 / acts.scale(0),
    });
    let (products, lower) = products.split_at_mut(n_rows);
    isa.vectorize(LowerBounds {
        products,
        lower,
        scales: int8.scales(),
        steps,
    });
    let mut n_candidates = 0;
    let mut all = k >= n_rows || !steps.is_finite();
    if !all {
        let threshold = kth_largest(isa, lower, k.max(1));
        for (row, (product, scale)) in products.iter().zip(int8.scales()).enumerate() {
            // NaN compares false, so it is not excluded.
            if *product + *scale * steps < threshold {
                continue;
            }
            let Some(candidate) = candidates.get_mut(n_candidates) else {
                all = true;
                break;
            };
            *candidate = row as u32;
            n_candidates += 1;
        }
    }
    if !all {
        out.fill(f32::NEG_INFINITY);
    }
    let n = if all { n_rows } else { n_candidates };
    let candidates = if all { &[] } else { &candidates[..n] };
    let (out, rows) = (
        DisjointMut(out.as_mut_ptr()),
        DisjointMut(ctx.scratch.as_mut_ptr()),
    );
    ctx.threads
        .for_each(n.div_ceil(ROWS_PER_CHUNK), |thread, chunk| {
            // SAFETY: `thread` is less than the number of threads, and so than the length
            // of `ctx.scratch`; a thread works on one chunk at a time.
            let values = unsafe { &mut (&mut *rows.at(thread))[..n_cols] };
            let first = chunk * ROWS_PER_CHUNK;
            for i in first..n.min(first + ROWS_PER_CHUNK) {
                let row = candidates.get(i).map_or(i, |&row| row as usize);
                decode_row(row, values);
                let product = ops::dot(isa, values, x);
                // SAFETY: `row < n_rows`, and each row is in one chunk.
                unsafe { *out.at(row) = product };
            }
        });
    n
}

/// Returns the k-th largest value, or a smaller one.
fn kth_largest(isa: Isa, values: &mut [f32], k: usize) -> f32 {
    if k == 1 {
        return isa.vectorize(Max(values));
    }
    let (_, kth, _) = values.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    *kth
}

/// The error bound of a product in quantization steps of its row (the scale of its int8
/// weights), if x was quantized in two parts with a coarse step of `step`:
///
/// - weights have an error of half a step each: ½·Σ|x|;
/// - x has an error of half of 1/254 of a coarse step per value, times weights of up to 127
///   steps: 127/508·n·step;
/// - f32 rounding of this product and of the exact one, whose sum has n/32 additions per
///   lane and 5 across lanes: in total below 2^-20·127·Σ|x|.
struct ErrorBound<'a> {
    x: &'a [f32],
    step: f32,
}

impl NullaryFnOnce for ErrorBound<'_> {
    type Output = f32;

    #[inline(always)]
    fn call(self) -> f32 {
        let n = self.x.len() as f32;
        let sum = ops::sum_abs(self.x);
        // The number of roundings per lane, plus a margin for the others.
        let roundings = (n / 32.0 + 16.0) * f32::EPSILON;
        // The factor covers the rounding of the bound itself.
        1.001 * (sum * (0.5 + 127.0 * roundings) + 0.251 * n * self.step)
    }
}

/// Adds both parts of the products and computes the lower bounds.
struct LowerBounds<'a> {
    products: &'a mut [f32],
    lower: &'a mut [f32],
    scales: &'a [f32],
    steps: f32,
}

impl NullaryFnOnce for LowerBounds<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let rows = self.products.iter_mut().zip(self.lower).zip(self.scales);
        for ((product, lower), &scale) in rows {
            *product += *lower;
            *lower = *product - scale * self.steps;
        }
    }
}

struct Max<'a>(&'a [f32]);

impl NullaryFnOnce for Max<'_> {
    type Output = f32;

    #[inline(always)]
    fn call(self) -> f32 {
        ops::max(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::matmul_rows;
    use crate::thread_pool::ThreadPool;

    fn values(n: usize, seed: u32) -> Vec<f32> {
        (0..n as u32)
            .map(|i| {
                let x = (i ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(2_654_435_761);
                let x = (x ^ (x >> 15)).wrapping_mul(0x2c1b_3c6d);
                (x >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    /// Returns the top-k products, all products, and the number of computed rows.
    fn run(isa: Isa, w: &[f32], x: &[f32], k: usize) -> (Vec<f32>, Vec<f32>, usize) {
        let (n_cols, pool) = (x.len(), HybridMemoryPool::new());
        let row = || pool.zeroed(Category::Scratch, n_cols).unwrap();
        let mut ctx = ComputeContext {
            isa,
            threads: &mut ThreadPool::new(2),
            scratch: &mut [row(), row()],
        };
        let n_rows = w.len() / n_cols;
        let decode_row =
            |row: usize, out: &mut [f32]| out.copy_from_slice(&w[row * n_cols..][..n_cols]);
        let shape = Shape { n_rows, n_cols };
        let int8 = PackedInt8::quantize(&pool, &mut ctx, shape, decode_row).unwrap();
        let mut found = vec![f32::NAN; n_rows];
        let operands = TopKOperands {
            int8: &int8,
            decode_row,
            x,
            k,
        };
        let n = top_k_matmul(
            &mut ctx,
            operands,
            &mut TopKScratch::new(&pool, shape).unwrap(),
            &mut vec![f32::NAN; 2 * n_rows],
            &mut found,
        );
        let mut exact = vec![f32::NAN; n_rows];
        matmul_rows(&mut ctx, shape, decode_row, x, &mut exact);
        (found, exact, n)
    }

    fn check(found: &[f32], exact: &[f32], k: usize) {
        let mut order: Vec<usize> = (0..exact.len()).collect();
        order.sort_by(|&a, &b| exact[b].total_cmp(&exact[a]));
        let kth = exact[order[k.min(order.len()) - 1]];
        for (found, exact) in found.iter().zip(exact) {
            if *exact >= kth {
                assert_eq!(found.to_bits(), exact.to_bits());
            } else {
                assert!(*found == f32::NEG_INFINITY || found.to_bits() == exact.to_bits());
            }
        }
    }

    #[test]
    fn the_largest_products_are_exact_and_few_rows_are_read() {
        let (n_rows, n_cols) = (3000, 200);
        let w = values(n_rows * n_cols, 1);
        for seed in 2..6 {
            let mut x = values(n_cols, seed);
            // Outliers make the int8 steps coarse.
            x[seed as usize] = 40.0;
            for isa in Isa::available() {
                for k in [1, 2, 40] {
                    let (found, exact, n) = run(isa, &w, &x, k);
                    check(&found, &exact, k);
                    assert!((k..n_rows / 4).contains(&n), "{n} rows of {n_rows} for {k}");
                }
            }
        }
    }

    #[test]
    fn rows_that_the_bound_cannot_tell_apart_are_all_computed() {
        // One weight of 1 and one of up to half a step: int8 rounds all rows to the same
        // values.
        let n_cols = 64;
        let mut w = vec![0.0; 500 * n_cols];
        for (i, row) in w.chunks_mut(n_cols).enumerate() {
            row[0] = 1.0;
            row[1] = i as f32 / 500.0 * 0.4 / 127.0;
        }
        let mut x = vec![0.0; n_cols];
        (x[0], x[1]) = (1.0, 1.0);
        let (found, exact, n) = run(Isa::best(), &w, &x, 3);
        assert_eq!((found, n), (exact, 500));
    }

    #[test]
    fn ties_and_small_matrices_are_whole() {
        for (n_rows, k) in [(1, 1), (5, 5), (5, 9), (40, 1)] {
            let (found, exact, _) = run(Isa::best(), &vec![0.25; n_rows * 8], &[1.0; 8], k);
            assert_eq!(found, exact);
        }
    }

    #[test]
    fn what_is_not_a_number_is_not_hidden() {
        let w = values(100 * 16, 3);
        let mut x = values(16, 4);
        x[3] = f32::NAN;
        let (found, _, n) = run(Isa::best(), &w, &x, 1);
        assert!(n == 100 && found.iter().all(|y| y.is_nan()));
    }
}
