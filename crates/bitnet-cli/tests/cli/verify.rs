//! `bitnet run --receipt` and `bitnet verify`

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{PROMPT, Run, bitnet_in, in_repository};

/// Writes a receipt with these options, and returns it.
fn receipt(folder: &Path, options: &[&str]) -> Value {
    let common = ["run", "-q", "--receipt", "receipt.json", PROMPT];
    bitnet_in(folder, &[&common, options].concat()).quietly();
    serde_json::from_slice(&fs::read(folder.join("receipt.json")).unwrap()).unwrap()
}

#[test]
fn a_text_is_computed_again_from_its_receipt() {
    let folder = tempfile::tempdir().unwrap();
    let schema = json!({"type": "object", "properties": {"age": {"type": "integer"}},
        "required": ["age"], "additionalProperties": false});
    fs::write(folder.path().join("schema.json"), schema.to_string()).unwrap();
    let runs: [&[&str]; 5] = [
        &["--temp", "0", "-n", "20"],
        &[
            "--seed",
            "5",
            "-n",
            "20",
            "--repeat-penalty",
            "1.2",
            "--top-k",
            "40",
        ],
        &["-n", "12", "--head", "exact", "--kv", "int8", "-c", "128"],
        &["--json-schema", "schema.json", "--seed", "3"],
        &["-n", "0"],
    ];
    for options in runs {
        let receipt = receipt(folder.path(), options);
        let n_tokens = receipt["ids"].as_array().unwrap().len();
        for machine in [&[][..], &["--threads", "1", "--kernel", "scalar"]] {
            let verify = [&["verify", "-q", "receipt.json"], machine].concat();
            let said = bitnet_in(folder.path(), &verify).quietly();
            let expected = format!("equal: all {n_tokens} tokens are the same\n");
            assert_eq!(said, expected, "{options:?}");
        }
    }
}

#[test]
fn what_differs_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut receipt = receipt(folder.path(), &["--temp", "0", "-n", "5"]);
    let verify = |args: &[&str]| {
        let common = ["verify", "-q", "--json", "receipt.json"];
        let Run {
            code,
            stdout,
            stderr,
        } = bitnet_in(folder.path(), &[&common, args].concat());
        assert_eq!((code, stderr.as_str()), (Some(1), ""));
        serde_json::from_str::<Value>(&stdout).unwrap()
    };
    // The program knows no way to write a false receipt: that of another model is one.
    let tiny = in_repository("models/storyteller-tiny");
    let other = verify(&["-m", &tiny]);
    assert_eq!(other["verdict"], "not_comparable");
    assert_eq!(other["receipt_weights"], receipt["weights"]);
    assert_ne!(other["weights"], receipt["weights"]);

    let original = receipt["ids"][3].clone();
    receipt["ids"][3] = 7.into();
    fs::write(folder.path().join("receipt.json"), receipt.to_string()).unwrap();
    let changed = bitnet_in(folder.path(), &["verify", "-q", "receipt.json"]);
    assert_eq!(changed.code, Some(1));
    let message = "error: receipt.json: the receipt was changed: its digest is ";
    assert!(changed.stderr.starts_with(message), "{}", changed.stderr);
    // With the digest that the message names, it is a false receipt.
    let (_, digest) = changed.stderr.trim_end().rsplit_once("expected ").unwrap();
    receipt["digest"] = digest.into();
    fs::write(folder.path().join("receipt.json"), receipt.to_string()).unwrap();
    let different = verify(&[]);
    assert_eq!(different["verdict"], "different");
    assert_eq!(
        (&different["index"], &different["receipt"]),
        (&json!(3), &json!(7))
    );
    assert_eq!(different["computed"], original);

    fs::write(folder.path().join("receipt.json"), "{}").unwrap();
    let none = bitnet_in(folder.path(), &["verify", "-q", "receipt.json"]);
    let message = "error: receipt.json: this is no receipt: missing field";
    assert!(none.stderr.starts_with(message), "{}", none.stderr);
}
