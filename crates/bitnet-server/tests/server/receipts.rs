//! The receipts of replies, computed again without the server.

use std::ops::ControlFlow;
use std::sync::Arc;

use bitnet_inference::{GrammarCompiler, PlanOptions, Receipt, Verdict, builtin, content_hash};
use bitnet_server::ServerOptions;
use serde_json::{Value, json};

use crate::client::{Running, engine, start, tokenizer};

/// Computes the text of a receipt again, on an engine of another size and without drafts.
fn verdict(receipt: &Value) -> Verdict {
    let receipt = Receipt::from_json(receipt.to_string().as_bytes()).unwrap();
    let hash = content_hash(&builtin::open(), |_, _| ControlFlow::Continue(()));
    assert_eq!(Some(&receipt.weights), hash.as_ref());
    let mut engine = engine(PlanOptions {
        n_threads: Some(1),
        context_len: Some(receipt.context),
        kv_precision: receipt.kv_precision(),
        ..PlanOptions::default()
    });
    let tokenizer = Arc::new(tokenizer());
    let vocab_size = engine.model().config().vocab_size;
    let constraint = receipt.grammar.as_ref().map(|grammar| {
        let compiler = GrammarCompiler::new(Arc::clone(&tokenizer), vocab_size).unwrap();
        compiler.compile(grammar).unwrap().constraint()
    });
    let is_eog = |id| tokenizer.is_eog(id);
    let verdict = receipt.verify(&mut engine, constraint, is_eog, |_| {
        ControlFlow::Continue(())
    });
    verdict.unwrap().expect("nothing stops it")
}

/// Returns what has receipts in the reply to a request: its choices, or the reply itself.
fn receipts(server: &Running, path: &str, request: &Value) -> Vec<Value> {
    let response = server.post(path, request);
    assert_eq!(response.status, 200, "{}", response.body);
    let seed = &response.headers["bitnet-seed"];
    if let Some(asked) = request.get("seed") {
        assert_eq!(*seed, asked.to_string());
    }
    let documents = if request["stream"] != true {
        vec![response.json()]
    } else if path.starts_with("/api/") {
        let lines = response.body.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    } else if path == "/v1/messages" || path == "/v1/responses" {
        response.named_events()
    } else {
        response.events()
    };
    let mut found = Vec::new();
    for document in documents {
        for place in [&document, &document["response"]]
            .into_iter()
            .chain(document["choices"].as_array().into_iter().flatten())
        {
            if place.get("receipt_digest").is_some() {
                found.push(place.clone());
            }
        }
    }
    found
}

/// Requests of every endpoint that writes texts, with all that tokens depend on.
fn requests() -> Vec<(&'static str, Value)> {
    let schema = json!({
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}},
        "required": ["a"],
        "additionalProperties": false,
    });
    let messages = json!([{"role": "user", "content": "Tell me a story."}]);
    let function = json!({"type": "function", "function": {"name": "now", "parameters": schema}});
    let (completions, chat) = ("/v1/completions", "/v1/chat/completions");
    vec![
        (
            completions,
            json!({"prompt": "Once upon a time", "temperature": 0}),
        ),
        (
            completions,
            json!({
                "prompt": ["Once", "A king"], "n": 2, "temperature": 1, "max_tokens": 12,
                "logit_bias": {"13": -5.0, "300": 2.5}, "ignore_eos": true, "top_k": 40,
                "repeat_penalty": 1.2, "presence_penalty": 0.4, "repeat_last_n": -1, "seed": 7,
            }),
        ),
        (
            completions,
            json!({"prompt": "Once", "stop": "the", "max_tokens": 60, "seed": 3}),
        ),
        (
            completions,
            json!({"prompt": "A", "json_schema": schema, "max_tokens": 40, "seed": 1}),
        ),
        (
            completions,
            json!({"prompt": "A", "guided_regex": "[a-f]{3,9}", "seed": 2}),
        ),
        (
            completions,
            json!({"prompt": "A", "grammar": "start: \"yes\" | \"no\"", "seed": 2}),
        ),
        (
            completions,
            json!({"prompt": "A", "max_tokens": 0, "echo": true, "logprobs": 0}),
        ),
        (
            chat,
            json!({"messages": messages, "max_tokens": 12, "n": 2}),
        ),
        (
            chat,
            json!({"messages": messages, "max_tokens": 60, "tools": [function],
            "tool_choice": "required", "seed": 4}),
        ),
        (
            "/v1/responses",
            json!({"input": "Tell me.", "max_output_tokens": 12, "seed": 5}),
        ),
        (
            "/v1/messages",
            json!({"messages": messages, "max_tokens": 12, "seed": 6}),
        ),
        (
            "/api/chat",
            json!({"messages": messages, "options": {"num_predict": 12, "seed": 8}}),
        ),
        (
            "/api/generate",
            json!({"prompt": "Once", "raw": true, "options": {"num_predict": 9}}),
        ),
    ]
}

