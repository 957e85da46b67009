//! The documents of generated texts, whole and in pieces.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bitnet_inference::{FinishReason, TaskUsage};
use hyper::body::Frame;
use serde::Serialize;
use tokio::time::{Interval, MissedTickBehavior};

use super::generation::{GeneratedText, ended};
use super::logprobs::{self, ChatLogprob, CompletionLogprobs};
use super::tools::{CallFinder, CalledFunction, Piece, ToolCall};
use super::{document, tell_ignored};
use crate::error::ApiError;
use crate::job::{JobEvent, JobHandle, TextEvent, Timings};
use crate::model::ModelFacts;

/// Proxies and clients give up on connections that are silent for longer.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

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
    },
    Delta {
        index: usize,
        delta: Delta,
        logprobs: Option<ChatLogprobs>,
        finish_reason: Option<&'static str>,
    },
    Text {
        text: String,
        index: usize,
        logprobs: Option<CompletionLogprobs>,
        finish_reason: Option<&'static str>,
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

/// Returns the name of a reason in the API.
fn reason_name(reason: FinishReason) -> &'static str {
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

impl Reply {
    /// Returns the reply with all texts.
    pub fn whole(&self, texts: &[GeneratedText]) -> Response {
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
                }
            }
        }
    }

    /// Returns the message of a text, with the calls of tools in it.
    fn message(&self, text: &str) -> Message {
        let mut finder = CallFinder::default();
        let mut content = String::new();
        let mut tool_calls = Vec::new();
        let pieces = if self.with_tools {
            finder.push(text)
        } else {
            vec![Piece::Text(text.to_owned())]
        };
        for piece in pieces {
            match piece {
                Piece::Text(text) => content += &text,
                Piece::Call(function) => tool_calls.push(new_call(None, function)),
            }
        }
        content += &finder.finish();
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

    /// Returns the reply as a stream of server-sent events.
    pub fn stream(self, handle: JobHandle, n_texts: usize, include_usage: bool) -> Response {
        let ignored = self.ignored.clone();
        let mut keep_alive = tokio::time::interval(KEEP_ALIVE);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        keep_alive.reset();
        let events = Events {
            texts: (0..n_texts).map(|_| Streamed::default()).collect(),
            reply: self,
            handle,
            n_left: n_texts,
            include_usage,
            usage: Usage::default(),
            timings: None,
            keep_alive,
            is_done: false,
        };
        let mut response = Response::new(Body::new(events));
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, kind);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // nginx would collect events otherwise.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        tell_ignored(&mut response, &ignored);
        response
    }
}

/// The state of a text of a stream.
#[derive(Debug, Default)]
struct Streamed {
    has_begun: bool,
    /// Characters so far, for `text_offset`.
    offset: usize,
    prompt_logprobs: Vec<bitnet_inference::TokenLogprobs>,
    calls: CallFinder,
    n_calls: usize,
}

/// The body of a stream. What happened since the last write is written at once.
struct Events {
    reply: Reply,
    handle: JobHandle,
    texts: Vec<Streamed>,
    n_left: usize,
    include_usage: bool,
    usage: Usage,
    timings: Option<TimingsDocument>,
    keep_alive: Interval,
    is_done: bool,
}

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if this.is_done {
            return Poll::Ready(None);
        }
        let mut out = String::new();
        while !this.is_done {
            match this.handle.poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(event)) => this.on_event(event, &mut out),
                Poll::Ready(None) => this.fail(&ended(), &mut out),
            }
        }
        if out.is_empty() && this.keep_alive.poll_tick(cx).is_ready() {
            out.push_str(": waiting\n\n");
        }
        if out.is_empty() {
            return Poll::Pending;
        }
        this.keep_alive.reset();
        Poll::Ready(Some(Ok(Frame::data(out.into()))))
    }
}

impl Events {
    fn on_event(&mut self, JobEvent { index, event }: JobEvent, out: &mut String) {
        match event {
            TextEvent::Accepted | TextEvent::Embedding(..) => {}
            TextEvent::PromptLogprobs(scores) => self.texts[index].prompt_logprobs = scores,
            TextEvent::Tokens {
                text,
                tokens: _,
                logprobs,
            } => {
                let piece = GeneratedText {
                    text,
                    logprobs,
                    ..GeneratedText::default()
                };
                self.write_piece(index, &piece, out);
            }
            TextEvent::Finished {
                text,
                reason,
                end,
                usage,
                timings,
            } => {
                let piece = GeneratedText {
                    text,
                    reason: Some(reason),
                    end,
                    ..GeneratedText::default()
                };
                self.write_piece(index, &piece, out);
                self.usage.add(usage, index % self.reply.n == 0);
                if index == 0 {
                    self.timings = Some(TimingsDocument::new(timings, usage));
                }
                self.n_left -= 1;
                if self.n_left == 0 {
                    self.end(out);
                }
            }
            TextEvent::Failed(error) => self.fail(&error.into(), out),
            TextEvent::Refused {
                max_waiting,
                retry_after,
            } => self.fail(&ApiError::queue_full(max_waiting, retry_after), out),
        }
    }

