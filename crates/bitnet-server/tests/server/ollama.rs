//! Ollama's API.

use bitnet_server::ServerOptions;
use serde_json::{Value, json};

use crate::client::{Response, Running, start};

fn lines(response: &Response) -> Vec<Value> {
    assert_eq!(response.status, 200, "{}", response.body);
    assert_eq!(response.headers["content-type"], "application/x-ndjson");
    let lines = response.body.lines();
    lines
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

fn ask(server: &Running, path: &str, request: &Value) -> Value {
    let response = server.post(path, request);
    assert_eq!(response.status, 200, "{}", response.body);
    response.json()
}

fn chat() -> Value {
    json!({
        "model": "builtin:latest",
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "options": {"num_predict": 12, "seed": 3, "temperature": 0.5, "num_ctx": 4096},
    })
}

#[test]
fn a_chat_is_that_of_the_main_api_whole_and_streamed() {
    let server = start(ServerOptions::default());
    let mut request = chat();
    request["stream"] = json!(false);
    request["logprobs"] = json!(true);
    request["top_logprobs"] = json!(2);
    let response = server.post("/api/chat", &request);
    assert_eq!(response.headers["bitnet-ignored"], "options.num_ctx");
    let whole = response.json();
    let main = json!({
        "messages": request["messages"], "max_tokens": 12, "seed": 3, "temperature": 0.5,
        "logprobs": true, "top_logprobs": 2,
    });
    let main = ask(&server, "/v1/chat/completions", &main);
    let choice = &main["choices"][0];
    assert_eq!(whole["message"]["content"], choice["message"]["content"]);
    assert_eq!(whole["logprobs"], choice["logprobs"]["content"]);
    assert_eq!(
        (&whole["done"], &whole["done_reason"]),
        (&json!(true), &json!("length"))
    );
    assert_eq!(whole["prompt_eval_count"], main["usage"]["prompt_tokens"]);
    assert_eq!(whole["eval_count"], 12);
    let ns = |name: &str| whole[name].as_u64().unwrap();
    assert!(ns("eval_duration") > 1000);
    assert!(ns("total_duration") >= ns("eval_duration") + ns("prompt_eval_duration"));

    // Streams are the rule.
    request.as_object_mut().unwrap().remove("stream");
    let mut streamed = lines(&server.post("/api/chat", &request));
    let last = streamed.pop().unwrap();
    assert_eq!(last["done_reason"], "length");
    assert_eq!(last["eval_count"], 12);
    assert!(streamed.iter().all(|line| line["done"] == false));
    let text: String = streamed
        .iter()
        .filter_map(|line| line["message"]["content"].as_str())
        .collect();
    assert_eq!(text, whole["message"]["content"]);
    let scored = streamed
        .iter()
        .filter_map(|line| line["logprobs"].as_array());
    let scored: Vec<&Value> = scored.flatten().collect();
    assert_eq!(
        scored,
        whole["logprobs"]
            .as_array()
            .unwrap()
            .iter()
            .collect::<Vec<_>>()
    );
}

#[test]
fn a_prompt_is_rendered_or_raw() {
    let server = start(ServerOptions::default());
    let options = json!({"num_predict": 8, "seed": 1});
    let main = json!({"prompt": "The fox", "max_tokens": 8, "seed": 1});
    let main = ask(&server, "/v1/completions", &main);
    let raw = json!({"prompt": "The fox", "raw": true, "stream": false, "options": options});
    let raw = ask(&server, "/api/generate", &raw);
    assert_eq!(raw["response"], main["choices"][0]["text"]);
    let system = json!({
        "prompt": "Hi", "system": "Be kind.", "stream": false, "options": options,
    });
    let system = ask(&server, "/api/generate", &system);
    let messages = json!([
        {"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"},
    ]);
    let main = json!({"messages": messages, "max_tokens": 8, "seed": 1});
    let main = ask(&server, "/v1/chat/completions", &main);
    assert_eq!(system["response"], main["choices"][0]["message"]["content"]);
    let streamed = json!({"prompt": "The fox", "raw": true, "options": options});
    let streamed = lines(&server.post("/api/generate", &streamed));
    let text = streamed.iter().filter_map(|line| line["response"].as_str());
    assert_eq!(text.collect::<String>(), raw["response"]);

    let loaded = ask(
        &server,
        "/api/generate",
        &json!({"model": "builtin", "keep_alive": -1}),
    );
    assert_eq!(
        (&loaded["done_reason"], &loaded["response"]),
        (&json!("load"), &json!(""))
    );
    let loaded = ask(&server, "/api/chat", &json!({"messages": []}));
    assert_eq!(loaded["done_reason"], "load");
}

#[test]
fn a_format_is_followed() {
    let server = start(ServerOptions::default());
    let mut request = chat();
    request["stream"] = json!(false);
    request["options"]["num_predict"] = json!(200);
    request["format"] = json!({
        "type": "object",
        "properties": {"animal": {"enum": ["fox", "owl"]}},
        "required": ["animal"],
        "additionalProperties": false,
    });
    let text = ask(&server, "/api/chat", &request)["message"]["content"].clone();
    let document: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
    assert!(["fox", "owl"].contains(&document["animal"].as_str().unwrap()));
}

#[test]
fn calls_and_their_results_are_read() {
    let server = start(ServerOptions::default());
    let function = json!({"name": "weather", "arguments": {"day": "today"}});
    let day = json!({"enum": ["today", "tomorrow"]});
    let parameters = json!({
        "type": "object", "properties": {"day": day}, "required": ["day"],
        "additionalProperties": false,
    });
    let tool = json!({"name": "weather", "parameters": parameters});
    let mut request = chat();
    request["stream"] = json!(false);
    request["tools"] = json!([{"type": "function", "function": tool}]);
    request["messages"] = json!([
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": function}]},
        {"role": "tool", "tool_name": "weather", "content": "It rains."},
    ]);
    let mut required = chat();
    required["tools"] = request["tools"].clone();
    required["tool_choice"] = json!("required");
    required["options"]["num_predict"] = json!(300);
    let mut streamed = lines(&server.post("/api/chat", &required));
    assert_eq!(streamed.pop().unwrap()["done_reason"], "stop");
    let called = streamed.pop().unwrap()["message"]["tool_calls"].clone();
    assert_eq!(called[0]["function"]["name"], "weather");
    assert!(called[0]["function"]["arguments"].is_object());
    required["stream"] = json!(false);
    let whole = ask(&server, "/api/chat", &required);
    assert_eq!(
        whole["message"],
        json!({"role": "assistant", "content": "", "tool_calls": called})
    );

    let answer = ask(&server, "/api/chat", &request);
    let mut main = request.clone();
    for name in ["stream", "options"] {
        main.as_object_mut().unwrap().remove(name);
    }
    main["model"] = json!("builtin");
    let call = json!({"name": "weather", "arguments": "{\"day\":\"today\"}"});
    main["messages"][1]["tool_calls"] = json!([{"type": "function", "id": "a", "function": call}]);
    main["messages"][2] = json!({"role": "tool", "tool_call_id": "a", "content": "It rains."});
    let prompt = ask(&server, "/apply-template", &main);
    let n_prompt = prompt["tokens"].as_array().unwrap().len();
    assert_eq!(answer["prompt_eval_count"], n_prompt);
}

#[test]
fn embeddings_are_those_of_the_main_api() {
    let server = start(ServerOptions::default());
    let main = ask(
        &server,
        "/v1/embeddings",
        &json!({"input": ["a fox", "an owl"]}),
    );
    let embed = ask(
        &server,
        "/api/embed",
        &json!({"input": ["a fox", "an owl"]}),
    );
    for i in 0..2 {
        assert_eq!(embed["embeddings"][i], main["data"][i]["embedding"]);
    }
    assert_eq!(embed["prompt_eval_count"], main["usage"]["prompt_tokens"]);
    let mut long = json!({"input": "word ".repeat(2000)});
    assert_eq!(server.post("/api/embed", &long).status, 400);
    long["truncate"] = json!(true);
    assert_eq!(ask(&server, "/api/embed", &long)["prompt_eval_count"], 1024);
}

#[test]
fn the_model_is_shown() {
    let server = start(ServerOptions::default());
    let tags = server.get("/api/tags").json();
    assert_eq!(tags["models"][0]["name"], "builtin");
    assert!(
        tags["models"][0]["modified_at"]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );
    let ps = server.get("/api/ps").json();
    assert_eq!(ps["models"][0]["context_length"], 1024);
    assert!(server.get("/api/version").json()["version"].is_string());
    let shown = ask(&server, "/api/show", &json!({"model": "builtin"}));
    assert_eq!(
        shown["capabilities"],
        json!(["completion", "embedding", "tools"])
    );
    let family = shown["details"]["family"].as_str().unwrap();
    assert_eq!(
        shown["model_info"][format!("{family}.context_length")],
        1024
    );
    assert_eq!(
        server.post("/api/show", &json!({"model": "llama3"})).status,
        404
    );
}

#[test]
fn every_field_is_honoured_or_listed_or_refused_by_name() {
    let server = start(ServerOptions::default());
    let refused = |path: &str, base: &Value, fields: &[(&str, Value, &str)]| {
        for (name, value, named) in fields {
            let mut request = base.clone();
            request[*name] = value.clone();
            let response = server.post(path, &request);
            assert!(
                [400, 404].contains(&response.status),
                "{request}: {}",
                response.body
            );
            let document = response.json();
            let message = document["error"].as_str().unwrap();
            assert!(message.contains(named), "{message}");
        }
    };
    let shared = [
        ("model", json!("llama3"), "llama3"),
        ("nonsense", json!(1), "nonsense"),
        ("format", json!("xml"), "format"),
        ("think", json!(true), "think"),
        ("top_logprobs", json!(21), "top_logprobs"),
        ("options", json!({"temperature": 3}), "options: temperature"),
        ("options", json!({"mirostat": 1}), "options: mirostat"),
        (
            "options",
            json!({"num_predict": -3}),
            "options: num_predict",
        ),
        ("options", json!({"nonsense": 1}), "nonsense"),
    ];
    let base = chat();
    refused("/api/chat", &base, &shared);
    let message =
        |field: &str, value: Value| json!([{"role": "user", "content": "", field: value}]);
    refused(
        "/api/chat",
        &base,
        &[
            (
                "messages",
                message("images", json!(["aGk="])),
                "messages[0]: images",
            ),
            ("messages", message("mood", json!(1)), "mood"),
            (
                "messages",
                json!([{"role": "robot", "content": ""}]),
                "role",
            ),
            ("tools", json!([{"type": "search"}]), "tools"),
        ],
    );
    let base = json!({"prompt": "A", "options": {"num_predict": 1}});
    refused("/api/generate", &base, &shared);
    refused(
        "/api/generate",
        &base,
        &[
            ("suffix", json!("end"), "suffix"),
            ("images", json!(["aGk="]), "images"),
            ("template", json!("{{ .Prompt }}"), "template"),
            ("context", json!([1, 2]), "context"),
        ],
    );
    refused(
        "/api/embed",
        &json!({"input": "a"}),
        &[
            ("input", json!(""), "input"),
            ("dimensions", json!(3), "dimensions"),
            ("nonsense", json!(1), "nonsense"),
        ],
    );
    let missing = server.get("/api/blobs");
    assert_eq!(
        (missing.status, missing.json()["error"].is_string()),
        (404, true)
    );
}
