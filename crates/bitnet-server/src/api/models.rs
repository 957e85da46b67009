//! `/v1/models`

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use serde::Serialize;

use super::document;
use crate::app::App;
use crate::error::ApiError;
use crate::model::ModelFacts;

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: [Model<'a>; 1],
}

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    bitnet: Facts,
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

impl<'a> Model<'a> {
    fn new(model: &'a ModelFacts) -> Self {
        Self {
            id: &model.name,
            object: "model",
            created: model.loaded_at,
            owned_by: "bitnet",
            bitnet: Facts {
                family: model.family,
                parameters: model.n_parameters,
                context_length: model.context_len,
                vocabulary: model.vocab_size,
                chat_template: model.template.is_some(),
                builtin: model.is_builtin,
                weights_bytes: model.weight_bytes,
            },
        }
    }
}

pub async fn list(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let model = app.model()?;
    let list = List {
        object: "list",
        data: [Model::new(&model)],
    };
    Ok(document(&list, &[]))
}

pub async fn one(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let model = app.model()?;
    let Ok(Path(name)) = path else {
        let error = ApiError::not_found("the name of the model is not UTF-8");
        return Err(error.with_code("model_not_found"));
    };
    if name != model.name {
        let message = format!(
            "there is no model {name:?}, this server has {:?}",
            model.name
        );
        return Err(ApiError::not_found(message).with_code("model_not_found"));
    }
    Ok(document(&Model::new(&model), &[]))
}