    /// Writes the next piece of a text, unless it is empty.
    fn write_piece(&mut self, index: usize, piece: &GeneratedText, out: &mut String) {
        let is_first = !std::mem::replace(&mut self.texts[index].has_begun, true);
        match self.reply.form {
            Form::Chat => self.write_chat_piece(index, piece, is_first, out),
            Form::Completion => {
                let is_empty = piece.text.is_empty() && piece.logprobs.is_empty();
                if is_first || !is_empty || piece.reason.is_some() {
                    let choice = self.completion_piece(index, piece, is_first);
                    self.write(choice, out);
                }
            }
        }
    }

    fn write_chat_piece(
        &mut self,
        index: usize,
        piece: &GeneratedText,
        is_first: bool,
        out: &mut String,
    ) {
        let delta = |delta| Choice::Delta {
            index,
            delta,
            logprobs: None,
            finish_reason: None,
        };
        if is_first {
            let begin = Delta {
                role: Some("assistant"),
                content: Some(String::new()),
                tool_calls: None,
            };
            self.write(delta(begin), out);
        }
        let (text, calls) = self.take_calls(index, piece);
        if !text.is_empty() || !piece.logprobs.is_empty() {
            let content = Choice::Delta {
                index,
                delta: Delta {
                    content: Some(text),
                    ..Delta::default()
                },
                logprobs: self.reply.chat_logprobs(&piece.logprobs),
                finish_reason: None,
            };
            self.write(content, out);
        }
        for call in calls {
            let call = Delta {
                tool_calls: Some([call]),
                ..Delta::default()
            };
            self.write(delta(call), out);
        }
        if let Some(reason) = piece.reason {
            let has_calls = self.texts[index].calls.has_calls();
            let end = Choice::Delta {
                index,
                delta: Delta::default(),
                logprobs: None,
                finish_reason: Some(if has_calls {
                    TOOL_CALLS
                } else {
                    reason_name(reason)
                }),
            };
            self.write(end, out);
        }
    }

    /// Separates the calls of tools from the text of a piece.
    fn take_calls(&mut self, index: usize, piece: &GeneratedText) -> (String, Vec<ToolCall>) {
        if !self.reply.with_tools {
            return (piece.text.clone(), Vec::new());
        }
        let state = &mut self.texts[index];
        let (mut text, mut calls) = (String::new(), Vec::new());
        for part in state.calls.push(&piece.text) {
            match part {
                Piece::Text(part) => text += &part,
                Piece::Call(function) => {
                    calls.push(new_call(Some(state.n_calls), function));
                    state.n_calls += 1;
                }
            }
        }
        if piece.reason.is_some() {
            text += &state.calls.finish();
        }
        (text, calls)
    }

    fn completion_piece(&mut self, index: usize, piece: &GeneratedText, is_first: bool) -> Choice {
        let state = &mut self.texts[index];
        let mut logprobs = CompletionLogprobs::default();
        let mut offset = state.offset;
        let mut text = String::new();
        if is_first && let Some(echo) = self.reply.echo.get(index / self.reply.n) {
            let scored = GeneratedText {
                prompt_logprobs: std::mem::take(&mut state.prompt_logprobs),
                ..GeneratedText::default()
            };
            (self.reply).add_prompt(&mut logprobs, echo, &scored, &mut offset);
            text.clone_from(&echo.text);
        }
        for scored in (piece.logprobs.iter()).chain(self.reply.scored_end(piece)) {
            logprobs.push(&self.reply.model.tokenizer, scored, &mut offset);
        }
        state.offset = offset;
        Choice::Text {
            text: text + &piece.text,
            index,
            logprobs: self.reply.with_logprobs.then_some(logprobs),
            finish_reason: piece.reason.map(reason_name),
        }
    }

    fn write(&self, choice: Choice, out: &mut String) {
        let chunk = Document {
            // `null` in all chunks but the last, if it was asked for.
            usage: self.include_usage.then_some(UsageField::Later(())),
            ..self.reply.document(vec![choice])
        };
        write_event(&chunk, out);
    }

    /// Writes the end of the stream.
    fn end(&mut self, out: &mut String) {
        if self.include_usage {
            let last = Document {
                usage: Some(UsageField::Total(self.usage)),
                timings: self.timings.take(),
                seed: Some(self.reply.seed),
                ..self.reply.document(Vec::new())
            };
            write_event(&last, out);
        }
        out.push_str("data: [DONE]\n\n");
        self.is_done = true;
    }

    fn fail(&mut self, error: &ApiError, out: &mut String) {
        out.push_str("data: ");
        out.push_str(&error.json());
        out.push_str("\n\n");
        self.is_done = true;
    }
}

fn write_event(event: &impl Serialize, out: &mut String) {
    out.push_str("data: ");
    out.push_str(&serde_json::to_string(event).expect("documents have string keys"));
    out.push_str("\n\n");
}
