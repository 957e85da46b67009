//! The page at `/`, and the specification of the API.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use crate::app::App;
use crate::body::json as json_response;
use crate::models::Models;

/// What the page may load and do: nothing from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; img-src 'self' data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// A file of the page.
struct File {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

macro_rules! file {
    ($name:literal, $kind:expr) => {
        File {
            name: $name,
            kind: $kind,
            text: include_str!(concat!("../page/", $name)),
        }
    };
}

const FILES: &[File] = &[
    File {
        name: "",
        kind: HTML,
        text: include_str!("../page/index.html"),
    },
    file!("api.js", SCRIPT),
    file!("app.js", SCRIPT),
    file!("chat.js", SCRIPT),
    file!("dom.js", SCRIPT),
    file!("markdown.js", SCRIPT),
    file!("panels.js", SCRIPT),
    file!("store.js", SCRIPT),
    file!("style.css", STYLE),
    file!("tokens.js", SCRIPT),
];

fn response(kind: &'static str, text: &'static str) -> Response {
    const HEADERS: [(HeaderName, &str); 3] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (
        StatusCode::OK,
        HEADERS,
        [(header::CONTENT_TYPE, kind)],
        text,
    )
        .into_response()
}

/// Adds the routes of the page.
pub fn routes<S: Clone + Send + Sync + 'static>(mut router: Router<S>) -> Router<S> {
    for File { name, kind, text } in FILES {
        let serve = move || async move { response(kind, text) };
        router = router.route(&format!("/{name}"), get(serve));
    }
    router
}

/// Returns whether a path is a file of the page.
pub fn has(path: &str) -> bool {
    (FILES.iter()).any(|file| path.strip_prefix('/') == Some(file.name))
}

/// Returns the specification, as it is for the models that were loaded.
pub async fn openapi(State(app): State<Arc<App>>) -> Response {
    let has_tools = app.models().is_ok_and(Models::have_tools);
    json_response(StatusCode::OK, specification(has_tools).to_string())
}

/// Returns the specification for a model with or without tools.
pub fn specification(has_tools: bool) -> Value {
    let text = include_str!("openapi.json");
    let mut document: Value = serde_json::from_str(text).expect("a test reads it");
    if has_tools {
        let link = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
        for request in ["ChatRequest", "ApplyTemplateRequest"] {
            let fields = &mut document["components"]["schemas"][request]["properties"];
            fields["tools"] = link("Tools");
            fields["tool_choice"] = link("ToolChoice");
            fields["messages"]["items"] = link("MessageWithTools");
        }
        let ollama = &mut document["components"]["schemas"]["OllamaChatRequest"]["properties"];
        ollama["tools"] = link("Tools");
        ollama["tool_choice"] = link("ToolChoice");
        ollama["messages"]["items"] = link("OllamaMessageWithTools");
        let responses = &mut document["components"]["schemas"]["ResponsesRequest"]["properties"];
        responses["tools"] = link("ResponsesTools");
        responses["tool_choice"] = link("ResponsesToolChoice");
        responses["input"]["anyOf"][1]["items"] = link("ResponsesItemWithTools");
        for request in ["AnthropicRequest", "AnthropicCountRequest"] {
            let fields = &mut document["components"]["schemas"][request]["properties"];
            fields["tools"] = link("AnthropicTools");
            fields["tool_choice"] = link("AnthropicToolChoice");
            fields["messages"]["items"] = link("AnthropicMessageWithTools");
        }
    }
    document
}
