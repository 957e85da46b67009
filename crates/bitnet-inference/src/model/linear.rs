//! Linear layers: packed ternary or dense weights, and the forms of input that they
//! need.

use std::sync::atomic::{AtomicBool, Ordering};

use bitnet_core::memory::{Buffer, Category};
use bitnet_core::{
    HybridMemoryPool, Int8Rows, Isa, OutOfMemory, PackedTernary, TernaryLayout, ThreadPool,
    matmul_rows, ops,
};

use super::ternary::TernaryTensor;
use crate::format::checkpoint::{Checkpoint, CheckpointError};
use crate::format::tensor::{DenseTensor, Encoding};
use crate::note::{self, Note};
use crate::spec::config::{ActivationPrecision, Config, RotaryRows};

/// A linear layer, and the norm of its input if it has one.
#[derive(Debug)]
pub(crate) struct Linear {
    /// `[n_cols]`
    pub(crate) norm: Option<Buffer<f32>>,
    weights: Weights,
}

#[derive(Debug)]
enum Weights {
    Ternary(PackedTernary),
    /// Left where they are, and decoded row by row.
    Dense {
        matrix: DenseTensor,
        /// The order of its rows, and the widths for [`RotaryRows::position_in`].
        stored_rows: RotaryRows,
        widths: (usize, usize),
    },
}

impl Linear {
    /// Reads a linear layer, and packs it if it is ternary. Rows of every head are
    /// brought from the order `stored_rows` into that of the forward pass.
    #[expect(
        clippy::too_many_arguments,
        reason = "what `Model::load` is told, and a name"
    )]
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        pool: &HybridMemoryPool,
        isa: Isa,
        layout: TernaryLayout,
        threads: &mut ThreadPool,
        name: &str,
        stored_rows: RotaryRows,
        norm: Option<Buffer<f32>>,
        notes: &mut Vec<Note>,
    ) -> Result<Self, CheckpointError> {
        let widths = checkpoint.config().rotary_widths();
        let weights = match checkpoint.tensor(name).encoding {
            Encoding::Dense(_) => Weights::Dense {
                matrix: checkpoint.dense(name),
                stored_rows,
                widths,
            },
            Encoding::Ternary(_) | Encoding::Masters(_) => {
                let stored = |row| RotaryRows::Halves.position_in(stored_rows, row, widths);
                let tensor = TernaryTensor::new(checkpoint, isa, name)?;
                let packed = pack(&tensor, pool, layout, threads, stored, notes);
                checkpoint.release(name);
                Weights::Ternary(packed?)
            }
        };
        Ok(Self { norm, weights })
    }

    /// Returns the packed weights, unless they are dense.
    pub(crate) fn packed(&self) -> Option<&PackedTernary> {
        match &self.weights {
            Weights::Ternary(packed) => Some(packed),
            Weights::Dense { .. } => None,
        }
    }

    /// Returns the weights that are left where they are.
    pub(crate) fn dense(&self) -> Option<&DenseTensor> {
        match &self.weights {
            Weights::Ternary(_) => None,
            Weights::Dense { matrix, .. } => Some(matrix),
        }
    }

    /// Returns the bytes that the layer takes in memory, and those that are read for
    /// one token.
    pub(crate) fn n_bytes(&self) -> (usize, usize) {
        let norm = self.norm.as_deref().map_or(0, size_of_val);
        match &self.weights {
            Weights::Ternary(packed) => (norm + packed.n_bytes(), norm + packed.n_bytes()),
            Weights::Dense { matrix, .. } => (norm, norm + matrix.bytes().len()),
        }
    }

    /// Returns the bytes that are read where they lie in a mapped file.
    pub(crate) fn n_mapped_bytes(&self) -> usize {
        match &self.weights {
            Weights::Ternary(_) => 0,
            Weights::Dense { matrix, .. } => matrix.n_mapped_bytes(),
        }
    }

    /// Returns the multiply-adds for one token.
    pub(crate) fn n_macs(&self) -> usize {
        match &self.weights {
            Weights::Ternary(packed) => packed.n_rows() * packed.n_cols(),
            Weights::Dense { matrix, .. } => matrix.n_rows * matrix.n_cols,
        }
    }

    /// Computes `out[token, row] = Σ_col w[row, col] · x[token, col]`.
    fn matmul(
        &self,
        isa: Isa,
        threads: &mut ThreadPool,
        values: &mut [Buffer<f32>],
        input: &LinearInput,
        out: &mut [f32],
    ) {
        match &self.weights {
            Weights::Ternary(packed) => packed.matmul(isa, threads, &input.acts, out),
            Weights::Dense {
                matrix,
                stored_rows,
                widths,
            } => {
                let shape = (matrix.n_rows, matrix.n_cols);
                let decode = |row: usize, out: &mut [f32]| {
                    let row = RotaryRows::Halves.position_in(*stored_rows, row, *widths);
                    matrix.decode_row(isa, row, out);
                };
                let x = &input.dense[..input.n_rows * matrix.n_cols];
                matmul_rows(isa, threads, values, shape, decode, x, out);
            }
        }
    }
}

