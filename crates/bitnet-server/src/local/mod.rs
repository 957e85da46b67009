//! A server without a socket: the requests and replies of a program that contains it.
//!
//! The handlers, the worker and the scheduler are those of [`Server`](crate::Server), so a
//! request has the same answer. Any thread may ask, any number of them at once.

mod sequence;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use bitnet_inference::{ForwardError, LogitsProcessor, Plan, SequenceError, Tokenizer};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tower_service::Service;

pub use self::sequence::LocalSequence;
use crate::api::local::LocalTexts;
pub use crate::api::local::{LocalEnd, LocalText};
use crate::api::{self, embeddings};
use crate::app::{App, MAX_COMPILING};
use crate::error::ApiError;
use crate::model::{About, ModelFacts, ServedModel};
use crate::models::{ModelMemory, Models};
use crate::options::ServerOptions;
use crate::{job, worker};

/// A model that answers requests of its own process. Dropping it ends what it computes.
#[derive(Debug)]
pub struct LocalServer {
    shared: Arc<Shared>,
    plan: Plan,
    threads: Vec<JoinHandle<()>>,
    /// Ends the thread of requests.
    end: Option<oneshot::Sender<()>>,
}

/// What requests and sequences need.
struct Shared {
    app: Arc<App>,
    model: Arc<ModelFacts>,
    router: Router,
    runtime: tokio::runtime::Handle,
    limits: sequence::Limits,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("model", &self.model.name)
            .finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The request is wrong, or cannot be answered.
    #[error("{}", .0.message)]
    Request(RequestError),
    /// A sequence cannot be started, or grow.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// The model cannot be computed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// Sequences are as many, or as long, as may be beside texts.
    #[error(
        "sequences would take {needed} pages of the KV cache, but {free} of {max_pages} are for \
         them: the others are for texts"
    )]
    SequencePages {
        /// Pages that all of them would have, without sharing.
        needed: usize,
        /// Pages that they may have.
        free: usize,
        /// Pages of the cache.
        max_pages: usize,
    },
    /// There are as many sequences as may be.
    #[error("there are {max} sequences already, as many as may be beside texts")]
    TooManySequences {
        /// The limit.
        max: usize,
    },
    /// A position beyond the end of a sequence was named.
    #[error("the sequence has {len} tokens, so it cannot be truncated to {wanted}")]
    Truncate {
        /// Tokens of the sequence.
        len: usize,
        /// Those that were to be left.
        wanted: usize,
    },
    /// The model was closed, or its thread has ended.
    #[error("the model was closed")]
    Closed,
}

/// Why a request has no answer, as its reply would say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestError {
    /// The status of HTTP: from 400 on the request is wrong, from 500 on it failed.
    pub status: u16,
    /// What is wrong.
    pub message: String,
    /// The field that is wrong.
    pub param: Option<String>,
    /// What programs tell errors apart by, such as `context_length_exceeded`.
    pub code: Option<String>,
}

