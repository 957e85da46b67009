//! The documents of generated texts, whole and in pieces.

mod chunks;
mod parts;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use bitnet_inference::{FinishReason, TaskUsage};
use serde::Serialize;

pub use self::parts::{Part, Parts, Step, parts_of};
pub use self::stream::{StreamWriter, write_named_event};
use super::generation::{GeneratedText, Generation, best, texts};
use super::logprobs::{self, ChatLogprob, CompletionLogprobs};
use super::receipts::{Receipts, TextReceipt};
use super::tools::{CallFinder, CalledFunction, Piece, ToolCall};
use super::{document, tell_ignored};
use crate::app::{App, Client};
use crate::error::ApiError;
use crate::job::Timings;
use crate::model::ModelFacts;

/// A request for texts, read and checked.
pub struct AskedTexts<R> {
    pub generation: Generation,
    pub reply: R,
    pub stream: bool,
}

/// The reply of an API, from the texts of a request.
pub trait ReplyForm {
    type Writer: StreamWriter;

    /// Returns the reply with all texts.
    fn whole(&self, texts: &[GeneratedText]) -> Response;

    /// Returns the fields of the request that had no effect.
    fn ignored(&self) -> &[String];

    /// Returns what writes the reply as a stream.
    fn writer(self, n_texts: usize) -> Self::Writer;
}

impl<R: ReplyForm> AskedTexts<R> {
    /// Generates the texts and returns the reply, whole or as a stream.
    pub async fn answer(
        self,
        app: &Arc<App>,
        model: &Arc<ModelFacts>,
        client: Client,
    ) -> Result<Response, ApiError> {
        let Self {
            generation, reply, ..
        } = self;
        let (n_prompts, n, best_of) = (generation.prompts.len(), generation.n, generation.best_of);
        let seed = generation.sampling.options.seed;
        let receipts = Receipts::of(app, model, &generation).await?;
        let events = generation.submit(app, model, client).await?;
        let mut response = if self.stream {
            let n_texts = n_prompts * n;
            let ignored = reply.ignored().to_vec();
            let writer = reply.writer(n_texts);
            let mut response = stream::response(writer, events, receipts, n_texts);
            tell_ignored(&mut response, &ignored);
            response
        } else {
            let texts = texts(events, &receipts, n_prompts * best_of).await?;
            reply.whole(&best(texts, best_of, n))
        };
        // Before the first token: who loses the connection can ask for the same again.
        response.headers_mut().insert("bitnet-seed", seed.into());
        Ok(response)
    }
}

/// The endpoint whose form a reply has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Chat,
    Completion,
}

/// What all documents of a reply share.
#[derive(Clone, Debug)]
pub struct Reply {
    pub form: Form,
    /// Whether a stream ends with the numbers of tokens.
    pub include_usage: bool,
    pub model: Arc<ModelFacts>,
    pub id: String,
    pub created: u64,
    /// The seed of the first text.
    pub seed: u64,
    /// Texts per prompt.
    pub n: usize,
    pub with_logprobs: bool,
    /// Whether calls of tools are looked for.
    pub with_tools: bool,
    /// The prompts' texts and tokens, if they are part of the reply.
    pub echo: Vec<Echo>,
    /// The fields of the request that had no effect.
    pub ignored: Vec<String>,
}

/// A prompt that is repeated in the reply.
#[derive(Clone, Debug)]
pub struct Echo {
    pub text: String,
    pub tokens: Vec<u32>,
}

#[derive(Serialize)]
struct Document<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageField>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<TimingsDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

/// The usage in a document, or `null` in the chunks before it.
#[derive(Serialize)]
#[serde(untagged)]
enum UsageField {
    Later(()),
    Total(Usage),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Choice {
    Message {
        index: usize,
        message: Message,
        logprobs: Option<ChatLogprobs>,
        finish_reason: &'static str,
        #[serde(flatten)]
        receipt: Option<TextReceipt>,
    },
    Delta {
        index: usize,
        delta: Delta,
        logprobs: Option<ChatLogprobs>,
        finish_reason: Option<&'static str>,
        #[serde(flatten)]
        receipt: Option<TextReceipt>,
    },
    Text {
        text: String,
        index: usize,
        logprobs: Option<CompletionLogprobs>,
        finish_reason: Option<&'static str>,
        #[serde(flatten)]
        receipt: Option<TextReceipt>,
    },
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    /// `null` if there are calls alone.
    content: Option<String>,
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolCall; 1]>,
}

#[derive(Serialize)]
struct ChatLogprobs {
    content: Vec<ChatLogprob>,
    refusal: Option<()>,
}

/// The numbers of tokens of a reply.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct PromptDetails {
    cached_tokens: usize,
}

impl Usage {
    /// Adds a text. A prompt counts once for all its texts.
    pub fn add(&mut self, usage: TaskUsage, is_first_of_prompt: bool) {
        if is_first_of_prompt {
            self.prompt_tokens += usage.n_prompt;
            self.prompt_tokens_details.cached_tokens += usage.n_cached;
        }
        self.completion_tokens += usage.n_generated;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
    }
}

/// The times of the first text, with the names of llama.cpp.
#[derive(Serialize)]
struct TimingsDocument {
    queue_ms: f64,
    cache_n: usize,
    prompt_n: usize,
    prompt_ms: f64,
    prompt_per_token_ms: f64,
    prompt_per_second: f64,
    predicted_n: usize,
    predicted_ms: f64,
    predicted_per_token_ms: f64,
    predicted_per_second: f64,
}

