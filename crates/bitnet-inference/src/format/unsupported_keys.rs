//! Unsupported keys that change the computation.
//!
//! A model with such a key is rejected with the key's name unless its value is neutral:
//! ignoring it would give plausible but wrong text. Keys that a family supports are in
//! [`UNDERSTOOD`].

use serde_json::{Map, Value as Json};

use super::checkpoint::CheckpointError;
use super::gguf::{Array, Gguf, Value};
use crate::note::{self, Note};
use crate::spec::config::Config;

/// Keys of the tables below that are supported for a family: the family, and the key
/// without `{architecture}.` in GGUF files, or as in `config.json`.
const UNDERSTOOD: &[(&str, &[&str])] = &[
    (
        "minicpm",
        &[
            "embedding_scale",
            "residual_scale",
            "logit_scale",
            "scale_emb",
            "scale_depth",
            "dim_model_base",
        ],
    ),
    (
        "gemma3",
        &[
            "attention.sliding_window",
            "attention.sliding_window_pattern",
            "rope.freq_base_swa",
            "sliding_window",
            "layer_types",
            "query_pre_attn_scalar",
        ],
    ),
];

/// Values with which a key has no effect.
#[derive(Clone, Copy, Debug)]
enum Neutral {
    /// 0 or false.
    Zero,
    /// 1 or true, or 0 meaning "none".
    One,
    /// 1 / sqrt(`head_dim`), the default of attention; or 0.
    AttentionScale,
    /// A window not smaller than the context; or 0.
    Context,
    /// `head_dim`, where attention is scaled by 1 / sqrt of it; or 0.
    HeadDim,
    /// Whether the family normalizes the heads of queries and keys.
    QkNorms,
    /// 1 or true only.
    True,
}

/// Keys of GGUF files, without the architecture's prefix.
const GGUF_KEYS: &[(&str, Neutral)] = &[
    ("attention.causal", Neutral::True),
    ("attention.clamp_kqv", Neutral::Zero),
    ("attention.kv_lora_rank", Neutral::Zero),
    ("attention.max_alibi_bias", Neutral::Zero),
    ("attention.output_scale", Neutral::One),
    ("attention.q_lora_rank", Neutral::Zero),
    ("attention.relative_buckets_count", Neutral::Zero),
    ("attention.scale", Neutral::AttentionScale),
    ("attention.sliding_window", Neutral::Context),
    ("attention.temperature_length", Neutral::Zero),
    ("attention.temperature_scale", Neutral::Zero),
    ("attn_logit_softcapping", Neutral::Zero),
    ("embedding_scale", Neutral::One),
    ("expert_count", Neutral::Zero),
    ("expert_used_count", Neutral::Zero),
    ("final_logit_softcapping", Neutral::Zero),
    ("leading_dense_block_count", Neutral::Zero),
    ("logit_scale", Neutral::One),
    ("nextn_predict_layers", Neutral::Zero),
    ("residual_scale", Neutral::One),
    ("rope.dimension_sections", Neutral::Zero),
    ("rope.scaling.alpha", Neutral::One),
    ("rope.scaling.yarn_attn_factor", Neutral::One),
    ("rope.scaling.yarn_ext_factor", Neutral::One),
    ("rope.scaling.yarn_log_multiplier", Neutral::Zero),
    ("swin_norm", Neutral::Zero),
    ("use_parallel_residual", Neutral::Zero),
];

/// Key prefixes of other kinds of layers, without the architecture's prefix.
const GGUF_GROUPS: &[&str] = &[
    "altup.",
    "attention.indexer.",
    "convnext.",
    "posnet.",
    "shortconv.",
    "ssm.",
    "wkv.",
    "xielu.",
];

/// Keys that are supported or have no effect, without the architecture's prefix.
const GGUF_KNOWN: &[&str] = &[
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "hidden_activation",
    "pooling_type",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "tensor_data_layout",
    "vocab_size",
];

