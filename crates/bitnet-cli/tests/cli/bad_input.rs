//! Invalid input: an error line with the problem, its location and the expectation, mostly
//! a hint, and the documented exit code.

use std::path::Path;

use insta::assert_snapshot;

use super::{PROMPT, bitnet, bitnet_in, bitnet_with_stdin, storyteller, without_system_words};

/// Returns exit code, error and hint of a run that must fail, without platform-specific
/// messages.
fn failure(folder: &Path, args: &[&str]) -> String {
    failure_with_stdin(folder, args, b"")
}

fn failure_with_stdin(folder: &Path, args: &[&str], stdin: &[u8]) -> String {
    let before = names(folder);
    let run = bitnet_with_stdin(folder, &[&["-q"], args].concat(), stdin);
    assert_eq!(run.stdout, "", "{run:?}");
    assert_eq!(names(folder), before, "nothing is left behind");
    let lines: Vec<_> = run.stderr.lines().collect();
    let expected = match lines[..] {
        [error] => error.starts_with("error: "),
        [error, hint] => error.starts_with("error: ") && hint.starts_with("hint: "),
        _ => false,
    };
    assert!(expected, "{run:?}");
    let mut report = format!("exit code {}", run.code.unwrap());
    for line in lines {
        report = format!("{report}\n{}", without_system_words(line));
    }
    report
}

fn names(folder: &Path) -> Vec<std::ffi::OsString> {
    let entries = folder.read_dir().unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
    names.sort();
    names
}

/// Returns the failure of a run without files.
fn refused(args: &[&str]) -> String {
    failure(tempfile::tempdir().unwrap().path(), args)
}

/// Returns the failure to inspect a file with these bytes.
fn unreadable(file: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.gguf"), file).unwrap();
    let inspected = failure(folder.path(), &["inspect", "model.gguf"]);
    let run = failure(folder.path(), &["run", "-m", "model.gguf", PROMPT]);
    assert_eq!(inspected, run);
    inspected
}

/// Returns where a text first stands in a file.
fn find(file: &[u8], text: &str) -> usize {
    file.windows(text.len())
        .position(|window| window == text.as_bytes())
        .unwrap()
}

/// A folder with these files, called `model`.
fn hf_folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for (name, text) in files {
        std::fs::write(model.join(name), text).unwrap();
    }
    folder
}

/// The built-in model as a HuggingFace folder, called `model`.
fn storyteller_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let args = ["convert", "-q", "builtin", "model", "--to", "hf-packed"];
    bitnet_in(folder.path(), &args).quietly();
    folder
}

