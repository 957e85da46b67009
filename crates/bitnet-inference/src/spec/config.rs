//! The configuration of a model.

use bitnet_core::Shape;

use super::family::Family;
use super::multipliers::{Multipliers, Sizes};
use super::rope::Rope;
use super::sliding::SlidingWindow;
use crate::note::{self, Note};

/// Limit of the context length, far above every model.
const MAX_CONTEXT_LEN: usize = 1 << 24;

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

impl Activation {
    /// The supported names, for error messages.
    pub(crate) const EXPECTED: &str = "relu2, silu or gelu_pytorch_tanh";

    /// Returns the name that `transformers` and GGUF use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Relu2 => "relu2",
            Self::Silu => "silu",
            Self::GeluTanh => "gelu_pytorch_tanh",
        }
    }

    /// Returns the activation with this name, if it is supported.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "relu2" | "relu_squared" => Some(Self::Relu2),
            "silu" | "swish" => Some(Self::Silu),
            // Not `gelu`, which is the exact function.
            "gelu_pytorch_tanh" | "gelu_tanh" => Some(Self::GeluTanh),
            _ => None,
        }
    }
}

/// The precision of the activations of ternary matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationPrecision {
    /// Int8 with one scale per token, as in the training of BitNet models.
    Int8,
    /// The precision of f32, for models of which only weights were quantized.
    Exact,
}

/// The pooling of hidden states to an embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The hidden state of the last token.
    Last,
    /// An unsupported pooling, by its number in GGUF files.
    Other(u64),
}

/// The row order of a head's query and key projections in a file: which two rows rotary
/// embedding rotates together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RotaryRows {
    /// Row i and row i + `head_dim` / 2, as in `transformers`. The forward pass uses this
    /// order.
    Halves,
    /// Row 2i and row 2i + 1, as llama.cpp reorders LLaMA models.
    Interleaved,
}

/// How much of a head is rotated by rotary embedding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RotaryWidths {
    /// Rows of a head.
    pub(crate) head_dim: usize,
    /// Number of rotated rows, from the first on.
    pub(crate) n_dims: usize,
}

impl RotaryRows {
    /// Returns the position in the order `target` of row `row` in the order `self`.
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

/// The configuration of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The model's family.
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
    /// The maximum context length in positions.
    pub context_len: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f32,
    /// The rotary position embedding.
    pub rope: Rope,
    /// Activation of the feed-forward gate.
    pub activation: Activation,
    /// Whether the token embedding is also the output matrix.
    pub tied_embeddings: bool,
    /// Whether every linear layer has an input norm of its own.
    pub projection_norms: bool,
    /// Whether a linear layer has dense weights.
    pub dense_linears: bool,
    /// The precision of the activations of ternary matrices.
    pub activations: ActivationPrecision,
    /// The pooling of embeddings, if the file specifies it.
    pub pooling: Option<Pooling>,
    /// Factors of embeddings, attention scores, residuals and logits.
    pub multipliers: Multipliers,
    /// The layers with a sliding window, if there are any.
    pub sliding: Option<SlidingWindow>,
}

impl Config {
    /// Returns the width of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Returns the width of all key (or value) heads together.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Returns the shape of the output matrix.
    pub(crate) fn head_shape(&self) -> Shape {
        Shape {
            n_rows: self.vocab_size,
            n_cols: self.hidden_dim,
        }
    }

    /// Returns how much of a head is rotated.
    pub(crate) fn rotary_widths(&self) -> RotaryWidths {
        RotaryWidths {
            head_dim: self.head_dim,
            n_dims: self.rope.n_dims,
        }
    }

    /// Returns the number of rotated dimensions over all rotary tables: one, and another for
    /// layers with a sliding window.
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

    /// Returns the number of weights of the linear layers.
    pub fn n_linear_weights(&self) -> usize {
        let attention = 2 * self.q_dim() + 2 * self.kv_dim();
        self.n_layers * self.hidden_dim * (attention + 3 * self.ffn_dim)
    }

    /// Returns the largest input width of a linear layer.
    pub(crate) fn widest(&self) -> usize {
        self.hidden_dim.max(self.q_dim()).max(self.ffn_dim)
    }

    /// Returns the context length of a file, limited to the maximum, with a note if it is
    /// exceeded.
    pub(crate) fn context_len_within_limits(found: usize, notes: &mut Vec<Note>) -> usize {
        if found > MAX_CONTEXT_LEN {
            let taken = MAX_CONTEXT_LEN;
            note::add(notes, Note::ContextLength { found, taken });
        }
        found.min(MAX_CONTEXT_LEN)
    }

    /// Checks the configuration; returns the first invalid value as an error.
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

/// An invalid configuration.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A size is zero or too large.
    #[error("{what} is {value}, expected 1 to {limit}")]
    Size {
        /// The name of the size.
        what: &'static str,
        /// The size.
        value: usize,
        /// The largest size allowed.
        limit: usize,
    },
    /// The number of query heads is not a multiple of that of key-value heads.
    #[error("{n_heads} heads cannot share {n_kv_heads} key-value heads evenly")]
    HeadGroups {
        /// Number of query heads.
        n_heads: usize,
        /// Number of key-value heads.
        n_kv_heads: usize,
    },
    /// The head size is odd, but rotary embedding needs pairs.
    #[error("head size is {head_dim}, expected an even number")]
    OddHeadSize {
        /// Width of a head.
        head_dim: usize,
    },
    /// The number of rotated dimensions is odd or exceeds the head size.
    #[error("RoPE turns {n_dims} values of a head, expected an even number up to {head_dim}")]
    RopeWidth {
        /// Number of rotated dimensions.
        n_dims: usize,
        /// Width of a head.
        head_dim: usize,
    },
    /// The number of RoPE divisors is wrong.
    #[error("there are {found} RoPE divisors, expected {expected}, one for each pair")]
    RopeDivisors {
        /// Number of rotated pairs.
        expected: usize,
        /// Divisors in the file.
        found: usize,
    },
    /// The number of layer types is wrong.
    #[error("{found} layers are said to have a sliding window or none, expected {expected}")]
    SlidingLayers {
        /// Number of layers.
        expected: usize,
        /// Number of layer types in the file.
        found: usize,
    },
    /// A constant is not a positive number.
    #[error("{what} is {value}, expected a positive number")]
    Float {
        /// The constant.
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
        // Four of six are rotated.
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
