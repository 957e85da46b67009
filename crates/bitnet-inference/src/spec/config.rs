//! What a model looks like: the numbers that fix every tensor.

use bitnet_core::Shape;

use super::family::Family;
use super::multipliers::{Multipliers, Sizes};
use super::rope::Rope;
use super::sliding::SlidingWindow;
use crate::note::{self, Note};

/// Far above every model.
const MAX_CONTEXT_LEN: usize = 1 << 24;

/// The activation of the feed-forward gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Squared ReLU.
    Relu2,
    /// x · sigmoid(x).
    Silu,
    /// The approximation of x·Φ(x) with a hyperbolic tangent.
    GeluTanh,
}

impl Activation {
    /// What can be read, for messages.
    pub(crate) const EXPECTED: &str = "relu2, silu or gelu_pytorch_tanh";

    /// Returns the name that `transformers` and GGUF use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Relu2 => "relu2",
            Self::Silu => "silu",
            Self::GeluTanh => "gelu_pytorch_tanh",
        }
    }

    /// Returns the activation called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "relu2" | "relu_squared" => Some(Self::Relu2),
            "silu" | "swish" => Some(Self::Silu),
            // Not `gelu`, which is another function.
            "gelu_pytorch_tanh" | "gelu_tanh" => Some(Self::GeluTanh),
            _ => None,
        }
    }
}

/// What ternary weights are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationPrecision {
    /// Int8 with one scale a token: how BitNet models were trained.
    Int8,
    /// As they are, to the precision of f32: where only weights were quantized.
    Exact,
}

/// How the hidden states of a text become its embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// That of the last token.
    Last,
    /// In a way that is not implemented, by its number in GGUF files.
    Other(u64),
}

/// The order in which a file keeps the rows of one head's query and key
/// projections: which two of them rotary embedding turns together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RotaryRows {
    /// Row i and row i + `head_dim` / 2, as `transformers` has it. The forward
    /// pass works in this order.
    Halves,
    /// Row 2i and row 2i + 1, as llama.cpp reorders LLaMA models.
    Interleaved,
}

/// How much of a head rotary embedding turns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RotaryWidths {
    /// Rows of a head.
    pub(crate) head_dim: usize,
    /// How many of them are turned, from the first on.
    pub(crate) n_dims: usize,
}

impl RotaryRows {
    /// Returns where row `row` of the order `self` stands in the order `target`.
    pub(crate) fn position_in(
        self,
        target: Self,
        row: usize,
        RotaryWidths { head_dim, n_dims }: RotaryWidths,
    ) -> usize {
        let (head, i) = (row / head_dim, row % head_dim);
        let half = n_dims / 2;
        let i = match (self, target) {
            _ if i >= n_dims => i,
            (Self::Halves, Self::Interleaved) => i % half * 2 + i / half,
            (Self::Interleaved, Self::Halves) => i / 2 + i % 2 * half,
            _ => i,
        };
        head * head_dim + i
    }
}

/// The numbers of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What the model is one of.
    pub family: &'static Family,
    /// Width of the residual stream.
    pub hidden_dim: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Number of query heads.
    pub n_heads: usize,
    /// Number of key-value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Width of the feed-forward network.
    pub ffn_dim: usize,
    /// Number of tokens.
    pub vocab_size: usize,
    /// The most positions the model was made for.
    pub context_len: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f32,
    /// The rotary position embedding.
    pub rope: Rope,
    /// Activation of the feed-forward gate.
    pub activation: Activation,
    /// Whether the token embedding is the output matrix too.
    pub tied_embeddings: bool,
    /// Whether the input of every linear layer is normalized by itself.
    pub projection_norms: bool,
    /// Whether a linear layer has dense weights.
    pub dense_linears: bool,
    /// What ternary weights are multiplied with.
    pub activations: ActivationPrecision,
    /// How embeddings are made, if the file says.
    pub pooling: Option<Pooling>,
    /// What embeddings, scores, residuals and logits are multiplied with.
    pub multipliers: Multipliers,
    /// The layers that see only the last positions, if there are some.
    pub sliding: Option<SlidingWindow>,
}

impl Config {
    /// Width of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Shape of the output matrix.
    pub(crate) fn head_shape(&self) -> Shape {
        Shape {
            n_rows: self.vocab_size,
            n_cols: self.hidden_dim,
        }
    }

    /// How much of a head rotary embedding turns.
    pub(crate) fn rotary_widths(&self) -> RotaryWidths {
        RotaryWidths {
            head_dim: self.head_dim,
            n_dims: self.rope.n_dims,
        }
    }

    /// Values that rotary embedding turns in a position of all its tables: one, and
    /// another for layers with a sliding window.
    pub(crate) fn rope_dims(&self) -> usize {
        let sliding = self.sliding.as_ref().map_or(0, |s| s.rope.n_dims);
        self.rope.n_dims + sliding
    }

    /// The sizes that multipliers depend on.
    pub(crate) fn sizes(&self) -> Sizes {
        Sizes {
            hidden_dim: self.hidden_dim,
            n_layers: self.n_layers,
            n_heads: self.n_heads,
            head_dim: self.head_dim,
        }
    }

    /// Returns the sliding window of a layer, if it has one.
    pub(crate) fn sliding_in(&self, layer: usize) -> Option<&SlidingWindow> {
        let sliding = self.sliding.as_ref()?;
        sliding.layers[layer].then_some(sliding)
    }

