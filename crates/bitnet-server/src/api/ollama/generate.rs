//! `/api/generate`

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::json;

use super::reply::{Endpoint, Reply};
use super::{Answer, answer, check_name, take_shared};
use crate::api::tools::Tools;
use crate::api::{Asked, asked, chat};
use crate::app::App;
use crate::error::ApiError;
use crate::options::RequestDefaults;

pub async fn create(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let asked = asked(&app, request).await?;
    answer(app, asked, read).await
}

pub fn read(asked: Asked, defaults: RequestDefaults) -> Result<Answer, ApiError> {
    let Asked {
        model, mut fields, ..
    } = asked;
    check_name(&mut fields, &model)?;
    let prompt: Option<String> = fields.take("prompt", "a text")?;
    let system: Option<String> = fields.take("system", "a text")?;
    let raw = fields.take("raw", "true or false")?.unwrap_or(false);
    let shared = take_shared(&mut fields, defaults)?;
    let no_middle = "the model cannot fill in the middle of a text";
    fields.refuse("suffix", &[json!("")], no_middle)?;
    fields.refuse("images", &[json!([])], "the model reads text alone")?;
    let own = "the model has its own, which --chat-template changes";
    fields.refuse("template", &[json!("")], own)?;
    let stateless = "this server keeps nothing; /api/chat takes the earlier messages";
    fields.refuse("context", &[json!([])], stateless)?;
    let system = system.filter(|system| !system.is_empty());
    let is_chat = !raw && model.template.is_some();
    if system.is_some() && !is_chat {
        let message = "system is only for prompts that a chat template renders, without raw";
        return Err(ApiError::field("system", message));
    }
    let reply = Reply::new(Endpoint::Generate, Arc::clone(&model), fields.finish()?);
    let Some(prompt) = prompt.filter(|prompt| !prompt.is_empty()) else {
        return Ok(Answer::Loaded(reply));
    };
    let ids = if is_chat {
        let system = system.map(|text| json!({"role": "system", "content": text}));
        let user = json!({"role": "user", "content": prompt});
        let messages: Vec<_> = system.into_iter().chain([user]).collect();
        let options = chat::options_now(&model);
        chat::render(&model, &messages, &Tools::default(), &options)?.ids
    } else {
        let ids = model.tokenizer.encode(&prompt);
        ids.map_err(|error| ApiError::field("prompt", error.to_string()))?
    };
    Ok(shared.answer("prompt", ids, reply))
}
