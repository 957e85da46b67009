//! HuggingFace folders as checkpoints: `config.json`, and tensors in one
//! `model.safetensors` or in shards with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bitnet_quant::{DenseType, TernaryType};
use half::bf16;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};

use super::checkpoint::{Checkpoint, CheckpointError, Origin};
use super::mapping::FileBytes;
use super::tensor::{Encoding, StoredTensor};
use super::{lax_json, unsupported_keys};
use crate::note::{self, Note};
use crate::spec::config::{Activation, ActivationPrecision, Config, Pooling, RotaryRows};
use crate::spec::family::Family;
use crate::spec::multipliers::{HfMultipliers, Multipliers, Sizes};
use crate::spec::rope::{Rope, RopeScaling};
use crate::spec::sliding::SlidingWindow;
use crate::spec::tensors::{self, Expected, Role};

const CONFIG: &str = "config.json";
const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
/// The output matrix, if not tied.
const HEAD: &str = "lm_head.weight";
/// The embedding, with and without a head.
const EMBEDDINGS: [&str; 2] = ["model.embed_tokens.weight", "embed_tokens.weight"];

/// The relevant part of `config.json`.
#[derive(Debug, Deserialize)]
struct HfConfig {
    model_type: String,
    architectures: Option<Vec<String>>,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    intermediate_size: usize,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f32>,
    rope_theta: Option<f32>,
    /// Newer files have the base here.
    rope_parameters: Option<RopeParameters>,
    rope_scaling: Option<RopeParameters>,
    partial_rotary_factor: Option<f32>,
    hidden_act: Option<String>,
    /// Gemma's name for `hidden_act`.
    hidden_activation: Option<String>,
    tie_word_embeddings: Option<bool>,
    quantization_config: Option<QuantizationConfig>,
    /// Whether linear layers are BitLinear, packed or not.
    is_bitnet_config: Option<bool>,
    /// Of MiniCPM.
    scale_emb: Option<f64>,
    scale_depth: Option<f64>,
    dim_model_base: Option<f64>,
    query_pre_attn_scalar: Option<f32>,
    /// Of Gemma.
    sliding_window: Option<usize>,
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
    rope_local_base_freq: Option<f32>,
    use_bidirectional_attention: Option<bool>,
    attn_logit_softcapping: Option<f32>,
    final_logit_softcapping: Option<f32>,
}

#[derive(Debug, Deserialize)]
struct RopeParameters {
    rope_theta: Option<f32>,
    rope_type: Option<String>,
    /// The older name of `rope_type`; some files have both.
    #[serde(rename = "type")]
    old_rope_type: Option<String>,
    partial_rotary_factor: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<usize>,
    beta_fast: Option<f32>,
    beta_slow: Option<f32>,
    attention_factor: Option<f32>,
    short_factor: Option<Vec<f32>>,
    long_factor: Option<Vec<f32>>,
    /// Parameters per layer type, if they differ.
    full_attention: Option<Box<RopeParameters>>,
    sliding_attention: Option<Box<RopeParameters>>,
}

#[derive(Debug, Deserialize)]
struct QuantizationConfig {
    quant_method: String,
    /// The default of `transformers` is `bitlinear`.
    linear_class: Option<String>,
    quantization_mode: Option<String>,
    #[serde(default)]
    modules_to_not_convert: Option<Vec<String>>,
}

/// The relevant part of `model.safetensors.index.json`.
#[derive(Debug, Deserialize)]
struct Index {
    /// Tensor name to file name.
    weight_map: BTreeMap<String, String>,
}

/// The storage of linear layers' weights.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Weights {
    /// Packed trits; outputs are multiplied by `weight_scale` (`autobitlinear`).
    Direct,
    /// Packed trits; outputs are divided by `weight_scale` (`bitlinear`).
    Inverse,
    /// Dense weights.
    Dense,
    /// Master weights (`online`), except for dense modules.
    Masters { unconverted: Vec<String> },
}

