//! A tiny model of each family, against what `transformers` computes for it:
//! `data/make_families.py` writes both.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::{HybridMemoryPool, Kernel, KvPrecision, Team};
use bitnet_inference::gguf::Gguf;
use bitnet_inference::{
    Activations, Checkpoint, Engine, ForwardError, HeadPrecision, Input, Logits, Model, Plan,
    PlanOptions, Pooling,
};
use serde_json::Value as Json;

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
    let file = std::fs::read(data("reference.json")).unwrap();
    serde_json::from_slice(&file).unwrap()
}

fn ids(run: &Json) -> Vec<u32> {
    let ids = run["ids"].as_array().unwrap();
    ids.iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn floats(json: &Json) -> Vec<f64> {
    let values = json.as_array().unwrap();
    values.iter().map(|x| x.as_f64().unwrap()).collect()
}

fn engine(checkpoint: &Checkpoint, kernel: Kernel, n_threads: usize, n_sequences: usize) -> Engine {
    let options = PlanOptions {
        kernel: Some(kernel),
        n_threads: Some(n_threads),
        n_sequences: Some(n_sequences),
        // As the reference has them.
        kv_precision: KvPrecision::F32,
        ..PlanOptions::default()
    };
    let plan = Plan::new(checkpoint.config(), options).unwrap();
    let mut team = Team::new(n_threads);
    let exact = HeadPrecision::Exact;
    let model = Model::load(
        checkpoint,
        &HybridMemoryPool::new(),
        kernel,
        &mut team,
        exact,
        |_, _| (),
    )
    .unwrap();
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
            let ours = logits(&mut engine(&checkpoint, Kernel::best(), 2, 1), 0, &ids(run));
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
        ("qwen3", "qwen3", Activations::Exact),
        ("llama-dense", "llama", Activations::Exact),
        ("llama-dense-q8_0.gguf", "llama", Activations::Exact),
        ("bonsai-q2_0.gguf", "qwen3", Activations::Exact),
        ("trilm-tq2_0.gguf", "llama", Activations::Exact),
        ("bitnet-100", "bitnet", Activations::Int8),
        ("bitnet-embedding.gguf", "qwen3", Activations::Int8),
    ] {
        let config = config(name);
        assert_eq!(config.family.name(), family, "{name}");
        assert_eq!(config.activations, activations, "{name}");
        assert_eq!(
            config.dense_linears,
            name.contains("dense") || name == "qwen3",
            "{name}"
        );
    }
    assert_eq!(config("qwen3").pooling, None);
    let embedding = config("bitnet-embedding.gguf");
    assert!(embedding.projection_norms);
    assert_eq!(embedding.pooling, Some(Pooling::Last));
}

/// A matrix made by one shard has one scale, and the next may have several.
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
        assert_eq!(activations(&file), Activations::Exact, "{i} of {n_linear}");
        // One scale for all blocks, each of which ends with its own.
        let bytes = &mut file[tensor.offset as usize..][..tensor.span as usize];
        for block in bytes.chunks_exact_mut(66) {
            block[64..].copy_from_slice(&0x2c00u16.to_le_bytes());
        }
    }
    assert_eq!(activations(&file), Activations::Int8);
}

/// The promise of `exactness.rs`, for what only these families compute: scales of
/// groups and rows, split activations, dense weights, norms of heads and inputs.
#[test]
fn kernels_threads_cuts_and_neighbours_do_not_matter_in_any_family() {
    for (name, runs) in reference().as_object().unwrap() {
        let checkpoint = open(name);
        let tokens = ids(runs.as_array().unwrap().last().unwrap());
        let expected = logits(&mut engine(&checkpoint, Kernel::Scalar, 1, 1), 0, &tokens);
        for kernel in Kernel::available() {
            let mut engine = engine(&checkpoint, kernel, 3, 2);
            assert!(
                logits(&mut engine, 0, &tokens) == expected,
                "{name}, {kernel}"
            );
            // In parts, the other sequence beside it.
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
            assert!(found == expected, "{name}, {kernel}, in parts");
        }
    }
}

#[test]
fn an_int8_head_of_trits_stays_exact() {
    let checkpoint = open("bonsai-q2_0.gguf");
    let mut team = Team::new(1);
    for head in [
        HeadPrecision::Exact,
        HeadPrecision::Int8,
        HeadPrecision::Screened,
    ] {
        let (pool, kernel) = (HybridMemoryPool::new(), Kernel::best());
        let model = Model::load(&checkpoint, &pool, kernel, &mut team, head, |_, _| ()).unwrap();
        assert_eq!(model.head_precision(), HeadPrecision::Exact);
    }
}

#[test]
fn embeddings_are_those_of_the_reference() {
    let reference = reference();
    let mut engine = engine(&open("bitnet-embedding.gguf"), Kernel::best(), 2, 1);
    for run in reference["bitnet-embedding.gguf"].as_array().unwrap() {
        let embedding = engine.embed(&ids(run)).unwrap();
        let difference = largest_difference(&embedding, &floats(&run["embedding"]));
        assert!(difference < 1e-6, "embeddings differ by {difference}");
        let length: f32 = embedding.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-6);
        // The text before leaves nothing behind.
        assert!(engine.is_empty(0));
    }
    assert_eq!(engine.embed(&[]), Err(ForwardError::NoTokens));
}
