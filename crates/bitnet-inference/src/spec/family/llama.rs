use super::Family;
use crate::spec::config::{Activation, RotaryRows};
use crate::spec::multipliers::MultiplierRule;

/// LLaMA and models of the same architecture: Llama3-8B-1.58, Falcon3-1.58bit, Falcon-E,
/// TriLM.
pub(crate) const LLAMA: Family = Family {
    name: "llama",
    gguf_aliases: &[],
    hf_names: &[("llama", "LlamaForCausalLM")],
    activation: Activation::Silu,
    sub_norms: false,
    qk_norms: false,
    post_norms: false,
    hf_norms_less_one: false,
    always_ternary: false,
    quantizes_activations: true,
    sliding_window: false,
    multipliers: MultiplierRule::Plain,
    gguf_rotary_rows: RotaryRows::Interleaved,
    tied_embeddings: false,
    pre_tokenizer: None,
};