#[test]
fn a_model_that_is_not_there() {
    assert_snapshot!(refused(&["run", "-m", "no.gguf", PROMPT]), @"
    exit code 1
    error: failed to load no.gguf: cannot read no.gguf: SYSTEM
    hint: a model is a GGUF file, a HuggingFace folder, or `builtin`
    ");
    assert_snapshot!(refused(&["inspect", "no.gguf"]), @"
    exit code 1
    error: failed to load no.gguf: cannot read no.gguf: SYSTEM
    hint: a model is a GGUF file, a HuggingFace folder, or `builtin`
    ");
}

#[test]
fn a_file_that_is_no_model() {
    assert_snapshot!(unreadable(b""), @"
    exit code 1
    error: failed to load model.gguf: not a readable GGUF file: the file is truncated: the magic number at byte 0 takes 4 bytes of which 0 remain
    hint: if this was downloaded, compare its size and checksum with the original
    ");
    assert_snapshot!(unreadable(b"PK\x03\x04 and so on"), @r#"
    exit code 1
    error: failed to load model.gguf: not a readable GGUF file: it begins with "PK\x03\x04" instead of "GGUF"
    hint: for SafeTensors, pass the folder that contains them and config.json
    "#);
}

#[test]
fn a_truncated_file() {
    let file = storyteller();
    assert_snapshot!(unreadable(&file[..3]), @"
    exit code 1
    error: failed to load model.gguf: not a readable GGUF file: the file is truncated: the magic number at byte 0 takes 4 bytes of which 3 remain
    hint: if this was downloaded, compare its size and checksum with the original
    ");
    assert_snapshot!(unreadable(&file[..20]), @"
    exit code 1
    error: failed to load model.gguf: not a readable GGUF file: the file is truncated: the number of metadata values at byte 16 takes 8 bytes of which 4 remain
    hint: if this was downloaded, compare its size and checksum with the original
    ");
    let in_metadata = find(&file, "tokenizer.ggml.tokens");
    assert_snapshot!(unreadable(&file[..in_metadata + 10]), @"
    exit code 1
    error: failed to load model.gguf: not a readable GGUF file: the file is truncated: the key of metadata value 19 at byte 919 takes 21 bytes of which 10 remain
    hint: if this was downloaded, compare its size and checksum with the original
    ");
    let in_directory = find(&file, "blk.0.attn_q.weight");
    assert_snapshot!(unreadable(&file[..in_directory + 25]), @"
    exit code 1
    error: failed to load model.gguf: not a readable GGUF file: 112 tensors are declared but the rest of the file has room for at most 6
    hint: if this was downloaded, compare its size and checksum with the original
    ");
    assert_snapshot!(unreadable(&file[..file.len() / 2]), @r#"
    exit code 1
    error: failed to load model.gguf: not a readable GGUF file: tensor "blk.1.ffn_up.weight" is at byte 5470208 of the data, of which the file has 5467856
    hint: if this was downloaded, compare its size and checksum with the original
    "#);
    assert_snapshot!(unreadable(&file[..file.len() - 64]), @r#"
    exit code 1
    error: failed to load model.gguf: tensor "output_norm.weight" needs 2048 bytes at offset 11496032, but only 1984 are there
    hint: if this was downloaded, compare its size and checksum with the original
    "#);
}

#[test]
fn a_file_for_another_machine_or_time() {
    let mut file = storyteller();
    file[4..8].copy_from_slice(&9u32.to_le_bytes());
    assert_snapshot!(unreadable(&file), @"
    exit code 1
    error: failed to load model.gguf: not a readable GGUF file: GGUF version 9 is not supported, only 2 and 3 are
    ");
    file[4..8].copy_from_slice(&3u32.to_be_bytes());
    assert_snapshot!(unreadable(&file), @"
    exit code 1
    error: failed to load model.gguf: not a readable GGUF file: big-endian GGUF is not supported: the file must be converted to little-endian
    ");
}

#[test]
fn an_unsupported_architecture() {
    let mut file = storyteller();
    let at = find(&file, "bitnet-b1.58");
    file[at..][..12].copy_from_slice(b"mystery-9.99");
    assert_snapshot!(unreadable(&file), @r#"
    exit code 1
    error: failed to load model.gguf: architecture "mystery-9.99" is not supported (supported: bitnet-b1.58, bitnet-25, bitnet, llama, qwen3, minicpm, gemma3)
    "#);
}

#[test]
fn an_unsupported_tensor_type() {
    let mut file = storyteller();
    let name = "blk.0.attn_q.weight";
    // After the name: the number of dimensions, two of them, the type.
    let at = find(&file, name) + name.len() + 4 + 2 * 8;
    file[at..][..4].copy_from_slice(&999u32.to_le_bytes());
    assert_snapshot!(unreadable(&file), @r#"
    exit code 1
    error: failed to load model.gguf: tensor "blk.0.attn_q.weight" has type id 999, which is not supported
    hint: take the model as GGUF in I2_S, TQ1_0 or TQ2_0, or as a packed HuggingFace folder
    "#);
    file[at..][..4].copy_from_slice(&1u32.to_le_bytes());
    assert_snapshot!(unreadable(&file), @r#"
    exit code 1
    error: failed to load model.gguf: tensor "blk.0.attn_q.weight" needs 524288 bytes at offset 4739680, but only 55296 are there
    hint: if this was downloaded, compare its size and checksum with the original
    "#);
}

#[test]
fn a_folder_that_is_no_model() {
    let inspect = |files: &[(&str, &str)]| failure(hf_folder(files).path(), &["inspect", "model"]);
    assert_snapshot!(inspect(&[]), @"
    exit code 1
    error: failed to load model: expected a GGUF file or a HuggingFace folder (config.json and *.safetensors), found a folder without config.json
    hint: download a model's files into one folder, or name a GGUF file inside it
    ");
    assert_snapshot!(inspect(&[("config.json", "{}")]), @"
    exit code 1
    error: failed to load model: expected a GGUF file or a HuggingFace folder (config.json and *.safetensors), found a folder without model.safetensors
    hint: download a model's files into one folder, or name a GGUF file inside it
    ");
    let weights = ("model.safetensors", "");
    assert_snapshot!(inspect(&[("config.json", "{\n  \"model_type\": "), weights]), @"
    exit code 1
    error: failed to load model: config.json is not as expected: EOF while parsing a value at line 2 column 16
    hint: if this was downloaded, compare its size and checksum with the original
    ");
    assert_snapshot!(inspect(&[("config.json", "{}"), weights]), @"
    exit code 1
    error: failed to load model: config.json is not as expected: missing field `model_type` at line 1 column 2
    hint: if this was downloaded, compare its size and checksum with the original
    ");
}

#[test]
fn a_folder_of_another_kind_of_model() {
    let folder = storyteller_folder();
    let config = folder.path().join("model/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "{text}");
        std::fs::write(&config, text.replace(from, to)).unwrap();
        failure(folder.path(), &["inspect", "model"])
    };
    assert_snapshot!(with("\"model_type\": \"bitnet\"", "\"model_type\": \"gemma\""), @r#"
    exit code 1
    error: failed to load model: architecture "gemma" is not supported (supported: bitnet-b1.58, bitnet-25, bitnet, llama, qwen3, minicpm, gemma3)
    "#);
    assert_snapshot!(with("\"quant_method\": \"bitnet\"", "\"quant_method\": \"awq\""), @r#"
    exit code 1
    error: failed to load model: quantization method "awq" is not supported (expected bitnet)
    "#);
    assert_snapshot!(with("\"quantization_config\"", "\"other_config\""), @r#"
    exit code 1
    error: failed to load model: key "quantization_config" is missing
    hint: only models with ternary weights can be run: BitNet b1.58 and its family
    "#);
    assert_snapshot!(with("\"num_hidden_layers\": ", "\"num_hidden_layers\": 1"), @r#"
    exit code 1
    error: failed to load model: tensor "model.layers.10.input_layernorm.weight" is missing
    "#);
    assert_snapshot!(with("\"intermediate_size\": ", "\"intermediate_size\": 1"), @r#"
    exit code 1
    error: failed to load model: tensor "model.layers.0.mlp.gate_proj.weight" is 1536 x 512, expected 11536 x 512 by the configuration
    "#);
}

#[test]
fn weights_that_are_cut_off() {
    let folder = storyteller_folder();
    let weights = folder.path().join("model/model.safetensors");
    let file = std::fs::File::options().write(true).open(&weights).unwrap();
    file.set_len(1_000_000).unwrap();
    assert_snapshot!(failure(folder.path(), &["inspect", "model"]), @"
    exit code 1
    error: failed to load model: model.safetensors is not a readable SafeTensors file: incomplete metadata, file not fully covered
    hint: if this was downloaded, compare its size and checksum with the original
    ");
    file.set_len(5).unwrap();
    assert_snapshot!(failure(folder.path(), &["inspect", "model"]), @"
    exit code 1
    error: failed to load model: model.safetensors is not a readable SafeTensors file: header too small
    hint: if this was downloaded, compare its size and checksum with the original
    ");
}

#[test]
fn a_shard_that_is_missing_or_elsewhere() {
    let inspect = |shard: &str| {
        let index = format!("{{\"weight_map\": {{\"model.norm.weight\": \"{shard}\"}}}}");
        let folder = storyteller_folder();
        let at = folder.path().join("model/model.safetensors.index.json");
        std::fs::write(at, index).unwrap();
        // With the single file, the index is ignored.
        std::fs::remove_file(folder.path().join("model/model.safetensors")).unwrap();
        failure(folder.path(), &["inspect", "model"])
    };
    #[cfg(unix)]
    assert_snapshot!(inspect("model-00001-of-00002.safetensors"), @"
    exit code 1
    error: failed to load model: cannot read model/model-00001-of-00002.safetensors: SYSTEM
    hint: download this file of the model, too
    ");
    assert_snapshot!(inspect("../secret.safetensors"), @r#"
    exit code 1
    error: failed to load model: shard "../secret.safetensors" is not supported (expected a file name without a folder)
    "#);
}

#[test]
fn a_tokenizer_that_is_broken_or_missing() {
    let folder = storyteller_folder();
    let tokenizer = folder.path().join("model/tokenizer.json");
    let run = ["run", "-m", "model", PROMPT];
    std::fs::write(&tokenizer, "{\"model\": {}").unwrap();
    assert_snapshot!(failure(folder.path(), &run), @"
    exit code 1
    error: failed to read the tokenizer of model: tokenizer.json is not as expected: EOF while parsing an object at line 1 column 12
    ");
    std::fs::write(&tokenizer, "{\"model\": {\"type\": \"BPE\"}}").unwrap();
    assert_snapshot!(failure(folder.path(), &run), @"
    exit code 1
    error: failed to read the tokenizer of model: the tokenizer cannot be built: Missing vocab/merges at line 1 column 26
    ");
    std::fs::remove_file(&tokenizer).unwrap();
    #[cfg(unix)]
    assert_snapshot!(failure(folder.path(), &run), @"
    exit code 1
    error: failed to read the tokenizer of model: cannot read model/tokenizer.json: SYSTEM
    hint: download this file of the model, too; `bitnet logits` works without it
    ");
    // Token ids need no tokenizer.
    let logits = ["logits", "-q", "-m", "model", "--top", "1", "--tokens", "1"];
    let table = bitnet_in(folder.path(), &logits).quietly();
    assert_eq!(table.split_whitespace().count(), 2, "{table}");
    let report = bitnet_in(folder.path(), &["inspect", "-q", "--json", "model"]).json();
    assert!(report["tokenizer"]["error"].is_string());
}

/// A tokenizer may have more tokens than the model has rows.
#[test]
fn a_text_with_a_token_that_the_model_lacks() {
    let folder = storyteller_folder();
    let path = folder.path().join("model/tokenizer.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&text).unwrap();
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    let mut stranger = added[0].clone();
    stranger["id"] = 8192.into();
    stranger["content"] = "<|stranger|>".into();
    added.push(stranger);
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    let text = b"king<|stranger|>";
    let perplexity = ["perplexity", "-m", "model", "-f", "-"];
    assert_snapshot!(failure_with_stdin(folder.path(), &perplexity, text), @r#"
    exit code 1
    error: token 8192 ("<|stranger|>") is beyond the model's vocabulary of 8192
    "#);
    let run = ["run", "-m", "model", "-"];
    assert_snapshot!(failure_with_stdin(folder.path(), &run, text), @r#"
    exit code 1
    error: token 8192 ("<|stranger|>") is beyond the model's vocabulary of 8192
    "#);
}

#[cfg(unix)]
#[test]
fn a_path_that_is_neither_file_nor_folder() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    assert_snapshot!(failure(folder.path(), &["inspect", "fifo"]), @"
    exit code 1
    error: failed to load fifo: expected a GGUF file or a HuggingFace folder (config.json and *.safetensors), found neither a file nor a folder
    hint: download a model's files into one folder, or name a GGUF file inside it
    ");
    assert_snapshot!(failure(folder.path(), &["inspect", "/dev/null"]), @"
    exit code 1
    error: failed to load /dev/null: expected a GGUF file or a HuggingFace folder (config.json and *.safetensors), found neither a file nor a folder
    hint: download a model's files into one folder, or name a GGUF file inside it
    ");
}

#[test]
fn a_context_that_the_model_does_not_have() {
    assert_snapshot!(refused(&["run", "-c", "99999", PROMPT]), @"
    exit code 2
    error: a context of 99999 tokens is impossible, expected 1 to 1024, what the model was made for
    hint: try `-c 1024` or less
    ");
    assert_snapshot!(refused(&["run", "-c", "0", PROMPT]), @"
    exit code 2
    error: a context of 0 tokens is impossible, expected 1 to 1024, what the model was made for
    hint: try `-c 1024` or less
    ");
    assert_snapshot!(refused(&["inspect", "-c", "1025"]), @"
    exit code 2
    error: a context of 1025 tokens is impossible, expected 1 to 1024, what the model was made for
    hint: try `-c 1024` or less
    ");
    let folder = hf_folder(&[("story.txt", "A king.")]);
    let perplexity = ["perplexity", "-f", "model/story.txt", "-c", "2000"];
    assert_snapshot!(failure(folder.path(), &perplexity), @"
    exit code 2
    error: a context of 2000 tokens is impossible, expected 1 to 1024, what the model was made for
    hint: try `-c 1024` or less
    ");
}

#[test]
fn a_prompt_longer_than_the_context() {
    assert_snapshot!(refused(&["run", "-c", "4", PROMPT]), @"
    exit code 2
    error: failed to generate: the prompt has 9 tokens, but the context only 4
    hint: give a larger context with `-c`, or a shorter prompt
    ");
}

#[test]
fn an_empty_prompt() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("empty.txt"), "").unwrap();
    std::fs::write(folder.path().join("line.txt"), "\n").unwrap();
    let argument = failure(folder.path(), &["run", ""]);
    assert_snapshot!(argument, @r#"
    exit code 2
    error: the prompt is empty
    hint: try `bitnet run "Once upon a time"`
    "#);
    assert_eq!(
        failure(folder.path(), &["run", "-f", "empty.txt"]),
        argument
    );
    assert_eq!(failure(folder.path(), &["run", "-f", "line.txt"]), argument);
    assert_eq!(failure(folder.path(), &["run", "-"]), argument);
    assert_eq!(failure(folder.path(), &["run"]), argument);
    assert_snapshot!(failure(folder.path(), &["perplexity", "-f", "empty.txt"]), @"
    exit code 1
    error: failed to score empty.txt: there are no tokens to score
    ");
}

#[test]
fn a_model_where_the_prompt_belongs() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.gguf"), "").unwrap();
    assert_snapshot!(failure(folder.path(), &["run", "model.gguf"]), @"
    exit code 2
    error: the prompt is a model, expected `-m model.gguf` and a prompt
    ");
}

#[test]
fn a_text_file_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("latin1.txt"), b"M\xe4rchen").unwrap();
    let commands = ["run", "tokenize", "perplexity"];
    let failures = |file: &str| commands.map(|c| failure(folder.path(), &[c, "-f", file]));
    let [run, tokenize, perplexity] = failures("latin1.txt");
    assert_snapshot!(run, @"
    exit code 1
    error: latin1.txt is not UTF-8 text: invalid byte at offset 1
    ");
    assert_eq!([&tokenize, &perplexity], [&run, &run]);
    let [run, tokenize, perplexity] = failures("no.txt");
    assert_snapshot!(run, @"
    exit code 1
    error: failed to read no.txt: SYSTEM
    ");
    assert_eq!([&tokenize, &perplexity], [&run, &run]);
    assert_snapshot!(failure_with_stdin(folder.path(), &["run", "-"], b"ab\xff"), @"
    exit code 1
    error: stdin is not UTF-8 text: invalid byte at offset 2
    ");
}

#[test]
fn numbers_out_of_range() {
    assert_snapshot!(refused(&["run", "--temp", "-1", PROMPT]), @"
    exit code 2
    error: temperature is -1, expected 0 or more
    ");
    assert_snapshot!(refused(&["run", "--temp", "nan", PROMPT]), @"
    exit code 2
    error: temperature is NaN, expected 0 or more
    ");
    assert_snapshot!(refused(&["run", "--top-p", "2", PROMPT]), @"
    exit code 2
    error: top-p is 2, expected 0 to 1
    ");
    assert_snapshot!(refused(&["run", "--presence-penalty", "2.5", PROMPT]), @"
    exit code 2
    error: presence penalty is 2.5, expected -2 to 2
    ");
    assert_snapshot!(refused(&["chat", "--frequency-penalty", "-3"]), @"
    exit code 2
    error: frequency penalty is -3, expected -2 to 2
    ");
    assert_snapshot!(refused(&["run", "--stop", "", PROMPT]), @"
    exit code 2
    error: a stop text is empty, expected at least one character
    ");
    assert_snapshot!(refused(&["run", "--min-p", "-0.5", PROMPT]), @"
    exit code 2
    error: min-p is -0.5, expected 0 to 1
    ");
    assert_snapshot!(refused(&["run", "--repeat-penalty", "0", PROMPT]), @"
    exit code 2
    error: repeat penalty is 0, expected above 0
    ");
    assert_snapshot!(refused(&["run", "-t", "0", PROMPT]), @"
    exit code 2
    error: cannot run on 0 threads, expected 1 to 1024
    ");
    assert_snapshot!(refused(&["run", "-t", "100000", PROMPT]), @"
    exit code 2
    error: cannot run on 100000 threads, expected 1 to 1024
    ");
}

#[test]
fn arguments_that_are_not_understood() {
    for args in [
        &["run", "--seed", "-2", PROMPT][..],
        &["run", "--top-k", "-2", PROMPT],
        &["run", "-n", "-2", PROMPT],
        &["chat", "-n", "-2"],
        &["run", "-t", "-1", PROMPT],
        &["run", "-n", "many", PROMPT],
        &["run", "--head", "q8_0", PROMPT],
        &["run", "--unknown", PROMPT],
        &["run", "-f", "file", PROMPT],
        &["run", "-q", "-v", PROMPT],
        &["tokenize", "--decode", "1", "text"],
        &["perplexity"],
        &["convert", "builtin"],
        &["convert", "builtin", "x", "--to", "gguf-q4_0"],
        &["completions", "tcsh"],
        &["fly"],
    ] {
        let run = super::bitnet(args);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(run.stderr.starts_with("error: "), "{run:?}");
        assert_eq!(run.stderr.matches("error: ").count(), 1, "{run:?}");
    }
}

#[test]
fn an_unknown_kernel() {
    let report = refused(&["run", "--kernel", "neon2000", PROMPT]);
    // The names depend on the target architecture.
    let (known, names) = report.split_once(" (known: ").unwrap();
    assert_snapshot!(known, @r#"
    exit code 2
    error: no kernel is called "neon2000"
    "#);
    assert!(names.contains("generic-i2xi8-scalar"), "{names}");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_name_of_two_kernels() {
    assert_snapshot!(refused(&["run", "--kernel", "avx512", PROMPT]), @r#"
    exit code 2
    error: several kernels are called "avx512": x86_64-i2xi8-avx512vnni, x86_64-i2xi8-avx512bw
    "#);
}

#[test]
fn weights_that_a_kernel_has_no_instructions_for() {
    let args = ["run", "--kernel", "scalar", "--weight-bits", "1.6", PROMPT];
    assert_snapshot!(refused(&args), @r#"
    exit code 2
    error: kernel generic-i2xi8-scalar has no instructions for 1.6-bit weights, expected `--weight-bits 2.0`
    "#);
}

#[test]
fn ids_that_are_none() {
    assert_snapshot!(refused(&["logits", "--tokens", "1,8192"]), @"
    exit code 2
    error: no token has id 8192, expected 0 to 8191
    ");
    assert_snapshot!(refused(&["logits", "--tokens", "1,two"]), @r#"
    exit code 2
    error: "two" is not a token id, expected numbers such as 1,2,3
    "#);
    assert_snapshot!(refused(&["logits", "--tokens", "-1"]), @r#"
    exit code 2
    error: "-1" is not a token id, expected numbers such as 1,2,3
    "#);
    assert_snapshot!(refused(&["logits", "--tokens", ""]), @"
    exit code 2
    error: --tokens is empty, expected numbers such as 1,2,3
    ");
    let too_many = vec!["1"; 1025].join(",");
    assert_snapshot!(refused(&["logits", "--tokens", &too_many]), @"
    exit code 2
    error: --tokens has 1025 ids, expected 1 to 1024 for this model
    ");
    assert_snapshot!(refused(&["tokenize", "--decode", "1,8192"]), @"
    exit code 2
    error: no token has id 8192 (there are 8192)
    ");
    assert_snapshot!(refused(&["tokenize", "--decode", "one"]), @r#"
    exit code 2
    error: "one" is not a token id, expected numbers such as 1,2,3
    "#);
}

#[test]
fn a_conversion_that_is_impossible() {
    let folder = hf_folder(&[("mine.txt", "mine")]);
    let convert = |args: &[&str]| failure(folder.path(), &[&["convert", "builtin"], args].concat());
    std::fs::write(folder.path().join("out.gguf"), "mine").unwrap();
    assert_snapshot!(convert(&["out.gguf"]), @"
    exit code 1
    error: failed to convert builtin to out.gguf: out.gguf exists
    hint: `--force` replaces it
    ");
    assert_snapshot!(convert(&["no/out.gguf"]), @"
    exit code 1
    error: failed to convert builtin to no/out.gguf: cannot write into no: SYSTEM
    hint: make the folder first
    ");
    assert_snapshot!(convert(&["no/out", "--to", "hf-packed"]), @"
    exit code 1
    error: failed to convert builtin to no/out: cannot write into no: SYSTEM
    hint: make the folder first
    ");
    assert_snapshot!(convert(&["out", "--to", "hf-packed", "--head", "q8_0"]), @"
    exit code 2
    error: failed to convert builtin to out: a HuggingFace folder cannot store embeddings as Q8_0, expected F32, F16 or BF16
    hint: try `--head bf16`
    ");
    assert_snapshot!(convert(&["model", "--force"]), @"
    exit code 1
    error: failed to convert builtin to model: model is a folder, expected a file to replace
    ");
    assert_snapshot!(convert(&["out.gguf", "--force", "--to", "hf-packed"]), @"
    exit code 1
    error: failed to convert builtin to out.gguf: out.gguf is not a folder, expected one to replace
    ");
    assert_snapshot!(convert(&["model", "--force", "--to", "hf-packed"]), @r#"
    exit code 1
    error: failed to convert builtin to model: model holds "mine.txt", which no conversion has written
    hint: name a new folder
    "#);
    let mine = folder.path().join("model/mine.txt");
    assert_eq!(std::fs::read(mine).unwrap(), b"mine");
    let mine = folder.path().join("out.gguf");
    assert_eq!(std::fs::read(mine).unwrap(), b"mine");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk() {
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = super::command(Path::new("."), &["tokenize", "-q", "king"]);
    let output = command.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_snapshot!(String::from_utf8(output.stderr).unwrap(), @"error: failed to write to stdout: No space left on device (os error 28)");
}

#[test]
fn measurements_that_make_no_sense() {
    assert_snapshot!(refused(&["bench", "-p", "0", "-n", "0"]), @"
    exit code 2
    error: there is nothing to measure, give -p or -n
    ");
    assert_snapshot!(refused(&["bench", "-r", "0"]), @"
    exit code 2
    error: -r and -b are 1 or more
    ");
    assert_snapshot!(refused(&["bench", "-p", "1000", "-d", "100"]), @"
    exit code 2
    error: a context of 1100 tokens is impossible, expected 1 to 1024, what the model was made for
    hint: try `-c 1024` or less
    ");
    assert_snapshot!(refused(&["bench", "-t", "0"]), @"
    exit code 2
    error: cannot run on 0 threads, expected 1 to 1024
    ");
    assert_snapshot!(refused(&["bench", "--kernels", "-t", "0"]), @"
    exit code 2
    error: cannot run on 0 threads, expected 1 to 1024
    ");
    let run = bitnet(&["bench", "--kernels", "-p", "5"]);
    assert_eq!(run.code, Some(2), "{run:?}");
    let message = "error: the argument '--kernels' cannot be used with '--prompt <N,…>'";
    assert!(run.stderr.starts_with(message), "{run:?}");
    let huge = usize::MAX.to_string();
    assert_snapshot!(refused(&["bench", "-b", "70000"]), @"
    exit code 2
    error: cannot run 70000 sequences, expected 1 to 65536
    ");
    for args in [["-p", &huge], ["-d", &huge], ["-b", &huge], ["-t", &huge]] {
        let refusal = refused(&["bench", args[0], args[1]]);
        assert!(refusal.starts_with("exit code 2"), "{refusal}");
    }
}

#[test]
fn devices_that_cannot_be_used() {
    let expected = refused(&["run", "--device", "cuda", PROMPT]);
    assert_snapshot!(expected, @"
    exit code 1
    error: device cuda cannot be used: this build has no CUDA support
    hint: `--device cpu` runs everywhere; `bitnet devices` shows what there is
    ");
    for command in [&["bench"][..], &["logits", "--tokens", "1"]] {
        let args = [command, &["--device", "cuda"]].concat();
        assert_eq!(refused(&args), expected);
    }
    let perplexity = ["perplexity", "-f", "-", "--device", "cuda"];
    let folder = tempfile::tempdir().unwrap();
    let found = failure_with_stdin(folder.path(), &perplexity, PROMPT.as_bytes());
    assert_eq!(found, expected);
    let unknown = bitnet(&["run", "--device", "opencl", PROMPT]);
    assert_eq!(unknown.code, Some(2));
    let expected = "expected auto, cpu, cuda, metal, vulkan or dx12; a GPU's name may follow";
    assert!(unknown.stderr.contains(expected), "{unknown:?}");
    assert_snapshot!(refused(&["run", "--device", "vulkan", "--kv", "int8", PROMPT]), @"
    exit code 1
    error: GPUs have keys and values in f16 only
    hint: `--device cpu` runs everywhere; `bitnet devices` shows what there is
    ");
    assert_snapshot!(refused(&["run", "--device", "vulkan", "--head", "exact", PROMPT]), @"
    exit code 1
    error: GPUs compute with an int8 output matrix only
    hint: `--device cpu` runs everywhere; `bitnet devices` shows what there is
    ");
    assert_snapshot!(refused(&["bench", "--kernels", "--device", "vulkan"]), @"
    exit code 2
    error: --kernels needs `--device cpu`: it measures the kernels of the CPU
    ");
    assert_snapshot!(refused(&["bench", "--breakdown", "--device", "vulkan"]), @"
    exit code 2
    error: --breakdown needs `--device cpu`: it measures the operations of the CPU
    ");
    let receipt = ["run", "--device", "vulkan", "--receipt", "r.json", PROMPT];
    assert_snapshot!(failure_with_stdin(folder.path(), &receipt, b""), @"
    exit code 2
    error: --receipt needs `--device cpu`: what a GPU computes is not the same on other machines
    ");
    assert!(!folder.path().join("r.json").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn an_adapter_that_is_not_there_is_refused_with_the_reason() {
    let found = refused(&["run", "--device", "vulkan:Radeon", PROMPT]);
    assert_snapshot!(found, @r#"
    exit code 1
    error: there is no Vulkan adapter named "Radeon"; no adapter was found (VK_ICD_FILENAMES names no-driver.json, which does not exist)
    hint: `--device cpu` runs everywhere; `bitnet devices` shows what there is
    "#);
}

#[test]
fn what_takes_more_memory_than_it_may() {
    let limited = |limit, more: &[&str]| {
        // Scratch memory depends on the number of threads, and on the kernel.
        let args = [
            "run",
            "-t",
            "2",
            "--kernel",
            "scalar",
            "--memory-limit",
            limit,
            PROMPT,
        ];
        refused(&[&args[..], more].concat())
    };
    assert_snapshot!(limited("24MiB", &[]), @"
    exit code 1
    error: the model takes 29.6 MiB, more than the limit of 24.0 MiB: weights 7.6 MiB, head 4.0 MiB, keys and values 10.0 MiB at a context of 1024, scratch 7.9 MiB
    hint: what fits: `-c 384`, or `-c 768 --kv int8`
    ");
    assert_snapshot!(limited("26MB", &["--head", "exact", "--kv", "f32"]), @"
    exit code 1
    error: the model takes 43.8 MiB, more than the limit of 24.8 MiB: weights 7.6 MiB, head 8.3 MiB, keys and values 20.0 MiB at a context of 1024, scratch 7.9 MiB
    hint: what fits: `-c 128`, or `-c 251 --kv int8`, or `-c 256 --head int8`, or `-c 896 --kv int8 --head int8`
    ");
    assert_snapshot!(limited("8000000", &[]), @"
    exit code 1
    error: the model takes 29.6 MiB, more than the limit of 7.6 MiB: weights 7.6 MiB, head 4.0 MiB, keys and values 10.0 MiB at a context of 1024, scratch 7.9 MiB
    hint: no context fits: give it more memory, or take a smaller model
    ");
    let bench = refused(&[
        "bench",
        "-t",
        "2",
        "--kernel",
        "scalar",
        "-p",
        "1024",
        "-n",
        "0",
        "--memory-limit",
        "24MiB",
    ]);
    assert_eq!(bench, limited("24MiB", &[]));
    let mistyped = bitnet(&["run", "--memory-limit", "much", PROMPT]);
    assert_eq!(mistyped.code, Some(2));
    let said = "'--memory-limit <BYTES>': expected a number of bytes, such as 800MB or 1.2GiB";
    assert!(mistyped.stderr.contains(said), "{}", mistyped.stderr);
}

#[test]
fn what_came_in_place_of_a_file_is_told() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 9\n";
    let lfs = "this looks like a Git LFS pointer instead of the file: `git lfs pull` downloads it";
    let hint = |failure: String| failure.lines().last().unwrap().to_owned();
    assert_eq!(hint(unreadable(pointer.as_bytes())), format!("hint: {lfs}"));
    let page = hint(unreadable(b"<!DOCTYPE html><html></html>"));
    assert_eq!(page, "hint: this is an HTML page; download the file itself");
    let folder = storyteller_folder();
    std::fs::write(folder.path().join("model/model.safetensors"), pointer).unwrap();
    let run = ["run", "-m", "model", PROMPT];
    assert_eq!(hint(failure(folder.path(), &run)), format!("hint: {lfs}"));
}
