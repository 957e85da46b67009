//! Models with invalid weights, or whose files change while in use.

use std::path::Path;

use bitnet_inference::gguf::Gguf;
use serde_json::Value;

use super::{PROMPT, bitnet_in, bitnet_with_stdin, storyteller};

/// Writes the built-in model into a folder, with a tensor's bytes edited.
fn edited(folder: &Path, name: &str, edit: impl FnOnce(&mut [u8])) {
    let mut file = storyteller();
    let gguf = Gguf::parse(&file).unwrap();
    let tensor = gguf.tensor(name).unwrap();
    let start = tensor.offset as usize;
    edit(&mut file[start..start + tensor.span as usize]);
    std::fs::write(folder.join("m.gguf"), file).unwrap();
}

#[test]
fn weights_that_are_no_numbers_end_every_command_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let text = b"Once upon a time";
    let commands: [&[&str]; 4] = [
        &["run", "--json", "--temp", "0", "-n", "4"],
        &["logits", "--json", "--tokens", "8176,46,1277"],
        &["perplexity", "--json", "-f", "-"],
        &["embed", "--json", "-f", "-"],
    ];
    let check = |tensor: &str, more: &[&str]| {
        for command in commands {
            let args = [command, &["-q", "-m", "m.gguf"], more].concat();
            let run = bitnet_with_stdin(folder.path(), &args, text);
            assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
            assert!(run.stderr.starts_with("error: "), "{run:?}");
            assert!(
                run.stderr.contains(&format!("in tensor {tensor:?}")),
                "{run:?}"
            );
        }
    };
    // One value of a norm, which quantized activations hide.
    edited(folder.path(), "blk.3.ffn_norm.weight", |bytes| {
        bytes[..4].fill(0xFF);
    });
    check("blk.3.ffn_norm.weight", &[]);
    // All scales of the embedding: found while loading, and while running.
    edited(folder.path(), "token_embd.weight", |bytes| bytes.fill(0xFF));
    check("token_embd.weight", &[]);
    check("token_embd.weight", &["--head", "exact"]);
}

#[test]
fn a_matrix_of_zeros_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let name = "blk.0.attn_q.weight";
    // TQ1_0: in blocks of 54 bytes, 52 of trits, whose scales stay.
    edited(folder.path(), name, |bytes| {
        for block in bytes.chunks_exact_mut(54) {
            block[..52].fill(0x80);
        }
    });
    let inspect = ["inspect", "-q", "--json", "--check", "m.gguf"];
    let report = bitnet_in(folder.path(), &inspect).json();
    let expected = format!("tensor {name:?}: every value is zero");
    assert_eq!(report["check"]["unsound"], serde_json::json!([]));
    assert_eq!(report["check"]["suspicious"], serde_json::json!([expected]));
    let run = bitnet_in(folder.path(), &["run", "-m", "m.gguf", "-n", "1", PROMPT]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let first = run.stderr.lines().next().unwrap();
    assert_eq!(first, format!("warning: {expected}"));
}

#[test]
fn a_text_is_scored_without_bos() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = storyteller();
    let key = b"tokenizer.ggml.bos_token_id";
    let at = file
        .windows(key.len())
        .position(|part| part == key)
        .unwrap();
    file[at + "tokenizer.ggml.".len()..][..3].copy_from_slice(b"xxx");
    std::fs::write(folder.path().join("m.gguf"), file).unwrap();
    let text = b"Once upon a time there was a king who had three sons.";
    let args = ["perplexity", "--json", "-f", "-", "-m", "m.gguf"];
    let run = bitnet_with_stdin(folder.path(), &args, text);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(
        run.stderr,
        "note: the tokenizer has no BOS token: the first token is not scored\n"
    );
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (&report["bos"], &report["tokens"]),
        (&Value::Null, &13.into())
    );
    assert!(report["ppl"].as_f64().unwrap() > 1.0);
}

#[cfg(unix)]
mod shortened {
    use std::fs::File;
    use std::io::{BufRead, BufReader, Write};
    use std::path::{Path, PathBuf};
    use std::process::Stdio;
    use std::time::Duration;

    use super::super::{command, storyteller};

    fn copy(folder: &Path) -> PathBuf {
        let path = folder.join("m.gguf");
        std::fs::write(&path, storyteller()).unwrap();
        path
    }

    fn shorten(path: &Path) {
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(1 << 20).unwrap();
    }

    #[test]
    fn between_two_answers() {
        let folder = tempfile::tempdir().unwrap();
        let path = copy(folder.path());
        let args = [
            "chat",
            "-q",
            "--json",
            "-m",
            "m.gguf",
            "--chat-template",
            "bitnet",
            "-n",
            "4",
        ];
        let mut child = command(folder.path(), &args)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut answer = String::new();
        stdin.write_all(b"Hello.\n").unwrap();
        stdout.read_line(&mut answer).unwrap();
        assert!(answer.starts_with('{'), "{answer}");
        shorten(&path);
        stdin.write_all(b"And then?\n").unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(
            stderr.contains("m.gguf was changed while it was in use"),
            "{stderr}"
        );
    }

    #[test]
    fn at_any_moment() {
        let folder = tempfile::tempdir().unwrap();
        for millis in [0, 5, 10, 15, 20, 30, 40, 60, 80, 120] {
            let path = copy(folder.path());
            let args = ["inspect", "-q", "--json", "--check", "m.gguf"];
            let child = command(folder.path(), &args).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(millis));
            shorten(&path);
            let output = child.wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            // It either finished before or exited with an error, but was not killed by a signal.
            assert!(
                matches!(output.status.code(), Some(0 | 1)),
                "{millis} ms: {output:?}"
            );
            let told = ["truncated while in use", "truncated", "needs", "byte"];
            let is_told = stderr.is_empty() || told.iter().any(|part| stderr.contains(part));
            assert!(is_told, "{millis} ms: {stderr}");
        }
    }
}
