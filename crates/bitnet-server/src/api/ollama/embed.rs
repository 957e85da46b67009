//! `/api/embed`

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{check_name, take_load_options};
use crate::api::embeddings::{Cut, check_dimensions, embed, take_texts};
use crate::api::{Asked, aside, asked, document};
use crate::app::App;
use crate::error::ApiError;

/// Durations are in nanoseconds.
#[derive(Serialize)]
struct Reply<'a> {
    model: &'a str,
    embeddings: Vec<Vec<f32>>,
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: usize,
}

/// A request, read and checked.
pub struct Texts {
    tokens: Vec<Vec<u32>>,
    ignored: Vec<String>,
}

pub async fn create(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let asked = asked(&app, request).await?;
    let (client, model) = (asked.client, Arc::clone(&asked.model));
    let start = Instant::now();
    let Texts { tokens, ignored } = aside(move || read(asked)).await?;
    let (vectors, n_tokens) = embed(&app, &model, client, tokens, "input").await?;
    let reply = Reply {
        model: &model.name,
        embeddings: vectors,
        total_duration: start.elapsed().as_nanos() as u64,
        load_duration: 0,
        prompt_eval_count: n_tokens,
    };
    Ok(document(&reply, &ignored))
}

pub fn read(asked: Asked) -> Result<Texts, ApiError> {
    let Asked {
        model, mut fields, ..
    } = asked;
    check_name(&mut fields, &model)?;
    let cut = fields.take("truncate", "true or false")?.unwrap_or(false);
    let cut = cut.then_some(Cut::Right);
    let tokens = take_texts(&mut fields, &model, "input", cut)?;
    check_dimensions(&mut fields, &model)?;
    let options: Option<Map<String, Value>> = fields.take("options", "an object")?;
    fields.inside("options", options.unwrap_or_default(), |options| {
        take_load_options(options);
        Ok(())
    })?;
    fields.without_effect(&["keep_alive"]);
    Ok(Texts {
        tokens,
        ignored: fields.finish()?,
    })
}
