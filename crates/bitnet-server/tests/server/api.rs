//! The fields of requests, and the forms of answers.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bitnet_server::{RequestDefaults, ServerOptions};
use serde_json::{Value, json};

use crate::client::{Size, start, start_with_defaults, tokenizer};

#[test]
fn every_field_is_honoured_or_refused_by_name() {
    let server = start(ServerOptions::default());
    let refused = |path: &str, base: Value, fields: &[(&str, Value)]| {
        for (name, value) in fields {
            let mut request = base.clone();
            request[*name] = value.clone();
            let response = server.post(path, &request);
            assert_eq!(response.status, 400, "{request}: {}", response.body);
            let error = &response.json()["error"];
            assert_eq!(error["param"], *name, "{error}");
            assert!(error["message"].as_str().unwrap().contains(name), "{error}");
            assert!(error["type"].is_string() && error.get("code").is_some());
        }
    };
    let sampling = [
        ("temperature", json!(-1)),
        ("temperature", json!("hot")),
        ("top_p", json!(1.5)),
        ("min_p", json!(2)),
        ("top_k", json!(-2)),
        ("repeat_penalty", json!(0)),
        ("presence_penalty", json!(3)),
        ("frequency_penalty", json!(-3)),
        ("seed", json!(1.5)),
        ("stop", json!([""])),
        ("stop", json!(7)),
        ("logit_bias", json!({"9999999": 1})),
        ("logit_bias", json!({"5": 101})),
        ("n", json!(0)),
        ("n", json!(1000)),
        ("stream_options", json!({"include_usage": true})),
        ("response_format", json!("json")),
        ("nonsense", json!(1)),
    ];
    let completion = json!({"prompt": "A", "max_tokens": 1});
    refused("/v1/completions", completion.clone(), &sampling);
    refused(
        "/v1/completions",
        completion,
        &[
            ("prompt", json!([])),
            ("prompt", json!({"a": 1})),
            ("suffix", json!("end")),
            ("best_of", json!(0)),
            ("logprobs", json!(21)),
            ("echo", json!("yes")),
            ("max_tokens", json!(-5)),
        ],
    );
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1});
    refused("/v1/chat/completions", chat.clone(), &sampling);
    refused(
        "/v1/chat/completions",
        chat,
        &[
            ("messages", json!([])),
            ("tools", json!([{"type": "function"}])),
            ("top_logprobs", json!(3)),
            ("audio", json!({"voice": "x"})),
            ("modalities", json!(["audio"])),
            ("store", json!(true)),
            ("prediction", json!({})),
            ("web_search_options", json!({})),
        ],
    );
    let embedding = json!({"input": "A"});
    refused(
        "/v1/embeddings",
        embedding,
        &[
            ("input", json!("")),
            ("input", json!([])),
            ("input", json!([9_999_999])),
            ("encoding_format", json!("hex")),
            ("dimensions", json!(3)),
        ],
    );
}

#[test]
fn a_message_that_cannot_be_used_is_named() {
    let server = start(ServerOptions::default());
    let param = |message: Value| {
        let request = json!({"messages": [{"role": "user", "content": "Hi"}, message]});
        let response = server.post("/v1/chat/completions", &request);
        assert_eq!(response.status, 400, "{}", response.body);
        response.param()
    };
    assert_eq!(param(json!({"content": "x"})), "messages[1].role");
    assert_eq!(
        param(json!({"role": "robot", "content": "x"})),
        "messages[1].role"
    );
    let call = json!({"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "a"}}]});
    assert_eq!(param(call), "messages[1].tool_calls");
    assert_eq!(param(json!({"role": "user"})), "messages[1].content");
    let image = json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]});
    assert_eq!(param(image), "messages[1].content");
    assert_eq!(
        param(json!({"role": "user", "content": "x", "mood": 1})),
        "messages[1].mood"
    );
}

