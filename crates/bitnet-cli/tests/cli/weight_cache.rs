//! Packed weights that are kept for the next start, and `bitnet cache`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Run, command};

const RUN: [&str; 8] = ["run", "-m", "m.gguf", "-n", "12", "--temp", "0", "A king"];

/// A folder with a model, and a cache in it that keeps small models.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../models/storyteller/storyteller.gguf"
        );
        fs::copy(model, folder.path().join("m.gguf")).unwrap();
        Self(folder)
    }

    fn run(&self, args: &[&str]) -> Run {
        self.run_with(&[], args)
    }

    fn run_with(&self, variables: &[(&str, &str)], args: &[&str]) -> Run {
        let mut command = command(self.0.path(), args);
        command
            .env("BITNET_CACHE_DIR", self.cache())
            .env("BITNET_CACHE_MIN_MODEL", "0")
            .envs(variables.iter().copied());
        command.output().unwrap().into()
    }

    fn cache(&self) -> PathBuf {
        self.0.path().join("cache")
    }

    /// The files in the cache.
    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.cache()).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

fn has_note(run: &Run) -> bool {
    run.stderr
        .contains("note: for a faster start, packed weights of ")
}

#[test]
fn the_second_start_maps_what_the_first_one_kept() {
    let folder = Folder::new();
    let first = folder.run(&RUN);
    assert!(has_note(&first), "{first:?}");
    assert_eq!(folder.files().len(), 1);
    let second = folder.run(&[&RUN[..], &["-v"]].concat());
    assert!(!has_note(&second), "{second:?}");
    let mapped = second
        .stderr
        .contains("MiB weights mapped from the cache, ");
    assert!(mapped, "{second:?}");
    let without = folder.run(&[&RUN[..], &["-v", "--no-cache"]].concat());
    assert!(!without.stderr.contains("mapped from"), "{without:?}");
    assert_eq!(
        (&second.stdout, &without.stdout),
        (&first.stdout, &first.stdout)
    );
    // Other commands use it, too.
    let logits = folder.run(&["logits", "-v", "-m", "m.gguf", "--tokens", "1"]);
    assert!(
        logits.stderr.contains("mapped from the cache"),
        "{logits:?}"
    );
    let bench = "bench -q --json -m m.gguf -p 8 -n 2 -r 1".split(' ');
    let bench: Vec<_> = bench.collect();
    assert_eq!(folder.run(&bench).json()["mapped"], false);
    let bench = [&bench[..], &["--cache"]].concat();
    assert_eq!(folder.run(&bench).json()["mapped"], true);
    assert_eq!(folder.files().len(), 1);
}

#[test]
fn nothing_is_kept_of_small_models_or_without_a_cache() {
    let folder = Folder::new();
    let variables = [("BITNET_CACHE_MIN_MODEL", "32MiB")];
    assert!(!has_note(&folder.run_with(&variables, &RUN)));
    assert!(!has_note(
        &folder.run_with(&[("BITNET_CACHE_SIZE", "1MB")], &RUN)
    ));
    assert!(folder.files().is_empty());
    folder.run(&[&RUN[..], &["--no-cache"]].concat());
    folder.run(&[
        "bench", "-q", "-m", "m.gguf", "-p", "8", "-n", "2", "-r", "1",
    ]);
    assert!(folder.files().is_empty());
    // The built-in model does not even need the folder.
    let other = folder.0.path().join("other");
    let variables = [("BITNET_CACHE_DIR", other.to_str().unwrap())];
    let builtin = folder.run_with(&variables, &["run", "-n", "1", "A king"]);
    assert_eq!(
        (builtin.code, other.exists()),
        (Some(0), false),
        "{builtin:?}"
    );
    // A cache that cannot be is none.
    let nowhere = folder.0.path().join("m.gguf/cache");
    let variables = [("BITNET_CACHE_DIR", nowhere.to_str().unwrap())];
    let run = folder.run_with(&variables, &[&RUN[..], &["-v"]].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        run.stderr.contains("no weight cache: failed to open "),
        "{run:?}"
    );
}

