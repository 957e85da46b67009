//! The state that requests and the workers share.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use chrono::{DateTime, SecondsFormat};
use parking_lot::FairMutex;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;
use crate::job::{Job, JobEvent, JobHandle, JobId};
use crate::metrics::Metrics;
use crate::model::ModelFacts;
use crate::models::Models;
use crate::options::ServerOptions;
use crate::response_cache::ResponseCache;

/// Who asks: an API key, or else an address. Clients take turns.
#[derive(Clone, Copy, Debug)]
pub struct Client(pub u64);

/// Grammars that are compiled at the same time, those included that nobody waits for any
/// more: as many threads are left to read requests.
pub const MAX_COMPILING: usize = 2;

/// The state of a server that HTTP and the workers share.
pub struct App {
    pub options: ServerOptions,
    pub metrics: Metrics,
    /// Answers that were computed before, if they are kept.
    pub responses: Option<Arc<ResponseCache>>,
    models: OnceLock<Models>,
    /// Held by the model that computes: each step has all threads. It is handed on in turn.
    pub turn: FairMutex<()>,
    compiling: Arc<Semaphore>,
    next_job: AtomicU64,
    next_request: AtomicU64,
    draining: AtomicBool,
    /// Notified when the server shall end.
    closing: Notify,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").finish_non_exhaustive()
    }
}

impl App {
    pub fn new(options: ServerOptions) -> Self {
        let n_bytes = options.response_cache;
        Self {
            options,
            metrics: Metrics::new(),
            responses: (n_bytes > 0).then(|| Arc::new(ResponseCache::new(n_bytes))),
            models: OnceLock::new(),
            turn: FairMutex::new(()),
            compiling: Arc::new(Semaphore::new(MAX_COMPILING)),
            next_job: AtomicU64::new(0),
            next_request: AtomicU64::new(1),
            draining: AtomicBool::new(false),
            closing: Notify::new(),
        }
    }

    /// Makes the models known to requests.
    pub fn set_models(&self, models: Models) -> &Models {
        self.models.get_or_init(|| models)
    }

    /// Returns the models.
    ///
    /// # Errors
    ///
    /// Returns an error while the first one is loading, or when the server ends.
    pub fn models(&self) -> Result<&Models, ApiError> {
        if self.is_draining() {
            return Err(ApiError::unavailable("the server is about to end"));
        }
        let models = self.models.get();
        models.ok_or_else(|| ApiError::unavailable("the model is loading"))
    }

    /// Submits a job to the worker of a model.
    pub fn submit(
        &self,
        model: &ModelFacts,
        make: impl FnOnce(UnboundedSender<JobEvent>) -> Job,
    ) -> JobHandle {
        let id = JobId(self.next_job.fetch_add(1, Ordering::Relaxed));
        JobHandle::submit(id, &model.commands, make)
    }

    /// Waits for the leave to compile a grammar, which holds until it is dropped.
    pub async fn leave_to_compile(&self) -> OwnedSemaphorePermit {
        let leave = Arc::clone(&self.compiling).acquire_owned().await;
        leave.expect("it is never closed")
    }

    /// Returns a number for the next request.
    pub fn next_request(&self) -> u64 {
        self.next_request.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits until the connections shall end.
    pub async fn closing(&self) {
        self.closing.notified().await;
    }

    /// Returns whether the server was asked to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Refuses new requests.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        if let Some(models) = self.models.get() {
            models.wake();
        }
    }

    /// Ends the connections.
    pub fn close(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.closing.notify_one();
    }
}

/// Returns a Unix time in milliseconds as text: `2026-11-30T12:00:00.000Z`.
pub fn iso_time(millis: u64) -> String {
    let time = DateTime::from_timestamp_millis(millis.cast_signed()).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