#[test]
fn a_lenient_server_lists_what_it_ignores() {
    let server = start(ServerOptions {
        lenient: true,
        ..ServerOptions::default()
    });
    let request = json!({"model": "gpt-5", "prompt": "A", "max_tokens": 1, "nonsense": 1, "suffix": "x", "user": "me"});
    let response = server.post("/v1/completions", &request);
    assert_eq!(response.status, 200, "{}", response.body);
    let mut ignored: Vec<_> = response.headers["bitnet-ignored"].split(", ").collect();
    ignored.sort_unstable();
    assert_eq!(ignored, ["model", "nonsense", "suffix", "user"]);
}

#[test]
fn defaults_hold_where_a_request_says_nothing() {
    let defaults = RequestDefaults {
        seed: Some(7),
        max_tokens: Some(5),
        ..RequestDefaults::default()
    };
    let server = start_with_defaults(ServerOptions::default(), Size::default(), defaults);
    let ask = |path: &str, request: Value| {
        let response = server.post(path, &request);
        assert_eq!(response.status, 200, "{}", response.body);
        let answer = response.json();
        let n_tokens = answer["usage"]["completion_tokens"].as_u64().unwrap();
        (answer["seed"].as_u64().unwrap(), n_tokens)
    };
    let completion = json!({"prompt": "A", "ignore_eos": true});
    assert_eq!(ask("/v1/completions", completion.clone()), (7, 5));
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let chat = json!({"messages": messages, "ignore_eos": true});
    assert_eq!(ask("/v1/chat/completions", chat), (7, 5));
    let mut own = completion;
    own["seed"] = json!(8);
    own["max_tokens"] = json!(3);
    assert_eq!(ask("/v1/completions", own.clone()), (8, 3));
    // Any, and not the default.
    own["seed"] = json!(-1);
    assert_ne!(ask("/v1/completions", own).0, 7);
}

#[test]
fn chats_and_models_are_there_without_v1() {
    let server = start(ServerOptions::default());
    let models = server.get("/models");
    assert_eq!(models.json(), server.get("/v1/models").json());
    let request = json!({
        "messages": [{"role": "user", "content": "Hi"}], "seed": 1, "max_tokens": 4,
    });
    let chat = server.post("/chat/completions", &request).json();
    let with_v1 = server.post("/v1/chat/completions", &request).json();
    assert_eq!(chat["choices"], with_v1["choices"]);
    assert!(chat["choices"].is_array());
}

#[test]
fn a_prompt_that_is_too_long_is_refused_with_both_numbers() {
    let server = start(ServerOptions::default());
    let request = json!({"prompt": "word ".repeat(2000)});
    let response = server.post("/v1/completions", &request);
    assert_eq!(response.status, 400);
    let error = &response.json()["error"];
    assert_eq!(error["code"], "context_length_exceeded");
    assert_eq!(error["n_ctx"], 1024);
    let n = error["n_prompt_tokens"].as_u64().unwrap();
    assert!(n > 1024 && error["message"].as_str().unwrap().contains(&n.to_string()));
}

#[test]
fn a_chat_has_the_form_of_the_api() {
    let server = start(ServerOptions::default());
    let request = json!({
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hello"}], "name": "Ann"},
        ],
        "max_completion_tokens": 5,
        "temperature": 0,
        "logprobs": true,
        "top_logprobs": 2,
    });
    let response = server.post("/v1/chat/completions", &request);
    assert_eq!(response.status, 200, "{}", response.body);
    let whole = response.json();
    assert_eq!(whole["object"], "chat.completion");
    let choice = &whole["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["finish_reason"], "length");
    let logprobs = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(logprobs.len(), 5);
    for scored in logprobs {
        assert_eq!(scored["top_logprobs"].as_array().unwrap().len(), 2);
        // The most likely one was chosen.
        assert_eq!(scored["top_logprobs"][0]["token"], scored["token"]);
        assert!(scored["logprob"].as_f64().unwrap() < 0.0);
    }
    let joined: Vec<u8> = (logprobs.iter())
        .flat_map(|l| l["bytes"].as_array().unwrap().clone())
        .map(|byte| byte.as_u64().unwrap() as u8)
        .collect();
    let text = choice["message"]["content"].as_str().unwrap();
    assert!(String::from_utf8(joined).unwrap().trim_start() == text.trim_start());
    let usage = &whole["usage"];
    assert_eq!(usage["completion_tokens"], 5);
    assert_eq!(
        usage["total_tokens"].as_u64(),
        Some(usage["prompt_tokens"].as_u64().unwrap() + 5)
    );

    let mut streamed = request;
    streamed["stream"] = json!(true);
    streamed["stream_options"] = json!({"include_usage": true});
    let response = server.post("/v1/chat/completions", &streamed);
    assert_eq!(
        response.headers["content-type"],
        "text/event-stream; charset=utf-8"
    );
    let events = response.events();
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(
        events
            .iter()
            .all(|event| event["object"] == "chat.completion.chunk")
    );
    let pieces: String = (events.iter())
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(pieces, text);
    let (last, rest) = events.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 5);
    assert!(rest.iter().all(|event| event["usage"].is_null()));
    assert_eq!(
        rest.last().unwrap()["choices"][0]["finish_reason"],
        "length"
    );
}

