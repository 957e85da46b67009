//! A monotonic clock.

use std::time::Duration;

#[cfg(not(target_arch = "wasm32"))]
use std::time::Instant;

/// A moment.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(Instant);

#[cfg(not(target_arch = "wasm32"))]
impl Moment {
    pub(crate) fn now() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(target_arch = "wasm32")]
#[wasm_bindgen::prelude::wasm_bindgen]
extern "C" {
    /// Milliseconds of a monotonic clock.
    #[wasm_bindgen(js_namespace = performance)]
    fn now() -> f64;
}

/// A moment in milliseconds.
#[cfg(target_arch = "wasm32")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(f64);

#[cfg(target_arch = "wasm32")]
impl Moment {
    pub(crate) fn now() -> Self {
        Self(now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        // Coarse, but monotonic.
        Duration::from_secs_f64((now() - self.0).max(0.0) / 1000.0)
    }
}
