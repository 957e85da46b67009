//! Weights on a GPU: the shape of a model there, and what is uploaded.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};

use bitnet_core::{Scales, ops};
use bitnet_gpu::{
    EmbeddingEncoding, Gpu, GpuModel, HeadKind, InputNorms, LayerShape, ModelLoader, ModelShape,
    Norm, Part, RopeTable,
};
use bitnet_quant::DenseType;

use super::linear::unusual_values;
use super::load_context::LoadContext;
use super::packed::load_norm;
use super::ternary::TernaryTensor;
use super::{ModelError, not_finite};
use crate::device::DeviceError;
use crate::format::checkpoint::{Checkpoint, CheckpointError};
use crate::format::tensor::Encoding;
use crate::note::{self, Note};
use crate::spec::config::{Activation, ActivationPrecision, Config, RotaryRows};
use crate::spec::rope::Rope;
use crate::spec::tensors::{self, OUTPUT_NORM, TOKEN_EMBD, input_norm_tensor, layer_tensor};

impl From<bitnet_gpu::GpuError> for ModelError {
    fn from(error: bitnet_gpu::GpuError) -> Self {
        Self::Device(error.into())
    }
}

impl From<bitnet_gpu::LoadError<CheckpointError>> for ModelError {
    fn from(error: bitnet_gpu::LoadError<CheckpointError>) -> Self {
        match error {
            bitnet_gpu::LoadError::Row(error) => Self::Weights(error),
            bitnet_gpu::LoadError::Device(error) => error.into(),
        }
    }
}

impl From<bitnet_gpu::LoadError<Infallible>> for ModelError {
    fn from(error: bitnet_gpu::LoadError<Infallible>) -> Self {
        match error {
            bitnet_gpu::LoadError::Row(never) => match never {},
            bitnet_gpu::LoadError::Device(error) => error.into(),
        }
    }
}

/// The linear layers and their GGUF names.
const PARTS: [(Part, &str); 7] = [
    (Part::Query, "attn_q"),
    (Part::Key, "attn_k"),
    (Part::Value, "attn_v"),
    (Part::Output, "attn_output"),
    (Part::Gate, "ffn_gate"),
    (Part::Up, "ffn_up"),
    (Part::Down, "ffn_down"),
];

/// Returns the shape of a model on a GPU with rotary tables of `context_len` positions.
///
/// # Errors
///
/// Returns an error if a linear layer is dense.
pub(crate) fn shape(
    checkpoint: &Checkpoint,
    context_len: usize,
) -> Result<ModelShape, DeviceError> {
    let config = checkpoint.config();
    if config.dense_linears {
        return Err(DeviceError::Dense);
    }
    let is_ternary = |name: &str| !matches!(checkpoint.tensor(name).encoding, Encoding::Dense(_));
    Ok(ModelShape {
        embedding: match checkpoint.tensor(TOKEN_EMBD).encoding {
            Encoding::Ternary(_) | Encoding::Masters(_) => EmbeddingEncoding::Ternary,
            Encoding::Dense(DenseType::F32) => EmbeddingEncoding::F32,
            Encoding::Dense(DenseType::BF16) => EmbeddingEncoding::Bf16,
            Encoding::Dense(_) => EmbeddingEncoding::F16,
        },
        head: if !is_ternary(tensors::output(config)) {
            HeadKind::Int8
        } else if config.tied_embeddings {
            HeadKind::TiedTernary
        } else {
            HeadKind::Ternary
        },
        scale_group: scale_group(checkpoint),
        ..shape_of(config, context_len)
    })
}