/// Packs a ternary matrix whose row `row` is row `stored(row)` of the file, and notes
/// what no trained matrix has.
pub(crate) fn pack(
    tensor: &TernaryTensor<'_>,
    pool: &HybridMemoryPool,
    layout: TernaryLayout,
    threads: &mut ThreadPool,
    stored: impl Fn(usize) -> usize + Sync,
    notes: &mut Vec<Note>,
) -> Result<PackedTernary, CheckpointError> {
    let is_zero = AtomicBool::new(true);
    let (n_rows, n_cols) = (tensor.n_rows, tensor.n_cols);
    let scales = tensor.scales.clone().reordered(n_rows, &stored);
    let packed = PackedTernary::pack_as(
        pool,
        layout,
        threads,
        (n_rows, n_cols),
        scales,
        |row, trits| {
            let decoded = tensor.decode_row(stored(row), trits);
            // Of a matrix that is not zero, hardly more than one row is looked at.
            if is_zero.load(Ordering::Relaxed) && trits.iter().any(|trit| *trit != 0) {
                is_zero.store(false, Ordering::Relaxed);
            }
            decoded.map_err(|source| CheckpointError::Ternary {
                name: tensor.name.to_owned(),
                source,
            })
        },
    )?;
    if let Some(note) = unusual_values(tensor.name, tensor.scales.values(), is_zero.into_inner()) {
        note::add(notes, note);
    }
    Ok(packed)
}

/// Returns what no trained tensor has: the scales of one, or the weights of a norm, that
/// are all zero, as those of a tensor are that `is_zero` otherwise; or one that is not
/// zero and far from what is usual.
pub(crate) fn unusual_values(name: &str, values: &[f32], is_zero: bool) -> Option<Note> {
    let name = || name.to_owned();
    // A group of zeros may well have a scale of zero.
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

/// The input of linear layers, in the forms that their weights need.
#[derive(Debug)]
pub(crate) struct LinearInput {
    activations: ActivationPrecision,
    /// For ternary weights.
    acts: Int8Rows,
    /// For dense weights, `[n_rows, n_cols]`; empty if the model has none.
    dense: Buffer<f32>,
    n_rows: usize,
}

/// What computes: instruction set, threads and a row of scratch for each.
pub(crate) struct ComputeContext<'a> {
    pub(crate) isa: Isa,
    pub(crate) threads: &'a mut ThreadPool,
    /// `[n_threads][widest]`
    pub(crate) values: &'a mut [Buffer<f32>],
}

impl LinearInput {
    /// Returns the bytes that [`new`](Self::new) takes.
    pub(crate) fn n_bytes(config: &Config, batch_tokens: usize) -> usize {
        let n_parts = match config.activations {
            ActivationPrecision::Int8 => 1,
            ActivationPrecision::Exact => 3,
        };
        let dense = usize::from(config.dense_linears) * size_of::<f32>();
        batch_tokens * config.widest() * (n_parts + dense)
    }

    pub(crate) fn new(
        pool: &HybridMemoryPool,
        config: &Config,
        batch_tokens: usize,
    ) -> Result<Self, OutOfMemory> {
        let widest = config.widest();
        let acts = match config.activations {
            ActivationPrecision::Int8 => Int8Rows::with_capacity(pool, batch_tokens, widest),
            ActivationPrecision::Exact => Int8Rows::with_exact_capacity(pool, batch_tokens, widest),
        };
        let n_dense = if config.dense_linears {
            batch_tokens * widest
        } else {
            0
        };
        let dense = pool.zeroed(Category::Scratch, n_dense);
        Ok(Self {
            activations: config.activations,
            acts: acts?,
            dense: dense?,
            n_rows: 0,
        })
    }

    /// Takes `n_rows` rows of `n_cols` columns, which `fill_row(row, values)` writes, as
    /// ternary weights need them.
    pub(crate) fn set_ternary(
        &mut self,
        ctx: &mut ComputeContext<'_>,
        shape: (usize, usize),
        fill_row: impl Fn(usize, &mut [f32]) + Sync,
    ) -> &Int8Rows {
        let (acts, isa) = (&mut self.acts, ctx.isa);
        match self.activations {
            ActivationPrecision::Int8 => {
                acts.quantize_rows(isa, ctx.threads, ctx.values, shape, fill_row);
            }
            ActivationPrecision::Exact => {
                acts.split_rows(isa, ctx.threads, ctx.values, shape, fill_row);
            }
        }
        acts
    }

    /// Takes rows as `linears` need them.
    fn set(
        &mut self,
        ctx: &mut ComputeContext<'_>,
        (n_rows, n_cols): (usize, usize),
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
        self.n_rows = n_rows;
        if dense {
            let rows = &mut self.dense[..n_rows * n_cols];
            ctx.threads
                .for_each_chunk(rows, n_cols, ctx.values, |_, row, out| fill_row(row, out));
        }
        if ternary {
            self.set_ternary(ctx, (n_rows, n_cols), fill_row);
        }
    }

    /// Computes several linear layers with one input of `n_rows` rows and `n_cols`
    /// columns, which `fill_row(row, values)` writes; each layer may normalize it once
    /// more.
    pub(crate) fn project<const N: usize>(
        &mut self,
        ctx: &mut ComputeContext<'_>,
        shape: (usize, usize),
        eps: f32,
        fill_row: impl Fn(usize, &mut [f32]) + Sync,
        outputs: [(&Linear, &mut [f32]); N],
    ) {
        let isa = ctx.isa;
        let is_shared = outputs.iter().all(|(linear, _)| linear.norm.is_none());
        if is_shared {
            let mut linears = outputs.iter().map(|(linear, _)| *linear);
            self.set(ctx, shape, &mut linears, &fill_row);
        }
        for (linear, out) in outputs {
            if !is_shared {
                self.set(ctx, shape, &mut std::iter::once(linear), |row, values| {
                    fill_row(row, values);
                    if let Some(weight) = &linear.norm {
                        ops::rms_norm_each(isa, values, weight, eps);
                    }
                });
            }
            linear.matmul(isa, ctx.threads, ctx.values, self, out);
        }
    }
}
