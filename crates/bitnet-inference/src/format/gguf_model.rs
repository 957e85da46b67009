//! GGUF files as checkpoints.

use std::collections::BTreeMap;

use bitnet_quant::DenseType;

use super::checkpoint::{Checkpoint, CheckpointError, Origin};
use super::gguf::{Array, Gguf, TensorInfo, Value};
use super::gguf_types::{TensorTypes, matrix};
use super::mapping::FileBytes;
use super::tensor::{Encoding, StoredTensor};
use super::unsupported_keys;
use crate::note::{self, Note};
use crate::spec::config::{Activation, ActivationPrecision, Config, Pooling};
use crate::spec::family::Family;
use crate::spec::multipliers::{Multipliers, Sizes};
use crate::spec::rope::{Rope, RopeScaling};
use crate::spec::sliding::SlidingWindow;
use crate::spec::tensors;

/// Returns the checkpoint of the files with the directory `gguf`.
pub(crate) fn open(gguf: Gguf, files: Vec<FileBytes>) -> Result<Checkpoint, CheckpointError> {
    let mut notes = gguf.notes().to_vec();
    let mut config = config(&gguf, &mut notes)?;
    notes.extend(unsupported_keys::check_gguf(&gguf, &config)?);
    let types = TensorTypes::of(&gguf)?;
    let mut stored = BTreeMap::new();
    let mut scales = Vec::new();
    let mut factors = [None, None];
    for tensor in gguf.tensors() {
        // `blk.0.attn_q.scale` is the outer scale of `blk.0.attn_q.weight`.
        if let Some(part) = tensor.name.strip_suffix(".scale") {
            scales.push((format!("{part}.weight"), scalar(&types, tensor, &files)?));
        } else if tensor.name == tensors::ROPE_FREQS {
            if config.rope.scaling != RopeScaling::None {
                return Err(CheckpointError::Unsupported {
                    what: "RoPE scaling",
                    found: format!("{} and {}", config.rope.scaling.name(), tensor.name),
                    expected: "one of both",
                });
            }
            config.rope.scaling = RopeScaling::Divisors(floats(&types, tensor, &files)?);
        } else if let Some(i) = (LONGROPE.iter()).position(|name| tensor.name == *name) {
            factors[i] = Some(floats(&types, tensor, &files)?);
        } else if tensors::is_buffer(&tensor.name) {
            let (name, count) = (tensor.name.clone(), 1);
            note::add(&mut notes, Note::IgnoredTensors { name, count });
        } else {
            stored.insert(tensor.name.clone(), stored_tensor(&types, tensor)?);
        }
    }
    if factors.iter().any(Option::is_some) || says_longrope(&gguf, &config)? {
        config.rope.scaling = longrope(&gguf, &config, factors)?;
    }
    for (name, scale) in scales {
        let Some(tensor) = stored.get_mut(&name) else {
            return Err(CheckpointError::MissingTensor { name });
        };
        if let Encoding::Dense(_) = tensor.encoding {
            return Err(CheckpointError::UnexpectedTensor {
                name: name.replace(".weight", ".scale"),
                family: config.family.name,
            });
        }
        tensor.outer_scale = Some(scale);
    }
    let rotary_rows = config.family.gguf_rotary_rows;
    let origin = Origin::Gguf(Box::new(gguf));
    let mut checkpoint = Checkpoint::assemble(config, stored, files, rotary_rows, origin)?;
    checkpoint.infer_activations();
    checkpoint.add_notes(notes);
    Ok(checkpoint)
}