/// Keys of `config.json`.
const HF_KEYS: &[(&str, Neutral)] = &[
    ("alibi", Neutral::Zero),
    ("attention_bias", Neutral::Zero),
    ("attention_multiplier", Neutral::AttentionScale),
    ("attn_logit_softcapping", Neutral::Zero),
    ("attn_temperature_tuning", Neutral::Zero),
    ("clip_qkv", Neutral::Zero),
    ("dim_model_base", Neutral::Zero),
    ("embedding_multiplier", Neutral::One),
    ("final_logit_softcapping", Neutral::Zero),
    ("is_causal", Neutral::True),
    ("logit_scale", Neutral::One),
    ("logits_scaling", Neutral::One),
    ("mlp_bias", Neutral::Zero),
    ("num_experts", Neutral::Zero),
    ("num_local_experts", Neutral::Zero),
    ("parallel_attn", Neutral::Zero),
    ("qk_layernorm", Neutral::QkNorms),
    ("query_pre_attn_scalar", Neutral::HeadDim),
    ("residual_multiplier", Neutral::One),
    ("scale_depth", Neutral::Zero),
    ("scale_emb", Neutral::One),
    ("use_bias", Neutral::Zero),
    ("use_bidirectional_attention", Neutral::Zero),
    ("use_parallel_residual", Neutral::Zero),
    ("use_qk_norm", Neutral::QkNorms),
];

/// Parts of keys, in any namespace, that indicate rotated weights.
const TURNED: [&str; 3] = ["hadamard", "quarot", "spinquant"];

impl Neutral {
    /// Returns whether this value has no effect.
    fn holds(self, value: f64, config: &Config) -> bool {
        match self {
            Self::Zero => value == 0.0,
            Self::One => value == 1.0 || value == 0.0,
            Self::True => value == 1.0,
            Self::AttentionScale => {
                let usual = 1.0 / (config.head_dim as f64).sqrt();
                value == 0.0 || (value / usual - 1.0).abs() < 1e-5
            }
            Self::HeadDim => value == 0.0 || value == config.head_dim as f64,
            Self::QkNorms => value == f64::from(u8::from(config.family.qk_norms)),
            Self::Context => value == 0.0 || value >= config.context_len as f64,
        }
    }
}

fn is_understood(config: &Config, key: &str) -> bool {
    let mut families = UNDERSTOOD.iter();
    families.any(|(family, keys)| *family == config.family.name && keys.contains(&key))
}

fn refused(key: &str, value: &impl ToString) -> CheckpointError {
    CheckpointError::NotUnderstood {
        key: key.to_owned(),
        value: value.to_string(),
    }
}

/// Checks the metadata of a GGUF file and returns notes on unknown keys.
pub(crate) fn check_gguf(gguf: &Gguf, config: &Config) -> Result<Vec<Note>, CheckpointError> {
    let architecture = gguf.string("general.architecture")?.unwrap_or_default();
    let mut notes = Vec::new();
    for (key, value) in gguf.metadata() {
        let in_architecture = key
            .strip_prefix(architecture)
            .and_then(|key| key.strip_prefix('.'));
        let is_turned = is_turned(key) && !numbers(value).iter().all(|x| *x == 0.0);
        let Some(part) = in_architecture else {
            if is_turned {
                return Err(refused(key, &describe(value)));
            }
            continue;
        };
        if GGUF_KNOWN.contains(&part) || is_understood(config, part) {
            continue;
        }
        let neutral = GGUF_KEYS.iter().find(|(known, _)| *known == part);
        let is_refused = match neutral {
            Some((_, neutral)) => !numbers(value).iter().all(|x| neutral.holds(*x, config)),
            None => is_turned || GGUF_GROUPS.iter().any(|group| part.starts_with(group)),
        };
        if is_refused {
            return Err(refused(key, &describe(value)));
        }
        // The pattern of a window that has no effect.
        if neutral.is_none() && !part.starts_with("attention.sliding_window") {
            let key = key.to_owned();
            note::add(&mut notes, Note::UnknownKey { key });
        }
    }
    let attn_factor = format!("{architecture}.rope.scaling.attn_factor");
    match gguf.float(&attn_factor)? {
        // For YaRN and LongRoPE it is read with their other parameters.
        Some(factor)
            if factor != 1.0 && !["yarn", "longrope"].contains(&config.rope.scaling.name()) =>
        {
            Err(refused(&attn_factor, &factor))
        }
        _ => Ok(notes),
    }
}

