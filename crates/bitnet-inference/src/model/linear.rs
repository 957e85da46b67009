//! Linear layers with packed ternary or dense weights, and the input formats they need.

use std::sync::atomic::{AtomicBool, Ordering};

use bitnet_core::memory::{Buffer, Category};
use bitnet_core::{
    CodeRuns, ComputeContext, HybridMemoryPool, Int8Rows, Isa, Operation, OutOfMemory,
    PackedTernary, Shape, TernaryLayout, TernaryRows, TernarySpec, lap, matmul_rows, ops,
};

use super::load_context::LoadContext;
use super::skipping::{self, Skipped};
use super::ternary::TernaryTensor;
use crate::format::checkpoint::CheckpointError;
use crate::format::tensor::{DenseTensor, Encoding};
use crate::note::{self, Note};
use crate::spec::config::{ActivationPrecision, Config, RotaryRows, RotaryWidths};

/// A linear layer with an optional norm of its input (the sub-norm).
#[derive(Debug)]
pub(crate) struct Linear {
    /// `[n_cols]`
    pub(crate) norm: Option<Buffer<f32>>,
    weights: Weights,
}

#[derive(Debug)]
enum Weights {
    Ternary(PackedTernary),
    /// Used in place in the file; rows are decoded on each use.
    Dense {
        matrix: DenseTensor,
        /// The row order in the file, and the widths for [`RotaryRows::position_in`].
        stored_rows: RotaryRows,
        widths: RotaryWidths,
    },
}

impl Linear {
    /// Loads a linear layer and packs it if it is ternary. The rows of each head are permuted
    /// from the order `stored_rows` to [`RotaryRows::Halves`], that of the forward pass.
    pub(crate) fn load(
        ctx: &mut LoadContext<'_, '_>,
        name: &str,
        stored_rows: RotaryRows,
        norm: Option<Buffer<f32>>,
    ) -> Result<Self, CheckpointError> {
        let checkpoint = ctx.checkpoint;
        let widths = checkpoint.config().rotary_widths();
        let weights = match checkpoint.tensor(name).encoding {
            Encoding::Dense(_) => Weights::Dense {
                matrix: checkpoint.dense(name),
                stored_rows,
                widths,
            },
            Encoding::Ternary(_) | Encoding::Masters(_) => {
                let stored = |row| RotaryRows::Halves.position_in(stored_rows, row, widths);
                Weights::Ternary(pack(ctx, name, stored)?)
            }
        };
        Ok(Self { norm, weights })
    }

    /// Returns the packed weights, or `None` if they are dense.
    pub(crate) fn packed(&self) -> Option<&PackedTernary> {
        match &self.weights {
            Weights::Ternary(packed) => Some(packed),
            Weights::Dense { .. } => None,
        }
    }

    /// Returns the dense weights, or `None` if they are ternary.
    pub(crate) fn dense(&self) -> Option<&DenseTensor> {
        match &self.weights {
            Weights::Ternary(_) => None,
            Weights::Dense { matrix, .. } => Some(matrix),
        }
    }

    /// Returns the bytes of packed weights and norm in memory.
    pub(crate) fn n_bytes(&self) -> usize {
        let norm = self.norm.as_deref().map_or(0, size_of_val);
        norm + self.packed().map_or(0, PackedTernary::n_bytes)
    }

    /// Returns the bytes that are read per token.
    pub(crate) fn bytes_per_token(&self) -> usize {
        self.n_bytes() + self.dense().map_or(0, |matrix| matrix.bytes().len())
    }

    /// Returns the bytes of packed weights in the mapped file of a cache.
    pub(crate) fn n_shared_bytes(&self) -> usize {
        self.packed().map_or(0, PackedTernary::n_shared_bytes)
    }

