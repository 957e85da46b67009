//! What broke once is looked at in every change, whatever the change risks.

use serde_json::Value;

use crate::fixture::Fixture;

/// What a check found, as (name, state) pairs, with its exit code.
fn check(fixture: &Fixture, args: &[&str]) -> (i32, Vec<(String, String)>, Value) {
    let (code, report) = fixture.json(&[&["check"], args].concat());
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let findings = report["findings"].as_array().expect("a list").iter();
    let found = findings.map(|f| (text(&f["name"]), text(&f["state"])));
    (code, found.collect(), report)
}

fn has(found: &[(String, String)], name: &str, state: &str) -> bool {
    found.contains(&(name.to_owned(), state.to_owned()))
}

/// Adds an entry to the policy and commits it, so that it is no part of the next change.
fn monitor(fixture: &Fixture, policy: &str, entry: &str) {
    let text = format!("{policy}\n[[monitor]]\nname = \"incident\"\n{entry}\nreason = \"by x\"\n");
    fixture.write("palisade.toml", &text);
    fixture.commit("a monitor");
}

#[test]
fn a_test_that_the_plan_would_not_select_is_run_because_it_is_monitored() {
    let fixture = Fixture::new();
    // It reads files that Cargo does not know it depends on.
    fixture.write("gamma/src/data.json", "[1]\n");
    let read = |path: &str| {
        format!("std::fs::read_to_string(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/../{path}\"))")
    };
    let body = format!(
        "assert_eq!({}.unwrap(), \"[1]\\n\");\n        assert!({}.unwrap().contains(\"fixture\"));",
        read("gamma/src/data.json"),
        read("README.md")
    );
    fixture.add_test("beta", "reads", &body);
    fixture.commit("a test that reads");
    let changes = [("gamma/src/data.json", "[2]\n"), ("README.md", "# Empty\n")];
    for (path, text) in changes {
        fixture.write(path, text);
        let (code, found, report) = check(&fixture, &[]);
        assert_eq!((code, found), (0, Vec::new()), "{path}: {report:#}");
        fixture.git(&["checkout", "--quiet", path]);
    }
    let policy = "min_success_rate = 0.0\n";
    monitor(&fixture, policy, "test = \"beta/lib/tests::reads\"");
    for (path, text) in changes {
        fixture.write(path, text);
        let (code, found, report) = check(&fixture, &[]);
        assert_eq!(code, 1, "{path}: {report:#}");
        let broken = (
            "beta/lib/tests::reads".to_owned(),
            "newly_failing".to_owned(),
        );
        assert_eq!(found, [broken], "{path}");
        fixture.git(&["checkout", "--quiet", path]);
    }
}

/// Two numbers whose speed no policy asks `check` for.
const NUMBERS: &str = "\
[speed]
wait = \"0s\"
counters = \"off\"

[[bench]]
name = \"large\"
command = \"cat large\"
prints = \"number\"

[[bench]]
name = \"small\"
command = \"cat small\"
prints = \"number\"

[[ratio]]
name = \"overhead\"
of = \"large\"
to = \"small\"
at_most = 1.3
";

fn numbers() -> Fixture {
    let fixture = Fixture::new();
    fixture.write("palisade.toml", NUMBERS);
    fixture.write("large", "110.0\n");
    fixture.write("small", "100.0\n");
    fixture.commit("two numbers");
    fixture
}

#[test]
fn a_benchmark_is_measured_because_it_is_monitored_also_where_others_are() {
    let fixture = numbers();
    let slower = || {
        fixture.write("large", "125.0\n");
        fixture.edit("alpha/src/lib.rs", "//! Adds.", "//! Adds");
    };
    slower();
    let (code, found, report) = check(&fixture, &[]);
    assert_eq!((code, found), (0, Vec::new()), "{report:#}");
    fixture.git(&["checkout", "--quiet", "."]);
    monitor(&fixture, NUMBERS, "bench = \"large\"");
    slower();
    for args in [&[][..], &["--speed"]] {
        let (code, found, report) = check(&fixture, args);
        assert_eq!(code, 1, "{args:?}: {report:#}");
        assert!(has(&found, "large", "regressed"), "{args:?}: {found:?}");
        assert!(!found.iter().any(|(name, _)| name == "small"), "{found:?}");
    }
    // A monitor of nothing is no pass.
    fixture.git(&["checkout", "--quiet", "."]);
    monitor(&fixture, NUMBERS, "bench = \"no such benchmark\"");
    fixture.edit("alpha/src/lib.rs", "    a + b\n", "    b + a\n");
    let (code, found, report) = check(&fixture, &[]);
    assert_eq!(code, 3, "{report:#}");
    assert!(has(&found, "incident", "unmeasured"), "{found:?}");
}

