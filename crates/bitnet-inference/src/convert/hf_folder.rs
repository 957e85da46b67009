//! Writing a checkpoint as a HuggingFace folder: packed ternary weights with
//! `weight_scale` beside them, in the direct convention (`autobitlinear`).

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::path::Path;

use bitnet_core::ThreadPool;
use bitnet_quant::{DenseType, TernaryType};
use half::bf16;
use safetensors::{Dtype, View};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{ConvertError, Source, dense_row_bytes, folder_of, temporary};
use crate::format::checkpoint::Origin;
use crate::sampling_defaults::SamplingDefaults;
use crate::spec::config::{ActivationPrecision, Config, RotaryRows};
use crate::spec::rope::{Rope, RopeScaling};
use crate::spec::tensors::{self, Expected, Role};
use crate::tokenizer::{Tokenizer, TokenizerError, gguf as keys};

/// The files of a converted folder.
const FILES: [&str; 5] = [
    WEIGHTS,
    CONFIG,
    GENERATION_CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
];
const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Returns an error if a folder contains anything but a converted model, since it would
/// be replaced.
pub(super) fn check_replaceable(folder: &Path) -> Result<(), ConvertError> {
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        if !FILES.iter().any(|file| name == *file) {
            return Err(ConvertError::NotReplaceable {
                path: folder.to_owned(),
                found: name.to_string_lossy().into_owned(),
            });
        }
    }
    Ok(())
}

/// A tensor that is encoded when it is written, so that only one is in memory.
struct Lazy<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    n_bytes: usize,
    encode: Box<dyn Fn() -> Result<Vec<u8>, ConvertError> + 'a>,
    /// The first error of any tensor: [`View::data`] cannot return one.
    first_error: &'a RefCell<Option<ConvertError>>,
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut first_error = self.first_error.borrow_mut();
        let data = match *first_error {
            None => (self.encode)(),
            Some(_) => Ok(Vec::new()),
        };
        data.unwrap_or_else(|error| {
            *first_error = Some(error);
            Vec::new()
        })
        .into()
    }

    fn data_len(&self) -> usize {
        self.n_bytes
    }
}

/// The context for encoding the tensors of a folder.
struct Encoder<'a> {
    source: &'a Source<'a>,
    threads: RefCell<&'a mut ThreadPool>,
    /// Called before each tensor; an error cancels the conversion.
    step: Box<dyn Fn() -> Result<(), ConvertError> + 'a>,
    first_error: RefCell<Option<ConvertError>>,
}

pub(super) fn write(
    source: &Source<'_>,
    out: &Path,
    threads: &mut ThreadPool,
    progress: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<TempDir, ConvertError> {
    let config = source.checkpoint.config();
    if let RopeScaling::Divisors(_) = config.rope.scaling {
        return Err(ConvertError::RopeDivisors);
    }
    let expected = tensors::expected(config);
    let mut types = Vec::with_capacity(expected.len());
    for tensor in &expected {
        let dense = writable(source, tensor)?;
        if dense.is_none() != tensor.is_linear() {
            let stored = source.checkpoint.tensor(&tensor.name);
            return Err(ConvertError::Kind {
                name: stored.name.clone(),
                found: stored.encoding.name(),
            });
        }
        types.push(dense);
    }
    // Several scales are rejected below, with the tensor's name.
    let has_one_scale = |tensor: &Expected| {
        let tensor = source.ternary(&tensor.name);
        tensor.is_ok_and(|tensor| tensor.scales.tensor().is_some())
    };
    let mut linears = expected.iter().filter(|tensor| tensor.is_linear());
    if config.activations == ActivationPrecision::Exact && linears.all(has_one_scale) {
        return Err(ConvertError::NoWords {
            target: "a HuggingFace folder with packed weights",
            what: "that they are multiplied with activations as they are",
        });
    }
    let tokenizer = Tokenizer::from_checkpoint(source.checkpoint)?;

    let folder = folder_of(out);
    let unfinished =
        temporary(0o777)
            .tempdir_in(folder)
            .map_err(|source| ConvertError::WriteInto {
                folder: folder.to_owned(),
                source,
            })?;

    let (progress, done) = (RefCell::new(progress), Cell::new(0));
    let step = || match (progress.borrow_mut())(done.replace(done.get() + 1), expected.len()) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(ConvertError::Interrupted),
    };
    let encoder = Encoder {
        source,
        threads: RefCell::new(threads),
        step: Box::new(step),
        first_error: RefCell::new(None),
    };
    let mut views = Vec::new();
    for (tensor, dense) in expected.iter().zip(types) {
        match dense {
            Some(ty) => views.push(encoder.dense(tensor, ty)?),
            None => views.extend(encoder.ternary(tensor)?),
        }
    }
    let all_bf16 = views
        .iter()
        .all(|(_, lazy)| matches!(lazy.dtype, Dtype::BF16 | Dtype::U8));
    let torch_dtype = if all_bf16 { "bfloat16" } else { "float32" };
    let file = unfinished.path().join(WEIGHTS);
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let written = safetensors::serialize_to_file(views, Some(metadata), &file);
    if let Some(error) = encoder.first_error.take() {
        return Err(error);
    }
    written?;

    let write_json = |name: &str, json: &Value| {
        std::fs::write(unfinished.path().join(name), format!("{json:#}\n"))
    };
    write_json(CONFIG, &config_json(config, &tokenizer, torch_dtype))?;
    let eos: Vec<u32> = tokenizer.eog().collect();
    let mut generation = SamplingDefaults::of_model(source.checkpoint).generation_config();
    generation.insert("bos_token_id".to_owned(), json!(tokenizer.bos()));
    generation.insert("eos_token_id".to_owned(), json!(eos));
    write_json(GENERATION_CONFIG, &generation.into())?;
    let inner = tokenizer
        .inner()
        .to_string(true)
        .map_err(|source| TokenizerError::Build { source })?;
    std::fs::write(unfinished.path().join(TOKENIZER), inner)?;
    let tokenizer_config = tokenizer_config(source, &tokenizer);
    write_json(TOKENIZER_CONFIG, &tokenizer_config)?;
    // `safetensors` creates a private file; use the permissions of the other files.
    let permissions = std::fs::metadata(unfinished.path().join(CONFIG))?.permissions();
    std::fs::set_permissions(&file, permissions)?;
    Ok(unfinished)
}

