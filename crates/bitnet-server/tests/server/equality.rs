//! The same request gives the same text, alone and among others.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bitnet_inference::SamplerOptions;
use bitnet_server::ServerOptions;
use serde_json::{Value, json};

use crate::client::{Running, Size, alone, post_request, start, start_sized};

const BEGINNINGS: [&str; 4] = [
    "Once upon a time there was a king who had three daughters, and the youngest of them",
    "Once upon a time there was a king who had three sons, and",
    "The old woman went to the mill and",
    "A",
];

/// A small generator of pseudo-random numbers.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }
}

/// A random request: several prompts, numbers of texts, seeds, schemas and stop texts.
pub fn request(random: &mut Random) -> Value {
    let mut prompt = BEGINNINGS[random.below(4)].repeat(1 + random.below(6));
    if random.below(2) == 0 {
        prompt.push_str([" one", " two", " three"][random.below(3)]);
    }
    let mut request = json!({
        "prompt": prompt,
        "max_tokens": 1 + random.below(40),
        "seed": random.below(6),
        "temperature": ([0.0, 0.7, 1.0][random.below(3)]),
        "top_k": ([0, 20][random.below(2)]),
        "repeat_penalty": ([1.0, 1.3][random.below(2)]),
        "n": 1 + random.below(3),
    });
    match random.below(6) {
        0 => {
            request["json_schema"] = json!({
                "type": "object",
                "properties": {"a": {"type": "string", "maxLength": 12}, "b": {"type": "boolean"}},
                "required": ["a", "b"],
                "additionalProperties": false,
            });
        }
        1 => request["stop"] = json!(["the", ", and"]),
        2 => request["logprobs"] = json!(2),
        3 => request["logit_bias"] = json!({"13": -5.0, "300": 2.5}),
        _ => {}
    }
    request
}

/// The texts, with all that does not depend on time.
pub fn outcome(server: &Running, request: &Value) -> Value {
    let response = server.post("/v1/completions", request);
    assert_eq!(response.status, 200, "{}", response.body);
    let mut json = response.json();
    let mut usage = json["usage"].take();
    usage["prompt_tokens_details"].take();
    json!([json["choices"], usage, json["system_fingerprint"]])
}

/// The same from a stream.
fn streamed(server: &Running, request: &Value) -> Value {
    let mut request = request.clone();
    request["stream"] = json!(true);
    let response = server.post("/v1/completions", &request);
    let n = request["n"].as_u64().unwrap() as usize;
    let mut texts = vec![(String::new(), Value::Null); n];
    for event in response.events() {
        let choice = &event["choices"][0];
        let (text, reason) = &mut texts[choice["index"].as_u64().unwrap() as usize];
        assert!(reason.is_null(), "a piece after the end");
        *text += choice["text"].as_str().unwrap();
        *reason = choice["finish_reason"].clone();
    }
    json!(texts)
}

/// The tokens of a stream of one text with log-probabilities, whose events are checked.
fn streamed_tokens(server: &Running, request: &Value) -> Value {
    let response = server.post("/v1/completions", request);
    assert_eq!(response.status, 200, "{}", response.body);
    let mut events = response.events();
    let usage = events.pop().expect("the usage is last");
    assert_eq!(usage["choices"], json!([]));
    let (mut text, mut tokens, mut logprobs) = (String::new(), Vec::new(), Vec::new());
    let mut reason = Value::Null;
    for event in &events {
        assert_eq!(event["id"], usage["id"]);
        assert!(reason.is_null(), "a piece after the end");
        let [choice] = &event["choices"].as_array().unwrap()[..] else {
            panic!("not one piece: {event}");
        };
        text += choice["text"].as_str().unwrap();
        tokens.extend_from_slice(choice["logprobs"]["tokens"].as_array().unwrap());
        let values = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        logprobs.extend_from_slice(values);
        reason = choice["finish_reason"].clone();
    }
    assert_eq!(usage["usage"]["completion_tokens"], json!(tokens.len()));
    json!([text, tokens, logprobs, reason])
}

fn whole(outcome: &Value) -> Value {
    let choices = outcome[0].as_array().unwrap();
    json!(
        (choices.iter())
            .map(|c| json!([c["text"], c["finish_reason"]]))
            .collect::<Vec<_>>()
    )
}