/// Reads a HuggingFace folder.
pub(crate) fn open(folder: &Path) -> Result<Checkpoint, CheckpointError> {
    let mut notes = Vec::new();
    let shards = shards(folder, &mut notes)?;
    let hf: HfConfig = read_json_noting(folder, CONFIG, &mut notes)?;
    let json: Map<String, Json> = read_json(folder, CONFIG)?;
    let files = (shards.iter())
        .map(|shard| read_file(folder, shard))
        .collect::<Result<Vec<_>, _>>()?;
    let mut parsed = Vec::new();
    for (shard, file) in shards.iter().zip(&files) {
        let tensors =
            SafeTensors::deserialize(file).map_err(|source| CheckpointError::SafeTensors {
                file: shard.clone(),
                source,
            })?;
        parsed.push((file, tensors));
    }
    let found = Found::of(&parsed);
    let config = config(&hf, found, &mut notes)?;
    let is_packed = |(_, tensors): &(_, SafeTensors<'_>)| {
        tensors.iter().any(|(_, view)| view.dtype() == Dtype::U8)
    };
    let is_packed = parsed.iter().any(is_packed);
    let is_quantized = hf.quantization_config.is_some()
        || is_packed
        || hf.is_bitnet_config == Some(true)
        || found.projection_norms;
    let weights = if config.family.always_ternary || is_quantized {
        weights(&hf, is_packed)?
    } else {
        Weights::Dense
    };
    config.validate()?;
    unsupported_keys::check_hf(&json, &config)?;
    let names = tensor_names(&config);
    let gguf_name = |name: &str| match names.get(name) {
        Some(expected) => expected.name.clone(),
        None => name.to_owned(),
    };

    let mut stored = BTreeMap::new();
    let mut scales = BTreeMap::new();
    for (file_idx, (file, tensors)) in parsed.iter().enumerate() {
        for (name, view) in tensors.iter() {
            if let Some(part) = name.strip_suffix("weight_scale") {
                let scale = scalar(name, view.dtype(), view.data())?;
                if scales.insert(format!("{part}weight"), scale).is_some() {
                    return Err(CheckpointError::DuplicateTensor {
                        name: name.to_owned(),
                    });
                }
                continue;
            }
            if config.tied_embeddings && name == HEAD {
                // Some exporters write a copy of the embedding.
                continue;
            }
            // Empty tensors and buffers, of any type.
            if !names.contains_key(name) && (view.data().is_empty() || tensors::is_buffer(name)) {
                let (name, count) = (name.to_owned(), 1);
                note::add(&mut notes, Note::IgnoredTensors { name, count });
                continue;
            }
            let start = view.data().as_ptr() as usize - file.as_ptr() as usize;
            let mut tensor = StoredTensor {
                range: start..start + view.data().len(),
                file_idx,
                ..stored_tensor(name, view.dtype(), view.shape())?
            };
            let is_linear = names
                .get(name)
                .is_some_and(|expected| matches!(expected.role, Role::Linear | Role::Rotary));
            if let (Weights::Masters { unconverted }, Encoding::Dense(ty)) =
                (&weights, tensor.encoding)
                && is_linear
                && !unconverted.iter().any(|module| is_part(name, module))
            {
                tensor.encoding = Encoding::Masters(ty);
            }
            if stored.insert(gguf_name(name), tensor).is_some() {
                return Err(CheckpointError::DuplicateTensor {
                    name: name.to_owned(),
                });
            }
        }
    }
    drop(parsed);
    for (name, scale) in scales {
        let Some(tensor) = stored.get_mut(&gguf_name(&name)) else {
            return Err(CheckpointError::MissingTensor { name });
        };
        attach_scale(tensor, name, scale, &weights, config.family)?;
    }
    stored.values().try_for_each(check_scale)?;
    let origin = Origin::HuggingFace(folder.to_owned());
    let mut checkpoint = Checkpoint::assemble(config, stored, files, RotaryRows::Halves, origin)?;
    checkpoint.add_notes(notes);
    Ok(checkpoint)
}

