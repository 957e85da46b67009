//! The `llama` architecture and format variants that no model of this repository covers,
//! compared with files and numbers of other programs.
//!
//! `data/make_tiny_llama.py` writes the models with the Python packages of GGUF
//! and SafeTensors, and computes their logits in float64.

#[path = "dialects/odd_files.rs"]
mod odd_files;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::{ComputeContext, HybridMemoryPool, KvPrecision, ThreadPool};
use bitnet_inference::convert::{ConvertError, ConvertOptions, GgufWeights, Target, convert};
use bitnet_inference::gguf::{Array, Gguf, GgufWriter, Value};
use bitnet_inference::{
    ActivationPrecision, Checkpoint, CheckpointError, DenseType, Engine, ForwardError,
    HeadPrecision, Input, Logits, Model, Plan, PlanOptions, Tokenizer, TokenizerError,
};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

const HF: &str = "tiny-llama";
const GGUF: &str = "tiny-llama-tq2_0.gguf";
const BITNET: &str = "tiny-bitnet-i2_s.gguf";

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap()
}

fn load(checkpoint: &Checkpoint) -> Result<Model, CheckpointError> {
    let plan = plan(checkpoint);
    let (pool, mut threads) = (HybridMemoryPool::new(), ThreadPool::new(plan.n_threads));
    let exact = HeadPrecision::Exact;
    let ctx = &mut ComputeContext::new(plan.isa, &mut threads);
    Model::load(checkpoint, &pool, ctx, exact, |_, _| ())
}

fn plan(checkpoint: &Checkpoint) -> Plan {
    let options = PlanOptions {
        n_threads: Some(2),
        // As the reference has them.
        kv_precision: KvPrecision::F32,
        ..PlanOptions::default()
    };
    Plan::new(checkpoint.config(), options).unwrap()
}

fn engine(checkpoint: &Checkpoint) -> Engine {
    let model = Arc::new(load(checkpoint).unwrap());
    Engine::new(model, plan(checkpoint)).unwrap()
}

/// Returns the logits of every position.
fn logits(checkpoint: &Checkpoint, tokens: &[u32]) -> Vec<Vec<f32>> {
    let input = Input {
        sequence: 0,
        tokens,
        logits: Logits::All,
    };
    let mut all = Vec::new();
    let collect = |_, _, logits: &[f32]| all.push(logits.to_vec());
    engine(checkpoint).forward(&[input], collect).unwrap();
    all
}

fn reference() -> Json {
    let file = std::fs::read(data("tiny-llama-reference.json")).unwrap();
    serde_json::from_slice(&file).unwrap()
}

fn ids(json: &Json) -> Vec<u32> {
    let ids = json["ids"].as_array().unwrap();
    ids.iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn floats(json: &Json) -> Vec<f64> {
    let values = json.as_array().unwrap();
    values.iter().map(|x| x.as_f64().unwrap()).collect()
}

/// The prompts of the reference, the same for both llama files.
fn prompts() -> Vec<Vec<u32>> {
    let runs = &reference()["models"][HF];
    runs.as_array().unwrap().iter().map(ids).collect()
}

fn largest_difference(ours: &[f32], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let differences = ours.iter().zip(theirs).map(|(&a, b)| f64::from(a) - b);
    differences.map(f64::abs).fold(0.0, f64::max)
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
    sum.ln()
}

/// The parts of a HuggingFace folder, for editing and rewriting.
struct Folder {
    json: BTreeMap<&'static str, Json>,
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

const JSON_FILES: [&str; 3] = ["config.json", "generation_config.json", "tokenizer.json"];

impl Folder {
    fn read(folder: &Path) -> Self {
        let read_json = |name| {
            let file = std::fs::read(folder.join(name)).unwrap();
            (name, serde_json::from_slice(&file).unwrap())
        };
        let mut tensors = BTreeMap::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                let file = std::fs::read(path).unwrap();
                for (name, view) in SafeTensors::deserialize(&file).unwrap().tensors() {
                    let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
                    tensors.insert(name, tensor);
                }
            }
        }
        Self {
            json: JSON_FILES.into_iter().map(read_json).collect(),
            tensors,
        }
    }

    fn write(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, json) in &self.json {
            std::fs::write(folder.path().join(name), json.to_string()).unwrap();
        }
        let file = folder.path().join("model.safetensors");
        std::fs::write(file, serialize(&self.tensors)).unwrap();
        folder
    }

    fn edited(edit: impl FnOnce(&mut Self)) -> TempDir {
        let mut folder = Self::read(&data(HF));
        edit(&mut folder);
        folder.write()
    }

    fn config(&mut self) -> &mut Json {
        self.json.get_mut("config.json").unwrap()
    }

    fn tokenizer(&mut self) -> &mut Json {
        self.json.get_mut("tokenizer.json").unwrap()
    }

    fn bytes(&mut self, name: &str) -> &mut Vec<u8> {
        &mut self.tensors.get_mut(name).unwrap().2
    }

    /// Replaces a scale, or adds one.
    fn set_scale(&mut self, name: &str, scale: f32) {
        let tensor = (Dtype::F32, vec![1], scale.to_le_bytes().to_vec());
        self.tensors.insert(name.to_owned(), tensor);
    }

    /// Returns all scales by name.
    fn scales(&self) -> BTreeMap<String, f32> {
        let value = |(name, (dtype, _, data)): (&String, &(Dtype, Vec<usize>, Vec<u8>))| {
            let scale = match (dtype, data[..].try_into(), data[..].try_into()) {
                (Dtype::F32, Ok(data), _) => f32::from_le_bytes(data),
                (Dtype::F16, _, Ok(data)) => half::f16::from_le_bytes(data).to_f32(),
                (Dtype::BF16, _, Ok(data)) => half::bf16::from_le_bytes(data).to_f32(),
                _ => panic!("{name} is no scale"),
            };
            (name.clone(), scale)
        };
        let scales = self.tensors.iter().filter(|(n, _)| n.ends_with("_scale"));
        scales.map(value).collect()
    }
}

