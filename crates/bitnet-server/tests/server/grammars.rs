//! Texts that follow a schema.

use std::time::{Duration, Instant};

use bitnet_server::{Limits, ServerOptions};
use serde_json::{Value, json};

use crate::client::start;

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 1, "maximum": 120},
            "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 3},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": false,
    })
}

/// Whether a document is one of the schema above.
fn is_valid(document: &Value) -> bool {
    let tags = document["tags"].as_array();
    document.as_object().is_some_and(|object| object.len() == 3)
        && document["name"]
            .as_str()
            .is_some_and(|name| name.chars().count() <= 20)
        && document["age"]
            .as_u64()
            .is_some_and(|age| (1..=120).contains(&age))
        && tags.is_some_and(|tags| {
            tags.len() <= 3 && tags.iter().all(|tag| tag == "red" || tag == "blue")
        })
}

#[test]
fn every_document_follows_its_schema() {
    let server = start(ServerOptions::default());
    let format =
        json!({"type": "json_schema", "json_schema": {"name": "person", "schema": schema()}});
    for seed in [1, 1001, 2001] {
        let request = json!({
            "prompt": "A person as JSON: ",
            "n": 100,
            "seed": seed,
            "temperature": 1,
            "max_tokens": 400,
            "response_format": format,
        });
        let answer = server.post("/v1/completions", &request).json();
        let choices = answer["choices"].as_array().unwrap();
        assert_eq!(choices.len(), 100);
        for choice in choices {
            assert_eq!(choice["finish_reason"], "stop", "{choice}");
            let text = choice["text"].as_str().unwrap();
            let document: Value =
                serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
            assert!(is_valid(&document), "{text}");
        }
    }
}

#[test]
fn choices_and_patterns_limit_a_text() {
    let server = start(ServerOptions::default());
    let ask = |field: &str, value: Value| {
        let mut request =
            json!({"prompt": "Yes or no? ", "seed": 3, "temperature": 1, "max_tokens": 50});
        request[field] = value;
        let response = server.post("/v1/completions", &request);
        assert_eq!(response.status, 200, "{}", response.body);
        response.json()["choices"][0]["text"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let choice = ask("guided_choice", json!(["yes, \"sir\"", "no"]));
    assert!(choice == "yes, \"sir\"" || choice == "no", "{choice}");
    let date = ask("guided_regex", json!("[0-9]{4}-[0-9]{2}"));
    assert!(date.len() == 7 && date.as_bytes()[4] == b'-', "{date}");
    let lark = ask("grammar", json!("start: \"(\" start? \")\""));
    assert!(lark.starts_with('(') && lark.ends_with(')'), "{lark}");
    let object = ask("response_format", json!({"type": "json_object"}));
    assert!(object.starts_with('{'), "{object}");
}

#[test]
fn grammars_that_take_long_are_refused_and_hold_up_nobody() {
    let limit = Duration::from_millis(100);
    let server = start(ServerOptions {
        limits: Limits {
            compile: limit,
            ..Limits::default()
        },
        ..ServerOptions::default()
    });
    // It takes seconds.
    let slow = json!({"prompt": "A", "guided_regex": "((a{1000}){1000}){1000}"});
    let begun = Instant::now();
    for _ in 0..6 {
        let refused = server.post("/v1/completions", &slow);
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert_eq!(refused.json()["error"]["code"], "grammar_not_supported");
        assert_eq!(
            server.post("/tokenize", &json!({"content": "A"})).status,
            200
        );
    }
    // One that waits for a thread would take longer, even on a busy machine.
    assert!(begun.elapsed() < 6 * limit + Duration::from_secs(10));
}

#[test]
fn what_cannot_be_followed_is_refused() {
    let server = start(ServerOptions::default());
    let refused = |field: &str, value: Value| {
        let mut request = json!({"prompt": "A"});
        request[field] = value;
        let response = server.post("/v1/completions", &request);
        assert_eq!(response.status, 400, "{}", response.body);
        response.json()["error"].clone()
    };
    let error = refused(
        "json_schema",
        json!({"type": "array", "contains": {"const": 1}}),
    );
    assert_eq!(error["code"], "grammar_not_supported");
    assert!(
        error["message"].as_str().unwrap().contains("contains"),
        "{error}"
    );
    let error = refused("guided_regex", json!("("));
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("unclosed group"),
        "{error}"
    );
    refused("grammar", json!("start: nothing"));
    refused("response_format", json!({"type": "xml"}));
    let mut both = json!({"prompt": "A", "guided_regex": "a", "json_schema": {}});
    assert_eq!(
        server.post("/v1/completions", &both).param(),
        "guided_regex"
    );
    both["guided_regex"].take();
    assert_eq!(server.post("/v1/completions", &both).status, 200);
}
