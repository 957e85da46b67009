//! Anthropic's messages.

use bitnet_server::ServerOptions;
use serde_json::{Value, json};

use crate::client::{Response, Running, start};

const PATH: &str = "/v1/messages";

fn ask(server: &Running, request: &Value) -> Value {
    let response = server.post(PATH, request);
    assert_eq!(response.status, 200, "{}", response.body);
    response.json()
}

fn hello() -> Value {
    json!({
        "model": "builtin",
        "max_tokens": 12,
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "seed": 3,
    })
}

fn weather() -> Value {
    let schema = json!({
        "type": "object",
        "properties": {"day": {"enum": ["today", "tomorrow"]}},
        "required": ["day"],
        "additionalProperties": false,
    });
    json!([{"name": "weather", "description": "Tells it.", "input_schema": schema}])
}

/// Puts a message together from the events of its stream, and checks their order.
fn assemble(response: &Response) -> Value {
    let mut events = response.named_events().into_iter();
    let mut message = events.next().unwrap()["message"].clone();
    assert_eq!(message["content"], json!([]));
    let mut open = None;
    let mut json_text = String::new();
    for event in events {
        let index = event["index"].as_u64().map(|i| i as usize);
        let n_blocks = message["content"].as_array().unwrap().len();
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!((open, index), (None, Some(n_blocks)));
                open = index;
                let content = message["content"].as_array_mut().unwrap();
                content.push(event["content_block"].clone());
            }
            "content_block_delta" => {
                assert_eq!(index, open);
                let block = &mut message["content"][n_blocks - 1];
                let delta = &event["delta"];
                match delta["type"].as_str().unwrap() {
                    "text_delta" => {
                        let text = block["text"].as_str().unwrap().to_owned();
                        block["text"] = (text + delta["text"].as_str().unwrap()).into();
                    }
                    "input_json_delta" => json_text += delta["partial_json"].as_str().unwrap(),
                    other => panic!("{other}"),
                }
            }
            "content_block_stop" => {
                assert_eq!(index, open.take());
                let text = std::mem::take(&mut json_text);
                if !text.is_empty() {
                    let block = &mut message["content"][n_blocks - 1];
                    block["input"] = serde_json::from_str(&text).unwrap();
                }
            }
            "message_delta" => {
                for name in ["stop_reason", "stop_sequence"] {
                    message[name] = event["delta"][name].clone();
                }
                message["usage"] = event["usage"].clone();
                message["receipt_digest"] = event["receipt_digest"].clone();
            }
            "message_stop" => {}
            other => panic!("{other}"),
        }
    }
    message
}

/// Removes what differs from request to request.
fn without_ids(mut message: Value) -> Value {
    message["id"] = Value::Null;
    message["usage"] = Value::Null;
    for block in message["content"].as_array_mut().unwrap() {
        block["id"] = Value::Null;
    }
    message
}

