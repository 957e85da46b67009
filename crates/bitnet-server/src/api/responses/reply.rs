//! The response, and its events.

use std::sync::Arc;

use axum::response::Response;
use bitnet_inference::{FinishReason, TaskUsage};
use serde_json::{Value, json};

use crate::api::generation::GeneratedText;
use crate::api::logprobs::{self, ChatLogprob};
use crate::api::reply::{Part, Parts, ReplyForm, Step, StreamWriter, parts_of, write_named_event};
use crate::api::tools::CalledFunction;
use crate::api::{document, new_id};
use crate::error::ApiError;
use crate::model::ModelFacts;

/// What the documents of a reply share.
pub struct Reply {
    model: Arc<ModelFacts>,
    id: String,
    created: u64,
    /// Fields of the request that are part of the response.
    echo: Value,
    seed: u64,
    with_tools: bool,
    with_logprobs: bool,
    ignored: Vec<String>,
}

impl Reply {
    pub fn new(
        model: Arc<ModelFacts>,
        echo: Value,
        seed: u64,
        with_tools: bool,
        with_logprobs: bool,
        ignored: Vec<String>,
    ) -> Self {
        Self {
            created: model.unix_time(),
            model,
            id: new_id("resp"),
            echo,
            seed,
            with_tools,
            with_logprobs,
            ignored,
        }
    }

    /// Returns the response with these items, at its end or before.
    fn response(&self, output: &[Value], end: Option<&GeneratedText>) -> Value {
        let given = |name: &str, default: Value| match &self.echo[name] {
            Value::Null => default,
            value => value.clone(),
        };
        let mut text = given("text", json!({}));
        if text["format"].is_null() {
            text["format"] = json!({"type": "text"});
        }
        let mut response = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": end.map(|_| self.model.unix_time()),
            "status": end.map_or("in_progress", status_of),
            "incomplete_details": end.and_then(|end| match status_of(end) {
                "incomplete" => Some(json!({"reason": "max_output_tokens"})),
                _ => None,
            }),
            "error": null,
            "background": false,
            "instructions": self.echo["instructions"],
            "max_output_tokens": self.echo["max_output_tokens"],
            "metadata": given("metadata", json!({})),
            "model": self.model.name,
            "output": output,
            "parallel_tool_calls": true,
            "previous_response_id": null,
            "reasoning": {"effort": null, "summary": null},
            "service_tier": "default",
            "store": false,
            "temperature": self.echo["temperature"],
            "text": text,
            "tool_choice": given("tool_choice", json!("auto")),
            "tools": given("tools", json!([])),
            "top_logprobs": self.echo["top_logprobs"],
            "top_p": self.echo["top_p"],
            "truncation": "disabled",
            "usage": end.map(|end| usage_of(end.usage)),
            "seed": self.seed,
        });
        if let Some(receipt) = end.and_then(|end| end.receipt.as_ref()) {
            receipt.add_to(&mut response);
        }
        response
    }

    fn logprobs(&self, text: &GeneratedText) -> Vec<ChatLogprob> {
        if self.with_logprobs {
            logprobs::chat(&self.model.tokenizer, &text.logprobs)
        } else {
            Vec::new()
        }
    }
}

fn status_of(text: &GeneratedText) -> &'static str {
    match text.reason {
        Some(FinishReason::Length) => "incomplete",
        _ => "completed",
    }
}

fn usage_of(usage: TaskUsage) -> Value {
    json!({
        "input_tokens": usage.n_prompt,
        "input_tokens_details": {"cached_tokens": usage.n_cached, "cache_write_tokens": 0},
        "output_tokens": usage.n_generated,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.n_prompt + usage.n_generated,
    })
}

fn text_part(text: &str, logprobs: &[ChatLogprob]) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs})
}

fn message_item(id: &str, status: &str, content: &[Value]) -> Value {
    json!({
        "id": id,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    })
}

fn call_item(id: &str, call_id: &str, call: &CalledFunction, is_done: bool) -> Value {
    json!({
        "id": id,
        "type": "function_call",
        "status": if is_done { "completed" } else { "in_progress" },
        "call_id": call_id,
        "name": call.name,
        "arguments": if is_done { &call.arguments } else { "" },
    })
}

impl ReplyForm for Reply {
    type Writer = Writer;

    fn whole(&self, texts: &[GeneratedText]) -> Response {
        let text = &texts[0];
        // Those of all tokens come with the first text.
        let mut logprobs = self.logprobs(text);
        let parts = parts_of(&text.text, self.with_tools);
        let output = parts.iter().enumerate().map(|(i, part)| match part {
            Part::Text(part) => {
                let content = text_part(part, &std::mem::take(&mut logprobs));
                // A text before a call is complete.
                let is_last = i + 1 == parts.len();
                let status = if is_last {
                    status_of(text)
                } else {
                    "completed"
                };
                message_item(&new_id("msg"), status, &[content])
            }
            Part::Call(call) => call_item(&new_id("fc"), &new_id("call"), call, true),
        });
        let output: Vec<Value> = output.collect();
        document(&self.response(&output, Some(text)), &self.ignored)
    }