/// Returns an error if a packed tensor has no scale.
fn check_scale(tensor: &StoredTensor) -> Result<(), CheckpointError> {
    let is_packed = tensor.encoding == Encoding::Ternary(TernaryType::HfPacked);
    if is_packed && tensor.outer_scale.is_none() {
        return Err(CheckpointError::MissingTensor {
            name: format!("{}_scale", tensor.name),
        });
    }
    Ok(())
}

/// Returns the expected tensors by all their possible names.
fn tensor_names(config: &Config) -> BTreeMap<String, Expected> {
    let mut names = BTreeMap::new();
    for expected in tensors::expected(config) {
        for hf_name in std::iter::once(&expected.hf_name).chain(&expected.hf_alias) {
            // Models without a head have names without the `model.` prefix.
            if let Some(bare) = hf_name.strip_prefix("model.") {
                names.insert(bare.to_owned(), expected.clone());
            }
            names.insert(hf_name.clone(), expected.clone());
        }
    }
    names
}

/// Sets a tensor's scale to the value of its `weight_scale`.
fn attach_scale(
    tensor: &mut StoredTensor,
    name: String,
    scale: f32,
    weights: &Weights,
    family: &Family,
) -> Result<(), CheckpointError> {
    if tensor.encoding != Encoding::Ternary(TernaryType::HfPacked) {
        return Err(CheckpointError::UnexpectedTensor {
            name: format!("{name}_scale"),
            family: family.name,
        });
    }
    let scale = match weights {
        Weights::Inverse => 1.0 / scale,
        Weights::Direct | Weights::Dense | Weights::Masters { .. } => scale,
    };
    if !scale.is_finite() {
        return Err(CheckpointError::Scale { name, scale });
    }
    tensor.outer_scale = Some(scale);
    Ok(())
}

/// Returns the names of the files with tensors.
fn shards(folder: &Path, notes: &mut Vec<Note>) -> Result<Vec<String>, CheckpointError> {
    let is_file = |name: &str| folder.join(name).is_file();
    if !is_file(CONFIG) {
        return Err(CheckpointError::NotAModel {
            found: "a folder without config.json",
        });
    }
    if is_file(INDEX) {
        let index: Index = read_json(folder, INDEX)?;
        let mut names: BTreeSet<_> = index.weight_map.into_values().collect();
        // Shards must be in the same folder as the index.
        let outside = |name: &&String| Path::new(name).file_name() != Some(name.as_ref());
        if let Some(name) = names.iter().find(outside) {
            return Err(CheckpointError::Unsupported {
                what: "shard",
                found: name.clone(),
                expected: "a file name without a folder",
            });
        }
        // `transformers` prefers the single file.
        if is_file(SINGLE)
            && let Some(missing) = names.iter().find(|name| !is_file(name))
        {
            let shard = missing.clone();
            note::add(notes, Note::IndexWithoutShards { shard });
            names = BTreeSet::from([SINGLE.to_owned()]);
        }
        return Ok(names.into_iter().collect());
    }
    if is_file(SINGLE) {
        return Ok(vec![SINGLE.to_owned()]);
    }
    Err(CheckpointError::NotAModel {
        found: "a folder without model.safetensors",
    })
}

/// Properties of the model that are derived from its tensors.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// Whether there is an output matrix.
    has_head: bool,
    /// Whether every projection has an input norm.
    projection_norms: bool,
    /// Rows of the embedding.
    n_embeddings: Option<usize>,
}

