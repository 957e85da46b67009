//! File names that are not UTF-8, as in old file systems.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::{PROMPT, Run, command, storyteller};

/// `café` in Latin-1, followed by `end`.
fn cafe(end: &str) -> OsString {
    OsString::from_vec([b"caf\xe9", end.as_bytes()].concat())
}

/// Runs the program in a folder with some arguments before and after names.
fn run(folder: &Path, args: &[&OsStr]) -> Run {
    let output = command(folder, &[]).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Run {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// A folder with a model and a text of such names; `None` if the file system does not
/// support them, as on macOS.
#[expect(clippy::print_stderr, reason = "what is skipped is said")]
fn folder() -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    if std::fs::write(folder.path().join(cafe(".gguf")), storyteller()).is_err() {
        eprintln!("SKIPPED: no name here may be other than UTF-8");
        return None;
    }
    std::fs::write(folder.path().join(cafe(".txt")), PROMPT).unwrap();
    std::fs::write(
        folder.path().join(cafe(".jinja")),
        "{{ messages[0].content }}",
    )
    .unwrap();
    Some(folder)
}

macro_rules! args {
    ($($arg:expr),* $(,)?) => { &[$(AsRef::<OsStr>::as_ref(&$arg)),*] };
}

#[test]
fn every_file_may_have_any_name() {
    let Some(folder) = folder() else { return };
    let (model, text) = (cafe(".gguf"), cafe(".txt"));
    let here = |args: &[&OsStr]| run(folder.path(), args);
    let greedy = here(args!["run", "-q", "--temp", "0", "-n", "2", PROMPT]);
    assert_eq!(greedy.code, Some(0), "{greedy:?}");
    let named = ["run", "-q", "--temp", "0", "-n", "2", "-m"];
    let named: Vec<&OsStr> = named.iter().map(OsStr::new).collect();
    let run = here(&[&named[..], args![model, "-f", text]].concat());
    assert_eq!(
        (run.code, &run.stdout),
        (Some(0), &greedy.stdout),
        "{run:?}"
    );

    let report = here(args!["inspect", "-q", "--json", model]).json();
    assert_eq!(report["model"], "caf\u{fffd}.gguf");
    let tokens = here(args!["tokenize", "-q", "--json", "-m", model, "-f", text]).json();
    assert_eq!(tokens["tokens"][8], " a");
    let scored = here(args!["perplexity", "-q", "--json", "-m", model, "-f", text]).json();
    assert!(scored["ppl"].as_f64().unwrap() > 1.0);
    let embedded = here(args!["embed", "-q", "--json", "-m", model, "-f", text]).json();
    assert_eq!(embedded["ids"], tokens["ids"]);
    let bench = args![
        "bench", "-q", "--json", "-p", "4", "-n", "0", "-r", "1", "-m", model
    ];
    assert_eq!(here(bench).json()["model"], "caf\u{fffd}.gguf");
    let template = cafe(".jinja");
    let chat = args![
        "tokenize",
        "-q",
        "--json",
        "--chat",
        "--chat-template",
        template,
        "hello"
    ];
    assert_eq!(here(chat).json()["text"], "hello");
    let logits = here(args!["logits", "-q", "-m", model, "--tokens", "1"]);
    assert_eq!(logits.code, Some(0), "{logits:?}");
}

#[test]
fn what_is_written_may_have_any_name() {
    let Some(folder) = folder() else { return };
    let here = |args: &[&OsStr]| run(folder.path(), args);
    let model = cafe(".gguf");
    for (to, name) in [("gguf-tq1_0", cafe("-1.gguf")), ("hf-packed", cafe("-2"))] {
        let report = here(args!["convert", "-q", "--json", "--to", to, model, name]).json();
        assert_eq!(report["output"], name.to_string_lossy().as_ref());
        assert!(folder.path().join(&name).exists());
        let run = here(args!["inspect", "-q", name]);
        assert_eq!(run.code, Some(0), "{run:?}");
    }
    // A pull prints the path for `-m` byte by byte.
    let hub = super::pull::hub_of(|_, _| super::pull::Reply::Bytes(super::pull::model()));
    let output = command(folder.path(), &["pull", "-q", "acme/tiny"])
        .env("HF_ENDPOINT", format!("http://127.0.0.1:{}", hub.port))
        .env("HF_HUB_CACHE", cafe("-cache"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let path = OsStr::from_bytes(output.stdout.strip_suffix(b"\n").unwrap());
    assert!(path.as_bytes().starts_with(b"caf\xe9-cache/"), "{path:?}");
    assert!(folder.path().join(path).is_file());
    let output = command(folder.path(), &["pull", "-q", "--json", "acme/tiny"])
        .env("HF_ENDPOINT", format!("http://127.0.0.1:{}", hub.port))
        .env("HF_HUB_CACHE", cafe("-cache"))
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let model = report["model"].as_str().unwrap();
    assert!(model.starts_with("caf\u{fffd}-cache/"), "{model}");
}

#[test]
fn what_fails_says_so_with_such_names() {
    let Some(folder) = folder() else { return };
    let here = |args: &[&OsStr]| run(folder.path(), args);
    let missing = cafe("/none.gguf");
    for args in [
        &args!["run", "-q", "-m", missing, "a"][..],
        args!["convert", "-q", missing, "out"],
        args!["inspect", "-q", missing],
    ] {
        let run = here(args);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
        assert!(
            run.stderr.contains("caf\u{fffd}/none.gguf"),
            "{}",
            run.stderr
        );
    }
    // A prompt must be UTF-8.
    for args in [
        &args!["run", "-q", cafe("")][..],
        args!["tokenize", "-q", cafe("")],
        args!["embed", "-q", cafe("")],
        args!["chat", "-q", "--system", cafe("")],
    ] {
        let run = here(args);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
        assert!(run.stderr.contains("invalid UTF-8"), "{}", run.stderr);
    }
}
