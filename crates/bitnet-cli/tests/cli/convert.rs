//! `convert` preserves the model.

use std::path::Path;

use serde_json::Value;

use super::{PROMPT, bitnet_in};

/// Returns the ids that a model writes.
fn greedy_ids(folder: &Path, model: &str) -> Value {
    let args = ["run", "-q", "--json", "--temp", "0", "-n", "12"];
    let args = [&args[..], &["--head", "exact", "-m", model, PROMPT]].concat();
    bitnet_in(folder, &args).json()["ids"].take()
}

#[test]
fn every_format_writes_the_same_story() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let expected = greedy_ids(folder, "builtin");
    assert_eq!(expected.as_array().unwrap().len(), 12);
    // Each format is converted from the previous one, so every format is read, too.
    let mut from = "builtin";
    for (to, out, kind, ty) in [
        ("gguf-i2_s", "i2_s.gguf", "GGUF", "I2_S"),
        ("hf-packed", "folder", "HuggingFace", "HF-packed"),
        ("gguf-tq2_0", "tq2_0.gguf", "GGUF", "TQ2_0"),
        ("gguf-tq1_0", "tq1_0.gguf", "GGUF", "TQ1_0"),
    ] {
        let stdout = bitnet_in(folder, &["convert", "-q", from, out, "--to", to]).quietly();
        assert!(stdout.starts_with(out), "{stdout}");
        assert_eq!(greedy_ids(folder, out), expected, "{to}");
        let report = bitnet_in(folder, &["inspect", "-q", "--json", out]).json();
        assert_eq!(report["kind"], kind);
        let groups = report["weights"].as_array().unwrap();
        assert!(groups.iter().any(|group| group["type"] == ty), "{report}");
        from = out;
    }
    let left: Vec<_> = folder.read_dir().unwrap().map(|e| e.unwrap()).collect();
    assert_eq!(left.len(), 4, "only what was asked for: {left:?}");
}

#[test]
fn the_head_is_of_the_type_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    for head in ["f32", "f16", "bf16", "q8_0", "q6_k"] {
        let out = format!("{head}.gguf");
        let args = ["convert", "-q", "builtin", &out, "--head", head];
        bitnet_in(folder.path(), &args).quietly();
        let args = ["inspect", "-q", "--json", "--tensors", &out];
        let report = bitnet_in(folder.path(), &args).json();
        let tensors = report["tensors"].as_array().unwrap();
        let embedding = tensors.iter().find(|t| t["name"] == "token_embd.weight");
        let ty = embedding.unwrap()["type"].as_str().unwrap();
        assert_eq!(ty.to_lowercase(), head);
    }
}

#[test]
fn an_existing_file_is_replaced_only_by_force() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    std::fs::write(&out, "mine").unwrap();
    let args = ["convert", "-q", "builtin", "out.gguf"];
    assert_eq!(bitnet_in(folder.path(), &args).code, Some(1));
    assert_eq!(std::fs::read(&out).unwrap(), b"mine");
    bitnet_in(folder.path(), &[&args[..], &["--force"]].concat()).quietly();
    assert_eq!(std::fs::read(&out).unwrap()[..4], *b"GGUF");
    // A model can replace itself.
    let args = [
        "convert",
        "-q",
        "out.gguf",
        "out.gguf",
        "--force",
        "--to",
        "gguf-tq1_0",
    ];
    bitnet_in(folder.path(), &args).quietly();
    greedy_ids(folder.path(), "out.gguf");
    assert_eq!(folder.path().read_dir().unwrap().count(), 1);
}

/// A converted model has the default permissions of new files.
#[cfg(unix)]
#[test]
fn permissions_are_those_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("file"), "").unwrap();
    std::fs::create_dir(folder.join("folder")).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let any_file = mode(&folder.join("file"));
    bitnet_in(folder, &["convert", "-q", "builtin", "out.gguf"]).quietly();
    assert_eq!(mode(&folder.join("out.gguf")), any_file);
    bitnet_in(
        folder,
        &["convert", "-q", "builtin", "out", "--to", "hf-packed"],
    )
    .quietly();
    assert_eq!(mode(&folder.join("out")), mode(&folder.join("folder")));
    for entry in folder.join("out").read_dir().unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), any_file, "{}", path.display());
    }
}
