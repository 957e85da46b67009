//! A loaded model: the weights in the memory layout of the kernels.

mod better_i2s_layout;
pub(crate) mod linear;
mod load_context;
pub(crate) mod skipping;
pub(crate) mod ternary;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bitnet_core::memory::{Buffer, Category, Counted};
use bitnet_core::{
    ComputeContext, HybridMemoryPool, Isa, PackedInt8, PackedTernary, TernaryLayout, ops,
};
use linear::{Linear, pack, unusual_values};
use load_context::LoadContext;

use crate::format::checkpoint::{Checkpoint, CheckpointError};
use crate::format::mapping::{Changed, FileBytes};
use crate::format::tensor::{DenseTensor, Encoding};
use crate::note::{self, Note};
use crate::spec::config::{Config, ConfigError, RotaryRows};
use crate::spec::tensors::{self, OUTPUT_NORM, TOKEN_EMBD, input_norm_tensor, layer_tensor};

/// The precision of the output matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadPrecision {
    /// As stored in the file; logits are computed in f32.
    Exact,
    /// As stored in the file, with an int8 copy. If only the largest logits are requested
    /// ([`Logits::Top`]), the copy bounds all logits, and only those that can be among the
    /// largest are computed, bit-identical to [`Exact`](Self::Exact).
    ///
    /// [`Logits::Top`]: crate::Logits::Top
    ExactTopK,
    /// Int8 with one scale per row, and int8 activations.
    #[default]
    Int8,
}

/// Options of the memory layout of weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packing {
    /// The precision of the output matrix.
    pub head: HeadPrecision,
    /// The layout of ternary weights; by default [`TernaryLayout::fastest`] on this machine.
    pub layout: Option<TernaryLayout>,
    /// Whether the rows of `up` and the columns of `down` are in this layout, too, and so are
    /// all read. By default those that are multiplied by zero are skipped, if the activation
    /// is squared ReLU and the kernels profit; that changes no result.
    pub read_all: bool,
}

impl From<HeadPrecision> for Packing {
    fn from(head: HeadPrecision) -> Self {
        Self {
            head,
            ..Self::default()
        }
    }
}

/// A loaded model. It is immutable and can be shared by engines.
#[derive(Debug)]
pub struct Model {
    config: Config,
    pool: HybridMemoryPool,
    packed: PackedWeights,
    /// Accounts for the parts of the model's files that stay in memory.
    _in_files: Counted,
    /// The files, if weights are used in place.
    files: Option<Arc<[FileBytes]>>,
    notes: Vec<Note>,
}

/// The weights of a model in the memory layout of the CPU's kernels.
#[derive(Debug)]
pub(crate) struct PackedWeights {
    pub(crate) embedding: Embedding,
    pub(crate) layers: Vec<Layer>,
    /// `[hidden_dim]`
    pub(crate) output_norm: Buffer<f32>,
    pub(crate) head: Head,
}

/// The weights of one layer.
#[derive(Debug)]
pub(crate) struct Layer {
    /// `[hidden_dim]`
    pub(crate) attn_norm: Buffer<f32>,
    /// `[q_dim, hidden_dim]`
    pub(crate) attn_q: Linear,
    /// `[kv_dim, hidden_dim]`
    pub(crate) attn_k: Linear,
    /// `[kv_dim, hidden_dim]`
    pub(crate) attn_v: Linear,
    /// The norms of query heads and of key heads, each `[head_dim]`.
    pub(crate) qk_norms: Option<[Buffer<f32>; 2]>,
    /// `[hidden_dim, q_dim]`
    pub(crate) attn_output: Linear,
    /// The norms of the attention output and of the feed-forward output, each `[hidden_dim]`.
    pub(crate) post_norms: Option<[Buffer<f32>; 2]>,
    /// `[hidden_dim]`
    pub(crate) ffn_norm: Buffer<f32>,
    /// `[ffn_dim, hidden_dim]`
    pub(crate) ffn_gate: Linear,
    /// `[ffn_dim, hidden_dim]`
    pub(crate) ffn_up: Linear,
    /// `[hidden_dim, ffn_dim]`
    pub(crate) ffn_down: Linear,
}

/// The token embedding, `[vocab_size, hidden_dim]`.
#[derive(Clone, Debug)]
pub(crate) enum Embedding {
    /// Used in place in the file.
    Dense(DenseTensor),
    Ternary(Arc<PackedTernary>),
}

impl Embedding {
    /// Writes the embedding of a token, `[hidden_dim]`, to `out`.
    pub(crate) fn decode_row(&self, isa: Isa, token: usize, out: &mut [f32]) {
        match self {
            Self::Dense(matrix) => matrix.decode_row(isa, token, out),
            Self::Ternary(matrix) => matrix.decode_row(token, out),
        }
    }
}