    /// Returns the bytes of weights that are used in place in a mapped file of the model.
    pub(crate) fn n_mapped_bytes(&self) -> usize {
        match &self.weights {
            Weights::Ternary(_) => 0,
            Weights::Dense { matrix, .. } => matrix.n_mapped_bytes(),
        }
    }

    /// Returns the packed weights if single rows or columns of them can be skipped.
    fn in_parts(&self, layout: TernaryLayout) -> Option<&PackedTernary> {
        self.packed().filter(|packed| packed.layout() == layout)
    }

    /// Computes `out[token, row] = Σ_col w[row, col] · x[token, col]`.
    fn matmul(&self, ctx: &mut ComputeContext<'_>, input: &mut LinearInput, out: &mut [f32]) {
        if let Some(columns) = self.in_parts(TernaryLayout::Columns) {
            input.acts.list_nonzero(ctx);
            let read = columns.listed_matmul(ctx, &input.acts, out);
            (input.skipped).add_columns(read, input.n_rows, columns.n_rows());
            return;
        }
        match &self.weights {
            Weights::Ternary(packed) => packed.matmul(ctx, &input.acts, out),
            Weights::Dense {
                matrix,
                stored_rows,
                widths,
            } => {
                let isa = ctx.isa;
                let shape = matrix.shape();
                let decode = |row: usize, out: &mut [f32]| {
                    let row = RotaryRows::Halves.position_in(*stored_rows, row, *widths);
                    matrix.decode_row(isa, row, out);
                };
                let x = &input.dense[..input.n_rows * matrix.n_cols];
                matmul_rows(ctx, shape, decode, x, out);
            }
        }
    }
}

/// Packs a ternary matrix; its row `row` is row `stored(row)` of the file. Adds a note if the
/// weights are all zero or a scale is extreme.
pub(crate) fn pack(
    ctx: &mut LoadContext<'_, '_>,
    name: &str,
    stored: impl Fn(usize) -> usize + Sync,
) -> Result<PackedTernary, CheckpointError> {
    let checkpoint = ctx.checkpoint;
    let cached = ctx.packed.as_ref();
    if let Some(packed) =
        cached.and_then(|file| file.ternary(name, checkpoint.tensor(name).shape()))
    {
        return Ok(noted(ctx, name, packed));
    }
    // Most matrices have one scale, even if every block stores it. Whether that is so is seen
    // while the blocks are packed, instead of reading all of them before.
    if let Some(tensor) = TernaryTensor::of_one_scale(checkpoint, name) {
        let is_one = AtomicBool::new(true);
        let see_row = |row| {
            if !tensor.has_one_scale(row) {
                is_one.store(false, Ordering::Relaxed);
            }
        };
        match pack_rows(ctx, name, &tensor, &stored, see_row) {
            // An error in the scales is reported first.
            Err(CheckpointError::Ternary { .. }) => {}
            packed if is_one.into_inner() => return Ok(noted(ctx, name, packed?)),
            _ => {}
        }
    }
    let tensor = TernaryTensor::new(checkpoint, ctx.compute.isa, name)?;
    let packed = pack_rows(ctx, name, &tensor, stored, |_| {})?;
    Ok(noted(ctx, name, packed))
}

/// Adds a note if a packed tensor is all zero or a scale is extreme, and returns it.
fn noted(ctx: &mut LoadContext<'_, '_>, name: &str, packed: PackedTernary) -> PackedTernary {
    let name = &ctx.checkpoint.tensor(name).name;
    if let Some(note) = unusual_values(name, packed.scale_values(), packed.is_zero()) {
        note::add(&mut ctx.notes, note);
    }
    packed
}

