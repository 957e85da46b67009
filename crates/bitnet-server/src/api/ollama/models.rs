//! `/api/tags`, `/api/show`, `/api/ps` and `/api/version`

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::check_name;
use crate::api::{Asked, asked, document};
use crate::app::{App, iso_time};
use crate::error::ApiError;
use crate::model::ModelFacts;

/// The version of Ollama whose API these pages have. Clients ask for the least that they need.
const VERSION: &str = "0.12.11";

pub async fn version() -> Response {
    document(&json!({"version": VERSION}), &[])
}

pub async fn tags(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let model = app.model()?;
    Ok(document(&json!({"models": [entry(&model)]}), &[]))
}

pub async fn ps(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let model = app.model()?;
    let mut entry = entry(&model);
    entry["size_vram"] = 0.into();
    entry["context_length"] = model.context_len.into();
    // As long as the server.
    entry["expires_at"] = iso_time(i32::MAX as u64 * 1000).into();
    Ok(document(&json!({"models": [entry]}), &[]))
}

pub async fn show(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    facts_of(asked(&app, request).await?)
}

/// Answers `/api/show`.
pub(in crate::api) fn facts_of(asked: Asked) -> Result<Response, ApiError> {
    let Asked {
        model, mut fields, ..
    } = asked;
    check_name(&mut fields, &model)?;
    fields.hint("verbose", &[json!(false)]);
    let ignored = fields.finish()?;
    let mut facts = Map::new();
    facts.insert("general.architecture".to_owned(), model.family.into());
    facts.insert(
        "general.parameter_count".to_owned(),
        model.n_parameters.into(),
    );
    let of_family = |name: &str| format!("{}.{name}", model.family);
    facts.insert(of_family("context_length"), model.context_len.into());
    facts.insert(of_family("embedding_length"), model.hidden_dim.into());
    facts.insert(of_family("vocab_size"), model.vocab_size.into());
    let mut capabilities = vec!["completion", "embedding"];
    if model.has_tools() {
        capabilities.push("tools");
    }
    let template = model.template.as_ref();
    let reply = json!({
        "modified_at": iso_time(model.loaded_at * 1000),
        "template": template.map_or("", |template| template.source()),
        "parameters": "",
        "details": details(&model),
        "model_info": facts,
        "capabilities": capabilities,
    });
    Ok(document(&reply, &ignored))
}

fn entry(model: &ModelFacts) -> Value {
    json!({
        "name": model.name,
        "model": model.name,
        "modified_at": iso_time(model.loaded_at * 1000),
        "size": model.weight_bytes,
        "digest": model.fingerprint,
        "details": details(model),
    })
}

fn details(model: &ModelFacts) -> Value {
    let n = model.n_parameters as f64;
    let size = match n {
        1e9.. => format!("{:.1}B", n / 1e9),
        _ => format!("{:.1}M", n / 1e6),
    };
    json!({
        "parent_model": "",
        "format": "bitnet",
        "family": model.family,
        "families": [model.family],
        "parameter_size": size,
        "quantization_level": "1.58 bits",
    })
}