impl Found {
    fn of(parsed: &[(&FileBytes, SafeTensors<'_>)]) -> Self {
        let all = || parsed.iter().map(|(_, tensors)| tensors);
        let embedding = |tensors: &SafeTensors<'_>| {
            let mut found = EMBEDDINGS
                .iter()
                .filter_map(|name| tensors.tensor(name).ok());
            found.next()?.shape().first().copied()
        };
        Self {
            has_head: all().any(|tensors| tensors.tensor(HEAD).is_ok()),
            projection_norms: all().any(|tensors| {
                let mut names = tensors.iter().map(|(name, _)| name);
                names.any(|name| name.ends_with(tensors::A_PROJECTION_NORM.1))
            }),
            n_embeddings: all().find_map(embedding),
        }
    }
}

/// Defaults of the classes of `transformers` for keys missing in `config.json`:
/// `LlamaConfig`, `Qwen3Config`, `Gemma3TextConfig` and `BitNetConfig` of version 5, and
/// MiniCPM's own, which equals LLaMA's.
struct Defaults {
    hidden_act: &'static str,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    rope_theta: f32,
    /// `None`: the hidden size divided by the number of heads.
    head_dim: Option<usize>,
}

impl Defaults {
    fn of(model_type: &str) -> Self {
        let llama = Self {
            hidden_act: "silu",
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            head_dim: None,
        };
        match model_type {
            "bitnet" => Self {
                hidden_act: "relu2",
                rms_norm_eps: 1e-5,
                rope_theta: 500_000.0,
                ..llama
            },
            "qwen3" => Self {
                max_position_embeddings: 32_768,
                head_dim: Some(128),
                ..llama
            },
            "gemma3_text" => Self {
                hidden_act: "gelu_pytorch_tanh",
                max_position_embeddings: 131_072,
                rope_theta: 1_000_000.0,
                head_dim: Some(256),
                ..llama
            },
            _ => llama,
        }
    }
}

/// Returns the value of a key, or its default with a note that it is missing.
fn or_default<T: Copy + ToString>(
    value: Option<T>,
    key: &str,
    default: T,
    notes: &mut Vec<Note>,
) -> T {
    value.unwrap_or_else(|| {
        let (key, taken) = (key.to_owned(), default.to_string());
        note::add(notes, Note::MissingKey { key, taken });
        default
    })
}

/// Reads the configuration.
fn config(hf: &HfConfig, found: Found, notes: &mut Vec<Note>) -> Result<Config, CheckpointError> {
    let Found {
        has_head,
        projection_norms,
        n_embeddings,
    } = found;
    let defaults = Defaults::of(&hf.model_type);
    let hidden_act = (hf.hidden_activation.as_deref()).or(hf.hidden_act.as_deref());
    let hidden_act = match hidden_act {
        Some(hidden_act) => hidden_act,
        None => or_default(None, "hidden_act", defaults.hidden_act, notes),
    };
    let activation =
        Activation::from_name(hidden_act).ok_or_else(|| CheckpointError::Unsupported {
            what: "activation",
            found: hidden_act.to_owned(),
            expected: Activation::EXPECTED,
        })?;
    let architectures = hf.architectures.as_deref().unwrap_or_default();
    let family = Family::from_hf(&hf.model_type, architectures, activation);
    let family = family.ok_or_else(|| CheckpointError::Architecture {
        found: hf.model_type.clone(),
    })?;
    let head_dim = match (hf.head_dim, defaults.head_dim) {
        (Some(head_dim), _) => head_dim,
        (None, Some(default)) => or_default(None, "head_dim", default, notes),
        (None, None) => hf
            .hidden_size
            .checked_div(hf.num_attention_heads)
            .unwrap_or(0),
    };
    let vocab_size = match (hf.vocab_size, n_embeddings) {
        (None, Some(rows)) => or_default(None, "vocab_size", rows, notes),
        (None, None) => {
            return Err(CheckpointError::MissingKey {
                key: "vocab_size".to_owned(),
            });
        }
        (Some(vocab_size), _) => vocab_size,
    };
    let (key, default) = ("max_position_embeddings", defaults.max_position_embeddings);
    let context_len = or_default(hf.max_position_embeddings, key, default, notes);
    let context_len = Config::context_len_within_limits(context_len, notes);
    let (key, default) = ("rms_norm_eps", defaults.rms_norm_eps);
    let rms_norm_eps = or_default(hf.rms_norm_eps, key, default, notes);
    let rope = if family.sliding_window {
        global_rope(hf, head_dim, context_len, notes)?
    } else {
        rope(hf, head_dim, context_len, notes)?
    };
    let sizes = Sizes {
        hidden_dim: hf.hidden_size,
        n_layers: hf.num_hidden_layers,
        n_heads: hf.num_attention_heads,
        head_dim,
    };
    let multipliers = HfMultipliers {
        scale_emb: hf.scale_emb,
        scale_depth: hf.scale_depth,
        dim_model_base: hf.dim_model_base,
        query_pre_attn_scalar: hf.query_pre_attn_scalar,
    };
    let multipliers = Multipliers::from_hf(family.multipliers, sizes, &multipliers);
    let sliding = if family.sliding_window {
        sliding_window(hf, head_dim, context_len, notes)?
    } else {
        None
    };
    Ok(Config {
        family,
        hidden_dim: hf.hidden_size,
        n_layers: hf.num_hidden_layers,
        n_heads: hf.num_attention_heads,
        n_kv_heads: hf.num_key_value_heads.unwrap_or(hf.num_attention_heads),
        head_dim,
        ffn_dim: hf.intermediate_size,
        vocab_size,
        context_len,
        rms_norm_eps,
        rope,
        activation,
        multipliers: multipliers.map_err(|key| CheckpointError::MissingKey {
            key: key.to_owned(),
        })?,
        sliding,
        tied_embeddings: hf
            .tie_word_embeddings
            .unwrap_or(family.tied_embeddings && !has_head),
        projection_norms,
        dense_linears: false,
        activations: if hf.quantization_config.is_some()
            || hf.is_bitnet_config == Some(true)
            || family.always_ternary
            || projection_norms
        {
            ActivationPrecision::Int8
        } else {
            ActivationPrecision::Exact
        },
        pooling: projection_norms.then_some(Pooling::Last),
    })
}

/// Reads the sliding window of a Gemma 3.
fn sliding_window(
    hf: &HfConfig,
    head_dim: usize,
    context_len: usize,
    notes: &mut Vec<Note>,
) -> Result<Option<SlidingWindow>, CheckpointError> {
    let unsupported = |what, found: String, expected| CheckpointError::Unsupported {
        what,
        found,
        expected,
    };
    if hf.use_bidirectional_attention == Some(true) {
        return Err(unsupported(
            "use_bidirectional_attention",
            "true".to_owned(),
            "false: attention to what came before",
        ));
    }
    let softcaps = [hf.attn_logit_softcapping, hf.final_logit_softcapping];
    if let Some(cap) = softcaps.into_iter().flatten().next() {
        return Err(unsupported("soft-capping", cap.to_string(), "none"));
    }
    let window = or_default(hf.sliding_window, "sliding_window", GEMMA3_WINDOW, notes);
    let layers: Vec<bool> = if let Some(types) = &hf.layer_types {
        (types.iter())
            .map(|ty| match ty.as_str() {
                "sliding_attention" => Ok(true),
                "full_attention" => Ok(false),
                _ => Err(unsupported(
                    "layer type",
                    ty.clone(),
                    "sliding_attention or full_attention",
                )),
            })
            .collect::<Result<_, _>>()?
    } else {
        let period = hf.sliding_window_pattern;
        let period = period.unwrap_or(SlidingWindow::GEMMA3_PERIOD);
        // `Config::validate` rejects larger values.
        SlidingWindow::every(period, hf.num_hidden_layers.min(1 << 12))
    };
    if !layers.contains(&true) {
        return Ok(None);
    }
    let nested = (hf.rope_parameters.as_ref()).and_then(|p| p.sliding_attention.as_deref());
    let theta = nested
        .and_then(|p| p.rope_theta)
        .or(hf.rope_local_base_freq);
    let scaling = match nested.and_then(scaling_type) {
        Some(found) => rope_scaling(found, nested.expect("it has the type"), context_len)?,
        None => RopeScaling::None,
    };
    Ok(Some(SlidingWindow {
        window,
        rope: Rope {
            theta: theta.unwrap_or(SlidingWindow::GEMMA3_THETA),
            n_dims: head_dim,
            scaling,
        },
        layers,
    }))
}

/// Reads the rotary position embedding of a Gemma 3's layers with full attention.
fn global_rope(
    hf: &HfConfig,
    head_dim: usize,
    context_len: usize,
    notes: &mut Vec<Note>,
) -> Result<Rope, CheckpointError> {
    let nested = (hf.rope_parameters.as_ref()).and_then(|p| p.full_attention.as_deref());
    let Some(nested) = nested else {
        return rope(hf, head_dim, context_len, notes);
    };
    let default = Defaults::of(&hf.model_type).rope_theta;
    Ok(Rope {
        theta: or_default(nested.rope_theta, "rope_theta", default, notes),
        n_dims: head_dim,
        scaling: match scaling_type(nested) {
            Some(found) => rope_scaling(found, nested, context_len)?,
            None => RopeScaling::None,
        },
    })
}

/// The default sliding window of a Gemma 3 in positions.
const GEMMA3_WINDOW: usize = 4096;

/// Returns the type of a scaling that has an effect.
fn scaling_type(parameters: &RopeParameters) -> Option<&str> {
    let types = [&parameters.rope_type, &parameters.old_rope_type];
    let mut types = types.into_iter().flatten().map(String::as_str);
    types.find(|ty| *ty != "default")
}

/// Reads the rotary position embedding, in the format of any version of `transformers`.
fn rope(
    hf: &HfConfig,
    head_dim: usize,
    context_len: usize,
    notes: &mut Vec<Note>,
) -> Result<Rope, CheckpointError> {
    let places = [&hf.rope_parameters, &hf.rope_scaling];
    let places = || places.into_iter().flatten();
    let theta = hf
        .rope_theta
        .or_else(|| places().find_map(|p| p.rope_theta));
    let partial = hf.partial_rotary_factor;
    let partial = partial.or_else(|| places().find_map(|p| p.partial_rotary_factor));
    let partial = partial.unwrap_or(1.0);
    let mut scaling = RopeScaling::None;
    for parameters in places() {
        let is_scaling = hf
            .rope_scaling
            .as_ref()
            .is_some_and(|p| std::ptr::eq(p, parameters));
        let found = match scaling_type(parameters) {
            Some(found) => found,
            // Without a type, only the base is allowed.
            None if is_scaling
                && parameters.rope_type.is_none()
                && parameters.old_rope_type.is_none() =>
            {
                "without a type"
            }
            None => continue,
        };
        let original = parameters.original_max_position_embeddings;
        if found == "dynamic" && original.is_none_or(|original| original >= context_len) {
            // Frequencies change only beyond the configured context.
            note::add(notes, Note::DynamicRope { context_len });
            continue;
        }
        scaling = rope_scaling(found, parameters, context_len)?;
    }
    let default = Defaults::of(&hf.model_type).rope_theta;
    Ok(Rope {
        theta: or_default(theta, "rope_theta", default, notes),
        // As in `transformers`: rounded down.
        n_dims: (head_dim as f32 * partial) as usize,
        scaling,
    })
}

fn rope_scaling(
    found: &str,
    parameters: &RopeParameters,
    context_len: usize,
) -> Result<RopeScaling, CheckpointError> {
    let need = |value: Option<f32>, key: &str| {
        value.ok_or_else(|| CheckpointError::MissingKey {
            key: format!("rope_scaling.{key}"),
        })
    };
    let factor = || need(parameters.factor, "factor");
    let original = parameters.original_max_position_embeddings;
    let original_context_len = original.unwrap_or(context_len);
    match found {
        "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: factor()?,
            low_freq_factor: need(parameters.low_freq_factor, "low_freq_factor")?,
            high_freq_factor: need(parameters.high_freq_factor, "high_freq_factor")?,
            original_context_len,
        }),
        "yarn" => Ok(RopeScaling::Yarn {
            factor: factor()?,
            original_context_len,
            beta_fast: parameters.beta_fast.unwrap_or(32.0),
            beta_slow: parameters.beta_slow.unwrap_or(1.0),
            attention_factor: match parameters.attention_factor {
                Some(attention_factor) => attention_factor,
                None => RopeScaling::yarn_attention_factor(factor()?),
            },
        }),
        "longrope" => {
            let divisors = |values: &Option<Vec<f32>>, key: &str| {
                values.clone().ok_or_else(|| CheckpointError::MissingKey {
                    key: format!("rope_scaling.{key}"),
                })
            };
            let in_contexts = || context_len as f64 / original_context_len as f64;
            let factor = parameters.factor.map_or_else(in_contexts, f64::from);
            Ok(RopeScaling::LongRope {
                short: divisors(&parameters.short_factor, "short_factor")?,
                long: divisors(&parameters.long_factor, "long_factor")?,
                original_context_len,
                attention_factor: parameters.attention_factor.unwrap_or_else(|| {
                    RopeScaling::longrope_attention_factor(factor, original_context_len)
                }),
            })
        }
        _ => Err(CheckpointError::Unsupported {
            what: "RoPE scaling",
            found: found.to_owned(),
            expected: "default, linear, llama3, yarn, longrope or dynamic",
        }),
    }
}