/// The output matrix, `[vocab_size, hidden_dim]`.
#[derive(Debug)]
pub(crate) enum Head {
    Exact(DenseTensor),
    ExactTopK {
        matrix: DenseTensor,
        int8: PackedInt8,
    },
    Int8(PackedInt8),
    /// A ternary matrix, kept as it is for any requested precision.
    Ternary(Arc<PackedTernary>),
}

/// Loads the weights of a norm, `[n_cols]`.
fn load_norm(ctx: &mut LoadContext<'_, '_>, name: &str) -> Result<Buffer<f32>, CheckpointError> {
    let (tensor, isa) = (ctx.checkpoint.dense(name), ctx.compute.isa);
    let mut values = ctx.pool.zeroed(Category::Weights, tensor.n_cols)?;
    tensor.decode_row(isa, 0, &mut values);
    if ctx.checkpoint.norm_is_less_one(name) {
        values.iter_mut().for_each(|value| *value += 1.0);
    }
    // The quantization of activations turns NaN into 0, which would hide it.
    if !values.iter().all(|value| value.is_finite()) {
        return Err(not_finite(&tensor, isa, 0));
    }
    if let Some(note) = unusual_values(tensor.name(), &values, false) {
        note::add(&mut ctx.notes, note);
    }
    Ok(values)
}

/// Loads the token embedding or the output matrix, `[vocab_size, hidden_dim]`.
fn load_vocabulary(
    ctx: &mut LoadContext<'_, '_>,
    name: &str,
) -> Result<Embedding, CheckpointError> {
    Ok(match ctx.checkpoint.tensor(name).encoding {
        Encoding::Dense(_) => Embedding::Dense(ctx.checkpoint.dense(name)),
        Encoding::Ternary(_) | Encoding::Masters(_) => {
            Embedding::Ternary(Arc::new(pack(ctx, name, |row| row)?))
        }
    })
}

