//! A model in memory: configuration and weights in the layouts of the kernels.

pub mod config;
pub(crate) mod family;
pub(crate) mod rope;
pub(crate) mod tensors;

use bitnet_core::memory::{Buffer, Category};
use bitnet_core::{HybridMemoryPool, Kernel, Layout, OutOfMemory, PackedInt8, PackedTernary, Team};
use config::{Config, RotaryRows};
use tensors::{OUTPUT, OUTPUT_NORM, TOKEN_EMBD, layer_tensor};

use crate::format::checkpoint::{Checkpoint, CheckpointError, DenseTensor};

/// How the output matrix is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadPrecision {
    /// As stored; logits are computed in f32.
    Exact,
    /// As stored, with an int8 copy that tells which logits can be among the
    /// largest: where no others are wanted ([`Logits::Top`]), only these are
    /// computed, with the same bits.
    ///
    /// [`Logits::Top`]: crate::Logits::Top
    Screened,
    /// Int8 with one scale per row, and int8 activations.
    #[default]
    Int8,
}

/// A model ready to compute. It is never changed: engines share it.
#[derive(Debug)]
pub struct Model {
    config: Config,
    pool: HybridMemoryPool,
    pub(crate) embedding: DenseTensor,
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
    pub(crate) attn_q: PackedTernary,
    /// `[kv_dim, hidden_dim]`
    pub(crate) attn_k: PackedTernary,
    /// `[kv_dim, hidden_dim]`
    pub(crate) attn_v: PackedTernary,
    /// `[q_dim]`
    pub(crate) attn_sub_norm: Option<Buffer<f32>>,
    /// `[hidden_dim, q_dim]`
    pub(crate) attn_output: PackedTernary,
    /// `[hidden_dim]`
    pub(crate) ffn_norm: Buffer<f32>,
    /// `[ffn_dim, hidden_dim]`
    pub(crate) ffn_gate: PackedTernary,
    /// `[ffn_dim, hidden_dim]`
    pub(crate) ffn_up: PackedTernary,
    /// `[ffn_dim]`
    pub(crate) ffn_sub_norm: Option<Buffer<f32>>,
    /// `[hidden_dim, ffn_dim]`
    pub(crate) ffn_down: PackedTernary,
}

/// The output matrix, `[vocab_size, hidden_dim]`.
#[derive(Debug)]
pub(crate) enum Head {
    Exact(DenseTensor),
    Screened {
        matrix: DenseTensor,
        screen: PackedInt8,
    },
    Int8(PackedInt8),
}

