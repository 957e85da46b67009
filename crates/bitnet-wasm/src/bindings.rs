//! The interface to JavaScript.
//!
//! An error is thrown as the JSON document of a [`Failure`]. A panic ends the instance: its
//! message is kept for [`take_panic`].

use std::sync::{Mutex, PoisonError};

use js_sys::Function;
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};

use crate::failure::Failure;
use crate::loader::Loader;
use crate::options;
use crate::session::Session;

static PANIC: Mutex<String> = Mutex::new(String::new());

/// Runs when the module is instantiated.
#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|panic| {
        let mut message = PANIC.lock().unwrap_or_else(PoisonError::into_inner);
        *message = panic.to_string();
    }));
}

/// Returns the message of the panic that ended the instance, or nothing.
#[wasm_bindgen(js_name = takePanic)]
pub fn take_panic() -> String {
    std::mem::take(&mut PANIC.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Lends this thread to the instance that computes. Never returns.
#[cfg(target_feature = "atomics")]
#[wasm_bindgen(js_name = lendThread)]
pub fn lend_thread() {
    bitnet_core::lend_thread()
}

/// Returns the number of lent threads.
#[cfg(target_feature = "atomics")]
#[wasm_bindgen(js_name = lentThreads)]
pub fn lent_threads() -> usize {
    bitnet_core::n_lent_threads()
}

fn thrown(failure: &Failure) -> JsValue {
    JsValue::from_str(&failure.to_json())
}

fn check<T>(result: Result<T, Failure>) -> Result<T, JsValue> {
    result.map_err(|failure| thrown(&failure))
}

/// See [`Loader`].
#[wasm_bindgen(js_name = Loader)]
pub struct JsLoader(Loader);

#[wasm_bindgen(js_class = Loader)]
impl JsLoader {
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self(Loader::new())
    }

    pub fn begin(&mut self, name: &str, n_bytes: Option<f64>) -> Result<(), JsValue> {
        check(self.0.begin(name, n_bytes))
    }

    pub fn append(&mut self, bytes: &[u8]) -> Result<(), JsValue> {
        check(self.0.append(bytes))
    }

    pub fn hash(&self) -> String {
        self.0.hash()
    }

    pub fn discard(&mut self) {
        self.0.discard();
    }

    pub fn check(&mut self, n_bytes: f64, options: &str) -> Result<(), JsValue> {
        let options = options::read(options);
        check(options.and_then(|options| self.0.check(n_bytes, &options)))
    }

    /// Calls `progress(done, total)`.
    pub fn load(self, options: &str, progress: &Function) -> Result<JsSession, JsValue> {
        let report = |done: usize, total: usize| {
            let _ = progress.call2(&JsValue::UNDEFINED, &done.into(), &total.into());
        };
        let options = options::read(options);
        let session = options.and_then(|options| self.0.load(&options, report));
        check(session).map(JsSession)
    }
}

/// See [`Session`].
#[wasm_bindgen(js_name = Session)]
pub struct JsSession(Session);

#[wasm_bindgen(js_class = Session)]
impl JsSession {
    pub fn info(&self) -> String {
        self.0.info()
    }

    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, JsValue> {
        check(self.0.tokenize(text))
    }

    pub fn detokenize(&self, ids: &[u32]) -> String {
        self.0.detokenize(ids)
    }

    pub fn generate(&mut self, prompt: &str, options: &str) -> Result<u32, JsValue> {
        let read = || Ok((options::read(prompt)?, options::read(options)?));
        check(read().and_then(|(prompt, options)| self.0.generate(prompt, &options)))
    }

    pub fn chat(&mut self, messages: &str, options: &str, now: f64) -> Result<u32, JsValue> {
        let read = || Ok((options::read::<Vec<_>>(messages)?, options::read(options)?));
        check(read().and_then(|(messages, options)| self.0.chat(&messages, &options, now)))
    }

    pub fn embed(&mut self, text: &str) -> Result<u32, JsValue> {
        check(self.0.embed(text))
    }

    pub fn cancel(&mut self, id: u32) {
        self.0.cancel(id);
    }

    #[wasm_bindgen(js_name = isIdle)]
    pub fn is_idle(&self) -> bool {
        self.0.is_idle()
    }

    pub fn step(&mut self) -> String {
        serde_json::to_string(&self.0.step()).expect("events have string keys")
    }
}
