//! Compares single layers on a device with the reference implementation, each block on the
//! input that the reference had.
//!
//! A model of one layer has the reference's rows as its embedding, and a residual multiplier
//! so large that its output is what the block adds. A linear layer of zeros silences the other
//! block.

use bitnet_core::{HybridMemoryPool, Isa, Scales, ThreadPool};
use bitnet_gpu::{Multipliers, Output, OutputKind, OutputValues, Row, Session, SessionOptions};
use safetensors::SafeTensors;

use super::*;
use crate::device::{Device, DeviceKind};
use crate::forward::tests::{f32s, models, n_flips};

/// The residual multiplier: multiplying by a power of two is exact, and next to the block's
/// output, nothing is left of its input but what [`added`] adds.
const FACTOR: f32 = (1 << 20) as f32;

/// A block of a layer.
#[derive(Clone, Copy, Debug)]
enum Block {
    Attention,
    FeedForward,
}

/// Computes a block of a layer on rows of the residual stream, `[n, hidden_dim]`, the
/// positions from 0 on. Returns the normalized sum of the rows and [`FACTOR`] × its output.
fn block(
    ctx: &mut LoadContext<'_, '_>,
    gpu: &Gpu,
    (layer, block): (usize, Block),
    rows: &[f32],
) -> Vec<f32> {
    let whole = shape(ctx.checkpoint, 128).unwrap();
    let hidden = whole.hidden_dim;
    let n = rows.len() / hidden;
    let shape = ModelShape {
        vocab_size: n,
        layers: vec![whole.layers[layer]],
        embedding: EmbeddingEncoding::F32,
        head: HeadKind::Int8,
        multipliers: Multipliers {
            embedding: 1.0,
            residual: FACTOR,
            ..whole.multipliers
        },
        ..whole
    };
    let mut loader = loader(ctx, gpu, shape).unwrap();
    upload_layer(ctx, &mut loader, layer, 0).unwrap();
    let silenced = match block {
        Block::Attention => Part::Down,
        Block::FeedForward => Part::Output,
    };
    let zeros = |_: usize, trits: &mut [i8]| {
        trits.fill(0);
        Ok::<_, Infallible>(())
    };
    (loader.linear(0, silenced, &Scales::Tensor(0.0), zeros)).unwrap();
    let row = |i: usize, out: &mut [f32]| {
        out.copy_from_slice(&rows[i * hidden..][..hidden]);
        Ok::<_, Infallible>(())
    };
    loader.embedding(row).unwrap();
    loader.head_int8(row).unwrap();
    loader.output_norm(&vec![1.0; hidden]).unwrap();

    let options = SessionOptions {
        n_pages: 1,
        batch_tokens: n,
    };
    let mut session = Session::new(loader.finish().unwrap().into(), options).unwrap();
    let rows: Vec<_> = (0..n as u32)
        .map(|position| Row {
            token: position,
            position,
            page_table: 0,
        })
        .collect();
    let outputs: Vec<_> = (0..n)
        .map(|row| Output {
            row,
            kind: OutputKind::Hidden,
        })
        .collect();
    let mut found = Vec::new();
    let mut on_output = |_, values: OutputValues<'_>| match values {
        OutputValues::Values(values) => found.extend_from_slice(values),
        OutputValues::Top(_) => panic!("logits, not the hidden state"),
    };
    (session.pass(&rows, &[&[0]], &outputs, &mut on_output)).unwrap();
    found
}

/// Returns what [`block`] returns if the output of the block is `added`.
fn expected(input: &[f32], added: &[f32], width: usize) -> Vec<f32> {
    let rows = input.chunks(width).zip(added.chunks(width));
    let normalized = |(input, added): (&[f32], &[f32])| {
        let sum = |(x, y): (&f32, &f32)| f64::from(*x) + f64::from(FACTOR) * f64::from(*y);
        let sums: Vec<f64> = input.iter().zip(added).map(sum).collect();
        let square = sums.iter().map(|x| x * x).sum::<f64>() / width as f64;
        let normalized = sums.into_iter().map(|x| (x / square.sqrt()) as f32);
        normalized.collect::<Vec<_>>()
    };
    rows.flat_map(normalized).collect()
}

fn check_layers(model: &std::path::Path, activations: &std::path::Path) {
    let device = match Device::open(DeviceKind::Vulkan, None) {
        Ok(device) => device,
        Err(error) => return skip(&error.to_string()),
    };
    let Device::Gpu(gpu) = device else {
        panic!("{device:?}");
    };
    let file = std::fs::read(activations).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let checkpoint = Checkpoint::open(model).unwrap();
    let (pool, mut threads) = (HybridMemoryPool::new(), ThreadPool::new(2));
    let ctx = &mut LoadContext {
        checkpoint: &checkpoint,
        pool: &pool,
        compute: &mut bitnet_core::ComputeContext::new(Isa::best(), &mut threads),
        layout: bitnet_core::TernaryLayout::TwoBits,
        read_all: true,
        packed: None,
        notes: Vec::new(),
    };
    let width = checkpoint.config().hidden_dim;
    let (mut flips, mut rows) = (0, 0);
    for layer in 0..checkpoint.config().n_layers {
        for (kind, input, added) in [
            (Block::Attention, "input", "attn_out"),
            (Block::FeedForward, "mlp_in", "mlp_out"),
        ] {
            let stored = |part: &str| f32s(&tensors, &format!("layers.{layer}.{part}"));
            let (input, added) = (stored(input), stored(added));
            let found = block(ctx, &gpu, (layer, kind), &input);
            let n = n_flips(
                &format!("{kind:?}"),
                &found,
                &expected(&input, &added, width),
                width,
            );
            // The device has keys and values in f16, so that most rows of attention differ.
            if let Block::FeedForward = kind {
                flips += n;
                rows += input.len() / width;
            }
        }
    }
    assert!(flips * 20 <= rows, "{flips} of {rows} rows have flips");
}

#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn skip(reason: &str) {
    let is_required = std::env::var_os("BITNET_GPU_TESTS").is_some_and(|v| v == "required");
    assert!(!is_required, "{reason}");
    eprintln!("SKIPPED: no GPU or software adapter to test on: {reason}");
}

#[test]
fn layers_of_the_tiny_model_agree_on_a_gpu() {
    let folder = models("storyteller-tiny");
    check_layers(&folder, &folder.join("reference-activations.safetensors"));
}

#[test]
fn layers_of_the_built_in_model_agree_on_a_gpu() {
    let folder = models("storyteller");
    check_layers(
        &folder.join("storyteller.gguf"),
        &folder.join("reference-activations.safetensors"),
    );
}
