//! `/api/chat`

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::reply::{Endpoint, Reply};
use super::{Answer, answer, check_name, take_shared};
use crate::api::fields::Fields;
use crate::api::{Asked, asked, chat, tools};
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
    let tools = tools::take(&mut fields, &model)?;
    let expected = "a list of messages such as {\"role\": \"user\", \"content\": \"…\"}";
    let given: Vec<Map<String, Value>> = fields.take("messages", expected)?.unwrap_or_default();
    let mut messages = Vec::with_capacity(given.len());
    for (i, message) in given.into_iter().enumerate() {
        messages.push(
            fields.inside(&format!("messages[{i}]"), message, |message| {
                read_message(message, model.has_tools())
            })?,
        );
    }
    let mut shared = take_shared(&mut fields, defaults)?;
    if shared.sampling.grammar.is_some() && tools.grammar.is_some() {
        let message = "tool_choice requires a call, so format may not limit the text";
        return Err(ApiError::field("tool_choice", message));
    }
    let mut reply = Reply::new(Endpoint::Chat, Arc::clone(&model), fields.finish()?);
    if messages.is_empty() {
        return Ok(Answer::Loaded(reply));
    }
    let prompt = chat::render(&model, &messages, &tools, &chat::options_now(&model))?;
    reply.with_tools = !tools.definitions.is_empty();
    shared.sampling.grammar = shared.sampling.grammar.or(tools.grammar);
    Ok(shared.answer("messages", prompt.ids, reply))
}

/// Returns a message as templates read it.
fn read_message(message: &mut Fields, with_tools: bool) -> Result<Value, ApiError> {
    let role: String = message.need("role", "a string")?;
    let content: Option<String> = message.take("content", "a text")?;
    message.refuse("images", &[json!([])], "the model reads text alone")?;
    message.refuse("thinking", &[json!("")], "the model does not think")?;
    let mut read = json!({"role": role, "content": content.unwrap_or_default()});
    match role.as_str() {
        "system" | "user" | "assistant" => {}
        "tool" if with_tools => {
            if let Some(id) = message.take::<String>("tool_call_id", "a string")? {
                read["tool_call_id"] = id.into();
            }
            if let Some(name) = message.take::<String>("tool_name", "a string")? {
                read["name"] = name.into();
            }
        }
        "tool" => {
            let text = format!("role is {role:?}, but the model has no tools");
            return Err(ApiError::field("role", text));
        }
        _ => {
            let text = format!("role is {role:?}, expected system, user, assistant or tool");
            return Err(ApiError::field("role", text));
        }
    }
    if with_tools && role == "assistant" {
        let expected = "a list of {\"function\": {\"name\": …, \"arguments\": …}}";
        let calls: Vec<Map<String, Value>> =
            message.take("tool_calls", expected)?.unwrap_or_default();
        let calls = calls
            .into_iter()
            .enumerate()
            .map(|(i, call)| message.inside(&format!("tool_calls[{i}]"), call, read_call));
        let calls: Vec<Value> = calls.collect::<Result<_, _>>()?;
        if !calls.is_empty() {
            read["tool_calls"] = calls.into();
        }
    } else {
        message.refuse("tool_calls", &[json!([])], "only the assistant calls tools")?;
    }
    Ok(read)
}

fn read_call(call: &mut Fields) -> Result<Value, ApiError> {
    let mut read = json!({"type": "function"});
    call.refuse("type", &[json!("function")], "tools are functions")?;
    if let Some(id) = call.take::<String>("id", "a string")? {
        read["id"] = id.into();
    }
    let function = call.need("function", "an object")?;
    read["function"] = call.inside("function", function, |function| {
        let name: String = function.need("name", "a string")?;
        let arguments: Map<String, Value> = function.need("arguments", "an object")?;
        function.without_effect(&["index", "description"]);
        Ok(json!({"name": name, "arguments": arguments}))
    })?;
    Ok(read)
}
