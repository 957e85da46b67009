//! A model on the device: its buffers, and what they need.

use crate::device::Gpu;
use crate::error::GpuError;
use crate::layout::{PANEL_ROWS, Panels, TERNARY_COLS};
use crate::shape::{EmbeddingEncoding, HeadKind, InputNorms, ModelShape, Norm, Part};

/// A model on a GPU. It is immutable and can be shared by sessions.
#[derive(Debug)]
pub struct GpuModel {
    pub(crate) gpu: Gpu,
    pub(crate) shape: ModelShape,
    /// Per rotary table, `[context_len][2][n_pairs]` cosines and sines.
    pub(crate) ropes: Vec<wgpu::Buffer>,
    /// Every norm, in the order of [`norm_at`].
    pub(crate) norms: wgpu::Buffer,
    pub(crate) layers: Vec<LayerMatrices>,
    pub(crate) embedding: Table,
    /// `None` if it is the embedding.
    pub(crate) head: Option<Table>,
}

/// The linear layers of a layer. Those with the same input are one matrix, each from a whole
/// panel on.
#[derive(Debug)]
pub(crate) struct LayerMatrices {
    pub(crate) matrices: [Matrix; 4],
}

/// The matrices of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fused {
    Qkv,
    Output,
    GateUp,
    Down,
}

impl Fused {
    pub(crate) const ALL: [Self; 4] = [Self::Qkv, Self::Output, Self::GateUp, Self::Down];

    pub(crate) fn parts(self) -> &'static [Part] {
        match self {
            Self::Qkv => &[Part::Query, Part::Key, Part::Value],
            Self::Output => &[Part::Output],
            Self::GateUp => &[Part::Gate, Part::Up],
            Self::Down => &[Part::Down],
        }
    }

    /// Returns the matrix that has this linear layer.
    pub(crate) fn of(part: Part) -> Self {
        match part {
            Part::Query | Part::Key | Part::Value => Self::Qkv,
            Part::Output => Self::Output,
            Part::Gate | Part::Up => Self::GateUp,
            Part::Down => Self::Down,
        }
    }

    /// Returns the panels of the matrix; the rows include those that pad the parts.
    pub(crate) fn panels(self, shape: &ModelShape) -> Panels {
        let parts = self.parts().iter();
        let n_panels: usize = parts.map(|part| part_panels(shape, *part).n_panels()).sum();
        let n_cols = shape.linear(self.parts()[0]).1;
        Panels::ternary(n_panels * PANEL_ROWS, n_cols, shape.n_groups(n_cols))
    }
}

/// Returns the panels of one linear layer.
pub(crate) fn part_panels(shape: &ModelShape, part: Part) -> Panels {
    let (n_rows, n_cols) = shape.linear(part);
    Panels::ternary(n_rows, n_cols, shape.n_groups(n_cols))
}

/// Returns the first panel of a linear layer in its matrix.
pub(crate) fn first_panel(shape: &ModelShape, part: Part) -> usize {
    let before = Fused::of(part)
        .parts()
        .iter()
        .take_while(|other| **other != part);
    before
        .map(|part| part_panels(shape, *part).n_panels())
        .sum()
}

/// A matrix in one buffer.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub(crate) weights: wgpu::Buffer,
    /// `[panel][group][row of the panel]` f32, 0 for rows that pad.
    pub(crate) scales: wgpu::Buffer,
}

/// The embedding or the output matrix, in as many buffers as the limits of the device
/// require.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) pieces: Vec<Piece>,
    /// `[panel][group][row of the panel]` f32, unless the rows are floats.
    pub(crate) scales: Option<wgpu::Buffer>,
}

/// Consecutive rows of a table.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) first_row: usize,
    pub(crate) n_rows: usize,
    pub(crate) buffer: wgpu::Buffer,
}

/// The storage of a table's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableLayout {
    /// Rows of this many words.
    Dense {
        row_words: usize,
    },
    Panels(Panels),
}

