//! Who may use the server: host, origin and key of a request.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::connection::Peer;
use crate::app::Client;
use crate::error::ApiError;
use crate::options::ServerOptions;
use crate::page;

/// Checks host, origin and key, and returns the client.
pub fn check(
    options: &ServerOptions,
    request: &Request,
    path: &str,
    peer: Peer,
) -> Result<Client, ApiError> {
    let headers = request.headers();
    let authority = request
        .uri()
        .authority()
        .map(|host| host.as_str().as_bytes());
    let named = headers
        .get_all(header::HOST)
        .iter()
        .map(HeaderValue::as_bytes);
    // All of them, so that it does not matter which one counts.
    let hosts = named.chain(authority).map(String::from_utf8_lossy);
    let hosts: Vec<_> = hosts.collect();
    // No page of a browser reaches a Unix socket.
    let is_tcp = matches!(peer, Peer::Tcp(_));
    if let Some(host) = hosts.iter().find(|host| !is_allowed_host(options, host))
        && is_tcp
    {
        let message =
            format!("requests for the host {host:?} are refused; `--allowed-host` permits a name");
        return Err(forbidden(message));
    }
    if let Some(origin) = headers.get(header::ORIGIN)
        && allowed_origin(options, headers).is_none()
        && !is_same_origin(origin, hosts.first().map(|host| &**host))
    {
        let message = "pages of other sites may not use this server; `--cors-origin` permits one";
        return Err(forbidden(message.to_owned()));
    }
    let client = client(options, headers, peer);
    let is_open = path.starts_with("/health")
        || page::has(path)
        || request.method() == axum::http::Method::OPTIONS;
    match client {
        Some(client) => Ok(client),
        None if is_open => Ok(Client(0)),
        None => {
            let message = "a valid API key is needed, as in `Authorization: Bearer KEY`";
            let status = StatusCode::UNAUTHORIZED;
            let error = ApiError::new(status, "authentication_error", message);
            Err(error.with_code("invalid_api_key"))
        }
    }
}

fn forbidden(message: String) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, "permission_error", message)
}

/// Returns the client, unless its key is wrong. Every key is compared in full, so that the
/// time tells nothing.
fn client(options: &ServerOptions, headers: &HeaderMap, peer: Peer) -> Option<Client> {
    if options.api_keys.is_empty() {
        return Some(Client(match peer {
            Peer::Tcp(address) => hash(address.ip()),
            #[cfg(unix)]
            Peer::Unix => 0,
        }));
    }
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let value = value.as_bytes();
        let (scheme, key) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)
    });
    let key = bearer.or_else(|| headers.get("x-api-key").map(HeaderValue::as_bytes))?;
    let mut found = None;
    for (i, known) in options.api_keys.iter().enumerate() {
        if bool::from(known.as_bytes().ct_eq(key)) {
            found = Some(Client(i as u64 + 1));
        }
    }
    found
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Returns whether requests for this host are answered. A page of another site can have its
/// own name lead to this machine (DNS rebinding), but no address.
fn is_allowed_host(options: &ServerOptions, host: &str) -> bool {
    let name = without_port(host);
    let address = name.trim_start_matches('[').trim_end_matches(']');
    address.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || (options.allowed_hosts.iter()).any(|allowed| allowed.eq_ignore_ascii_case(name))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Returns whether a page comes from the host that it asks.
fn is_same_origin(origin: &HeaderValue, host: Option<&str>) -> bool {
    let origin = origin.to_str().unwrap_or_default();
    let site = origin.split_once("://").map(|(_, site)| site);
    site.is_some() && site == host
}

/// Returns the origin of a request if its pages may use the server.
pub fn allowed_origin(options: &ServerOptions, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let is_allowed = |allowed: &String| allowed == "*" || allowed.as_bytes() == origin.as_bytes();
    (options.cors_origins.iter().any(is_allowed)).then(|| origin.clone())
}

/// Answers the question of a browser whether a page may send a request.
pub fn preflight(is_allowed: bool) -> Response {
    if !is_allowed {
        return StatusCode::NO_CONTENT.into_response();
    }
    let allowed = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, x-api-key",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    (StatusCode::NO_CONTENT, allowed).into_response()
}

/// Tells a browser that pages of an origin may read the response.
pub fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("x-request-id, retry-after, bitnet-ignored, bitnet-seed"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> ServerOptions {
        ServerOptions {
            allowed_hosts: vec!["box.lan".to_owned()],
            api_keys: vec!["one".to_owned(), "two".to_owned()],
            cors_origins: vec!["https://a.example".to_owned()],
            ..ServerOptions::default()
        }
    }

    fn status(options: &ServerOptions, path: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(axum::body::Body::empty()).unwrap();
        let peer = Peer::Tcp(([127, 0, 0, 1], 9).into());
        match check(options, &request, path, peer) {
            Ok(_) => 200,
            Err(error) => error.status.as_u16(),
        }
    }

    #[test]
    fn only_addresses_and_known_names_are_hosts() {
        let options = ServerOptions {
            api_keys: Vec::new(),
            ..options()
        };
        for host in [
            "localhost:8080",
            "127.0.0.1",
            "[::1]:80",
            "192.168.1.7:8080",
            "BOX.lan",
        ] {
            assert_eq!(status(&options, "/x", &[("host", host)]), 200, "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:8080",
            "127.0.0.1.evil.example",
            "",
        ] {
            assert_eq!(status(&options, "/x", &[("host", host)]), 403, "{host}");
        }
        let both = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(status(&options, "/x", &both), 403);
        let elsewhere = "http://evil.example/x";
        assert_eq!(status(&options, elsewhere, &both[..1]), 403);
    }

    #[test]
    fn pages_of_other_sites_are_refused_unless_named() {
        let options = ServerOptions {
            api_keys: Vec::new(),
            ..options()
        };
        let of = |origin| {
            status(
                &options,
                "/x",
                &[("host", "localhost:80"), ("origin", origin)],
            )
        };
        assert_eq!(of("http://localhost:80"), 200);
        assert_eq!(of("https://a.example"), 200);
        assert_eq!(of("https://b.example"), 403);
        assert_eq!(of("null"), 403);
    }

    #[test]
    fn a_key_is_needed_but_for_health_and_the_page() {
        let options = options();
        let host = ("host", "localhost");
        for key in ["Bearer two", "bearer one"] {
            let headers = [host, ("authorization", key)];
            assert_eq!(status(&options, "/v1/models", &headers), 200);
        }
        assert_eq!(
            status(&options, "/v1/models", &[host, ("x-api-key", "one")]),
            200
        );
        for key in ["Bearer three", "Bearer ", "Basic one", "one"] {
            let headers = [host, ("authorization", key)];
            assert_eq!(status(&options, "/v1/models", &headers), 401, "{key}");
        }
        for path in ["/health", "/", "/app.js"] {
            assert_eq!(status(&options, path, &[host]), 200);
        }
        for path in ["/metrics", "/v1/models", "/tokenize", "/openapi.json", "/x"] {
            assert_eq!(status(&options, path, &[host]), 401);
        }
    }
}
