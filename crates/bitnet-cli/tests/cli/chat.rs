//! Conversations in a pipe, and the prompts that they make.

use std::path::Path;

use insta::assert_snapshot;
use serde_json::{Value, json};

use super::{bitnet, bitnet_with_stdin, in_repository};

/// The built-in model was not made for it, but it answers.
const CHAT: [&str; 8] = [
    "chat",
    "-q",
    "--chat-template",
    "bitnet",
    "--temp",
    "0",
    "-n",
    "12",
];

/// Returns the documents of all answers.
fn answers(more: &[&str], lines: &str) -> Vec<Value> {
    let args = [&CHAT[..], &["--json"], more].concat();
    let stdout = bitnet_with_stdin(Path::new("."), &args, lines.as_bytes()).quietly();
    let documents = stdout.lines().map(serde_json::from_str);
    documents.collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_model_without_a_template_is_refused() {
    let folder = in_repository("crates/bitnet-inference/tests/data/tiny-llama");
    let run = bitnet(&["chat", "-q", "-m", &folder]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
    assert_snapshot!(run.stderr.replace(&folder, "FOLDER"), @"
    error: FOLDER has no chat template
    hint: `bitnet run` continues texts; `--chat-template` takes one of the program's, or yours
    ");
    let run = bitnet(&["chat", "-q", "--chat-template", "alpaca"]);
    assert_eq!(run.code, Some(2));
    assert_snapshot!(run.stderr, @r#"error: there is no chat template "alpaca", expected a file, Jinja text, or one of bitnet, chatml, falcon3, llama3"#);
    let run = bitnet(&["chat", "-q", "--chat-template", "{% if %}"]);
    assert_eq!(run.code, Some(1));
    assert_snapshot!(run.stderr, @"error: the chat template is not well-formed: syntax error: unexpected end of block (in chat template:1)");
}

#[test]
fn answers_are_what_run_writes_for_the_whole_conversation() {
    let said = answers(&[], "Hello.\nAnd then?\n");
    let [first, _] = &said[..] else {
        panic!("{said:?}")
    };
    let answer = first["text"].as_str().unwrap().trim();
    let prompts = [
        "User: Hello.<|eot_id|>Assistant:".to_owned(),
        format!(
            "User: Hello.<|eot_id|>Assistant: {answer}<|eot_id|>User: And then?<|eot_id|>Assistant:"
        ),
    ];
    for (answer, prompt) in said.iter().zip(&prompts) {
        // Without what was known from the first answer.
        let args = ["run", "-q", "--temp", "0", "-n", "12", "--json", prompt];
        let run = bitnet(&args).json();
        for key in ["prompt_ids", "ids", "text", "finish_reason"] {
            assert_eq!(answer[key], run[key], "{key}");
        }
    }
    // People see the answers, and nothing else.
    let stdout = bitnet_with_stdin(Path::new("."), &CHAT, b"Hello.\nAnd then?\n").quietly();
    let texts = said.iter().map(|answer| answer["text"].as_str().unwrap());
    assert_eq!(
        stdout,
        texts.map(|text| text.to_owned() + "\n").collect::<String>()
    );
}

#[test]
fn commands_reset_and_end_a_conversation() {
    let prompts = |lines: &str| -> Vec<Value> {
        let said = answers(&["--system", "Be brief."], lines);
        said.iter()
            .map(|answer| answer["prompt_ids"].clone())
            .collect()
    };
    let twice = prompts("Hello.\n/reset\n\nHello.\n/exit\nNever.\n");
    assert_eq!(twice.len(), 2);
    assert_eq!(twice[0], twice[1]);
    // A line that goes on, Windows line ends, and an end without a line end.
    let [windows, plain] = ["One\\\r\ntwo\r\n", "One\\\ntwo"].map(prompts);
    assert_eq!(windows, plain);
    assert_eq!(plain.len(), 1);
}

#[test]
fn the_prompt_is_shown() {
    let args = [
        "tokenize",
        "-q",
        "--json",
        "--chat",
        "--chat-template",
        "bitnet",
        "--system",
        "Be brief.",
        "Why?",
    ];
    let document = bitnet(&args).json();
    let text = "<|begin_of_text|>System: Be brief.<|eot_id|>User: Why?<|eot_id|>Assistant:";
    assert_eq!(document["text"], text);
    let tokens = document["tokens"].as_array().unwrap();
    assert_eq!(tokens[0], "<|begin_of_text|>");
    let begin = json!(8176);
    let ids = document["ids"].as_array().unwrap();
    assert_eq!(ids.iter().filter(|id| **id == begin).count(), 1);

    let args = [
        "chat",
        "--show-prompt",
        "--chat-template",
        "bitnet",
        "-n",
        "0",
    ];
    let run = bitnet_with_stdin(Path::new("."), &args, b"Why?\n");
    assert_eq!(run.code, Some(0));
    let shown = run.stderr.lines().last();
    assert_eq!(
        shown,
        Some("<|begin_of_text|>User: Why?<|eot_id|>Assistant:")
    );
}

#[test]
fn a_template_comes_from_a_file_or_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("plain.jinja"),
        "{{ messages[0].content }}!\n",
    )
    .unwrap();
    let text = |template: &str| {
        let args = [
            "tokenize",
            "-q",
            "--json",
            "--chat",
            "--chat-template",
            template,
            "Why?",
        ];
        super::bitnet_in(folder.path(), &args).json()["text"].clone()
    };
    assert_eq!(text("plain.jinja"), "Why?!");
    assert_eq!(text("<{{ messages[0].role }}>"), "<user>");
}

#[test]
fn a_conversation_that_does_not_fit_is_an_error() {
    let args = [&CHAT[..], &["-c", "16"]].concat();
    let line = "word ".repeat(40);
    let run = bitnet_with_stdin(Path::new("."), &args, line.as_bytes());
    assert_eq!(run.code, Some(2));
    assert!(
        run.stderr.contains("but the context only 16"),
        "{}",
        run.stderr
    );
}