    /// Weights of the linear layers.
    pub fn n_linear_weights(&self) -> usize {
        let attention = 2 * self.q_dim() + 2 * self.kv_dim();
        self.n_layers * self.hidden_dim * (attention + 3 * self.ffn_dim)
    }

    /// Width of the widest input of a linear layer.
    pub(crate) fn widest(&self) -> usize {
        self.hidden_dim.max(self.q_dim()).max(self.ffn_dim)
    }

    /// Returns the context length of a file, or the longest that is taken: nothing
    /// that a file says is longer by mistake.
    pub(crate) fn context_len_within_limits(found: usize, notes: &mut Vec<Note>) -> usize {
        if found > MAX_CONTEXT_LEN {
            let taken = MAX_CONTEXT_LEN;
            note::add(notes, Note::ContextLength { found, taken });
        }
        found.min(MAX_CONTEXT_LEN)
    }

    /// Returns the first thing that no model can have.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        // Limits far above every model and far below every overflow.
        let sizes = [
            ("hidden size", self.hidden_dim, 1 << 24),
            ("number of layers", self.n_layers, 1 << 12),
            ("number of heads", self.n_heads, 1 << 12),
            ("number of key-value heads", self.n_kv_heads, 1 << 12),
            ("head size", self.head_dim, 1 << 12),
            ("feed-forward size", self.ffn_dim, 1 << 24),
            ("vocabulary size", self.vocab_size, 1 << 24),
            ("context length", self.context_len, MAX_CONTEXT_LEN),
        ];
        for (what, value, limit) in sizes {
            if value == 0 || value > limit {
                return Err(ConfigError::Size { what, value, limit });
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(ConfigError::HeadGroups {
                n_heads: self.n_heads,
                n_kv_heads: self.n_kv_heads,
            });
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(ConfigError::OddHeadSize {
                head_dim: self.head_dim,
            });
        }
        let (what, value) = ("RMS norm epsilon", self.rms_norm_eps);
        if !(value.is_finite() && value > 0.0) {
            return Err(ConfigError::Float { what, value });
        }
        self.multipliers.validate()?;
        if let Some(sliding) = &self.sliding {
            sliding.validate(self.n_layers, self.head_dim)?;
        }
        self.rope.validate(self.head_dim)
    }
}

/// A configuration that no model can have.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A size is zero or absurd.
    #[error("{what} is {value}, expected 1 to {limit}")]
    Size {
        /// What has the size.
        what: &'static str,
        /// The size.
        value: usize,
        /// The largest size allowed.
        limit: usize,
    },
    /// Query heads cannot share the key-value heads evenly.
    #[error("{n_heads} heads cannot share {n_kv_heads} key-value heads evenly")]
    HeadGroups {
        /// Number of query heads.
        n_heads: usize,
        /// Number of key-value heads.
        n_kv_heads: usize,
    },
    /// Rotary embedding needs pairs.
    #[error("head size is {head_dim}, expected an even number")]
    OddHeadSize {
        /// Width of a head.
        head_dim: usize,
    },
    /// Rotary embedding turns pairs within a head.
    #[error("RoPE turns {n_dims} values of a head, expected an even number up to {head_dim}")]
    RopeWidth {
        /// How many values are turned.
        n_dims: usize,
        /// Width of a head.
        head_dim: usize,
    },
    /// Not every rotary frequency has its divisor.
    #[error("there are {found} RoPE divisors, expected {expected}, one for each pair")]
    RopeDivisors {
        /// Pairs that are turned.
        expected: usize,
        /// Divisors in the file.
        found: usize,
    },
    /// Not every layer is said to have a sliding window or none.
    #[error("{found} layers are said to have a sliding window or none, expected {expected}")]
    SlidingLayers {
        /// Number of layers.
        expected: usize,
        /// How many the file tells about.
        found: usize,
    },
    /// A constant is not a positive number.
    #[error("{what} is {value}, expected a positive number")]
    Float {
        /// Which constant.
        what: &'static str,
        /// Its value.
        value: f32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widths(head_dim: usize, n_dims: usize) -> RotaryWidths {
        RotaryWidths { head_dim, n_dims }
    }

    #[test]
    fn rotary_rows_of_the_first_head_interleave() {
        use RotaryRows::{Halves, Interleaved};
        let order = |from: RotaryRows, to| -> Vec<_> {
            (0..6)
                .map(|row| from.position_in(to, row, widths(6, 6)))
                .collect()
        };
        assert_eq!(order(Halves, Interleaved), [0, 2, 4, 1, 3, 5]);
        assert_eq!(order(Interleaved, Halves), [0, 3, 1, 4, 2, 5]);
        assert_eq!(order(Halves, Halves), [0, 1, 2, 3, 4, 5]);
        // Four of six are turned.
        let partial = (0..6).map(|row| Halves.position_in(Interleaved, row, widths(6, 4)));
        assert_eq!(partial.collect::<Vec<_>>(), [0, 2, 1, 3, 4, 5]);
    }

    #[test]
    fn rotary_orders_are_inverse_in_every_head() {
        use RotaryRows::{Halves, Interleaved};
        for row in 0..24 {
            let there = Halves.position_in(Interleaved, row, widths(8, 8));
            assert_eq!(there / 8, row / 8);
            assert_eq!(Interleaved.position_in(Halves, there, widths(8, 8)), row);
        }
    }
}
