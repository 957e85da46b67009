//! `input` and `instructions`: from items to messages as templates read them.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::api::fields::Fields;
use crate::error::ApiError;

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Items(Vec<Map<String, Value>>),
}

/// A text, or a list of parts.
type Content = Input;

const CONTENT: &str = "a text, or a list of {\"type\": \"input_text\", \"text\": …}";

/// Takes the messages.
pub fn take(fields: &mut Fields, with_tools: bool) -> Result<Vec<Value>, ApiError> {
    let mut messages = Vec::new();
    if let Some(text) = fields.take::<String>("instructions", "a text")? {
        messages.push(json!({"role": "system", "content": text}));
    }
    match fields.need("input", "a text, or a list of items")? {
        Input::Text(text) => messages.push(json!({"role": "user", "content": text})),
        Input::Items(items) if items.is_empty() => {
            return Err(ApiError::field("input", "input is an empty list"));
        }
        Input::Items(items) => {
            for (i, item) in items.into_iter().enumerate() {
                fields.inside(&format!("input[{i}]"), item, |item| {
                    read_item(item, with_tools, &mut messages)
                })?;
            }
        }
    }
    Ok(messages)
}

fn read_item(
    item: &mut Fields,
    with_tools: bool,
    messages: &mut Vec<Value>,
) -> Result<(), ApiError> {
    let kind: Option<String> = item.take("type", "a string")?;
    // Items of earlier replies have them.
    let _id: Option<String> = item.take("id", "a string")?;
    item.hint("status", &[json!("completed"), json!("incomplete")]);
    match kind.as_deref().unwrap_or("message") {
        "message" => {
            item.without_effect(&["phase"]);
            messages.push(read_message(item)?);
        }
        "function_call" if with_tools => {
            let call = read_call(item)?;
            // The calls of a turn are one message, with the text before them.
            match messages.last_mut() {
                Some(last) if last["role"] == "assistant" => {
                    match last["tool_calls"].as_array_mut() {
                        Some(calls) => calls.push(call),
                        None => last["tool_calls"] = json!([call]),
                    }
                }
                _ => messages.push(json!({
                    "role": "assistant", "content": "", "tool_calls": [call],
                })),
            }
        }
        "function_call_output" if with_tools => {
            let id: String = item.need("call_id", "a string")?;
            let text = take_texts(item, "output")?;
            messages.push(json!({"role": "tool", "tool_call_id": id, "content": text}));
        }
        kind => {
            let read = if with_tools {
                "message, function_call and function_call_output"
            } else {
                "message"
            };
            let text = format!("type is {kind:?}, but the model reads {read} alone");
            return Err(ApiError::field("type", text));
        }
    }
    Ok(())
}

fn read_message(item: &mut Fields) -> Result<Value, ApiError> {
    let role: String = item.need("role", "a string")?;
    let role = match role.as_str() {
        "system" | "developer" => "system",
        "user" | "assistant" => &role,
        _ => {
            let text = format!("role is {role:?}, expected user, assistant, system or developer");
            return Err(ApiError::field("role", text));
        }
    };
    Ok(json!({"role": role, "content": take_texts(item, "content")?}))
}

/// Takes a text, or the texts of parts.
fn take_texts(item: &mut Fields, name: &'static str) -> Result<String, ApiError> {
    match item.need(name, CONTENT)? {
        Content::Text(text) => Ok(text),
        Content::Items(parts) => {
            let parts = parts.into_iter().enumerate();
            let mut texts =
                parts.map(|(i, part)| item.inside(&format!("{name}[{i}]"), part, take_part));
            texts.by_ref().collect()
        }
    }
}

fn take_part(part: &mut Fields) -> Result<String, ApiError> {
    let kind: String = part.need("type", "a string")?;
    if !matches!(kind.as_str(), "input_text" | "output_text" | "text") {
        let text = format!("type is {kind:?}, but the model reads text alone");
        return Err(ApiError::field("type", text));
    }
    // Parts of earlier replies have them.
    part.hint("annotations", &[json!([])]);
    part.hint("logprobs", &[json!([])]);
    part.without_effect(&["prompt_cache_breakpoint"]);
    part.need("text", "a text")
}

fn read_call(item: &mut Fields) -> Result<Value, ApiError> {
    let id: String = item.need("call_id", "a string")?;
    let name: String = item.need("name", "a string")?;
    let expected = "a JSON object as a text";
    let text: String = item.need("arguments", expected)?;
    let arguments: Map<String, Value> = serde_json::from_str(&text).map_err(|_| {
        ApiError::field(
            "arguments",
            format!("arguments is {text:?}, expected {expected}"),
        )
    })?;
    let function = json!({"name": name, "arguments": arguments});
    Ok(json!({"type": "function", "id": id, "function": function}))
}
