use super::Family;
use crate::spec::config::{Activation, RotaryRows};
use crate::spec::multipliers::MultiplierRule;

/// microsoft/bitnet-b1.58-2B-4T: sub-norms before the output and down
/// projections, and squared ReLU. Its published GGUF files name no pre-tokenizer;
/// the vocabulary is Llama 3's.
pub(crate) const BITNET_B158: Family = Family {
    name: "bitnet-b1.58",
    gguf_aliases: &["bitnet-25"],
    hf_names: &[("bitnet", "BitNetForCausalLM")],
    activation: Activation::Relu2,
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
