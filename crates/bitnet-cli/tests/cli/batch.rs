//! `bitnet batch`

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{PROMPT, Run, bitnet, bitnet_in, command};

const BATCH: [&str; 4] = ["batch", "-q", "in.jsonl", "out.jsonl"];

/// Returns a line of a batch.
fn line(custom_id: &str, url: &str, body: &Value) -> String {
    let line = json!({"custom_id": custom_id, "method": "POST", "url": url, "body": body});
    format!("{line}\n")
}

fn completion(custom_id: &str, body: &Value) -> String {
    line(custom_id, "/v1/completions", body)
}

/// Returns a folder with these lines in the file `in.jsonl`.
fn folder(lines: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in.jsonl"), lines).unwrap();
    folder
}

fn answers(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("out.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

#[test]
fn each_request_gets_the_text_that_it_gets_alone() {
    let greedy = json!({"prompt": PROMPT, "max_tokens": 12, "temperature": 0});
    let sampled = json!({"prompt": PROMPT, "max_tokens": 12, "temperature": 1, "seed": 7});
    let lines = [
        completion("greedy", &greedy),
        line("vector", "/v1/embeddings", &json!({"input": "a king"})),
        "\r\n".to_owned(),
        completion("sampled", &sampled),
    ];
    let folder = folder(&lines.concat());
    bitnet_in(folder.path(), &BATCH).quietly();
    let answers = answers(folder.path());
    let ids: Vec<_> = answers.iter().map(|answer| &answer["custom_id"]).collect();
    assert_eq!(ids, ["greedy", "vector", "sampled"]);
    let alone = |args: &[&str]| {
        let common = ["run", "-q", "--json", "-n", "12", PROMPT];
        let run = bitnet(&[&common, args].concat()).json();
        run["text"].as_str().unwrap().to_owned()
    };
    let text = |i: usize| {
        let response = &answers[i]["response"];
        assert_eq!(response["status_code"], 200, "{response}");
        assert!(answers[i]["error"].is_null());
        let body = &response["body"];
        assert_eq!(body["usage"]["completion_tokens"], 12);
        body["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(text(0), alone(&["--temp", "0"]));
    assert_eq!(text(2), alone(&["--temp", "1", "--seed", "7"]));
    let vector = &answers[1]["response"]["body"]["data"][0]["embedding"];
    let expected = bitnet(&["embed", "-q", "--json", "a king"]).json();
    assert_eq!(vector, &expected["embedding"]);
    // Done: nothing is left to do, and nothing changes.
    let written = fs::read(folder.path().join("out.jsonl")).unwrap();
    let again = bitnet_in(folder.path(), &["batch", "in.jsonl", "out.jsonl"]);
    assert!(
        again.stderr.contains("\n0 answers after 3 that were there"),
        "{again:?}"
    );
    assert_eq!(fs::read(folder.path().join("out.jsonl")).unwrap(), written);
}

#[test]
fn what_is_wrong_with_a_line_is_its_answer() {
    let good = json!({"prompt": "a", "max_tokens": 1});
    let mut stream = good.clone();
    stream["stream"] = true.into();
    let lines = [
        completion("a", &good),
        completion("a", &good),
        completion("c", &stream),
        completion("d", &json!({"prompt": "a", "unheard_of": 1})),
        line("e", "/v1/images", &good),
        line("f", "/v1/completions?x=1", &good),
        line("g", "/v1/completions", &good).replace("POST", "GET"),
        "{\"custom_id\": \"h\", \"body\": {}}\n".to_owned(),
        "no JSON\n".to_owned(),
        completion("k", &json!({"prompt": "a".repeat(16 << 20)})),
        line("j", "/v1/completions", &good).trim_end().to_owned(),
    ];
    let folder = folder(&lines.concat());
    bitnet_in(folder.path(), &BATCH).quietly();
    let answers = answers(folder.path());
    let outcomes: Vec<_> = answers
        .iter()
        .map(|answer| {
            let id = answer["custom_id"].as_str().unwrap_or("-");
            let status = &answer["response"]["status_code"];
            let code = &answer["error"]["code"];
            format!("{id} {status} {code}")
        })
        .collect();
    assert_eq!(
        outcomes,
        [
            "a 200 null",
            "a null \"duplicate_custom_id\"",
            "c null \"invalid_stream\"",
            "d 400 null",
            "e null \"invalid_url\"",
            "f null \"invalid_url\"",
            "g null \"invalid_method\"",
            "h null \"invalid_line\"",
            "- null \"invalid_line\"",
            "- null \"line_too_large\"",
            "j 200 null",
        ]
    );
    let error = &answers[3]["response"]["body"]["error"];
    assert_eq!(error["param"], "unheard_of");
    let message = answers[7]["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("missing field `method`"), "{message}");
}

#[test]
fn a_file_with_something_else_is_not_overwritten() {
    let lines = completion("a", &json!({"prompt": "a", "max_tokens": 1}));
    let folder = folder(&lines);
    let out = folder.path().join("out.jsonl");
    let refused = |args: &[&str]| {
        let before = fs::read(&out).unwrap();
        let Run { code, stderr, .. } = bitnet_in(folder.path(), args);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(
            stderr.starts_with("error: line 1 of out.jsonl is no answer to"),
            "{stderr}"
        );
        assert_eq!(fs::read(&out).unwrap(), before);
    };
    fs::write(&out, "my diary\n").unwrap();
    refused(&BATCH);
    fs::write(&out, "").unwrap();
    bitnet_in(folder.path(), &BATCH).quietly();
    // Other defaults would give another answer.
    refused(&[&BATCH[..], &["--temp", "0.3"]].concat());
    let changed = lines.replace("\"a\"", "\"b\"");
    fs::write(folder.path().join("in.jsonl"), changed).unwrap();
    refused(&BATCH);
    let missing = bitnet_in(folder.path(), &["batch", "-q", "none.jsonl", "new.jsonl"]);
    assert!(
        missing
            .stderr
            .starts_with("error: failed to read none.jsonl: "),
        "{missing:?}"
    );
    assert!(!folder.path().join("new.jsonl").exists());
}

/// Kills a batch at so many random moments; what it has written at its end must be what it
/// writes undisturbed.
fn kill_and_go_on(n_kills: u32) {
    let schema = json!({"type": "object", "properties": {"age": {"type": "integer", "maximum": 99}},
        "required": ["age"], "additionalProperties": false});
    let mut lines = String::new();
    for i in 0..40 {
        let id = i.to_string();
        lines += &match i % 5 {
            0 => completion(&id, &json!({"prompt": PROMPT, "n": 3, "max_tokens": 5 + i})),
            1 => completion(
                &id,
                &json!({"prompt": "The king", "seed": i, "max_tokens": 60 - i, "logprobs": 2}),
            ),
            2 => completion(
                &id,
                &json!({"prompt": "It is", "max_tokens": 40,
                "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}),
            ),
            3 => completion(&id, &json!({"prompt": "", "max_tokens": -1})),
            _ => line(
                &id,
                "/v1/embeddings",
                &json!({"input": ["a king", "a queen"]}),
            ),
        };
    }
    let folder = folder(&lines);
    let out = folder.path().join("out.jsonl");
    let start = Instant::now();
    bitnet_in(folder.path(), &BATCH).quietly();
    let took = start.elapsed();
    let expected = fs::read(&out).unwrap();
    assert_eq!(answers(folder.path()).len(), 40);
    let mut random = fastrand::Rng::with_seed(1);
    let (mut n_cut, mut before) = (0, 0);
    fs::remove_file(&out).unwrap();
    for _ in 0..n_kills {
        let mut child = command(folder.path(), &BATCH).spawn().unwrap();
        std::thread::sleep(Duration::from_secs_f64(took.as_secs_f64() * random.f64()));
        // It may have ended.
        let _ = child.kill();
        child.wait().unwrap();
        let written = fs::read(&out).unwrap_or_default();
        assert_eq!(written, expected[..written.len()]);
        assert!(written.len() >= before, "what is written stays");
        before = written.len();
        n_cut += u32::from((1..expected.len()).contains(&before));
        if before == expected.len() {
            fs::remove_file(&out).unwrap();
            before = 0;
        }
    }
    assert!(n_cut > 0, "no kill came in time");
    bitnet_in(folder.path(), &BATCH).quietly();
    assert_eq!(fs::read(&out).unwrap(), expected);
    // A line that was cut in its middle is written again.
    fs::write(&out, &expected[..expected.len() / 2]).unwrap();
    bitnet_in(folder.path(), &BATCH).quietly();
    assert_eq!(fs::read(&out).unwrap(), expected);
}

#[test]
fn a_killed_batch_ends_with_the_bytes_of_an_undisturbed_one() {
    kill_and_go_on(6);
}

#[test]
#[ignore = "kills a hundred batches, which takes minutes"]
fn a_hundred_kills_change_no_byte() {
    kill_and_go_on(100);
}
