//! `/embed` and `/rerank` of text-embeddings-inference.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::json;

use super::embeddings::{Cut, check_dimensions, embed, take_texts};
use super::{Asked, aside, asked, document};
use crate::app::App;
use crate::error::ApiError;

/// A request, read and checked.
pub(super) struct Texts {
    tokens: Vec<Vec<u32>>,
    ignored: Vec<String>,
}

pub async fn create(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let asked = asked(&app, request).await?;
    let (client, model) = (asked.client, Arc::clone(&asked.model));
    let Texts { tokens, ignored } = aside(move || read(asked)).await?;
    let (vectors, _) = embed(&app, &model, client, tokens, "inputs").await?;
    Ok(document(&vectors, &ignored))
}

pub(super) fn read(asked: Asked) -> Result<Texts, ApiError> {
    let Asked {
        model, mut fields, ..
    } = asked;
    let cut = fields.take("truncate", "true or false")?.unwrap_or(false);
    let expected = "\"left\" or \"right\"";
    let direction: Option<String> = fields.take("truncation_direction", expected)?;
    let direction = match direction.as_deref() {
        None | Some("right" | "Right") => Cut::Right,
        Some("left" | "Left") => Cut::Left,
        Some(other) => {
            let message = format!("truncation_direction is {other:?}, expected {expected}");
            return Err(ApiError::field("truncation_direction", message));
        }
    };
    let cut = cut.then_some(direction);
    let tokens = take_texts(&mut fields, &model, "inputs", cut)?;
    check_dimensions(&mut fields, &model)?;
    let always = "vectors have the length 1";
    fields.refuse("normalize", &[json!(true)], always)?;
    fields.refuse("prompt_name", &[], "the model has no prompts of its own")?;
    Ok(Texts {
        tokens,
        ignored: fields.finish()?,
    })
}

/// Refuses to rank texts: a model needs a head of its own for it.
pub async fn rerank() -> ApiError {
    let message = "rerank is not supported: the model embeds texts, but has nothing that ranks \
                   them";
    ApiError::not_found(message).with_code("rerank_not_supported")
}