fn serialize(tensors: &BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>) -> Vec<u8> {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

/// The parts of a GGUF file, for editing and rewriting.
struct File {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Tensor>,
}

#[derive(Debug, Clone, PartialEq)]
struct Tensor {
    name: String,
    shape: Vec<u64>,
    type_id: u32,
    /// Including padding.
    data: Vec<u8>,
}

impl File {
    fn read(path: &Path) -> Self {
        let file = std::fs::read(path).unwrap();
        let gguf = Gguf::parse(&file).unwrap();
        let metadata = gguf.metadata().map(|(k, v)| (k.to_owned(), v.clone()));
        let tensors = gguf.tensors().iter().map(|info| Tensor {
            name: info.name.clone(),
            shape: info.shape.clone(),
            type_id: info.type_id,
            data: file[info.offset as usize..][..info.span as usize].to_vec(),
        });
        Self {
            metadata: metadata.collect(),
            tensors: tensors.collect(),
        }
    }

    fn write(&self) -> (TempDir, PathBuf) {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.metadata {
            writer.metadata(key, value.clone());
        }
        for t in &self.tensors {
            writer.tensor(&t.name, &t.shape, t.type_id, t.data.len() as u64);
        }
        let data = |i: usize, out: &mut dyn Write| out.write_all(&self.tensors[i].data);
        let bytes = writer.write::<_, io::Error>(Vec::new(), data).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn edited(name: &str, edit: impl FnOnce(&mut Self)) -> (TempDir, PathBuf) {
        let mut file = Self::read(&data(name));
        edit(&mut file);
        file.write()
    }

    fn tensor(&mut self, name: &str) -> &mut Tensor {
        let mut tensors = self.tensors.iter_mut();
        tensors.find(|tensor| tensor.name == name).unwrap()
    }

    fn add_f32(&mut self, name: &str, values: &[f32]) {
        self.tensors.push(Tensor {
            name: name.to_owned(),
            shape: vec![values.len() as u64],
            type_id: 0,
            data: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        });
    }

    fn set(&mut self, key: &str, value: Value) {
        self.remove(key);
        self.metadata.push((key.to_owned(), value));
    }

    fn remove(&mut self, key: &str) {
        self.metadata.retain(|(other, _)| other != key);
    }
}

/// Returns the error of opening or loading, as `Variant { fields }`.
fn load_error(path: &Path) -> String {
    let error = match Checkpoint::open(path) {
        Err(error) => error,
        Ok(checkpoint) => match load(&checkpoint) {
            Err(error) => error,
            Ok(_) => panic!("{} is loaded", path.display()),
        },
    };
    format!("{error:?}")
}

fn tokenizer_error(path: &Path) -> TokenizerError {
    Tokenizer::from_checkpoint(&open(path)).unwrap_err()
}

// --- numbers ------------------------------------------------------------------

#[test]
fn logits_agree_with_the_reference() {
    // The prompts are chosen so that every scaled activation is at least 3e-4 from
    // an int8 rounding boundary, more than the f32 error. So all activations round
    // equally, and only f32 rounding differs. Measured: 1.4e-6, with logits up to
    // 9. (64 arbitrary tokens differ by 0.12, since one activation that rounds
    // differently affects all later ones.)
    const TOLERANCE: f64 = 1e-5;
    for (name, runs) in reference()["models"].as_object().unwrap() {
        let checkpoint = open(&data(name));
        for run in runs.as_array().unwrap() {
            let ours = logits(&checkpoint, &ids(run));
            let last = largest_difference(ours.last().unwrap(), &floats(&run["logits"]));
            let sums = ours.iter().zip(floats(&run["logsumexp"]));
            let sums = sums.map(|(logits, sum)| (log_sum_exp(logits) - sum).abs());
            let sums = sums.fold(0.0, f64::max);
            assert!(last < TOLERANCE, "{name}: logits differ by {last}");
            assert!(sums < TOLERANCE, "{name}: log-sum-exp differs by {sums}");
        }
    }
}

#[test]
fn both_formats_of_the_same_weights_are_the_same_model() {
    for prompt in prompts() {
        let hf = logits(&open(&data(HF)), &prompt);
        assert_eq!(hf, logits(&open(&data(GGUF)), &prompt));
    }
}

#[test]
fn inverse_scales_are_reciprocals_of_direct_ones() {
    let prompt = &prompts()[1];
    let expected = logits(&open(&data(HF)), prompt);

    let direct = Folder::edited(|folder| {
        folder.config()["quantization_config"]["linear_class"] = "autobitlinear".into();
        for (name, scale) in folder.scales() {
            folder.set_scale(&name, 1.0 / scale);
        }
    });
    assert_eq!(logits(&open(direct.path()), prompt), expected);

    let by_default = Folder::edited(|folder| {
        let quantization = &mut folder.config()["quantization_config"];
        quantization.as_object_mut().unwrap().remove("linear_class");
    });
    assert_eq!(logits(&open(by_default.path()), prompt), expected);

    let misread = Folder::edited(|folder| {
        folder.config()["quantization_config"]["linear_class"] = "autobitlinear".into();
    });
    assert_ne!(logits(&open(misread.path()), prompt), expected);
}

#[test]
fn an_untied_output_matrix_is_used_and_a_tied_one_is_not() {
    let prompt = &prompts()[0];
    let untied = logits(&open(&data(HF)), prompt);
    let tied = Folder::edited(|folder| {
        folder.config()["tie_word_embeddings"] = true.into();
    });
    let tied = logits(&open(tied.path()), prompt);
    assert_ne!(tied, untied);

    // In GGUF, a missing output matrix means tied embeddings.
    let (_folder, path) = File::edited(GGUF, |file| {
        file.tensors.retain(|tensor| tensor.name != "output.weight");
    });
    assert_eq!(logits(&open(&path), prompt), tied);

    // LLaMA is untied unless the configuration says otherwise.
    let by_default = Folder::edited(|folder| {
        let config = folder.config().as_object_mut().unwrap();
        config.remove("tie_word_embeddings");
    });
    assert_eq!(logits(&open(by_default.path()), prompt), untied);
}

#[test]
fn bitnet_is_tied_unless_there_is_an_output_matrix() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let mut folder = Folder::read(&models.join("storyteller-tiny"));
    // The folder also contains the reference's activations.
    folder.tensors.retain(|name, _| name.starts_with("model."));
    let config = folder.config().as_object_mut().unwrap();
    config.remove("tie_word_embeddings");
    let is_tied = |folder: &Folder| open(folder.write().path()).config().tied_embeddings;
    assert!(is_tied(&folder));
    let embedding = folder.tensors["model.embed_tokens.weight"].clone();
    folder
        .tensors
        .insert("lm_head.weight".to_owned(), embedding);
    assert!(!is_tied(&folder));
}

#[test]
fn tokens_outside_the_vocabulary_are_refused() {
    let mut engine = engine(&open(&data(GGUF)));
    let mut run = |tokens: &[u32]| {
        let input = Input {
            sequence: 0,
            tokens,
            logits: Logits::None,
        };
        engine.forward(&[input], |_, _, _| ())
    };
    assert_eq!(run(&[271]), Ok(()));
    for id in [272, u32::MAX] {
        let error = ForwardError::Token {
            id,
            vocab_size: 272,
        };
        assert_eq!(run(&[0, id]), Err(error));
    }
}

// --- conversion ---------------------------------------------------------------

fn try_convert(
    source: &Checkpoint,
    out: &Path,
    target: Target,
    head: Option<DenseType>,
) -> Result<(), ConvertError> {
    let options = ConvertOptions {
        target,
        head,
        overwrite: false,
    };
    let carry_on = |_, _| ControlFlow::Continue(());
    convert(source, out, options, &mut ThreadPool::new(2), carry_on)
}

fn converted(source: &Path, out: &Path, target: Target, head: Option<DenseType>) {
    try_convert(&open(source), out, target, head).unwrap();
}

/// Returns the tensors with trits and their scales.
fn linear_tensors(file: &File) -> Vec<Tensor> {
    // 35 is TQ2_0.
    let linear = |t: &&Tensor| t.type_id == 35 || t.name.contains(".scale");
    let mut tensors: Vec<_> = file.tensors.iter().filter(linear).cloned().collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

#[test]
fn a_converted_folder_has_the_bytes_that_the_gguf_package_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let tq2_0 = Target::Gguf(GgufWeights::TQ2_0);
    converted(&data(HF), &path, tq2_0, Some(DenseType::Q8_0));
    let (mut ours, mut theirs) = (File::read(&path), File::read(&data(GGUF)));

    // Including query and key rows in llama.cpp's order, and separate tensors for scales
    // that f16 cannot represent.
    assert_eq!(linear_tensors(&ours).len(), 16);
    assert_eq!(linear_tensors(&ours), linear_tensors(&theirs));

    let embedding = "token_embd.weight";
    assert_eq!(ours.tensor(embedding), theirs.tensor(embedding));
    for file in [&mut ours, &mut theirs] {
        // Keys that only other writers add.
        for key in ["general.name", "general.quantization_version"] {
            file.remove(key);
        }
        for key in [
            "llama.attention.key_length",
            "llama.attention.value_length",
            "llama.hidden_activation",
            "tokenizer.ggml.eot_token_id",
        ] {
            file.remove(key);
        }
        file.metadata.sort_by(|a, b| a.0.cmp(&b.0));
    }
    assert_eq!(ours.metadata, theirs.metadata);
}

#[test]
fn conversions_there_and_back_keep_every_trit_scale_and_logit() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b, c] = ["a.gguf", "b", "a2.gguf"].map(|name| folder.path().join(name));
    let tq2_0 = Target::Gguf(GgufWeights::TQ2_0);
    converted(&data(HF), &a, tq2_0, None);
    converted(&a, &b, Target::HfPacked, None);
    converted(&b, &c, tq2_0, None);
    assert_eq!(File::read(&a).tensors, File::read(&c).tensors);

    let (original, back) = (Folder::read(&data(HF)), Folder::read(&b));
    let names = |folder: &Folder| folder.tensors.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&original), names(&back));
    for (name, (dtype, shape, data)) in &original.tensors {
        if *dtype == Dtype::U8 || name.contains("embed") || name == "lm_head.weight" {
            assert_eq!(&(*dtype, shape.clone(), data.clone()), &back.tensors[name]);
        }
    }
    let reciprocal = |(name, scale): (String, f32)| (name, 1.0 / scale);
    let direct: BTreeMap<_, _> = original.scales().into_iter().map(reciprocal).collect();
    assert_eq!(direct, back.scales());

    let i2_s = folder.path().join("i2_s.gguf");
    let tq1_0 = folder.path().join("tq1_0.gguf");
    converted(&b, &i2_s, Target::Gguf(GgufWeights::I2S), None);
    converted(&i2_s, &tq1_0, Target::Gguf(GgufWeights::TQ1_0), None);
    for prompt in prompts() {
        let expected = logits(&open(&data(HF)), &prompt);
        for path in [&a, &b, &c, &i2_s, &tq1_0] {
            let ours = logits(&open(path), &prompt);
            assert_eq!(ours, expected, "{}", path.display());
        }
    }
}

