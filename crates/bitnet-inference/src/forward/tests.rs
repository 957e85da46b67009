//! Compares single layers with the reference implementation, each on the input that the
//! reference had.

use std::path::Path;
use std::sync::Arc;

use bitnet_core::{HybridMemoryPool, KvPrecision, PagedKv, RowPosition, ThreadPool};
use safetensors::SafeTensors;

use super::*;
use crate::format::checkpoint::Checkpoint;
use crate::model::{HeadPrecision, Model};
use crate::plan::{Plan, PlanOptions};

pub(crate) fn models(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../models")
        .join(name)
}

pub(crate) fn f32s(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = tensors.tensor(name).unwrap();
    let (values, rest) = tensor.data().as_chunks::<4>();
    assert!(rest.is_empty() && !values.is_empty());
    values.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Compares rows of `width` values. Returns the number of rows with a flip: an activation
/// rounded to a different int8 value, beyond the rounding noise of f32.
pub(crate) fn n_flips(what: &str, found: &[f32], expected: &[f32], width: usize) -> usize {
    assert_eq!(found.len(), expected.len(), "{what}");
    let rows = found.chunks(width).zip(expected.chunks(width));
    let errors = rows.map(|(found, expected)| {
        let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
        let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
        difference / norm(&mut expected.iter().copied())
    });
    errors
        .filter(|&error| {
            assert!(error < 1e-2, "{what}: relative error {error}");
            error > 3e-6
        })
        .count()
}

fn check_layers(model: &Path, activations: &Path, logit_tolerance: f32) {
    let file = std::fs::read(activations).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let checkpoint = Checkpoint::open(model).unwrap();
    let (pool, mut threads) = (HybridMemoryPool::new(), ThreadPool::new(2));
    let head = HeadPrecision::Exact;
    let ctx = &mut ComputeContext::new(Isa::best(), &mut threads);
    let model = Model::load(&checkpoint, &pool, ctx, head, |_, _| ()).unwrap();
    let options = PlanOptions {
        kv_precision: KvPrecision::F32,
        ..PlanOptions::default()
    };
    let plan = Plan::new(model.config(), options).unwrap();
    let model = Arc::new(model);
    let mut forward = Forward::new(Arc::clone(&model), &plan).unwrap();
    let mut kv = PagedKv::new(&pool, kv_cache::shape(model.config(), plan.kv_precision), 1);

    let hidden = model.config().hidden_dim;
    let n = f32s(&tensors, "embed").len() / hidden;
    let positions = (0..n).map(|position| RowPosition {
        sequence: 0,
        position,
    });
    let batch = Batch {
        tokens: Vec::new(),
        rows: positions.collect(),
        requests: Vec::new(),
    };
    kv.reserve(0, 0, n).unwrap();
    forward.rope.extend(n);
    let (mut flips, mut rows) = (0, 0);
    for layer in 0..model.config().n_layers {
        let stored = |part: &str| f32s(&tensors, &format!("layers.{layer}.{part}"));
        forward.x[..n * hidden].copy_from_slice(&stored("input"));
        forward.attention_block(layer, &batch, &mut kv);
        let attn_out = forward.branch[..n * hidden].to_vec();
        flips += n_flips("attn_out", &attn_out, &stored("attn_out"), hidden);
        forward.x[..n * hidden].copy_from_slice(&stored("mlp_in"));
        forward.ffn_block(layer, n);
        let mlp_out = forward.branch[..n * hidden].to_vec();
        flips += n_flips("mlp_out", &mlp_out, &stored("mlp_out"), hidden);
        // Flips are not counted: the residual stream is larger than what they add to it.
        n_flips(
            "output",
            &forward.x[..n * hidden],
            &stored("output"),
            hidden,
        );
        rows += 2 * n;
    }
    // The independent check of the model card found flips in 5 of 288 outputs.
    assert!(flips * 20 <= rows, "{flips} of {rows} rows have flips");

    // The final norm and the exact head, on the stored output of the last layer.
    let last = model.config().n_layers - 1;
    let output = f32s(&tensors, &format!("layers.{last}.output"));
    forward.x[..n * hidden].copy_from_slice(&output);
    let wanted: Vec<_> = (0..n)
        .map(|row| LogitsRequest {
            row,
            ..LogitsRequest::default()
        })
        .collect();
    let mut found = Vec::new();
    let computed = forward.head(&wanted, &mut |_, _, logits: &[f32]| {
        found.extend_from_slice(logits);
    });
    computed.unwrap();
    let vocab = model.config().vocab_size;
    let expected = f32s(&tensors, "logits");
    for (found, expected) in found.chunks(vocab).zip(expected.chunks(vocab)) {
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < logit_tolerance, "logit {a}, reference {b}");
        }
    }
}

#[test]
fn layers_of_the_tiny_model_agree() {
    let folder = models("storyteller-tiny");
    let activations = folder.join("reference-activations.safetensors");
    // The output matrix is that of the reference: only rounding differs.
    check_layers(&folder, &activations, 2e-5);
}

#[test]
fn layers_of_the_built_in_model_agree() {
    let folder = models("storyteller");
    check_layers(
        &folder.join("storyteller.gguf"),
        &folder.join("reference-activations.safetensors"),
        // The output matrix of the file is Q8_0: measured difference at most 0.06.
        0.1,
    );
}
