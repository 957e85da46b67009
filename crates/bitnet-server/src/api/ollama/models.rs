//! `/api/tags`, `/api/show`, `/api/ps` and `/api/version`

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::check_name;
use crate::api::{Asked, asked, document};
use crate::app::{App, iso_time};
use crate::error::ApiError;
use crate::model::About;
use crate::models::{Listed, Status};

/// The version of Ollama whose API these pages have. Clients ask for the least that they need.
const VERSION: &str = "0.12.11";

pub async fn version() -> Response {
    document(&json!({"version": VERSION}), &[])
}

pub async fn tags(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let models = app.models()?.list();
    let entries: Vec<Value> = models.iter().map(entry).collect();
    Ok(document(&json!({"models": entries}), &[]))
}

pub async fn ps(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let mut entries = Vec::new();
    let models = app.models()?.list();
    for model in models.iter().filter(|m| m.status == Status::Loaded) {
        let mut entry = entry(model);
        entry["size_vram"] = 0.into();
        entry["context_length"] = model.about.as_ref().map(|about| about.context_len).into();
        // Unless others need its memory, as long as the server.
        entry["expires_at"] = iso_time(i32::MAX as u64 * 1000).into();
        entries.push(entry);
    }
    Ok(document(&json!({"models": entries}), &[]))
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
        "details": details(Some(&model.about())),
        "model_info": facts,
        "capabilities": capabilities,
    });
    Ok(document(&reply, &ignored))
}

/// Returns the entry of a model in a list; what is not known before it was loaded is empty.
fn entry(model: &Listed<'_>) -> Value {
    let about = model.about.as_ref();
    json!({
        "name": model.name,
        "model": model.name,
        "modified_at": iso_time(about.map_or(0, |about| about.loaded_at) * 1000),
        "size": about.map_or(0, |about| about.weight_bytes),
        "digest": about.map_or("", |about| &about.fingerprint),
        "details": details(about),
    })
}

fn details(about: Option<&About>) -> Value {
    let families: Vec<_> = about.iter().map(|about| about.family).collect();
    let size = about.map(|about| match about.n_parameters as f64 {
        n @ 1e9.. => format!("{:.1}B", n / 1e9),
        n => format!("{:.1}M", n / 1e6),
    });
    json!({
        "parent_model": "",
        "format": "bitnet",
        "family": families.first().copied().unwrap_or_default(),
        "families": families,
        "parameter_size": size.unwrap_or_default(),
        "quantization_level": "1.58 bits",
    })
}