/// Packs a ternary tensor as [`pack`] does, and calls `see_row` for each row of the file.
fn pack_rows(
    ctx: &mut LoadContext<'_, '_>,
    name: &str,
    tensor: &TernaryTensor<'_>,
    stored: impl Fn(usize) -> usize + Sync,
    see_row: impl Fn(usize) + Sync,
) -> Result<PackedTernary, CheckpointError> {
    let checkpoint = ctx.checkpoint;
    let layout = if ctx.read_all {
        ctx.layout
    } else {
        skipping::layout_of(checkpoint, ctx.compute.isa, name, ctx.layout)
    };
    let spec = TernarySpec {
        layout,
        shape: tensor.shape(),
        scales: tensor.scales.clone().reordered(tensor.n_rows, &stored),
    };
    let rows = StoredRows {
        tensor,
        stored,
        see_row,
    };
    let packed = PackedTernary::pack(ctx.pool, ctx.compute, spec, &rows);
    checkpoint.release(name);
    packed
}

/// The rows of a ternary tensor, in the order in which they are packed.
struct StoredRows<'a, F, S> {
    tensor: &'a TernaryTensor<'a>,
    /// Returns the row of the file.
    stored: F,
    /// Called for each row of the file, perhaps twice.
    see_row: S,
}

impl<F, S> TernaryRows<CheckpointError> for StoredRows<'_, F, S>
where
    F: Fn(usize) -> usize + Sync,
    S: Fn(usize) + Sync,
{
    fn decode(&self, row: usize, trits: &mut [i8]) -> Result<(), CheckpointError> {
        let row = (self.stored)(row);
        (self.see_row)(row);
        self.tensor.load_row(row, trits)
    }

    fn copy_codes(&self, row: usize, codes: &mut [u8]) -> Option<CodeRuns> {
        let row = (self.stored)(row);
        (self.see_row)(row);
        self.tensor.copy_codes(row, codes)
    }
}

/// Returns a note if the scales of a tensor or the weights of a norm are all zero, or the
/// tensor is zero by `is_zero`, or a nonzero value is outside [`Note::USUAL`].
pub(crate) fn unusual_values(name: &str, values: &[f32], is_zero: bool) -> Option<Note> {
    let name = || name.to_owned();
    // Single zeros are accepted: the scale of a group of zero weights may be 0.
    if is_zero || values.iter().all(|value| *value == 0.0) {
        let (name, count) = (name(), 1);
        return Some(Note::AllZero { name, count });
    }
    let is_odd = |value: &&f32| **value != 0.0 && !Note::USUAL.contains(&value.abs());
    let value = *values.iter().find(is_odd)?;
    Some(Note::Extreme {
        name: name(),
        value,
    })
}

/// The input of linear layers, in the formats that their weights need.
#[derive(Debug)]
pub(crate) struct LinearInput {
    activations: ActivationPrecision,
    /// The epsilon of sub-norms.
    eps: f32,
    /// Quantized or split activations, for ternary weights.
    acts: Int8Rows,
    /// f32 activations, `[n_rows, n_cols]`, for dense weights; empty if the model has none.
    dense: Buffer<f32>,
    n_rows: usize,
    /// What was not read since it was taken.
    skipped: Skipped,
}

impl LinearInput {
    /// Returns the bytes that [`new`](Self::new) allocates.
    pub(crate) fn n_bytes(config: &Config, isa: Isa, batch_tokens: usize) -> usize {
        let n_parts = match config.activations {
            ActivationPrecision::Int8 => 1,
            ActivationPrecision::Exact => 3,
        };
        let dense = usize::from(config.dense_linears) * size_of::<f32>();
        batch_tokens * config.widest() * (n_parts + dense)
            + skipping::list_bytes(config, isa, batch_tokens)
    }