#[test]
fn bitnet_with_silu_goes_to_a_folder_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let [hf, back] = ["hf", "back.gguf"].map(|name| folder.path().join(name));
    converted(&data(BITNET), &hf, Target::HfPacked, None);
    converted(&hf, &back, Target::Gguf(GgufWeights::I2S), None);
    let expected = logits(&open(&data(BITNET)), &[1, 2, 3]);
    assert_eq!(logits(&open(&hf), &[1, 2, 3]), expected);
    assert_eq!(logits(&open(&back), &[1, 2, 3]), expected);
    let config = open(&back).config().clone();
    assert_eq!(&config, open(&data(BITNET)).config());
}

/// Bytes of values that are representable in BF16.
fn bf16_bytes(values: &[f32]) -> Vec<u8> {
    let bytes = |x: &f32| {
        let short = half::bf16::from_f32(*x);
        assert_eq!(short.to_f32(), *x);
        short.to_le_bytes()
    };
    values.iter().flat_map(bytes).collect()
}

/// Pseudo-random numbers below `n`.
fn random(seed: u32, n: u32) -> impl Iterator<Item = u32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        ((u64::from(state) * u64::from(n)) >> 32) as u32
    })
}

/// Master weights of mean magnitude 1/16: half of them are ±1/8.
fn masters(seed: usize, len: usize) -> Vec<f32> {
    let mut values: Vec<f32> = (0..len).map(|i| [0.125, 0.0, -0.125, 0.0][i % 4]).collect();
    for (i, j) in (1..len).rev().zip(random(seed as u32 + 1, u32::MAX)) {
        values.swap(i, j as usize % (i + 1));
    }
    values
}

