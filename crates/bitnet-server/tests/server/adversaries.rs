//! Clients that mean harm: they get an error or nothing, and nobody else notices.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use bitnet_server::{Limits, ServerOptions};
use serde_json::json;

use crate::client::{Running, post_request, read_response, start};

fn strict() -> Running {
    start(ServerOptions {
        limits: Limits {
            body: 1 << 20,
            head: 8 << 10,
            receive: Duration::from_secs(2),
            send: Duration::from_secs(2),
            connections: 16,
            ..Limits::default()
        },
        ..ServerOptions::default()
    })
}

fn is_well(server: &Running) {
    let response = server.post("/v1/completions", &json!({"prompt": "A", "max_tokens": 2}));
    assert_eq!(response.status, 200, "{}", response.body);
}

#[test]
fn malformed_requests_are_refused() {
    let server = strict();
    for (request, expected) in [
        ("GARBAGE\r\n\r\n", 400),
        ("GET / HTTP/9.9\r\n\r\n", 400),
        ("GET /\0 HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
        (
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: x\r\n\r\n",
            400,
        ),
        (
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            400,
        ),
        (
            "GET / HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n",
            403,
        ),
        (
            "GET / HTTP/1.1\r\nhost: localhost\r\norigin: https://evil.example\r\nconnection: close\r\n\r\n",
            403,
        ),
        (
            "GET /nothing HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
            404,
        ),
        (
            "PUT /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
            405,
        ),
        ("GET /v1/models HTTP/1.0\r\n\r\n", 200),
    ] {
        assert_eq!(server.request(request).status, expected, "{request}");
    }
    is_well(&server);
}

#[test]
fn large_and_deep_bodies_are_refused() {
    let server = strict();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 100000000\r\n\r\n";
    assert_eq!(server.request(head).status, 413);
    // Without a length, it is counted.
    let mut chunked = server.connect();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    chunked.write_all(head.as_bytes()).unwrap();
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    for _ in 0..20 {
        if chunked.write_all(chunk.as_bytes()).is_err() {
            break;
        }
    }
    assert_eq!(read_response(&mut chunked).status, 413);
    let deep = format!(
        "{{\"prompt\":{}1{}}}",
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    assert_eq!(server.post_text("/v1/completions", &deep).status, 400);
    let long_head = format!(
        "GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
        "y".repeat(100_000)
    );
    assert_eq!(server.request(&long_head).status, 431);
    is_well(&server);
}

#[test]
fn slow_clients_lose_their_connection() {
    let server = strict();
    // A head, and a body, that never end.
    let mut head = server.connect();
    head.write_all(b"GET / HTTP/1.1\r\nhost: loc").unwrap();
    let mut body = server.connect();
    body.write_all(b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{")
        .unwrap();
    let start = Instant::now();
    let mut rest = String::new();
    let _ = head.read_to_string(&mut rest);
    assert_eq!(read_response(&mut body).status, 408);
    assert!(start.elapsed() < Duration::from_secs(20));
    // More of them than connections are allowed: they end, and others get their place.
    let idle: Vec<_> = (0..40).map(|_| server.connect()).collect();
    is_well(&server);
    drop(idle);
}

#[test]
fn a_reader_that_never_reads_is_dropped() {
    let server = strict();
    let request = json!({
        "prompt": "A", "max_tokens": 1000, "ignore_eos": true, "stream": true, "n": 8,
        "logprobs": 20, "temperature": 1
    });
    let mut silent = server.connect();
    let request = post_request("/v1/completions", &request.to_string());
    silent.write_all(request.as_bytes()).unwrap();
    is_well(&server);
    server.wait_until_idle();
    is_well(&server);
}

#[test]
fn keys_protect_all_but_health_and_the_page() {
    let server = start(ServerOptions {
        api_keys: vec!["secret".to_owned()],
        ..ServerOptions::default()
    });
    let ask = |path: &str, key: &str| {
        server
            .request(&format!(
                "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{key}\r\n"
            ))
            .status
    };
    assert_eq!(ask("/v1/models", ""), 401);
    assert_eq!(ask("/v1/models", "authorization: Bearer wrong\r\n"), 401);
    assert_eq!(ask("/v1/models", "authorization: Bearer secret\r\n"), 200);
    assert_eq!(ask("/metrics", ""), 401);
    for path in ["/", "/app.js", "/style.css", "/health"] {
        assert_eq!(ask(path, ""), 200, "{path}");
    }
}
    assert_eq!(ask("/models", ""), 401);
