use super::Family;
use crate::spec::config::{Activation, RotaryRows};
use crate::spec::multipliers::MultiplierRule;

/// MiniCPM: LLaMA with constant factors for embeddings, residuals and logits. Includes
/// BitCPM4, whose ternary weights have group scales and unquantized activations. Its
/// folders have dequantized weights in BF16.
pub(crate) const MINICPM: Family = Family {
    name: "minicpm",
    gguf_aliases: &[],
    hf_names: &[("minicpm", "MiniCPMForCausalLM")],
    activation: Activation::Silu,
    sub_norms: false,
    qk_norms: false,
    post_norms: false,
    hf_norms_less_one: false,
    always_ternary: false,
    quantizes_activations: false,
    sliding_window: false,
    multipliers: MultiplierRule::MiniCpm,
    gguf_rotary_rows: RotaryRows::Interleaved,
    tied_embeddings: true,
    pre_tokenizer: None,
};
