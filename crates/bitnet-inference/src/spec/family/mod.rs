//! The differences between model families, one file per family, and nowhere else.

mod bitnet;
mod bitnet_b158;
mod gemma3;
mod llama;
mod minicpm;
mod qwen3;

use std::fmt;

use super::config::{Activation, RotaryRows};
use super::multipliers::MultiplierRule;

pub(crate) use bitnet::BITNET;
pub(crate) use bitnet_b158::BITNET_B158;
pub(crate) use gemma3::GEMMA3;
pub(crate) use llama::LLAMA;
pub(crate) use minicpm::MINICPM;
pub(crate) use qwen3::QWEN3;

/// Every family. If several have the same names in a `config.json`, the first with the
/// same activation is selected.
const FAMILIES: [&Family; 6] = [&BITNET_B158, &BITNET, &LLAMA, &QWEN3, &MINICPM, &GEMMA3];

/// A family of models, which differ only in the values of
/// [`Config`](super::config::Config).
#[derive(Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a table of what a family has"
)]
pub struct Family {
    /// The name, as in `general.architecture` of GGUF files.
    pub(crate) name: &'static str,
    /// Older names in GGUF files.
    pub(crate) gguf_aliases: &'static [&'static str],
    /// `model_type` and one of `architectures` in `config.json`. The first pair is the one
    /// written, and its type alone is sufficient; for the others, both are required.
    pub(crate) hf_names: &'static [(&'static str, &'static str)],
    /// The default activation of the feed-forward gate.
    pub(crate) activation: Activation,
    /// Whether attention and feed-forward outputs are normalized before they are
    /// projected.
    pub(crate) sub_norms: bool,
    /// Whether every head of queries and keys is normalized before rotary embedding.
    pub(crate) qk_norms: bool,
    /// Whether the outputs of attention and feed-forward network are normalized before the
    /// residual addition.
    pub(crate) post_norms: bool,
    /// Whether HuggingFace folders store norms minus 1, except input norms of projections.
    pub(crate) hf_norms_less_one: bool,
    /// Whether the model requires ternary weights and int8 activations: dense weights are
    /// master weights and must be quantized.
    pub(crate) always_ternary: bool,
    /// Whether models of this family may have been trained with int8 activations.
    pub(crate) quantizes_activations: bool,
    /// Whether layers may have a sliding window.
    pub(crate) sliding_window: bool,
    /// The source of its multipliers.
    pub(crate) multipliers: MultiplierRule,
    /// The order of query and key projection rows in GGUF files.
    pub(crate) gguf_rotary_rows: RotaryRows,
    /// Whether embeddings are tied by default in a folder without an output matrix.
    pub(crate) tied_embeddings: bool,
    /// The default of `tokenizer.ggml.pre`.
    pub(crate) pre_tokenizer: Option<&'static str>,
}

impl Family {
    /// Returns the name, as in `general.architecture` of GGUF files.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns whether attention and feed-forward outputs are normalized before
    /// they are projected.
    pub fn has_sub_norms(&self) -> bool {
        self.sub_norms
    }

    /// Returns the family that a GGUF file calls `name`.
    pub(crate) fn from_gguf_name(name: &str) -> Option<&'static Self> {
        let matches = |family: &&&Self| family.name == name || family.gguf_aliases.contains(&name);
        FAMILIES.iter().find(matches).copied()
    }

    /// Returns the family that a `config.json` names.
    pub(crate) fn from_hf(
        model_type: &str,
        classes: &[String],
        activation: Activation,
    ) -> Option<&'static Self> {
        let is_named = |family: &Self| {
            let fits = |(ty, class): &(&str, &str)| {
                *ty == model_type && classes.iter().any(|other| other == class)
            };
            family.hf_names.iter().any(fits)
        };
        let candidates = FAMILIES
            .iter()
            .filter(|family| family.hf_names[0].0 == model_type || is_named(family));
        // `max_by_key` returns the last of equal keys, hence `rev`.
        candidates
            .rev()
            .max_by_key(|family| (is_named(family), family.activation == activation))
            .copied()
    }

    /// Returns the names of all families, for error messages.
    pub(crate) fn names() -> String {
        let names = FAMILIES
            .iter()
            .flat_map(|family| std::iter::once(&family.name).chain(family.gguf_aliases));
        names.copied().collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_one_family_each() {
        for family in FAMILIES {
            for name in std::iter::once(&family.name).chain(family.gguf_aliases) {
                assert_eq!(Family::from_gguf_name(name), Some(family));
            }
            for (model_type, class) in family.hf_names {
                let classes = [(*class).to_owned()];
                let found = Family::from_hf(model_type, &classes, family.activation);
                assert_eq!(found, Some(family));
            }
        }
    }

    #[test]
    fn a_class_decides_between_families_of_one_model_type() {
        // As 1bitLLM/bitnet_b1_58-3B is published.
        let classes = ["BitnetForCausalLM".to_owned()];
        let found = Family::from_hf("llama", &classes, Activation::Silu);
        assert_eq!(found, Some(&BITNET));
        let found = Family::from_hf("llama", &[], Activation::Silu);
        assert_eq!(found, Some(&LLAMA));
        assert_eq!(Family::from_hf("gemma", &[], Activation::Silu), None);
    }
}
