//! The tensors of a model: names in both worlds, shapes, and what each is for.
//!
//! Inside the program a tensor goes by its GGUF name.

use super::config::Config;

/// The token embedding `[vocab_size, hidden_dim]`.
pub(crate) const TOKEN_EMBD: &str = "token_embd.weight";
/// The last norm `[hidden_dim]`.
pub(crate) const OUTPUT_NORM: &str = "output_norm.weight";
/// The output matrix `[vocab_size, hidden_dim]` of models whose embedding is
/// not tied.
pub(crate) const OUTPUT: &str = "output.weight";

/// Divisors of the rotary frequencies, in GGUF files that have some.
pub(crate) const ROPE_FREQS: &str = "rope_freqs.weight";

/// What a tensor is for, which decides how it may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Embedding or output matrix: dense.
    Vocabulary,
    /// Weight of a norm: one dense row.
    Norm,
    /// A linear layer: ternary.
    Linear,
    /// A query or key projection: ternary, with rows in a rotary order.
    Rotary,
}

/// A tensor that a configuration calls for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The GGUF name.
    pub(crate) name: String,
    /// The name in `transformers` checkpoints.
    pub(crate) hf_name: String,
    /// Another name there.
    pub(crate) hf_alias: Option<String>,
    pub(crate) role: Role,
    pub(crate) n_rows: usize,
    pub(crate) n_cols: usize,
}

/// Returns the name of a tensor of layer `layer`.
pub(crate) fn layer_tensor(layer: usize, part: &str) -> String {
    format!("blk.{layer}.{part}.weight")
}

/// Returns every tensor of a model, in file order.
pub(crate) fn expected(config: &Config) -> Vec<Expected> {
    let (hidden, ffn) = (config.hidden_dim, config.ffn_dim);
    let (q, kv) = (config.q_dim(), config.kv_dim());
    let sub_norms = config.family.sub_norms;
    let vocabulary = |name: &str, hf_name: &str| Expected {
        name: name.to_owned(),
        hf_name: hf_name.to_owned(),
        hf_alias: None,
        role: Role::Vocabulary,
        n_rows: config.vocab_size,
        n_cols: hidden,
    };
    let mut tensors = vec![vocabulary(TOKEN_EMBD, "model.embed_tokens.weight")];
    for layer in 0..config.n_layers {
        let parts = [
            ("attn_norm", "input_layernorm", Role::Norm, 1, hidden),
            ("attn_q", "self_attn.q_proj", Role::Rotary, q, hidden),
            ("attn_k", "self_attn.k_proj", Role::Rotary, kv, hidden),
            ("attn_v", "self_attn.v_proj", Role::Linear, kv, hidden),
            ("attn_sub_norm", "self_attn.attn_sub_norm", Role::Norm, 1, q),
            ("attn_output", "self_attn.o_proj", Role::Linear, hidden, q),
            (
                "ffn_norm",
                "post_attention_layernorm",
                Role::Norm,
                1,
                hidden,
            ),
            ("ffn_gate", "mlp.gate_proj", Role::Linear, ffn, hidden),
            ("ffn_up", "mlp.up_proj", Role::Linear, ffn, hidden),
            ("ffn_sub_norm", "mlp.ffn_sub_norm", Role::Norm, 1, ffn),
            ("ffn_down", "mlp.down_proj", Role::Linear, hidden, ffn),
        ];
        let kept = parts
            .into_iter()
            .filter(|(part, ..)| sub_norms || !part.ends_with("sub_norm"));
        let hf = |part: &str| format!("model.layers.{layer}.{part}.weight");
        tensors.extend(kept.map(|(part, hf_part, role, n_rows, n_cols)| Expected {
            name: layer_tensor(layer, part),
            hf_name: hf(hf_part),
            // As 1bitLLM calls them.
            hf_alias: match part {
                "attn_sub_norm" => Some(hf("self_attn.inner_attn_ln")),
                "ffn_sub_norm" => Some(hf("mlp.ffn_layernorm")),
                _ => None,
            },
            role,
            n_rows,
            n_cols,
        }));
    }
    tensors.push(Expected {
        name: OUTPUT_NORM.to_owned(),
        hf_name: "model.norm.weight".to_owned(),
        hf_alias: None,
        role: Role::Norm,
        n_rows: 1,
        n_cols: hidden,
    });
    if !config.tied_embeddings {
        tensors.push(vocabulary(OUTPUT, "lm_head.weight"));
    }
    tensors
}
