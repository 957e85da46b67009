//! The page at `/`, and the specification of the API.

use axum::extract::Path;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;
use crate::http::json;

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
    file!("api.js", SCRIPT),
    file!("app.js", SCRIPT),
    file!("chat.js", SCRIPT),
    file!("dom.js", SCRIPT),
    file!("markdown.js", SCRIPT),
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

pub async fn index() -> Response {
    response(HTML, include_str!("../page/index.html"))
}

pub async fn file(Path(name): Path<String>) -> Result<Response, ApiError> {
    let file = FILES.iter().find(|file| file.name == name);
    let file = file.ok_or_else(|| ApiError::not_found(format!("the page has no file {name:?}")))?;
    Ok(response(file.kind, file.text))
}

pub async fn openapi() -> Response {
    json(StatusCode::OK, include_str!("openapi.json").to_owned())
}
