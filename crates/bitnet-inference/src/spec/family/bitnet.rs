use super::Family;
use crate::spec::config::{Activation, RotaryRows};
use crate::spec::multipliers::MultiplierRule;

/// The reproductions of BitNet b1.58 by 1bitLLM, in their format and llama.cpp's:
/// sub-norms, and SiLU. Their folders name the sub-norms `inner_attn_ln` and
/// `ffn_layernorm`, and the model type `llama`.
pub(crate) const BITNET: Family = Family {
    name: "bitnet",
    gguf_aliases: &[],
    hf_names: &[
        ("bitnet", "BitNetForCausalLM"),
        ("llama", "BitnetForCausalLM"),
    ],
    activation: Activation::Silu,
    sub_norms: true,
    qk_norms: false,
    post_norms: false,
    hf_norms_less_one: false,
    always_ternary: true,
    quantizes_activations: true,
    sliding_window: false,
    multipliers: MultiplierRule::Plain,
    gguf_rotary_rows: RotaryRows::Halves,
    tied_embeddings: true,
    pre_tokenizer: Some("llama-bpe"),
};