impl TableLayout {
    pub(crate) fn embedding(shape: &ModelShape) -> Self {
        let (hidden, groups) = (shape.hidden_dim, shape.n_groups(shape.hidden_dim));
        match shape.embedding {
            EmbeddingEncoding::F32 => Self::Dense { row_words: hidden },
            EmbeddingEncoding::F16 | EmbeddingEncoding::Bf16 => Self::Dense {
                row_words: hidden.div_ceil(2),
            },
            EmbeddingEncoding::Ternary => {
                Self::Panels(Panels::ternary(shape.vocab_size, hidden, groups))
            }
        }
    }

    /// Returns the layout of the output matrix; `None` if it is the embedding.
    pub(crate) fn head(shape: &ModelShape) -> Option<Self> {
        let (vocab, hidden) = (shape.vocab_size, shape.hidden_dim);
        let groups = shape.n_groups(hidden);
        match shape.head {
            HeadKind::Int8 => Some(Self::Panels(Panels::int8(vocab, hidden))),
            HeadKind::Ternary => Some(Self::Panels(Panels::ternary(vocab, hidden, groups))),
            HeadKind::TiedTernary => None,
        }
    }

    /// Returns the rows that are stored together, and their bytes.
    pub(crate) fn unit(self) -> (usize, usize) {
        match self {
            Self::Dense { row_words } => (1, 4 * row_words),
            Self::Panels(panels) => (PANEL_ROWS, panels.panel_bytes()),
        }
    }

    fn n_bytes(self, n_rows: usize) -> usize {
        let (unit, bytes) = self.unit();
        let scales = match self {
            Self::Dense { .. } => 0,
            Self::Panels(panels) => size_of::<f32>() * panels.n_scales(),
        };
        n_rows
            .div_ceil(unit)
            .saturating_mul(bytes)
            .saturating_add(scales)
    }
}

/// Returns the norms of a layer and their widths, in the order in which they are stored.
pub(crate) fn norms_of_layer(shape: &ModelShape) -> Vec<(Norm, usize)> {
    let mut norms = vec![
        (Norm::Attention, shape.hidden_dim),
        (Norm::FeedForward, shape.hidden_dim),
    ];
    if shape.qk_norms {
        norms.extend([(Norm::Query, shape.head_dim), (Norm::Key, shape.head_dim)]);
    }
    if shape.post_norms {
        norms.push((Norm::PostAttention, shape.hidden_dim));
        norms.push((Norm::PostFeedForward, shape.hidden_dim));
    }
    for part in Part::ALL {
        let has_norm = match shape.input_norms {
            InputNorms::None => false,
            InputNorms::Sub => matches!(part, Part::Output | Part::Down),
            InputNorms::All => true,
        };
        if has_norm {
            norms.push((Norm::Input(part), shape.linear(part).1));
        }
    }
    norms
}

/// Returns the number of weights of all norms of a layer.
fn layer_norm_len(shape: &ModelShape) -> usize {
    norms_of_layer(shape).iter().map(|(_, width)| width).sum()
}

/// Returns the first weight and the width of a norm, or `None` if the model does not have it.
pub(crate) fn norm_at(shape: &ModelShape, layer: usize, norm: Norm) -> Option<(usize, usize)> {
    let mut at = layer * layer_norm_len(shape);
    for (other, width) in norms_of_layer(shape) {
        if other == norm {
            return Some((at, width));
        }
        at += width;
    }
    None
}

/// Returns the first weight of the norm before the output matrix.
pub(crate) fn output_norm_at(shape: &ModelShape) -> usize {
    shape.layers.len() * layer_norm_len(shape)
}

impl ModelShape {
    fn norm_bytes(&self) -> usize {
        size_of::<f32>() * (output_norm_at(self) + self.hidden_dim)
    }

