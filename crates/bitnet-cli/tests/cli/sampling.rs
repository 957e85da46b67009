//! Sampling parameters: recommended by the model, by flags, and defaults; and stop
//! sequences.

use std::path::Path;

use bitnet_inference::gguf::{Gguf, GgufWriter, Value};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::{PROMPT, bitnet, bitnet_in, bitnet_with_stdin, in_repository, storyteller};

/// Returns the ids that a model generates.
fn ids(folder: &Path, more: &[&str]) -> Json {
    let args = [&["run", "-q", "--json", "-n", "24"], more, &[PROMPT]].concat();
    bitnet_in(folder, &args).json()["ids"].take()
}

/// Returns the ids that the built-in model generates.
fn builtin(more: &[&str]) -> Json {
    ids(Path::new("."), more)
}

/// Returns the line with the sampling parameters, after the notes about them.
fn said(folder: &Path, more: &[&str]) -> String {
    let args = [&["run", "-v", "-n", "1"], more, &[PROMPT]].concat();
    let run = bitnet_in(folder, &args);
    assert_eq!(run.code, Some(0), "{run:?}");
    let lines = run.stderr.lines();
    let lines = lines.filter(|line| line.starts_with("sampling") || line.ends_with("; ignored"));
    lines.collect::<Vec<_>>().join("\n")
}

/// A folder `model` with this `generation_config.json`, if any.
fn folder_model(generation_config: Option<&Json>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    std::fs::create_dir(&model).unwrap();
    let source = in_repository("models/storyteller-tiny");
    for entry in std::fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let file = model.join("generation_config.json");
    match generation_config {
        Some(json) => std::fs::write(file, json.to_string()).unwrap(),
        None => std::fs::remove_file(file).unwrap(),
    }
    folder
}

