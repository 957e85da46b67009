//! A check that runs in parts, and the verdict that the parts make together.

use std::fs;

use serde_json::Value;

use crate::fixture::{Answer, Fixture};

/// Runs one shard with a store of its own, as another machine would, and returns
/// the file with its report.
fn shard(fixture: &Fixture, index: u32, count: u32, expected: i32) -> (String, Value) {
    let store = fixture.outside(&format!("shard-{index}.sqlite"));
    let number = format!("{index}/{count}");
    let args = ["check", "--shard", &number, "--json", "--store"];
    let answer = fixture.palisade(&[&args[..], &[&store.display().to_string()]].concat());
    assert_eq!(answer.code, expected, "{}{}", answer.out, answer.err);
    let file = fixture.outside(&format!("shard-{index}.json"));
    fs::write(&file, &answer.out).expect("written");
    let report = serde_json::from_str(&answer.out).expect("is JSON");
    (file.display().to_string(), report)
}

/// Merges reports into a store of its own.
fn merge(fixture: &Fixture, files: &[&str], more: &[&str]) -> Answer {
    let store = fixture.outside("merged.sqlite").display().to_string();
    fixture.palisade(&[&["merge"], files, &["--store", &store], more].concat())
}

/// Names and states of the findings.
fn findings(report: &Value) -> Vec<String> {
    let findings = report["findings"].as_array().expect("a list");
    let finding = |f: &Value| format!("{} {}", f["name"], f["state"]).replace('"', "");
    findings.iter().map(finding).collect()
}

#[test]
fn shards_together_say_what_one_machine_says() {
    let fixture = Fixture::new();
    fixture.add_test("alpha", "moves", "assert_eq!(1 + 1, 2);");
    fixture.commit("a test that will move");
    // It moves to another shard, and what `alpha` breaks shows in `beta`.
    fixture.edit(
        "alpha/src/lib.rs",
        "\n    #[test]\n    fn moves() {\n        assert_eq!(1 + 1, 2);\n    }\n",
        "",
    );
    fixture.add_test("gamma", "moves", "assert_eq!(1 + 1, 2);");
    fixture.edit(
        "alpha/src/lib.rs",
        "    a + b\n",
        "    if a == b { 0 } else { a + b }\n",
    );
    let shards: Vec<(String, Value)> = (1..=3)
        .map(|index| shard(&fixture, index, 3, i32::from(index == 1)))
        .collect();
    let files: Vec<&str> = shards.iter().map(|(file, _)| file.as_str()).collect();
    for (index, (_, report)) in shards.iter().enumerate() {
        assert_eq!(report["shard"]["index"], index + 1);
        assert!(!report["runs"].as_array().expect("a list").is_empty());
    }
    let key = [
        "beta/lib/tests::adds newly_failing",
        "beta/lib/tests::doubles newly_failing",
        "success rate below_minimum",
        "gamma/lib/tests::moves renamed",
    ];
    let (code, whole) = fixture.json(&["check"]);
    assert_eq!(
        (code, findings(&whole)),
        (1, key.map(str::to_owned).to_vec())
    );
    let merged = merge(&fixture, &files, &["--json"]);
    assert_eq!(merged.code, 1, "{}{}", merged.out, merged.err);
    let report: Value = serde_json::from_str(&merged.out).expect("is JSON");
    assert_eq!(findings(&report), key);
    for revision in ["base", "candidate"] {
        assert_eq!(
            report[revision]["tests"], whole[revision]["tests"],
            "{revision}"
        );
        assert_eq!(report[revision]["source"]["origin"], "shards");
    }
    // Without the shard that holds the regression there is no verdict, and no pass.
    let partial = merge(&fixture, &files[1..], &[]);
    assert_eq!(partial.code, 3, "{}{}", partial.out, partial.err);
    assert!(
        partial
            .out
            .contains("NOT MEASURED shard 1 of 3 (shard missing)"),
        "{}",
        partial.out
    );
    // The runs of all shards together stand for the tree from now on.
    let store = fixture.outside("merged.sqlite").display().to_string();
    let (code, known) = fixture.json(&["check", "--store", &store]);
    assert_eq!(code, 1);
    for revision in ["base", "candidate"] {
        assert_eq!(known[revision]["source"]["origin"], "store", "{known:#}");
    }
    // A shard of another tree belongs to another check.
    fixture.add_test("gamma", "more", "assert_eq!(super::one(), 1);");
    let (other, _) = shard(&fixture, 3, 3, 0);
    let mixed = merge(&fixture, &[files[1], &other], &[]);
    assert_eq!(mixed.code, 3, "{}{}", mixed.out, mixed.err);
    assert!(mixed.out.contains("compare other trees"), "{}", mixed.out);
}

#[test]
fn each_test_runs_in_exactly_one_shard() {
    for runner in ["auto", "cargo"] {
        let fixture = Fixture::new();
        fixture.write("beta/tests/outer.rs", "#[test]\nfn outer() {}\n");
        fixture.write("palisade.toml", &format!("[run]\nrunner = \"{runner}\"\n"));
        fixture.commit("an integration test");
        let shards: Vec<(String, Value)> =
            (1..=3).map(|index| shard(&fixture, index, 3, 0)).collect();
        let sum = |state: &str| -> u64 {
            let tests = shards.iter().map(|(_, r)| &r["candidate"]["tests"][state]);
            tests.map(|count| count.as_u64().expect("a number")).sum()
        };
        assert_eq!((sum("passing"), sum("ignored")), (7, 1), "{runner}");
        let files: Vec<&str> = shards.iter().map(|(file, _)| file.as_str()).collect();
        let merged = merge(&fixture, &files, &[]);
        assert_eq!(merged.code, 0, "{}{}", merged.out, merged.err);
        assert!(merged.out.contains("7 of 7 pass"), "{}", merged.out);
        // Where nothing has to run, the shards say so together too.
        fixture.write("README.md", "words\n");
        let shards: Vec<String> = (1..=2)
            .map(|index| shard(&fixture, index, 2, 0).0)
            .collect();
        let files: Vec<&str> = shards.iter().map(String::as_str).collect();
        let merged = merge(&fixture, &files, &[]);
        assert_eq!(merged.code, 0, "{}{}", merged.out, merged.err);
        let sentence = "nothing that code is built from changed since";
        assert!(merged.out.contains(sentence), "{}", merged.out);
    }
}

#[test]
fn what_is_no_shard_is_a_usage_error() {
    let fixture = Fixture::with_baseline();
    let whole = fixture.palisade(&["check", "--json"]);
    let file = fixture.outside("whole.json").display().to_string();
    fs::write(&file, &whole.out).expect("written");
    let check = |files: &[&str], error: &str| {
        let answer = merge(&fixture, files, &[]);
        assert_eq!(answer.code, 2, "{}", answer.err);
        assert!(answer.err.contains(error), "{}", answer.err);
        let hint = "hint: cargo palisade check --shard I/N --json > FILE";
        assert!(answer.err.contains(hint), "{}", answer.err);
    };
    check(
        &[&file],
        "it is the report of a whole check, not of a shard",
    );
    fs::write(&file, "not a report").expect("written");
    check(&[&file], "whole.json as the report of a check");
    check(&["nowhere.json"], "error: failed to read nowhere.json");
    let answer = fixture.palisade(&["check", "--shard", "4/3"]);
    assert_eq!(answer.code, 2);
    assert!(
        answer.err.contains("expected I/N, with I from 1 to N"),
        "{}",
        answer.err
    );
}
