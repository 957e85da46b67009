//! Writing a checkpoint as one GGUF file.

use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;

use bitnet_core::ThreadPool;
use bitnet_quant::{DenseType, Scales, TernaryType};
use half::f16;
use tempfile::NamedTempFile;

use super::tokenizer_parts::{BpeModel, TokenizerParts};
use super::{ConvertError, Source, dense_row_bytes, folder_of, unfinished_file};
use crate::format::checkpoint::Origin;
use crate::format::gguf::{Array, GgufWriter, Value};
use crate::format::gguf_types::{FILE_TYPE_I2_S, type_id};
use crate::format::tensor::Encoding;
use crate::sampling_defaults::SamplingDefaults;
use crate::spec::config::{ActivationPrecision, Config, Pooling};
use crate::spec::multipliers::Multipliers;
use crate::spec::rope::RopeScaling;
use crate::spec::sliding::SlidingWindow;
use crate::spec::tensors::{self, Expected, Role};
use crate::tokenizer::gguf as keys;

const ARCHITECTURE: &str = "general.architecture";
const FILE_TYPE: &str = "general.file_type";

/// A tensor to write.
enum Planned {
    Dense(Expected, DenseType),
    /// A ternary tensor, with the scales of its blocks if they differ from its own.
    Ternary(Expected, Option<Scales>),
    /// A scale that the blocks cannot store, or the divisors of rotary frequencies.
    Floats(Vec<f32>),
}

