//! `/v1/chat/completions`

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use bitnet_inference::{ChatOptions, ChatPrompt};
use serde_json::{Map, Value, json};

use super::completions::{MAX_LOGPROBS, take_n, take_stream_options};
use super::fields::Fields;
use super::generation::Generation;
use super::reply::{AskedTexts, Form, Reply};
use super::tools::{self, Tools};
use super::{Asked, aside, asked, check_model, messages, receipts, sampling};
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
    let tools = tools::take(&mut fields, &model)?;
    let prompt = take_prompt(&mut fields, &model, &tools)?;
    let stream = fields.take("stream", "true or false")?.unwrap_or(false);
    let include_usage = take_stream_options(&mut fields, stream)?;
    let n = take_n(&mut fields)?;
    let limits = ["max_completion_tokens", "max_tokens"];
    let max_tokens = fields.take_any(&limits, "a number of tokens")?;
    let max_tokens = max_tokens.map(|(_, n)| n).or(defaults.max_tokens);
    let logprobs = take_logprobs(&mut fields)?;
    let receipt = receipts::take(&mut fields)?;
    refuse_others(&mut fields)?;
    let mut sampling = sampling::take(&mut fields, &model, defaults)?;
    if sampling.grammar.is_some() && tools.grammar.is_some() {
        let message = "tool_choice requires a call, so no other field may limit the text";
        return Err(ApiError::field("tool_choice", message));
    }
    sampling.grammar = sampling.grammar.or(tools.grammar);
    let ignored = fields.finish()?;
    let seed = sampling.options.seed;
    let generation = Generation {
        field: "messages",
        prompts: vec![prompt.ids],
        n,
        best_of: n,
        max_tokens: max_tokens.unwrap_or(usize::MAX),
        sampling,
        logprobs,
        prompt_logprobs: None,
        receipt,
    };
    let reply = Reply {
        form: Form::Chat,
        include_usage,
        id: super::new_id("chatcmpl"),
        created: model.unix_time(),
        seed,
        n,
        with_logprobs: logprobs.is_some(),
        with_tools: !tools.definitions.is_empty(),
        echo: Vec::new(),
        ignored,
        model,
    };
    Ok(AskedTexts {
        generation,
        reply,
        stream,
    })
}

/// Takes the messages and what the template gets, and renders them.
pub fn take_prompt(
    fields: &mut Fields,
    model: &ModelFacts,
    tools: &Tools,
) -> Result<ChatPrompt, ApiError> {
    let expected = "a list of messages such as {\"role\": \"user\", \"content\": \"…\"}";
    let messages: Vec<Map<String, Value>> = fields.need("messages", expected)?;
    if messages.is_empty() {
        return Err(ApiError::field("messages", "messages is empty"));
    }
    let messages = messages.into_iter().enumerate();
    let messages: Vec<Value> = messages
        .map(|(i, message)| messages::read(i, message, model.has_tools()))
        .collect::<Result<_, _>>()?;
    let mut options = options_now(model);
    options.answer = (fields.take("add_generation_prompt", "true or false")?).unwrap_or(true);
    if let Some(variables) = fields.take("chat_template_kwargs", "an object")? {
        options = options
            .with_variables(variables)
            .map_err(|error| ApiError::from(error).with_param("chat_template_kwargs"))?;
    }
    render(model, &messages, tools, &options)
}

/// Renders messages in the form that templates read.
pub fn render(
    model: &ModelFacts,
    messages: &[Value],
    tools: &Tools,
    options: &ChatOptions,
) -> Result<ChatPrompt, ApiError> {
    let template = model.template.as_ref().ok_or_else(|| {
        let message = "the model has no chat template: it continues texts, with /v1/completions";
        ApiError::field("messages", message).with_code("no_chat_template")
    })?;
    let tools = Some(&tools.definitions[..]).filter(|tools| !tools.is_empty());
    Ok(template.encode_json(&model.tokenizer, messages, tools, options)?)
}

/// Returns what the template gets besides the messages.
pub fn options_now(model: &ModelFacts) -> ChatOptions {
    let mut options = model.chat_options.clone();
    options.now = model.now();
    options
}

/// Takes `logprobs` and `top_logprobs`.
fn take_logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let wanted = fields.take("logprobs", "true or false")?.unwrap_or(false);
    let expected = format!("a number from 0 to {MAX_LOGPROBS}");
    let top: Option<usize> = fields.take("top_logprobs", &expected)?;
    match top {
        Some(n) if n > MAX_LOGPROBS => Err(ApiError::field(
            "top_logprobs",
            format!("top_logprobs is {n}, expected {expected}"),
        )),
        Some(n) if n > 0 && !wanted && fields.is_lenient() => {
            fields.ignore("top_logprobs");
            Ok(None)
        }
        Some(n) if n > 0 && !wanted => Err(ApiError::field(
            "top_logprobs",
            "top_logprobs is only for requests with \"logprobs\": true",
        )),
        top => Ok(wanted.then(|| top.unwrap_or(0))),
    }
}

/// Takes the fields of the API that have no effect here, and refuses what cannot be done.
fn refuse_others(fields: &mut Fields) -> Result<(), ApiError> {
    let old_name = "`tools` and `tool_choice` are its new names";
    fields.refuse("functions", &[json!([])], old_name)?;
    fields.refuse("function_call", &[json!("none"), json!("auto")], old_name)?;
    let text_only = "the model reads and writes text alone";
    fields.refuse("modalities", &[json!(["text"])], text_only)?;
    fields.refuse("audio", &[], text_only)?;
    fields.refuse("web_search_options", &[], "this server does not search")?;
    fields.refuse("prediction", &[], "nothing would be faster with it")?;
    fields.refuse("moderation", &[], "this server does not moderate")?;
    fields.refuse("store", &[json!(false)], "this server keeps nothing")?;
    let tiers = [json!("auto"), json!("default")];
    fields.refuse("service_tier", &tiers, "there is one tier")?;
    fields.refuse(
        "continue_final_message",
        &[json!(false)],
        "the template ends each message",
    )?;
    fields.without_effect(&[
        "user",
        "safety_identifier",
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "parallel_tool_calls",
        "cache_prompt",
        "reasoning_effort",
        "verbosity",
    ]);
    Ok(())
}