/// Returns the storage of linear layers in this folder.
fn weights(hf: &HfConfig, is_packed: bool) -> Result<Weights, CheckpointError> {
    let Some(quantization) = &hf.quantization_config else {
        if !is_packed {
            // Published by 1bitLLM, Microsoft (embeddings) and TII (`prequantized`) as
            // master weights, which their own code quantizes.
            let unconverted = Vec::new();
            return Ok(Weights::Masters { unconverted });
        }
        return Err(CheckpointError::MissingKey {
            key: "quantization_config".to_owned(),
        });
    };
    let unsupported = |what, found: &str, expected| CheckpointError::Unsupported {
        what,
        found: found.to_owned(),
        expected,
    };
    if quantization.quant_method != "bitnet" {
        return Err(unsupported(
            "quantization method",
            &quantization.quant_method,
            "bitnet",
        ));
    }
    match quantization.quantization_mode.as_deref() {
        None | Some("offline") => {}
        Some("online") => {
            let unconverted = quantization.modules_to_not_convert.clone();
            return Ok(Weights::Masters {
                unconverted: unconverted.unwrap_or_default(),
            });
        }
        Some(mode) => {
            return Err(unsupported("quantization mode", mode, "offline or online"));
        }
    }
    match quantization.linear_class.as_deref() {
        Some("autobitlinear") => Ok(Weights::Direct),
        Some("bitlinear") | None => Ok(Weights::Inverse),
        Some(other) => Err(unsupported(
            "linear class",
            other,
            "autobitlinear or bitlinear",
        )),
    }
}

