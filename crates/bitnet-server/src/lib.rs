#![doc = include_str!("../README.md")]
//!
//! # From a connection to the engine
//!
//! ```text
//! connection ──► http/ ──► api/ ──► Job ──► worker ──► Scheduler ──► Engine
//!                           │        ▲                    │
//!                           │        └────────────────────┘ events of the job
//!                           └──► Models ◄──► loader, which starts and ends workers
//! ```
//!
//! HTTP runs on a thread of its own, and so does each loaded model; they take turns to
//! compute. Models are loaded on the thread that calls [`Server::run`]. The same request
//! gives the same tokens alone and among others.
#![forbid(unsafe_code)]

mod api;
mod app;
mod batch;
mod body;
mod error;
mod http;
mod job;
mod listener;
mod loader;
mod local;
mod metrics;
mod model;
mod models;
mod options;
mod page;
mod response_cache;
mod saved_prefixes;
#[cfg(feature = "tls")]
mod tls;
mod worker;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::app::App;

/// The parsers of what clients and models write, for the targets of `fuzz/`.
#[cfg(fuzzing)]
pub mod hostile {
    pub use crate::api::hostile::{grammar, request, tool_calls};
    pub use crate::http::hostile::access;
}

pub use crate::batch::{BatchError, BatchProgress, run_batch};
pub use crate::listener::Listener;
pub use crate::loader::{ModelLoadError, ModelSource};
pub use crate::local::{
    Answers, LocalEnd, LocalError, LocalSequence, LocalServer, LocalStartError, LocalText,
    RequestError, Waited, Wake,
};
pub use crate::model::{About, PrefixFolder, ServedModel};
pub use crate::models::MemoryTaken;
pub use crate::options::{Limits, RequestDefaults, ServerOptions};
#[cfg(feature = "tls")]
pub use crate::tls::{Tls, TlsError};

/// A server that listens. Until [`run`](Self::run) it answers that the model is loading.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    http: JoinHandle<()>,
}

/// Asks a server to end, from any thread.
#[derive(Clone, Debug)]
pub struct Shutdown {
    app: Arc<App>,
}

impl Shutdown {
    /// Refuses new requests, and waits for running ones as long as
    /// [`ServerOptions::drain`] allows.
    pub fn request(&self) {
        self.app.drain();
    }
}

impl Server {
    /// Answers the connections of a listener on a new thread.
    ///
    /// # Errors
    ///
    /// Returns an error if the thread cannot be started.
    pub fn start(listener: impl Into<Listener>, options: ServerOptions) -> io::Result<Self> {
        let app = Arc::new(App::new(options));
        let http = http::spawn(listener.into(), Arc::clone(&app))?;
        Ok(Self { app, http })
    }

    /// Returns a handle to end the server.
    pub fn shutdown(&self) -> Shutdown {
        Shutdown {
            app: Arc::clone(&self.app),
        }
    }

    /// Serves a model until the server is asked to end; calls `on_ready` when the first request
    /// can be answered. Returns whether every request was answered.
    pub fn run(self, model: ServedModel, on_ready: impl FnOnce()) -> bool {
        self.run_several(model, &[], on_ready)
    }

    /// Serves several models as [`run`](Self::run) does one. Requests name one of `models`,
    /// of which `first` is the first. A model is loaded when a request asks for it; where it
    /// does not fit into memory, those are unloaded for it that no request uses and that
    /// were not asked for longest.
    ///
    /// # Panics
    ///
    /// Panics if a model's worker panics.
    pub fn run_several(
        self,
        first: ServedModel,
        models: &[ModelSource<'_>],
        on_ready: impl FnOnce(),
    ) -> bool {
        let drained = loader::run(&self.app, first, models, on_ready);
        self.app.close();
        // A panic there was reported by its thread.
        let _ = self.http.join();
        drained
    }
}