pub(super) fn write(
    source: &Source<'_>,
    out: &Path,
    ty: TernaryType,
    threads: &mut ThreadPool,
    mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<NamedTempFile, ConvertError> {
    let checkpoint = source.checkpoint;
    let config = checkpoint.config();
    let mut writer = GgufWriter::new();
    match checkpoint.origin() {
        Origin::Gguf(gguf) => {
            // The result is not split.
            let is_kept = |key: &str| key != FILE_TYPE && !key.starts_with("split.");
            for (key, value) in gguf.metadata().filter(|(key, _)| is_kept(key)) {
                writer.metadata(key, value.clone());
            }
            writer.metadata(FILE_TYPE, Value::U32(file_type(ty)));
        }
        Origin::HuggingFace(folder) => {
            check_words(config)?;
            let name = folder.file_name().unwrap_or(folder.as_os_str());
            model_metadata(&mut writer, config, &name.to_string_lossy(), ty);
            for (key, value) in SamplingDefaults::of_model(checkpoint).gguf_metadata() {
                writer.metadata(key, value);
            }
            let parts = TokenizerParts::from_folder(folder)?;
            tokenizer_metadata(&mut writer, config, &parts)?;
        }
    }

    let mut planned = Vec::new();
    for (name, divisors) in rope_divisors(config) {
        let f32 = id(Encoding::Dense(DenseType::F32));
        let (n, n_bytes) = (divisors.len() as u64, size_of_val(&divisors[..]) as u64);
        writer.tensor(name, &[n], f32, n_bytes);
        planned.push(Planned::Floats(divisors));
    }
    for expected in tensors::expected(config) {
        let (n_rows, n_cols) = (expected.n_rows as u64, expected.n_cols as u64);
        let name = expected.name.clone();
        let shape = [n_cols, n_rows];
        if let Some(dense) = source.dense_type(&expected, DenseType::F32) {
            let n_bytes = dense_row_bytes(&expected, dense)? as u64 * n_rows;
            let n_dims = if expected.role == Role::Norm { 1 } else { 2 };
            writer.tensor(name, &shape[..n_dims], id(Encoding::Dense(dense)), n_bytes);
            planned.push(Planned::Dense(expected, dense));
            continue;
        }
        let scales = source.ternary(&name)?.scales;
        let n_bytes = (ty.n_bytes(expected.n_rows, expected.n_cols)).map_err(|source| {
            ConvertError::Shape {
                name: name.clone(),
                source,
            }
        })?;
        writer.tensor(&name, &shape, id(Encoding::Ternary(ty)), n_bytes as u64);
        match scales {
            // If f16 would round the scale, the blocks have scale 1 and the scale is
            // stored in a separate tensor.
            Scales::Tensor(scale)
                if ty != TernaryType::I2S && f16::from_f32(scale).to_f32() != scale =>
            {
                planned.push(Planned::Ternary(expected, Some(Scales::Tensor(1.0))));
                let part = name.trim_end_matches("weight");
                let f32 = id(Encoding::Dense(DenseType::F32));
                writer.tensor(format!("{part}scale"), &[1], f32, 4);
                planned.push(Planned::Floats(vec![scale]));
            }
            _ => planned.push(Planned::Ternary(expected, None)),
        }
    }

    let folder = folder_of(out);
    let file = unfinished_file(folder).map_err(|source| ConvertError::WriteInto {
        folder: folder.to_owned(),
        source,
    })?;
    let total = planned.len();
    let rotary_rows = config.family.gguf_rotary_rows;
    let mut buffered = writer.write(BufWriter::new(file), |i, out| {
        if progress(i, total).is_break() {
            return Err(ConvertError::Interrupted);
        }
        let data = match &planned[i] {
            Planned::Dense(expected, dense) => {
                source.encode_dense(expected, *dense, rotary_rows, threads)?
            }
            Planned::Ternary(expected, scales) => {
                source.encode_ternary(expected, ty, scales.as_ref(), rotary_rows)?
            }
            Planned::Floats(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        Ok(out.write_all(&data)?)
    })?;
    buffered.flush()?;
    let file = buffered
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error)?;
    file.as_file().sync_all()?;
    let _ = progress(total, total);
    Ok(file)
}

fn id(encoding: Encoding) -> u32 {
    type_id(encoding).expect("only types that GGUF has are written")
}

/// Returns llama.cpp's (for I2_S bitnet.cpp's) number for a file of mostly this
/// type.
fn file_type(ty: TernaryType) -> u32 {
    match ty {
        TernaryType::TQ1_0 => 36,
        TernaryType::TQ2_0 => 37,
        TernaryType::I2S => FILE_TYPE_I2_S,
        _ => unreachable!("not a type of `GgufWeights`"),
    }
}

/// Returns the divisors of rotary frequencies with the names of their tensors.
fn rope_divisors(config: &Config) -> Vec<(&'static str, Vec<f32>)> {
    if let RopeScaling::LongRope { short, long, .. } = &config.rope.scaling {
        return vec![
            (tensors::ROPE_SHORT, short.clone()),
            (tensors::ROPE_LONG, long.clone()),
        ];
    }
    let divisors = config.rope.divisors().into_iter();
    divisors.map(|d| (tensors::ROPE_FREQS, d)).collect()
}

/// Returns an error if the metadata of the architecture cannot represent the
/// configuration.
fn check_words(config: &Config) -> Result<(), ConvertError> {
    let no_words = |what| {
        Err(ConvertError::NoWords {
            target: "a GGUF file of this architecture",
            what,
        })
    };
    let family = config.family;
    if !family.quantizes_activations && config.activations == ActivationPrecision::Int8 {
        return no_words("that ternary weights are multiplied with int8 activations");
    }
    let keys = config.multipliers.gguf(family.multipliers);
    let value = |key: &str| Ok::<_, ConvertError>(keys.iter().find(|k| k.0 == key).map(|k| k.1));
    let read = Multipliers::from_gguf(family.multipliers, config.sizes(), value)?;
    if read != config.multipliers {
        return no_words("what attention scores are multiplied with");
    }
    match &config.sliding {
        Some(sliding) if sliding.rope.scaling != RopeScaling::None => {
            no_words("a RoPE scaling of layers with a sliding window")
        }
        _ => Ok(()),
    }
}

fn model_metadata(writer: &mut GgufWriter, config: &Config, name: &str, ty: TernaryType) {
    let architecture = config.family.name;
    let size = |n: usize| Value::U32(u32::try_from(n).expect("`Config::validate` bounds sizes"));
    writer.metadata(ARCHITECTURE, Value::String(architecture.to_owned()));
    writer.metadata("general.name", Value::String(name.to_owned()));
    writer.metadata(FILE_TYPE, Value::U32(file_type(ty)));
    writer.metadata("general.quantization_version", Value::U32(2));
    let values = [
        ("vocab_size", size(config.vocab_size)),
        ("context_length", size(config.context_len)),
        ("embedding_length", size(config.hidden_dim)),
        ("block_count", size(config.n_layers)),
        ("feed_forward_length", size(config.ffn_dim)),
        ("rope.dimension_count", size(config.rope.n_dims)),
        ("rope.freq_base", Value::F32(config.rope.theta)),
        ("attention.head_count", size(config.n_heads)),
        ("attention.head_count_kv", size(config.n_kv_heads)),
        ("attention.key_length", size(config.head_dim)),
        ("attention.value_length", size(config.head_dim)),
        (
            "attention.layer_norm_rms_epsilon",
            Value::F32(config.rms_norm_eps),
        ),
        (
            "hidden_activation",
            Value::String(config.activation.name().to_owned()),
        ),
    ];
    let scaling = rope_scaling(&config.rope.scaling);
    let multipliers = config.multipliers.gguf(config.family.multipliers);
    let multipliers = (multipliers.into_iter()).map(|(key, factor)| (key, Value::F32(factor)));
    let sliding = config.sliding.iter().flat_map(sliding_window);
    // llama.cpp's number of the last token.
    let pooling = (config.pooling == Some(Pooling::Last)).then_some(("pooling_type", size(3)));
    let more = scaling
        .into_iter()
        .chain(multipliers)
        .chain(sliding)
        .chain(pooling);
    for (key, value) in values.into_iter().chain(more) {
        writer.metadata(format!("{architecture}.{key}"), value);
    }
}

/// Returns the metadata of layers with a sliding window.
fn sliding_window(sliding: &SlidingWindow) -> Vec<(&'static str, Value)> {
    let size = |n: usize| Value::U32(u32::try_from(n).expect("`Config::validate` bounds sizes"));
    let mut metadata = vec![("attention.sliding_window", size(sliding.window))];
    let pattern = match sliding.period() {
        Some(SlidingWindow::GEMMA3_PERIOD) => None,
        Some(period) => Some(size(period)),
        None => Some(Value::Array(Array::Bool(sliding.layers.clone()))),
    };
    metadata.extend(pattern.map(|pattern| ("attention.sliding_window_pattern", pattern)));
    if sliding.rope.theta != SlidingWindow::GEMMA3_THETA {
        metadata.push(("rope.freq_base_swa", Value::F32(sliding.rope.theta)));
    }
    metadata
}

/// Returns the metadata of a RoPE scaling, if metadata represent it.
fn rope_scaling(scaling: &RopeScaling) -> Vec<(&'static str, Value)> {
    let ty = (
        "rope.scaling.type",
        Value::String(scaling.name().to_owned()),
    );
    match *scaling {
        RopeScaling::None | RopeScaling::Llama3 { .. } | RopeScaling::Divisors(_) => Vec::new(),
        RopeScaling::Linear { factor } => {
            vec![ty, ("rope.scaling.factor", Value::F32(factor))]
        }
        RopeScaling::Yarn {
            factor,
            original_context_len,
            beta_fast,
            beta_slow,
            attention_factor,
        } => vec![
            ty,
            ("rope.scaling.factor", Value::F32(factor)),
            (
                "rope.scaling.original_context_length",
                Value::U32(original_context_len as u32),
            ),
            ("rope.scaling.yarn_beta_fast", Value::F32(beta_fast)),
            ("rope.scaling.yarn_beta_slow", Value::F32(beta_slow)),
            (
                // Readers multiply it by the default factor.
                "rope.scaling.attn_factor",
                Value::F32(attention_factor / RopeScaling::yarn_attention_factor(factor)),
            ),
        ],
        RopeScaling::LongRope {
            original_context_len,
            attention_factor,
            ..
        } => vec![
            ty,
            (
                "rope.scaling.original_context_length",
                Value::U32(original_context_len as u32),
            ),
            ("rope.scaling.attn_factor", Value::F32(attention_factor)),
        ],
    }
}

/// The score of embedding rows without a token, as written by llama.cpp.
const PADDING_SCORE: f32 = -10_000.0;

fn tokenizer_metadata(
    writer: &mut GgufWriter,
    config: &Config,
    parts: &TokenizerParts,
) -> Result<(), ConvertError> {
    let vocab_size = config.vocab_size;
    let n_tokens = parts.tokens.len();
    if n_tokens > vocab_size {
        return Err(ConvertError::TooManyTokens {
            n_tokens,
            vocab_size,
        });
    }
    let mut tokens: Vec<String> = Vec::with_capacity(vocab_size);
    let mut types: Vec<i32> = Vec::with_capacity(vocab_size);
    for id in 0..vocab_size {
        let (token, ty) = match parts.tokens.get(id) {
            Some(Some((token, ty))) => (token.clone(), *ty),
            // Embedding rows without a token.
            _ => (format!("[PAD{id}]"), keys::TYPE_UNUSED),
        };
        tokens.push(token);
        types.push(ty);
    }
    let text = |s: &str| Value::String(s.to_owned());
    let model = match &parts.model {
        BpeModel::ByteLevel { .. } => "gpt2",
        BpeModel::SentencePiece { .. } => "llama",
    };
    writer.metadata(keys::MODEL, text(model));
    if let BpeModel::ByteLevel { pre, .. } = &parts.model {
        writer.metadata(keys::PRE, text(pre));
    }
    writer.metadata(keys::TOKENS, Value::Array(Array::String(tokens)));
    writer.metadata(keys::TOKEN_TYPE, Value::Array(Array::I32(types)));
    match &parts.model {
        BpeModel::ByteLevel { merges, .. } => {
            let merges = Array::String(merges.clone());
            writer.metadata(keys::MERGES, Value::Array(merges));
        }
        BpeModel::SentencePiece {
            scores,
            space_prefix,
            unknown,
        } => {
            let mut scores = scores.clone();
            scores.resize(vocab_size, PADDING_SCORE);
            writer.metadata(keys::SCORES, Value::Array(Array::F32(scores)));
            writer.metadata(keys::SPACE_PREFIX, Value::Bool(*space_prefix));
            if let Some(unknown) = unknown {
                writer.metadata(keys::UNKNOWN, Value::U32(*unknown));
            }
        }
    }
    if let Some(bos) = parts.bos {
        writer.metadata(keys::BOS, Value::U32(bos));
    }
    if let Some(eos) = parts.eos {
        writer.metadata(keys::EOS, Value::U32(eos));
    }
    if let Some(eot) = parts.eot {
        writer.metadata(keys::EOT, Value::U32(eot));
    }
    writer.metadata(keys::ADD_BOS, Value::Bool(parts.add_bos));
    if parts.add_eos {
        writer.metadata(keys::ADD_EOS, Value::Bool(true));
    }
    if let Some(template) = &parts.chat_template {
        writer.metadata(keys::CHAT_TEMPLATE, text(template));
    }
    Ok(())
}