    fn ignored(&self) -> &[String] {
        &self.ignored
    }

    fn writer(self, _n_texts: usize) -> Writer {
        Writer {
            parts: Parts::new(self.with_tools),
            reply: self,
            n_events: 0,
            output: Vec::new(),
            item: String::new(),
            text: String::new(),
            logprobs: Vec::new(),
            n_written: 0,
        }
    }
}

/// Writes the events of a response.
pub struct Writer {
    reply: Reply,
    parts: Parts,
    n_events: usize,
    /// The items that are done.
    output: Vec<Value>,
    /// The identifier of the message that is written, and its text so far.
    item: String,
    text: String,
    logprobs: Vec<ChatLogprob>,
    /// Log-probabilities that were in an event.
    n_written: usize,
}

impl Writer {
    /// Writes an event about an item.
    fn write(&mut self, kind: &str, mut event: Value, out: &mut String) {
        event["type"] = format!("response.{kind}").into();
        event["output_index"] = self.output.len().into();
        self.write_numbered(event, out);
    }

    fn write_numbered(&mut self, mut event: Value, out: &mut String) {
        event["sequence_number"] = self.n_events.into();
        self.n_events += 1;
        write_named_event(&event, out);
    }

    /// Writes an event about the text of a message.
    fn write_text(&mut self, kind: &str, mut event: Value, out: &mut String) {
        event["item_id"] = self.item.as_str().into();
        event["content_index"] = 0.into();
        self.write(kind, event, out);
    }

    fn begin_message(&mut self, out: &mut String) {
        self.item = new_id("msg");
        let item = message_item(&self.item, "in_progress", &[]);
        self.write("output_item.added", json!({"item": item}), out);
        let part = text_part("", &[]);
        self.write_text("content_part.added", json!({"part": part}), out);
    }

    fn end_message(&mut self, status: &str, out: &mut String) {
        let text = std::mem::take(&mut self.text);
        let logprobs = std::mem::take(&mut self.logprobs);
        self.n_written = 0;
        let done = json!({"text": text, "logprobs": logprobs});
        self.write_text("output_text.done", done, out);
        let part = text_part(&text, &logprobs);
        self.write_text("content_part.done", json!({"part": part}), out);
        let item = message_item(&self.item, status, &[part]);
        self.end_item(item, out);
    }

    fn end_item(&mut self, item: Value, out: &mut String) {
        self.write("output_item.done", json!({"item": item}), out);
        self.output.push(item);
    }

    fn write_call(&mut self, call: &CalledFunction, out: &mut String) {
        let (id, call_id) = (new_id("fc"), new_id("call"));
        let item = call_item(&id, &call_id, call, false);
        self.write("output_item.added", json!({"item": item}), out);
        let delta = json!({"item_id": id, "delta": call.arguments});
        self.write("function_call_arguments.delta", delta, out);
        let done = json!({"item_id": id, "name": call.name, "arguments": call.arguments});
        self.write("function_call_arguments.done", done, out);
        self.end_item(call_item(&id, &call_id, call, true), out);
    }

    fn write_response(&mut self, kind: &str, end: Option<&GeneratedText>, out: &mut String) {
        let response = self.reply.response(&self.output, end);
        let event = json!({"type": format!("response.{kind}"), "response": response});
        self.write_numbered(event, out);
    }
}

impl StreamWriter for Writer {
    fn begin(&mut self, out: &mut String) {
        self.write_response("created", None, out);
        self.write_response("in_progress", None, out);
    }

    fn piece(&mut self, _index: usize, piece: &GeneratedText, out: &mut String) {
        self.logprobs.extend(self.reply.logprobs(piece));
        let mut steps = self
            .parts
            .next(&piece.text, piece.reason.is_some())
            .into_iter();
        while let Some(step) = steps.next() {
            match step {
                Step::Begin => self.begin_message(out),
                Step::Text(text) => {
                    self.text += &text;
                    let logprobs = json!(self.logprobs[self.n_written..]);
                    self.n_written = self.logprobs.len();
                    let delta = json!({"delta": text, "logprobs": logprobs});
                    self.write_text("output_text.delta", delta, out);
                }
                Step::End => {
                    let is_last = steps.len() == 0;
                    let status = if is_last {
                        status_of(piece)
                    } else {
                        "completed"
                    };
                    self.end_message(status, out);
                }
                Step::Call(call) => self.write_call(&call, out),
            }
        }
        if piece.reason.is_some() {
            self.write_response(status_of(piece), Some(piece), out);
        }
    }

    fn fail(&mut self, error: &ApiError, out: &mut String) {
        let event = json!({
            "type": "error",
            "code": error.body.code.unwrap_or(error.body.kind),
            "message": error.body.message,
            "param": error.body.param,
        });
        self.write_numbered(event, out);
    }
}
