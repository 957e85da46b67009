//! A server without a socket: the same answers, and sequences beside them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bitnet_core::KvPage;
use bitnet_inference::{
    Logits, LogitsProcessor, LogitsProcessorError, PlanOptions, SamplerOptions, builtin,
};
use bitnet_server::{Answers, LocalError, LocalServer, ServerOptions, Waited, Wake};
use serde_json::{Value, json};

use crate::client::{alone, engine, served, start, tokenizer};

const PROMPT: &str = "Once upon a time there was a";

/// A server with so many texts at a time, and pages for so many contexts of 256 positions.
fn local(max_running: usize, n_contexts: usize) -> LocalServer {
    let engine = engine(PlanOptions {
        n_threads: Some(1),
        n_sequences: Some(max_running + 4),
        context_len: Some(256),
        kv_pages: Some(n_contexts * 256 / KvPage::POSITIONS),
        ..PlanOptions::default()
    });
    let options = ServerOptions {
        max_running,
        ..ServerOptions::default()
    };
    LocalServer::start(served("builtin", engine, builtin::open()), options).unwrap()
}

fn next<T>(answers: &Answers<T>) -> Result<Option<T>, LocalError> {
    match answers.next(Duration::from_mins(1))? {
        Waited::Item(item) => Ok(Some(item)),
        Waited::End => Ok(None),
        Waited::Nothing => panic!("there was no answer within a minute"),
    }
}

fn all<T>(answers: &Answers<T>) -> Vec<T> {
    std::iter::from_fn(|| next(answers).unwrap()).collect()
}

fn document(server: &LocalServer, path: &str, body: &Value) -> Value {
    let documents = all(&server.ask(path, body.to_string(), None));
    let [document] = &documents[..] else {
        panic!("{} documents", documents.len());
    };
    serde_json::from_str(document).unwrap()
}

fn greedy(max_tokens: usize) -> Value {
    json!({"prompt": PROMPT, "temperature": 0, "max_tokens": max_tokens})
}

#[test]
fn documents_and_chunks_are_those_of_the_socket() {
    let (local, remote) = (local(4, 5), start(ServerOptions::default()));
    let body = json!({"prompt": PROMPT, "seed": 3, "max_tokens": 12, "logprobs": 1});
    let ours = document(&local, "/v1/completions", &body);
    let theirs = remote.post("/v1/completions", &body).json();
    assert_eq!(ours["choices"][0]["text"], theirs["choices"][0]["text"]);
    assert_eq!(
        ours["choices"][0]["logprobs"],
        theirs["choices"][0]["logprobs"]
    );
    assert_eq!(ours["system_fingerprint"], theirs["system_fingerprint"]);

    let mut streamed = body;
    streamed["stream"] = true.into();
    let chunks = all(&local.ask("/v1/completions", streamed.to_string(), None));
    assert!(chunks.len() > 4);
    let texts = chunks.iter().map(|chunk| {
        let chunk: Value = serde_json::from_str(chunk).unwrap();
        chunk["choices"][0]["text"].as_str().unwrap().to_owned()
    });
    let text: String = texts.collect();
    assert_eq!(json!(text), ours["choices"][0]["text"]);
}

#[test]
fn what_is_wrong_has_its_status_field_and_code() {
    let server = local(4, 5);
    let error = |path: &str, body: &str| match next(&server.ask(path, body.to_owned(), None)) {
        Err(LocalError::Request(error)) => (error.status, error.param, error.code),
        other => panic!("{other:?}"),
    };
    let wrong = json!({"prompt": PROMPT, "top_p": 2}).to_string();
    let field = |name: &str| Some(name.to_owned());
    assert_eq!(
        error("/v1/completions", &wrong),
        (400, field("top_p"), None)
    );
    assert_eq!(error("/v1/completions", "{").0, 400);
    let long = json!({"prompt": vec![1; 257]}).to_string();
    let (status, param, code) = error("/v1/completions", &long);
    assert_eq!((status, param), (400, field("prompt")));
    assert_eq!(code.as_deref(), Some("context_length_exceeded"));
    assert_eq!(error("/nothing", "{}").0, 404);
    assert_eq!(error("not a path", "{}").0, 400);
}