fn is_turned(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    TURNED.iter().any(|part| key.contains(part))
}

/// Returns the numbers of a value: booleans are 0 and 1, strings are not numbers.
fn numbers(value: &Value) -> Vec<f64> {
    let float = |x: &f32| f64::from(*x);
    let truth = |x: &bool| f64::from(u8::from(*x));
    match value {
        Value::Bool(x) => vec![truth(x)],
        Value::F32(x) => vec![float(x)],
        Value::F64(x) => vec![*x],
        Value::Array(Array::Bool(items)) => items.iter().map(truth).collect(),
        Value::Array(Array::F32(items)) => items.iter().map(float).collect(),
        Value::Array(Array::F64(items)) => items.clone(),
        Value::Array(array) => match array.to_integers() {
            Some(items) => items.into_iter().map(|x| x as f64).collect(),
            None => vec![f64::NAN],
        },
        Value::String(_) => vec![f64::NAN],
        Value::I8(x) => vec![f64::from(*x)],
        Value::I16(x) => vec![f64::from(*x)],
        Value::I32(x) => vec![f64::from(*x)],
        Value::I64(x) => vec![*x as f64],
        _ => vec![value.to_unsigned().map_or(f64::NAN, |x| x as f64)],
    }
}

fn describe(value: &Value) -> String {
    match (value, &numbers(value)[..]) {
        (Value::Bool(x), _) => x.to_string(),
        (Value::String(text), _) => format!("{text:?}"),
        (Value::Array(_), _) => value.type_name(),
        (_, [x]) => x.to_string(),
        _ => value.type_name(),
    }
}

/// Checks `config.json`.
pub(crate) fn check_hf(json: &Map<String, Json>, config: &Config) -> Result<(), CheckpointError> {
    for (key, neutral) in HF_KEYS {
        if is_understood(config, key) {
            continue;
        }
        match json.get(*key) {
            None | Some(Json::Null) => {}
            Some(value) => {
                let number = match value {
                    Json::Bool(x) => f64::from(u8::from(*x)),
                    _ => value.as_f64().unwrap_or(f64::NAN),
                };
                if !neutral.holds(number, config) {
                    return Err(refused(key, value));
                }
            }
        }
    }
    for (key, value) in json {
        let is_off = matches!(value, Json::Null | Json::Bool(false)) || value.as_f64() == Some(0.0);
        if is_turned(key) && !is_off {
            return Err(refused(key, value));
        }
    }
    // A window applies if enabled by a switch or by the type of a layer.
    let window = json.get("sliding_window").and_then(Json::as_f64);
    let is_limit = window.is_some_and(|window| !Neutral::Context.holds(window, config));
    let is_used = json.get("use_sliding_window").and_then(Json::as_bool) == Some(true);
    if is_limit && is_used && !is_understood(config, "sliding_window") {
        return Err(refused("sliding_window", &json["sliding_window"]));
    }
    if let Some(Json::Array(types)) = json.get("layer_types")
        && !is_understood(config, "layer_types")
        && let Some(other) = types.iter().find(|ty| {
            let is_window = *ty == "sliding_attention" && !is_limit;
            *ty != "full_attention" && *ty != "attention" && !is_window
        })
    {
        return Err(refused("layer_types", other));
    }
    for part in ["rope_scaling", "rope_parameters"] {
        let Some(Json::Object(rope)) = json.get(part) else {
            continue;
        };
        for (key, neutral) in [
            ("mscale", Neutral::One),
            ("mscale_all_dim", Neutral::One),
            ("truncate", Neutral::True),
        ] {
            let value = rope.get(key).filter(|value| !value.is_null());
            let number = value.map(|value| match value {
                Json::Bool(x) => f64::from(u8::from(*x)),
                _ => value.as_f64().unwrap_or(f64::NAN),
            });
            if number.is_some_and(|number| !neutral.holds(number, config)) {
                return Err(refused(&format!("{part}.{key}"), &rope[key]));
            }
        }
    }
    Ok(())
}
