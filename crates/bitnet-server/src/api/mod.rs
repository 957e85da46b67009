//! The endpoints: from JSON to jobs, and from their events to JSON.

pub mod anthropic;
pub mod chat;
pub mod completions;
pub mod embeddings;
mod fields;
mod generation;
#[cfg(any(test, fuzzing))]
pub mod hostile;
pub mod local;
mod logprobs;
mod messages;
pub mod models;
pub mod ollama;
mod receipts;
mod reply;
pub mod responses;
mod sampling;
pub mod tei;
#[cfg(test)]
mod tests;
pub mod tokens;
mod tools;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::post;
use serde::Serialize;
use serde_json::Value;

use self::fields::{Fields, short};
use crate::app::{App, Client};
use crate::body::{json, read_body};
use crate::error::{ApiError, ErrorForm};
use crate::model::ModelFacts;
use crate::models::Models;

/// Returns the endpoints that are asked without a socket.
pub fn routes(app: &Arc<App>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/embeddings", post(embeddings::create))
        .with_state(Arc::clone(app))
}

/// Returns a new identifier.
fn new_id(prefix: &str) -> String {
    use std::hash::{BuildHasher, RandomState};
    // Keyed by the system's random numbers.
    let random = RandomState::new();
    format!(
        "{prefix}-{:016x}{:016x}",
        random.hash_one(0),
        random.hash_one(1)
    )
}

/// The model, the client and the fields of a request.
struct Asked {
    model: Arc<ModelFacts>,
    client: Client,
    fields: Fields,
}

/// Reads a request.
async fn asked(app: &App, request: Request) -> Result<Asked, ApiError> {
    let client = request.extensions().get::<Client>().copied();
    let form = ErrorForm::of(request.uri().path());
    let body = read_body(app.options.limits, request).await?;
    let models = app.models()?;
    let fields = Fields::parse(&body, app.options.lenient)?;
    let index = choose_model(models, &fields, form)?;
    Ok(Asked {
        model: models.get(index).await?,
        client: client.unwrap_or(Client(0)),
        fields,
    })
}

/// Returns the index of the model that a request names. If there is but one, its name is
/// checked with the other fields: [`check_model`].
fn choose_model(models: &Models, fields: &Fields, form: ErrorForm) -> Result<usize, ApiError> {
    // Requests to text-embeddings-inference do not name one.
    if models.names().len() == 1 || form == ErrorForm::Tei {
        return Ok(0);
    }
    let wrong = |what: &str| Err(models.not_found(what).with_param("model"));
    let name = match fields.get("model") {
        None | Some(Value::Null) => return wrong("model is missing"),
        Some(Value::String(name)) => name,
        Some(other) => {
            let message = format!("model is {}, expected a string", short(other));
            return Err(ApiError::field("model", message));
        }
    };
    let untagged = name
        .strip_suffix(":latest")
        .filter(|_| form == ErrorForm::Ollama);
    let named = [Some(&**name), untagged].into_iter().flatten();
    match named.into_iter().find_map(|name| models.index(name)) {
        Some(index) => Ok(index),
        // It is listed as ignored.
        None if fields.is_lenient() => Ok(0),
        None => wrong(&format!("there is no model {name:?}")),
    }
}

/// Runs work that may take some milliseconds, or seconds, beside other requests.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(ApiError::internal("the request could not be processed")))
}

/// Returns a JSON document, with the fields that had no effect in a header.
fn document(value: &impl Serialize, ignored: &[String]) -> Response {
    let document = serde_json::to_string(value).expect("documents have string keys");
    let mut response = json(StatusCode::OK, document);
    tell_ignored(&mut response, ignored);
    response
}

/// Lists the fields of a request that had no effect.
fn tell_ignored(response: &mut Response, ignored: &[String]) {
    if !ignored.is_empty()
        && let Ok(value) = HeaderValue::from_str(&ignored.join(", "))
    {
        response.headers_mut().insert("bitnet-ignored", value);
    }
}

/// Checks the name of the model in a request.
fn check_model(model: &ModelFacts, fields: &mut Fields) -> Result<(), ApiError> {
    check_model_name(model, fields, |name| name == model.name)
}

/// Checks the name of the model in a request, where it may also be written otherwise.
fn check_model_name(
    model: &ModelFacts,
    fields: &mut Fields,
    is_it: impl FnOnce(&str) -> bool,
) -> Result<(), ApiError> {
    let Some(name) = fields.take::<String>("model", "a string")? else {
        return Ok(());
    };
    if is_it(&name) {
        return Ok(());
    }
    if fields.is_lenient() {
        fields.ignore("model");
        return Ok(());
    }
    let message = format!(
        "there is no model {name:?}, this server has {:?}",
        model.name
    );
    Err(ApiError::not_found(message)
        .with_param("model")
        .with_code("model_not_found"))
}