impl TimingsDocument {
    fn new(timings: Timings, usage: TaskUsage) -> Self {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let rate = |n: usize, time: Duration| match time.as_secs_f64() {
            0.0 => 0.0,
            seconds => n as f64 / seconds,
        };
        let per_token = |time: Duration, n: usize| ms(time) / n.max(1) as f64;
        let n_prompt = usage.n_prompt - usage.n_cached;
        // The first token is part of the prompt's time.
        let n_decoded = usage.n_generated.saturating_sub(1);
        Self {
            queue_ms: ms(timings.queued),
            cache_n: usage.n_cached,
            prompt_n: n_prompt,
            prompt_ms: ms(timings.prefill),
            prompt_per_token_ms: per_token(timings.prefill, n_prompt),
            prompt_per_second: rate(n_prompt, timings.prefill),
            predicted_n: usage.n_generated,
            predicted_ms: ms(timings.decode),
            predicted_per_token_ms: per_token(timings.decode, n_decoded),
            predicted_per_second: rate(n_decoded, timings.decode),
        }
    }
}

/// Returns the name of a reason in the APIs of chats.
pub fn reason_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::Stop | FinishReason::Eos => "stop",
    }
}

/// The reason of a text that ends with calls of tools.
const TOOL_CALLS: &str = "tool_calls";

fn new_call(index: Option<usize>, function: CalledFunction) -> ToolCall {
    ToolCall {
        index,
        id: super::new_id("call"),
        kind: "function",
        function,
    }
}

impl ReplyForm for Reply {
    type Writer = chunks::Chunks;

    fn whole(&self, texts: &[GeneratedText]) -> Response {
        let mut usage = Usage::default();
        for (i, text) in texts.iter().enumerate() {
            usage.add(text.usage, i % self.n == 0);
        }
        let choices = texts
            .iter()
            .enumerate()
            .map(|(i, text)| self.choice(i, text));
        let timings = texts.first();
        let timings = timings.map(|text| TimingsDocument::new(text.timings, text.usage));
        let whole = Document {
            object: match self.form {
                Form::Chat => "chat.completion",
                Form::Completion => "text_completion",
            },
            usage: Some(UsageField::Total(usage)),
            timings,
            seed: Some(self.seed),
            ..self.document(choices.collect())
        };
        document(&whole, &self.ignored)
    }

    fn ignored(&self) -> &[String] {
        &self.ignored
    }

    fn writer(self, n_texts: usize) -> chunks::Chunks {
        chunks::Chunks::new(self, n_texts)
    }
}

impl Reply {
    fn document(&self, choices: Vec<Choice>) -> Document<'_> {
        Document {
            id: &self.id,
            object: match self.form {
                Form::Chat => "chat.completion.chunk",
                Form::Completion => "text_completion",
            },
            created: self.created,
            model: &self.model.name,
            system_fingerprint: &self.model.fingerprint,
            choices,
            usage: None,
            timings: None,
            seed: None,
        }
    }

    fn choice(&self, index: usize, text: &GeneratedText) -> Choice {
        let reason = text.reason.map_or("stop", reason_name);
        match self.form {
            Form::Chat => {
                let message = self.message(&text.text);
                let has_calls = !message.tool_calls.is_empty();
                Choice::Message {
                    index,
                    message,
                    logprobs: self.chat_logprobs(&text.logprobs),
                    finish_reason: if has_calls { TOOL_CALLS } else { reason },
                    receipt: text.receipt.clone(),
                }
            }
            Form::Completion => {
                let mut offset = 0;
                let mut logprobs = CompletionLogprobs::default();
                let echo = self.echo.get(index / self.n);
                if let Some(echo) = echo {
                    self.add_prompt(&mut logprobs, echo, text, &mut offset);
                }
                for scored in text.logprobs.iter().chain(self.scored_end(text)) {
                    logprobs.push(&self.model.tokenizer, scored, &mut offset);
                }
                let prompt = echo.map_or("", |echo| echo.text.as_str());
                Choice::Text {
                    text: format!("{prompt}{}", text.text),
                    index,
                    logprobs: self.with_logprobs.then_some(logprobs),
                    finish_reason: Some(reason),
                    receipt: text.receipt.clone(),
                }
            }
        }
    }

    /// Returns the message of a text, with the calls of tools in it.
    fn message(&self, text: &str) -> Message {
        let mut content = String::new();
        let mut tool_calls = Vec::new();
        for piece in CallFinder::new(self.with_tools).next(text, true) {
            match piece {
                Piece::Text(text) => content += &text,
                Piece::Call(function) => tool_calls.push(new_call(None, function)),
            }
        }
        let is_blank = !tool_calls.is_empty() && content.trim().is_empty();
        Message {
            role: "assistant",
            content: (!is_blank).then_some(content),
            refusal: None,
            tool_calls,
        }
    }

    /// Adds the tokens of a prompt; the first has no probability.
    fn add_prompt(
        &self,
        logprobs: &mut CompletionLogprobs,
        echo: &Echo,
        text: &GeneratedText,
        offset: &mut usize,
    ) {
        let tokenizer = &self.model.tokenizer;
        if let Some(&first) = echo.tokens.first() {
            logprobs.push_unknown(tokenizer, first, offset);
        }
        for scored in &text.prompt_logprobs {
            logprobs.push(tokenizer, scored, offset);
        }
    }

    /// Returns the token that ended a text after its prompt. Programs that score texts ask
    /// for one token more than they score, and drop it.
    fn scored_end<'a>(
        &self,
        text: &'a GeneratedText,
    ) -> Option<&'a bitnet_inference::TokenLogprobs> {
        text.end.as_ref().filter(|_| !self.echo.is_empty())
    }

    fn chat_logprobs(&self, scored: &[bitnet_inference::TokenLogprobs]) -> Option<ChatLogprobs> {
        self.with_logprobs.then(|| ChatLogprobs {
            content: logprobs::chat(&self.model.tokenizer, scored),
            refusal: None,
        })
    }
}
