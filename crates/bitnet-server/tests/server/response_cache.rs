//! Answers that were computed before.

use std::time::Duration;

use bitnet_server::{RequestDefaults, ServerOptions};
use serde_json::{Value, json};

use crate::client::{Running, Size, start, start_with_defaults};

/// Returns the reply, whole or of the documents of a stream, without what is new in each: its
/// identifier, its times, and what of the prompt was cached.
fn answer(server: &Running, path: &str, request: &Value) -> Value {
    let response = server.post(path, request);
    assert_eq!(response.status, 200, "{}", response.body);
    let mut documents = if request["stream"] == true {
        response.events()
    } else {
        vec![response.json()]
    };
    for document in &mut documents {
        let document = document.as_object_mut().unwrap();
        for name in ["id", "created", "timings"] {
            document.remove(name);
        }
        if let Some(usage) = document.get_mut("usage") {
            usage["prompt_tokens_details"].take();
        }
    }
    json!(documents)
}

/// How many requests were looked up, and how many found.
fn counts(server: &Running) -> [f64; 2] {
    ["queries", "hits"].map(|name| server.metric(&format!("response_cache_{name}_total")))
}

#[test]
fn a_request_is_answered_again_without_computing_it() {
    let server = start(ServerOptions {
        response_cache: 1 << 20,
        ..ServerOptions::default()
    });
    let without = start(ServerOptions::default());
    let messages = json!([{"role": "user", "content": "Tell me a story."}]);
    let requests = [
        (
            "/v1/completions",
            json!({"prompt": "Once", "temperature": 0, "max_tokens": 20}),
        ),
        (
            "/v1/completions",
            json!({"prompt": ["Once", "A"], "n": 2, "seed": 3, "max_tokens": 12, "logprobs": 2,
                "echo": true, "stop": "the", "receipt": true}),
        ),
        (
            "/v1/completions",
            json!({"prompt": "A", "n": 1, "best_of": 3, "seed": 4}),
        ),
        (
            "/v1/completions",
            json!({"prompt": "A", "guided_regex": "[ab]{4}", "seed": 5, "logprobs": 0}),
        ),
        (
            "/v1/chat/completions",
            json!({"messages": messages, "seed": 6, "max_tokens": 15}),
        ),
    ];
    for (nth, (path, request)) in requests.iter().enumerate() {
        let n_before = nth as f64;
        assert_eq!(counts(&server), [2.0 * n_before, n_before]);
        // Without a seed, the reply says which one was drawn, though nothing depends on it.
        let mut request = request.clone();
        request["seed"] = request.get("seed").cloned().unwrap_or(json!(9));
        let first = answer(&server, path, &request);
        assert_eq!(answer(&server, path, &request), first);
        assert_eq!(answer(&without, path, &request), first);
    }
    // They are counted after the reply.
    let n_tokens = [&server, &without].map(|server| {
        server.wait_until_idle();
        std::thread::sleep(Duration::from_millis(100));
        server.metric("generation_tokens_total")
    });
    assert_eq!(n_tokens[0], n_tokens[1]);
    let [queries, hits] = counts(&server);
    assert_eq!([queries, hits], [10.0, 5.0]);
    // What is new is new.
    let twice = [0, 1].map(|_| server.post(requests[0].0, &requests[0].1).json());
    assert_ne!(twice[0]["id"], twice[1]["id"]);
    assert_eq!(
        twice[0]["choices"][0]["text"],
        twice[1]["choices"][0]["text"]
    );
    let usage = &twice[0]["usage"];
    assert_eq!(
        usage["prompt_tokens_details"]["cached_tokens"],
        usage["prompt_tokens"]
    );
    assert_eq!(twice[0]["timings"]["predicted_ms"], 0.0);
}

#[test]
fn an_answer_is_replayed_as_a_stream() {
    let server = start(ServerOptions {
        response_cache: 1 << 20,
        ..ServerOptions::default()
    });
    let path = "/v1/completions";
    let mut request = json!({"prompt": "Once", "n": 2, "seed": 3, "max_tokens": 30});
    let whole = answer(&server, path, &request);
    request["stream"] = true.into();
    request["stream_options"] = json!({"include_usage": true});
    let streamed = answer(&server, path, &request);
    assert_eq!(counts(&server), [2.0, 1.0]);
    let mut texts = [String::new(), String::new()];
    let mut reasons = [Value::Null, Value::Null];
    for event in streamed.as_array().unwrap() {
        for choice in event["choices"].as_array().unwrap() {
            let index = choice["index"].as_u64().unwrap() as usize;
            texts[index] += choice["text"].as_str().unwrap();
            reasons[index] = choice["finish_reason"].clone();
        }
    }
    for (i, choice) in whole[0]["choices"].as_array().unwrap().iter().enumerate() {
        assert_eq!(
            json!([texts[i], reasons[i]]),
            json!([choice["text"], choice["finish_reason"]])
        );
    }
    let last = streamed.as_array().unwrap().last().unwrap();
    assert_eq!(last["usage"]["completion_tokens"], 60);

    // A stream is kept, too; one whose client goes away is not.
    request["seed"] = 8.into();
    let first = answer(&server, path, &request);
    assert_eq!(answer(&server, path, &request), first);
    request["stream"] = false.into();
    request.as_object_mut().unwrap().remove("stream_options");
    answer(&server, path, &request);
    assert_eq!(counts(&server), [5.0, 3.0]);
}

#[test]
fn only_what_is_determined_is_kept() {
    let server = start(ServerOptions {
        response_cache: 1 << 20,
        ..ServerOptions::default()
    });
    let path = "/v1/completions";
    let drawn = json!({"prompt": "Once", "max_tokens": 5});
    let any = json!({"prompt": "Once", "max_tokens": 5, "seed": -1});
    for request in [&drawn, &drawn, &any, &any] {
        answer(&server, path, request);
    }
    assert_eq!(counts(&server), [0.0, 0.0]);
    // Each of these is another request.
    let seeded = json!({"prompt": "Once", "max_tokens": 5, "seed": 1});
    let changes = [
        ("seed", json!(2)),
        ("max_tokens", json!(6)),
        ("prompt", json!("Twice")),
        ("temperature", json!(0.6)),
        ("stop", json!("a")),
        ("logit_bias", json!({"13": 1})),
        ("logprobs", json!(1)),
        ("guided_regex", json!("a+")),
    ];
    answer(&server, path, &seeded);
    for (name, value) in changes {
        let mut changed = seeded.clone();
        changed[name] = value;
        answer(&server, path, &changed);
    }
    assert_eq!(counts(&server), [9.0, 0.0]);

    // With a seed of its own, the server determines all.
    let options = ServerOptions {
        response_cache: 1 << 20,
        ..ServerOptions::default()
    };
    let defaults = RequestDefaults {
        seed: Some(7),
        ..RequestDefaults::default()
    };
    let server = start_with_defaults(options, Size::default(), defaults);
    assert_eq!(answer(&server, path, &drawn), answer(&server, path, &drawn));
    assert_eq!(counts(&server), [2.0, 1.0]);
}
