//! An HTTP server of OpenAI's API for one model.
//!
//! ```text
//! connection ──► http/ ──► api/ ──► Job ──► worker ──► Scheduler ──► Engine
//!                                    ▲                    │
//!                 events of the job  └────────────────────┘
//! ```
//!
//! HTTP runs on a thread of its own; the engine runs on the thread that calls
//! [`Server::run`]. The same request gives the same tokens alone and among others.
#![forbid(unsafe_code)]

mod api;
mod app;
mod batch;
mod body;
mod error;
mod http;
mod job;
mod metrics;
mod model;
mod options;
mod page;
mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener};
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
pub use crate::model::ServedModel;
pub use crate::options::{Limits, RequestDefaults, ServerOptions};

/// A server that listens. Until [`run`](Self::run) it answers that the model is loading.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    address: SocketAddr,
    http: JoinHandle<()>,
    commands: job::Commands,
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
    /// Listens on an address and answers on a new thread.
    ///
    /// # Errors
    ///
    /// Returns an error if the address cannot be bound or the thread not started.
    pub fn start(address: SocketAddr, options: ServerOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (sender, commands) = job::channel();
        let app = Arc::new(App::new(options, sender));
        let http = http::spawn(listener, Arc::clone(&app))?;
        Ok(Self {
            app,
            address,
            http,
            commands,
        })
    }

    /// Returns the address of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
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
        let drained = worker::run(&self.app, model, &self.commands, on_ready);
        self.app.close();
        // A panic there was reported by its thread.
        let _ = self.http.join();
        drained
    }
}
