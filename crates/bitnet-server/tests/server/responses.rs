//! OpenAI's responses.

use bitnet_server::ServerOptions;
use serde_json::{Value, json};

use crate::client::{Response, Running, start};

const PATH: &str = "/v1/responses";

fn ask(server: &Running, request: &Value) -> Value {
    let response = server.post(PATH, request);
    assert_eq!(response.status, 200, "{}", response.body);
    response.json()
}

fn hello() -> Value {
    json!({"input": "Tell me a story.", "max_output_tokens": 12, "seed": 3})
}

fn weather() -> Value {
    let parameters = json!({
        "type": "object",
        "properties": {"day": {"enum": ["today", "tomorrow"]}},
        "required": ["day"],
        "additionalProperties": false,
    });
    json!([{"type": "function", "name": "weather", "parameters": parameters, "strict": true}])
}

/// Checks the events of a stream, and returns the response at its end.
fn last_response(response: &Response) -> Value {
    let events = response.named_events();
    let mut text = String::new();
    let mut arguments = String::new();
    let mut items = Vec::new();
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], i);
        let delta = event["delta"].as_str().unwrap_or_default();
        match event["type"]
            .as_str()
            .unwrap()
            .strip_prefix("response.")
            .unwrap()
        {
            "created" | "in_progress" => assert_eq!(event["response"]["output"], json!([])),
            "output_item.added" => assert_eq!(event["output_index"], items.len()),
            "output_text.delta" => text += delta,
            "output_text.done" => assert_eq!(event["text"], std::mem::take(&mut text)),
            "function_call_arguments.delta" => arguments += delta,
            "function_call_arguments.done" => {
                assert_eq!(event["arguments"], std::mem::take(&mut arguments));
            }
            "output_item.done" => items.push(event["item"].clone()),
            "content_part.added" | "content_part.done" => {}
            end => {
                assert_eq!(i + 1, events.len());
                assert_eq!(event["response"]["status"], end);
                assert_eq!(event["response"]["output"], json!(items));
            }
        }
    }
    events.last().unwrap()["response"].clone()
}

/// Removes what differs from request to request.
fn without_ids(mut response: Value) -> Value {
    for name in ["id", "created_at", "completed_at", "usage"] {
        response[name] = Value::Null;
    }
    for item in response["output"].as_array_mut().unwrap() {
        item["id"] = Value::Null;
        if item["type"] == "function_call" {
            item["call_id"] = Value::Null;
        }
    }
    response
}

#[test]
fn a_response_is_the_same_whole_and_streamed() {
    let server = start(ServerOptions::default());
    let mut request = hello();
    request["instructions"] = json!("Be kind.");
    request["metadata"] = json!({"who": "me"});
    request["include"] = json!(["message.output_text.logprobs"]);
    request["top_logprobs"] = json!(2);
    request["temperature"] = json!(0.7);
    let whole = ask(&server, &request);
    assert_eq!(whole["object"], "response");
    assert_eq!(whole["status"], "incomplete");
    assert_eq!(whole["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(whole["metadata"], request["metadata"]);
    assert_eq!(whole["instructions"], "Be kind.");
    assert_eq!(whole["temperature"], 0.7);
    let messages = json!([
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Tell me a story."},
    ]);
    let chat = json!({
        "messages": messages, "max_tokens": 12, "seed": 3, "temperature": 0.7, "logprobs": true,
        "top_logprobs": 2,
    });
    let chat = server.post("/v1/chat/completions", &chat).json();
    let content = &whole["output"][0]["content"][0];
    assert_eq!(content["text"], chat["choices"][0]["message"]["content"]);
    assert_eq!(
        content["logprobs"],
        chat["choices"][0]["logprobs"]["content"]
    );
    assert_eq!(
        whole["usage"]["input_tokens"],
        chat["usage"]["prompt_tokens"]
    );
    assert_eq!(whole["usage"]["output_tokens"], 12);

    request["stream"] = json!(true);
    let streamed = last_response(&server.post(PATH, &request));
    assert_eq!(without_ids(streamed), without_ids(whole));
}

#[test]
fn a_function_is_called_and_its_output_is_read() {
    let server = start(ServerOptions::default());
    let mut request = hello();
    request["max_output_tokens"] = json!(200);
    request["tools"] = weather();
    request["tool_choice"] = json!("required");
    let whole = ask(&server, &request);
    assert_eq!(
        (&whole["status"], &whole["tools"]),
        (&json!("completed"), &weather())
    );
    let call = &whole["output"][0];
    assert_eq!(
        (&call["type"], &call["name"]),
        (&json!("function_call"), &json!("weather"))
    );
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert!(["today", "tomorrow"].contains(&arguments["day"].as_str().unwrap()));
    request["stream"] = json!(true);
    let streamed = last_response(&server.post(PATH, &request));
    assert_eq!(without_ids(streamed), without_ids(whole.clone()));

    let output = json!({
        "type": "function_call_output", "call_id": call["call_id"], "output": "It rains.",
    });
    let items = json!([
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}, call, output,
    ]);
    let answered = json!({"input": items, "tools": weather(), "max_output_tokens": 3});
    let answer = ask(&server, &answered);
    let function = json!({"name": "weather", "arguments": call["arguments"]});
    let called = json!({"type": "function", "id": "a", "function": function});
    let tool = json!({"name": "weather", "parameters": weather()[0]["parameters"]});
    let chat = json!({
        "tools": [{"type": "function", "function": tool}], "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "tool_calls": [called]},
            {"role": "tool", "tool_call_id": "a", "content": "It rains."},
        ],
    });
    let chat = server.post("/apply-template", &chat).json();
    let n_prompt = chat["tokens"].as_array().unwrap().len();
    assert_eq!(answer["usage"]["input_tokens"], n_prompt);
}

