//! The buffers of a session, and their sizes.

use crate::device::Usage;
use crate::error::GpuError;
use crate::layout::PANEL_ROWS;
use crate::model::{Fused, GpuModel, first_panel};
use crate::shape::{ActivationPrecision, InputNorms, ModelShape, Part};

/// Positions per page.
pub(crate) const PAGE: usize = bitnet_core::KvPage::POSITIONS;

/// The words of the rows buffer before the first row: the number of rows, the number of blocks
/// of attention, the rows per tile of attention, and one unused.
pub(crate) const ROWS_AT: usize = 4;
/// Words per row: token, position, where its page table begins.
pub(crate) const ROW_WORDS: usize = 3;

/// Rows of logits that are computed together.
pub(crate) const HEAD_ROWS: usize = 8;

/// The most logits that the device selects; of more, the host does.
pub(crate) const MAX_TOP_K: usize = 256;
/// Logits that a workgroup selects from.
pub(crate) const TOP_K_TILE: usize = 1024;

/// The most bytes of partial results of attention, unless one row needs more.
pub(crate) const PARTIAL_BYTES: usize = 64 << 20;

/// The distance between uniforms with an offset, the largest alignment that a device has.
pub(crate) const ENTRY_WORDS: usize = 64;

/// Options of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Pages of 128 positions of the KV cache, f16.
    pub n_pages: usize,
    /// The most rows of a pass.
    pub batch_tokens: usize,
}

impl SessionOptions {
    /// Returns the bytes that a session with these options takes on the device.
    pub fn required_bytes(self, shape: &ModelShape) -> usize {
        let sizes = Sizes::new(shape, self);
        let per_layer = sizes.keys.saturating_add(sizes.values);
        let once = [
            sizes.rows,
            sizes.x,
            sizes.branch,
            sizes.acts,
            sizes.stats,
            sizes.qkv,
            sizes.partial,
            sizes.attn,
            sizes.gated,
            sizes.hidden,
            sizes.logits,
            2 * sizes.candidates,
            sizes.read_back,
            key_page_bytes(shape).max(value_page_bytes(shape)),
        ];
        let layers = per_layer.saturating_mul(shape.layers.len());
        once.into_iter().fold(layers, usize::saturating_add)
    }
}

#[derive(Debug)]
pub(crate) struct Buffers {
    /// Rows and page tables of a pass.
    pub(crate) rows: wgpu::Buffer,
    /// The rows of outputs.
    pub(crate) head_rows: wgpu::Buffer,
    /// The residual stream, `[row][hidden_dim]`.
    pub(crate) x: wgpu::Buffer,
    /// The output of a block before its post-norm, `[row][hidden_dim]`.
    pub(crate) branch: Option<wgpu::Buffer>,
    pub(crate) acts: wgpu::Buffer,
    pub(crate) stats: wgpu::Buffer,
    pub(crate) qkv: wgpu::Buffer,
    pub(crate) partial: wgpu::Buffer,
    /// `[row][q_dim]`
    pub(crate) attn: wgpu::Buffer,
    /// `[row][ffn_dim]`
    pub(crate) gated: wgpu::Buffer,
    /// Per layer, the keys and the values of all pages.
    pub(crate) kv: Vec<[wgpu::Buffer; 2]>,
    /// `[HEAD_ROWS][hidden_dim]`
    pub(crate) hidden: wgpu::Buffer,
    /// `[HEAD_ROWS][vocab_size]`
    pub(crate) logits: wgpu::Buffer,
    /// `[HEAD_ROWS][candidates]`, read and written in turn.
    pub(crate) candidates: [wgpu::Buffer; 2],
    /// Per stage of the selection, the numbers of candidates.
    pub(crate) counts: wgpu::Buffer,
    pub(crate) first_bad: wgpu::Buffer,
    pub(crate) read_back: wgpu::Buffer,
    /// A page of keys or values, for copies within a buffer.
    pub(crate) page: wgpu::Buffer,
}

impl Buffers {
    pub(crate) fn new(model: &GpuModel, options: SessionOptions) -> Result<Self, GpuError> {
        let (gpu, shape) = (&model.gpu, &model.shape);
        let sizes = Sizes::new(shape, options);
        let data = |what: &str, n_bytes: usize| gpu.buffer(what, n_bytes, Usage::Data);
        let [key_page, value_page] = page_bytes(shape);
        let kv = |_| {
            Ok([
                data("the keys of a layer", sizes.keys)?,
                data("the values of a layer", sizes.values)?,
            ])
        };
        Ok(Self {
            rows: data("rows and page tables", sizes.rows)?,
            head_rows: data("rows of outputs", 4 * (ROWS_AT + ROW_WORDS * HEAD_ROWS))?,
            x: data("activations", sizes.x)?,
            branch: match sizes.branch {
                0 => None,
                n_bytes => Some(data("activations", n_bytes)?),
            },
            acts: data("quantized activations", sizes.acts)?,
            stats: data("scales of activations", sizes.stats)?,
            qkv: data("queries, keys and values", sizes.qkv)?,
            partial: data("attention", sizes.partial)?,
            attn: data("attention", sizes.attn)?,
            gated: data("gated activations", sizes.gated)?,
            kv: (0..shape.layers.len())
                .map(kv)
                .collect::<Result<_, GpuError>>()?,
            hidden: data("hidden states", sizes.hidden)?,
            logits: data("logits", sizes.logits)?,
            candidates: [
                data("the largest logits", sizes.candidates)?,
                data("the largest logits", sizes.candidates)?,
            ],
            // A selection has at most as many stages as a number has digits of base 4.
            counts: gpu.uniform(&vec![0; 16 * ENTRY_WORDS]),
            first_bad: data("the report of values that are not finite", 4)?,
            read_back: gpu.buffer("results", sizes.read_back, Usage::ReadBack)?,
            page: data("a page", key_page.max(value_page))?,
        })
    }
}

