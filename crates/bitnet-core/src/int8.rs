//! Packed int8 matrices, such as the quantized output head.

use std::ops::Range;
use std::sync::Arc;

use crate::activations::Int8Rows;
use crate::arch::NullaryFnOnce;
use crate::compute_context::ComputeContext;
use crate::isa::Isa;
use crate::matmul::{Panels, dequantize, for_tiles, matmul};
use crate::memory::{Buffer, Category, FixedBytes, HybridMemoryPool, OutOfMemory, ReadOnly};
use crate::ops;
use crate::panel::{COL_STEP, Operands, PANEL_ROWS, PackedBlock};
use crate::shape::Shape;
use crate::thread_pool::DisjointMut;

/// Columns per block: 64 bytes are 16 rows of four columns.
pub(crate) const BLOCK_COLS: usize = 4;

/// A matrix `[n_rows, n_cols]` of int8 weights with one scale per row.
///
/// `w ≈ q · scale` with `scale = max|w| / 127` of the row. Sixteen rows form a panel of
/// 64-byte blocks of four columns; byte `4r + j` of a block is row r, column j.
#[derive(Debug)]
pub struct PackedInt8 {
    blocks: ReadOnly<PackedBlock>,
    /// One per row, zero for the padding rows of the last panel.
    scales: ReadOnly<f32>,
    n_rows: usize,
    n_cols: usize,
}

/// A packed int8 matrix in parts, whose arrays are of type `B`: bytes, or where they are. The
/// arrays are as [`PackedInt8`] specifies them, in the byte order of this machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Int8Parts<B> {
    /// The shape.
    pub shape: Shape,
    /// The weights.
    pub blocks: B,
    /// The scales of the rows of all panels, sixteen each.
    pub scales: B,
}

impl PackedInt8 {
    /// The maximum number of columns: a dot product of values up to 127 (and of the weights
    /// plus 128, as kernels compute it) then fits in i32.
    pub const MAX_COLS: usize = i32::MAX as usize / (255 * 128);

