//! Ollama's API: `/api/chat`, `/api/generate`, `/api/embed`, and what tells of the model.

mod chat;
mod embed;
mod generate;
pub mod models;
mod reply;

pub use self::chat::create as chat;
pub use self::embed::create as embed;
pub use self::generate::create as generate;
#[cfg(any(test, fuzzing))]
pub(super) use self::generate::read as read_generate;
#[cfg(any(test, fuzzing))]
pub(super) use self::{chat::read as read_chat, embed::read as read_embed};

use std::sync::Arc;

use axum::response::Response;
use bitnet_inference::Grammar;
use serde_json::{Map, Value, json};

use self::reply::Reply;
use super::completions::MAX_LOGPROBS;
use super::fields::Fields;
use super::generation::Generation;
use super::reply::AskedTexts;
use super::sampling::{self, Sampling};
use super::{Asked, aside, check_model_name, receipts};
use crate::app::App;
use crate::error::ApiError;
use crate::model::ModelFacts;
use crate::options::RequestDefaults;

/// Takes the name of the model, which may have the tag that Ollama adds.
fn check_name(fields: &mut Fields, model: &ModelFacts) -> Result<(), ApiError> {
    check_model_name(model, fields, |name| {
        name == model.name || name.strip_suffix(":latest") == Some(&model.name)
    })
}

/// What a request asks for: texts, or only that the model be loaded.
pub(super) enum Answer {
    Texts(Box<AskedTexts<Reply>>),
    Loaded(Reply),
}

/// Reads a request beside others, and answers it.
async fn answer(
    app: Arc<App>,
    asked: Asked,
    read: impl FnOnce(Asked, RequestDefaults) -> Result<Answer, ApiError> + Send + 'static,
) -> Result<Response, ApiError> {
    let (client, model) = (asked.client, Arc::clone(&asked.model));
    let defaults = model.defaults;
    match aside(move || read(asked, defaults)).await? {
        Answer::Texts(asked) => asked.answer(&app, &model, client).await,
        Answer::Loaded(reply) => Ok(reply.loaded()),
    }
}

/// The fields that chats and continuations share.
struct Shared {
    stream: bool,
    max_tokens: Option<usize>,
    sampling: Sampling,
    logprobs: Option<usize>,
    receipt: bool,
}

fn take_shared(fields: &mut Fields, defaults: RequestDefaults) -> Result<Shared, ApiError> {
    let stream = fields.take("stream", "true or false")?.unwrap_or(true);
    let grammar = take_format(fields)?;
    let logprobs = take_logprobs(fields)?;
    let receipt = receipts::take(fields)?;
    let (sampling, max_tokens) = take_options(fields, defaults, grammar)?;
    fields.refuse("think", &[json!(false)], "the model does not think")?;
    // The model stays as long as the server; nothing is cut or shifted out of the context.
    fields.without_effect(&["keep_alive"]);
    fields.hint("truncate", &[json!(false)]);
    fields.hint("shift", &[json!(false)]);
    Ok(Shared {
        stream,
        max_tokens,
        sampling,
        logprobs,
        receipt,
    })
}

/// Takes `format`: a schema, or `json` for any object.
fn take_format(fields: &mut Fields) -> Result<Option<Grammar>, ApiError> {
    let expected = "\"json\" or a JSON schema";
    let schema = match fields.take::<Value>("format", expected)? {
        None => return Ok(None),
        Some(Value::String(name)) if name.is_empty() => return Ok(None),
        Some(Value::String(name)) if name == "json" => json!({"type": "object"}),
        Some(schema @ Value::Object(_)) => schema,
        Some(other) => {
            let message = format!("format is {other}, expected {expected}");
            return Err(ApiError::field("format", message));
        }
    };
    Ok(Some(Grammar::JsonSchema(schema)))
}

fn take_logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let wanted = fields.take("logprobs", "true or false")?.unwrap_or(false);
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

/// Takes `options`: the parameters of the sampler, and how a model shall be loaded.
fn take_options(
    fields: &mut Fields,
    defaults: RequestDefaults,
    grammar: Option<Grammar>,
) -> Result<(Sampling, Option<usize>), ApiError> {
    let options: Option<Map<String, Value>> = fields.take("options", "an object")?;
    fields.inside("options", options.unwrap_or_default(), |options| {
        let expected = "a number of tokens, or -1 for as many as there is room for";
        let max_tokens = match options.take::<i64>("num_predict", expected)? {
            None => defaults.max_tokens,
            Some(-2 | -1) => None,
            Some(n) => Some(usize::try_from(n).map_err(|_| {
                let message = format!("num_predict is {n}, expected {expected}");
                ApiError::field("num_predict", message)
            })?),
        };
        let sampling = Sampling {
            stops: sampling::stops(options, "stop")?,
            grammar,
            ..sampling::options(options, defaults)?
        };
        let none = "this server has no such sampler";
        options.refuse("mirostat", &[json!(0)], none)?;
        options.refuse("tfs_z", &[json!(1)], none)?;
        options.refuse("typical_p", &[json!(1)], none)?;
        let all = "penalties hold for all tokens";
        options.refuse("penalize_newline", &[json!(true)], all)?;
        options.without_effect(&["mirostat_tau", "mirostat_eta"]);
        take_load_options(options);
        Ok((sampling, max_tokens))
    })
}

/// Takes how a model shall be loaded: it is loaded already, with its full context.
fn take_load_options(options: &mut Fields) {
    options.without_effect(&[
        "num_ctx",
        "num_keep",
        "num_batch",
        "num_gpu",
        "main_gpu",
        "num_thread",
        "numa",
        "low_vram",
        "f16_kv",
        "logits_all",
        "vocab_only",
        "use_mmap",
        "use_mlock",
        "embedding_only",
    ]);
}

impl Shared {
    /// Returns the request for the text after a prompt from this field.
    fn answer(self, field: &'static str, prompt: Vec<u32>, mut reply: Reply) -> Answer {
        reply.with_logprobs = self.logprobs.is_some();
        let mut generation =
            Generation::one(field, prompt, self.max_tokens, self.sampling, self.logprobs);
        generation.receipt = self.receipt;
        Answer::Texts(Box::new(AskedTexts {
            generation,
            reply,
            stream: self.stream,
        }))
    }
}
