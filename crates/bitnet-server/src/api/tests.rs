//! The document of the API and the code name the same fields.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::fields::ASKED;
use super::*;
use crate::options::RequestDefaults;

/// Returns the fields that a request was asked for, without those of objects within it.
fn asked_for(
    model: &Arc<ModelFacts>,
    body: &Value,
    read: impl FnOnce(Asked) -> Result<(), ApiError>,
) -> BTreeSet<String> {
    ASKED.take();
    let fields = Fields::parse(body.to_string().as_bytes(), false).unwrap();
    let asked = Asked {
        model: Arc::clone(model),
        client: Client(0),
        fields,
    };
    read(asked).unwrap();
    let asked = ASKED.take().into_iter();
    asked.filter(|name| !name.contains('.')).collect()
}

/// Returns the fields of a schema of the document.
fn documented(name: &str) -> BTreeSet<String> {
    let document: Value = serde_json::from_str(include_str!("../openapi.json")).unwrap();
    let properties = document["components"]["schemas"][name]["properties"].as_object();
    properties.unwrap().keys().cloned().collect()
}

#[test]
fn the_document_lists_the_fields_that_requests_are_asked_for() {
    let model = hostile::model(None);
    let defaults = RequestDefaults::default();
    let messages = json!({"messages": [{"role": "user", "content": "a"}]});
    let check = |schema, body: Value, read: &dyn Fn(Asked) -> Result<(), ApiError>| {
        let asked = asked_for(&model, &body, read);
        assert_eq!(asked, documented(schema), "{schema}");
    };
    check("ChatRequest", messages.clone(), &|asked| {
        chat::read(asked, defaults).map(drop)
    });
    let mut message = messages.clone();
    message["max_tokens"] = json!(1);
    check("AnthropicRequest", message, &|asked| {
        anthropic::read(asked, defaults).map(drop)
    });
    check("AnthropicCountRequest", messages.clone(), &|asked| {
        anthropic::count_of(asked).map(drop)
    });
    check("OllamaChatRequest", messages.clone(), &|asked| {
        ollama::read_chat(asked, defaults).map(drop)
    });
    check("OllamaGenerateRequest", json!({"prompt": "a"}), &|asked| {
        ollama::read_generate(asked, defaults).map(drop)
    });
    check("OllamaEmbedRequest", json!({"input": "a"}), &|asked| {
        ollama::read_embed(asked).map(drop)
    });
    check("OllamaShowRequest", json!({}), &|asked| {
        ollama::models::facts_of(asked).map(drop)
    });
    check("TeiEmbedRequest", json!({"inputs": "a"}), &|asked| {
        tei::read(asked).map(drop)
    });
    check("ResponsesRequest", json!({"input": "a"}), &|asked| {
        responses::read(asked, defaults).map(drop)
    });
    check("CompletionRequest", json!({"prompt": "a"}), &|asked| {
        completions::read(asked, defaults).map(drop)
    });
    check("EmbeddingRequest", json!({"input": "a"}), &|asked| {
        embeddings::read(asked).map(drop)
    });
    check("TokenizeRequest", json!({"content": "a"}), &|asked| {
        tokens::tokens_of(asked).map(drop)
    });
    check("DetokenizeRequest", json!({"tokens": [1]}), &|asked| {
        tokens::text_of(asked).map(drop)
    });
    check("ApplyTemplateRequest", messages, &|asked| {
        tokens::prompt_of(asked).map(drop)
    });
}