    /// Quantizes a matrix; `fill_row(row, values)` writes one row. Rows are filled in any
    /// order on all threads of the pool.
    ///
    /// # Errors
    ///
    /// Returns an error if the system is out of memory.
    ///
    /// # Panics
    ///
    /// Panics if `n_cols` exceeds [`MAX_COLS`](Self::MAX_COLS).
    pub fn quantize(
        pool: &HybridMemoryPool,
        ctx: &mut ComputeContext<'_>,
        Shape { n_rows, n_cols }: Shape,
        fill_row: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<Self, OutOfMemory> {
        assert!(n_cols <= Self::MAX_COLS, "dot products fit i32");
        let blocks_per_panel = blocks_per_panel(n_cols);
        let n_panels = n_rows.div_ceil(PANEL_ROWS);
        let n_blocks = n_panels.saturating_mul(blocks_per_panel);
        let stride = blocks_per_panel * BLOCK_COLS;
        let mut blocks = pool.zeroed::<PackedBlock>(Category::Weights, n_blocks)?;
        let mut scales = pool.zeroed(Category::Weights, n_panels * PANEL_ROWS)?;
        let mut scratch = (0..ctx.threads.n_threads())
            .map(|_| {
                let values = pool.zeroed(Category::Scratch, n_cols)?;
                let quantized = pool.zeroed(Category::Scratch, PANEL_ROWS * stride)?;
                Ok((values, quantized))
            })
            .collect::<Result<Vec<(Buffer<f32>, Buffer<i8>)>, _>>()?;
        let isa = ctx.isa;
        let out_scales = DisjointMut(scales.as_mut_ptr());
        // A matrix without columns has no blocks, and its scales are zero.
        let chunk = blocks_per_panel.max(1);
        ctx.threads.for_each_chunk(
            &mut blocks,
            chunk,
            &mut scratch,
            |scratch, panel, blocks| {
                // SAFETY: these are the scales of the panel's rows, and each panel is
                // handed out once.
                let scales = unsafe {
                    std::slice::from_raw_parts_mut(out_scales.at(panel * PANEL_ROWS), PANEL_ROWS)
                };
                let (values, quantized) = scratch;
                let rows = PANEL_ROWS.min(n_rows - panel * PANEL_ROWS);
                for (r, scale) in scales[..rows].iter_mut().enumerate() {
                    fill_row(panel * PANEL_ROWS + r, values);
                    *scale = quantize_row(isa, values, &mut quantized[r * stride..][..n_cols]);
                }
                quantized[rows * stride..].fill(0);
                interleave_rows(quantized, blocks);
            },
        );
        Ok(Self {
            blocks: blocks.into(),
            scales: scales.into(),
            n_rows,
            n_cols,
        })
    }

    /// Returns the number of rows, which are outputs.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Returns the scale of every row, its quantization step.
    pub(crate) fn scales(&self) -> &[f32] {
        &self.scales[..self.n_rows]
    }

    /// Returns the bytes of the weights and scales of a matrix of this shape.
    pub fn n_bytes_of(Shape { n_rows, n_cols }: Shape) -> usize {
        let panel =
            blocks_per_panel(n_cols) * size_of::<PackedBlock>() + PANEL_ROWS * size_of::<f32>();
        n_rows.div_ceil(PANEL_ROWS) * panel
    }

    /// Returns the bytes of the weights and scales.
    pub fn n_bytes(&self) -> usize {
        size_of_val(&*self.blocks) + size_of_val(&*self.scales)
    }

    /// Returns the parts of the matrix.
    pub fn parts(&self) -> Int8Parts<&[u8]> {
        Int8Parts {
            shape: Shape {
                n_rows: self.n_rows,
                n_cols: self.n_cols,
            },
            blocks: bytemuck::cast_slice(&self.blocks),
            scales: bytemuck::cast_slice(&self.scales),
        }
    }

    /// Returns a matrix whose arrays are in these ranges of `bytes`, as [`parts`](Self::parts)
    /// returned them; `None` if there is no such matrix.
    pub fn from_parts(bytes: &Arc<dyn FixedBytes>, parts: Int8Parts<Range<usize>>) -> Option<Self> {
        let Shape { n_rows, n_cols } = parts.shape;
        let blocks = ReadOnly::<PackedBlock>::in_bytes(bytes, parts.blocks)?;
        let scales = ReadOnly::<f32>::in_bytes(bytes, parts.scales)?;
        let n_panels = n_rows.div_ceil(PANEL_ROWS);
        let is_whole = n_cols <= Self::MAX_COLS
            && Some(blocks.len()) == n_panels.checked_mul(blocks_per_panel(n_cols))
            && Some(scales.len()) == n_panels.checked_mul(PANEL_ROWS);
        is_whole.then_some(Self {
            blocks,
            scales,
            n_rows,
            n_cols,
        })
    }

    /// Returns the bytes of [`n_bytes`](Self::n_bytes) that are not in the pool, see
    /// [`from_parts`](Self::from_parts).
    pub fn n_shared_bytes(&self) -> usize {
        if self.blocks.is_shared() {
            self.n_bytes()
        } else {
            0
        }
    }

    /// Returns whether all weights are zero.
    pub fn is_zero(&self) -> bool {
        self.scales.iter().all(|scale| *scale == 0.0)
    }

    /// Computes
    /// `out[token, row] = Σ_col w[row, col] · q[token, col] · (row scale / activation scale)`;
    /// the sum is exact.
    ///
    /// # Panics
    ///
    /// Panics if the shapes disagree: `acts` is `[n_tokens, n_cols]`, `out` is
    /// `[n_tokens, n_rows]`.
    pub fn matmul(&self, ctx: &mut ComputeContext<'_>, acts: &Int8Rows, out: &mut [f32]) {
        assert_eq!(
            acts.n_cols(),
            self.n_cols,
            "columns of weights and activations"
        );
        let (weights, isa) = (self, ctx.isa);
        matmul(&WithIsa { weights, isa }, ctx.threads, acts, out);
    }

    fn panel(&self, panel: usize) -> &[PackedBlock] {
        let len = blocks_per_panel(self.n_cols);
        &self.blocks[panel * len..][..len]
    }
}

/// Panels cover whole [`COL_STEP`]s of the padded activations, so that a kernel never reads
/// past a row of activations.
fn blocks_per_panel(n_cols: usize) -> usize {
    n_cols.next_multiple_of(COL_STEP) / BLOCK_COLS
}

/// Writes the rows of a panel, `[PANEL_ROWS, 4 · blocks.len()]`, to its blocks.
fn interleave_rows(rows: &[i8], blocks: &mut [PackedBlock]) {
    let (quads, _) = rows.as_chunks::<BLOCK_COLS>();
    let n_blocks = blocks.len();
    let rows: [&[[i8; BLOCK_COLS]]; PANEL_ROWS] =
        std::array::from_fn(|row| &quads[row * n_blocks..][..n_blocks]);
    for (i, block) in blocks.iter_mut().enumerate() {
        for (bytes, row) in block.0.as_chunks_mut().0.iter_mut().zip(rows) {
            *bytes = row[i].map(i8::cast_unsigned);
        }
    }
}

/// Adding it to a magnitude below 2^22 rounds to an integer, whose lowest byte is then that of
/// the sum. `round_ties_even` calls the C library on targets without such an instruction, and a
/// conversion with `as` checks for overflow, so that the loop would not be vectorized.
const ROUND: f32 = 12_582_912.0;

struct QuantizeWeights<'a> {
    w: &'a [f32],
    out: &'a mut [i8],
}

impl NullaryFnOnce for QuantizeWeights<'_> {
    /// The scale of the row.
    type Output = f32;

    #[inline(always)]
    fn call(self) -> f32 {
        let scale = ops::max_abs(self.w) / 127.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for (out, &w) in self.out.iter_mut().zip(self.w) {
            // Rounds to nearest even: the sum has no fraction bits.
            let sum = (w * inverse).clamp(-127.0, 127.0) + ROUND;
            *out = sum.to_bits() as i8;
        }
        scale
    }
}

