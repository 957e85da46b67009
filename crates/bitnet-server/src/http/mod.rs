//! Connections, routes, and what holds for every request.

mod access;
mod connection;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::Notify;

use crate::api;
use crate::error::ApiError;
use crate::metrics::{self, Metrics};
use crate::model::ModelFacts;
use crate::options::ServerOptions;
use crate::page;
use crate::worker::{Command, Job, JobHandle, JobId};

pub use self::access::Client;

/// The state of a server that HTTP and the worker share.
pub struct App {
    pub options: ServerOptions,
    pub metrics: Metrics,
    model: OnceLock<Arc<ModelFacts>>,
    commands: Sender<Command>,
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
    pub fn new(options: ServerOptions, commands: Sender<Command>) -> Self {
        Self {
            options,
            metrics: Metrics::new(),
            model: OnceLock::new(),
            commands,
            next_job: AtomicU64::new(0),
            next_request: AtomicU64::new(1),
            draining: AtomicBool::new(false),
            closing: Notify::new(),
        }
    }

    /// Makes the model known to requests.
    pub fn set_model(&self, facts: ModelFacts) -> Arc<ModelFacts> {
        Arc::clone(self.model.get_or_init(|| Arc::new(facts)))
    }

    /// Returns the model.
    ///
    /// # Errors
    ///
    /// Returns an error while it is loading, or when the server ends.
    pub fn model(&self) -> Result<Arc<ModelFacts>, ApiError> {
        if self.is_draining() {
            return Err(ApiError::unavailable("the server is about to end"));
        }
        let model = self.model.get().map(Arc::clone);
        model.ok_or_else(|| ApiError::unavailable("the model is loading"))
    }

    /// Submits a job to the worker.
    pub fn submit(
        &self,
        make: impl FnOnce(tokio::sync::mpsc::UnboundedSender<crate::worker::JobEvent>) -> Job,
    ) -> JobHandle {
        let id = JobId(self.next_job.fetch_add(1, Ordering::Relaxed));
        JobHandle::submit(id, &self.commands, make)
    }

    /// Returns whether the server was asked to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Refuses new requests.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        // If the worker has ended, there is nobody to wake.
        let _ = self.commands.send(Command::Wake);
    }

    /// Ends the connections.
    pub fn close(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.closing.notify_one();
    }
}

/// Serves a listener on a new thread, until [`App::close`].
pub fn spawn(listener: TcpListener, app: Arc<App>) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        // For tokenizing and compiling; the engine has its own threads.
        .max_blocking_threads(4)
        .build()?;
    std::thread::Builder::new()
        .name("http".to_owned())
        .spawn(move || {
            runtime.block_on(async move {
                let served = connection::serve(listener, routes(Arc::clone(&app)), app).await;
                if let Err(error) = served {
                    tracing::error!(%error, "the server cannot accept connections");
                }
            });
            // Compilations that nobody waits for any more.
            runtime.shutdown_background();
        })
}

fn routes(app: Arc<App>) -> Router {
    page::routes(Router::new())
        .route("/health", get(health))
        .route("/health/live", get(live))
        .route("/health/ready", get(health))
        .route("/metrics", get(metrics_text))
        .route("/openapi.json", get(page::openapi))
        .route("/v1/models", get(api::models::list))
        .route("/v1/models/{*model}", get(api::models::one))
        .route("/v1/chat/completions", post(api::chat::create))
        .route("/v1/completions", post(api::completions::create))
        .route("/v1/embeddings", post(api::embeddings::create))
        .route("/tokenize", post(api::tokens::tokenize))
        .route("/detokenize", post(api::tokens::detokenize))
        .route("/apply-template", post(api::tokens::apply_template))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(
            Arc::clone(&app),
            every_request,
        ))
        .with_state(app)
}

/// Checks who asks, and counts and logs the answer.
async fn every_request(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    path: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    let start = Instant::now();
    let id = app.next_request.fetch_add(1, Ordering::Relaxed);
    let method = request.method().clone();
    let path = path.map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let origin = access::allowed_origin(&app.options, request.headers());
    let response = match access::check(&app.options, &request, &path, peer) {
        Err(error) => error.into_response(),
        Ok(_) if method == Method::OPTIONS => access::preflight(origin.is_some()),
        Ok(client) => {
            request.extensions_mut().insert(client);
            next.run(request).await
        }
    };
    let mut response = response;
    let headers = response.headers_mut();
    if let Some(origin) = origin {
        access::allow(headers, origin);
    }
    if let Ok(value) = HeaderValue::from_str(&format!("req-{id}")) {
        headers.insert("x-request-id", value);
    }
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    let status = response.status().as_u16();
    app.metrics.response(&path, status);
    let ms = start.elapsed().as_millis() as u64;
    tracing::info!(id, %peer, %method, path, status, ms, "request");
    response
}

/// Reads a body within the limits of size and time.
pub async fn read_body(app: &App, request: Request) -> Result<Bytes, ApiError> {
    let limits = app.options.limits;
    let too_large = || {
        let message = format!("the body is larger than {} bytes", limits.body);
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            message,
        )
    };
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limits.body) {
        return Err(too_large());
    }
    let body = Limited::new(request.into_body(), limits.body).collect();
    match tokio::time::timeout(limits.receive, body).await {
        Err(_) => {
            let seconds = limits.receive.as_secs();
            let message = format!("the body did not arrive within {seconds} s");
            let status = StatusCode::REQUEST_TIMEOUT;
            Err(ApiError::new(status, "invalid_request_error", message))
        }
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(ApiError::invalid(format!(
            "the body cannot be read: {error}"
        ))),
    }
}

async fn health(State(app): State<Arc<App>>) -> Response {
    match app.model() {
        Ok(_) => json(StatusCode::OK, r#"{"status":"ok"}"#.to_owned()),
        Err(error) => error.into_response(),
    }
}

async fn live() -> Response {
    json(StatusCode::OK, r#"{"status":"ok"}"#.to_owned())
}

async fn metrics_text(State(app): State<Arc<App>>) -> Response {
    let text = app.metrics.text();
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

async fn not_found(request: Request) -> ApiError {
    ApiError::not_found(format!(
        "there is no {} {}; /openapi.json lists what there is",
        request.method(),
        request.uri().path()
    ))
}

async fn method_not_allowed(request: Request) -> ApiError {
    let message = format!(
        "{} does not take {}",
        request.uri().path(),
        request.method()
    );
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "invalid_request_error",
        message,
    )
}

/// Returns a JSON document.
pub fn json(status: StatusCode, document: String) -> Response {
    let mut headers = HeaderMap::new();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    (status, headers, document).into_response()
}