#[test]
fn a_prompt_can_be_scored() {
    let server = start(ServerOptions::default());
    let text = "Once upon a time there was a king";
    let ids = tokenizer().encode(text).unwrap();
    let request =
        json!({"prompt": ids, "max_tokens": 0, "echo": true, "logprobs": 1, "temperature": 0});
    let scored = server.post("/v1/completions", &request).json();
    let logprobs = &scored["choices"][0]["logprobs"];
    let values = logprobs["token_logprobs"].as_array().unwrap();
    assert_eq!(values.len(), ids.len());
    assert!(values[0].is_null());
    assert!(
        values[1..]
            .iter()
            .all(|value| value.as_f64().unwrap() <= 0.0)
    );
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), ids.len());
    // Also with the prompt in the cache, in a stream, and with a text after it.
    let again = server.post("/v1/completions", &request).json();
    assert_eq!(again["choices"], scored["choices"]);
    let mut longer = request;
    longer["max_tokens"] = json!(3);
    let longer = server.post("/v1/completions", &longer).json();
    let more = longer["choices"][0]["logprobs"]["token_logprobs"]
        .as_array()
        .unwrap();
    assert_eq!(more[..ids.len()], values[..]);
    assert_eq!(more.len(), ids.len() + 3);
}

#[test]
fn embeddings_are_numbers_or_base64() {
    let server = start(ServerOptions::default());
    let ask = |format: &str, input: Value| {
        let request = json!({"input": input, "encoding_format": format});
        let response = server.post("/v1/embeddings", &request);
        assert_eq!(response.status, 200, "{}", response.body);
        response.json()
    };
    let floats = ask("float", json!(["a king", "a queen"]));
    let vector: Vec<f32> = (floats["data"][1]["embedding"].as_array().unwrap().iter())
        .map(|x| x.as_f64().unwrap() as f32)
        .collect();
    let length: f32 = vector.iter().map(|x| x * x).sum();
    assert!((length - 1.0).abs() < 1e-4);
    let base64 = ask("base64", json!("a queen"));
    let bytes = BASE64_STANDARD
        .decode(base64["data"][0]["embedding"].as_str().unwrap())
        .unwrap();
    let decoded: Vec<f32> = (bytes.as_chunks::<4>().0.iter())
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    assert_eq!(decoded, vector);
}