/// Why a model cannot answer requests.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalStartError {
    /// Its first tokens cannot be computed.
    #[error("the model cannot be computed")]
    Forward(#[from] ForwardError),
    /// A thread cannot be started.
    #[error("failed to start a thread")]
    Thread(#[from] io::Error),
}

impl From<ApiError> for LocalError {
    fn from(error: ApiError) -> Self {
        let body = error.body;
        Self::Request(RequestError {
            status: error.status.as_u16(),
            message: body.message,
            param: body.param,
            code: body.code.map(str::to_owned),
        })
    }
}

/// What is called when there is an item; on a thread of the server, so it must be short.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// The items of an answer. Dropping it cancels what is not computed.
#[derive(Debug)]
pub struct Answers<T> {
    items: Receiver<Result<T, LocalError>>,
    task: AbortHandle,
}

/// What came while waiting.
#[derive(Debug)]
pub enum Waited<T> {
    /// The next item.
    Item(T),
    /// There are no more.
    End,
    /// Nothing yet.
    Nothing,
}

impl<T> Answers<T> {
    /// Waits so long for the next item.
    ///
    /// # Errors
    ///
    /// Returns an error if the request is wrong or failed. There are no items after it.
    pub fn next(&self, time: Duration) -> Result<Waited<T>, LocalError> {
        match self.items.recv_timeout(time) {
            Ok(item) => item.map(Waited::Item),
            Err(RecvTimeoutError::Timeout) => Ok(Waited::Nothing),
            Err(RecvTimeoutError::Disconnected) => Ok(Waited::End),
        }
    }
}

impl<T> Drop for Answers<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The end of [`Answers`] that is written.
struct Items<T> {
    /// There until it is dropped.
    sender: Option<Sender<Result<T, LocalError>>>,
    wake: Option<Wake>,
}

impl<T> Items<T> {
    fn send(&self, item: Result<T, LocalError>) {
        // Whoever dropped the other end has cancelled this.
        let _ = self.sender.as_ref().map(|sender| sender.send(item));
        self.wake();
    }

    fn wake(&self) {
        if let Some(wake) = &self.wake {
            wake();
        }
    }
}

impl<T> Drop for Items<T> {
    fn drop(&mut self) {
        // Who is woken finds the end.
        self.sender = None;
        self.wake();
    }
}

impl LocalServer {
    /// Starts the threads of a model.
    ///
    /// # Errors
    ///
    /// Returns an error if the model cannot be computed, or a thread cannot be started.
    pub fn start(model: ServedModel, options: ServerOptions) -> Result<Self, LocalStartError> {
        let options = ServerOptions {
            // Who drops it does not wait.
            drain: Duration::ZERO,
            ..options
        };
        let (sender, commands) = job::channel();
        let memory = ModelMemory::of(&model);
        let plan = *model.engine.plan();
        let (engine, facts) = model.split(options.time, sender)?;
        let limits = sequence::Limits::new(&plan, options.max_running);
        let tokenizer = Arc::clone(&facts.tokenizer);
        let app = Arc::new(App::new(options));
        let models = app.set_models(Models::one(facts, memory));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            // For tokenizing and compiling; the engine has its own threads.
            .max_blocking_threads(2 * MAX_COMPILING)
            .build()?;
        let model = runtime.block_on(models.get(0));
        let model = model.expect("it is loaded, and the server does not end yet");
        let shared = Arc::new(Shared {
            router: api::routes(&app),
            runtime: runtime.handle().clone(),
            model,
            limits,
            app: Arc::clone(&app),
        });
        let (end, ended) = oneshot::channel();
        let mut server = Self {
            shared,
            plan,
            threads: Vec::new(),
            end: Some(end),
        };
        server.spawn("requests", move || {
            // Also if the other end is dropped.
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        })?;
        server.spawn("model", move || {
            worker::run(&app, engine, &tokenizer, None, &commands);
        })?;
        Ok(server)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned());
        self.threads.push(thread.spawn(run)?);
        Ok(())
    }

    /// Returns the plan of the engine.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Returns the tokenizer of the model.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.shared.model.tokenizer
    }

    /// Returns what lists tell of the model.
    pub fn about(&self) -> About {
        self.shared.model.about()
    }

    /// Returns the name of the model in the API.
    pub fn name(&self) -> &str {
        &self.shared.model.name
    }

    /// Returns the size of hidden states and embeddings.
    pub fn hidden_dim(&self) -> usize {
        self.shared.model.hidden_dim
    }

    /// Asks an endpoint, `/v1/chat/completions`, `/v1/completions` or `/v1/embeddings`, with
    /// the JSON document of a request. The items are JSON documents: one, or with
    /// `"stream": true` one per event.
    pub fn ask(&self, path: &str, body: String, wake: Option<Wake>) -> Answers<String> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body));
        let mut router = self.shared.router.clone();
        self.answers(wake, |items| async move {
            let Ok(request) = request else {
                let message = "the path is no path of a request";
                return items.send(Err(ApiError::invalid(message).into()));
            };
            match router.call(request).await {
                Ok(response) => read_response(response, &items).await,
                Err(never) => match never {},
            }
        })
    }

    /// Generates the texts of a request in the form of `/v1/completions`, and tells of their
    /// tokens. Their logits may be changed by a processor, if there is one text.
    pub fn texts(
        &self,
        body: String,
        processor: Option<Box<dyn LogitsProcessor>>,
        wake: Option<Wake>,
    ) -> Answers<LocalText> {
        let (app, model) = (Arc::clone(&self.shared.app), Arc::clone(&self.shared.model));
        self.answers(wake, |items| async move {
            let texts = LocalTexts::ask(&app, &model, &body, processor);
            let done = async {
                let mut texts = texts.await?;
                while let Some(text) = texts.next().await? {
                    items.send(Ok(text));
                }
                Ok::<(), ApiError>(())
            };
            if let Err(error) = done.await {
                items.send(Err(error.into()));
            }
        })
    }

    /// Embeds the texts of a request in the form of `/v1/embeddings`: `input` is a text, a list
    /// of texts, of tokens, or of lists of tokens. The only item has a vector of `hidden_dim`
    /// values for each.
    pub fn embed(&self, body: String) -> Answers<Vec<Vec<f32>>> {
        let (app, model) = (Arc::clone(&self.shared.app), Arc::clone(&self.shared.model));
        self.answers(None, |items| async move {
            let vectors = embeddings::vectors(&app, &model, body).await;
            items.send(vectors.map_err(LocalError::from));
        })
    }

    /// Starts a sequence with as many of these tokens as are in the cache already, and returns
    /// their number. The others are still to be appended, at least the last one.
    ///
    /// # Errors
    ///
    /// Returns an error if there are as many sequences as may be, or too few pages.
    pub fn sequence(&self, tokens: Vec<u32>) -> Result<(LocalSequence, usize), LocalError> {
        LocalSequence::new(&self.shared, tokens)
    }

    /// Runs what makes the items of an answer.
    fn answers<T, F>(&self, wake: Option<Wake>, make: impl FnOnce(Items<T>) -> F) -> Answers<T>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, receiver) = std::sync::mpsc::channel();
        let items = Items {
            sender: Some(sender),
            wake,
        };
        let task = self.shared.runtime.spawn(make(items));
        Answers {
            items: receiver,
            task: task.abort_handle(),
        }
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        self.shared.app.drain();
        self.end = None;
        for thread in self.threads.drain(..) {
            // A panic there was reported by its thread.
            let _ = thread.join();
        }
    }
}

