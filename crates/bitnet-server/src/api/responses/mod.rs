//! OpenAI's `/v1/responses`, of which nothing is kept.

mod input;
mod reply;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use bitnet_inference::Grammar;
use serde_json::{Map, Value, json};

use self::reply::Reply;
use super::completions::MAX_LOGPROBS;
use super::fields::Fields;
use super::generation::Generation;
use super::logprobs::as_written;
use super::reply::AskedTexts;
use super::sampling::Sampling;
use super::tools::{self, Choice, Tools};
use super::{Asked, aside, asked, chat, check_model, receipts, sampling};
use crate::app::App;
use crate::error::ApiError;
use crate::model::ModelFacts;
use crate::options::RequestDefaults;

pub async fn create(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let asked = asked(&app, request).await?;
    let (client, model) = (asked.client, Arc::clone(&asked.model));
    let defaults = model.defaults;
    let asked = aside(move || read(asked, defaults)).await?;
    asked.answer(&app, &model, client).await
}

pub(super) fn read(asked: Asked, defaults: RequestDefaults) -> Result<AskedTexts<Reply>, ApiError> {
    let Asked {
        model, mut fields, ..
    } = asked;
    check_model(&model, &mut fields)?;
    // What was asked for is part of the reply.
    let mut echo = json!({});
    for name in [
        "instructions",
        "max_output_tokens",
        "metadata",
        "text",
        "tools",
        "tool_choice",
    ] {
        echo[name] = fields.get(name).cloned().unwrap_or_default();
    }
    let stream = fields.take("stream", "true or false")?.unwrap_or(false);
    let tools = take_tools(&mut fields, &model)?;
    let messages = input::take(&mut fields, model.has_tools())?;
    let max_tokens = fields.take("max_output_tokens", "a number of tokens")?;
    let _metadata: Option<Map<String, Value>> = fields.take("metadata", "an object")?;
    let grammar = take_text(&mut fields)?;
    if grammar.is_some() && tools.grammar.is_some() {
        let message = "tool_choice requires a call, so text may not limit it";
        return Err(ApiError::field("tool_choice", message));
    }
    let logprobs = take_logprobs(&mut fields)?;
    refuse_others(&mut fields)?;
    let receipt = receipts::take(&mut fields)?;
    let sampling = Sampling {
        stops: sampling::stops(&mut fields, "stop")?,
        grammar: grammar.or(tools.grammar.clone()),
        ..sampling::options(&mut fields, defaults)?
    };
    let ignored = fields.finish()?;
    let prompt = chat::render(&model, &messages, &tools, &chat::options_now(&model))
        .map_err(|error| error.with_param("input"))?;
    echo["temperature"] = as_written(sampling.options.temperature).into();
    echo["top_p"] = as_written(sampling.options.top_p).into();
    echo["top_logprobs"] = logprobs.unwrap_or(0).into();
    let reply = Reply::new(
        model,
        echo,
        sampling.options.seed,
        !tools.definitions.is_empty(),
        logprobs.is_some(),
        ignored,
    );
    let max_tokens = max_tokens.or(defaults.max_tokens);
    let mut generation = Generation::one("input", prompt.ids, max_tokens, sampling, logprobs);
    generation.receipt = receipt;
    Ok(AskedTexts {
        generation,
        reply,
        stream,
    })
}

/// Takes `tools` and `tool_choice`.
fn take_tools(fields: &mut Fields, model: &ModelFacts) -> Result<Tools, ApiError> {
    if !tools::are_known(fields, model)? {
        let none = [json!("none"), json!("auto")];
        fields.refuse("tool_choice", &none, tools::UNKNOWN)?;
        return Ok(Tools::default());
    }
    let expected = "a list of {\"type\": \"function\", \"name\": …}";
    let tools: Vec<Map<String, Value>> = fields.take("tools", expected)?.unwrap_or_default();
    let mut definitions = Vec::with_capacity(tools.len());
    for (i, tool) in tools.into_iter().enumerate() {
        definitions.push(fields.inside(&format!("tools[{i}]"), tool, read_tool)?);
    }
    let expected = "\"none\", \"auto\", \"required\", or a function of tools";
    let choice = match fields.take::<Value>("tool_choice", expected)? {
        None => Choice::Auto,
        Some(Value::String(mode)) => match mode.as_str() {
            "none" => Choice::None,
            "auto" => Choice::Auto,
            "required" => Choice::Any,
            _ => return Err(tools::wrong_choice(expected)),
        },
        Some(Value::Object(choice)) => fields.inside("tool_choice", choice, |choice| {
            need_kind(choice, "function", "this server has no tools of its own")?;
            Ok(Choice::Named(
                choice.need("name", "the name of a function")?,
            ))
        })?,
        Some(_) => return Err(tools::wrong_choice(expected)),
    };
    tools::choose(definitions, &choice)
}

