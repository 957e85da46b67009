//! The tokenizer metadata of a GGUF file.
#![no_main]

#[path = "../../crates/bitnet-inference/tests/common/hostile.rs"]
#[allow(dead_code, reason = "each target calls one parser")]
mod hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = hostile::tokenizer(data);
});