/// Returns whether a tensor belongs to a module, given by a part of its path.
fn is_part(tensor: &str, module: &str) -> bool {
    format!(".{tensor}").contains(&format!(".{module}."))
}

/// Returns a tensor without its location in the file.
fn stored_tensor(
    name: &str,
    dtype: Dtype,
    shape: &[usize],
) -> Result<StoredTensor, CheckpointError> {
    let encoding = match dtype {
        Dtype::F32 => Encoding::Dense(DenseType::F32),
        Dtype::F16 => Encoding::Dense(DenseType::F16),
        Dtype::BF16 => Encoding::Dense(DenseType::BF16),
        Dtype::U8 => Encoding::Ternary(TernaryType::HfPacked),
        other => {
            return Err(CheckpointError::UnknownType {
                name: name.to_owned(),
                found: format!("{other:?}"),
            });
        }
    };
    let (n_rows, n_cols) = match (encoding, shape) {
        (Encoding::Dense(_), &[n_cols]) => (1, n_cols),
        (Encoding::Dense(_), &[n_rows, n_cols]) => (n_rows, n_cols),
        // Four rows are packed in one; saturation is safe, since no file is that large.
        (Encoding::Ternary(_), &[n_rows, n_cols]) => (n_rows.saturating_mul(4), n_cols),
        _ => {
            return Err(CheckpointError::Unsupported {
                what: "a tensor of shape",
                found: format!("{shape:?}"),
                expected: "one or two dimensions",
            });
        }
    };
    Ok(StoredTensor {
        name: name.to_owned(),
        encoding,
        n_rows,
        n_cols,
        // Packed weights have a separate scale tensor, which is attached later.
        outer_scale: None,
        file_idx: 0,
        range: 0..0,
    })
}