#[test]
fn a_ratio_is_held_because_it_is_monitored() {
    let fixture = numbers();
    // Neither became slower.
    fixture.write("small", "80.0\n");
    let (code, found, report) = check(&fixture, &[]);
    assert_eq!((code, found), (0, Vec::new()), "{report:#}");
    fixture.git(&["checkout", "--quiet", "."]);
    monitor(&fixture, NUMBERS, "ratio = \"overhead\"");
    fixture.write("small", "80.0\n");
    let (code, found, report) = check(&fixture, &[]);
    assert_eq!(code, 1, "{report:#}");
    assert!(has(&found, "overhead", "broken"), "{found:?}");
}

#[test]
fn a_command_is_run_because_it_is_monitored() {
    let fixture = Fixture::new();
    let command = "command = \"sh -c 'echo looked; ! test -e gamma/src/bad.txt'\"";
    fixture.write("gamma/src/bad.txt", "\n");
    let (code, found, report) = check(&fixture, &[]);
    assert_eq!((code, found), (0, Vec::new()), "{report:#}");
    fixture.git(&["clean", "--quiet", "--force"]);
    monitor(&fixture, "", command);
    fixture.write("gamma/src/good.txt", "\n");
    let (code, found, report) = check(&fixture, &[]);
    assert_eq!((code, found), (0, Vec::new()), "{report:#}");
    fixture.write("gamma/src/bad.txt", "\n");
    let (code, found, report) = check(&fixture, &[]);
    assert_eq!(code, 1, "{report:#}");
    let said = |state: &str| [("incident".to_owned(), state.to_owned())];
    assert_eq!(found, said("newly_failing"));
    let finding = &report["findings"][0];
    assert_eq!(finding["kind"], "monitor");
    assert_eq!(finding["output"], "looked");
    let reason = finding["reason"].as_str().expect("text");
    assert!(
        reason.contains("failed in 6 of 6 runs, and in 0 of 5"),
        "{reason}"
    );
    assert!(
        finding["meaning"]
            .as_str()
            .expect("text")
            .ends_with("(by x)")
    );
    // What fails before, too, was not broken by this change.
    fixture.commit("broken");
    fixture.write("gamma/src/other.txt", "\n");
    let (code, found, report) = check(&fixture, &[]);
    assert_eq!(
        (code, &found[..]),
        (0, &said("still_failing")[..]),
        "{report:#}"
    );
    // What says nothing is no pass.
    monitor(&fixture, "", "command = \"sh -c 'exit 125'\"");
    fixture.write("gamma/src/more.txt", "\n");
    let (code, found, report) = check(&fixture, &[]);
    assert_eq!(
        (code, &found[..]),
        (3, &said("unmeasured")[..]),
        "{report:#}"
    );
    // Nothing of all that stays.
    assert_eq!(fixture.git(&["worktree", "list"]).lines().count(), 1);
}

/// Goes the way back from what `question` asks for, merges it, does again what the culprit
/// did, and returns what a check finds then, and the entries that were added to the policy.
fn relapse(fixture: &Fixture, question: [&str; 2]) -> (i32, Vec<(String, String)>, String) {
    let args = [&["recover", "--good", "good"], &question[..]].concat();
    let (code, incident) = fixture.json(&args);
    assert_eq!(code, 0, "{incident:#}");
    let culprit = &incident["bisection"]["culprits"][0];
    assert_eq!(culprit["subject"], "the culprit", "{incident:#}");
    let branch = incident["revert"]["branch"].as_str().expect("a branch");
    fixture.git(&["merge", "--quiet", branch]);
    let again = incident["revert"]["commit"].as_str().expect("a commit");
    fixture.git(&["revert", "--no-commit", again]);
    let (code, found, _) = check(fixture, &[]);
    let entries = incident["monitor"].as_str().expect("entries").to_owned();
    (code, found, entries)
}