/// Takes a type that must be this one.
fn need_kind(object: &mut Fields, expected: &str, why: &str) -> Result<(), ApiError> {
    let kind: String = object.need("type", &format!("{expected:?}"))?;
    if kind == expected {
        return Ok(());
    }
    let message = format!("type is {kind:?}, expected {expected:?}: {why}");
    Err(ApiError::field("type", message))
}

fn read_tool(tool: &mut Fields) -> Result<Value, ApiError> {
    need_kind(tool, "function", "this server has no tools of its own")?;
    let name: String = tool.need("name", "a string")?;
    let description = tool.take("description", "a string")?;
    let parameters = tool.take::<Map<_, _>>("parameters", "a JSON schema")?;
    // Arguments always follow their schema where a call is required.
    let _strict: Option<bool> = tool.take("strict", "true or false")?;
    tool.refuse("defer_loading", &[json!(false)], "all tools are loaded")?;
    let direct = [json!(["direct"])];
    tool.refuse("allowed_callers", &direct, "this server runs no code")?;
    tool.without_effect(&["output_schema"]);
    let parameters = parameters.map(Value::Object);
    Ok(tools::definition(&name, description, parameters))
}

/// Takes `text`: the form of the text.
fn take_text(fields: &mut Fields) -> Result<Option<Grammar>, ApiError> {
    let text: Option<Map<String, Value>> = fields.take("text", "an object")?;
    fields.inside("text", text.unwrap_or_default(), |text| {
        text.without_effect(&["verbosity"]);
        let format: Option<Map<String, Value>> = text.take("format", "an object")?;
        let Some(format) = format else {
            return Ok(None);
        };
        text.inside("format", format, |format| {
            let expected = "\"text\", \"json_object\" or \"json_schema\"";
            let kind: String = format.need("type", expected)?;
            match kind.as_str() {
                "text" => Ok(None),
                "json_object" => Ok(Some(Grammar::JsonSchema(json!({"type": "object"})))),
                "json_schema" => {
                    let schema = format.need("schema", "a JSON schema")?;
                    let _name: Option<String> = format.take("name", "a string")?;
                    let _description: Option<String> = format.take("description", "a string")?;
                    // A schema is always followed to the letter.
                    let _strict: Option<bool> = format.take("strict", "true or false")?;
                    Ok(Some(Grammar::JsonSchema(schema)))
                }
                _ => {
                    let message = format!("type is {kind:?}, expected {expected}");
                    Err(ApiError::field("type", message))
                }
            }
        })
    })
}

/// Takes `include` and `top_logprobs`. What else may be included is never there.
fn take_logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let include: Vec<String> = fields
        .take("include", "a list of strings")?
        .unwrap_or_default();
    let wanted = |name: &String| name == "message.output_text.logprobs";
    if include.iter().any(|name| !wanted(name)) {
        fields.ignore("include");
    }
    let wanted = include.iter().any(wanted);
    let expected = format!("a number from 0 to {MAX_LOGPROBS}");
    match fields.take("top_logprobs", &expected)? {
        Some(n) if n > MAX_LOGPROBS => Err(ApiError::field(
            "top_logprobs",
            format!("top_logprobs is {n}, expected {expected}"),
        )),
        Some(n) if n > 0 && !wanted => {
            fields.ignore("top_logprobs");
            Ok(None)
        }
        top => Ok(wanted.then(|| top.unwrap_or(0))),
    }
}

/// Takes the fields of the API that have no effect here, and refuses what cannot be done.
fn refuse_others(fields: &mut Fields) -> Result<(), ApiError> {
    let stateless = "this server keeps nothing; input takes the earlier items";
    fields.refuse("previous_response_id", &[], stateless)?;
    fields.refuse("conversation", &[], stateless)?;
    fields.refuse("store", &[json!(false)], "this server keeps nothing")?;
    fields.refuse("background", &[json!(false)], "this server keeps nothing")?;
    fields.refuse("prompt", &[], "this server keeps nothing")?;
    let uncut = "a prompt that is too long is refused, not cut";
    fields.refuse("truncation", &[json!("disabled")], uncut)?;
    fields.refuse("context_management", &[json!([])], uncut)?;
    fields.refuse("moderation", &[], "this server does not moderate")?;
    let tiers = [json!("auto"), json!("default")];
    fields.refuse("service_tier", &tiers, "there is one tier")?;
    fields.hint("stream_options", &[json!({"include_obfuscation": false})]);
    fields.without_effect(&[
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "parallel_tool_calls",
        "max_tool_calls",
        "reasoning",
    ]);
    Ok(())
}
