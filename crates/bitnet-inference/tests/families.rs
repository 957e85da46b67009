//! A tiny model of each family, compared with the results of `transformers`, or of numpy in
//! float64: `data/make_families.py` and `data/make_minicpm_gemma3.py` write both.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::{ComputeContext, HybridMemoryPool, Isa, KvPrecision, ThreadPool};
use bitnet_inference::convert::{ConvertError, ConvertOptions, GgufWeights, Target, convert};
use bitnet_inference::gguf::{Gguf, GgufWriter, Value};
use bitnet_inference::{
    ActivationPrecision, Checkpoint, CheckpointError, Engine, ForwardError, HeadPrecision, Input,
    Logits, Model, Plan, PlanOptions, Pooling,
};
use serde_json::{Value as Json, json};

/// The number of the type in GGUF files.
const TQ2_0: u32 = 35;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/families")
        .join(name)
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&data(name)).unwrap()
}

fn reference() -> Json {
    let read = |name| -> serde_json::Map<String, Json> {
        let file = std::fs::read(data(name)).unwrap();
        serde_json::from_slice(&file).unwrap()
    };
    let mut models = read("reference.json");
    models.extend(read("reference64.json"));
    models.into()
}

fn ids(run: &Json) -> Vec<u32> {
    let ids = run["ids"].as_array().unwrap();
    ids.iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn floats(json: &Json) -> Vec<f64> {
    let values = json.as_array().unwrap();
    values.iter().map(|x| x.as_f64().unwrap()).collect()
}

fn engine(checkpoint: &Checkpoint, isa: Isa, n_threads: usize, n_sequences: usize) -> Engine {
    let options = PlanOptions {
        isa: Some(isa),
        n_threads: Some(n_threads),
        n_sequences: Some(n_sequences),
        // As the reference has them.
        kv_precision: KvPrecision::F32,
        ..PlanOptions::default()
    };
    let plan = Plan::new(checkpoint.config(), options).unwrap();
    let mut threads = ThreadPool::new(n_threads);
    let exact = HeadPrecision::Exact;
    let (pool, ctx) = (
        HybridMemoryPool::new(),
        &mut ComputeContext::new(isa, &mut threads),
    );
    let model = Model::load(checkpoint, &pool, ctx, exact, |_, _| ()).unwrap();
    Engine::new(Arc::new(model), plan).unwrap()
}

/// Continues a sequence and returns the logits of every position.
fn logits(engine: &mut Engine, sequence: usize, tokens: &[u32]) -> Vec<Vec<f32>> {
    let input = Input {
        sequence,
        tokens,
        logits: Logits::All,
    };
    let mut all = Vec::new();
    let collect = |_, _, logits: &[f32]| all.push(logits.to_vec());
    engine.forward(&[input], collect).unwrap();
    all
}

fn largest_difference(ours: &[f32], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let differences = ours.iter().zip(theirs).map(|(&a, b)| f64::from(a) - b);
    differences.map(f64::abs).fold(0.0, f64::max)
}

#[test]
fn logits_of_every_family_agree_with_the_reference() {
    // Both sides round to f32 at every step. Measured: 3e-6 at most.
    const TOLERANCE: f64 = 2e-5;
    for (name, runs) in reference().as_object().unwrap() {
        let checkpoint = open(name);
        for run in runs.as_array().unwrap() {
            let ours = logits(&mut engine(&checkpoint, Isa::best(), 2, 1), 0, &ids(run));
            let last = largest_difference(ours.last().unwrap(), &floats(&run["logits"]));
            assert!(last < TOLERANCE, "{name}: logits differ by {last}");
            for (ours, sum) in ours.iter().zip(floats(&run["logsumexp"])) {
                let found = ours.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
                let difference = (found - sum).abs();
                assert!(
                    difference < TOLERANCE,
                    "{name}: log-sum-exp differs by {difference}"
                );
            }
        }
    }
}

#[test]
fn a_model_is_recognised_by_what_it_is() {
    let config = |name: &str| open(name).config().clone();
    for (name, family, activations) in [
        ("qwen3", "qwen3", ActivationPrecision::Exact),
        ("llama-dense", "llama", ActivationPrecision::Exact),
        ("llama-dense-q8_0.gguf", "llama", ActivationPrecision::Exact),
        ("bonsai-q2_0.gguf", "qwen3", ActivationPrecision::Exact),
        ("trilm-tq2_0.gguf", "llama", ActivationPrecision::Exact),
        ("bitnet-100", "bitnet", ActivationPrecision::Int8),
        ("bitnet-embedding.gguf", "qwen3", ActivationPrecision::Int8),
        ("minicpm-tq2_0.gguf", "minicpm", ActivationPrecision::Exact),
        ("minicpm", "minicpm", ActivationPrecision::Exact),
        ("gemma3-i2_s.gguf", "gemma3", ActivationPrecision::Int8),
        ("gemma3-embedding", "gemma3", ActivationPrecision::Int8),
        ("gemma3-dense", "gemma3", ActivationPrecision::Exact),
    ] {
        let config = config(name);
        assert_eq!(config.family.name(), family, "{name}");
        assert_eq!(config.activations, activations, "{name}");
        assert_eq!(
            config.dense_linears,
            name.contains("dense") || ["qwen3", "minicpm"].contains(&name),
            "{name}"
        );
    }
    assert_eq!(config("qwen3").pooling, None);
    // One of them has another pooling type, as written by Microsoft's converter.
    for name in [
        "bitnet-embedding.gguf",
        "gemma3-i2_s.gguf",
        "gemma3-embedding",
    ] {
        let embedding = config(name);
        assert!(embedding.projection_norms);
        assert_eq!(embedding.pooling, Some(Pooling::Last));
    }
    // Sliding windows in files, and defaults.
    assert_eq!(config("gemma3-i2_s.gguf").sliding, None);
    let sliding = config("gemma3-embedding").sliding.unwrap();
    assert_eq!(
        (sliding.window, &sliding.layers[..]),
        (8, &[true, false][..])
    );
    let sliding = config("gemma3-dense").sliding.unwrap();
    assert_eq!(
        (sliding.window, &sliding.layers[..]),
        (8, &[true, false, true][..])
    );
}

/// A MiniCPM with the same scale everywhere.
fn minicpm_with_one_scale() -> Checkpoint {
    let mut file = std::fs::read(data("minicpm-tq2_0.gguf")).unwrap();
    let gguf = Gguf::parse(&file).unwrap();
    for tensor in gguf.tensors().iter().filter(|t| t.type_id == TQ2_0) {
        let bytes = &mut file[tensor.offset as usize..][..tensor.span as usize];
        for block in bytes.chunks_exact_mut(66) {
            block[64..].copy_from_slice(&0x2c00u16.to_le_bytes());
        }
    }
    Checkpoint::from_gguf_bytes(file).unwrap()
}

/// BitCPM4's activations are never quantized, even if all scales of a matrix are equal; a
/// folder with packed weights would imply that they are.
#[test]
fn minicpm_activations_stay_exact_with_one_scale_a_matrix() {
    let checkpoint = minicpm_with_one_scale();
    assert_eq!(checkpoint.config().activations, ActivationPrecision::Exact);
    let folder = tempfile::tempdir().unwrap();
    let refused = try_convert(&checkpoint, &folder.path().join("hf"), Target::HfPacked);
    let refused = refused.unwrap_err();
    assert!(matches!(refused, ConvertError::NoWords { .. }), "{refused}");
}

/// The reference uses the divisors of long contexts.
#[test]
fn longrope_turns_otherwise_in_a_context_of_the_first_training() {
    let checkpoint = open("minicpm-tq2_0.gguf");
    let run = |context_len| {
        let options = PlanOptions {
            context_len: Some(context_len),
            n_threads: Some(1),
            kv_precision: KvPrecision::F32,
            ..PlanOptions::default()
        };
        let plan = Plan::new(checkpoint.config(), options).unwrap();
        let (pool, mut threads) = (HybridMemoryPool::new(), ThreadPool::new(1));
        let head = HeadPrecision::Exact;
        let ctx = &mut ComputeContext::new(plan.isa, &mut threads);
        let model = Model::load(&checkpoint, &pool, ctx, head, |_, _| ());
        let mut engine = Engine::new(Arc::new(model.unwrap()), plan).unwrap();
        logits(&mut engine, 0, &[1, 2, 3, 4, 5])
    };
    assert_eq!(run(33), run(64));
    assert_eq!(run(8), run(32));
    // The first position is not rotated.
    assert_eq!(run(8)[0], run(64)[0]);
    assert_ne!(run(8)[4], run(64)[4]);
}

/// One matrix may have a single scale, and the next several.
#[test]
fn one_matrix_with_several_scales_makes_activations_exact() {
    let mut file = std::fs::read(data("trilm-tq2_0.gguf")).unwrap();
    let gguf = Gguf::parse(&file).unwrap();
    let n_linear = gguf.tensors().iter().filter(|t| t.type_id == TQ2_0).count();
    let activations = |file: &[u8]| {
        let checkpoint = Checkpoint::from_gguf_bytes(file.to_vec()).unwrap();
        checkpoint.config().activations
    };
    let linear = gguf.tensors().iter().filter(|t| t.type_id == TQ2_0);
    for (i, tensor) in linear.enumerate() {
        assert_eq!(
            activations(&file),
            ActivationPrecision::Exact,
            "{i} of {n_linear}"
        );
        // One scale for all blocks, each of which ends with its own.
        let bytes = &mut file[tensor.offset as usize..][..tensor.span as usize];
        for block in bytes.chunks_exact_mut(66) {
            block[64..].copy_from_slice(&0x2c00u16.to_le_bytes());
        }
    }
    assert_eq!(activations(&file), ActivationPrecision::Int8);
}

/// The guarantee of `exactness.rs` for operations specific to these families: scales per
/// group and row, split activations, dense weights, norms of heads and inputs.
#[test]
fn kernels_threads_cuts_and_neighbours_do_not_matter_in_any_family() {
    for (name, runs) in reference().as_object().unwrap() {
        let checkpoint = open(name);
        let tokens = ids(runs.as_array().unwrap().last().unwrap());
        let expected = logits(&mut engine(&checkpoint, Isa::Scalar, 1, 1), 0, &tokens);
        for isa in Isa::available() {
            let mut engine = engine(&checkpoint, isa, 3, 2);
            assert!(logits(&mut engine, 0, &tokens) == expected, "{name}, {isa}");
            // In parts, batched with another sequence.
            engine.truncate(0, 0);
            let mut found = Vec::new();
            for part in tokens.chunks(7) {
                let inputs = [(1, &tokens[..3]), (0, part)].map(|(sequence, tokens)| Input {
                    sequence,
                    tokens,
                    logits: Logits::All,
                });
                let mut collect = |input, _: usize, logits: &[f32]| {
                    if input == 1 {
                        found.push(logits.to_vec());
                    }
                };
                engine.forward(&inputs, &mut collect).unwrap();
            }
            assert!(found == expected, "{name}, {isa}, in parts");
        }
    }
}

#[test]
fn an_int8_head_of_trits_stays_exact() {
    let checkpoint = open("bonsai-q2_0.gguf");
    let mut threads = ThreadPool::new(1);
    for head in [
        HeadPrecision::Exact,
        HeadPrecision::Int8,
        HeadPrecision::ExactTopK,
    ] {
        let pool = HybridMemoryPool::new();
        let ctx = &mut ComputeContext::new(Isa::best(), &mut threads);
        let model = Model::load(&checkpoint, &pool, ctx, head, |_, _| ()).unwrap();
        assert_eq!(model.head_precision(), HeadPrecision::Exact);
    }
}

#[test]
fn embeddings_are_those_of_the_reference() {
    let reference = reference();
    for name in [
        "bitnet-embedding.gguf",
        "gemma3-i2_s.gguf",
        "gemma3-embedding",
    ] {
        let mut engine = engine(&open(name), Isa::best(), 2, 1);
        for run in reference[name].as_array().unwrap() {
            let embedding = engine.embed(&ids(run)).unwrap();
            let difference = largest_difference(&embedding, &floats(&run["embedding"]));
            assert!(
                difference < 1e-6,
                "{name}: embeddings differ by {difference}"
            );
            let length: f32 = embedding.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-6);
            // Previous texts have no effect.
            assert!(engine.is_empty(0));
        }
        assert_eq!(engine.embed(&[]), Err(ForwardError::NoTokens));
    }
}