/// Reads the configuration from the metadata.
pub(crate) fn config(gguf: &Gguf, notes: &mut Vec<Note>) -> Result<Config, CheckpointError> {
    let missing = |key: &str| CheckpointError::MissingKey {
        key: key.to_owned(),
    };
    let name = gguf
        .string("general.architecture")?
        .ok_or_else(|| missing("general.architecture"))?;
    let family = Family::from_gguf_name(name).ok_or_else(|| CheckpointError::Architecture {
        found: name.to_owned(),
    })?;
    let key = |part: &str| format!("{name}.{part}");
    let optional_size = |part: &str| -> Result<Option<usize>, CheckpointError> {
        // Values beyond usize exceed the limits of `Config::validate` as well.
        let value = match gguf.get(&key(part)) {
            // One value per layer, which differs in some models.
            Some(Value::Array(_)) => Some(same_in_all_layers(gguf, &key(part))?),
            _ => gguf.unsigned(&key(part))?,
        };
        Ok(value.map(|value| usize::try_from(value).unwrap_or(usize::MAX)))
    };
    let size = |part: &str| optional_size(part)?.ok_or_else(|| missing(&key(part)));
    let activation = match gguf.string(&key("hidden_activation"))? {
        None => family.activation,
        Some(found) => {
            Activation::from_name(found).ok_or_else(|| CheckpointError::Unsupported {
                what: "activation",
                found: found.to_owned(),
                expected: Activation::EXPECTED,
            })?
        }
    };
    let embedding =
        gguf.tensor(tensors::TOKEN_EMBD)
            .ok_or_else(|| CheckpointError::MissingTensor {
                name: tensors::TOKEN_EMBD.to_owned(),
            })?;
    let hidden_dim = size("embedding_length")?;
    let n_heads = size("attention.head_count")?;
    let head_dim = match optional_size("attention.key_length")? {
        Some(head_dim) => head_dim,
        None => hidden_dim.checked_div(n_heads).unwrap_or(0),
    };
    if let Some(value_dim) = optional_size("attention.value_length")?
        && value_dim != head_dim
    {
        return Err(CheckpointError::NotUnderstood {
            key: key("attention.value_length"),
            value: format!("{value_dim} where heads are {head_dim} wide"),
        });
    }
    let context_len = size("context_length")?;
    let context_len = Config::context_len_within_limits(context_len, notes);
    let rope = Rope {
        theta: gguf.float(&key("rope.freq_base"))?.unwrap_or(10_000.0),
        n_dims: optional_size("rope.dimension_count")?.unwrap_or(head_dim),
        scaling: rope_scaling(gguf, name, context_len)?,
    };
    let projection_norms = gguf.tensor(tensors::A_PROJECTION_NORM.0).is_some();
    let n_layers = size("block_count")?;
    let sizes = Sizes {
        hidden_dim,
        n_layers,
        n_heads,
        head_dim,
    };
    let float = |part: &str| gguf.float(&key(part));
    Ok(Config {
        family,
        hidden_dim,
        n_layers,
        n_heads,
        n_kv_heads: optional_size("attention.head_count_kv")?.unwrap_or(n_heads),
        head_dim,
        ffn_dim: size("feed_forward_length")?,
        vocab_size: usize::try_from(embedding.shape.get(1).copied().unwrap_or(1))
            .unwrap_or(usize::MAX),
        context_len,
        rms_norm_eps: gguf
            .float(&key("attention.layer_norm_rms_epsilon"))?
            .ok_or_else(|| missing(&key("attention.layer_norm_rms_epsilon")))?,
        multipliers: Multipliers::from_gguf(family.multipliers, sizes, float)?,
        sliding: if family.sliding_window {
            sliding_window(gguf, name, n_layers, &rope)?
        } else {
            None
        },
        rope,
        activation,
        tied_embeddings: gguf.tensor(tensors::OUTPUT).is_none(),
        projection_norms,
        dense_linears: false,
        activations: ActivationPrecision::Int8,
        pooling: match gguf.unsigned(&key("pooling_type"))? {
            // Converters have written wrong numbers for models with projection norms,
            // all of which use the last token.
            _ if projection_norms => Some(Pooling::Last),
            None | Some(0) => None,
            Some(3) => Some(Pooling::Last),
            Some(other) => Some(Pooling::Other(other)),
        },
    })
}