/// The three revisions of Falcon-E, as written by `onebitllms`: packed trits, their master
/// weights, and dequantized trits.
#[test]
fn the_revisions_of_falcon_e_are_one_model() {
    let is_linear = |name: &str| name.ends_with("_proj.weight");
    let weights = |folder: &mut Folder, write: fn(&[f32]) -> Vec<u8>| {
        folder
            .tensors
            .retain(|name, _| !name.ends_with("weight_scale"));
        for (seed, (name, tensor)) in folder.tensors.iter_mut().enumerate() {
            if is_linear(name) {
                let [rows, cols] = tensor.1[..] else {
                    panic!("a matrix")
                };
                let values = masters(seed, 4 * rows * cols);
                *tensor = (Dtype::BF16, vec![4 * rows, cols], write(&values));
            }
        }
        let config = folder.config().as_object_mut().unwrap();
        config.remove("quantization_config");
    };
    let prequantized = |edit: fn(&mut Json)| {
        Folder::edited(|folder| {
            weights(folder, bf16_bytes);
            edit(folder.config());
        })
    };
    let published = Folder::edited(|folder| {
        weights(folder, |values| {
            // Packed, quarter i of the rows in bits 2i.
            let quarter = values.len() / 4;
            let code = |x: f32| (8.0 * x + 1.0) as u8;
            (0..quarter)
                .map(|at| {
                    (0..4)
                        .map(|i| code(values[i * quarter + at]) << (2 * i))
                        .sum()
                })
                .collect()
        });
        let names: Vec<_> = (folder.tensors.keys().filter(|name| is_linear(name)))
            .cloned()
            .collect();
        for name in names {
            let (dtype, shape, _) = folder.tensors.get_mut(&name).unwrap();
            (*dtype, shape[0]) = (Dtype::U8, shape[0] / 4);
            folder.set_scale(&format!("{name}_scale"), 16.0);
        }
        folder.config()["is_bitnet_config"] = true.into();
        folder.config()["quantization_config"] =
            json!({ "modules_to_not_convert": ["lm_head"], "quant_method": "bitnet" });
    });
    let bfloat16 = Folder::edited(|folder| {
        weights(folder, |values| {
            let multiplied: Vec<f32> = values.iter().map(|x| x / 2.0).collect();
            bf16_bytes(&multiplied)
        });
    });

    let prompt = &prompts()[1];
    let expected = logits(&open(published.path()), prompt);
    let named = prequantized(|config| config["is_bitnet_config"] = true.into());
    let online = prequantized(|config| {
        config["quantization_config"] =
            json!({ "quant_method": "bitnet", "quantization_mode": "online" });
    });
    for folder in [named, online] {
        let checkpoint = open(folder.path());
        assert_eq!(checkpoint.config().activations, ActivationPrecision::Int8);
        assert!(logits(&checkpoint, prompt) == expected);
    }
    // Only activations are not quantized.
    let bfloat16 = open(bfloat16.path());
    assert_eq!(bfloat16.config().activations, ActivationPrecision::Exact);
    let found = logits(&bfloat16, prompt);
    assert_ne!(found, expected);
    for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
        assert!((found - expected).abs() < 0.5, "{found}, {expected}");
    }
}

