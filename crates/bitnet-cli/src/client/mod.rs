//! A client of a server with OpenAI's API.
//!
//! Each request is sent and read on a thread of its own, so that Ctrl-C ends it also while
//! the server is silent.

mod error;
mod events;
mod url;

use std::io::BufReader;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use ureq::Agent;

pub use self::error::{ClientError, ConnectError};
use self::events::{Event, Events};
pub use self::url::ServerUrl;
use crate::http::{self, Token};
use crate::interrupt;

/// The variable of the key, as in OpenAI's own clients.
pub const KEY: &str = "OPENAI_API_KEY";
/// How often it is asked whether the user pressed Ctrl-C.
const TICK: Duration = Duration::from_millis(50);
/// Bytes of an answer that is no stream.
const MAX_ANSWER: u64 = 4 << 20;

/// A server, and the key that is shown to it.
#[derive(Clone, Debug)]
pub struct RemoteServer {
    agent: Agent,
    url: ServerUrl,
    key: Option<Token>,
}

/// A text that was written by a server, or the beginning of one.
#[derive(Clone, Debug, Default)]
pub struct RemoteText {
    pub text: String,
    /// Why it ended; `None` if the user stopped it.
    pub finish_reason: Option<String>,
    /// The seed, if the server tells it.
    pub seed: Option<u64>,
    pub usage: Option<RemoteUsage>,
    /// The receipt, if it was asked for.
    pub receipt: Option<Value>,
}

/// The numbers of tokens of a text.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct RemoteUsage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

/// A document of a stream, as far as it is used.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<RemoteUsage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    /// Of a continuation.
    text: Option<String>,
    /// Of a chat.
    delta: Option<Delta>,
    finish_reason: Option<String>,
    receipt: Option<Value>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

/// What the thread of a request says.
enum Said {
    /// The stream begins.
    Begun {
        seed: Option<u64>,
    },
    Data(String),
    /// Nothing, but whether somebody listens is asked.
    Alive,
    /// An answer that is no stream.
    Whole(Vec<u8>),
}

type Answer = ureq::http::Response<ureq::Body>;

impl RemoteServer {
    /// Returns the server of this URL, with the key of the environment.
    ///
    /// # Errors
    ///
    /// Returns an error if the key or the configured certificates cannot be read.
    pub fn new(url: &ServerUrl) -> Result<Self, ConnectError> {
        let key = std::env::var_os(KEY).unwrap_or_default();
        let config = http::config(&url.to_string())?
            // A key is for this server, and a request that moved would lose its body.
            .max_redirects(0)
            .build();
        Ok(Self {
            agent: config.into(),
            url: url.clone(),
            key: Token::read(&key.to_string_lossy(), KEY.to_owned())?,
        })
    }