/// The buffers of a session that depend on its options, in bytes.
#[derive(Debug)]
pub(crate) struct Sizes {
    pub(crate) rows: usize,
    pub(crate) x: usize,
    pub(crate) branch: usize,
    pub(crate) acts: usize,
    pub(crate) stats: usize,
    pub(crate) qkv: usize,
    pub(crate) partial: usize,
    pub(crate) attn: usize,
    pub(crate) gated: usize,
    pub(crate) keys: usize,
    pub(crate) values: usize,
    pub(crate) hidden: usize,
    pub(crate) logits: usize,
    pub(crate) candidates: usize,
    pub(crate) read_back: usize,
}

impl Sizes {
    pub(crate) fn new(shape: &ModelShape, options: SessionOptions) -> Self {
        let batch = options.batch_tokens.max(HEAD_ROWS);
        let n_parts = n_parts(shape);
        let slots = act_slots(shape);
        let widest = shape.hidden_dim.max(shape.q_dim()).max(shape.ffn_dim);
        let f32s = |n: usize| 4 * batch * n;
        let partial = options
            .batch_tokens
            .saturating_mul(partial_row_bytes(shape, max_blocks(shape)));
        let one_partial = partial_row_bytes(shape, max_blocks(shape));
        let logits = 4 * HEAD_ROWS * shape.vocab_size;
        let hidden = 4 * HEAD_ROWS * shape.hidden_dim;
        Self {
            rows: 4 * (ROWS_AT + batch * (ROW_WORDS + max_blocks(shape))),
            x: f32s(shape.hidden_dim),
            branch: if shape.post_norms {
                f32s(shape.hidden_dim)
            } else {
                0
            },
            acts: f32s(slots * n_parts * ModelShape::act_stride(widest)),
            stats: f32s(slots * n_parts * 2),
            qkv: f32s(qkv_stride(shape)),
            partial: partial.min(PARTIAL_BYTES).max(one_partial),
            attn: f32s(shape.q_dim()),
            gated: f32s(shape.ffn_dim),
            keys: options.n_pages.saturating_mul(key_page_bytes(shape)),
            values: options.n_pages.saturating_mul(value_page_bytes(shape)),
            hidden,
            logits,
            candidates: 8 * HEAD_ROWS * candidate_stride(shape),
            read_back: 16 + hidden + logits,
        }
    }
}

pub(crate) fn n_parts(shape: &ModelShape) -> usize {
    match shape.activations {
        ActivationPrecision::Int8 => 1,
        ActivationPrecision::Exact => 3,
    }
}

/// Returns how many rows of activations there are per row: two if gate and up have different
/// inputs.
pub(crate) fn act_slots(shape: &ModelShape) -> usize {
    if shape.input_norms == InputNorms::All {
        2
    } else {
        1
    }
}

/// Returns the most blocks of attention.
pub(crate) fn max_blocks(shape: &ModelShape) -> usize {
    shape.context_len.div_ceil(PAGE)
}

pub(crate) fn partial_row_bytes(shape: &ModelShape, n_blocks: usize) -> usize {
    4 * shape.n_heads * n_blocks * (shape.head_dim + 2)
}

/// Returns where the queries, keys or values of a row begin.
pub(crate) fn qkv_at(shape: &ModelShape, part: Part) -> usize {
    first_panel(shape, part) * PANEL_ROWS
}

pub(crate) fn qkv_stride(shape: &ModelShape) -> usize {
    Fused::Qkv.panels(shape).n_rows
}

pub(crate) fn key_page_bytes(shape: &ModelShape) -> usize {
    shape.n_kv_heads * shape.head_dim.div_ceil(8) * PAGE * 16
}

pub(crate) fn value_page_bytes(shape: &ModelShape) -> usize {
    shape.n_kv_heads * PAGE * (shape.head_dim / 2) * 4
}

pub(crate) fn page_bytes(shape: &ModelShape) -> [usize; 2] {
    [key_page_bytes(shape), value_page_bytes(shape)]
}

/// Returns the candidates of a row that one stage of the selection leaves at most.
pub(crate) fn candidate_stride(shape: &ModelShape) -> usize {
    shape.vocab_size.div_ceil(TOP_K_TILE) * MAX_TOP_K
}