/// Runs requests of many clients, some of which go away, and compares each answer with the
/// one that the request gets alone on another server.
fn compare_under_load(n_clients: usize, time: Duration, server: &Running) -> usize {
    let quiet = start_sized(
        ServerOptions {
            max_running: 1,
            ..ServerOptions::default()
        },
        Size {
            n_cached: 0,
            kv_pages: None,
        },
    );
    let n_compared = AtomicUsize::new(0);
    let end = Instant::now() + time;
    let mut answers = Vec::new();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..n_clients)
            .map(|client| {
                scope.spawn(move || {
                    let mut random = Random(client as u64 * 7919 + 1);
                    let mut answers = Vec::new();
                    while Instant::now() < end {
                        let request = request(&mut random);
                        match random.below(8) {
                            // Goes away, in a stream or before it.
                            0 => {
                                let mut stream = server.connect();
                                let mut request = request;
                                request["stream"] = json!(true);
                                let text = post_request("/v1/completions", &request.to_string());
                                stream.write_all(text.as_bytes()).unwrap();
                                std::thread::sleep(Duration::from_millis(random.below(30) as u64));
                            }
                            1 | 2 => answers.push((streamed(server, &request), request, true)),
                            _ => answers.push((outcome(server, &request), request, false)),
                        }
                    }
                    answers
                })
            })
            .collect();
        for client in clients {
            answers.extend(client.join().unwrap());
        }
    });
    for (answer, request, is_streamed) in answers {
        let expected = outcome(&quiet, &request);
        let expected = if is_streamed {
            whole(&expected)
        } else {
            expected
        };
        assert_eq!(answer, expected, "{request}");
        n_compared.fetch_add(1, Ordering::Relaxed);
    }
    server.wait_until_idle();
    n_compared.into_inner()
}

#[test]
fn answers_are_the_same_alone_and_under_load() {
    let server = start_sized(
        ServerOptions {
            max_running: 6,
            ..ServerOptions::default()
        },
        // A context needs eight pages: texts wait for pages, and prefixes are dropped.
        Size {
            n_cached: 8,
            kv_pages: Some(14),
        },
    );
    let n = compare_under_load(12, Duration::from_secs(3), &server);
    assert!(n > 12, "only {n} answers");
    assert!(server.metric("prefix_cache_hits_total") > 0.0);
}

#[test]
fn streams_that_are_put_back_go_on_as_if_nothing_had_happened() {
    const N: usize = 6;
    // Each text needs three pages, and there are those of one context. No prefix is kept, so
    // that an idle server uses no page.
    let server = start_sized(
        ServerOptions {
            max_running: N,
            ..ServerOptions::default()
        },
        Size {
            n_cached: 0,
            kv_pages: Some(8),
        },
    );
    let request = |i: usize| {
        json!({
            "prompt": BEGINNINGS[i % BEGINNINGS.len()],
            "seed": i,
            "temperature": 1,
            "max_tokens": 300,
            "ignore_eos": true,
            "logprobs": 1,
            "stream": true,
            "stream_options": {"include_usage": true},
        })
    };
    let alone: Vec<Value> = (0..N)
        .map(|i| streamed_tokens(&server, &request(i)))
        .collect();
    assert_eq!(server.metric("num_preemptions_total"), 0.0);
    let together: Vec<Value> = std::thread::scope(|scope| {
        let streams: Vec<_> = (0..N)
            .map(|i| {
                let (server, request) = (&server, request(i));
                scope.spawn(move || streamed_tokens(server, &request))
            })
            .collect();
        let streams = streams.into_iter();
        streams.map(|stream| stream.join().unwrap()).collect()
    });
    assert!(server.metric("num_preemptions_total") > 0.0);
    for (i, (alone, together)) in alone.iter().zip(&together).enumerate() {
        assert_eq!(alone, together, "text {i}");
        assert_eq!(alone[1].as_array().unwrap().len(), 300);
    }
    server.wait_until_idle();
    assert_eq!(server.metric("kv_cache_usage_perc"), 0.0);
}

#[test]
#[ignore = "takes some minutes; run it when the server or the scheduler changes"]
#[expect(clippy::print_stdout, reason = "its numbers are asked for")]
fn sixty_four_clients_for_a_minute() {
    let server = start_sized(
        ServerOptions {
            max_running: 16,
            ..ServerOptions::default()
        },
        Size {
            n_cached: 16,
            kv_pages: Some(18),
        },
    );
    let n = compare_under_load(64, Duration::from_mins(1), &server);
    println!(
        "{n} answers compared, {} texts put back",
        server.metric("num_preemptions_total")
    );
    // How many there are depends on the machine.
    assert!(n > 100, "only {n} answers");
    assert!(server.metric("prefix_cache_hits_total") > 0.0);
}

