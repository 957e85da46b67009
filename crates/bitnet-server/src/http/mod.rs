//! Connections, routes, and what holds for every request.

mod access;
mod connection;
#[cfg(any(test, fuzzing))]
pub mod hostile;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use axum::Router;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use self::connection::Peer;
use crate::api;
use crate::app::{App, MAX_COMPILING};
use crate::body::json;
use crate::error::{self, ApiError, ErrorForm};
use crate::listener::Listener;
use crate::metrics;
use crate::page;

/// Serves a listener on a new thread, until [`App::close`].
pub fn spawn(listener: Listener, app: Arc<App>) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        // For tokenizing and compiling; the engine has its own threads.
        .max_blocking_threads(2 * MAX_COMPILING)
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
        .route("/models", get(api::models::list))
        .route("/v1/models/{*model}", get(api::models::one))
        .route("/v1/chat/completions", post(api::chat::create))
        .route("/chat/completions", post(api::chat::create))
        .route("/v1/completions", post(api::completions::create))
        .route("/v1/embeddings", post(api::embeddings::create))
        .route("/v1/responses", post(api::responses::create))
        .route("/v1/messages", post(api::anthropic::create))
        .route("/v1/messages/count_tokens", post(api::anthropic::count))
        .route("/api/chat", post(api::ollama::chat))
        .route("/api/generate", post(api::ollama::generate))
        .route("/api/embed", post(api::ollama::embed))
        .route("/api/tags", get(api::ollama::models::tags))
        .route("/api/ps", get(api::ollama::models::ps))
        .route("/api/show", post(api::ollama::models::show))
        .route("/api/version", get(api::ollama::models::version))
        .route("/embed", post(api::tei::create))
        .route("/rerank", post(api::tei::rerank))
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
    ConnectInfo(peer): ConnectInfo<Peer>,
    path: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    let start = Instant::now();
    let id = app.next_request();
    let method = request.method().clone();
    let form = ErrorForm::of(request.uri().path());
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
    error::set_form(&mut response, form);
    let headers = response.headers_mut();
    if let Some(origin) = origin {
        access::allow(headers, origin);
    }
    if let Ok(value) = HeaderValue::from_str(&format!("req-{id}")) {
        if form == ErrorForm::Anthropic {
            headers.insert("request-id", value.clone());
        }
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

async fn health(State(app): State<Arc<App>>) -> Response {
    match app.models() {
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