impl Model {
    /// Reads all weights of a checkpoint into the layouts of the kernels.
    /// `progress(done, total)` is told the layers that are done.
    ///
    /// All memory comes from `pool`, and that of the model's engines too.
    pub fn load(
        checkpoint: &Checkpoint,
        pool: &HybridMemoryPool,
        kernel: Kernel,
        team: &mut Team,
        head: HeadPrecision,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Self, CheckpointError> {
        let config = checkpoint.config().clone();
        check_widths(&config)?;
        let norm = |name: &str| {
            let tensor = checkpoint.dense(name);
            let mut values = pool.zeroed(Category::Weights, tensor.n_cols)?;
            tensor.decode_row(kernel, 0, &mut values);
            Ok::<_, OutOfMemory>(values)
        };
        let layout = Layout::fastest(pool, kernel, team, config.n_ternary_weights())?;
        let mut layers = Vec::with_capacity(config.n_layers);
        for layer in 0..config.n_layers {
            progress(layer, config.n_layers);
            let name = |part| layer_tensor(layer, part);
            let norm = |part| norm(&name(part));
            let has_sub_norms = config.family.sub_norms;
            let sub_norm = |part| has_sub_norms.then(|| norm(part)).transpose();
            let mut pack = |part, stored_rows| {
                let name = name(part);
                pack(checkpoint, pool, layout, team, &name, stored_rows)
            };
            let mut linear = |part| pack(part, RotaryRows::Halves);
            layers.push(Layer {
                attn_norm: norm("attn_norm")?,
                attn_v: linear("attn_v")?,
                attn_sub_norm: sub_norm("attn_sub_norm")?,
                attn_output: linear("attn_output")?,
                ffn_norm: norm("ffn_norm")?,
                ffn_gate: linear("ffn_gate")?,
                ffn_up: linear("ffn_up")?,
                ffn_sub_norm: sub_norm("ffn_sub_norm")?,
                ffn_down: linear("ffn_down")?,
                attn_q: pack("attn_q", checkpoint.rotary_rows())?,
                attn_k: pack("attn_k", checkpoint.rotary_rows())?,
            });
        }
        let output = if config.tied_embeddings {
            TOKEN_EMBD
        } else {
            OUTPUT
        };
        let output = checkpoint.dense(output);
        let mut int8 = || {
            let shape = (output.n_rows, output.n_cols);
            PackedInt8::quantize(pool, kernel, team, shape, |row, values| {
                output.decode_row(kernel, row, values);
            })
        };
        let head = match head {
            HeadPrecision::Int8 => Head::Int8(int8()?),
            HeadPrecision::Screened => Head::Screened {
                screen: int8()?,
                matrix: output,
            },
            HeadPrecision::Exact => Head::Exact(output),
        };
        progress(config.n_layers, config.n_layers);
        Ok(Self {
            embedding: checkpoint.dense(TOKEN_EMBD),
            layers,
            output_norm: norm(OUTPUT_NORM)?,
            head,
            config,
            pool: pool.clone(),
        })
    }

    /// Returns where the model's memory comes from.
    pub fn pool(&self) -> &HybridMemoryPool {
        &self.pool
    }

    /// Returns the numbers of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns how the output matrix is kept.
    pub fn head_precision(&self) -> HeadPrecision {
        match self.head {
            Head::Exact(_) => HeadPrecision::Exact,
            Head::Screened { .. } => HeadPrecision::Screened,
            Head::Int8(_) => HeadPrecision::Int8,
        }
    }

    /// Returns how the ternary weights are packed.
    pub fn layout(&self) -> Layout {
        self.layers
            .first()
            .map_or(Layout::TwoBits, |layer| layer.attn_q.layout())
    }

    /// Returns the bytes that packed weights, norms and head take in memory;
    /// what stays in the mapped file is not counted.
    pub fn n_bytes(&self) -> usize {
        let head = match &self.head {
            Head::Exact(_) => 0,
            Head::Int8(matrix) | Head::Screened { screen: matrix, .. } => matrix.n_bytes(),
        };
        self.layer_bytes() + head
    }

    /// Returns the bytes of weights that are read to compute one token and choose
    /// the next: all but the rows of the embedding that are not looked up, and
    /// the few rows that a screen leaves.
    pub fn bytes_per_token(&self) -> usize {
        let head = match &self.head {
            Head::Exact(matrix) => matrix.bytes().len(),
            Head::Int8(matrix) | Head::Screened { screen: matrix, .. } => matrix.n_bytes(),
        };
        self.layer_bytes() + head
    }

    /// Returns the multiply-adds of the linear layers for one token, without the
    /// head.
    pub fn macs_per_token(&self) -> usize {
        let macs = |m: &PackedTernary| m.n_rows() * m.n_cols();
        let layers = self.layers.iter().flat_map(Layer::linear);
        layers.map(macs).sum()
    }

    /// Returns the bytes of all layers and the last norm.
    fn layer_bytes(&self) -> usize {
        let norms = |l: &Layer| {
            let norms = [Some(&l.attn_norm), Some(&l.ffn_norm)];
            let sub_norms = [l.attn_sub_norm.as_ref(), l.ffn_sub_norm.as_ref()];
            let values = norms.into_iter().chain(sub_norms).flatten();
            values.map(|norm| size_of_val(&**norm)).sum::<usize>()
        };
        let linear = self.layers.iter().flat_map(Layer::linear);
        linear.map(PackedTernary::n_bytes).sum::<usize>()
            + self.layers.iter().map(norms).sum::<usize>()
            + size_of_val(&*self.output_norm)
    }
}

impl Layer {
    /// Returns the matrices.
    fn linear(&self) -> [&PackedTernary; 7] {
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

/// Refuses widths for which dot products would not be exact.
fn check_widths(config: &Config) -> Result<(), CheckpointError> {
    let widths = [
        ("hidden size", config.hidden_dim),
        ("attention width", config.q_dim()),
        ("feed-forward size", config.ffn_dim),
    ];
    let limit = PackedTernary::MAX_COLS.min(PackedInt8::MAX_COLS);
    match widths.into_iter().find(|(_, width)| *width > limit) {
        Some((what, value)) => Err(config::ConfigError::Size { what, value, limit }.into()),
        None => Ok(()),
    }
}

/// Packs one matrix, with the rows of every head in the order of the forward
/// pass.
fn pack(
    checkpoint: &Checkpoint,
    pool: &HybridMemoryPool,
    layout: Layout,
    team: &mut Team,
    name: &str,
    stored_rows: RotaryRows,
) -> Result<PackedTernary, CheckpointError> {
    let tensor = checkpoint.ternary(name)?;
    let stored_name = || checkpoint.tensor(name).name.clone();
    let Some(scale) = tensor.scales.tensor() else {
        return Err(CheckpointError::SeveralScales {
            name: stored_name(),
            found: tensor.scales.to_string(),
        });
    };
    let widths = checkpoint.config().rotary_widths();
    let shape = (tensor.n_rows(), tensor.n_cols());
    PackedTernary::pack_as(pool, layout, team, shape, scale, |row, trits| {
        let row = RotaryRows::Halves.position_in(stored_rows, row, widths);
        let decoded = tensor.decode_row(row, trits);
        decoded.map_err(|source| CheckpointError::Ternary {
            name: stored_name(),
            source,
        })
    })
}
