//! A reply as server-sent events.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use hyper::body::Frame;
use serde::Serialize;
use tokio::time::{Interval, MissedTickBehavior};

use super::super::generation::{GeneratedText, ended};
use super::super::logprobs::CompletionLogprobs;
use super::super::tell_ignored;
use super::super::tools::{CallFinder, Piece, ToolCall};
use super::{
    Choice, Delta, Document, Form, Reply, TOOL_CALLS, TimingsDocument, Usage, UsageField, new_call,
    reason_name,
};
use crate::error::ApiError;
use crate::job::{JobEvent, JobHandle, TextEvent};

/// Proxies and clients give up on connections that are silent for longer.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

impl Reply {
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