/// A folder like those of 1bitLLM: master weights, and a tokenizer of LLaMA 2.
fn one_bit_llm(configuration: &str) -> TempDir {
    let recorded = std::fs::read(data("tokenizers/tokenizers.json")).unwrap();
    let recorded: Json = serde_json::from_slice(&recorded).unwrap();
    let pieces = &recorded["sentencepiece"];
    let tokens = pieces["tokens"].as_array().unwrap();
    let (hidden, n_rows) = (128, tokens.len() + 2);
    let vocab: serde_json::Map<String, Json> = (tokens.iter().enumerate())
        .map(|(id, token)| (token.as_str().unwrap().to_owned(), id.into()))
        .collect();
    let added = |id: usize, special: bool| {
        json!({
            "id": id, "content": tokens[id], "special": special, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        })
    };
    let bos = json!({ "SpecialToken": { "id": "<s>", "type_id": 0 } });
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [
            added(0, true), added(1, true), added(2, true), added(3, false), added(4, false),
        ],
        "normalizer": pieces[configuration]["normalizer"],
        "pre_tokenizer": pieces[configuration]["pre_tokenizer"],
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [
                bos, { "Sequence": { "id": "A", "type_id": 0 } },
                { "Sequence": { "id": "B", "type_id": 1 } },
            ],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } },
        },
        "decoder": pieces[configuration]["decoder"],
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>",
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": true, "vocab": vocab, "merges": pieces["merges"],
        },
    });
    let config = json!({
        "architectures": ["BitnetForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": hidden, "intermediate_size": hidden, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": null,
        "tie_word_embeddings": true, "vocab_size": n_rows, "input_bits": 8, "weight_bits": 1,
        "bos_token_id": 1, "eos_token_id": 2,
    });
    let mut tensors = BTreeMap::new();
    let mut add = |name: &str, shape: &[usize], one: f32| {
        let len = shape.iter().product::<usize>();
        let values: Vec<f32> = random(tensors.len() as u32 + 1, 256)
            .take(len)
            .map(|x| one + (x as f32 - 127.5) / 256.0)
            .map(|x| half::bf16::from_f32(x).to_f32())
            .collect();
        tensors.insert(
            name.to_owned(),
            (Dtype::BF16, shape.to_vec(), bf16_bytes(&values)),
        );
    };
    add("model.embed_tokens.weight", &[n_rows, hidden], 0.0);
    add("model.norm.weight", &[hidden], 1.0);
    for part in ["q", "k", "v", "o"] {
        let name = format!("model.layers.0.self_attn.{part}_proj.weight");
        add(&name, &[hidden, hidden], 0.0);
    }
    for part in ["gate", "up", "down"] {
        let name = format!("model.layers.0.mlp.{part}_proj.weight");
        add(&name, &[hidden, hidden], 0.0);
    }
    for norm in [
        "input_layernorm",
        "post_attention_layernorm",
        "self_attn.inner_attn_ln",
        "mlp.ffn_layernorm",
    ] {
        add(&format!("model.layers.0.{norm}.weight"), &[hidden], 1.0);
    }
    let generation = json!({ "bos_token_id": 1, "eos_token_id": 2 });
    let folder = Folder {
        json: BTreeMap::from([
            ("config.json", config),
            ("generation_config.json", generation),
            ("tokenizer.json", tokenizer),
        ]),
        tensors,
    };
    folder.write()
}

#[test]
fn a_folder_with_the_tokenizer_of_llama_2_goes_to_gguf_and_back() {
    let recorded = std::fs::read(data("tokenizers/tokenizers.json")).unwrap();
    let recorded: Json = serde_json::from_slice(&recorded).unwrap();
    let texts = recorded["texts"].as_array().unwrap();
    for configuration in ["with_prefix", "without_prefix"] {
        let source = one_bit_llm(configuration);
        let source = open(source.path());
        assert_eq!(source.config().family.name(), "bitnet");
        let folder = tempfile::tempdir().unwrap();
        let [gguf, hf] = ["a.gguf", "hf"].map(|name| folder.path().join(name));
        try_convert(&source, &gguf, Target::Gguf(GgufWeights::I2S), None).unwrap();
        converted(&gguf, &hf, Target::HfPacked, None);
        let original = Tokenizer::from_checkpoint(&source).unwrap();
        let prompt = original
            .encode("Once upon a time there was a king")
            .unwrap();
        let expected = logits(&source, &prompt);
        for path in [&gguf, &hf] {
            let checkpoint = open(path);
            let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
            for (i, text) in texts.iter().enumerate() {
                let text = text.as_str().unwrap();
                let ids = tokenizer.encode(text).unwrap();
                assert_eq!(
                    ids,
                    original.encode(text).unwrap(),
                    "{configuration}, {text:?}"
                );
                let bare = tokenizer.encode_without_bos(text).unwrap();
                let theirs = &recorded["sentencepiece"][configuration]["ids"][i];
                assert_eq!(json!(bare), *theirs, "{configuration}, {text:?}");
                for with_special in [false, true] {
                    let decoded = tokenizer.decode(&ids, with_special);
                    assert_eq!(decoded, original.decode(&ids, with_special));
                }
            }
            assert_eq!(tokenizer.bos(), original.bos());
            assert_eq!(tokenizer.adds_bos(), original.adds_bos());
            let ends = |tokenizer: &Tokenizer| tokenizer.eog().collect::<Vec<_>>();
            assert_eq!(ends(&tokenizer), ends(&original));
            assert!(
                logits(&checkpoint, &prompt) == expected,
                "{}",
                path.display()
            );
        }
    }
}

// --- rejected files -----------------------------------------------------------

