//! The headers that say whether a server answers a request.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = bitnet_server::hostile::access(data);
});
