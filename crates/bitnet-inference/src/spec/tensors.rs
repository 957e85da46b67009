//! The tensors of a model: names in both file formats, shapes, and roles.
//!
//! The code uses GGUF names.

use super::config::Config;

/// The token embedding `[vocab_size, hidden_dim]`.
pub(crate) const TOKEN_EMBD: &str = "token_embd.weight";
/// The last norm `[hidden_dim]`.
pub(crate) const OUTPUT_NORM: &str = "output_norm.weight";
/// The output matrix `[vocab_size, hidden_dim]` of models whose embedding is
/// not tied.
pub(crate) const OUTPUT: &str = "output.weight";

/// Divisors of the rotary frequencies in GGUF files, optional.
pub(crate) const ROPE_FREQS: &str = "rope_freqs.weight";
/// Divisors for contexts up to that of the first training.
pub(crate) const ROPE_SHORT: &str = "rope_factors_short.weight";
/// Divisors for longer ones.
pub(crate) const ROPE_LONG: &str = "rope_factors_long.weight";

/// Name suffixes of buffers: tensors that are computed at run time, but were saved by
/// older versions of programs and are ignored by newer ones.
const BUFFERS: [&str; 9] = [
    "attn_rot_embd.weight",
    "causal_mask",
    "masked_bias",
    "position_ids",
    "rope.freqs",
    "rotary_emb.cos_cached",
    "rotary_emb.inv_freq",
    "rotary_emb.original_inv_freq",
    "rotary_emb.sin_cached",
];

/// Returns whether a tensor is a computed buffer instead of a weight.
pub(crate) fn is_buffer(name: &str) -> bool {
    BUFFERS.iter().any(|buffer| {
        let before = name.strip_suffix(buffer);
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    })
}

/// The role of a tensor, which determines the supported storage types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Embedding or output matrix.
    Vocabulary,
    /// Weight of a norm: one dense row.
    Norm,
    /// A linear layer.
    Linear,
    /// A query or key projection: a linear layer with rows in a rotary order.
    Rotary,
}

/// A tensor that a configuration requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The GGUF name.
    pub(crate) name: String,
    /// The name in `transformers` checkpoints.
    pub(crate) hf_name: String,
    /// An alternative name there.
    pub(crate) hf_alias: Option<String>,
    pub(crate) role: Role,
    pub(crate) n_rows: usize,
    pub(crate) n_cols: usize,
}

impl Expected {
    pub(crate) fn is_linear(&self) -> bool {
        matches!(self.role, Role::Linear | Role::Rotary)
    }
}

/// Names of a part of a layer, in GGUF files and in `transformers` checkpoints.
type Names = (&'static str, &'static str);

/// The names of the input norms of linear layers in models with a norm before every
/// projection (bitnet-embedding), by the layer's GGUF name.
const PROJECTION_NORMS: [(&str, Names); 7] = [
    ("attn_q", ("attn_q_norm_in", "self_attn.q_proj.norm")),
    ("attn_k", ("attn_k_norm_in", "self_attn.k_proj.norm")),
    ("attn_v", ("attn_v_norm_in", "self_attn.v_proj.norm")),
    (
        "attn_output",
        ("attn_output_norm_in", "self_attn.o_proj.norm"),
    ),
    ("ffn_gate", ("ffn_gate_norm_in", "mlp.gate_proj.norm")),
    ("ffn_up", ("ffn_up_norm_in", "mlp.up_proj.norm")),
    ("ffn_down", ("ffn_down_norm_in", "mlp.down_proj.norm")),
];

/// A tensor that only models with projection norms have.
pub(crate) const A_PROJECTION_NORM: Names = (
    "blk.0.attn_q_norm_in.weight",
    "layers.0.self_attn.q_proj.norm.weight",
);

/// Sub-norms: the norms before the output and down projections.
const SUB_NORMS: [(&str, Names); 2] = [
    ("attn_output", ("attn_sub_norm", "self_attn.attn_sub_norm")),
    ("ffn_down", ("ffn_sub_norm", "mlp.ffn_sub_norm")),
];

