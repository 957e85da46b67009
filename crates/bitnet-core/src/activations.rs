//! Activations quantized to int8, the operand of all packed matrices.

use crate::arch::NullaryFnOnce;
use crate::base3::GROUP_COLS;
use crate::compute_context::ComputeContext;
use crate::isa::Isa;
use crate::lanes::{Lanes, WIDTH, WithSimd};
use crate::memory::{Buffer, Category, HybridMemoryPool, OutOfMemory};
use crate::nonzero::Nonzero;
use crate::operation::{Operation, lap};
use crate::panel::{COL_STEP, Int8View};
use crate::shape::Shape;
use crate::thread_pool::DisjointMut;

/// Rows are padded to a multiple of this, which is a multiple of the columns of every block
/// type.
const ROW_PADDING: usize = GROUP_COLS;

const _: () = assert!(ROW_PADDING.is_multiple_of(COL_STEP));

/// Columns per partial sum of a row; the length of weight groups is a multiple of it.
pub(crate) const SUM_COLS: usize = 64;

/// The int8 parts per row of activations split to f32 precision.
pub(crate) const EXACT_PARTS: usize = 3;

/// A batch of rows, each quantized to int8 with its own scale, or split without loss.
///
/// # Quantized rows
///
/// `x ≈ q / scale` with `scale = 127 / max(max|x|, 1e-5)` and
/// `q = round_half_even(x · scale)`: the per-token activation quantization of BitNet b1.58,
/// as in the reference implementation (`transformers`, `integrations/bitnet.py`). Since
/// `|x · scale|` exceeds 127 at most by rounding, q stays in -127..=127.
///
/// # Split rows
///
/// For weights that take unquantized activations, each row becomes three int8 rows:
/// `x ≈ (q0 + q1/254 + q2/254²) / scale` with `scale = 127 / max|x|`. The error is at most
/// `max|x| · 2^-24`, which is the f32 rounding error of the largest value; sums of products
/// remain integer sums, which do not depend on the order.
///
/// Memory is allocated once, by [`with_capacity`](Self::with_capacity).
#[derive(Debug)]
pub struct Int8Rows {
    /// `[n_rows, stride]`, zero-padded after the last column.
    data: Buffer<i8>,
    scales: Buffer<f32>,
    sums: Buffer<i32>,
    /// `[n_rows, n_cols / SUM_COLS]`; the last sum of a row covers the remaining columns.
    part_sums: Buffer<i32>,
    n_rows: usize,
    n_cols: usize,
    /// Int8 rows per row of values: 1 or [`EXACT_PARTS`].
    n_parts: usize,
    nonzero: Option<Nonzero>,
}

impl Int8Rows {
    /// Returns an empty batch with capacity for `max_rows` rows of `max_cols` columns.
    ///
    /// # Errors
    ///
    /// Returns an error if the system is out of memory.
    pub fn with_capacity(
        pool: &HybridMemoryPool,
        max_rows: usize,
        max_cols: usize,
    ) -> Result<Self, OutOfMemory> {
        let len = max_rows.saturating_mul(max_cols.next_multiple_of(ROW_PADDING));
        let n_sums = max_rows.saturating_mul(max_cols.div_ceil(SUM_COLS));
        Ok(Self {
            data: pool.zeroed(Category::Scratch, len)?,
            scales: pool.zeroed(Category::Scratch, max_rows)?,
            sums: pool.zeroed(Category::Scratch, max_rows)?,
            part_sums: pool.zeroed(Category::Scratch, n_sums)?,
            n_rows: 0,
            n_cols: 0,
            n_parts: 1,
            nonzero: None,
        })
    }

    /// Allocates lists for [`list_nonzero`](Self::list_nonzero), for up to `max_rows`
    /// quantized rows of `max_cols` columns.
    ///
    /// # Errors
    ///
    /// Returns an error if the system is out of memory.
    ///
    /// # Panics
    ///
    /// Panics if `max_cols` exceeds 65536.
    pub fn with_lists(
        mut self,
        pool: &HybridMemoryPool,
        max_rows: usize,
        max_cols: usize,
    ) -> Result<Self, OutOfMemory> {
        self.nonzero = Some(Nonzero::with_capacity(pool, max_rows, max_cols)?);
        Ok(self)
    }