/// Passes on the documents of a response.
async fn read_response(mut response: Response, items: &Items<String>) {
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        return items.send(Err(error.into()));
    }
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_stream = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let status = response.status();
    let mut body = response.into_body();
    // Frames end where events end; a document may have several frames.
    let mut document = String::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let text = String::from_utf8_lossy(&data);
        if !is_stream {
            document += &text;
            continue;
        }
        for event in text.split("\n\n").filter_map(|e| e.strip_prefix("data: ")) {
            match event_error(event) {
                _ if event == "[DONE]" => {}
                None => items.send(Ok(event.to_owned())),
                Some(error) => return items.send(Err(LocalError::Request(error))),
            }
        }
    }
    if is_stream {
        return;
    }
    items.send(if status.is_success() {
        Ok(document)
    } else {
        let error = event_error(&document).unwrap_or_default();
        Err(LocalError::Request(RequestError {
            status: status.as_u16(),
            message: if error.message.is_empty() {
                format!("there is no answer, but the status {status}")
            } else {
                error.message
            },
            ..error
        }))
    });
}

/// Returns the error that a document of a reply is, if it is one.
fn event_error(document: &str) -> Option<RequestError> {
    if !document.starts_with("{\"error\"") {
        return None;
    }
    let document: Value = serde_json::from_str(document).ok()?;
    let field = |name: &str| document["error"][name].as_str().map(str::to_owned);
    Some(RequestError {
        // What fails after the reply began.
        status: StatusCode::INTERNAL_SERVER_ERROR.as_u16(),
        message: field("message").unwrap_or_default(),
        param: field("param"),
        code: field("code"),
    })
}
