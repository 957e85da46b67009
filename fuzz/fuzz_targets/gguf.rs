//! Opens a GGUF file and loads its weights and tokenizer.
#![no_main]

#[path = "../../crates/bitnet-inference/tests/common/hostile.rs"]
#[allow(dead_code, reason = "each target calls one parser")]
mod hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(checkpoint) = hostile::open_gguf(data.to_vec()) {
        let _ = hostile::load(&checkpoint);
        let _ = bitnet_inference::Tokenizer::from_checkpoint(&checkpoint);
    }
});
