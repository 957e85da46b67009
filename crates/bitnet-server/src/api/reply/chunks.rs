//! A reply as the server-sent events of chats and completions.

use serde::Serialize;

use super::super::generation::GeneratedText;
use super::super::logprobs::CompletionLogprobs;
use super::super::tools::{CallFinder, Piece, ToolCall};
use super::{
    Choice, Delta, Document, Form, Reply, StreamWriter, TOOL_CALLS, TimingsDocument, Usage,
    UsageField, new_call, reason_name,
};
use crate::error::{ApiError, ErrorForm};

/// Writes the chunks of a reply.
pub struct Chunks {
    reply: Reply,
    texts: Vec<Streamed>,
    usage: Usage,
    timings: Option<TimingsDocument>,
}

/// The state of a text of a stream.
#[derive(Debug)]
struct Streamed {
    has_begun: bool,
    /// Characters so far, for `text_offset`.
    offset: usize,
    calls: CallFinder,
    n_calls: usize,
}

impl StreamWriter for Chunks {
    /// Writes the next piece of a text, unless it is empty.
    fn piece(&mut self, index: usize, piece: &GeneratedText, out: &mut String) {
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
        if piece.reason.is_some() {
            self.usage
                .add(piece.usage, index.is_multiple_of(self.reply.n));
            if index == 0 {
                self.timings = Some(TimingsDocument::new(piece.timings, piece.usage));
            }
        }
    }

    fn end(&mut self, out: &mut String) {
        if self.reply.include_usage {
            let last = Document {
                usage: Some(UsageField::Total(self.usage)),
                timings: self.timings.take(),
                seed: Some(self.reply.seed),
                ..self.reply.document(Vec::new())
            };
            write_event(&last, out);
        }
        out.push_str("data: [DONE]\n\n");
    }

    fn fail(&mut self, error: &ApiError, out: &mut String) {
        write_event(&error.document(ErrorForm::OpenAi), out);
    }
}

impl Chunks {
    pub fn new(reply: Reply, n_texts: usize) -> Self {
        let text = |_| Streamed {
            has_begun: false,
            offset: 0,
            calls: CallFinder::new(reply.with_tools),
            n_calls: 0,
        };
        Self {
            texts: (0..n_texts).map(text).collect(),
            reply,
            usage: Usage::default(),
            timings: None,
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
            receipt: None,
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
                receipt: None,
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
                receipt: piece.receipt.clone(),
            };
            self.write(end, out);
        }
    }

    /// Separates the calls of tools from the text of a piece.
    fn take_calls(&mut self, index: usize, piece: &GeneratedText) -> (String, Vec<ToolCall>) {
        let state = &mut self.texts[index];
        let (mut text, mut calls) = (String::new(), Vec::new());
        for part in state.calls.next(&piece.text, piece.reason.is_some()) {
            match part {
                Piece::Text(part) => text += &part,
                Piece::Call(function) => {
                    calls.push(new_call(Some(state.n_calls), function));
                    state.n_calls += 1;
                }
            }
        }
        (text, calls)
    }

    fn completion_piece(&mut self, index: usize, piece: &GeneratedText, is_first: bool) -> Choice {
        let state = &mut self.texts[index];
        let mut logprobs = CompletionLogprobs::default();
        let mut offset = state.offset;
        let mut text = String::new();
        if is_first && let Some(echo) = self.reply.echo.get(index / self.reply.n) {
            (self.reply).add_prompt(&mut logprobs, echo, piece, &mut offset);
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
            receipt: piece.receipt.clone(),
        }
    }

    fn write(&self, choice: Choice, out: &mut String) {
        let chunk = Document {
            // `null` in all chunks but the last, if it was asked for.
            usage: self.reply.include_usage.then_some(UsageField::Later(())),
            ..self.reply.document(vec![choice])
        };
        write_event(&chunk, out);
    }
}

fn write_event(event: &impl Serialize, out: &mut String) {
    out.push_str("data: ");
    out.push_str(&serde_json::to_string(event).expect("documents have string keys"));
    out.push_str("\n\n");
}