#[test]
fn folders_that_lie_are_refused() {
    const Q: &str = "model.layers.0.self_attn.q_proj.weight";
    const K: &str = "model.layers.1.self_attn.k_proj.weight";
    type Edit = fn(&mut Folder);
    let cases: [(Edit, &str); 17] = [
        (
            |f| f.config()["num_key_value_heads"] = 4.into(),
            r#"WrongShape { name: "model.layers.0.self_attn.k_proj.weight", expected: [128, 256], found: [64, 256] }"#,
        ),
        (
            |f| drop(f.tensors.remove(Q)),
            r#"MissingTensor { name: "model.layers.0.self_attn.q_proj.weight" }"#,
        ),
        (
            |f| drop(f.tensors.remove(&format!("{Q}_scale"))),
            r#"MissingTensor { name: "model.layers.0.self_attn.q_proj.weight_scale" }"#,
        ),
        (
            |f| drop(f.tensors.remove("lm_head.weight")),
            r#"MissingTensor { name: "lm_head.weight" }"#,
        ),
        (
            |f| f.set_scale(&format!("{Q}_scale"), f32::NAN),
            r#"Scale { name: "model.layers.0.self_attn.q_proj.weight", scale: NaN }"#,
        ),
        (
            |f| f.set_scale(&format!("{Q}_scale"), 0.0),
            r#"Scale { name: "model.layers.0.self_attn.q_proj.weight", scale: inf }"#,
        ),
        (
            |f| f.set_scale("model.layers.2.weight_scale", 1.0),
            r#"MissingTensor { name: "model.layers.2.weight" }"#,
        ),
        (
            |f| f.set_scale("lm_head.weight_scale", 2.0),
            r#"UnexpectedTensor { name: "lm_head.weight_scale", family: "llama" }"#,
        ),
        (
            |f| f.set_scale("model.layers.0.self_attn.q_proj.bias", 0.0),
            r#"UnexpectedTensor { name: "model.layers.0.self_attn.q_proj.bias", family: "llama" }"#,
        ),
        (
            |f| f.set_scale("model.layers.0.self_attn.attn_sub_norm.weight", 0.0),
            r#"UnexpectedTensor { name: "model.layers.0.self_attn.attn_sub_norm.weight", family: "llama" }"#,
        ),
        (
            // Row 5 of the third quarter of 64 rows, in file order.
            |f| f.bytes(K)[5 * 256 + 7] |= 3 << 4,
            r#"Ternary { name: "model.layers.1.self_attn.k_proj.weight", source: InvalidCode { row: 37, col: 7 } }"#,
        ),
        (
            |f| f.config()["rope_scaling"] = json!({ "rope_type": "llama3", "factor": 8.0 }),
            r#"MissingKey { key: "rope_scaling.low_freq_factor" }"#,
        ),
        (
            |f| f.config()["rope_scaling"] = json!({ "type": "linear", "factor": -2.0 }),
            r#"Config(Float { what: "RoPE factor", value: -2.0 })"#,
        ),
        (
            |f| f.config()["rope_scaling"] = json!({ "factor": 8.0 }),
            r#"Unsupported { what: "RoPE scaling", found: "without a type", expected: "default, linear, llama3, yarn, longrope or dynamic" }"#,
        ),
        (
            |f| f.config()["rope_parameters"] = json!({ "rope_type": "later" }),
            r#"Unsupported { what: "RoPE scaling", found: "later", expected: "default, linear, llama3, yarn, longrope or dynamic" }"#,
        ),
        (
            |f| f.config()["quantization_config"]["quantization_mode"] = "later".into(),
            r#"Unsupported { what: "quantization mode", found: "later", expected: "offline or online" }"#,
        ),
        (
            |f| f.config()["model_type"] = "gemma".into(),
            r#"Architecture { found: "gemma" }"#,
        ),
    ];
    for (edit, error) in cases {
        assert_eq!(load_error(Folder::edited(edit).path()), error);
    }
}

#[test]
fn rope_settings_that_change_nothing_are_accepted() {
    let folder = Folder::edited(|f| {
        f.config()["rope_scaling"] = json!({ "type": "default", "rope_type": "default" });
    });
    assert_eq!(open(folder.path()).config(), open(&data(HF)).config());

    let folder = Folder::edited(|f| {
        let config = f.config().as_object_mut().unwrap();
        let theta = config.remove("rope_theta");
        config.insert("rope_parameters".to_owned(), json!({ "rope_theta": theta }));
    });
    assert_eq!(open(folder.path()).config(), open(&data(HF)).config());

    for factor in [0.0, 1.0] {
        let (_folder, path) = File::edited(GGUF, |f| {
            f.set("llama.rope.scaling.factor", Value::F32(factor));
        });
        assert_eq!(open(&path).config(), open(&data(GGUF)).config());
    }
}

/// The same scaling in both formats, and invalid ones.
#[test]
fn rope_scalings_are_the_same_in_both_formats() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = &prompts()[1];
    let plain = logits(&open(&data(HF)), prompt);
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 40,
    });
    let linear = json!({ "type": "linear", "factor": 2.0 });
    let yarn = json!({
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16,
        "attention_factor": 1.25,
    });
    for (name, scaling) in [("llama3", llama3), ("linear", linear), ("yarn", yarn)] {
        let hf = Folder::edited(|f| f.config()["rope_scaling"] = scaling);
        let hf = open(hf.path());
        let [gguf, back] = ["gguf", "hf"].map(|e| folder.path().join(format!("{name}.{e}")));
        try_convert(&hf, &gguf, Target::Gguf(GgufWeights::TQ2_0), None).unwrap();
        let expected = logits(&hf, prompt);
        let found = logits(&open(&gguf), prompt);
        assert_ne!(expected, plain, "{name}");
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            // Divisors are rounded once more, so an activation may round differently.
            assert!(
                (found - expected).abs() < 0.2,
                "{name}: {found}, {expected}"
            );
        }
        if name == "llama3" {
            let refused = try_convert(&open(&gguf), &back, Target::HfPacked, None).unwrap_err();
            assert!(matches!(refused, ConvertError::RopeDivisors), "{refused:?}");
        } else {
            assert_eq!(found, expected, "{name}");
            converted(&gguf, &back, Target::HfPacked, None);
            assert_eq!(open(&back).config(), hf.config(), "{name}");
        }
    }
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let folder = Folder::edited(|_| ());
    let index_path = folder.path().join("model.safetensors.index.json");
    let index = json!({ "weight_map": { "a": "model.safetensors", "b": "second.safetensors" } });
    std::fs::write(&index_path, index.to_string()).unwrap();
    for name in [
        "model.norm.weight",
        "model.layers.0.mlp.up_proj.weight_scale",
    ] {
        let tensor = Folder::read(&data(HF)).tensors.remove(name).unwrap();
        let second = serialize(&BTreeMap::from([(name.to_owned(), tensor)]));
        std::fs::write(folder.path().join("second.safetensors"), second).unwrap();
        let error = format!("DuplicateTensor {{ name: {name:?} }}");
        assert_eq!(load_error(folder.path()), error);
    }

    let index = json!({ "weight_map": { "a": "../model.safetensors" } });
    std::fs::write(&index_path, index.to_string()).unwrap();
    assert_eq!(
        load_error(folder.path()),
        r#"Unsupported { what: "shard", found: "../model.safetensors", expected: "a file name without a folder" }"#
    );
}