#[test]
fn every_text_has_a_receipt_that_holds() {
    let server = start(ServerOptions::default());
    for (path, request) in requests() {
        let n = request["n"].as_u64().unwrap_or(1);
        let n_prompts = request["prompt"].as_array().map_or(1, Vec::len) as u64;
        for stream in [false, true] {
            let mut request = request.clone();
            request["stream"] = stream.into();
            request["receipt"] = true.into();
            let receipts = receipts(&server, path, &request);
            assert_eq!(receipts.len() as u64, n * n_prompts, "{path} {request}");
            for found in receipts {
                let receipt = &found["receipt"];
                assert_eq!(found["receipt_digest"], receipt["digest"]);
                assert_eq!(verdict(receipt), Verdict::Equal, "{path} {receipt}");
            }
        }
    }
}

#[test]
fn the_digest_alone_is_that_of_the_receipt() {
    let server = start(ServerOptions::default());
    for (path, mut request) in requests() {
        let has_seed = request.get("seed").is_some() || request["options"].get("seed").is_some();
        if !has_seed {
            continue;
        }
        let digests = |request: &Value| {
            let found = receipts(&server, path, request).into_iter();
            let digest = |found: Value| {
                (
                    found["receipt_digest"].clone(),
                    found.get("receipt").is_some(),
                )
            };
            found.map(digest).collect::<Vec<_>>()
        };
        request["stream"] = true.into();
        let streamed = digests(&request);
        request["stream"] = false.into();
        let alone = digests(&request);
        assert_eq!(alone, streamed);
        assert!(alone.iter().all(|(_, has_receipt)| !has_receipt), "{path}");
        request["receipt"] = true.into();
        let with: Vec<_> = alone
            .into_iter()
            .map(|(digest, _)| (digest, true))
            .collect();
        assert_eq!(digests(&request), with, "{path}");
    }
}

#[test]
fn who_loses_the_connection_asks_for_the_same_again() {
    use std::io::Read;
    let server = start(ServerOptions::default());
    let request = json!({"prompt": "Once upon a time", "max_tokens": 200, "stream": true,
        "temperature": 1, "ignore_eos": true});
    // Reads the head and some of the text, and goes away.
    let mut lost = server.connect();
    let head = crate::client::post_request("/v1/completions", &request.to_string());
    std::io::Write::write_all(&mut lost, head.as_bytes()).unwrap();
    let mut read = String::new();
    while read.matches("\"text\":").count() < 5 {
        let mut bytes = [0; 512];
        let n = lost.read(&mut bytes).unwrap();
        assert!(n > 0, "the stream ends early: {read}");
        read += std::str::from_utf8(&bytes[..n]).unwrap();
    }
    drop(lost);
    let seed = read
        .lines()
        .find_map(|line| line.strip_prefix("bitnet-seed: "));
    let seed: u64 = seed.expect("the head names it").parse().unwrap();
    let mut again = request;
    again["seed"] = seed.into();
    let response = server.post("/v1/completions", &again);
    let text = |events: &[Value]| -> String {
        let pieces = events
            .iter()
            .map(|event| event["choices"][0]["text"].as_str().unwrap());
        pieces.collect()
    };
    let events = read.lines().filter_map(|line| line.strip_prefix("data: "));
    // The last one may be cut.
    let events: Vec<Value> = events
        .filter_map(|event| serde_json::from_str(event).ok())
        .collect();
    let (begun, whole) = (text(&events), text(&response.events()));
    assert!(
        !begun.is_empty() && whole.starts_with(&begun),
        "{begun:?}\n{whole:?}"
    );
    // In the whole, of the same length, nobody sees that the first one was cut.
    assert_eq!(response.headers["bitnet-seed"], seed.to_string());
}
