//! The bodies of requests.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = bitnet_server::hostile::request(data);
});
