//! The shape of a model, without its weights.

use std::fmt;

/// The activation of the feed-forward gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Squared ReLU.
    Relu2,
    /// x · sigmoid(x).
    Silu,
    /// The tanh approximation of GELU.
    GeluTanh,
}

/// The precision of the activations of ternary matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationPrecision {
    /// Int8 with one scale per token.
    Int8,
    /// Three int8 parts per value, which hold the precision of f32.
    Exact,
}

/// Constant factors; 1 in most models, except that of attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multipliers {
    /// Of the embedding of every token.
    pub embedding: f32,
    /// Of the outputs of attention and feed-forward network, before they are added.
    pub residual: f32,
    /// Of the scores of attention, before the softmax.
    pub attention: f32,
    /// Of the logits.
    pub logits: f32,
}

/// A linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// `[n_heads · head_dim, hidden_dim]`
    Query,
    /// `[n_kv_heads · head_dim, hidden_dim]`
    Key,
    /// `[n_kv_heads · head_dim, hidden_dim]`
    Value,
    /// `[hidden_dim, n_heads · head_dim]`
    Output,
    /// `[ffn_dim, hidden_dim]`
    Gate,
    /// `[ffn_dim, hidden_dim]`
    Up,
    /// `[hidden_dim, ffn_dim]`
    Down,
}

impl Part {
    /// Every linear layer, in the order of computation.
    pub const ALL: [Self; 7] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Output,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];
}

/// A norm of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Norm {
    /// Of the input of attention, `[hidden_dim]`.
    Attention,
    /// Of the input of the feed-forward network, `[hidden_dim]`.
    FeedForward,
    /// Of every query head, `[head_dim]`.
    Query,
    /// Of every key head, `[head_dim]`.
    Key,
    /// Of the output of attention, `[hidden_dim]`.
    PostAttention,
    /// Of the output of the feed-forward network, `[hidden_dim]`.
    PostFeedForward,
    /// Of the input of one linear layer, after the norm of its block: a sub-norm.
    Input(Part),
}

/// The linear layers whose inputs have a norm of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputNorms {
    /// None.
    None,
    /// [`Part::Output`] and [`Part::Down`].
    Sub,
    /// All.
    All,
}

/// The storage of the token embedding on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbeddingEncoding {
    /// f32
    F32,
    /// f16; values of other precision are rounded.
    F16,
    /// bfloat16; values of other precision are rounded.
    Bf16,
    /// Ternary with scales.
    Ternary,
}

/// The output matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// Int8 with one scale per row.
    Int8,
    /// Ternary with scales.
    Ternary,
    /// The ternary embedding.
    TiedTernary,
}

/// A layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerShape {
    /// The number of positions that a row attends to, its own included; `None` for all.
    pub window: Option<usize>,
    /// The index of the rotary table.
    pub rope: usize,
}

/// The shape of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelShape {
    /// Width of the residual stream.
    pub hidden_dim: usize,
    /// Number of query heads, a multiple of `n_kv_heads`.
    pub n_heads: usize,
    /// Number of key-value heads.
    pub n_kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Width of the feed-forward network.
    pub ffn_dim: usize,
    /// Number of tokens.
    pub vocab_size: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f32,
    /// Activation of the feed-forward gate.
    pub activation: Activation,
    /// The precision of activations.
    pub activations: ActivationPrecision,
    /// Constant factors.
    pub multipliers: Multipliers,
    /// The linear layers with an input norm.
    pub input_norms: InputNorms,
    /// Whether every head of queries and keys is normalized.
    pub qk_norms: bool,
    /// Whether the outputs of attention and feed-forward network are normalized.
    pub post_norms: bool,
    /// Weights per scale along a row, of all ternary matrices: a multiple of 64 that divides
    /// their columns. `None` for a scale for each row.
    pub scale_group: Option<usize>,
    /// The storage of the embedding.
    pub embedding: EmbeddingEncoding,
    /// The output matrix.
    pub head: HeadKind,
    /// The layers.
    pub layers: Vec<LayerShape>,
    /// The number of rotated values of a head, for each rotary table.
    pub rope_dims: Vec<usize>,
    /// The number of positions, which rotary tables have.
    pub context_len: usize,
}

impl ModelShape {
    /// Returns the width of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Returns the width of all key (or value) heads together.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Returns the scales per row of a ternary matrix with this many columns.
    pub(crate) fn n_groups(&self, n_cols: usize) -> usize {
        self.scale_group.map_or(1, |len| n_cols / len)
    }

    /// Returns the rows and columns of a linear layer.
    pub fn linear(&self, part: Part) -> (usize, usize) {
        let hidden = self.hidden_dim;
        match part {
            Part::Query => (self.q_dim(), hidden),
            Part::Key | Part::Value => (self.kv_dim(), hidden),
            Part::Output => (hidden, self.q_dim()),
            Part::Gate | Part::Up => (self.ffn_dim, hidden),
            Part::Down => (hidden, self.ffn_dim),
        }
    }
}

/// A place where a value was not finite. Places are in the order of computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The embedding of this token.
    Token(u32),
    /// Attention of this layer.
    Attention(usize),
    /// The feed-forward network of this layer.
    FeedForward(usize),
    /// The output matrix.
    Head,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(token) => write!(f, "the embedding of token {token}"),
            Self::Attention(layer) => write!(f, "attention of layer {layer}"),
            Self::FeedForward(layer) => write!(f, "the feed-forward network of layer {layer}"),
            Self::Head => f.write_str("the output matrix"),
        }
    }
}