/// Reads the sliding window.
fn sliding_window(
    gguf: &Gguf,
    architecture: &str,
    n_layers: usize,
    rope: &Rope,
) -> Result<Option<SlidingWindow>, CheckpointError> {
    let key = |part: &str| format!("{architecture}.{part}");
    let window = match gguf.unsigned(&key("attention.sliding_window"))? {
        // Without the key there are no such layers, as in llama.cpp.
        None | Some(0) => return Ok(None),
        Some(window) => usize::try_from(window).unwrap_or(usize::MAX),
    };
    // `Config::validate` rejects larger values.
    let n_layers = n_layers.min(1 << 12);
    let pattern = key("attention.sliding_window_pattern");
    let layers = match gguf.get(&pattern) {
        Some(Value::Array(Array::Bool(layers))) => layers.clone(),
        _ => match gguf.unsigned(&pattern)? {
            // All layers have the window.
            Some(0) => vec![true; n_layers],
            Some(period) => {
                SlidingWindow::every(usize::try_from(period).unwrap_or(usize::MAX), n_layers)
            }
            None => SlidingWindow::every(SlidingWindow::GEMMA3_PERIOD, n_layers),
        },
    };
    if !layers.contains(&true) {
        return Ok(None);
    }
    let theta = gguf.float(&key("rope.freq_base_swa"))?;
    Ok(Some(SlidingWindow {
        window,
        rope: Rope {
            theta: theta.unwrap_or(SlidingWindow::GEMMA3_THETA),
            n_dims: rope.n_dims,
            scaling: RopeScaling::None,
        },
        layers,
    }))
}

/// The divisors of LongRoPE.
const LONGROPE: [&str; 2] = [tensors::ROPE_SHORT, tensors::ROPE_LONG];

/// Returns whether the metadata specify LongRoPE.
fn says_longrope(gguf: &Gguf, config: &Config) -> Result<bool, CheckpointError> {
    let name = gguf.string("general.architecture")?;
    let name = name.unwrap_or(config.family.name);
    Ok(gguf.string(&format!("{name}.rope.scaling.type"))? == Some("longrope"))
}

/// Returns the scaling of a file with short and long `divisors`.
fn longrope(
    gguf: &Gguf,
    config: &Config,
    divisors: [Option<Vec<f32>>; 2],
) -> Result<RopeScaling, CheckpointError> {
    if config.rope.scaling != RopeScaling::None {
        return Err(CheckpointError::Unsupported {
            what: "RoPE scaling",
            found: format!("{} and {}", config.rope.scaling.name(), LONGROPE[0]),
            expected: "one of both",
        });
    }
    let [short, long] = match divisors {
        [Some(short), Some(long)] => [short, long],
        [None, _] => {
            let name = LONGROPE[0].to_owned();
            return Err(CheckpointError::MissingTensor { name });
        }
        [_, None] => {
            let name = LONGROPE[1].to_owned();
            return Err(CheckpointError::MissingTensor { name });
        }
    };
    let name = gguf.string("general.architecture")?;
    let name = name.unwrap_or(config.family.name);
    let key = |part: &str| format!("{name}.rope.scaling.{part}");
    let original = gguf.unsigned(&key("original_context_length"))?;
    Ok(RopeScaling::LongRope {
        short,
        long,
        original_context_len: match original {
            Some(n) => usize::try_from(n).unwrap_or(usize::MAX),
            None => config.context_len,
        },
        attention_factor: gguf.float(&key("attn_factor"))?.unwrap_or(1.0),
    })
}

/// Reads a key with one value per layer, which must all be equal.
fn same_in_all_layers(gguf: &Gguf, key: &str) -> Result<u64, CheckpointError> {
    let numbers = gguf.integers(key)?.unwrap_or_default();
    match numbers[..] {
        [first, ref rest @ ..] if first >= 0 && rest.iter().all(|n| *n == first) => {
            Ok(first.cast_unsigned())
        }
        _ => Err(CheckpointError::Unsupported {
            what: "a size that differs between layers",
            found: key.to_owned(),
            expected: "the same in all layers",
        }),
    }
}

