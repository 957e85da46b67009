//! The chat template of a model.
#![no_main]

#[path = "../../crates/bitnet-inference/tests/common/hostile.rs"]
#[allow(dead_code, reason = "each target calls one parser")]
mod hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = hostile::template(data);
});