    pub(crate) fn new(
        pool: &HybridMemoryPool,
        config: &Config,
        isa: Isa,
        batch_tokens: usize,
    ) -> Result<Self, OutOfMemory> {
        let widest = config.widest();
        let acts = match config.activations {
            ActivationPrecision::Int8 => Int8Rows::with_capacity(pool, batch_tokens, widest),
            ActivationPrecision::Exact => Int8Rows::with_exact_capacity(pool, batch_tokens, widest),
        }?;
        let acts = match skipping::listed_cols(config, isa) {
            Some(n_cols) => acts.with_lists(pool, batch_tokens, n_cols)?,
            None => acts,
        };
        let n_dense = if config.dense_linears {
            batch_tokens * widest
        } else {
            0
        };
        let dense = pool.zeroed(Category::Scratch, n_dense);
        Ok(Self {
            activations: config.activations,
            eps: config.rms_norm_eps,
            acts,
            dense: dense?,
            n_rows: 0,
            skipped: Skipped::default(),
        })
    }

    /// Returns what was not read since the last call.
    pub(crate) fn take_skipped(&mut self) -> Skipped {
        std::mem::take(&mut self.skipped)
    }

    /// Sets the input for ternary weights: rows of this shape, written by
    /// `fill_row(row, values)`, are quantized or split.
    pub(crate) fn set_ternary(
        &mut self,
        ctx: &mut ComputeContext<'_>,
        shape: Shape,
        fill_row: impl Fn(usize, &mut [f32]) + Sync,
    ) -> &Int8Rows {
        let acts = &mut self.acts;
        match self.activations {
            ActivationPrecision::Int8 => acts.quantize_rows(ctx, shape, fill_row),
            ActivationPrecision::Exact => acts.split_rows(ctx, shape, fill_row),
        }
        acts
    }

    /// Sets the input in the formats that `linears` need.
    fn set(
        &mut self,
        ctx: &mut ComputeContext<'_>,
        shape: Shape,
        linears: &mut dyn Iterator<Item = &Linear>,
        fill_row: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let (mut ternary, mut dense) = (false, false);
        for linear in linears {
            match linear.weights {
                Weights::Ternary(_) => ternary = true,
                Weights::Dense { .. } => dense = true,
            }
        }
        let Shape { n_rows, n_cols } = shape;
        self.n_rows = n_rows;
        if dense {
            let rows = &mut self.dense[..n_rows * n_cols];
            ctx.threads
                .for_each_chunk(rows, n_cols, ctx.scratch, |_, row, out| fill_row(row, out));
        }
        if ternary {
            self.set_ternary(ctx, shape, fill_row);
        }
    }

    /// Computes `out = max(gate, 0)² ⊙ up` of an input of this shape, as
    /// [`project`](Self::project) does, and reads no row of `up` whose gate is not positive.
    /// Returns false, and computes nothing, if the weights are not packed for that.
    pub(crate) fn relu2_gated(
        &mut self,
        ctx: &mut ComputeContext<'_>,
        shape: Shape,
        fill_row: impl Fn(usize, &mut [f32]) + Sync,
        [gate, up]: [&Linear; 2],
        out: &mut [f32],
    ) -> bool {
        let (Some(gate), Some(up)) = (gate.packed(), up.in_parts(TernaryLayout::Rows)) else {
            return false;
        };
        let acts = self.set_ternary(ctx, shape, fill_row);
        let read = PackedTernary::relu2_gated_matmul(ctx, [gate, up], acts, out);
        self.skipped.add_rows(read, shape.n_rows, shape.n_cols);
        true
    }

    /// Computes several linear layers, each with its name in recordings and its output
    /// buffer, on one input of this shape, written by `fill_row(row, values)`. Applies the
    /// sub-norms of the layers.
    pub(crate) fn project<const N: usize>(
        &mut self,
        ctx: &mut ComputeContext<'_>,
        shape: Shape,
        fill_row: impl Fn(usize, &mut [f32]) + Sync,
        outputs: [(Operation, &Linear, &mut [f32]); N],
    ) {
        let (isa, eps) = (ctx.isa, self.eps);
        let is_shared = outputs.iter().all(|(_, linear, _)| linear.norm.is_none());
        if is_shared {
            let mut linears = outputs.iter().map(|(_, linear, _)| *linear);
            self.set(ctx, shape, &mut linears, &fill_row);
        }
        for (operation, linear, out) in outputs {
            if !is_shared {
                self.set(ctx, shape, &mut std::iter::once(linear), |row, values| {
                    fill_row(row, values);
                    if let Some(weight) = &linear.norm {
                        ops::rms_norm_each(isa, values, weight, eps);
                        lap(Operation::Norm);
                    }
                });
            }
            linear.matmul(ctx, self, out);
            lap(operation);
        }
    }
}

