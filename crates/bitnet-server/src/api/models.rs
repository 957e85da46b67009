//! `/v1/models`

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use serde::Serialize;

use super::document;
use crate::app::App;
use crate::error::ApiError;
use crate::model::About;
use crate::models::{Listed, Status};

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    status: StatusDocument,
    /// Absent before the model was first loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    bitnet: Option<Facts>,
}

/// Whether the model is loaded, in the form of llama.cpp's server.
#[derive(Serialize)]
struct StatusDocument {
    value: &'static str,
    /// Whether it could not be loaded.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    failed: bool,
}

/// What the API has no fields for.
#[derive(Serialize)]
struct Facts {
    family: &'static str,
    parameters: usize,
    context_length: usize,
    vocabulary: usize,
    chat_template: bool,
    builtin: bool,
    weights_bytes: usize,
}

impl<'a> From<Listed<'a>> for Model<'a> {
    fn from(model: Listed<'a>) -> Self {
        Self {
            id: model.name,
            object: "model",
            created: model.about.as_ref().map_or(0, |about| about.loaded_at),
            owned_by: "bitnet",
            status: StatusDocument {
                value: match model.status {
                    Status::Loaded => "loaded",
                    Status::Loading => "loading",
                    Status::Unloaded | Status::Failed => "unloaded",
                },
                failed: model.status == Status::Failed,
            },
            bitnet: model.about.map(Facts::from),
        }
    }
}

impl From<About> for Facts {
    fn from(about: About) -> Self {
        Self {
            family: about.family,
            parameters: about.n_parameters,
            context_length: about.context_len,
            vocabulary: about.vocab_size,
            chat_template: about.has_template,
            builtin: about.is_builtin,
            weights_bytes: about.weight_bytes,
        }
    }
}

pub async fn list(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let models = app.models()?.list().into_iter();
    let list = List {
        object: "list",
        data: models.map(Model::from).collect(),
    };
    Ok(document(&list, &[]))
}

pub async fn one(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let models = app.models()?;
    let Ok(Path(name)) = path else {
        let error = ApiError::not_found("the name of the model is not UTF-8");
        return Err(error.with_code("model_not_found"));
    };
    let named = models.list().into_iter().find(|model| model.name == name);
    let named = named.ok_or_else(|| models.not_found(&format!("there is no model {name:?}")));
    Ok(document(&Model::from(named?), &[]))
}
