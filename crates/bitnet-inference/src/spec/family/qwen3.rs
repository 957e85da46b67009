use super::Family;
use crate::spec::config::{Activation, RotaryRows};
use crate::spec::multipliers::MultiplierRule;

/// Qwen3 and models of the same architecture: queries and keys are normalized per head.
/// Includes the ternary Bonsai models, whose embedding and output matrix are ternary, too,
/// and bitnet-embedding-0.6b, which normalizes the input of every projection.
pub(crate) const QWEN3: Family = Family {
    name: "qwen3",
    gguf_aliases: &[],
    hf_names: &[("qwen3", "Qwen3ForCausalLM"), ("qwen3", "Qwen3Model")],
    activation: Activation::Silu,
    sub_norms: false,
    qk_norms: true,
    post_norms: false,
    hf_norms_less_one: false,
    always_ternary: false,
    quantizes_activations: true,
    sliding_window: false,
    multipliers: MultiplierRule::Plain,
    gguf_rotary_rows: RotaryRows::Halves,
    tied_embeddings: true,
    pre_tokenizer: None,
};
