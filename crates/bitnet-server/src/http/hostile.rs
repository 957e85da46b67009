//! Who may use the server, for arbitrary headers: the fuzz target `access`, and its corpus.

use std::net::IpAddr;

use axum::body::Body;
use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderName, HeaderValue, header};

use super::access;
use super::connection::Peer;
use crate::options::ServerOptions;

const HOST: &str = "box.lan";
const ORIGIN: &str = "https://a.example";
const KEY: &str = "secret";

/// The headers of the lines of a corpus file.
const HEADERS: [HeaderName; 3] = [header::HOST, header::ORIGIN, header::AUTHORIZATION];

/// Asks with headers from the lines of `data`: host, origin and authorization. An empty line
/// is no header. Returns whether the request is answered by a server without keys, and by
/// one with a key.
///
/// # Panics
///
/// Panics if a request is answered that must not be, by a reading of its own.
pub fn access(data: &[u8]) -> [bool; 2] {
    let mut request = Request::builder().uri("/v1/models");
    for (name, line) in HEADERS.into_iter().zip(data.split(|&byte| byte == b'\n')) {
        if !line.is_empty()
            && let Ok(value) = HeaderValue::from_bytes(line)
        {
            request = request.header(name, value);
        }
    }
    let request = request.body(Body::empty()).expect("the parts are valid");
    let open = ServerOptions {
        allowed_hosts: vec![HOST.to_owned()],
        cors_origins: vec![ORIGIN.to_owned()],
        ..ServerOptions::default()
    };
    let locked = ServerOptions {
        api_keys: vec![KEY.to_owned()],
        ..open.clone()
    };
    let [is_open, is_unlocked] = [open, locked].map(|options| {
        let peer = Peer::Tcp(([127, 0, 0, 1], 9).into());
        access::check(&options, &request, "/v1/models", peer).is_ok()
    });
    let value = |name: HeaderName| request.headers().get(name).map(HeaderValue::as_bytes);
    if is_open {
        assert!(value(header::HOST).is_none_or(may_be_host), "host");
        assert!(
            value(header::ORIGIN).is_none_or(|origin| {
                origin == ORIGIN.as_bytes()
                    || value(header::HOST).is_some_and(|host| origin.ends_with(host))
            }),
            "origin"
        );
    }
    if is_unlocked {
        assert!(is_open);
        let key = value(header::AUTHORIZATION);
        assert!(key.is_some_and(|key| key.ends_with(KEY.as_bytes())), "key");
    }
    [is_open, is_unlocked]
}

/// Returns whether a host, as `http` reads it, is an address or a known name.
fn may_be_host(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else {
        // No browser sends it.
        return true;
    };
    let name = authority.host().trim_matches(['[', ']']);
    name.parse::<IpAddr>().is_ok()
        || ["localhost", HOST]
            .map(str::to_owned)
            .contains(&name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_the_corpus_are_answered_or_not_as_their_names_say() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/access");
        let mut n_files = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let expected = match name.split('-').next() {
                Some("sound") => [true, true],
                Some("keyless") => [true, false],
                _ => [false, false],
            };
            assert_eq!(access(&std::fs::read(&path).unwrap()), expected, "{name}");
            n_files += 1;
        }
        assert!(n_files > 10, "{n_files} files");
    }
}