impl Encoder<'_> {
    /// Returns a dense tensor with its name.
    fn dense<'a>(
        &'a self,
        tensor: &'a Expected,
        ty: DenseType,
    ) -> Result<(String, Lazy<'a>), ConvertError> {
        let lazy = Lazy {
            dtype: dtype(ty),
            shape: match tensor.role {
                Role::Norm => vec![tensor.n_cols],
                _ => vec![tensor.n_rows, tensor.n_cols],
            },
            n_bytes: dense_row_bytes(tensor, ty)? * tensor.n_rows,
            encode: Box::new(move || {
                (self.step)()?;
                let mut threads = self.threads.borrow_mut();
                self.source
                    .encode_dense(tensor, ty, RotaryRows::Halves, &mut threads)
            }),
            first_error: &self.first_error,
        };
        Ok((tensor.hf_name.clone(), lazy))
    }

    /// Returns a packed tensor and its scale with their names.
    fn ternary<'a>(
        &'a self,
        tensor: &'a Expected,
    ) -> Result<[(String, Lazy<'a>); 2], ConvertError> {
        let scales = self.source.ternary(&tensor.name)?.scales;
        let Some(scale) = scales.tensor() else {
            return Err(ConvertError::SeveralScales {
                name: tensor.name.clone(),
                found: scales.to_string(),
            });
        };
        let packed = TernaryType::HfPacked;
        let n_bytes = packed
            .n_bytes(tensor.n_rows, tensor.n_cols)
            .map_err(|source| ConvertError::Shape {
                name: tensor.name.clone(),
                source,
            })?;
        let weights = Lazy {
            dtype: Dtype::U8,
            shape: vec![tensor.n_rows / 4, tensor.n_cols],
            n_bytes,
            encode: Box::new(move || {
                (self.step)()?;
                self.source
                    .encode_ternary(tensor, packed, None, RotaryRows::Halves)
            }),
            first_error: &self.first_error,
        };
        let (dtype, bytes) = scale_bytes(scale);
        let scale = Lazy {
            dtype,
            shape: vec![1],
            n_bytes: bytes.len(),
            encode: Box::new(move || Ok(bytes.clone())),
            first_error: &self.first_error,
        };
        let name = tensor.hf_name.clone();
        Ok([(format!("{name}_scale"), scale), (name, weights)])
    }
}

/// Renames a finished folder to its name, replacing an existing one.
pub(super) fn publish(unfinished: TempDir, out: &Path) -> Result<(), ConvertError> {
    let old = if out.exists() {
        let aside = temporary(0o700).tempdir_in(folder_of(out))?;
        std::fs::rename(out, aside.path().join("old"))?;
        Some(aside)
    } else {
        None
    };
    if let Err(error) = std::fs::rename(unfinished.path(), out) {
        if let Some(aside) = old {
            // If this fails as well, the old folder is kept under its temporary name.
            let aside = aside.keep();
            std::fs::rename(aside.join("old"), out)?;
            std::fs::remove_dir(aside)?;
        }
        return Err(error.into());
    }
    // The folder was renamed, so there is nothing to remove.
    let _ = unfinished.keep();
    Ok(())
}

/// Returns the type that a dense tensor is written in: the stored one if
/// SafeTensors have it, F32 otherwise; `None` if it stays ternary.
fn writable(source: &Source<'_>, expected: &Expected) -> Result<Option<DenseType>, ConvertError> {
    use DenseType::{BF16, F16, F32};
    match source.dense_type(expected, F32) {
        ty @ (None | Some(F32 | F16 | BF16)) => Ok(ty),
        Some(ty) => match source.head {
            None => Ok(Some(F32)),
            Some(_) => Err(ConvertError::HeadType { found: ty.name() }),
        },
    }
}

fn dtype(ty: DenseType) -> Dtype {
    match ty {
        DenseType::F32 => Dtype::F32,
        DenseType::F16 => Dtype::F16,
        DenseType::BF16 => Dtype::BF16,
        _ => unreachable!("`writable` leaves these out"),
    }
}

