//! Schemas, regular expressions and grammars of requests, and texts that follow them.
#![no_main]

use std::sync::Once;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // llguidance catches its own panics, and makes errors of them; the hook of libFuzzer would
    // end the process before. Other panics still do.
    static HOOK: Once = Once::new();
    HOOK.call_once(|| std::panic::set_hook(Box::new(|panic| eprintln!("{panic}"))));
    let _ = bitnet_server::hostile::grammar(data);
});