#[test]
#[ignore = "takes some minutes; run it when the server or the scheduler changes"]
#[expect(clippy::print_stdout, reason = "its numbers are asked for")]
fn ten_thousand_requests_keep_the_memory() {
    let server = start(ServerOptions::default());
    let n_done = AtomicUsize::new(0);
    let run = |n: usize| {
        std::thread::scope(|scope| {
            for client in 0..8 {
                let (n_done, server) = (&n_done, &server);
                scope.spawn(move || {
                    let mut random = Random(client + 1);
                    for _ in 0..n / 8 {
                        let mut request = request(&mut random);
                        request["max_tokens"] = json!(1 + random.below(8));
                        outcome(server, &request);
                        n_done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        bitnet_core::machine::resident_memory().unwrap()
    };
    let before = run(2000);
    let after = run(8000);
    println!(
        "{} MB after 2000 requests, {} MB after 10,000",
        before >> 20,
        after >> 20
    );
    assert_eq!(n_done.into_inner(), 10_000);
    // Less than a kilobyte per request.
    assert!(after < before + (8 << 20), "{before} bytes, then {after}");
}

#[test]
fn a_text_is_that_of_the_library() {
    let server = start(ServerOptions::default());
    for (temperature, stop) in [(0.0, &[][..]), (0.9, &[]), (0.9, &["the"])] {
        let sampling = SamplerOptions {
            temperature,
            top_p: 0.95,
            seed: 5,
            ..SamplerOptions::GREEDY
        };
        let request = json!({
            "prompt": BEGINNINGS[0],
            "max_tokens": 40,
            "temperature": temperature,
            "top_p": 0.95,
            "seed": 5,
            "stop": stop,
        });
        let answer = server.post("/v1/completions", &request).json();
        let expected = alone(BEGINNINGS[0], 40, sampling, stop);
        assert_eq!(answer["choices"][0]["text"], json!(expected));
    }
}

#[test]
fn several_texts_are_those_of_the_following_seeds() {
    let server = start(ServerOptions::default());
    let request = |seed: u64, n: u64| json!({"prompt": "A", "seed": seed, "n": n, "max_tokens": 12, "temperature": 1});
    let texts = server.post("/v1/completions", &request(7, 3)).json();
    for i in 0..3 {
        let one = server.post("/v1/completions", &request(7 + i, 1)).json();
        assert_eq!(
            texts["choices"][i as usize]["text"],
            one["choices"][0]["text"]
        );
    }
    // The prompt was computed once.
    assert_eq!(texts["usage"]["completion_tokens"], 36);
}

#[test]
fn drafts_change_no_answer() {
    let [with, without] = [true, false].map(|speculate| {
        start(ServerOptions {
            speculate,
            ..ServerOptions::default()
        })
    });
    let mut random = Random(7);
    let list = json!({
        "prompt": BEGINNINGS[1],
        "max_tokens": 200,
        "seed": 1,
        "n": 1,
        "logprobs": 1,
        "json_schema": {
            "type": "array",
            "minItems": 8,
            "maxItems": 8,
            "items": {
                "type": "object",
                "properties": {"name": {"enum": ["a", "b"]}, "is_old": {"type": "boolean"}},
                "required": ["name", "is_old"],
                "additionalProperties": false,
            },
        },
    });
    let story = json!({
        "prompt": BEGINNINGS[0].repeat(5),
        "max_tokens": 200,
        "n": 2,
        "temperature": 0,
    });
    let more = (0..12).map(|_| request(&mut random));
    for request in [list, story.clone()].into_iter().chain(more) {
        let expected = outcome(&without, &request);
        assert_eq!(outcome(&with, &request), expected, "{request}");
        assert_eq!(streamed(&with, &request), whole(&expected), "{request}");
    }
    let accepted = "spec_decode_num_accepted_tokens_total";
    // Whether drafts pay depends on the measured times of steps: on a busy machine, try again.
    let expected = outcome(&without, &story);
    for _ in 0..40 {
        if with.metric(accepted) >= 1.0 {
            break;
        }
        assert_eq!(outcome(&with, &story), expected);
    }
    assert!(with.metric(accepted) >= 1.0);
    assert!(without.metric(accepted) < 1.0);
}
