//! The module's code, compiled for this machine.

use std::path::{Path, PathBuf};

use bitnet_inference::{
    Checkpoint, Engine, GenerateOptions, PlanOptions, SamplerOptions, Tokenizer,
};
use bitnet_wasm::failure::{Code, Failure};
use bitnet_wasm::loader::Loader;
use bitnet_wasm::options::{self, ModelOptions, Prompt};
use bitnet_wasm::session::{Event, Session};
use serde_json::json;

fn storyteller() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/storyteller/storyteller.gguf")
}

fn model_options(memory_limit: f64) -> ModelOptions {
    let json = json!({ "threads": 1, "memoryLimit": memory_limit });
    options::read(&json.to_string()).unwrap()
}

/// Loads the built-in model from chunks of its file.
fn session() -> Session {
    let file = std::fs::read(storyteller()).unwrap();
    let options = model_options(1e9);
    let mut loader = Loader::new();
    loader
        .begin("storyteller.gguf", Some(file.len() as f64))
        .unwrap();
    for chunk in file.chunks(300_000) {
        loader.append(chunk).unwrap();
        loader.check(file.len() as f64, &options).unwrap();
    }
    let mut layers = Vec::new();
    let session = loader.load(&options, |done, total| layers.push((done, total)));
    assert_eq!(layers.last(), Some(&(10, 10)));
    session.map_err(|failure| failure.message).unwrap()
}

/// Steps until there is nothing to do.
fn finish(session: &mut Session) -> Vec<Event> {
    let mut events = Vec::new();
    while !session.is_idle() {
        events.extend(session.step());
    }
    events
}

fn text_options(options: &serde_json::Value) -> options::TextOptions {
    options::read(&options.to_string()).unwrap()
}

const PROMPT: &str = "Once upon a time there was a";

#[test]
fn texts_are_those_of_the_engine_and_pieces_are_the_text() {
    let checkpoint = Checkpoint::open(&storyteller()).unwrap();
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    let mut engine = Engine::load(&checkpoint, PlanOptions::default()).unwrap();
    let prompt = tokenizer.encode(PROMPT).unwrap();
    let sampling = SamplerOptions {
        seed: 3,
        ..SamplerOptions::default()
    };
    let expected = GenerateOptions {
        sampling,
        ..GenerateOptions::new(&prompt, 40)
    };
    let is_eog = |id| tokenizer.is_eog(id);
    let go_on = |_| std::ops::ControlFlow::Continue(());
    let expected = bitnet_inference::generate(&mut engine, &expected, is_eog, go_on).unwrap();

    let mut session = session();
    let options = text_options(&json!({ "seed": "3", "maxTokens": 40 }));
    let id = session
        .generate(Prompt::Text(PROMPT.to_owned()), &options)
        .unwrap();
    let mut text = String::new();
    let mut ended = None;
    for event in finish(&mut session) {
        match event {
            Event::Piece {
                id: of,
                text: piece,
                ..
            } if of == id => text += &piece,
            Event::End {
                id: of,
                text: rest,
                ids,
                digest,
                ..
            } if of == id => {
                text += &rest;
                ended = Some((ids, digest));
            }
            _ => {}
        }
    }
    let (ids, digest) = ended.expect("the text ended");
    assert_eq!(ids, expected.ids);
    assert_eq!(text, tokenizer.decode(&ids, false));
    assert_eq!(digest.len(), 64);
}

#[test]
fn a_cancelled_request_has_no_further_events() {
    let mut session = session();
    let options = text_options(&json!({ "seed": "0", "maxTokens": 1000, "temperature": 0 }));
    let prompt = || Prompt::Text(PROMPT.to_owned());
    let (first, second) = (
        session.generate(prompt(), &options).unwrap(),
        session
            .generate(
                prompt(),
                &text_options(&json!({ "seed": "0", "maxTokens": 5 })),
            )
            .unwrap(),
    );
    session.step();
    session.cancel(first);
    let events = finish(&mut session);
    let id = |event: &Event| match event {
        Event::Prompt { id, .. }
        | Event::Piece { id, .. }
        | Event::End { id, .. }
        | Event::Embedding { id, .. }
        | Event::Error { id, .. } => *id,
    };
    assert!(events.iter().all(|event| id(event) == second));
    assert!(matches!(events.last(), Some(Event::End { .. })));
}

#[test]
fn a_model_that_does_not_fit_is_refused_by_its_header() {
    let file = std::fs::read(storyteller()).unwrap();
    let n_bytes = file.len() as f64;
    let options = model_options(50e6);
    let mut loader = Loader::new();
    loader.begin("model.gguf", Some(n_bytes)).unwrap();
    let mut n_read = 0;
    let failure = file.chunks(100_000).find_map(|chunk| {
        n_read += chunk.len();
        loader.append(chunk).unwrap();
        loader.check(n_bytes, &options).err()
    });
    let failure = failure.expect("the limit is below the size of the model");
    assert_eq!(failure.code, Code::OutOfMemory);
    let begins = failure.message.starts_with("the model takes ");
    assert!(
        begins
            && failure
                .message
                .contains("more than the limit of 47.7 MiB: files 11.0 MiB")
    );
    assert!(n_read < 2_000_000, "{n_read} bytes were read");

    let failure = Loader::new().begin("model.gguf", Some(3e9)).unwrap_err();
    assert_eq!(
        failure.message,
        "model.gguf has 2861.0 MiB, but a file can have 2048.0 MiB at most: larger models are \
         split into several files"
    );
}

#[test]
fn what_is_no_model_is_refused_by_its_first_bytes() {
    let mut loader = Loader::new();
    let page = b"<!doctype html>".repeat(100_000);
    loader.begin("model.gguf", Some(5e6)).unwrap();
    loader.append(&page).unwrap();
    let failure = loader.check(5e6, &model_options(1e9)).unwrap_err();
    assert_eq!(failure.code, Code::BadModel);
    assert_eq!(
        failure.message,
        "model.gguf: not a readable GGUF file: it begins with \"<!do\" instead of \"GGUF\""
    );
}

#[test]
fn wrong_options_are_named() {
    let message = |options: serde_json::Value| {
        let read = options::read::<options::TextOptions>(&options.to_string());
        let Failure { code, message } = read.unwrap_err();
        assert_eq!(code, Code::BadArgument);
        message
    };
    let found = message(json!({ "seed": "1", "maxToken": 1 }));
    assert!(
        found.starts_with("unknown field `maxToken`, expected one of `maxTokens`"),
        "{found}"
    );
    let found = message(json!({ "seed": "1", "topK": "many" }));
    assert_eq!(found, "invalid type: string \"many\", expected usize");

    let mut session = session();
    let mut refused = |options: serde_json::Value| {
        let prompt = Prompt::Text(PROMPT.to_owned());
        let refused = session
            .generate(prompt, &text_options(&options))
            .unwrap_err();
        assert_eq!(refused.code, Code::BadArgument);
        refused.message
    };
    assert_eq!(
        refused(json!({ "seed": "-1" })),
        "seed is \"-1\", expected an integer below 2^64"
    );
    assert_eq!(
        refused(json!({ "seed": "1", "regex": "a", "grammar": "b" })),
        "expected one of jsonSchema, regex and grammar, found several"
    );
    assert_eq!(
        refused(json!({ "seed": "1", "stop": [""] })),
        "a stop text is empty, expected at least one character"
    );
}