#[test]
fn gguf_files_that_lie_are_refused() {
    const K: &str = "blk.1.attn_k.weight";
    /// Bytes of a row: one block, its scale at the end.
    const ROW: usize = 66;
    type Edit = fn(&mut File);
    let cases: [(Edit, &str); 15] = [
        (
            |f| f.set("llama.attention.head_count_kv", Value::U32(4)),
            r#"WrongShape { name: "blk.0.attn_k.weight", expected: [128, 256], found: [64, 256] }"#,
        ),
        (
            |f| f.tensors.retain(|tensor| tensor.name != K),
            r#"MissingTensor { name: "blk.1.attn_k.weight" }"#,
        ),
        (
            |f| f.add_f32("blk.0.attn_q.bias", &[0.0; 256]),
            r#"UnexpectedTensor { name: "blk.0.attn_q.bias", family: "llama" }"#,
        ),
        (
            |f| f.add_f32("rope_freqs.weight", &[1.0; 15]),
            "Config(RopeDivisors { expected: 16, found: 15 })",
        ),
        (
            |f| f.add_f32("output.scale", &[2.0]),
            r#"UnexpectedTensor { name: "output.scale", family: "llama" }"#,
        ),
        (
            |f| f.add_f32("blk.2.attn_q.scale", &[2.0]),
            r#"MissingTensor { name: "blk.2.attn_q.weight" }"#,
        ),
        (
            |f| f.add_f32("blk.0.attn_q.scale", &[1.0, 2.0]),
            r#"WrongEncoding { name: "blk.0.attn_q.scale", found: "F32", expected: "one F32" }"#,
        ),
        (
            // The second half of row 9, second lane: column 128 + 32 + 3.
            |f| f.tensor(K).data[9 * ROW + 32 + 3] |= 3 << 2,
            r#"Ternary { name: "blk.1.attn_k.weight", source: InvalidCode { row: 9, col: 163 } }"#,
        ),
        (
            |f| {
                for row in 0..64 {
                    f.tensor(K).data[row * ROW + 64..][..2].copy_from_slice(&[0x00, 0x7e]);
                }
            },
            r#"Ternary { name: "blk.1.attn_k.weight", source: ScaleNotFinite { scale: NaN } }"#,
        ),
        (
            |f| f.tensor("blk.1.attn_v.scale").data = f32::NAN.to_le_bytes().to_vec(),
            r#"Scale { name: "blk.1.attn_v.weight", scale: NaN }"#,
        ),
        (
            |f| {
                f.set(
                    "llama.rope.scaling.type",
                    Value::String("longrope".to_owned()),
                );
            },
            r#"MissingTensor { name: "rope_factors_short.weight" }"#,
        ),
        (
            // Linear is the default type.
            |f| f.set("llama.rope.scaling.factor", Value::F32(-4.0)),
            r#"Config(Float { what: "RoPE factor", value: -4.0 })"#,
        ),
        (
            // The key of old files.
            |f| f.set("llama.rope.scale_linear", Value::F32(f32::NAN)),
            r#"Config(Float { what: "RoPE factor", value: NaN })"#,
        ),
        (
            |f| f.set("llama.rope.dimension_count", Value::U32(34)),
            "Config(RopeWidth { n_dims: 34, head_dim: 32 })",
        ),
        (
            |f| f.tensor(K).type_id = 20,
            r#"UnknownType { name: "blk.1.attn_k.weight", found: "IQ4_NL (id 20)" }"#,
        ),
    ];
    for (edit, error) in cases {
        let (_folder, path) = File::edited(GGUF, edit);
        assert_eq!(load_error(&path), error);
    }
}

// --- tokenizers ---------------------------------------------------------------

fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_checkpoint(&open(&data(name))).unwrap()
}

#[test]
fn tokens_are_those_of_the_python_package() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("converted.gguf");
    converted(&data(HF), &path, Target::Gguf(GgufWeights::TQ2_0), None);
    let converted = Tokenizer::from_checkpoint(&open(&path)).unwrap();
    let tokenizers = [tokenizer(HF), tokenizer(GGUF), tokenizer(BITNET), converted];
    for case in reference()["texts"].as_array().unwrap() {
        let (text, expected) = (case["text"].as_str().unwrap(), ids(case));
        // The package prepends BOS even if the text begins with it.
        let at = usize::from(expected[1..].starts_with(&expected[..1]));
        for tokenizer in &tokenizers {
            assert_eq!(tokenizer.encode(text).unwrap(), expected[at..], "{text:?}");
            assert_eq!(tokenizer.encode_without_bos(text).unwrap(), expected[1..]);
            let decoded = tokenizer.decode(&expected, true);
            assert_eq!(decoded, case["decoded"].as_str().unwrap());
        }
    }
}

#[test]
fn both_formats_know_where_texts_begin_and_end() {
    for name in [HF, GGUF, BITNET] {
        let tokenizer = tokenizer(name);
        assert_eq!(tokenizer.bos(), Some(266));
        assert!(tokenizer.adds_bos());
        // GGUF declares only <|end_of_text|>; <|eot_id|> is recognized by its text.
        assert_eq!(tokenizer.eog().collect::<Vec<_>>(), [267, 268], "{name}");
    }
    assert_eq!(tokenizer(HF).n_tokens(), 270);
    assert_eq!(tokenizer(GGUF).n_tokens(), 272);
    // The model has rows for two more.
    let hf = tokenizer(HF);
    assert!(hf.contains(269) && !hf.contains(270));
    assert_eq!(
        hf.decode(&[0, 270, 0, 271], false),
        hf.decode(&[0, 0], false)
    );
}