#[test]
fn a_reply_can_be_part_of_the_next_input() {
    let server = start(ServerOptions::default());
    let reply = ask(&server, &hello());
    let text = &reply["output"][0]["content"][0]["text"];
    let items = json!([
        {"role": "user", "content": "Tell me a story."}, reply["output"][0],
        {"role": "user", "content": "Go on."},
    ]);
    let request = json!({"input": items, "max_output_tokens": 8, "seed": 4});
    let next = ask(&server, &request);
    let messages = json!([
        {"role": "user", "content": "Tell me a story."}, {"role": "assistant", "content": text},
        {"role": "user", "content": "Go on."},
    ]);
    let chat = json!({"messages": messages, "max_tokens": 8, "seed": 4});
    let chat = server.post("/v1/chat/completions", &chat).json();
    assert_eq!(
        next["output"][0]["content"][0]["text"],
        chat["choices"][0]["message"]["content"]
    );
}

#[test]
fn a_text_follows_its_format() {
    let server = start(ServerOptions::default());
    let schema = json!({
        "type": "object",
        "properties": {"animal": {"enum": ["fox", "owl"]}},
        "required": ["animal"],
        "additionalProperties": false,
    });
    let format = json!({"type": "json_schema", "name": "a", "strict": true, "schema": schema});
    let mut request = hello();
    request["max_output_tokens"] = json!(200);
    request["text"] = json!({"format": format});
    let response = ask(&server, &request);
    assert_eq!(response["status"], "completed");
    let text = response["output"][0]["content"][0]["text"]
        .as_str()
        .unwrap();
    let document: Value = serde_json::from_str(text).unwrap();
    assert!(["fox", "owl"].contains(&document["animal"].as_str().unwrap()));
}

#[test]
fn every_field_is_honoured_or_listed_or_refused_by_name() {
    let server = start(ServerOptions::default());
    let with = |name: &str, value: &Value| {
        let mut request = hello();
        request["max_output_tokens"] = json!(1);
        request[name] = value.clone();
        server.post(PATH, &request)
    };
    let image = json!([{"role": "user", "content": [{"type": "input_image"}]}]);
    for (name, value, param) in [
        ("input", json!([]), "input"),
        (
            "input",
            json!([{"type": "item_reference", "id": "a"}]),
            "input[0].type",
        ),
        ("input", image, "input[0].content[0].type"),
        (
            "input",
            json!([{"role": "user", "content": "a", "mood": 1}]),
            "input[0].mood",
        ),
        (
            "previous_response_id",
            json!("resp-1"),
            "previous_response_id",
        ),
        ("conversation", json!("conv"), "conversation"),
        ("store", json!(true), "store"),
        ("background", json!(true), "background"),
        ("truncation", json!("auto"), "truncation"),
        ("temperature", json!(3), "temperature"),
        ("top_logprobs", json!(21), "top_logprobs"),
        (
            "text",
            json!({"format": {"type": "xml"}}),
            "text.format.type",
        ),
        ("tools", json!([{"type": "web_search"}]), "tools[0].type"),
        ("tool_choice", json!("required"), "tool_choice"),
        ("nonsense", json!(1), "nonsense"),
    ] {
        let response = with(name, &value);
        assert_eq!(response.status, 400, "{name}: {}", response.body);
        assert_eq!(response.param(), param, "{}", response.body);
    }
    for (name, value, listed) in [
        ("reasoning", json!({"effort": "low"}), "reasoning"),
        ("user", json!("me"), "user"),
        ("text", json!({"verbosity": "low"}), "text.verbosity"),
        ("include", json!(["reasoning.encrypted_content"]), "include"),
    ] {
        let response = with(name, &value);
        assert_eq!(response.status, 200, "{}", response.body);
        assert_eq!(response.headers["bitnet-ignored"], listed);
    }
    assert_eq!(with("store", &json!(false)).status, 200);
}