    /// Returns the bytes that [`with_lists`](Self::with_lists) allocates.
    pub fn list_bytes(max_rows: usize, max_cols: usize) -> usize {
        Nonzero::n_bytes(max_rows, max_cols)
    }

    /// Lists the activations that are not zero, for
    /// [`PackedTernary::listed_matmul`](crate::PackedTernary::listed_matmul), if lists were
    /// allocated.
    ///
    /// # Panics
    ///
    /// Panics if the batch exceeds the capacity of the lists.
    pub fn list_nonzero(&mut self, ctx: &mut ComputeContext<'_>) {
        let stride = self.stride();
        if let Some(nonzero) = &mut self.nonzero
            && self.n_cols > 0
        {
            let data = &self.data[..self.n_rows * stride];
            nonzero.set(ctx.threads, data, self.n_cols, stride);
            lap(Operation::FindNonzero);
        }
    }

    /// Returns the lists of this batch, if they were made.
    pub(crate) fn nonzero(&self) -> Option<&Nonzero> {
        let is_listed = |lists: &&Nonzero| lists.n_rows() == self.n_rows;
        self.nonzero.as_ref().filter(is_listed)
    }

    /// Returns an empty batch with capacity for `max_rows` split rows of `max_cols`
    /// columns.
    ///
    /// # Errors
    ///
    /// Returns an error if the system is out of memory.
    pub fn with_exact_capacity(
        pool: &HybridMemoryPool,
        max_rows: usize,
        max_cols: usize,
    ) -> Result<Self, OutOfMemory> {
        Self::with_capacity(pool, max_rows.saturating_mul(EXACT_PARTS), max_cols)
    }

    /// Replaces the batch by quantized rows of this shape; `fill_row(row, values)` writes
    /// one row in f32. Rows are filled in any order on all threads, in the scratch memory
    /// of `ctx`.
    ///
    /// # Panics
    ///
    /// Panics if the rows exceed the capacity or the scratch memory is too small.
    pub fn quantize_rows(
        &mut self,
        ctx: &mut ComputeContext<'_>,
        shape: Shape,
        fill_row: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let isa = ctx.isa;
        self.fill_rows::<1>(ctx, shape, |row, values, parts| {
            fill_row(row, values);
            let [out] = parts;
            let stats = isa.dispatch(QuantizeRow { x: values, out });
            lap(Operation::Quantize);
            [stats]
        });
        self.sum_parts(isa);
    }

    /// Replaces the batch by split rows of this shape; otherwise as
    /// [`quantize_rows`](Self::quantize_rows).
    ///
    /// # Panics
    ///
    /// Panics if the rows exceed the [exact capacity](Self::with_exact_capacity) or the
    /// scratch memory is too small.
    pub fn split_rows(
        &mut self,
        ctx: &mut ComputeContext<'_>,
        shape: Shape,
        fill_row: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let isa = ctx.isa;
        self.fill_rows::<EXACT_PARTS>(ctx, shape, |row, values, out| {
            fill_row(row, values);
            let PartStats { step, sums } = isa.dispatch(QuantizeParts { x: values, out });
            lap(Operation::Quantize);
            let mut scale = 1.0 / step;
            sums.map(|sum| {
                let part = RowStats { scale, sum };
                scale *= PART_RADIX;
                part
            })
        });
        self.sum_parts(isa);
    }

    /// Replaces the batch by rows of this shape in `N` parts each: `fill(row, values, parts)`
    /// computes one row and returns the scale and sum of each part.
    fn fill_rows<const N: usize>(
        &mut self,
        ctx: &mut ComputeContext<'_>,
        shape: Shape,
        fill: impl Fn(usize, &mut [f32], [&mut [[i8; COL_STEP]]; N]) -> [RowStats; N] + Sync,
    ) {
        let Shape { n_rows, n_cols } = shape;
        self.reshape(N * n_rows, n_cols);
        self.n_parts = N;
        let stride = self.stride().max(1);
        let (scales, sums) = (
            DisjointMut(self.scales.as_mut_ptr()),
            DisjointMut(self.sums.as_mut_ptr()),
        );
        let data = &mut self.data[..N * n_rows * stride];
        (ctx.threads).for_each_chunk(data, N * stride, ctx.scratch, |values, row, out| {
            let mut chunks = out.chunks_exact_mut(stride);
            let parts = std::array::from_fn(|_| {
                let part = chunks.next().expect("a chunk is N rows");
                part.as_chunks_mut().0
            });
            let filled = fill(row, &mut values[..n_cols], parts);
            for (part, RowStats { scale, sum }) in filled.into_iter().enumerate() {
                let i = N * row + part;
                // SAFETY: `i < N * n_rows <= scales.len() == sums.len()`, and each row is
                // handed out once.
                unsafe { (*scales.at(i), *sums.at(i)) = (scale, sum) };
            }
        });
    }