#[test]
fn a_damaged_file_is_said_and_made_anew() {
    let folder = Folder::new();
    let first = folder.run(&RUN);
    let [file] = &folder.files()[..] else {
        panic!("there is one file");
    };
    let mut bytes = fs::read(file).unwrap();
    bytes[1000] ^= 1;
    fs::write(file, bytes).unwrap();
    let second = folder.run(&RUN);
    let warning = format!(
        "note: packed weights not used: {}: the checksum of ",
        file.display()
    );
    assert!(second.stderr.contains(&warning), "{second:?}");
    assert!(has_note(&second), "{second:?}");
    let third = folder.run(&RUN);
    assert!(
        !third.stderr.contains("not used") && !has_note(&third),
        "{third:?}"
    );
    assert_eq!([&second.stdout, &third.stdout], [&first.stdout; 2]);
}

#[test]
fn the_files_are_listed_and_removed() {
    let folder = Folder::new();
    let empty = folder.run(&["cache", "list", "--json"]).json();
    assert_eq!(empty["files"], json!([]));
    folder.run(&RUN);
    folder.run(&[&RUN[..], &["--head", "exact", "--weight-bits", "2.0"]].concat());
    let n_files = folder.files().len();
    let model = folder.0.path().join("m.gguf");
    let model = model.to_str().unwrap();
    let report = folder.run(&["cache", "list", "--json"]).json();
    assert_eq!(report["folder"], json!(folder.cache()));
    let files = report["files"].as_array().unwrap();
    assert_eq!(files.len(), n_files);
    let mut total = 0;
    for file in files {
        assert!(Path::new(file["path"].as_str().unwrap()).is_file());
        assert_eq!(
            (&file["model"], &file["current"]),
            (&json!(model), &json!(true))
        );
        assert!(file["used"].as_str().unwrap().ends_with('Z'));
        total += file["bytes"].as_u64().unwrap();
    }
    assert_eq!(report["bytes"], json!(total));
    let text = folder.run(&["cache", "list"]).quietly();
    assert_eq!(text.lines().count(), n_files + 1);
    assert!(text.lines().next().unwrap().ends_with(model), "{text}");

    let outdated = ["cache", "clear", "--outdated"];
    assert_eq!(folder.run(&outdated).quietly(), "removed 0 files, 0 B\n");
    let other = folder.run(&["cache", "clear", "-m", "n.gguf"]);
    assert_eq!(other.code, Some(2), "{other:?}");
    assert!(
        other.stderr.contains("no packed weights are kept of "),
        "{other:?}"
    );
    // The model is another one.
    let file = fs::File::options().append(true).open(model).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    assert!(
        folder
            .run(&["cache", "list"])
            .quietly()
            .contains("  outdated  ")
    );
    let removed = folder
        .run(&["cache", "clear", "--json", "-m", "m.gguf"])
        .json();
    assert_eq!(removed["bytes"], json!(total));
    // A folder, which has models.
    folder.run(&RUN);
    let removed = folder.run(&["cache", "clear", "-m", "."]).quietly();
    assert!(removed.starts_with("removed 1 file, "), "{removed}");
    assert!(folder.files().is_empty());
}

#[test]
fn sizes_that_are_none_are_said() {
    let folder = Folder::new();
    for variable in ["BITNET_CACHE_SIZE", "BITNET_CACHE_MIN_MODEL"] {
        for args in [&RUN[..], &["cache", "list"]] {
            let run = folder.run_with(&[(variable, "much")], args);
            assert_eq!(run.code, Some(2), "{run:?}");
            let expected = format!(
                "error: {variable} is \"much\": expected a number of bytes, such as 800MB or 1.2GiB"
            );
            assert!(run.stderr.contains(&expected), "{run:?}");
        }
    }
}
