//! How requests and the server end.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use bitnet_server::ServerOptions;
use serde_json::json;

use crate::client::{post_request, read_response, start};

/// A request that takes long.
fn long() -> String {
    let request = json!({
        "prompt": "A", "max_tokens": 1000, "ignore_eos": true, "stream": true, "temperature": 1,
        "logprobs": 20
    });
    post_request("/v1/completions", &request.to_string())
}

#[test]
fn a_client_that_goes_away_frees_its_place() {
    let server = start(ServerOptions {
        max_running: 1,
        ..ServerOptions::default()
    });
    let mut running = server.connect();
    running.write_all(long().as_bytes()).unwrap();
    running.read_exact(&mut [0; 200]).unwrap();
    let mut waiting = server.connect();
    waiting.write_all(long().as_bytes()).unwrap();
    let start = Instant::now();
    while server.metric("num_requests_waiting") < 1.0 {
        assert!(start.elapsed() < Duration::from_secs(20));
    }
    drop(waiting);
    drop(running);
    server.wait_until_idle();
    let metrics = server.get("/metrics").body;
    assert!(
        metrics.contains("bitnet:request_success_total{finished_reason=\"abort\"} 2"),
        "{metrics}"
    );
}

#[test]
fn a_full_queue_refuses_and_says_when_to_come_back() {
    let server = start(ServerOptions {
        max_running: 1,
        max_waiting: 1,
        ..ServerOptions::default()
    });
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = server.connect();
        client.write_all(long().as_bytes()).unwrap();
        client.read_exact(&mut [0; 20]).unwrap();
        clients.push(client);
    }
    let refused = server.post("/v1/completions", &json!({"prompt": "A"}));
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert!(refused.headers["retry-after"].parse::<u64>().unwrap() >= 1);
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    drop(clients);
    server.wait_until_idle();
    assert_eq!(
        server
            .post("/v1/completions", &json!({"prompt": "A"}))
            .status,
        200
    );
}

#[test]
fn a_server_that_ends_finishes_what_runs_and_refuses_the_rest() {
    let server = start(ServerOptions::default());
    let mut running = server.connect();
    let request = json!({"prompt": "A", "max_tokens": 300, "ignore_eos": true, "stream": true});
    let request = post_request("/v1/completions", &request.to_string());
    running.write_all(request.as_bytes()).unwrap();
    running.read_exact(&mut [0; 20]).unwrap();
    let mut late = server.connect();
    server.shutdown().request();
    late.write_all(post_request("/v1/completions", r#"{"prompt":"A"}"#).as_bytes())
        .unwrap();
    let refused = read_response(&mut late);
    assert_eq!(refused.status, 503, "{}", refused.body);
    let mut rest = String::new();
    running.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"finish_reason\":\"length\""), "{rest}");
    assert!(rest.contains("data: [DONE]"));
    assert!(server.join(), "all requests were done");
}

#[test]
fn what_takes_longer_than_the_drain_is_told_so() {
    let server = start(ServerOptions {
        drain: Duration::from_millis(1),
        ..ServerOptions::default()
    });
    let mut running = server.connect();
    running.write_all(long().as_bytes()).unwrap();
    running.read_exact(&mut [0; 200]).unwrap();
    server.shutdown().request();
    let mut rest = String::new();
    running.read_to_string(&mut rest).unwrap();
    assert!(
        rest.contains("\"error\":{\"message\":\"the server ended before"),
        "{rest}"
    );
    assert!(!server.join());
}