    /// Computes the sums of every [`SUM_COLS`] columns.
    fn sum_parts(&mut self, isa: Isa) {
        let n_sums = self.n_cols.div_ceil(SUM_COLS);
        let stride = self.stride();
        let rows = self.data[..self.n_rows * stride].chunks_exact(stride.max(1));
        for (row, sums) in rows.zip(self.part_sums.chunks_exact_mut(n_sums.max(1))) {
            isa.vectorize(PartSums { row, sums });
        }
        lap(Operation::Quantize);
    }

    /// Replaces the batch by the quantized rows of `x`, `[n_rows, n_cols]`.
    ///
    /// # Panics
    ///
    /// Panics if `x` is not whole rows or exceeds the capacity.
    pub fn quantize(&mut self, isa: Isa, x: &[f32], n_cols: usize) {
        assert!(n_cols > 0 && x.len().is_multiple_of(n_cols), "whole rows");
        self.reshape(x.len() / n_cols, n_cols);
        for (row, x) in x.chunks_exact(n_cols).enumerate() {
            self.quantize_row(isa, row, x);
        }
        self.sum_parts(isa);
    }

    /// Sets the shape to `n_rows` rows of `n_cols` columns; the caller sets the rows one by
    /// one.
    pub(crate) fn reshape(&mut self, n_rows: usize, n_cols: usize) {
        let stride = n_cols.next_multiple_of(ROW_PADDING);
        assert!(
            n_rows <= self.scales.len()
                && n_rows * stride <= self.data.len()
                && n_rows * n_cols.div_ceil(SUM_COLS) <= self.part_sums.len(),
            "the batch fits the capacity"
        );
        (self.n_rows, self.n_cols, self.n_parts) = (n_rows, n_cols, 1);
        if let Some(nonzero) = &mut self.nonzero {
            nonzero.clear();
        }
    }

    /// Quantizes one row.
    pub(crate) fn quantize_row(&mut self, isa: Isa, row: usize, x: &[f32]) {
        assert_eq!(x.len(), self.n_cols, "one row");
        let stride = self.stride();
        let out = &mut self.data[..self.n_rows * stride][row * stride..][..stride];
        let (out, _) = out.as_chunks_mut();
        let RowStats { scale, sum } = isa.dispatch(QuantizeRow { x, out });
        (self.scales[row], self.sums[row]) = (scale, sum);
    }

    /// Quantizes one row of values to two int8 rows: a coarse part, and the residual in
    /// steps [`PART_RADIX`] times finer.
    pub(crate) fn quantize_parts(&mut self, isa: Isa, row: usize, x: &[f32]) {
        assert_eq!(x.len(), self.n_cols, "one row");
        let stride = self.stride();
        let rows = &mut self.data[..self.n_rows * stride][row * stride..][..2 * stride];
        let (chunks, _) = rows.as_chunks_mut::<COL_STEP>();
        let (coarse, fine) = chunks.split_at_mut(stride / COL_STEP);
        let out = [coarse, fine];
        let PartStats { step, sums } = isa.dispatch(QuantizeParts { x, out });
        self.scales[row] = 1.0 / step;
        self.scales[row + 1] = PART_RADIX / step;
        self.sums[row..row + 2].copy_from_slice(&sums);
    }

    /// Returns the number of int8 rows.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Returns the number of int8 rows per row of values: 1 if quantized, 3 if split.
    pub fn n_parts(&self) -> usize {
        self.n_parts
    }

    /// Returns the number of columns.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Returns the quantized values of a row, without padding.
    pub fn row(&self, row: usize) -> &[i8] {
        &self.view().padded_row(row)[..self.n_cols]
    }