/// Copies a folder of the test data, with another `config.json` and a small tokenizer.
fn edited(name: &str, edit: impl FnOnce(&mut Json)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let read = |file: &str| std::fs::read(data(name).join(file)).unwrap();
    let write = |file: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(file), bytes).unwrap();
    };
    write("model.safetensors", &read("model.safetensors"));
    let mut config: Json = serde_json::from_slice(&read("config.json")).unwrap();
    edit(&mut config);
    write("config.json", config.to_string().as_bytes());
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": null,
        "model": {
            "type": "BPE", "byte_fallback": true, "fuse_unk": true, "unk_token": "<unk>",
            "vocab": { "<unk>": 0, "</s>": 1, "▁": 2, "a": 3, "b": 4, "ab": 5 },
            "merges": ["a b"],
        },
    });
    write("tokenizer.json", tokenizer.to_string().as_bytes());
    folder
}

fn try_convert(source: &Checkpoint, out: &Path, target: Target) -> Result<(), ConvertError> {
    let options = ConvertOptions {
        target,
        head: None,
        overwrite: false,
    };
    let carry_on = |_, _| ControlFlow::Continue(());
    convert(source, out, options, &mut ThreadPool::new(2), carry_on)
}

#[test]
fn gemma_goes_to_gguf_and_to_a_folder_and_stays_the_same_model() {
    let tokens = ids(&reference()["gemma3-embedding"][1]);
    let run = |checkpoint: &Checkpoint| {
        let mut engine = engine(checkpoint, Isa::best(), 1, 1);
        (
            logits(&mut engine, 0, &tokens),
            engine.embed(&tokens).unwrap(),
        )
    };
    let folder = tempfile::tempdir().unwrap();
    let [gguf, hf, again] = ["a.gguf", "hf", "b.gguf"].map(|name| folder.path().join(name));
    // GGUF files of Gemma 3 cannot represent a divisor other than the head size.
    let i2_s = Target::Gguf(GgufWeights::I2S);
    let other = edited("gemma3-embedding", |_| ());
    let refused = try_convert(&Checkpoint::open(other.path()).unwrap(), &gguf, i2_s);
    let refused = refused.unwrap_err();
    assert!(matches!(refused, ConvertError::NoWords { .. }), "{refused}");

    let source = edited("gemma3-embedding", |config| {
        config["query_pre_attn_scalar"] = 32.into();
    });
    let source = Checkpoint::open(source.path()).unwrap();
    let expected = run(&source);
    try_convert(&source, &gguf, i2_s).unwrap();
    let in_gguf = Checkpoint::open(&gguf).unwrap();
    assert_eq!(in_gguf.config(), source.config());
    assert!(
        run(&in_gguf) == expected,
        "the GGUF file computes something else"
    );
    try_convert(&in_gguf, &hf, Target::HfPacked).unwrap();
    let in_folder = Checkpoint::open(&hf).unwrap();
    assert_eq!(in_folder.config(), source.config());
    assert!(
        run(&in_folder) == expected,
        "the folder computes something else"
    );
    try_convert(&in_folder, &again, i2_s).unwrap();
    assert!(run(&Checkpoint::open(&again).unwrap()) == expected);

    // Every pattern of layers with a window.
    for layers in [vec![true, true], vec![false, true], vec![false, false]] {
        let types: Vec<_> = (layers.iter())
            .map(|is_sliding| {
                if *is_sliding {
                    "sliding_attention"
                } else {
                    "full_attention"
                }
            })
            .collect();
        let source = edited("gemma3-embedding", |config| {
            config["query_pre_attn_scalar"] = 32.into();
            config["rope_local_base_freq"] = 20_000.into();
            config["layer_types"] = json!(types);
        });
        let source = Checkpoint::open(source.path()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let [gguf, hf] = ["a.gguf", "hf"].map(|name| folder.path().join(name));
        try_convert(&source, &gguf, i2_s).unwrap();
        let in_gguf = Checkpoint::open(&gguf).unwrap();
        assert_eq!(in_gguf.config(), source.config());
        assert_eq!(in_gguf.config().sliding.is_some(), layers.contains(&true));
        try_convert(&in_gguf, &hf, Target::HfPacked).unwrap();
        assert_eq!(Checkpoint::open(&hf).unwrap().config(), source.config());
    }
}

#[test]
fn minicpm_keeps_its_multipliers_and_divisors_in_another_type() {
    let source = open("minicpm-tq2_0.gguf");
    let folder = tempfile::tempdir().unwrap();
    let tq1_0 = folder.path().join("tq1_0.gguf");
    try_convert(&source, &tq1_0, Target::Gguf(GgufWeights::TQ1_0)).unwrap();
    let converted = Checkpoint::open(&tq1_0).unwrap();
    assert_eq!(converted.config(), source.config());
    let tokens = [5, 4, 3, 2, 1];
    let run = |checkpoint| logits(&mut engine(checkpoint, Isa::best(), 1, 1), 0, &tokens);
    assert!(run(&converted) == run(&source));
}

#[test]
fn what_a_gemma_or_minicpm_folder_must_not_say_is_refused() {
    type Edit = fn(&mut Json);
    let cases: [(&str, Edit, &str); 8] = [
        (
            "gemma3-dense",
            |config| config["use_bidirectional_attention"] = true.into(),
            r#"Unsupported { what: "use_bidirectional_attention", found: "true", expected: "false: attention to what came before" }"#,
        ),
        (
            "gemma3-dense",
            |config| config["final_logit_softcapping"] = 30.0.into(),
            r#"Unsupported { what: "soft-capping", found: "30", expected: "none" }"#,
        ),
        (
            "gemma3-dense",
            |config| config["layer_types"][1] = "linear_attention".into(),
            r#"Unsupported { what: "layer type", found: "linear_attention", expected: "sliding_attention or full_attention" }"#,
        ),
        (
            "gemma3-dense",
            |config| config["layer_types"] = json!(["sliding_attention"]),
            "Config(SlidingLayers { expected: 3, found: 1 })",
        ),
        (
            "gemma3-dense",
            |config| config["sliding_window"] = 0.into(),
            r#"Config(Size { what: "sliding window", value: 0, limit: 16777216 })"#,
        ),
        (
            "gemma3-dense",
            |config| config["hidden_activation"] = "gelu".into(),
            r#"Unsupported { what: "activation", found: "gelu", expected: "relu2, silu or gelu_pytorch_tanh" }"#,
        ),
        (
            "minicpm",
            |config| config["scale_depth"] = Json::Null,
            r#"MissingKey { key: "scale_depth" }"#,
        ),
        (
            "minicpm",
            |config| config["rope_scaling"]["long_factor"] = json!([1.0]),
            "Config(RopeDivisors { expected: 8, found: 1 })",
        ),
    ];
    for (name, edit, expected) in cases {
        let error = Checkpoint::open(edited(name, edit).path()).unwrap_err();
        assert_eq!(format!("{error:?}"), expected);
    }
}

/// Linear attention is unsupported, although the files resemble Qwen3's.
#[test]
fn qwen35_is_refused_by_name() {
    let folder = edited("qwen3", |config| {
        config["model_type"] = "qwen3_5_text".into();
    });
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert!(
        matches!(&error, CheckpointError::Architecture { found } if found == "qwen3_5_text"),
        "{error:?}"
    );
    let mut writer = GgufWriter::new();
    let name = "qwen35".to_owned();
    writer.metadata("general.architecture", Value::String(name));
    let file = writer.write(Vec::new(), |_, _| Ok::<_, std::io::Error>(()));
    let error = Checkpoint::from_gguf_bytes(file.unwrap()).unwrap_err();
    assert!(
        matches!(&error, CheckpointError::Architecture { found } if found == "qwen35"),
        "{error:?}"
    );
    assert!(error.to_string().contains("minicpm, gemma3"), "{error}");
}