#[test]
fn a_message_is_the_same_whole_and_streamed() {
    let server = start(ServerOptions::default());
    let mut request = hello();
    let whole = ask(&server, &request);
    assert_eq!(whole["type"], "message");
    assert_eq!(whole["role"], "assistant");
    assert_eq!(whole["model"], "builtin");
    assert_eq!(whole["stop_reason"], "max_tokens");
    assert_eq!(whole["usage"]["output_tokens"], 12);
    // It is the text of the main API.
    let chat = json!({"messages": request["messages"], "max_tokens": 12, "seed": 3});
    let chat = server.post("/v1/chat/completions", &chat).json();
    assert_eq!(
        whole["content"][0]["text"],
        chat["choices"][0]["message"]["content"]
    );
    let usage = &whole["usage"];
    let n_prompt = usage["input_tokens"].as_u64().unwrap()
        + usage["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!(chat["usage"]["prompt_tokens"], n_prompt);
    let count = json!({"model": "builtin", "messages": request["messages"]});
    let count = server.post("/v1/messages/count_tokens", &count).json();
    assert_eq!(count, json!({"input_tokens": n_prompt}));

    request["stream"] = json!(true);
    let response = server.post(PATH, &request);
    assert_eq!(
        response.headers["content-type"],
        "text/event-stream; charset=utf-8"
    );
    assert!(response.headers["request-id"].starts_with("req-"));
    assert_eq!(without_ids(assemble(&response)), without_ids(whole));
}

#[test]
fn the_reason_of_the_end_is_told() {
    let server = start(ServerOptions::default());
    let whole = ask(&server, &hello());
    let text = whole["content"][0]["text"].as_str().unwrap();
    let stop = text.split_whitespace().last().unwrap();
    let mut request = hello();
    request["stop_sequences"] = json!(["never to be found", stop]);
    let stopped = ask(&server, &request);
    assert_eq!(stopped["stop_reason"], "stop_sequence");
    assert_eq!(stopped["stop_sequence"], stop);
    let begun = stopped["content"][0]["text"].as_str().unwrap_or("");
    assert_eq!(Some(begun), text.split(stop).next());
    request["stream"] = json!(true);
    let streamed = assemble(&server.post(PATH, &request));
    assert_eq!(without_ids(streamed), without_ids(stopped));

    let mut request = hello();
    request["max_tokens"] = json!(100_000);
    request["messages"][0]["content"] = "word ".repeat(900).into();
    let full = ask(&server, &request);
    assert!(
        ["end_turn", "model_context_window_exceeded"]
            .contains(&full["stop_reason"].as_str().unwrap()),
        "{full}"
    );
    request["output_config"] = json!({"format": {"type": "json_schema", "schema": {
        "type": "array", "items": {"type": "integer"}, "minItems": 2000,
    }}});
    let full = ask(&server, &request);
    assert_eq!(full["stop_reason"], "model_context_window_exceeded");
}

#[test]
fn a_tool_is_called_and_its_result_is_read() {
    let server = start(ServerOptions::default());
    let mut request = hello();
    request["max_tokens"] = json!(200);
    request["tools"] = weather();
    for choice in [
        json!({"type": "any"}),
        json!({"type": "tool", "name": "weather"}),
    ] {
        request["tool_choice"] = choice;
        request["stream"] = json!(false);
        let whole = ask(&server, &request);
        assert_eq!(whole["stop_reason"], "tool_use");
        let call = &whole["content"][0];
        assert_eq!(
            (&call["type"], &call["name"]),
            (&json!("tool_use"), &json!("weather"))
        );
        assert!(["today", "tomorrow"].contains(&call["input"]["day"].as_str().unwrap()));
        request["stream"] = json!(true);
        let streamed = assemble(&server.post(PATH, &request));
        assert_eq!(without_ids(streamed), without_ids(whole.clone()));

        // As the main API reads it.
        let result = json!({
            "type": "tool_result", "tool_use_id": call["id"],
            "content": [{"type": "text", "text": "It rains."}],
        });
        let text = json!({"type": "text", "text": "And now?"});
        let answered = json!({
            "max_tokens": 5, "tools": weather(), "seed": 1, "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": [call]},
                {"role": "user", "content": [result, text]},
            ],
        });
        let answer = ask(&server, &answered);
        let function = json!({"name": "weather", "arguments": call["input"].to_string()});
        let called = json!({"type": "function", "id": call["id"], "function": function});
        let parameters = weather()[0]["input_schema"].clone();
        let tool = json!({
            "name": "weather", "description": "Tells it.", "parameters": parameters,
        });
        let chat = json!({
            "tools": [{"type": "function", "function": tool}], "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "tool_calls": [called]},
                {"role": "tool", "tool_call_id": call["id"], "content": "It rains."},
                {"role": "user", "content": "And now?"},
            ],
        });
        let chat = server.post("/apply-template", &chat).json();
        let n_prompt = chat["tokens"].as_array().unwrap().len() as u64;
        let usage = &answer["usage"];
        assert_eq!(
            usage["input_tokens"].as_u64().unwrap()
                + usage["cache_read_input_tokens"].as_u64().unwrap(),
            n_prompt
        );
    }
}

#[test]
fn a_document_follows_its_schema() {
    let server = start(ServerOptions::default());
    let schema = json!({
        "type": "object",
        "properties": {"animal": {"enum": ["fox", "owl"]}},
        "required": ["animal"],
        "additionalProperties": false,
    });
    let mut request = hello();
    request["max_tokens"] = json!(100);
    request["output_config"] = json!({"format": {"type": "json_schema", "schema": schema}});
    let message = ask(&server, &request);
    assert_eq!(message["stop_reason"], "end_turn");
    let text = message["content"][0]["text"].as_str().unwrap();
    let document: Value = serde_json::from_str(text).unwrap();
    assert!(["fox", "owl"].contains(&document["animal"].as_str().unwrap()));
}

#[test]
fn a_billing_line_that_changes_does_not_change_the_prompt() {
    let server = start(ServerOptions::default());
    let ask = |billing: &str| {
        let line = format!("x-anthropic-billing-header: cc_version=2.1; cch={billing};");
        let system = "You are a kind teller of long stories for small children. ".repeat(8);
        let mut request = hello();
        request["system"] = json!([
            {"type": "text", "text": line},
            {"type": "text", "text": system, "cache_control": {"type": "ephemeral"}},
        ]);
        server.post(PATH, &request)
    };
    let first = ask("1a2b3");
    assert_eq!(
        first.headers["bitnet-ignored"],
        "system.cache_control, system.x-anthropic-billing-header"
    );
    let (first, second) = (first.json(), ask("ffff0").json());
    assert_eq!(first["content"], second["content"]);
    assert_eq!(first["usage"]["cache_read_input_tokens"], 0);
    let input = second["usage"]["input_tokens"].as_u64().unwrap();
    let cached = second["usage"]["cache_read_input_tokens"].as_u64().unwrap();
    assert!(cached > 10 * input, "{second}");
}

