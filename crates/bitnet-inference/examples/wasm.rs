//! Greedy generation with the built-in model in WebAssembly. The interface passes only
//! numbers, so no memory is shared with the host.
//!
//! `wasm.mjs` runs this module in Node; `scripts/test-wasm.sh` builds and runs both.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::Arc;

use bitnet_core::{ComputeContext, HybridMemoryPool, Isa, KvPrecision, ThreadPool};
use bitnet_inference::{
    Engine, GenerateOptions, HeadPrecision, Input, Logits, Model, Plan, PlanOptions, Receipt,
    SamplerOptions, Tokenizer, Verdict, builtin, content_hash, generate,
};

struct Session {
    tokenizer: Tokenizer,
    engine: Engine,
    prompt: Vec<u8>,
    tokens: Vec<u32>,
}

thread_local! {
    static SESSION: RefCell<Session> = RefCell::new(Session::new());
}

/// Returns an engine with the built-in model.
fn engine(head: HeadPrecision, kv_precision: KvPrecision) -> Engine {
    let checkpoint = builtin::open();
    let options = PlanOptions {
        kv_precision,
        ..PlanOptions::default()
    };
    let plan = Plan::new(checkpoint.config(), options).expect("the defaults are a plan");
    let (pool, mut threads) = (HybridMemoryPool::new(), ThreadPool::new(plan.n_threads));
    let ctx = &mut ComputeContext::new(plan.isa, &mut threads);
    let model = Model::load(&checkpoint, &pool, ctx, head, |_, _| ());
    let model = model.expect("the built-in model is whole");
    Engine::new(Arc::new(model), plan).expect("there is memory")
}

impl Session {
    /// Returns a session with the precision of the reference.
    fn new() -> Self {
        Self {
            tokenizer: Tokenizer::from_checkpoint(&builtin::open()).expect("it has a tokenizer"),
            engine: engine(HeadPrecision::Exact, KvPrecision::F32),
            prompt: Vec::new(),
            tokens: Vec::new(),
        }
    }

    fn run(&mut self, max_tokens: usize) -> usize {
        let prompt = std::mem::take(&mut self.prompt);
        let prompt = str::from_utf8(&prompt).expect("the prompt is UTF-8");
        self.tokens = self.tokenizer.encode(prompt).expect("any text has tokens");
        let options = GenerateOptions {
            prompt: &self.tokens,
            max_tokens,
            sampling: SamplerOptions::GREEDY,
            logit_bias: &[],
            reuse: 0,
            speculate: true,
        };
        let is_eog = |id| self.tokenizer.is_eog(id);
        let go_on = |_| ControlFlow::Continue(());
        let story = generate(&mut self.engine, &options, is_eog, go_on)
            .expect("the prompt fits the context");
        self.tokens.extend(story.ids);
        self.tokens.len()
    }
}

/// Returns the FNV-1a hash of the logits of the first `n` tokens; `precision` is the index of
/// a precision in the golden record of `tests/exactness.rs`.
#[unsafe(no_mangle)]
pub extern "C" fn hash_logits(n: usize, precision: usize) -> u64 {
    let (head, kv) = [
        (HeadPrecision::Exact, KvPrecision::F32),
        (HeadPrecision::Int8, KvPrecision::F16),
        (HeadPrecision::Exact, KvPrecision::Int8),
    ][precision];
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let add = |_, _, logits: &[f32]| {
        for byte in logits.iter().flat_map(|logit| logit.to_le_bytes()) {
            hash = (hash ^ byte as u64).wrapping_mul(0x100_0000_01b3);
        }
    };
    SESSION.with_borrow(|session| {
        let input = Input {
            sequence: 0,
            tokens: &session.tokens[..n],
            logits: Logits::All,
        };
        engine(head, kv)
            .forward(&[input], add)
            .expect("the tokens fit");
    });
    hash
}

/// Returns whether the text of the receipt in `tests/data` is computed again, token by token.
#[unsafe(no_mangle)]
pub extern "C" fn verify_receipt() -> bool {
    let receipt = Receipt::from_json(include_bytes!("../tests/data/receipt.json"));
    let receipt = receipt.expect("it is a receipt");
    let go_on = |_| ControlFlow::Continue(());
    let hash = content_hash(&builtin::open(), |_, _| ControlFlow::Continue(()));
    let mut engine = engine(receipt.head(), receipt.kv_precision());
    let verdict = SESSION.with_borrow(|session| {
        let is_eog = |id| session.tokenizer.is_eog(id);
        receipt.verify(&mut engine, None, is_eog, go_on)
    });
    hash.as_ref() == Some(&receipt.weights) && matches!(verdict, Ok(Some(Verdict::Equal)))
}

/// Returns whether the kernel uses SIMD.
#[unsafe(no_mangle)]
pub extern "C" fn uses_simd() -> bool {
    Isa::best() != Isa::Scalar
}

/// Appends a UTF-8 byte to the prompt.
#[unsafe(no_mangle)]
pub extern "C" fn push_byte(byte: u8) {
    SESSION.with_borrow_mut(|session| session.prompt.push(byte));
}

/// Continues the prompt greedily by at most `max_tokens` and clears it. Returns the total
/// number of tokens.
#[unsafe(no_mangle)]
pub extern "C" fn run(max_tokens: usize) -> usize {
    SESSION.with_borrow_mut(|session| session.run(max_tokens))
}

/// Returns a token of the last prompt and continuation.
#[unsafe(no_mangle)]
pub extern "C" fn token(index: usize) -> u32 {
    SESSION.with_borrow(|session| session.tokens[index])
}

/// The `custom` backend of getrandom: constant hash map seeds, since the input is trusted. In
/// a browser, use its `wasm_js` backend.
///
/// # Safety
///
/// `to` must be valid for writes of `len` bytes.
#[cfg(target_arch = "wasm32")]
#[unsafe(no_mangle)]
unsafe extern "Rust" fn __getrandom_v03_custom(
    to: *mut u8,
    len: usize,
) -> Result<(), getrandom::Error> {
    // SAFETY: guaranteed by the caller.
    unsafe { to.write_bytes(0x5a, len) };
    Ok(())
}