#[test]
fn what_recover_writes_for_a_command_catches_the_same_again() {
    let fixture = Fixture::new();
    fixture.git(&["tag", "good"]);
    fixture.write("gamma/src/bad.txt", "\n");
    fixture.commit("the culprit");
    let question = ["--cmd", "sh -c 'test ! -e gamma/src/bad.txt'"];
    let (code, found, entries) = relapse(&fixture, question);
    let policy = fixture.read("palisade.toml");
    assert_eq!(policy, entries);
    let line = "command = \"sh -c 'test ! -e gamma/src/bad.txt'\"\n";
    assert!(policy.contains(line), "{policy}");
    assert_eq!(code, 1);
    let [(name, state)] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert!(name.starts_with("incident "), "{name}");
    assert_eq!(state, "newly_failing");
}

#[test]
fn what_recover_writes_for_a_benchmark_catches_the_same_again() {
    let fixture = numbers();
    fixture.git(&["tag", "good"]);
    fixture.write("large", "125.0\n");
    fixture.commit("the culprit");
    let (code, found, entries) = relapse(&fixture, ["--bench", "large"]);
    // What was there before is as it was.
    assert_eq!(
        fixture.read("palisade.toml"),
        format!("{NUMBERS}\n{entries}")
    );
    assert!(entries.contains("bench = \"large\"\n"), "{entries}");
    assert_eq!(code, 1);
    assert!(has(&found, "large", "regressed"), "{found:?}");
}

#[test]
fn what_recover_writes_for_a_ratio_brings_what_it_rests_on_and_catches_the_same_again() {
    let fixture = numbers();
    // The policy of these commits has its monitors in one line, and no ratio.
    let (before, ratio) = NUMBERS.split_at(NUMBERS.find("[[ratio]]").expect("there"));
    let inline = "monitor = []\n";
    fixture.write("palisade.toml", &format!("{inline}{}\n", before.trim_end()));
    fixture.commit("no ratio");
    fixture.git(&["tag", "good"]);
    fixture.write("small", "80.0\n");
    fixture.commit("the culprit");
    fixture.write("README.md", "# Later\n");
    fixture.commit("later");
    // The user's own is ahead of them.
    fixture.write("palisade.toml", NUMBERS);
    let answer = fixture.palisade(&["recover", "--good", "good", "--ratio", "no such ratio"]);
    assert_eq!(answer.code, 2, "{}", answer.err);
    let (code, incident) = fixture.json(&["bisect", "--good", "good", "--ratio", "overhead"]);
    assert_eq!(
        (code, &incident["question"]["ratio"]),
        (0, &"overhead".into()),
        "{incident:#}"
    );
    let (code, incident) = fixture.json(&["recover", "--good", "good", "--ratio", "overhead"]);
    assert_eq!(code, 0, "{incident:#}");
    assert_eq!(fixture.read("palisade.toml"), NUMBERS);
    let branch = incident["revert"]["branch"].as_str().expect("a branch");
    fixture.git(&["checkout", "--quiet", "palisade.toml"]);
    fixture.git(&["merge", "--quiet", branch]);
    let policy = fixture.read("palisade.toml");
    assert!(policy.ends_with(ratio), "{policy}");
    assert!(
        policy.starts_with("monitor = [{ name = \"incident "),
        "{policy}"
    );
    let again = incident["revert"]["commit"].as_str().expect("a commit");
    fixture.git(&["revert", "--no-commit", again]);
    let (code, found, report) = check(&fixture, &[]);
    assert_eq!(code, 1, "{report:#}");
    assert!(has(&found, "overhead", "broken"), "{found:?}");
}