    /// Returns the scale of a row: `x ≈ q / scale`.
    pub fn scale(&self, row: usize) -> f32 {
        self.scales[..self.n_rows][row]
    }

    /// Returns the scales of all rows.
    pub(crate) fn scales(&self) -> &[f32] {
        &self.scales[..self.n_rows]
    }

    /// Returns the sum of the quantized values of a row over `n_cols` columns from
    /// `first_col`, a multiple of [`SUM_COLS`].
    #[inline(always)]
    pub(crate) fn sum_of_cols(&self, row: usize, first_col: usize, n_cols: usize) -> i32 {
        let n_sums = self.n_cols.div_ceil(SUM_COLS);
        let sums = &self.part_sums[row * n_sums..][..n_sums];
        let first = first_col / SUM_COLS;
        sums[first..].iter().take(n_cols / SUM_COLS).sum()
    }

    /// Returns the rows as kernels read them, each padded to a multiple of [`ROW_PADDING`]
    /// values.
    pub(crate) fn view(&self) -> Int8View<'_> {
        let stride = self.stride();
        Int8View {
            data: &self.data[..self.n_rows * stride],
            stride,
            sums: &self.sums[..self.n_rows],
        }
    }

    /// Returns the distance between rows in values.
    pub(crate) fn stride(&self) -> usize {
        self.n_cols.next_multiple_of(ROW_PADDING)
    }
}

/// The scale of a quantized row, `x ≈ q / scale`, and the sum of all q.
struct RowStats {
    scale: f32,
    sum: i32,
}

struct QuantizeRow<'a> {
    x: &'a [f32],
    /// At least as many chunks as x has; the last one is zero-padded.
    out: &'a mut [[i8; COL_STEP]],
}

const _: () = assert!(COL_STEP == WIDTH);

impl WithSimd for QuantizeRow<'_> {
    type Output = RowStats;

    #[inline(always)]
    fn with_simd<L: Lanes>(self, lanes: L) -> RowStats {
        let (x, rest) = self.x.as_chunks();
        let last = padded(rest);
        self.out[x.len()..].fill([0; COL_STEP]);
        let scale = 127.0 / largest_magnitude(lanes, x, &last).max(1e-5);
        let mut sum = lanes.splat(0.0);
        let chunks = x.iter().chain(std::iter::once(&last)).zip(self.out);
        for (x, out) in chunks {
            let q = lanes.mul(lanes.load(x), lanes.splat(scale));
            // NaN, in the input or from infinity times zero, becomes 0.
            let q = lanes.nan_to_zero(round(lanes, q));
            lanes.store_i8(q, out);
            sum = lanes.add(sum, q);
        }
        // A sum of integers below 2^24: exact in any order.
        RowStats {
            scale,
            sum: lanes.reduce_sum(sum) as i32,
        }
    }
}

/// Fine steps per coarse step; half a coarse step is 127 fine steps.
pub(crate) const PART_RADIX: f32 = 254.0;

/// The coarsest step of a split row, and the sum of each part.
struct PartStats<const N: usize> {
    step: f32,
    sums: [i32; N],
}

/// Splits a row into `N` parts; the step of each is [`PART_RADIX`] times finer than the
/// last.
struct QuantizeParts<'a, const N: usize> {
    x: &'a [f32],
    /// Each at least as many chunks as x has; the last one is zero-padded.
    out: [&'a mut [[i8; COL_STEP]]; N],
}

impl<const N: usize> WithSimd for QuantizeParts<'_, N> {
    type Output = PartStats<N>;

    #[inline(always)]
    fn with_simd<L: Lanes>(mut self, lanes: L) -> PartStats<N> {
        let (x, rest) = self.x.as_chunks();
        let last = padded(rest);
        for out in &mut self.out {
            out[x.len()..].fill([0; COL_STEP]);
        }
        // Below any activation, but large enough to divide by.
        let step = largest_magnitude(lanes, x, &last).max(1e-30) / 127.0;
        let inverse = lanes.splat(1.0 / step);
        let mut sums = [lanes.splat(0.0); N];
        let n_chunks = x.len() + usize::from(!rest.is_empty());
        assert!(self.out.iter().all(|out| out.len() >= n_chunks));
        let chunks = x.iter().chain(std::iter::once(&last)).take(n_chunks);
        for (i, x) in chunks.enumerate() {
            let mut x = lanes.mul(lanes.load(x), inverse);
            for (part, sum) in sums.iter_mut().enumerate() {
                // NaN, in the input or from infinity times zero, becomes 0.
                let whole = lanes.nan_to_zero(round(lanes, x));
                lanes.store_i8(whole, &mut self.out[part][i]);
                *sum = lanes.add(*sum, whole);
                x = lanes.mul(lanes.sub(x, whole), lanes.splat(PART_RADIX));
            }
        }
        // Sums of integers below 2^24: exact in any order.
        PartStats {
            step,
            sums: sums.map(|sum| lanes.reduce_sum(sum) as i32),
        }
    }
}

