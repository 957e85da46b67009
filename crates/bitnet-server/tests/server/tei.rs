//! The API of text-embeddings-inference.

use bitnet_server::ServerOptions;
use serde_json::json;

use crate::client::start;

#[test]
fn vectors_are_those_of_the_main_api() {
    let server = start(ServerOptions::default());
    let main = server
        .post("/v1/embeddings", &json!({"input": ["a fox", "an owl"]}))
        .json();
    let request = json!({"inputs": ["a fox", "an owl"], "normalize": true, "truncate": true});
    let vectors = server.post("/embed", &request).json();
    for i in 0..2 {
        assert_eq!(vectors[i], main["data"][i]["embedding"]);
    }
    let one = server.post("/embed", &json!({"inputs": "a fox"})).json();
    assert_eq!(one, json!([vectors[0]]));
}

#[test]
fn a_long_text_is_cut_at_the_end_that_is_asked_for() {
    let server = start(ServerOptions::default());
    let embed = |text: &str, direction: &str| {
        let request = json!({
            "inputs": text, "truncate": true, "truncation_direction": direction,
        });
        let response = server.post("/embed", &request);
        assert_eq!(response.status, 200, "{}", response.body);
        response.json()
    };
    let words = "word ".repeat(2000);
    let (begun, ended) = (format!("A fox. {words}"), format!("{words} A fox."));
    assert_eq!(embed(&words, "right"), embed(&ended, "right"));
    assert_ne!(embed(&begun, "right"), embed(&begun, "left"));
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let server = start(ServerOptions::default());
    for (field, value) in [
        ("normalize", json!(false)),
        ("prompt_name", json!("query")),
        ("dimensions", json!(3)),
        ("truncation_direction", json!("up")),
        ("nonsense", json!(1)),
    ] {
        let mut request = json!({"inputs": "a fox"});
        request[field] = value;
        let response = server.post("/embed", &request);
        assert_eq!(response.status, 400, "{}", response.body);
        let document = response.json();
        assert!(
            document["error"].as_str().unwrap().contains(field),
            "{document}"
        );
        assert_eq!(document["error_type"], "validation");
    }
    let request = json!({"query": "a fox", "texts": ["an owl"]});
    let refused = server.post("/rerank", &request);
    assert_eq!(refused.status, 404);
    let document = refused.json();
    assert!(
        document["error"]
            .as_str()
            .unwrap()
            .starts_with("rerank is not supported")
    );
    assert_eq!(document["error_type"], "backend");
}