/// Returns the name of the output matrix.
pub(crate) fn output(config: &Config) -> &'static str {
    if config.tied_embeddings {
        TOKEN_EMBD
    } else {
        OUTPUT
    }
}

/// Returns the name of a tensor of layer `layer`.
pub(crate) fn layer_tensor(layer: usize, part: &str) -> String {
    format!("blk.{layer}.{part}.weight")
}

/// Returns the names of the input norm of a linear layer, if it has one.
fn input_norm(config: &Config, linear: &str) -> Option<Names> {
    let norms: &[_] = if config.projection_norms {
        &PROJECTION_NORMS
    } else if config.family.sub_norms {
        &SUB_NORMS
    } else {
        &[]
    };
    let norm = norms.iter().find(|(name, _)| *name == linear);
    norm.map(|(_, names)| *names)
}

/// Returns whether a tensor is the input norm of a projection.
pub(crate) fn is_projection_norm(name: &str) -> bool {
    name.ends_with("_norm_in.weight")
}

/// Returns the GGUF name of the input norm of a linear layer, if it has one.
pub(crate) fn input_norm_tensor(config: &Config, layer: usize, linear: &str) -> Option<String> {
    input_norm(config, linear).map(|(norm, _)| layer_tensor(layer, norm))
}

/// Returns every tensor of a model, in file order.
pub(crate) fn expected(config: &Config) -> Vec<Expected> {
    use Role::{Linear, Norm, Rotary};

    let (hidden, ffn) = (config.hidden_dim, config.ffn_dim);
    let (q, kv, head_dim) = (config.q_dim(), config.kv_dim(), config.head_dim);
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
        let hf = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let mut add = |names: Names, role, n_rows, n_cols| {
            let norm = input_norm(config, names.0).map(|norm| (norm, Role::Norm, 1));
            let tensor = (names, role, n_rows);
            for ((name, hf_name), role, n_rows) in norm.into_iter().chain([tensor]) {
                tensors.push(Expected {
                    name: layer_tensor(layer, name),
                    hf_name: hf(hf_name),
                    // The names of 1bitLLM.
                    hf_alias: match name {
                        "attn_sub_norm" => Some(hf("self_attn.inner_attn_ln")),
                        "ffn_sub_norm" => Some(hf("mlp.ffn_layernorm")),
                        _ => None,
                    },
                    role,
                    n_rows,
                    n_cols,
                });
            }
        };
        add(("attn_norm", "input_layernorm"), Norm, 1, hidden);
        add(("attn_q", "self_attn.q_proj"), Rotary, q, hidden);
        add(("attn_k", "self_attn.k_proj"), Rotary, kv, hidden);
        add(("attn_v", "self_attn.v_proj"), Linear, kv, hidden);
        if config.family.qk_norms {
            add(("attn_q_norm", "self_attn.q_norm"), Norm, 1, head_dim);
            add(("attn_k_norm", "self_attn.k_norm"), Norm, 1, head_dim);
        }
        add(("attn_output", "self_attn.o_proj"), Linear, hidden, q);
        if config.family.post_norms {
            let norm = ("post_attention_norm", "post_attention_layernorm");
            add(norm, Norm, 1, hidden);
            add(("ffn_norm", "pre_feedforward_layernorm"), Norm, 1, hidden);
        } else {
            add(("ffn_norm", "post_attention_layernorm"), Norm, 1, hidden);
        }
        add(("ffn_gate", "mlp.gate_proj"), Linear, ffn, hidden);
        add(("ffn_up", "mlp.up_proj"), Linear, ffn, hidden);
        add(("ffn_down", "mlp.down_proj"), Linear, hidden, ffn);
        if config.family.post_norms {
            add(
                ("post_ffw_norm", "post_feedforward_layernorm"),
                Norm,
                1,
                hidden,
            );
        }
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