impl Model {
    /// Loads and packs all weights of a checkpoint and returns the model. Calls
    /// `progress(done, total)` with the number of loaded layers.
    ///
    /// The memory of the model and of its engines is allocated from `pool`. `ctx` needs no
    /// scratch memory.
    ///
    /// # Errors
    ///
    /// Returns an error if a tensor is invalid or has non-finite values, a width exceeds the
    /// limit of the kernels, a file was changed, or memory is exhausted.
    pub fn load(
        checkpoint: &Checkpoint,
        pool: &HybridMemoryPool,
        ctx: &mut ComputeContext<'_>,
        packing: impl Into<Packing>,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Self, CheckpointError> {
        let Packing {
            head,
            layout,
            read_all,
        } = packing.into();
        let config = checkpoint.config().clone();
        check_widths(&config)?;
        let layout = match layout {
            Some(layout) => layout,
            None => TernaryLayout::fastest(pool, ctx, config.n_linear_weights())?,
        };
        let ctx = &mut LoadContext {
            checkpoint,
            pool,
            compute: ctx,
            layout,
            read_all,
            notes: Vec::new(),
        };
        let mut layers = Vec::with_capacity(config.n_layers);
        for layer in 0..config.n_layers {
            progress(layer, config.n_layers);
            layers.push(Layer::load(ctx, layer)?);
        }
        let embedding = load_vocabulary(ctx, TOKEN_EMBD)?;
        let output = match tensors::output(&config) {
            TOKEN_EMBD => embedding.clone(),
            name => load_vocabulary(ctx, name)?,
        };
        let head = match output {
            Embedding::Dense(matrix) => dense_head(ctx, matrix, head)?,
            Embedding::Ternary(matrix) => Head::Ternary(matrix),
        };
        progress(config.n_layers, config.n_layers);
        let mapped = match &head {
            Head::Exact(matrix) | Head::ExactTopK { matrix, .. } => matrix.n_mapped_bytes(),
            Head::Int8(_) | Head::Ternary(_) => 0,
        };
        let linear = layers.iter().flat_map(Layer::linear);
        let mapped = mapped + linear.map(Linear::n_mapped_bytes).sum::<usize>();
        let output_norm = load_norm(ctx, OUTPUT_NORM)?;
        let in_memory = checkpoint.release_all();
        let changed = checkpoint.files().iter().find_map(FileBytes::changed);
        if let Some(Changed { file }) = changed {
            return Err(CheckpointError::Changed { file });
        }
        let is_read_later = mapped > 0 || matches!(embedding, Embedding::Dense(_));
        Ok(Self {
            files: is_read_later.then(|| Arc::clone(checkpoint.files())),
            notes: std::mem::take(&mut ctx.notes),
            _in_files: pool.count(Category::MappedFile, mapped + in_memory),
            packed: PackedWeights {
                embedding,
                layers,
                output_norm,
                head,
            },
            config,
            pool: pool.clone(),
        })
    }

    /// Returns the packed weights.
    pub(crate) fn packed(&self) -> &PackedWeights {
        &self.packed
    }

    /// Returns warnings about the weights: tensors that are all zero, and extreme scales and
    /// norm weights.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Returns the first file with weights used in place that was changed since loading.
    pub(crate) fn changed(&self) -> Option<Changed> {
        self.files
            .iter()
            .flat_map(|files| files.iter())
            .find_map(FileBytes::changed)
    }

    /// Returns the error of the first weight that is not finite, or whose square is not, in
    /// the matrices that loading did not read.
    pub(crate) fn first_not_finite(&self, isa: Isa) -> Option<CheckpointError> {
        let head = match &self.packed.head {
            Head::Exact(matrix) => Some(matrix),
            // Checked when it was quantized, or ternary.
            Head::ExactTopK { .. } | Head::Int8(_) | Head::Ternary(_) => None,
        };
        let matrices = self.linear().filter_map(Linear::dense).chain(head);
        matrices.into_iter().find_map(|matrix| {
            let mut values = vec![0.0; matrix.n_cols];
            let mut rows = 0..matrix.n_rows;
            let row = rows.find(|row| not_finite_in(matrix, isa, *row, &mut values).is_some())?;
            Some(not_finite(matrix, isa, row))
        })
    }

    /// Returns the memory pool of the model.
    pub fn pool(&self) -> &HybridMemoryPool {
        &self.pool
    }

    /// Returns the configuration of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the precision of the output matrix.
    pub fn head_precision(&self) -> HeadPrecision {
        match self.packed.head {
            Head::ExactTopK { .. } => HeadPrecision::ExactTopK,
            Head::Int8(_) => HeadPrecision::Int8,
            // Packing trits is lossless.
            Head::Exact(_) | Head::Ternary(_) => HeadPrecision::Exact,
        }
    }

    /// Returns the layout of the ternary weights that are all read;
    /// [`TernaryLayout::TwoBits`] if there are none.
    pub fn layout(&self) -> TernaryLayout {
        let mut packed = self.linear().filter_map(Linear::packed);
        packed
            .next()
            .map_or(TernaryLayout::TwoBits, PackedTernary::layout)
    }

    /// Returns the bytes of packed weights, norms and output matrix in memory, without the
    /// weights used in place in a mapped file.
    pub fn n_bytes(&self) -> usize {
        let head = match &self.packed.head {
            Head::Exact(_) => 0,
            Head::Int8(matrix) | Head::ExactTopK { int8: matrix, .. } => matrix.n_bytes(),
            Head::Ternary(matrix) => matrix.n_bytes(),
        };
        let linear = self.linear().map(Linear::n_bytes);
        linear.sum::<usize>() + self.norm_bytes() + head
    }

    /// Returns the bytes of weights that are read per decoded token, if none are
    /// [skipped](crate::Engine::skipped): all weights without the embedding, and without the few rows of the output matrix that
    /// [`HeadPrecision::ExactTopK`] computes.
    pub fn bytes_per_token(&self) -> usize {
        let head = match &self.packed.head {
            Head::Exact(matrix) => matrix.bytes().len(),
            Head::Int8(matrix) | Head::ExactTopK { int8: matrix, .. } => matrix.n_bytes(),
            Head::Ternary(matrix) => matrix.n_bytes(),
        };
        let linear = self.linear().map(Linear::bytes_per_token);
        linear.sum::<usize>() + self.norm_bytes() + head
    }

    /// Returns the multiply-adds of the linear layers per token, without the output matrix.
    pub fn macs_per_token(&self) -> usize {
        self.linear().map(Linear::n_macs).sum()
    }

    /// Returns the linear layers of the model.
    fn linear(&self) -> impl Iterator<Item = &Linear> {
        self.packed.layers.iter().flat_map(Layer::linear)
    }

    /// Returns the bytes of all norms, except the sub-norms of linear layers.
    fn norm_bytes(&self) -> usize {
        let layers = self.packed.layers.iter().flat_map(|layer| {
            let norms = [&layer.attn_norm, &layer.ffn_norm];
            let more = layer.qk_norms.iter().chain(&layer.post_norms);
            norms.into_iter().chain(more.flatten())
        });
        let norms = layers.chain(std::iter::once(&self.packed.output_norm));
        norms.map(|norm| size_of_val(&**norm)).sum()
    }
}

impl Layer {
    fn load(ctx: &mut LoadContext<'_, '_>, layer: usize) -> Result<Self, CheckpointError> {
        let norm = |ctx: &mut LoadContext<'_, '_>, part| load_norm(ctx, &layer_tensor(layer, part));
        let linear = |ctx: &mut LoadContext<'_, '_>, part, rows| {
            let norm = input_norm_tensor(ctx.checkpoint.config(), layer, part);
            let norm = norm.map(|name| load_norm(ctx, &name)).transpose()?;
            Linear::load(ctx, &layer_tensor(layer, part), rows, norm)
        };
        let family = ctx.checkpoint.config().family;
        let (halves, rotary) = (RotaryRows::Halves, ctx.checkpoint.rotary_rows());
        Ok(Self {
            attn_norm: norm(ctx, "attn_norm")?,
            attn_q: linear(ctx, "attn_q", rotary)?,
            attn_k: linear(ctx, "attn_k", rotary)?,
            attn_v: linear(ctx, "attn_v", halves)?,
            qk_norms: if family.qk_norms {
                let q = norm(ctx, "attn_q_norm")?;
                Some([q, norm(ctx, "attn_k_norm")?])
            } else {
                None
            },
            attn_output: linear(ctx, "attn_output", halves)?,
            post_norms: if family.post_norms {
                let attn = norm(ctx, "post_attention_norm")?;
                Some([attn, norm(ctx, "post_ffw_norm")?])
            } else {
                None
            },
            ffn_norm: norm(ctx, "ffn_norm")?,
            ffn_gate: linear(ctx, "ffn_gate", halves)?,
            ffn_up: linear(ctx, "ffn_up", halves)?,
            ffn_down: linear(ctx, "ffn_down", halves)?,
        })
    }

