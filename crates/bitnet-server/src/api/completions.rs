//! `/v1/completions`

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::fields::{Fields, Object};
use super::generation::{Generation, MAX_TEXTS};
use super::reply::{AskedTexts, Echo, Form, Reply};
use super::{Asked, aside, asked, check_model, receipts, sampling};
use crate::app::App;
use crate::error::ApiError;
use crate::model::ModelFacts;
use crate::options::RequestDefaults;

/// Tokens of a completion without `max_tokens`, as the API says.
const MAX_TOKENS: usize = 16;
/// Maximum number of alternatives per token.
pub const MAX_LOGPROBS: usize = 20;

/// A prompt or several, as text or as tokens.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

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
    let prompts = take_prompts(&mut fields, &model)?;
    let stream = fields.take("stream", "true or false")?.unwrap_or(false);
    let include_usage = take_stream_options(&mut fields, stream)?;
    let n = take_n(&mut fields)?;
    let best_of = fields.take("best_of", "a number of texts")?.unwrap_or(n);
    if best_of < n || best_of > MAX_TEXTS {
        let message = format!("best_of is {best_of}, expected {n} (that is n) to {MAX_TEXTS}");
        return Err(ApiError::field("best_of", message));
    }
    if stream && best_of > n {
        let message = "best_of cannot be streamed: the best text is known at the end";
        return Err(ApiError::field("best_of", message));
    }
    let max_tokens = fields
        .take("max_tokens", "a number of tokens")?
        .or(defaults.max_tokens)
        .unwrap_or(MAX_TOKENS);
    let logprobs = take_logprobs(&mut fields)?;
    let receipt = receipts::take(&mut fields)?;
    let echo = fields.take("echo", "true or false")?.unwrap_or(false);
    fields.refuse(
        "suffix",
        &[json!("")],
        "the model cannot fill in the middle of a text",
    )?;
    fields.without_effect(&["user", "cache_prompt"]);
    let sampling = sampling::take(&mut fields, &model, defaults)?;
    let ignored = fields.finish()?;
    let seed = sampling.options.seed;
    let with_ranks = best_of > n;
    let generation = Generation {
        field: "prompt",
        prompts: prompts.iter().map(|prompt| prompt.tokens.clone()).collect(),
        n,
        best_of,
        max_tokens,
        sampling,
        logprobs: logprobs.or(with_ranks.then_some(0)),
        prompt_logprobs: logprobs.filter(|_| echo),
        receipt,
    };
    let reply = Reply {
        form: Form::Completion,
        include_usage,
        id: super::new_id("cmpl"),
        created: model.unix_time(),
        seed,
        n,
        with_logprobs: logprobs.is_some(),
        with_tools: false,
        echo: if echo { prompts } else { Vec::new() },
        ignored,
        model,
    };
    Ok(AskedTexts {
        generation,
        reply,
        stream,
    })
}

/// Takes the prompts.
fn take_prompts(fields: &mut super::Fields, model: &ModelFacts) -> Result<Vec<Echo>, ApiError> {
    let expected = "a text, a list of texts, of token ids, or of lists of token ids";
    let prompts = match fields.need("prompt", expected)? {
        Prompts::Text(text) => vec![from_text(model, text)?],
        Prompts::Texts(texts) => texts
            .into_iter()
            .map(|text| from_text(model, text))
            .collect::<Result<_, _>>()?,
        Prompts::Tokens(tokens) => vec![from_tokens(model, tokens)],
        Prompts::TokenLists(lists) => lists
            .into_iter()
            .map(|tokens| from_tokens(model, tokens))
            .collect(),
    };
    if prompts.is_empty() {
        let message = format!("prompt is an empty list, expected {expected}");
        return Err(ApiError::field("prompt", message));
    }
    Ok(prompts)
}

fn from_text(model: &ModelFacts, text: String) -> Result<Echo, ApiError> {
    let tokens = model.tokenizer.encode(&text);
    Ok(Echo {
        tokens: tokens.map_err(|error| ApiError::field("prompt", error.to_string()))?,
        text,
    })
}

fn from_tokens(model: &ModelFacts, tokens: Vec<u32>) -> Echo {
    Echo {
        text: model.tokenizer.decode(&tokens, true),
        tokens,
    }
}

/// Takes `logprobs`: the number of alternatives. Some clients send `true` for none.
fn take_logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Logprobs {
        Number(usize),
        Wanted(bool),
    }
    let expected = format!("a number of alternatives from 0 to {MAX_LOGPROBS}");
    match fields.take("logprobs", &expected)? {
        None | Some(Logprobs::Wanted(false)) => Ok(None),
        Some(Logprobs::Wanted(true)) => Ok(Some(0)),
        Some(Logprobs::Number(n)) if n <= MAX_LOGPROBS => Ok(Some(n)),
        Some(Logprobs::Number(n)) => Err(ApiError::field(
            "logprobs",
            format!("logprobs is {n}, expected {expected}"),
        )),
    }
}

/// Takes the number of texts per prompt.
pub fn take_n(fields: &mut Fields) -> Result<usize, ApiError> {
    let n = fields.take("n", "a number of texts")?.unwrap_or(1);
    if n == 0 || n > MAX_TEXTS {
        let message = format!("n is {n}, expected 1 to {MAX_TEXTS}");
        return Err(ApiError::field("n", message));
    }
    Ok(n)
}

/// Takes the options of a stream. Returns whether its usage is wanted.
pub fn take_stream_options(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct StreamOptions {
        #[serde(default)]
        include_usage: bool,
        /// Padding against listeners on the network: there is none.
        #[serde(default)]
        #[expect(dead_code, reason = "accepted without effect")]
        include_obfuscation: bool,
    }
    let expected = "an object such as {\"include_usage\": true}";
    match fields.take::<Object<StreamOptions>>("stream_options", expected)? {
        Some(_) if !stream && fields.is_lenient() => {
            fields.ignore("stream_options");
            Ok(false)
        }
        Some(_) if !stream => Err(ApiError::field(
            "stream_options",
            "stream_options is only for requests with \"stream\": true",
        )),
        options => Ok(options.is_some_and(|Object(options)| options.include_usage)),
    }
}