/// Asks with one more field.
fn with(server: &Running, name: &str, value: &Value) -> Response {
    let mut request = hello();
    request["max_tokens"] = json!(1);
    request[name] = value.clone();
    server.post(PATH, &request)
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let server = start(ServerOptions::default());
    for (name, value, param) in [
        ("model", json!("claude"), "model"),
        ("max_tokens", Value::Null, "max_tokens"),
        ("temperature", json!(3), "temperature"),
        ("top_k", json!("many"), "top_k"),
        ("stop_sequences", json!([""]), "stop_sequences"),
        ("nonsense", json!(1), "nonsense"),
        ("container", json!("c"), "container"),
        ("mcp_servers", json!([{"url": "x"}]), "mcp_servers"),
        ("messages", json!([]), "messages"),
        (
            "messages",
            json!([{"role": "robot", "content": ""}]),
            "messages[0].role",
        ),
        (
            "messages",
            json!([{"role": "user", "content": [{"type": "image"}]}]),
            "messages[0].content[0].type",
        ),
        (
            "messages",
            json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
            "messages",
        ),
        (
            "messages",
            json!([{"role": "user", "content": "a", "mood": 1}]),
            "messages[0].mood",
        ),
        (
            "context_management",
            json!({"edits": [{"type": "clear_tool_uses_20250919"}]}),
            "context_management.edits",
        ),
        ("system", json!([{"type": "text"}]), "system[0].text"),
        (
            "tools",
            json!([{"type": "web_search_20250305", "name": "web_search"}]),
            "tools[0].type",
        ),
        (
            "tools",
            json!([{"name": "a", "input_schema": {}, "x": 1}]),
            "tools[0].x",
        ),
        ("tool_choice", json!({"type": "any"}), "tool_choice"),
        ("tool_choice", json!({"type": "all"}), "tool_choice.type"),
        (
            "output_config",
            json!({"format": {"type": "xml"}}),
            "output_config.format",
        ),
    ] {
        let response = with(&server, name, &value);
        assert!(
            [400, 404].contains(&response.status),
            "{name}: {}",
            response.body
        );
        let document = response.json();
        assert_eq!(document["type"], "error");
        assert_eq!(document["error"]["param"], param, "{document}");
        assert!(document["error"]["message"].is_string());
        let kind = if response.status == 404 {
            "not_found_error"
        } else {
            "invalid_request_error"
        };
        assert_eq!(document["error"]["type"], kind);
    }
}

#[test]
fn what_has_no_effect_is_listed() {
    let server = start(ServerOptions::default());
    for (name, value, listed) in [
        ("metadata", json!({"user_id": "me"}), "metadata"),
        ("thinking", json!({"type": "adaptive"}), "thinking"),
        (
            "context_management",
            json!({"edits": [{"type": "clear_thinking_20251015"}]}),
            "context_management.edits",
        ),
        (
            "cache_control",
            json!({"type": "ephemeral"}),
            "cache_control",
        ),
        (
            "output_config",
            json!({"effort": "low"}),
            "output_config.effort",
        ),
    ] {
        let response = with(&server, name, &value);
        assert_eq!(response.status, 200, "{}", response.body);
        assert_eq!(response.headers["bitnet-ignored"], listed);
    }
    for (name, value) in [
        ("thinking", json!({"type": "disabled"})),
        ("service_tier", json!("auto")),
        ("system", json!("Be kind.")),
        ("top_k", json!(5)),
    ] {
        let response = with(&server, name, &value);
        assert_eq!(response.status, 200, "{}", response.body);
        assert!(!response.headers.contains_key("bitnet-ignored"));
    }
}

#[test]
fn all_errors_of_its_paths_have_its_form() {
    let server = start(ServerOptions {
        api_keys: vec!["secret".to_owned()],
        ..ServerOptions::default()
    });
    let denied = server.post(PATH, &hello());
    assert_eq!(denied.status, 401);
    assert_eq!(denied.json()["error"]["type"], "authentication_error");
    let with_key = |method: &str, path: &str, body: &str| {
        server.request(&format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             x-api-key: secret\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
    };
    assert_eq!(with_key("POST", PATH, &hello().to_string()).status, 200);
    for (method, path, body, status, kind) in [
        ("GET", PATH, "", 405, "invalid_request_error"),
        ("POST", "/v1/messages/batches", "{}", 404, "not_found_error"),
        ("POST", PATH, "{", 400, "invalid_request_error"),
    ] {
        let response = with_key(method, path, body);
        assert_eq!(response.status, status, "{}", response.body);
        let document = response.json();
        assert_eq!(
            (&document["type"], &document["error"]["type"]),
            (&json!("error"), &json!(kind))
        );
    }
    let metrics = with_key("GET", "/metrics", "").body;
    assert!(
        metrics.contains("path=\"/v1/messages\",status=\"200\""),
        "{metrics}"
    );
}