#[test]
fn texts_have_their_tokens_and_receipts() {
    let server = local(4, 5);
    let mut body = greedy(12);
    body["prompt"] = json!([PROMPT, "The king"]);
    body["echo"] = true.into();
    body["logprobs"] = 1.into();
    let pieces = all(&server.texts(body.to_string(), None, None));
    for (index, prompt) in [PROMPT, "The king"].into_iter().enumerate() {
        let of_text: Vec<_> = pieces.iter().filter(|piece| piece.index == index).collect();
        let text: String = of_text.iter().map(|piece| piece.text.as_str()).collect();
        assert_eq!(text, alone(prompt, 12, SamplerOptions::GREEDY, &[]));
        let ids: Vec<u32> = of_text
            .iter()
            .flat_map(|piece| piece.tokens.clone())
            .collect();
        assert_eq!(
            tokenizer().decode(&ids, false).trim_start(),
            text.trim_start()
        );
        let n_scored: usize = of_text
            .iter()
            .map(|piece| piece.prompt_logprobs.len())
            .sum();
        let (last, before) = of_text.split_last().unwrap();
        assert!(before.iter().all(|piece| piece.end.is_none()));
        let end = last.end.as_ref().unwrap();
        assert_eq!(n_scored + 1, end.usage.n_prompt);
        assert_eq!(end.usage.n_generated, 12);
        assert_eq!(end.receipt["receipt_digest"].as_str().unwrap().len(), 64);
    }
}

/// Forbids a token, and counts.
#[derive(Debug)]
struct Forbid {
    token: u32,
    n_calls: Arc<AtomicUsize>,
}

impl LogitsProcessor for Forbid {
    fn process(&mut self, _: &[u32], logits: &mut [f32]) -> Result<(), LogitsProcessorError> {
        self.n_calls.fetch_add(1, Ordering::Relaxed);
        logits[self.token as usize] = f32::NEG_INFINITY;
        Ok(())
    }
}

#[test]
fn a_processor_does_what_a_bias_does() {
    let server = local(4, 5);
    let token = tokenizer().encode_without_bos(" noise").unwrap()[0];
    let mut biased = greedy(8);
    biased["logit_bias"] = json!({ token.to_string(): -100 });
    let biased = document(&server, "/v1/completions", &biased);
    let n_calls = Arc::new(AtomicUsize::new(0));
    let processor = Forbid {
        token,
        n_calls: Arc::clone(&n_calls),
    };
    let pieces = server.texts(greedy(8).to_string(), Some(Box::new(processor)), None);
    let pieces = all(&pieces);
    let text: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
    assert_eq!(biased["choices"][0]["text"], json!(text));
    assert_eq!(n_calls.load(Ordering::Relaxed), 8);
    let end = pieces.last().unwrap().end.as_ref().unwrap();
    // Nobody could compute it again.
    assert_eq!(end.receipt, Value::Null);
}

#[test]
fn who_waits_is_woken_for_each_item_and_the_end() {
    let server = local(4, 5);
    let (sender, woken) = mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    let wake: Wake = Box::new(move || {
        let _ = sender.lock().unwrap().send(());
    });
    let pieces = server.texts(greedy(6).to_string(), None, Some(wake));
    let mut n_items = 0;
    loop {
        woken.recv_timeout(Duration::from_mins(1)).unwrap();
        match pieces.next(Duration::ZERO).unwrap() {
            Waited::Item(_) => n_items += 1,
            Waited::End => break,
            Waited::Nothing => panic!("woken for nothing"),
        }
    }
    assert!(n_items >= 6);
}

