//! The documents of texts: one, or a line for each piece.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use bitnet_inference::TokenLogprobs;
use serde_json::{Value, json};

use crate::api::document;
use crate::api::generation::GeneratedText;
use crate::api::logprobs;
use crate::api::reply::{ReplyForm, StreamWriter, reason_name};
use crate::api::tools::{CallFinder, CalledFunction, Piece};
use crate::app::iso_time;
use crate::error::{ApiError, ErrorForm};
use crate::model::ModelFacts;

/// The endpoint whose form a reply has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Chat,
    Generate,
}

/// What all documents of a reply share.
pub struct Reply {
    endpoint: Endpoint,
    model: Arc<ModelFacts>,
    pub with_tools: bool,
    pub with_logprobs: bool,
    ignored: Vec<String>,
}

impl Reply {
    pub fn new(endpoint: Endpoint, model: Arc<ModelFacts>, ignored: Vec<String>) -> Self {
        Self {
            endpoint,
            model,
            with_tools: false,
            with_logprobs: false,
            ignored,
        }
    }

    /// Returns the answer to a request without a prompt, which loads a model.
    pub fn loaded(&self) -> Response {
        let mut loaded = self.piece(String::new(), &[], &[]);
        loaded["done"] = true.into();
        loaded["done_reason"] = "load".into();
        document(&loaded, &self.ignored)
    }

    /// Returns the document of a piece of a text.
    fn piece(&self, text: String, calls: &[CalledFunction], scored: &[TokenLogprobs]) -> Value {
        let mut piece = json!({
            "model": self.model.name,
            "created_at": iso_time(self.model.unix_millis()),
            "done": false,
        });
        match self.endpoint {
            Endpoint::Generate => piece["response"] = text.into(),
            Endpoint::Chat => {
                piece["message"] = json!({"role": "assistant", "content": text});
                if !calls.is_empty() {
                    let calls = calls.iter().map(
                        |call| json!({"function": {"name": call.name, "arguments": call.object()}}),
                    );
                    piece["message"]["tool_calls"] = calls.collect();
                }
            }
        }
        if self.with_logprobs {
            piece["logprobs"] = json!(logprobs::chat(&self.model.tokenizer, scored));
        }
        piece
    }
}

/// Adds how a text ended, with its numbers. Times are in nanoseconds.
fn add_end(document: &mut Value, text: &GeneratedText) {
    let ns = |time: Duration| time.as_nanos() as u64;
    let times = text.timings;
    let end = json!({
        "done": true,
        "done_reason": text.reason.map_or("stop", reason_name),
        "total_duration": ns(times.queued + times.prefill + times.decode),
        "load_duration": 0,
        "prompt_eval_count": text.usage.n_prompt,
        "prompt_eval_duration": ns(times.prefill),
        "eval_count": text.usage.n_generated,
        "eval_duration": ns(times.decode),
    });
    for (name, value) in end.as_object().into_iter().flatten() {
        document[name] = value.clone();
    }
    if let Some(receipt) = &text.receipt {
        receipt.add_to(document);
    }
}

/// Separates the calls from a piece of text.
fn divide(finder: &mut CallFinder, piece: &str, is_last: bool) -> (String, Vec<CalledFunction>) {
    let (mut text, mut calls) = (String::new(), Vec::new());
    for part in finder.next(piece, is_last) {
        match part {
            Piece::Text(part) => text += &part,
            Piece::Call(call) => calls.push(call),
        }
    }
    (text, calls)
}

impl ReplyForm for Reply {
    type Writer = Writer;

    fn whole(&self, texts: &[GeneratedText]) -> Response {
        let text = &texts[0];
        let mut finder = CallFinder::new(self.with_tools);
        let (content, calls) = divide(&mut finder, &text.text, true);
        let mut whole = self.piece(content, &calls, &text.logprobs);
        add_end(&mut whole, text);
        document(&whole, &self.ignored)
    }

    fn ignored(&self) -> &[String] {
        &self.ignored
    }

    fn writer(self, _n_texts: usize) -> Writer {
        Writer {
            finder: CallFinder::new(self.with_tools),
            reply: self,
        }
    }
}

/// Writes a line for each piece.
pub struct Writer {
    reply: Reply,
    finder: CallFinder,
}

impl StreamWriter for Writer {
    const KIND: &'static str = "application/x-ndjson";

    fn piece(&mut self, _index: usize, piece: &GeneratedText, out: &mut String) {
        let is_last = piece.reason.is_some();
        let (text, calls) = divide(&mut self.finder, &piece.text, is_last);
        if !text.is_empty() || !calls.is_empty() || !piece.logprobs.is_empty() {
            let document = self.reply.piece(text, &calls, &piece.logprobs);
            write_line(&document, out);
        }
        if is_last {
            let mut last = self.reply.piece(String::new(), &[], &[]);
            add_end(&mut last, piece);
            write_line(&last, out);
        }
    }

    fn fail(&mut self, error: &ApiError, out: &mut String) {
        write_line(&error.document(ErrorForm::Ollama), out);
    }

    /// Clients read every line as a document.
    fn wait(&mut self, out: &mut String) {
        write_line(&self.reply.piece(String::new(), &[], &[]), out);
    }
}

fn write_line(document: &Value, out: &mut String) {
    out.push_str(&document.to_string());
    out.push('\n');
}