#[test]
fn tokens_and_templates_can_be_asked_for() {
    let server = start(ServerOptions::default());
    let text = "Once upon a time";
    let tokens = server.post("/tokenize", &json!({"content": text})).json();
    assert_eq!(
        tokens["tokens"],
        json!(tokenizer().encode_without_bos(text).unwrap())
    );
    let pieces = server
        .post("/tokenize", &json!({"content": text, "with_pieces": true}))
        .json();
    assert_eq!(
        pieces["tokens"].as_array().unwrap().len(),
        tokens["tokens"].as_array().unwrap().len()
    );
    let back = server.post("/detokenize", &tokens).json();
    assert_eq!(back["content"], text);
    let request = json!({"messages": [{"role": "user", "content": "Hi"}]});
    let prompt = server.post("/apply-template", &request).json();
    assert_eq!(
        prompt["prompt"],
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn there_is_one_model() {
    let server = start(ServerOptions::default());
    let list = server.get("/v1/models").json();
    assert_eq!(list["data"][0]["id"], "builtin");
    assert_eq!(list["data"][0]["bitnet"]["context_length"], 1024);
    assert_eq!(server.get("/v1/models/builtin").json(), list["data"][0]);
    assert_eq!(server.get("/v1/models/other").status, 404);
    let other = server.post("/v1/completions", &json!({"model": "other", "prompt": "A"}));
    assert_eq!((other.status, other.param().as_str()), (404, "model"));
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn the_best_of_several_texts_is_returned() {
    let server = start(ServerOptions::default());
    let request = |n: usize, best_of: usize| json!({"prompt": "A", "seed": 1, "temperature": 1, "max_tokens": 8, "n": n, "best_of": best_of, "logprobs": 0});
    let mean = |choice: &Value| {
        let values = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        values.iter().map(|v| v.as_f64().unwrap()).sum::<f64>() / values.len() as f64
    };
    let all = server.post("/v1/completions", &request(4, 4)).json();
    let best = server.post("/v1/completions", &request(1, 4)).json();
    let expected = (all["choices"].as_array().unwrap().iter())
        .map(mean)
        .fold(f64::MIN, f64::max);
    assert!((mean(&best["choices"][0]) - expected).abs() < 1e-6);
    assert_eq!(best["choices"].as_array().unwrap().len(), 1);
}

#[test]
fn a_required_tool_is_called() {
    let server = start(ServerOptions::default());
    let tool = |name: &str, value: Value| {
        let parameters = json!({
            "type": "object",
            "properties": {"x": value},
            "required": ["x"],
            "additionalProperties": false,
        });
        json!({"type": "function", "function": {"name": name, "parameters": parameters}})
    };
    let mut request = json!({
        "messages": [{"role": "user", "content": "Which?"}],
        "tools": [tool("number", json!({"enum": [1, 2]})), tool("word", json!({"enum": ["a"]}))],
        "tool_choice": "required",
        "seed": 2,
        "temperature": 1,
    });
    let response = server.post("/v1/chat/completions", &request);
    assert_eq!(response.status, 200, "{}", response.body);
    let choice = response.json()["choices"][0].clone();
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert!(choice["message"]["content"].is_null());
    let call = &choice["message"]["tool_calls"][0];
    let name = call["function"]["name"].as_str().unwrap();
    let arguments: Value =
        serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    match name {
        "number" => assert!(arguments["x"] == 1 || arguments["x"] == 2),
        "word" => assert_eq!(arguments["x"], "a"),
        _ => panic!("{name}"),
    }

    request["stream"] = json!(true);
    let events = server.post("/v1/chat/completions", &request).events();
    let streamed = events
        .iter()
        .find_map(|event| event["choices"][0]["delta"].get("tool_calls"));
    assert_eq!(streamed.unwrap()[0]["function"], call["function"]);
    assert_eq!(
        events.last().unwrap()["choices"][0]["finish_reason"],
        "tool_calls"
    );

    request["stream"] = json!(false);
    request["tool_choice"] = json!({"type": "function", "function": {"name": "word"}});
    let named = server.post("/v1/chat/completions", &request).json();
    let named = &named["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(
        named["function"],
        json!({"name": "word", "arguments": "{\"x\":\"a\"}"})
    );

    // The answer of the tool goes back into the conversation.
    let answer = json!({"role": "tool", "tool_call_id": named["id"], "content": "Done."});
    let calls = json!({"role": "assistant", "content": null, "tool_calls": [named]});
    request["messages"]
        .as_array_mut()
        .unwrap()
        .extend([calls, answer]);
    request["tool_choice"] = json!("auto");
    request["max_tokens"] = json!(3);
    let response = server.post("/v1/chat/completions", &request);
    assert_eq!(response.status, 200, "{}", response.body);
    for (field, value) in [
        ("tool_choice", json!("sometimes")),
        ("tools", json!([{"type": "x"}])),
    ] {
        let mut request = request.clone();
        request[field] = value;
        let response = server.post("/v1/chat/completions", &request);
        assert_eq!((response.status, response.param().as_str()), (400, field));
    }
}