/// Returns the shape of a model with a dense embedding and output matrix.
pub(crate) fn shape_of(config: &Config, context_len: usize) -> ModelShape {
    let layer = |layer| LayerShape {
        window: config.sliding_in(layer).map(|sliding| sliding.window),
        rope: usize::from(config.sliding_in(layer).is_some()),
    };
    ModelShape {
        hidden_dim: config.hidden_dim,
        n_heads: config.n_heads,
        n_kv_heads: config.n_kv_heads,
        head_dim: config.head_dim,
        ffn_dim: config.ffn_dim,
        vocab_size: config.vocab_size,
        rms_norm_eps: config.rms_norm_eps,
        activation: match config.activation {
            Activation::Relu2 => bitnet_gpu::Activation::Relu2,
            Activation::Silu => bitnet_gpu::Activation::Silu,
            Activation::GeluTanh => bitnet_gpu::Activation::GeluTanh,
        },
        activations: match config.activations {
            ActivationPrecision::Int8 => bitnet_gpu::ActivationPrecision::Int8,
            ActivationPrecision::Exact => bitnet_gpu::ActivationPrecision::Exact,
        },
        multipliers: bitnet_gpu::Multipliers {
            embedding: config.multipliers.embedding,
            residual: config.multipliers.residual,
            attention: config.multipliers.attention,
            logits: config.multipliers.logits,
        },
        input_norms: if config.projection_norms {
            InputNorms::All
        } else if config.family.sub_norms {
            InputNorms::Sub
        } else {
            InputNorms::None
        },
        qk_norms: config.family.qk_norms,
        post_norms: config.family.post_norms,
        scale_group: None,
        embedding: EmbeddingEncoding::F16,
        head: HeadKind::Int8,
        layers: (0..config.n_layers).map(layer).collect(),
        rope_dims: ropes(config).map(|rope| rope.n_dims).collect(),
        context_len,
    }
}

/// Returns the number of weights per scale along a row, if a matrix has several scales a row.
fn scale_group(checkpoint: &Checkpoint) -> Option<usize> {
    let config = checkpoint.config();
    // Models trained with int8 activations have one scale per matrix.
    if config.activations == ActivationPrecision::Int8 {
        return None;
    }
    let tensors = tensors::expected(config).into_iter();
    let mut groups = tensors.filter_map(|tensor| {
        let Encoding::Ternary(_) = checkpoint.tensor(&tensor.name).encoding else {
            return None;
        };
        // Invalid scales are an error when they are loaded.
        match checkpoint.trits(&tensor.name) {
            Ok((_, Scales::Groups { len, .. })) => Some(len),
            _ => None,
        }
    });
    groups.next()
}

/// Returns the rotary embeddings of a model.
fn ropes(config: &Config) -> impl Iterator<Item = &Rope> {
    let sliding = config.sliding.as_ref().map(|sliding| &sliding.rope);
    std::iter::once(&config.rope).chain(sliding)
}

/// Uploads all weights of a checkpoint.
pub(crate) fn upload(
    ctx: &mut LoadContext<'_, '_>,
    gpu: &Gpu,
    context_len: usize,
    mut progress: impl FnMut(usize, usize),
) -> Result<GpuModel, ModelError> {
    let (checkpoint, isa) = (ctx.checkpoint, ctx.compute.isa);
    let config = checkpoint.config();
    let shape = shape(checkpoint, context_len)?;
    let head_kind = shape.head;
    let mut loader = loader(ctx, gpu, shape)?;
    for layer in 0..config.n_layers {
        progress(layer, config.n_layers);
        upload_layer(ctx, &mut loader, layer, layer)?;
    }
    if let Encoding::Dense(_) = checkpoint.tensor(TOKEN_EMBD).encoding {
        let embedding = checkpoint.dense(TOKEN_EMBD);
        loader.embedding(|row, values: &mut [f32]| {
            embedding.decode_row_once(isa, row, values);
            Ok::<_, Infallible>(())
        })?;
    } else {
        let tensor = TernaryTensor::new(checkpoint, isa, TOKEN_EMBD)?;
        loader.embedding_ternary(&tensor.scales, |row, trits| tensor.load_row(row, trits))?;
    }
    let output = tensors::output(config);
    match head_kind {
        HeadKind::TiedTernary => {}
        HeadKind::Ternary => {
            let tensor = TernaryTensor::new(checkpoint, isa, output)?;
            loader.head_ternary(&tensor.scales, |row, trits| tensor.load_row(row, trits))?;
        }
        HeadKind::Int8 => {
            let matrix = checkpoint.dense(output);
            let all_zero = AllZero::new();
            loader.head_int8(|row, values: &mut [f32]| {
                matrix.decode_row_once(isa, row, values);
                let square = ops::dot(isa, values, values);
                all_zero.see(|| square == 0.0);
                if square.is_finite() {
                    return Ok(());
                }
                Err(not_finite(&matrix, isa, row))
            })?;
            if all_zero.into_inner() {
                let (name, count) = (matrix.name().to_owned(), 1);
                note::add(&mut ctx.notes, Note::AllZero { name, count });
            }
        }
    }
    loader.output_norm(&load_norm(ctx, OUTPUT_NORM)?)?;
    progress(config.n_layers, config.n_layers);
    Ok(loader.finish()?)
}