    /// Returns the names of the server's models.
    ///
    /// # Errors
    ///
    /// Returns an error if the server does not tell them.
    pub fn models(&self) -> Result<Vec<String>, ClientError> {
        let url = self.url.of("/models");
        let mut body = Vec::new();
        let _ = self.ask(&url, None, |said| {
            if let Said::Whole(bytes) = said {
                body = bytes;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let models: Models =
            serde_json::from_slice(&body).map_err(|error| ClientError::unexpected(&url, &error))?;
        Ok(models.data.into_iter().map(|model| model.id).collect())
    }

    /// Asks for a text as a stream, and calls `on_text` with each piece. If it returns `Break`
    /// or the user presses Ctrl-C, the connection is closed, and what was read is returned.
    ///
    /// # Errors
    ///
    /// Returns an error if the server refuses the request, or the stream breaks off.
    pub fn stream(
        &self,
        path: &str,
        request: &Value,
        mut on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<RemoteText, ClientError> {
        let url = self.url.of(path);
        let mut text = RemoteText::default();
        let mut is_done = false;
        let body = Some(request.to_string());
        let stopped = self.ask(&url, body, |said| match said {
            Said::Begun { seed } => {
                text.seed = seed;
                Ok(ControlFlow::Continue(()))
            }
            Said::Data(data) if data == "[DONE]" => {
                is_done = true;
                Ok(ControlFlow::Break(()))
            }
            Said::Data(data) => {
                let chunk: Chunk = serde_json::from_str(&data)
                    .map_err(|error| ClientError::unexpected(&url, &error))?;
                let piece = text.add(chunk, &url)?;
                Ok(if piece.is_empty() {
                    ControlFlow::Continue(())
                } else {
                    on_text(&piece)
                })
            }
            Said::Alive | Said::Whole(_) => Ok(ControlFlow::Continue(())),
        })?;
        if stopped.is_continue() && !is_done && text.finish_reason.is_none() {
            return Err(ClientError::broken(&url, None));
        }
        Ok(text)
    }

    /// Sends a request, with a body if there is one, on a thread of its own, and calls
    /// `on_said` for what it says. Returns `Break` if that or Ctrl-C stopped it.
    fn ask(
        &self,
        url: &str,
        body: Option<String>,
        mut on_said: impl FnMut(Said) -> Result<ControlFlow<()>, ClientError>,
    ) -> Result<ControlFlow<()>, ClientError> {
        let (sender, receiver) = channel();
        let (server, url) = (self.clone(), url.to_owned());
        std::thread::spawn(move || {
            if let Err(error) = server.converse(&url, body, &sender) {
                // Nobody listens any more after Ctrl-C.
                let _ = sender.send(Err(error));
            }
        });
        loop {
            let said = next(&receiver)?;
            match said {
                Heard::Said(said) => {
                    if on_said(said)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Heard::Interrupt => return Ok(ControlFlow::Break(())),
                Heard::End => return Ok(ControlFlow::Continue(())),
            }
        }
    }

    /// Sends a request, and what is read of its answer to `sender`. Ends when nobody listens:
    /// the connection is closed then.
    fn converse(
        &self,
        url: &str,
        body: Option<String>,
        sender: &Sender<Result<Said, ClientError>>,
    ) -> Result<(), ClientError> {
        let mut answer = self
            .send(url, body)
            .map_err(|source| ClientError::Transfer {
                url: url.to_owned(),
                source,
            })?;
        let header = |name| answer.headers().get(name)?.to_str().ok();
        let kind = header("content-type").unwrap_or_default();
        let is_stream = kind.starts_with("text/event-stream");
        let seed = header("bitnet-seed").and_then(|seed| seed.parse().ok());
        let status = answer.status().as_u16();
        if status != 200 || !is_stream {
            let body = answer.body_mut().with_config().limit(MAX_ANSWER);
            let body = body.read_to_vec();
            let body = body.map_err(|error| ClientError::broken(url, Some(error.into_io())))?;
            if status != 200 {
                return Err(ClientError::refused(url, status, &body));
            }
            let _ = sender.send(Ok(Said::Whole(body)));
            return Ok(());
        }
        let begun = Said::Begun { seed };
        let mut is_heard = sender.send(Ok(begun)).is_ok();
        let mut events = Events::new(BufReader::new(answer.into_body().into_reader()));
        while is_heard {
            let event = events
                .next()
                .map_err(|error| ClientError::broken(url, Some(error)))?;
            let said = match event {
                None => break,
                Some(Event::Data(data)) => Said::Data(data),
                Some(Event::Alive) => Said::Alive,
            };
            is_heard = sender.send(Ok(said)).is_ok();
        }
        Ok(())
    }

    fn send(&self, url: &str, body: Option<String>) -> Result<Answer, ureq::Error> {
        let key = self.key.as_ref().map(Token::header);
        match body {
            None => {
                let mut request = self.agent.get(url);
                if let Some(key) = key {
                    request = request.header("Authorization", key);
                }
                request.call()
            }
            Some(body) => {
                let mut request = self.agent.post(url).content_type("application/json");
                if let Some(key) = key {
                    request = request.header("Authorization", key);
                }
                request.send(body)
            }
        }
    }
}

/// What the thread of a request said, or else why there is nothing.
enum Heard {
    Said(Said),
    Interrupt,
    End,
}

/// Waits for what the thread of a request says next.
fn next(receiver: &Receiver<Result<Said, ClientError>>) -> Result<Heard, ClientError> {
    loop {
        if interrupt::requested() {
            return Ok(Heard::Interrupt);
        }
        match receiver.recv_timeout(TICK) {
            Ok(said) => return said.map(Heard::Said),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(Heard::End),
        }
    }
}

impl RemoteText {
    /// Adds a document of a stream, and returns its text.
    fn add(&mut self, chunk: Chunk, url: &str) -> Result<String, ClientError> {
        if let Some(error) = chunk.error {
            return Err(ClientError::failed(url, &error));
        }
        self.usage = chunk.usage.or(self.usage);
        let Some(choice) = chunk.choices.into_iter().next() else {
            return Ok(String::new());
        };
        self.finish_reason = choice.finish_reason.or(self.finish_reason.take());
        self.receipt = choice.receipt.or(self.receipt.take());
        let delta = choice.delta.and_then(|delta| delta.content);
        let piece = choice.text.or(delta).unwrap_or_default();
        self.text += &piece;
        Ok(piece)
    }
}