#[cfg(test)]
mod tests {
    use bitnet_core::ThreadPool;
    use bitnet_quant::TernaryType;

    use super::*;
    use crate::format::checkpoint::Checkpoint;

    /// A file in TQ2_0; `scale(block, n_blocks)` are the bits of the scales of each matrix.
    fn with_scales(scale: impl Fn(usize, usize) -> u16) -> Checkpoint {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/data/families/trilm-tq2_0.gguf"
        );
        let mut file = std::fs::read(path).unwrap();
        let checkpoint = Checkpoint::from_gguf_bytes(file.clone()).unwrap();
        for tensor in checkpoint.tensors() {
            if tensor.encoding == Encoding::Ternary(TernaryType::TQ2_0) {
                let bytes = &mut file[tensor.range.clone()];
                let n_blocks = bytes.len() / 66;
                for (i, block) in bytes.chunks_exact_mut(66).enumerate() {
                    block[64..].copy_from_slice(&scale(i, n_blocks).to_le_bytes());
                }
            }
        }
        Checkpoint::from_gguf_bytes(file).unwrap()
    }

    fn pack_in(
        checkpoint: &Checkpoint,
        isa: Isa,
        name: &str,
    ) -> Result<PackedTernary, CheckpointError> {
        let (pool, mut threads) = (HybridMemoryPool::new(), ThreadPool::new(2));
        let ctx = &mut LoadContext {
            checkpoint,
            pool: &pool,
            compute: &mut ComputeContext::new(isa, &mut threads),
            layout: TernaryLayout::TwoBits,
            read_all: true,
            packed: None,
            notes: Vec::new(),
        };
        pack(ctx, name, |row| row)
    }

    #[test]
    fn the_scale_of_a_late_block_is_not_overlooked() {
        // The last block has another scale, or only the first, or none.
        let one = with_scales(|_, _| 0x2c00);
        let last = with_scales(|i, n| if i + 1 == n { 0x3000 } else { 0x2c00 });
        let first = with_scales(|i, _| if i == 0 { 0x3000 } else { 0x2c00 });
        for (checkpoint, is_one) in [(one, true), (last, false), (first, false)] {
            for name in ["blk.0.attn_q.weight", "blk.1.ffn_down.weight"] {
                let tensor = TernaryTensor::new(&checkpoint, Isa::best(), name).unwrap();
                let n_cols = tensor.n_cols;
                assert_eq!(tensor.scales.values().len() == 1, is_one, "{name}");
                for isa in Isa::available() {
                    let packed = pack_in(&checkpoint, isa, name).unwrap();
                    let (mut trits, mut values) = (vec![0; n_cols], vec![0.0; n_cols]);
                    for row in 0..tensor.n_rows {
                        tensor.decode_row(row, &mut trits).unwrap();
                        packed.decode_row(row, &mut values);
                        for (col, (trit, value)) in trits.iter().zip(&values).enumerate() {
                            let expected = f32::from(*trit) * tensor.scales.at(row, col, n_cols);
                            assert_eq!(*value, expected, "{isa}, {name}, {row}, {col}");
                        }
                    }
                }
            }
        }
        let infinite = with_scales(|i, n| if i + 1 == n { 0x7c00 } else { 0x2c00 });
        let error = pack_in(&infinite, Isa::best(), "blk.0.attn_q.weight").unwrap_err();
        assert!(error.to_string().contains("blk.0.attn_q.weight"), "{error}");
    }
}
