//! Weights in the memory layout of the CPU's kernels.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bitnet_core::memory::{Buffer, Category};
use bitnet_core::{Isa, PackedInt8, PackedTernary, TernaryLayout, ops};

use super::linear::{Linear, pack, unusual_values};
use super::load_context::LoadContext;
use super::{HeadPrecision, not_finite, not_finite_in};
use crate::format::checkpoint::CheckpointError;
use crate::format::tensor::{DenseTensor, Encoding};
use crate::note::{self, Note};
use crate::spec::config::RotaryRows;
use crate::spec::tensors::{
    self, OUTPUT, OUTPUT_NORM, TOKEN_EMBD, input_norm_tensor, layer_tensor,
};
use crate::weight_cache::PackedMatrix;

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

/// The name of the int8 output matrix among the packed matrices.
const INT8_HEAD: &str = "int8 head";

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

impl PackedWeights {
    /// Loads and packs all weights of a checkpoint. Calls `progress(done, total)` with the
    /// number of loaded layers.
    pub(super) fn load(
        ctx: &mut LoadContext<'_, '_>,
        head: HeadPrecision,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Self, CheckpointError> {
        let config = ctx.checkpoint.config();
        let mut layers = Vec::with_capacity(config.n_layers);
        for layer in 0..config.n_layers {
            progress(layer, config.n_layers);
            layers.push(Layer::load(ctx, layer)?);
        }
        let embedding = load_vocabulary(ctx, TOKEN_EMBD)?;
        let output = match tensors::output(config) {
            TOKEN_EMBD => embedding.clone(),
            name => load_vocabulary(ctx, name)?,
        };
        let head = match output {
            Embedding::Dense(matrix) => dense_head(ctx, matrix, head)?,
            Embedding::Ternary(matrix) => Head::Ternary(matrix),
        };
        progress(config.n_layers, config.n_layers);
        Ok(Self {
            embedding,
            layers,
            output_norm: load_norm(ctx, OUTPUT_NORM)?,
            head,
        })
    }

    /// Returns the packed matrices by name.
    pub(crate) fn matrices(&self) -> Vec<(String, PackedMatrix<'_>)> {
        let layers = self.layers.iter().enumerate().flat_map(|(i, layer)| {
            let linears = LINEAR_PARTS.into_iter().zip(layer.linear());
            linears.map(move |(part, linear)| (layer_tensor(i, part), linear))
        });
        let linears = layers
            .filter_map(|(name, linear)| Some((name, PackedMatrix::Ternary(linear.packed()?))));
        let mut matrices: Vec<_> = linears.collect();
        if let Embedding::Ternary(matrix) = &self.embedding {
            matrices.push((TOKEN_EMBD.to_owned(), PackedMatrix::Ternary(matrix)));
        }
        match &self.head {
            Head::Exact(_) => {}
            Head::Int8(matrix) | Head::ExactTopK { int8: matrix, .. } => {
                matrices.push((INT8_HEAD.to_owned(), PackedMatrix::Int8(matrix)));
            }
            Head::Ternary(matrix) => match &self.embedding {
                Embedding::Ternary(tied) if Arc::ptr_eq(matrix, tied) => {}
                _ => matrices.push((OUTPUT.to_owned(), PackedMatrix::Ternary(matrix))),
            },
        }
        matrices
    }

    /// Returns the bytes of packed weights in the mapped file of a cache.
    pub(super) fn n_shared_bytes(&self) -> usize {
        let head = match &self.head {
            Head::Exact(_) => 0,
            Head::Int8(matrix) | Head::ExactTopK { int8: matrix, .. } => matrix.n_shared_bytes(),
            Head::Ternary(matrix) => matrix.n_shared_bytes(),
        };
        head + self.linear().map(Linear::n_shared_bytes).sum::<usize>()
    }

    /// Returns the bytes of weights that are used in place in mapped files of the model.
    pub(super) fn n_mapped_bytes(&self) -> usize {
        let head = match &self.head {
            Head::Exact(matrix) | Head::ExactTopK { matrix, .. } => matrix.n_mapped_bytes(),
            Head::Int8(_) | Head::Ternary(_) => 0,
        };
        head + self.linear().map(Linear::n_mapped_bytes).sum::<usize>()
    }

    /// Releases the file pages of the embedding, unless the output matrix is read there, too.
    pub(crate) fn release_embedding(&self) {
        if let Embedding::Dense(matrix) = &self.embedding
            && !matches!(self.head, Head::Exact(_))
        {
            matrix.release();
        }
    }

    /// Returns whether weights are read in the files after loading.
    pub(super) fn is_read_in_files(&self) -> bool {
        self.n_mapped_bytes() > 0 || matches!(self.embedding, Embedding::Dense(_))
    }

    /// Returns the error of the first weight that is not finite, or whose square is not, in
    /// the matrices that loading did not read.
    pub(super) fn first_not_finite(&self, isa: Isa) -> Option<CheckpointError> {
        let head = match &self.head {
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

    /// Returns the precision of the output matrix.
    pub(super) fn head_precision(&self) -> HeadPrecision {
        match self.head {
            Head::ExactTopK { .. } => HeadPrecision::ExactTopK,
            Head::Int8(_) => HeadPrecision::Int8,
            // Packing trits is lossless.
            Head::Exact(_) | Head::Ternary(_) => HeadPrecision::Exact,
        }
    }

    /// Returns the layout of the ternary weights that are all read;
    /// [`TernaryLayout::TwoBits`] if there are none.
    pub(super) fn layout(&self) -> TernaryLayout {
        let mut packed = self.linear().filter_map(Linear::packed);
        packed
            .next()
            .map_or(TernaryLayout::TwoBits, PackedTernary::layout)
    }

    /// Returns the bytes of packed weights, norms and output matrix, in memory or in the mapped
    /// file of a cache, without the weights used in place in the model's files.
    pub(super) fn n_bytes(&self) -> usize {
        let head = match &self.head {
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
    pub(super) fn bytes_per_token(&self) -> usize {
        let head = match &self.head {
            Head::Exact(matrix) => matrix.bytes().len(),
            Head::Int8(matrix) | Head::ExactTopK { int8: matrix, .. } => matrix.n_bytes(),
            Head::Ternary(matrix) => matrix.n_bytes(),
        };
        let linear = self.linear().map(Linear::bytes_per_token);
        linear.sum::<usize>() + self.norm_bytes() + head
    }

    /// Returns the linear layers of the model.
    fn linear(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(Layer::linear)
    }

    /// Returns the bytes of all norms, except the sub-norms of linear layers.
    fn norm_bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(|layer| {
            let norms = [&layer.attn_norm, &layer.ffn_norm];
            let more = layer.qk_norms.iter().chain(&layer.post_norms);
            norms.into_iter().chain(more.flatten())
        });
        let norms = layers.chain(std::iter::once(&self.output_norm));
        norms.map(|norm| size_of_val(&**norm)).sum()
    }
}

/// The names of [`Layer::linear`].
const LINEAR_PARTS: [&str; 7] = [
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
];

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

/// Loads the weights of a norm, `[n_cols]`.
pub(super) fn load_norm(
    ctx: &mut LoadContext<'_, '_>,
    name: &str,
) -> Result<Buffer<f32>, CheckpointError> {
    let (tensor, isa) = (ctx.checkpoint.dense(name), ctx.compute.isa);
    let mut values = ctx.pool.zeroed(Category::Weights, tensor.n_cols)?;
    tensor.decode_row(isa, 0, &mut values);
    // Its page may be large.
    tensor.release();
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

/// Converts a dense output matrix to the requested precision. Quantization to int8 would hide
/// NaN, so it checks the values.
fn dense_head(
    ctx: &mut LoadContext<'_, '_>,
    output: DenseTensor,
    precision: HeadPrecision,
) -> Result<Head, CheckpointError> {
    let mut int8 = || {
        let cached = ctx.packed.as_ref();
        let packed = match cached.and_then(|file| file.int8(INT8_HEAD, output.shape())) {
            Some(packed) => packed,
            None => quantize(ctx, &output)?,
        };
        if packed.is_zero() {
            let (name, count) = (output.name().to_owned(), 1);
            note::add(&mut ctx.notes, Note::AllZero { name, count });
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

/// Quantizes a dense output matrix to int8.
fn quantize(
    ctx: &mut LoadContext<'_, '_>,
    output: &DenseTensor,
) -> Result<PackedInt8, CheckpointError> {
    let first_bad = AtomicUsize::new(usize::MAX);
    let isa = ctx.compute.isa;
    let packed = PackedInt8::quantize(ctx.pool, ctx.compute, output.shape(), |row, values| {
        output.decode_row_once(isa, row, values);
        if !ops::dot(isa, values, values).is_finite() {
            first_bad.fetch_min(row, Ordering::Relaxed);
        }
    })?;
    match first_bad.into_inner() {
        usize::MAX => Ok(packed),
        row => Err(not_finite(output, isa, row)),
    }
}