#[test]
fn gguf_tokenizers_that_lie_are_refused() {
    type Edit = fn(&mut File);
    let cases: [(Edit, &str); 3] = [
        (
            // Without it llama.cpp uses a different one than Llama 3's.
            |f| f.remove("tokenizer.ggml.pre"),
            r#"MissingKey { key: "tokenizer.ggml.pre" }"#,
        ),
        (
            |f| f.remove("tokenizer.ggml.tokens"),
            r#"MissingKey { key: "tokenizer.ggml.tokens" }"#,
        ),
        (
            |f| {
                let types = Value::Array(Array::I32(vec![1; 271]));
                f.set("tokenizer.ggml.token_type", types);
            },
            r#"Number { key: "tokenizer.ggml.token_type", expected: 272, found: 271 }"#,
        ),
    ];
    for (edit, expected) in cases {
        let (_folder, path) = File::edited(GGUF, edit);
        let error = format!("{:?}", tokenizer_error(&path));
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn ids_that_a_model_has_no_row_for_are_errors() {
    let folder = Folder::edited(|folder| {
        folder.tokenizer()["model"]["vocab"]["345"] = json!(400);
    });
    let tokenizer = Tokenizer::from_checkpoint(&open(folder.path())).unwrap();
    assert!(tokenizer.encode("34 5").is_ok());
    let error = tokenizer.encode("34 345").unwrap_err();
    assert_eq!(
        error.to_string(),
        "token 400 (\"345\") is beyond the model's vocabulary of 272"
    );
    // `tokenizers` would assign the next id instead of the declared one.
    let folder = Folder::edited(|folder| {
        folder.tokenizer()["added_tokens"][0]["id"] = json!(400);
        folder.tokenizer()["added_tokens"][0]["content"] = json!("<late>");
    });
    assert_eq!(
        tokenizer_error(folder.path()).to_string(),
        "added token \"<late>\" has id 400, expected 266 by the tokens before it"
    );
    let folder = Folder::edited(|folder| {
        let config = folder.json.get_mut("generation_config.json").unwrap();
        config["eos_token_id"] = json!([267, 401]);
    });
    // The id has no token, and the folder does not specify the vocabulary size.
    let tokenizer = Tokenizer::from_checkpoint(&open(folder.path())).unwrap();
    assert_eq!(tokenizer.eog().collect::<Vec<_>>(), [267, 268, 401]);
    let said: Vec<_> = tokenizer.notes().iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        ["eos_token_id is 401, which no token has (there are 270)"]
    );
}

#[test]
fn hostile_tokenizer_json_is_an_error() {
    type Edit = fn(&mut Json);
    let cases: [(Edit, &str); 8] = [
        (
            // Longer than every token, so beyond the library's buffer.
            |json| json["model"]["merges"] = json!([["a", "b".repeat(1000)]]),
            "Merge { index: 0",
        ),
        (
            |json| json["model"]["merges"] = json!([format!("{} a", "b".repeat(1000))]),
            "Merge { index: 0",
        ),
        (
            // Short enough, but not a token.
            |json| json["model"]["merges"] = json!([["z", "z"]]),
            "Build",
        ),
        (|json| json["model"]["merges"] = json!(["a"]), "Build"),
        (
            // The second part lacks the prefix to be removed.
            |json| json["model"]["continuing_subword_prefix"] = "########".into(),
            "Merge { index: 0",
        ),
        (
            |json| json["model"]["vocab"] = json!([1, 2]),
            "Merge { index: 0",
        ),
        (|json| json["model"] = json!({}), "Build"),
        (|json| *json = json!([]), "Json"),
    ];
    for (edit, expected) in cases {
        let folder = Folder::edited(|folder| edit(folder.tokenizer()));
        let error = format!("{:?}", tokenizer_error(folder.path()));
        assert!(error.starts_with(expected), "{error}");
    }
}

/// As in the published microsoft/bitnet-b1.58-2B-4T: no pre-tokenizer, no activation, no
/// end of turn in the metadata, and an older name of the architecture.
#[test]
fn the_dialect_of_the_published_bitnet_files_is_understood() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let original = open(&models.join("storyteller-tiny"));
    let folder = tempfile::tempdir().unwrap();
    let complete = folder.path().join("complete.gguf");
    let i2_s = Target::Gguf(GgufWeights::I2S);
    converted(&models.join("storyteller-tiny"), &complete, i2_s, None);
    let prompt = Tokenizer::from_checkpoint(&original)
        .unwrap()
        .encode("Once upon a time")
        .unwrap();
    let expected = logits(&original, &prompt);

    for architecture in ["bitnet-25", "bitnet-b1.58"] {
        let mut file = File::read(&complete);
        for (key, _) in &mut file.metadata {
            if let Some(part) = key.strip_prefix("bitnet-b1.58.") {
                *key = format!("{architecture}.{part}");
            }
        }
        file.set(
            "general.architecture",
            Value::String(architecture.to_owned()),
        );
        for key in [
            "hidden_activation",
            "attention.key_length",
            "attention.value_length",
        ] {
            file.remove(&format!("{architecture}.{key}"));
        }
        file.remove("tokenizer.ggml.pre");
        file.remove("tokenizer.ggml.eot_token_id");
        let (_folder, path) = file.write();
        let published = open(&path);
        assert_eq!(published.config(), original.config(), "{architecture}");
        let tokenizer = Tokenizer::from_checkpoint(&published).unwrap();
        assert_eq!(tokenizer.encode("Once upon a time").unwrap(), prompt);
        // `<|eot_id|>` ends generation although no key says so.
        assert_eq!(tokenizer.eog().collect::<Vec<_>>(), [8177, 8185]);
        assert!(logits(&published, &prompt) == expected, "{architecture}");
    }
}
