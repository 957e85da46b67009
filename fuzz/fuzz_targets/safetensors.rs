//! Opens a HuggingFace folder (configuration, index and tensors) and loads its weights.
#![no_main]

#[path = "../../crates/bitnet-inference/tests/common/hostile.rs"]
#[allow(dead_code, reason = "each target calls one parser")]
mod hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    if let Ok(checkpoint) = hostile::open_folder(folder.path(), hostile::parts(data)) {
        let _ = hostile::load(&checkpoint);
    }
});
