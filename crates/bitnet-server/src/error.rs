//! Errors, in the forms of the APIs.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bitnet_inference::{ChatError, GenerateError, GrammarError, TaskError, TokenizerError};
use serde::Serialize;
use serde_json::{Value, json};

/// An error of a request.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub status: StatusCode,
    pub body: Box<ErrorBody>,
    /// Seconds after which it may be tried again.
    pub retry_after: Option<u64>,
}

/// The value of `error` in a body.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorBody {
    pub message: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The field that is wrong.
    pub param: Option<String>,
    pub code: Option<&'static str>,
    /// Tokens of a prompt that is too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_prompt_tokens: Option<usize>,
    /// Positions of the context that it exceeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_ctx: Option<usize>,
}

const INVALID: &str = "invalid_request_error";

impl ApiError {
    pub fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            body: Box::new(ErrorBody {
                message: message.into(),
                kind,
                param: None,
                code: None,
                n_prompt_tokens: None,
                n_ctx: None,
            }),
            retry_after: None,
        }
    }

    /// Returns the error of a request that is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, INVALID, message)
    }

    /// Returns the error of a field that is wrong.
    pub fn field(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(message).with_param(name)
    }

    pub fn with_param(mut self, name: impl Into<String>) -> Self {
        self.body.param = Some(name.into());
        self
    }

    /// Returns the error as one of this field.
    pub fn in_field(mut self, name: &str) -> Self {
        self.body.message = format!("{name}: {}", self.body.message);
        self.with_param(name)
    }

    /// Returns the error as one within this object of the request.
    pub fn inside(mut self, object: &str) -> Self {
        self.body.message = format!("{object}: {}", self.body.message);
        self.body.param = Some(match self.body.param {
            Some(field) => format!("{object}.{field}"),
            None => object.to_owned(),
        });
        self
    }

    pub fn with_code(mut self, code: &'static str) -> Self {
        self.body.code = Some(code);
        self
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found_error", message)
    }

    /// Returns the error of a server that cannot answer now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let mut error = Self::new(status, "unavailable_error", message);
        error.retry_after = Some(1);
        error
    }

    /// Returns the error of a request whose server ends.
    pub fn ending() -> Self {
        Self::unavailable("the server ended before the request was done")
    }

    /// Returns the error of a model that cannot be loaded.
    pub fn not_loaded(name: &str, why: &str) -> Self {
        let message = format!("the model {name:?} cannot be loaded: {why}");
        Self::internal(message).with_code("model_not_loaded")
    }

    /// Returns the error of a model for which there is no memory beside `n_models` others,
    /// which are in use.
    pub fn no_memory(name: &str, why: &str, n_models: usize) -> Self {
        let beside = match n_models {
            0 => String::new(),
            1 => " beside a model that is loaded".to_owned(),
            n => format!(" beside {n} models that are loaded"),
        };
        let message = format!("there is no memory for the model {name:?}{beside}: {why}");
        Self::unavailable(message).with_code("insufficient_memory")
    }

    /// Returns the error of a server with too many requests.
    pub fn queue_full(max_waiting: usize, retry_after: u64) -> Self {
        let message =
            format!("{max_waiting} texts are waiting already, try again in {retry_after} s");
        let status = StatusCode::TOO_MANY_REQUESTS;
        let mut error = Self::new(status, "rate_limit_error", message).with_code("queue_full");
        error.retry_after = Some(retry_after);
        error
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// Returns the document of the error, in the form of an API.
    pub fn document(&self, form: ErrorForm) -> Value {
        match form {
            ErrorForm::OpenAi => json!({"error": self.body}),
            ErrorForm::Anthropic => {
                let mut error = json!(self.body);
                error["type"] = match self.status.as_u16() {
                    401 => "authentication_error",
                    403 => "permission_error",
                    404 => "not_found_error",
                    408 => "timeout_error",
                    413 => "request_too_large",
                    429 => "rate_limit_error",
                    503 => "overloaded_error",
                    500.. => "api_error",
                    _ => "invalid_request_error",
                }
                .into();
                json!({"type": "error", "error": error})
            }
            ErrorForm::Ollama => json!({"error": self.body.message}),
            ErrorForm::Tei => {
                let kind = match self.status.as_u16() {
                    _ if self.body.code == Some("rerank_not_supported") => "backend",
                    429 => "overloaded",
                    503 => "unhealthy",
                    500.. => "backend",
                    _ => "validation",
                };
                json!({"error": self.body.message, "error_type": kind})
            }
        }
    }
}

/// The API whose form an error has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorForm {
    OpenAi,
    Anthropic,
    Ollama,
    /// That of text-embeddings-inference.
    Tei,
}

impl ErrorForm {
    /// Returns the form of what a path belongs to, whether there is such a path or not.
    pub fn of(path: &str) -> Self {
        let is_below = |root: &str| {
            let rest = path.strip_prefix(root);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if is_below("/v1/messages") {
            Self::Anthropic
        } else if is_below("/api") {
            Self::Ollama
        } else if matches!(path, "/embed" | "/rerank") {
            Self::Tei
        } else {
            Self::OpenAi
        }
    }
}

/// Gives the error of a response the form of another API than OpenAI's.
pub fn set_form(response: &mut Response, form: ErrorForm) {
    if let Some(error) = response.extensions_mut().remove::<ApiError>()
        && form != ErrorForm::OpenAi
    {
        *response.body_mut() = error.document(form).to_string().into();
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let json = HeaderValue::from_static("application/json");
        let document = self.document(ErrorForm::OpenAi).to_string();
        let mut response = (self.status, document).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, json);
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        // For those who know the path.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<TaskError> for ApiError {
    fn from(error: TaskError) -> Self {
        let message = error.to_string();
        match error {
            TaskError::Generate(GenerateError::PromptTooLong {
                n_tokens,
                context_len,
            }) => {
                let mut error = Self::invalid(message).with_code("context_length_exceeded");
                error.body.n_prompt_tokens = Some(n_tokens);
                error.body.n_ctx = Some(context_len);
                error
            }
            TaskError::Generate(GenerateError::EmptyPrompt | GenerateError::Sampler(_))
            | TaskError::Token { .. } => Self::invalid(message),
            TaskError::QueueFull { max_waiting } => Self::queue_full(max_waiting, 1),
            _ => Self::internal(message),
        }
    }
}

impl From<TokenizerError> for ApiError {
    fn from(error: TokenizerError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<ChatError> for ApiError {
    fn from(error: ChatError) -> Self {
        Self::field("messages", error.to_string())
    }
}

impl From<GrammarError> for ApiError {
    fn from(error: GrammarError) -> Self {
        Self::invalid(error.to_string()).with_code("grammar_not_supported")
    }
}