/// Computes the sum of every [`SUM_COLS`] columns.
struct PartSums<'a> {
    row: &'a [i8],
    sums: &'a mut [i32],
}

impl NullaryFnOnce for PartSums<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (sum, part) in self.sums.iter_mut().zip(self.row.chunks(SUM_COLS)) {
            *sum = part.iter().map(|&q| i32::from(q)).sum();
        }
    }
}

/// Returns the remainder of a row, zero-padded.
#[inline(always)]
fn padded(rest: &[f32]) -> [f32; WIDTH] {
    let mut last = [0.0; WIDTH];
    last[..rest.len()].copy_from_slice(rest);
    last
}

/// Returns the largest |x|, ignoring NaN.
#[inline(always)]
fn largest_magnitude<L: Lanes>(lanes: L, x: &[[f32; WIDTH]], last: &[f32; WIDTH]) -> f32 {
    let zero = lanes.splat(0.0);
    let mut max = zero;
    for x in x.iter().chain(std::iter::once(last)) {
        let x = lanes.load(x);
        max = lanes.max(x, max);
        max = lanes.max(lanes.sub(zero, x), max);
    }
    lanes.reduce_max(max)
}

/// Rounds values up to 2^22 to nearest even.
#[inline(always)]
fn round<L: Lanes>(lanes: L, x: L::V) -> L::V {
    let round = lanes.splat(12_582_912.0);
    lanes.sub(lanes.add(x, round), round)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantize(isa: Isa, x: &[f32]) -> (Vec<i8>, f32, i32) {
        let mut rows = Int8Rows::with_capacity(&HybridMemoryPool::new(), 1, x.len()).unwrap();
        rows.data.fill(77); // stale values of an earlier batch
        rows.quantize(isa, x, x.len());
        assert!(rows.view().padded_row(0)[x.len()..].iter().all(|&q| q == 0));
        (rows.row(0).to_vec(), rows.scale(0), rows.view().sum(0))
    }

    #[test]
    fn the_largest_value_becomes_127_and_halves_round_to_even() {
        for isa in Isa::available() {
            let x = [127.0, -127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 0.0];
            let (q, scale, sum) = quantize(isa, &x);
            assert_eq!(q, [127, -127, 0, 2, 2, 0, -2, 0]);
            assert_eq!((scale, sum), (1.0, 2));
        }
    }

    #[test]
    fn tiny_and_broken_rows_do_not_divide_by_zero() {
        for isa in Isa::available() {
            assert_eq!(quantize(isa, &[0.0; 5]), (vec![0; 5], 127.0 / 1e-5, 0));
            let (q, scale, _) = quantize(isa, &[f32::INFINITY, 1.0]);
            assert_eq!((q, scale), (vec![0, 0], 0.0));
            let (q, ..) = quantize(isa, &[f32::NAN, 1.0]);
            assert_eq!(q, [0, 127]);
        }
    }

    #[test]
    fn kernels_agree_bit_for_bit() {
        let x: Vec<f32> = (0..1003u32)
            .map(|i| ((i * 7919) % 1000) as f32 / 77.0 - 6.0)
            .collect();
        let expected = quantize(Isa::Scalar, &x);
        for isa in Isa::available() {
            for len in [1, 15, 16, 17, 31, 64, 1003] {
                let reference = quantize(Isa::Scalar, &x[..len]);
                assert_eq!(quantize(isa, &x[..len]), reference, "{isa}, {len} columns");
            }
            assert_eq!(quantize(isa, &x), expected);
        }
    }
}