    /// Returns the bytes of the linear layers with their scales.
    fn linear_bytes(&self) -> usize {
        let matrix = |fused: Fused| {
            let panels = fused.panels(self);
            panels
                .n_bytes()
                .saturating_add(size_of::<f32>() * panels.n_scales())
        };
        let layer = Fused::ALL
            .into_iter()
            .map(matrix)
            .fold(0, usize::saturating_add);
        layer.saturating_mul(self.layers.len())
    }

    /// Returns the bytes that a model of this shape takes on a device.
    pub fn required_bytes(&self) -> usize {
        let tables = self
            .rope_dims
            .iter()
            .map(|n_dims| self.context_len * n_dims * 4);
        let vocab = self.vocab_size;
        let head = TableLayout::head(self).map_or(0, |head| head.n_bytes(vocab));
        let parts = [
            self.linear_bytes(),
            self.norm_bytes(),
            TableLayout::embedding(self).n_bytes(vocab),
            head,
        ];
        tables.chain(parts).fold(0, usize::saturating_add)
    }

    /// Returns words per row of quantized activations of this width.
    pub(crate) fn act_stride(n_cols: usize) -> usize {
        n_cols.next_multiple_of(TERNARY_COLS) / 4
    }
}

impl GpuModel {
    /// Returns the shape.
    pub fn shape(&self) -> &ModelShape {
        &self.shape
    }

    /// Returns the device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Returns the bytes on the device: [`ModelShape::required_bytes`].
    pub fn n_bytes(&self) -> usize {
        self.shape.required_bytes()
    }

    /// Returns the bytes of weights that are read per decoded token: all without the
    /// embedding and the rotary tables.
    pub fn bytes_per_token(&self) -> usize {
        let shape = &self.shape;
        let head = TableLayout::head(shape).unwrap_or(TableLayout::embedding(shape));
        shape.linear_bytes() + shape.norm_bytes() + head.n_bytes(shape.vocab_size)
    }
}

/// Checks that the kernels compute models of this shape.
pub(crate) fn check(gpu: &Gpu, shape: &ModelShape) -> Result<(), GpuError> {
    let unsupported = |what: String| {
        Err(GpuError::Unsupported {
            device: gpu.device(),
            what,
        })
    };
    let widest = shape.hidden_dim.max(shape.q_dim()).max(shape.ffn_dim);
    if widest > bitnet_core::PackedTernary::MAX_COLS {
        return unsupported(format!(
            "linear layers of {widest} inputs (at most {})",
            bitnet_core::PackedTernary::MAX_COLS
        ));
    }
    if let Some(len) = shape.scale_group {
        let is_whole = |part: &Part| shape.linear(*part).1.is_multiple_of(len);
        if !len.is_multiple_of(TERNARY_COLS) || !Part::ALL.iter().all(is_whole) {
            return unsupported(format!("scales for each {len} weights of a row"));
        }
    }
    let heads = shape.n_heads + 2 * shape.n_kv_heads;
    let panels = shape
        .ffn_dim
        .max(heads * shape.head_dim)
        .div_ceil(PANEL_ROWS)
        + 2;
    if panels > gpu.max_groups() || heads > gpu.max_groups() {
        return unsupported(format!(
            "linear layers of {} panels of rows",
            panels.max(heads)
        ));
    }
    if heads_per_group(gpu, shape) == 0 {
        return unsupported(format!("attention heads of {} values", shape.head_dim));
    }
    Ok(())
}

/// Returns how many query heads that share keys a workgroup of attention computes: as many as
/// its memory holds, at most 4; 0 if it does not hold one.
pub(crate) fn heads_per_group(gpu: &Gpu, shape: &ModelShape) -> usize {
    let words = shape.head_dim / 2;
    let value_groups = (128 / words).max(1);
    let head = 4 * shape.head_dim.next_multiple_of(8) + 2 * 4 * 128 + 16 * value_groups * words;
    (gpu.workgroup_bytes() / head)
        .min(4)
        .min(shape.n_heads / shape.n_kv_heads)
}