    /// Returns the linear layers of this layer.
    fn linear(&self) -> [&Linear; 7] {
        [
            &self.attn_q,
            &self.attn_k,
            &self.attn_v,
            &self.attn_output,
            &self.ffn_gate,
            &self.ffn_up,
            &self.ffn_down,
        ]
    }
}

/// Returns the error for a row that has a non-finite value.
pub(crate) fn not_finite(tensor: &DenseTensor, isa: Isa, row: usize) -> CheckpointError {
    let mut values = vec![0.0; tensor.n_cols];
    let col = not_finite_in(tensor, isa, row, &mut values);
    CheckpointError::NotFinite {
        name: tensor.name().to_owned(),
        row,
        col: col.unwrap_or(0),
        value: col.map_or(f32::NAN, |col| values[col]),
    }
}

/// Decodes a row into `values` and returns the first column whose value is not finite, or
/// whose square is not.
fn not_finite_in(tensor: &DenseTensor, isa: Isa, row: usize, values: &mut [f32]) -> Option<usize> {
    tensor.decode_row(isa, row, values);
    (values.iter()).position(|value| !(value * value).is_finite())
}

/// Converts a dense output matrix to the requested precision. Quantization to int8 would hide
/// NaN, so it checks the values.
fn dense_head(
    ctx: &mut LoadContext<'_, '_>,
    output: DenseTensor,
    precision: HeadPrecision,
) -> Result<Head, CheckpointError> {
    let mut int8 = || {
        let first_bad = AtomicUsize::new(usize::MAX);
        let is_zero = AtomicBool::new(true);
        let isa = ctx.compute.isa;
        let packed = PackedInt8::quantize(ctx.pool, ctx.compute, output.shape(), |row, values| {
            output.decode_row_once(isa, row, values);
            let square = ops::dot(isa, values, values);
            if !square.is_finite() {
                first_bad.fetch_min(row, Ordering::Relaxed);
            } else if square > 0.0 && is_zero.load(Ordering::Relaxed) {
                is_zero.store(false, Ordering::Relaxed);
            }
        })?;
        match first_bad.into_inner() {
            usize::MAX if is_zero.into_inner() => {
                let (name, count) = (output.name().to_owned(), 1);
                note::add(&mut ctx.notes, Note::AllZero { name, count });
            }
            usize::MAX => {}
            row => return Err(not_finite(&output, isa, row)),
        }
        Ok::<_, CheckpointError>(packed)
    };
    Ok(match precision {
        HeadPrecision::Int8 => Head::Int8(int8()?),
        HeadPrecision::ExactTopK => Head::ExactTopK {
            int8: int8()?,
            matrix: output,
        },
        HeadPrecision::Exact => Head::Exact(output),
    })
}

/// Checks that the integer dot products of all widths are exact.
fn check_widths(config: &Config) -> Result<(), CheckpointError> {
    let widths = [
        ("hidden size", config.hidden_dim),
        ("attention width", config.q_dim()),
        ("feed-forward size", config.ffn_dim),
    ];
    let limit = PackedTernary::MAX_COLS.min(PackedInt8::MAX_COLS);
    match widths.into_iter().find(|(_, width)| *width > limit) {
        Some((what, value)) => Err(ConfigError::Size { what, value, limit }.into()),
        None => Ok(()),
    }
}