/// Reads the RoPE scaling.
fn rope_scaling(
    gguf: &Gguf,
    architecture: &str,
    context_len: usize,
) -> Result<RopeScaling, CheckpointError> {
    let key = |part: &str| format!("{architecture}.rope.{part}");
    let float = |part: &str| gguf.float(&key(part));
    // 0 means no factor.
    let factor = match float("scaling.factor")? {
        Some(factor) => Some(factor),
        None => float("scale_linear")?,
    };
    let factor = factor.filter(|&factor| factor != 0.0).unwrap_or(1.0);
    match gguf.string(&key("scaling.type"))? {
        Some("none") => Ok(RopeScaling::None),
        // The divisors of LongRoPE are tensors.
        Some("linear" | "longrope") | None if factor == 1.0 => Ok(RopeScaling::None),
        Some("linear") | None => Ok(RopeScaling::Linear { factor }),
        Some("yarn") => {
            let original = gguf.unsigned(&key("scaling.original_context_length"))?;
            let attn_factor = float("scaling.attn_factor")?.unwrap_or(1.0);
            Ok(RopeScaling::Yarn {
                factor,
                original_context_len: match original {
                    Some(n) => usize::try_from(n).unwrap_or(usize::MAX),
                    None => context_len,
                },
                beta_fast: float("scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: float("scaling.yarn_beta_slow")?.unwrap_or(1.0),
                attention_factor: RopeScaling::yarn_attention_factor(factor) * attn_factor,
            })
        }
        Some(found) => Err(CheckpointError::Unsupported {
            what: "RoPE scaling",
            found: found.to_owned(),
            expected: "none, linear, yarn, or longrope without a factor",
        }),
    }
}

fn stored_tensor(
    types: &TensorTypes,
    tensor: &TensorInfo,
) -> Result<StoredTensor, CheckpointError> {
    let name = || tensor.name.clone();
    let encoding = types.encoding(tensor)?;
    let Some([n_rows, n_cols]) = matrix(tensor) else {
        return Err(CheckpointError::Unsupported {
            what: "a tensor of shape",
            found: format!("{:?}", tensor.shape),
            expected: "one or two dimensions",
        });
    };
    let needed = encoding
        .n_bytes(n_rows, n_cols)
        .map_err(|source| CheckpointError::Shape {
            name: name(),
            source,
        })?;
    if needed as u64 > tensor.span {
        return Err(CheckpointError::TensorBytes {
            name: name(),
            offset: tensor.offset,
            needed: needed as u64,
            available: tensor.span,
        });
    }
    // The offset is within the file, so it fits in usize.
    let start = tensor.offset as usize;
    Ok(StoredTensor {
        name: name(),
        encoding,
        n_rows,
        n_cols,
        outer_scale: None,
        file_idx: tensor.file,
        range: start..start + needed,
    })
}

/// Reads a tensor of one F32.
fn scalar(
    types: &TensorTypes,
    tensor: &TensorInfo,
    files: &[FileBytes],
) -> Result<f32, CheckpointError> {
    match floats(types, tensor, files).as_deref() {
        Ok(&[value]) => Ok(value),
        _ => Err(CheckpointError::WrongEncoding {
            name: tensor.name.clone(),
            found: stored_tensor(types, tensor)?.encoding.name(),
            expected: "one F32",
        }),
    }
}

/// Reads a small tensor of F32.
fn floats(
    types: &TensorTypes,
    tensor: &TensorInfo,
    files: &[FileBytes],
) -> Result<Vec<f32>, CheckpointError> {
    let stored = stored_tensor(types, tensor)?;
    match stored.encoding {
        Encoding::Dense(DenseType::F32) => {
            let (values, _) = files[stored.file_idx][stored.range].as_chunks();
            Ok(values
                .iter()
                .map(|&bytes| f32::from_le_bytes(bytes))
                .collect())
        }
        _ => Err(CheckpointError::WrongEncoding {
            name: stored.name,
            found: stored.encoding.name(),
            expected: "F32",
        }),
    }
}