/// Reads a `weight_scale`: one value.
fn scalar(name: &str, dtype: Dtype, data: &[u8]) -> Result<f32, CheckpointError> {
    match (dtype, data) {
        (Dtype::F32, &[a, b, c, d]) => Ok(f32::from_le_bytes([a, b, c, d])),
        (Dtype::BF16, &[a, b]) => Ok(bf16::from_le_bytes([a, b]).to_f32()),
        (Dtype::F16, &[a, b]) => Ok(half::f16::from_le_bytes([a, b]).to_f32()),
        _ => Err(CheckpointError::UnknownType {
            name: name.to_owned(),
            found: format!("{dtype:?} of {} bytes as a scale", data.len()),
        }),
    }
}

fn read_file(folder: &Path, name: &str) -> Result<FileBytes, CheckpointError> {
    let file = folder.join(name);
    FileBytes::open(&file).map_err(|source| CheckpointError::Read { file, source })
}

/// Reads a JSON file of a folder.
pub(crate) fn read_json<T: DeserializeOwned>(
    folder: &Path,
    name: &str,
) -> Result<T, CheckpointError> {
    read_json_noting(folder, name, &mut Vec::new())
}

/// Reads a JSON file of a folder, with a note if it is not standard JSON.
fn read_json_noting<T: DeserializeOwned>(
    folder: &Path,
    name: &str,
    notes: &mut Vec<Note>,
) -> Result<T, CheckpointError> {
    let file = folder.join(name);
    let bytes = std::fs::read(&file).map_err(|source| CheckpointError::Read { file, source })?;
    serde_json::from_slice(&bytes).or_else(|source| {
        let file = name.to_owned();
        match lax_json::from_slice(&bytes) {
            Some(value) => {
                note::add(notes, Note::LaxJson { file });
                Ok(value)
            }
            None => Err(CheckpointError::Json { file, source }),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activations(model_type: &str, class: &str, more: &str) -> ActivationPrecision {
        let json = format!(
            r#"{{"model_type": "{model_type}", "architectures": ["{class}"], "hidden_size": 64,
            "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
            "vocab_size": 64, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "hidden_act": "silu"{more}}}"#
        );
        let hf: HfConfig = serde_json::from_str(&json).unwrap();
        let found = Found {
            has_head: true,
            ..Found::default()
        };
        config(&hf, found, &mut Vec::new()).unwrap().activations
    }

    #[test]
    fn bitnet_models_have_int8_activations_whether_or_not_a_folder_says_so() {
        let quantized = r#", "quantization_config": {"quant_method": "bitnet"}"#;
        // The published models of 1bitLLM do not specify it.
        let said_nothing = activations("llama", "BitnetForCausalLM", "");
        assert_eq!(said_nothing, ActivationPrecision::Int8);
        let llama = |more| activations("llama", "LlamaForCausalLM", more);
        assert_eq!(llama(""), ActivationPrecision::Exact);
        assert_eq!(llama(quantized), ActivationPrecision::Int8);
    }
}