/// Allocates a model of this shape and uploads its rotary tables.
fn loader(
    ctx: &LoadContext<'_, '_>,
    gpu: &Gpu,
    shape: ModelShape,
) -> Result<ModelLoader, ModelError> {
    let config = ctx.checkpoint.config();
    let table = |rope: &Rope| {
        let mut table = rope.table(ctx.pool, config.head_dim, shape.context_len)?;
        table.extend(shape.context_len);
        Ok::<_, CheckpointError>(table)
    };
    let tables = ropes(config).map(table).collect::<Result<Vec<_>, _>>()?;
    let tables: Vec<_> = (tables.iter())
        .map(|table| RopeTable {
            cos: table.cos(),
            sin: table.sin(),
        })
        .collect();
    let n_threads = ctx.compute.threads.n_threads();
    Ok(ModelLoader::new(gpu, shape, &tables, n_threads)?)
}

/// Uploads a layer of the checkpoint as the layer `to` of the device's model.
fn upload_layer(
    ctx: &mut LoadContext<'_, '_>,
    loader: &mut ModelLoader,
    layer: usize,
    to: usize,
) -> Result<(), ModelError> {
    let config = ctx.checkpoint.config();
    let family = config.family;
    let mut norms = vec![
        (Norm::Attention, "attn_norm"),
        (Norm::FeedForward, "ffn_norm"),
    ];
    if family.qk_norms {
        norms.extend([(Norm::Query, "attn_q_norm"), (Norm::Key, "attn_k_norm")]);
    }
    if family.post_norms {
        norms.push((Norm::PostAttention, "post_attention_norm"));
        norms.push((Norm::PostFeedForward, "post_ffw_norm"));
    }
    for (norm, name) in norms {
        loader.norm(to, norm, &load_norm(ctx, &layer_tensor(layer, name))?)?;
    }
    for (part, name) in PARTS {
        if let Some(norm) = input_norm_tensor(config, layer, name) {
            loader.norm(to, Norm::Input(part), &load_norm(ctx, &norm)?)?;
        }
        let stored_rows = match part {
            Part::Query | Part::Key => ctx.checkpoint.rotary_rows(),
            _ => RotaryRows::Halves,
        };
        let widths = config.rotary_widths();
        let stored = |row| RotaryRows::Halves.position_in(stored_rows, row, widths);
        let tensor =
            TernaryTensor::new(ctx.checkpoint, ctx.compute.isa, &layer_tensor(layer, name))?;
        let scales = tensor.scales.clone().reordered(tensor.n_rows, stored);
        let all_zero = AllZero::new();
        loader.linear(to, part, &scales, |row, trits| {
            let decoded = tensor.load_row(stored(row), trits);
            all_zero.see(|| trits.iter().all(|trit| *trit == 0));
            decoded
        })?;
        let all_zero = all_zero.into_inner();
        let unusual = unusual_values(tensor.name, tensor.scales.values(), all_zero);
        if let Some(note) = unusual {
            note::add(&mut ctx.notes, note);
        }
        ctx.checkpoint.release(&layer_tensor(layer, name));
    }
    Ok(())
}

/// Whether all rows of a matrix are zero. Several threads see its rows.
struct AllZero(AtomicBool);

impl AllZero {
    fn new() -> Self {
        Self(AtomicBool::new(true))
    }

    /// Sees a row. Once a row was not zero, `is_zero` is not called: of most matrices, only
    /// the first row is looked at.
    fn see(&self, is_zero: impl FnOnce() -> bool) {
        if self.0.load(Ordering::Relaxed) && !is_zero() {
            self.0.store(false, Ordering::Relaxed);
        }
    }

    /// Returns whether all rows that were seen are zero.
    fn into_inner(self) -> bool {
        self.0.into_inner()
    }
}
