//! A receipt that one machine wrote holds on every other: `scripts/test-arm64.sh` and
//! `scripts/test-wasm.sh` compute the one in `data/receipt.json` again.

mod common;

use std::ops::ControlFlow;

use bitnet_core::Isa;
use bitnet_inference::{
    Checkpoint, Engine, GenerateOptions, HeadPrecision, PlanOptions, Receipt, ReceiptEngine,
    ReceiptRequest, SamplerOptions, Tokenizer, Verdict, content_hash, generate,
};
use common::{load, models};

const COMMITTED: &str = include_str!("data/receipt.json");

/// The built-in model.
fn storyteller() -> Checkpoint {
    Checkpoint::open(&models("storyteller/storyteller.gguf")).unwrap()
}

fn engine(checkpoint: &Checkpoint) -> Engine {
    let model = load(checkpoint, Isa::best(), HeadPrecision::Int8);
    common::engine(&model, PlanOptions::default())
}

fn hash(checkpoint: &Checkpoint) -> String {
    content_hash(checkpoint, |_, _| ControlFlow::Continue(())).expect("nothing cancels it")
}

#[test]
fn the_committed_receipt_holds() {
    let checkpoint = storyteller();
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    let receipt = Receipt::from_json(COMMITTED.as_bytes()).unwrap();
    assert_eq!(receipt.weights, hash(&checkpoint));
    let is_eog = |id| tokenizer.is_eog(id);
    let go_on = |_| ControlFlow::Continue(());
    let verdict = receipt.verify(&mut engine(&checkpoint), None, is_eog, go_on);
    assert_eq!(verdict.unwrap(), Some(Verdict::Equal));
}

/// If it fails because the format or the arithmetic changed on purpose, the receipt that it
/// prints is the new one.
#[test]
fn the_committed_receipt_is_current() {
    let checkpoint = storyteller();
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    let mut engine = engine(&checkpoint);
    let request = ReceiptRequest {
        prompt: tokenizer.encode("Once upon a time there was a").unwrap(),
        sampling: SamplerOptions {
            repeat_penalty: 1.1,
            penalty_window: usize::MAX,
            seed: 7,
            ..SamplerOptions::default()
        },
        logit_bias: vec![(13, -2.5), (300, 1.25)],
        grammar: None,
    };
    let options = GenerateOptions {
        sampling: request.sampling,
        logit_bias: &request.logit_bias,
        ..GenerateOptions::new(&request.prompt, 24)
    };
    let is_eog = |id| tokenizer.is_eog(id);
    let go_on = |_| ControlFlow::Continue(());
    let text = generate(&mut engine, &options, is_eog, go_on).unwrap();
    let engine = ReceiptEngine::of(&engine).unwrap();
    let receipt = Receipt::new(engine, request, text.ids, text.finish_reason);
    let receipt = receipt.with_weights(hash(&checkpoint)).to_json();
    assert!(receipt == COMMITTED.trim_end(), "{receipt}");
}
