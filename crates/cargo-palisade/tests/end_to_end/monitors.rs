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