/// Quantizes a row, `w ≈ q · scale` with `scale = max|w| / 127`, and returns the scale.
pub(crate) fn quantize_row(isa: Isa, w: &[f32], out: &mut [i8]) -> f32 {
    isa.vectorize(QuantizeWeights { w, out })
}

struct WithIsa<'a> {
    weights: &'a PackedInt8,
    isa: Isa,
}

impl Panels for WithIsa<'_> {
    fn n_rows(&self) -> usize {
        self.weights.n_rows
    }

    fn products(
        &self,
        panel: usize,
        acts: &Int8Rows,
        mut put: impl FnMut(usize, &[f32; PANEL_ROWS]),
    ) {
        let scales = &self.weights.scales.as_chunks().0[panel];
        for_tiles(acts, |first, acc| {
            let operands = Operands {
                blocks: self.weights.panel(panel),
                acts: acts.view(),
                first,
                first_col: 0,
            };
            self.isa.int8_panel(operands, acc);
            dequantize(acts, first, acc, scales, &mut put);
        });
    }

    fn panel_bytes(&self) -> usize {
        size_of_val(self.weights.panel(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::thread_pool::ThreadPool;

    fn values(n: usize, seed: u32) -> Vec<f32> {
        (0..n as u32)
            .map(|i| ((i.wrapping_mul(2_654_435_761) ^ seed) >> 8) as f32 / 8e6 - 1.0)
            .collect()
    }

    #[test]
    fn every_kernel_equals_the_definition() {
        for n_rows in [1, 15, 16, 17, 40] {
            for n_cols in [1, 4, 15, 16, 17, 130] {
                for n_tokens in [1, 2, 5, 16, 19] {
                    let w = values(n_rows * n_cols, 5);
                    let x = values(n_tokens * n_cols, 99);
                    let fill = |row: usize, out: &mut [f32]| {
                        out.copy_from_slice(&w[row * n_cols..][..n_cols]);
                    };
                    let mut acts =
                        Int8Rows::with_capacity(&HybridMemoryPool::new(), n_tokens, n_cols)
                            .unwrap();
                    acts.quantize(Isa::Scalar, &x, n_cols);
                    let mut expected = Vec::new();
                    for token in 0..n_tokens {
                        for w in w.chunks_exact(n_cols) {
                            let scale = w.iter().fold(0f32, |m, w| m.max(w.abs())) / 127.0;
                            let inverse = 1.0 / scale;
                            let sum: i32 = (w.iter().zip(acts.row(token)))
                                .map(|(w, &a)| (w * inverse).round_ties_even() as i32 * a as i32)
                                .sum();
                            expected.push(sum as f32 * (scale / acts.scale(token)));
                        }
                    }
                    for isa in Isa::available() {
                        let threads = &mut ThreadPool::new(2);
                        let ctx = &mut ComputeContext::new(isa, threads);
                        let packed = PackedInt8::quantize(
                            &HybridMemoryPool::new(),
                            ctx,
                            Shape { n_rows, n_cols },
                            fill,
                        )
                        .unwrap();
                        let mut out = vec![f32::NAN; n_tokens * n_rows];
                        packed.matmul(ctx, &acts, &mut out);
                        assert_eq!(out, expected, "{isa} {n_rows}x{n_cols}, {n_tokens} tokens");
                    }
                }
            }
        }
    }

    #[test]
    fn extreme_values_do_not_saturate() {
        for (w, a) in [(1.0f32, 1.0f32), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)] {
            let n_cols = 4096;
            let mut acts = Int8Rows::with_capacity(&HybridMemoryPool::new(), 1, n_cols).unwrap();
            acts.quantize(Isa::Scalar, &vec![a; n_cols], n_cols);
            for isa in Isa::available() {
                let threads = &mut ThreadPool::new(1);
                let ctx = &mut ComputeContext::new(isa, threads);
                let packed = PackedInt8::quantize(
                    &HybridMemoryPool::new(),
                    ctx,
                    Shape { n_rows: 1, n_cols },
                    |_, out| out.fill(w),
                )
                .unwrap();
                let mut out = [0.0];
                packed.matmul(ctx, &acts, &mut out);
                let sum = 127.0 * 127.0 * n_cols as f32 * w * a;
                assert_eq!(out, [sum * ((1.0 / 127.0) / 127.0)], "{isa}");
            }
        }
    }

    #[test]
    fn a_row_of_zeros_stays_zero() {
        let threads = &mut ThreadPool::new(1);
        let ctx = &mut ComputeContext::new(Isa::Scalar, threads);
        let mut acts = Int8Rows::with_capacity(&HybridMemoryPool::new(), 1, 8).unwrap();
        acts.quantize(Isa::Scalar, &[1.0; 8], 8);
        let packed = PackedInt8::quantize(
            &HybridMemoryPool::new(),
            ctx,
            Shape {
                n_rows: 1,
                n_cols: 8,
            },
            |_, out| out.fill(0.0),
        )
        .unwrap();
        let mut out = [f32::NAN];
        packed.matmul(ctx, &acts, &mut out);
        assert_eq!(out, [0.0]);
    }
}
