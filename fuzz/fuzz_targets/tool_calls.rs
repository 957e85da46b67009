//! Calls of tools in the text of a model.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = bitnet_server::hostile::tool_calls(data);
});
