//! A reply as a stream, in the form of an API.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use hyper::body::Frame;
use serde_json::Value;
use tokio::time::{Interval, MissedTickBehavior};

use super::super::generation::GeneratedText;
use super::super::receipts::Receipts;
use crate::error::ApiError;
use crate::job::{JobEvent, TextEvent};
use crate::response_cache::TextEvents;

/// Proxies and clients give up on connections that are silent for longer.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Writes what happens to the texts of a request, in the form of an API.
pub trait StreamWriter: Send + Unpin + 'static {
    /// The type of the stream.
    const KIND: &'static str = "text/event-stream; charset=utf-8";

    /// Writes what comes before the texts.
    fn begin(&mut self, _out: &mut String) {}

    /// Writes the next piece of a text. The last one has a reason.
    fn piece(&mut self, index: usize, piece: &GeneratedText, out: &mut String);

    /// Writes the end, after the last piece of the last text.
    fn end(&mut self, _out: &mut String) {}

    /// Writes an error, which ends the stream.
    fn fail(&mut self, error: &ApiError, out: &mut String);

    /// Writes something without a meaning, so that the connection stays open.
    fn wait(&mut self, out: &mut String) {
        out.push_str(": waiting\n\n");
    }
}

/// Returns the texts of a job as a stream.
pub fn response<W: StreamWriter>(
    writer: W,
    source: TextEvents,
    receipts: Receipts,
    n_texts: usize,
) -> Response {
    let mut keep_alive = tokio::time::interval(KEEP_ALIVE);
    keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    keep_alive.reset();
    let stream = Events {
        writer,
        source,
        receipts,
        has_begun: false,
        pieces: vec![GeneratedText::default(); n_texts],
        tokens: vec![Vec::new(); n_texts],
        n_left: n_texts,
        keep_alive,
        is_done: false,
    };
    let mut response = Response::new(Body::new(stream));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(W::KIND));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would collect events otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The body of a stream. What happened since the last write is written at once.
struct Events<W> {
    writer: W,
    source: TextEvents,
    receipts: Receipts,
    has_begun: bool,
    /// What is not written yet of each text.
    pieces: Vec<GeneratedText>,
    /// The tokens of each text.
    tokens: Vec<Vec<u32>>,
    n_left: usize,
    keep_alive: Interval,
    is_done: bool,
}

impl<W: StreamWriter> hyper::body::Body for Events<W> {
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
        if !std::mem::replace(&mut this.has_begun, true) {
            this.writer.begin(&mut out);
        }
        while !this.is_done {
            match this.source.poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(event)) => this.on_event(event, &mut out),
                Poll::Ready(None) => this.fail(&ApiError::ending(), &mut out),
            }
        }
        if out.is_empty() && this.keep_alive.poll_tick(cx).is_ready() {
            this.writer.wait(&mut out);
        }
        if out.is_empty() {
            return Poll::Pending;
        }
        this.keep_alive.reset();
        Poll::Ready(Some(Ok(Frame::data(out.into()))))
    }
}

impl<W: StreamWriter> Events<W> {
    fn on_event(&mut self, JobEvent { index, event }: JobEvent, out: &mut String) {
        // The log-probabilities of a prompt come with the next piece of its text.
        let is_piece = matches!(event, TextEvent::Tokens { .. } | TextEvent::Finished { .. });
        if let Err(error) = self.pieces[index].add(event) {
            return self.fail(&error, out);
        }
        if !is_piece {
            return;
        }
        let mut piece = std::mem::take(&mut self.pieces[index]);
        let tokens = &mut self.tokens[index];
        tokens.extend_from_slice(&piece.tokens);
        if let Some(reason) = piece.reason {
            piece.receipt = self.receipts.receipt(index, tokens, reason);
            self.n_left -= 1;
        }
        self.writer.piece(index, &piece, out);
        if self.n_left == 0 {
            self.writer.end(out);
            self.is_done = true;
        }
    }

    fn fail(&mut self, error: &ApiError, out: &mut String) {
        self.writer.fail(error, out);
        self.is_done = true;
    }
}

/// Writes a server-sent event with the name that its type is.
pub fn write_named_event(event: &Value, out: &mut String) {
    let name = event["type"].as_str().unwrap_or("message");
    for part in ["event: ", name, "\ndata: ", &event.to_string(), "\n\n"] {
        out.push_str(part);
    }
}