#[test]
fn a_dropped_answer_makes_room_and_a_dropped_server_ends_at_once() {
    let server = local(1, 2);
    let mut endless = greedy(250);
    endless["ignore_eos"] = true.into();
    let first = server.texts(endless.to_string(), None, None);
    next(&first).unwrap();
    drop(first);
    // It would wait for the first one otherwise.
    assert_eq!(
        all(&server.texts(greedy(1).to_string(), None, None)).len(),
        2
    );
    let second = server.texts(endless.to_string(), None, None);
    next(&second).unwrap();
    let (sequence, _) = server.sequence(vec![1, 2]).unwrap();
    let start = Instant::now();
    drop(server);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(sequence.len(), Err(LocalError::Closed));
    while let Ok(Some(_)) = next(&second) {}
}

#[test]
fn a_sequence_computes_what_a_text_does() {
    let server = local(4, 5);
    let expected: Vec<u32> = all(&server.texts(greedy(6).to_string(), None, None))
        .into_iter()
        .flat_map(|piece| piece.tokens)
        .collect();
    let prompt = tokenizer().encode(PROMPT).unwrap();
    // Also the prefix that the text left.
    let (sequence, n_reused) = server.sequence(prompt.clone()).unwrap();
    assert!(n_reused < prompt.len());
    let best = |row: &[f32]| {
        (0..row.len())
            .max_by(|&a, &b| row[a].total_cmp(&row[b]))
            .unwrap()
    };
    let mut pending = prompt[n_reused..].to_vec();
    let mut found = Vec::new();
    while found.len() < 6 {
        let row = sequence.append(pending, Logits::Last, Vec::new()).unwrap();
        let token = best(&row) as u32;
        found.push(token);
        pending = vec![token];
    }
    assert_eq!(found, expected);
    let fork = sequence.fork().unwrap();
    fork.truncate(prompt.len()).unwrap();
    assert_eq!(fork.tokens().unwrap(), prompt);
    let n_vocab = server.about().vocab_size;
    let rows = fork
        .append(found[..5].to_vec(), Logits::All, Vec::new())
        .unwrap();
    assert_eq!(rows.len(), 5 * n_vocab);
    assert_eq!(best(&rows[4 * n_vocab..]) as u32, expected[5]);
    assert_eq!(fork.tokens().unwrap(), sequence.tokens().unwrap());
    let too_far = LocalError::Truncate {
        len: prompt.len() + 5,
        wanted: 99,
    };
    assert_eq!(fork.truncate(99), Err(too_far));
}

#[test]
fn sequences_leave_a_context_for_texts() {
    // Four pages, two of which are for texts.
    let server = local(1, 2);
    let held: Vec<_> = (0..2)
        .map(|i| {
            let (sequence, n_reused) = server.sequence(Vec::new()).unwrap();
            assert_eq!(n_reused, 0);
            sequence
                .append(vec![i + 1; 120], Logits::None, Vec::new())
                .unwrap();
            sequence
        })
        .collect();
    let full = server.sequence(vec![9; 3]).unwrap_err();
    let expected = LocalError::SequencePages {
        needed: 3,
        free: 2,
        max_pages: 4,
    };
    assert_eq!(full, expected);
    let grown = held[0].append(vec![5; 9], Logits::None, Vec::new());
    assert_eq!(grown.unwrap_err(), expected);
    assert_eq!(held[0].len(), Ok(120));
    let mut long = greedy(255);
    long["prompt"] = json!([1]);
    long["ignore_eos"] = true.into();
    let pieces = all(&server.texts(long.to_string(), None, None));
    let n_tokens: usize = pieces.iter().map(|piece| piece.tokens.len()).sum();
    assert_eq!(n_tokens, 255);
    // Their number is limited, too: empty ones have no pages.
    let mut more: Vec<_> = (0..2)
        .map(|_| server.sequence(Vec::new()).unwrap())
        .collect();
    let one_more = server.sequence(Vec::new()).unwrap_err();
    assert_eq!(one_more, LocalError::TooManySequences { max: 4 });
    more.pop();
    drop(held);
    server.sequence(vec![9; 200]).unwrap();
}