/// The built-in model as `model.gguf` with these `general.sampling` keys.
fn gguf_model(keys: &[(&str, Value)]) -> TempDir {
    let file = storyteller();
    let gguf = Gguf::parse(&file).unwrap();
    let mut writer = GgufWriter::new();
    for (key, value) in gguf.metadata() {
        writer.metadata(key, value.clone());
    }
    for (key, value) in keys {
        writer.metadata(format!("general.sampling.{key}"), value.clone());
    }
    for tensor in gguf.tensors() {
        writer.tensor(&tensor.name, &tensor.shape, tensor.type_id, tensor.span);
    }
    let written = writer.write(Vec::new(), |i, out| {
        let tensor = &gguf.tensors()[i];
        let data = &file[tensor.offset as usize..][..tensor.span as usize];
        std::io::Write::write_all(out, data)
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.gguf"), written.unwrap()).unwrap();
    folder
}

#[test]
fn without_a_recommendation_there_is_no_repeat_penalty() {
    let here = Path::new(".");
    assert_eq!(
        said(here, &[]),
        "sampling: temperature 0.7 (default), top-p 0.95 (default), no penalty"
    );
    let flags = ["--temp", "0.7", "--top-p", "0.95", "--repeat-penalty", "1"];
    let expected = builtin(&[&["--seed", "3"], &flags[..]].concat());
    assert_eq!(builtin(&["--seed", "3"]), expected);
    let penalized = builtin(&["--seed", "3", "--repeat-penalty", "1.15"]);
    assert_ne!(penalized, expected);
}

#[test]
fn a_folder_recommends_and_flags_decide() {
    let recommended = json!({
        "do_sample": true, "temperature": 1.3, "top_k": 7, "top_p": 0.9, "min_p": 0.01,
        "repetition_penalty": 1.2, "eos_token_id": [8177, 8185],
    });
    let with = folder_model(Some(&recommended));
    let without = folder_model(None);
    let model = ["-m", "model", "--seed", "5"];
    let flags = [
        "--temp",
        "1.3",
        "--top-k",
        "7",
        "--top-p",
        "0.9",
        "--min-p",
        "0.01",
        "--repeat-penalty",
        "1.2",
        "--repeat-last-n",
        "-1",
    ];
    let expected = ids(without.path(), &[&model[..], &flags].concat());
    assert_eq!(ids(with.path(), &model), expected);
    assert_eq!(
        said(with.path(), &model),
        "sampling: temperature 1.3 (generation_config.json), top-k 7 (generation_config.json), \
         top-p 0.9 (generation_config.json), min-p 0.01 (generation_config.json), \
         repeat penalty 1.2 (generation_config.json), penalties of all tokens \
         (generation_config.json)"
    );
    // Each value alone.
    let some = [
        &model[..],
        &["--temp", "0.5", "--repeat-penalty", "1", "--min-p", "0"],
    ]
    .concat();
    assert_eq!(
        said(with.path(), &some),
        "sampling: temperature 0.5 (--temp), top-k 7 (generation_config.json), \
         top-p 0.9 (generation_config.json), no penalty"
    );
    // Greedy, regardless of the recommendation.
    let greedy = [&model[..], &["--temp", "0"]].concat();
    assert_eq!(ids(with.path(), &greedy), ids(without.path(), &greedy));
    assert_eq!(
        said(with.path(), &greedy),
        "sampling: greedy (--temp), no penalty"
    );
    // Also in a chat.
    let args = ["chat", "-v", "-n", "1", "-m", "model"];
    let run = bitnet_with_stdin(with.path(), &args, b"Hello.\n");
    assert!(
        run.stderr.contains("sampling: temperature 1.3 ("),
        "{run:?}"
    );
}

#[test]
fn a_folder_that_does_not_sample_is_greedy_until_a_flag_says_otherwise() {
    let greedy = folder_model(Some(&json!({ "do_sample": false })));
    let model = ["-m", "model"];
    let expected = ids(greedy.path(), &["-m", "model", "--temp", "0"]);
    assert_eq!(ids(greedy.path(), &model), expected);
    assert_eq!(
        said(greedy.path(), &model),
        "sampling: greedy (generation_config.json), no penalty"
    );
    assert_eq!(
        said(greedy.path(), &["-m", "model", "--temp", "0.9"]),
        "sampling: temperature 0.9 (--temp), top-p 0.95 (default), no penalty"
    );
}

#[test]
fn a_gguf_file_recommends_and_flags_decide() {
    let recommended = gguf_model(&[
        ("temp", Value::F32(1.5)),
        ("top_k", Value::I32(3)),
        ("penalty_repeat", Value::F32(1.25)),
        ("penalty_last_n", Value::I32(8)),
    ]);
    let model = ["-m", "model.gguf", "--seed", "9"];
    let flags = [
        "--seed",
        "9",
        "--temp",
        "1.5",
        "--top-k",
        "3",
        "--repeat-penalty",
        "1.25",
        "--repeat-last-n",
        "8",
    ];
    assert_eq!(ids(recommended.path(), &model), builtin(&flags));
    assert_eq!(
        said(recommended.path(), &model),
        "sampling: temperature 1.5 (general.sampling), top-k 3 (general.sampling), \
         top-p 0.95 (default), repeat penalty 1.25 (general.sampling), \
         penalties of the last 8 tokens (general.sampling)"
    );
    let greedy = ["-m", "model.gguf", "--temp", "0"];
    assert_eq!(ids(recommended.path(), &greedy), builtin(&["--temp", "0"]));
}

#[test]
fn a_converted_model_recommends_the_same() {
    let recommended = json!({ "do_sample": true, "temperature": 1.3, "top_k": 7, "top_p": 0.9 });
    let folder = folder_model(Some(&recommended));
    let convert = |args: &[&str]| {
        let args = [&["convert", "-q"], args].concat();
        assert_eq!(bitnet_in(folder.path(), &args).code, Some(0));
    };
    convert(&["model", "model.gguf"]);
    convert(&["model.gguf", "back", "--to", "hf-packed"]);
    let values = |model| said(folder.path(), &["-m", model]);
    let expected = values("model");
    let in_gguf = expected.replace("generation_config.json", "general.sampling");
    assert_eq!(values("model.gguf"), in_gguf);
    assert_eq!(values("back"), expected);
}

#[test]
fn a_recommendation_that_makes_no_sense_is_a_note() {
    let model = gguf_model(&[("temp", Value::F32(-1.0)), ("mirostat", Value::I32(2))]);
    assert_eq!(
        said(model.path(), &["-m", "model.gguf"]),
        "note: general.sampling: temp is -1, expected 0 or more; ignored\n\
         note: general.sampling: mirostat is 2, which is not implemented; ignored\n\
         sampling: temperature 0.7 (default), top-p 0.95 (default), no penalty"
    );
    let model = folder_model(Some(&json!({ "temperature": "hot" })));
    assert_eq!(
        said(model.path(), &["-m", "model", "--top-k", "9"]),
        "note: generation_config.json: temperature is \"hot\", expected a number; ignored\n\
         sampling: temperature 0.7 (default), top-k 9 (--top-k), top-p 0.95 (default), no penalty"
    );
}

#[test]
fn flags_mean_what_they_mean_in_other_programs() {
    let greedy = builtin(&["--temp", "0"]);
    for likeliest in [
        &["--top-p", "0"][..],
        &["--top-k", "1"],
        &["--temp", "1e-40"],
        &["--temp", "1e-38"],
        &["--temp", "1.1754944e-38"],
        &["--temp", "1e-7"],
    ] {
        assert_eq!(builtin(likeliest), greedy, "{likeliest:?}");
    }
    let random = |more: &[&str]| builtin(&[&["--seed", "2", "--temp", "1.5"], more].concat());
    assert_eq!(random(&["--top-k", "-1"]), random(&["--top-k", "0"]));
    assert_ne!(random(&["--top-k", "-1"]), random(&["--top-k", "2"]));

    let args = ["run", "-q", "--json", "--seed", "-1", "-n", "1", PROMPT];
    let [one, other] = [(); 2].map(|()| bitnet(&args).json()["seed"].as_u64().unwrap());
    assert_ne!(one, other);

    let args = [
        "run", "-q", "--json", "--temp", "0", "-c", "40", "-n", "-1", PROMPT,
    ];
    let run = bitnet(&args).json();
    let n = |key: &str| run[key].as_array().unwrap().len();
    assert_eq!(n("prompt_ids") + n("ids"), 41);
    assert_eq!(run["finish_reason"], "length");
}

#[test]
fn presence_and_frequency_penalties_keep_text_from_going_round() {
    let distinct = |more: &[&str]| {
        let args = [&["--temp", "0", "-n", "96"], more].concat();
        let args = [&["run", "-q", "--json"], &args[..], &[PROMPT]].concat();
        let mut ids = bitnet(&args).json()["ids"].as_array().unwrap().clone();
        let n_written = ids.len();
        ids.sort_by_key(Json::as_u64);
        ids.dedup();
        (ids.len(), n_written)
    };
    let (plain, _) = distinct(&[]);
    let (present, n_written) = distinct(&["--presence-penalty", "2"]);
    assert!(
        present > plain && n_written > 30,
        "{present} of {n_written}, {plain}"
    );
    let (frequent, n_written) = distinct(&["--frequency-penalty", "2"]);
    assert!(
        frequent > plain && n_written > 30,
        "{frequent} of {n_written}, {plain}"
    );
    let (encouraged, _) = distinct(&["--frequency-penalty", "-2"]);
    assert!(encouraged < plain, "{encouraged}, {plain}");
    assert_eq!(
        said(
            Path::new("."),
            &["--presence-penalty", "0.5", "--frequency-penalty", "-1"]
        ),
        "sampling: temperature 0.7 (default), top-p 0.95 (default), presence penalty 0.5 \
         (--presence-penalty), frequency penalty -1 (--frequency-penalty), penalties of the last \
         256 tokens (default)"
    );
}

/// The built-in model generates ` great| noise| of| shouting|,| and| the| noise`.
fn stopped(stops: &[&str]) -> Json {
    let mut args = vec!["run", "-q", "--temp", "0", "-n", "8", PROMPT];
    args.extend(stops.iter().flat_map(|&stop| ["--stop", stop]));
    let mut run = bitnet(&[&args[..], &["--json"]].concat()).json();
    // Without --json, the text is the same.
    let text = run["text"].as_str().unwrap();
    assert_eq!(bitnet(&args).quietly(), format!("{PROMPT}{text}\n"));
    json!([
        run["text"].take(),
        run["ids"].take(),
        run["finish_reason"].take()
    ])
}

#[test]
fn text_ends_before_a_stop_text() {
    let [great, noise, of, shouting] = [668, 2855, 283, 5865];
    // One token, a part of one, and parts of two.
    let one = json!([" great noise of", [great, noise, of], "stop"]);
    assert_eq!(stopped(&[" shouting"]), one);
    let part = json!([" great noise of sho", [great, noise, of, shouting], "stop"]);
    assert_eq!(stopped(&["uti"]), part);
    let across = json!([" great noise o", [great, noise, of], "stop"]);
    assert_eq!(stopped(&["f sh"]), across);
    // The first in the text, not the first that was given.
    assert_eq!(stopped(&[", and", "nothing", "f sh"]), across);
    // At the very beginning.
    assert_eq!(stopped(&[" gr"]), json!(["", [], "stop"]));
    // Stop sequences are not matched in the prompt.
    let all = stopped(&[]);
    assert_eq!(all[0], " great noise of shouting, and the noise");
    assert_eq!(all[2], "length");
    assert_eq!(stopped(&["Once upon"]), all);
    // Partial matches are output as text.
    assert_eq!(stopped(&["great noise of shouts", " noise of a"]), all);
    assert_eq!(stopped(&[" the noise of", "noise?"]), all);
    // A complete match is held back for an earlier partial one, which is not completed.
    let waited = json!([
        " great noise of shouting, and t",
        [great, noise, of, shouting, 11, 278, 262],
        "stop"
    ]);
    assert_eq!(stopped(&["he", " the noise of"]), waited);
}

#[test]
fn an_answer_ends_before_a_stop_text_and_the_conversation_goes_on() {
    let chat = [
        "chat",
        "-q",
        "--json",
        "--chat-template",
        "bitnet",
        "--temp",
        "0",
        "-n",
        "12",
    ];
    let documents = |more: &[&str], lines: &str| -> Vec<Json> {
        let args = [&chat[..], more].concat();
        let stdout = bitnet_with_stdin(Path::new("."), &args, lines.as_bytes()).quietly();
        let documents = stdout.lines().map(serde_json::from_str);
        documents.collect::<Result<_, _>>().unwrap()
    };
    let whole = documents(&[], "Hello.\n");
    let whole = whole[0]["text"].as_str().unwrap();
    // Somewhere in the middle, across two words.
    let middle = whole[whole.len() / 2..].find(' ').unwrap() + whole.len() / 2;
    let stop = &whole[middle - 1..middle + 2];
    let expected = &whole[..whole.find(stop).unwrap()];

    let said = documents(&["--stop", stop], "Hello.\nAnd then?\n");
    assert_eq!(said[0]["text"], expected);
    assert_eq!(said[0]["finish_reason"], "stop");
    // Tokens of the first answer beyond the stop sequence are not part of the prompt.
    let prompt = format!(
        "User: Hello.<|eot_id|>Assistant: {}<|eot_id|>User: And then?<|eot_id|>Assistant:",
        expected.trim()
    );
    let args = [
        "run", "-q", "--temp", "0", "-n", "12", "--json", "--stop", stop, &prompt,
    ];
    let run = bitnet(&args).json();
    for key in ["prompt_ids", "ids", "text", "finish_reason"] {
        assert_eq!(said[1][key], run[key], "{key}");
    }
}

#[test]
fn drafts_change_no_text() {
    let prompt = "Tom had a red ball and a blue ball. ".repeat(4);
    let write = |speculate| {
        let args = [
            "run",
            "--temp",
            "0",
            "-n",
            "60",
            "-v",
            "--speculate",
            speculate,
            &prompt,
        ];
        let run = bitnet(&args);
        assert_eq!(run.code, Some(0), "{run:?}");
        (run.stdout, run.stderr)
    };
    let ((with, report), (without, quiet)) = (write("on"), write("off"));
    assert_eq!(with, without);
    assert!(report.contains(" tokens drafted, "), "{report}");
    assert!(!quiet.contains("drafted"), "{quiet}");
}