/// Returns a scale as BF16, as in published models, or as F32 if BF16 would change it.
fn scale_bytes(scale: f32) -> (Dtype, Vec<u8>) {
    let short = bf16::from_f32(scale);
    if short.to_f32() == scale {
        (Dtype::BF16, short.to_le_bytes().to_vec())
    } else {
        (Dtype::F32, scale.to_le_bytes().to_vec())
    }
}

fn config_json(config: &Config, tokenizer: &Tokenizer, torch_dtype: &str) -> Value {
    let (model_type, class) = config.family.hf_names[0];
    let mut json = json!({
        "architectures": [class],
        "attention_bias": false,
        "bos_token_id": tokenizer.bos(),
        "eos_token_id": tokenizer.eos(),
        "head_dim": config.head_dim,
        "hidden_act": config.activation.name(),
        "hidden_size": config.hidden_dim,
        "intermediate_size": config.ffn_dim,
        "max_position_embeddings": config.context_len,
        "model_type": model_type,
        "num_attention_heads": config.n_heads,
        "num_hidden_layers": config.n_layers,
        "num_key_value_heads": config.n_kv_heads,
        "quantization_config": {
            "linear_class": "autobitlinear",
            "quant_method": "bitnet",
            "quantization_mode": "offline",
        },
        "rms_norm_eps": shortest(config.rms_norm_eps),
        "rope_scaling": rope_scaling(&config.rope),
        "rope_theta": shortest(config.rope.theta),
        "tie_word_embeddings": config.tied_embeddings,
        "torch_dtype": torch_dtype,
        "vocab_size": config.vocab_size,
    });
    for (key, value) in config
        .multipliers
        .hf(config.family.multipliers, config.sizes())
    {
        json[key] = value.into();
    }
    if config.family.sliding_window {
        json["hidden_activation"] = config.activation.name().into();
        let is_sliding = |layer| config.sliding_in(layer).is_some();
        let layer_type = |layer| {
            if is_sliding(layer) {
                "sliding_attention"
            } else {
                "full_attention"
            }
        };
        json["layer_types"] = (0..config.n_layers).map(layer_type).collect();
        // If no layer has one, the value is arbitrary.
        let window = config
            .sliding
            .as_ref()
            .map_or(config.context_len, |s| s.window);
        json["sliding_window"] = window.into();
        let theta = config.sliding.as_ref().map(|s| shortest(s.rope.theta));
        json["rope_local_base_freq"] = theta.into();
    }
    json
}

/// Returns `rope_scaling` of `config.json`.
fn rope_scaling(rope: &Rope) -> Value {
    let rope_type = rope.scaling.name();
    match rope.scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::LongRope {
            ref short,
            ref long,
            original_context_len,
            attention_factor,
        } => {
            let divisors = |values: &[f32]| values.iter().map(|x| shortest(*x)).collect::<Value>();
            json!({
                "rope_type": rope_type,
                "short_factor": divisors(short),
                "long_factor": divisors(long),
                "original_max_position_embeddings": original_context_len,
                "attention_factor": shortest(attention_factor),
            })
        }
        RopeScaling::Linear { factor } => {
            json!({ "rope_type": rope_type, "factor": shortest(factor) })
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context_len,
        } => json!({
            "rope_type": rope_type,
            "factor": shortest(factor),
            "low_freq_factor": shortest(low_freq_factor),
            "high_freq_factor": shortest(high_freq_factor),
            "original_max_position_embeddings": original_context_len,
        }),
        RopeScaling::Yarn {
            factor,
            original_context_len,
            beta_fast,
            beta_slow,
            attention_factor,
        } => json!({
            "rope_type": rope_type,
            "factor": shortest(factor),
            "original_max_position_embeddings": original_context_len,
            "beta_fast": shortest(beta_fast),
            "beta_slow": shortest(beta_slow),
            "attention_factor": shortest(attention_factor),
        }),
        RopeScaling::Divisors(_) => unreachable!("`write` refuses them"),
    }
}

/// Returns the f64 of the shortest decimal form that parses as `x`: 1e-5 and not
/// 9.999999747378752e-6.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().expect("a finite number")
}

fn tokenizer_config(source: &Source<'_>, tokenizer: &Tokenizer) -> Value {
    let token = |id: Option<u32>| id.and_then(|id| tokenizer.inner().id_to_token(id));
    let mut json = match source.checkpoint.origin() {
        Origin::HuggingFace(folder) => std::fs::read(folder.join(TOKENIZER_CONFIG))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_else(|| json!({})),
        Origin::Gguf(gguf) => match gguf.string(keys::CHAT_TEMPLATE) {
            Ok(Some(template)) => json!({ "chat_template": template }),
            _ => json!({}),
        },
    };
    json["tokenizer_class"] = "PreTrainedTokenizerFast".into();
    json["model_max_length"] = source.checkpoint.config().context_len.into();
    json["bos_token"] = token(tokenizer.bos()).into();
    json["eos_token"] = token(tokenizer.eos()).into();
    json
}
