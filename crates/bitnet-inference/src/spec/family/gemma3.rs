use super::Family;
use crate::spec::config::{Activation, RotaryRows};
use crate::spec::multipliers::MultiplierRule;

/// Gemma 3, text only: norms before and after attention and feed-forward network, GELU,
/// and layers with a sliding window. Includes bitnet-embedding-270m, which normalizes the
/// input of every projection.
pub(crate) const GEMMA3: Family = Family {
    name: "gemma3",
    gguf_aliases: &[],
    hf_names: &[
        ("gemma3_text", "Gemma3ForCausalLM"),
        ("gemma3_text", "Gemma3TextModel"),
    ],
    activation: Activation::GeluTanh,
    sub_norms: false,
    qk_norms: true,
    post_norms: true,
    hf_norms_less_one: true,
    always_ternary: false,
    quantizes_activations: true,
    sliding_window: true,
    multipliers: MultiplierRule::Gemma,
    gguf_rotary_rows: RotaryRows::Halves,
    tied_embeddings: true,
    pre_tokenizer: None,
};
