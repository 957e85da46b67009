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
fn bodies_in_malformed_chunks_are_refused() {
    let server = strict();
    let post = |headers: &str, body: &[u8]| {
        let mut stream = server.connect();
        let head = format!(
            "POST /tokenize HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // It may be refused before it has arrived.
        let _ = stream.write_all(body);
        read_response(&mut stream).status
    };
    let chunked = "transfer-encoding: chunked\r\n";
    let body = "{\"content\":\"A\"}";
    let good = format!("10;a=b\r\n{body}\n\r\n0\r\nx: trailer\r\n\r\n");
    assert_eq!(post(chunked, good.as_bytes()), 200);
    for bad in [
        "-1\r\n",
        "fffffffffffffffff\r\nA",
        "2\r\n{}}}\r\n0\r\n\r\n",
        "0\r\n\r\n",
        "\r\n\r\n",
    ] {
        assert_eq!(post(chunked, bad.as_bytes()), 400, "{bad:?}");
    }
    // A proxy and a server that read these in different ways would see different requests.
    let both = format!("content-length: 5\r\n{chunked}");
    assert_ne!(post(&both, b"0\r\n\r\n"), 200);
    let twice = "content-length: 15\r\ncontent-length: 2\r\n";
    assert_eq!(post(twice, body.as_bytes()), 400);
    assert_eq!(post("content-length: -1\r\n", body.as_bytes()), 400);
    assert_eq!(post("content-length: 4\r\n", b"{\"\xff\""), 400);
    // What is missing may still come.
    assert_eq!(post("content-length: 100\r\n", body.as_bytes()), 408);
    assert_eq!(post(chunked, b"10\r\n{\"content"), 408);
    is_well(&server);
}

#[test]
fn requests_may_come_at_once_or_wait_for_leave() {
    let server = strict();
    let get = "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut pipelined = server.connect();
    let last = post_request("/tokenize", "{\"content\":\"A\"}");
    let requests = format!("{get}{get}{last}");
    pipelined.write_all(requests.as_bytes()).unwrap();
    let mut answers = String::new();
    pipelined.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
    let mut careful = server.connect();
    careful
        .write_all(
            b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
              expect: 100-continue\r\ncontent-length: 15\r\n\r\n",
        )
        .unwrap();
    let mut leave = [0; 25];
    careful.read_exact(&mut leave).unwrap();
    assert_eq!(&leave, b"HTTP/1.1 100 Continue\r\n\r\n");
    careful.write_all(b"{\"content\":\"A\"}").unwrap();
    assert_eq!(read_response(&mut careful).status, 200);
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
    // 100 MB; it is refused long before they have arrived.
    let mut n_sent = 0;
    while n_sent < 100_000_000 && chunked.write_all(chunk.as_bytes()).is_ok() {
        n_sent += 0x10000;
    }
    assert!(n_sent < 50_000_000, "{n_sent} bytes were read");
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
    // The same, with a byte now and then.
    let drips = [
        "GET / HTTP/1.1\r\nx: ",
        "POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900\r\n\r\n{",
    ]
    .map(|begin| {
        let mut stream = server.connect();
        stream.write_all(begin.as_bytes()).unwrap();
        std::thread::spawn(move || {
            while stream.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        })
    });
    let start = Instant::now();
    let mut rest = String::new();
    let _ = head.read_to_string(&mut rest);
    assert_eq!(read_response(&mut body).status, 408);
    for drip in drips {
        drip.join().unwrap();
    }
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
    assert_eq!(ask("/models", ""), 401);
    assert_eq!(ask("/metrics", ""), 401);
    for path in ["/", "/app.js", "/style.css", "/health"] {
        assert_eq!(ask(path, ""), 200, "{path}");
    }
}

/// One of each kind, which go away in the middle of what they do.
fn attack(server: &Running) {
    let post = |body: &str| post_request("/v1/completions", body);
    let unfinished = post("{\"prompt\": \"A\"}");
    let endless = json!({"prompt": "A", "max_tokens": 1000, "ignore_eos": true, "stream": true});
    for request in [
        "GARBAGE\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: evil.example\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: loc".to_owned(),
        unfinished[..unfinished.len() - 3].to_owned(),
        post(&format!("{{\"prompt\":{}", "[".repeat(10_000))),
        post(&" ".repeat(2 << 20)),
        post("{\"prompt\": \"A\", \"json_schema\": {\"$ref\": \"#/$defs/a\"}}"),
        post(&endless.to_string()),
    ] {
        let mut stream = server.connect();
        let _ = stream.write_all(request.as_bytes());
        // It may be closed already.
        let _ = stream.set_read_timeout(Some(Duration::from_millis(5)));
        let _ = stream.read(&mut [0; 300]);
    }
}

#[test]
fn a_client_among_adversaries_notices_nothing() {
    let server = strict();
    let request = json!({
        "prompt": "Once upon a time", "seed": 5, "temperature": 1, "max_tokens": 60,
        "ignore_eos": true, "stream": true,
    });
    let ask = || {
        let response = server.post("/v1/completions", &request);
        let pieces = response.events().into_iter();
        let texts = pieces.map(|event| event["choices"][0]["text"].as_str().unwrap().to_owned());
        texts.collect::<String>()
    };
    let alone = ask();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..5).for_each(|_| attack(&server)));
        for _ in 0..5 {
            assert_eq!(ask(), alone);
        }
    });
    server.wait_until_idle();
    // Nothing is left of them: all connections but one can be taken, and one is enough.
    let taken: Vec<_> = (0..15).map(|_| server.connect()).collect();
    let start = Instant::now();
    is_well(&server);
    assert!(start.elapsed() < Duration::from_secs(2));
    drop(taken);
}
