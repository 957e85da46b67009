//! The answer key: for each change of a fixture, the verdict that is right.

use crate::fixture::{Fixture, has_nextest};

/// What [`break_add`] breaks, by name and state.
const BROKEN_ADD: [(&str, &str); 3] = [
    ("beta/lib/tests::adds", "newly_failing"),
    ("beta/lib/tests::doubles", "newly_failing"),
    ("success rate", "below_minimum"),
];

/// Breaks `alpha` so that only the tests of `beta`, which depends on it, show it.
fn break_add(fixture: &Fixture) {
    let broken = "    if a == b { 0 } else { a + b }\n";
    fixture.edit("alpha/src/lib.rs", "    a + b\n", broken);
}

#[test]
fn a_broken_test_is_found_also_where_only_a_dependent_shows_it() {
    let fixture = Fixture::with_baseline();
    break_add(&fixture);
    let report = fixture.check(&[], 1, &BROKEN_ADD);
    assert_eq!(report["base"]["source"]["origin"], "store");
    assert_eq!(report["candidate"]["source"]["origin"], "working_tree");
    assert_eq!(
        report["scope"]["packages"],
        serde_json::json!(["alpha", "beta"])
    );
    // The second check answers from the store, and the same.
    let again = fixture.check(&[], 1, &BROKEN_ADD);
    assert_eq!(again["candidate"]["source"]["origin"], "store");
}

#[test]
fn an_unchanged_tree_answers_at_once_and_says_why_it_may() {
    let fixture = Fixture::with_baseline();
    let answer = fixture.palisade(&["check"]);
    assert_eq!(answer.code, 0, "{}", answer.out);
    assert!(answer.time.as_secs_f64() < 1.0, "{:?}", answer.time);
    assert!(
        answer.out.contains("nothing changed since"),
        "{}",
        answer.out
    );
    assert!(answer.out.contains("stored run") && answer.out.contains("old, made at commit"));
    assert!(answer.out.contains("Reused for lockfile"), "{}", answer.out);
    let fresh = fixture.check(&["--fresh"], 0, &[]);
    assert_eq!(fresh["candidate"]["source"]["origin"], "working_tree");
    assert_eq!(fresh["candidate"]["tests"]["passing"], 6);
}

#[test]
fn a_plain_clone_gets_its_base_from_a_checkout() {
    let fixture = Fixture::new();
    fixture.edit("gamma/src/lib.rs", "    1\n", "    2\n");
    let report = fixture.check(
        &[],
        1,
        &[
            ("gamma/lib/tests::is_one", "newly_failing"),
            ("success rate", "below_minimum"),
        ],
    );
    assert_eq!(report["base"]["source"]["origin"], "checkout");
    // Nothing of it is left behind, and the user's change is untouched.
    assert_eq!(fixture.git(&["worktree", "list"]).lines().count(), 1);
    assert!(fixture.read("gamma/src/lib.rs").contains("    2\n"));
    assert_eq!(fixture.git(&["status", "--short"]), "M gamma/src/lib.rs");
}

#[test]
fn removed_ignored_and_renamed_tests_are_three_findings() {
    let fixture = Fixture::with_baseline();
    let lib = "alpha/src/lib.rs";
    fixture.edit(lib, "fn adds_zero()", "fn adds_nothing()");
    fixture.edit(
        "beta/src/lib.rs",
        "    #[test]\n    fn doubles()",
        "    #[test]\n    #[ignore]\n    fn doubles()",
    );
    fixture.edit(
        "gamma/src/lib.rs",
        "    #[test]\n    fn is_one() {\n        assert_eq!(super::one(), 1);\n    }\n",
        "",
    );
    fixture.check(
        &[],
        1,
        &[
            ("gamma/lib/tests::is_one", "missing"),
            ("beta/lib/tests::doubles", "newly_ignored"),
            ("alpha/lib/tests::adds_nothing", "renamed"),
        ],
    );
}

#[test]
fn deleting_a_failing_test_does_not_pass() {
    let fixture = Fixture::new();
    fixture.add_test("gamma", "fails", "panic!(\"always\");");
    fixture.commit("a failing test");
    let answer = fixture.palisade(&["init"]);
    assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
    assert!(
        answer
            .out
            .contains("gamma/lib/tests::fails (named as a known failure"),
        "{}",
        answer.out
    );
    fixture.commit("the policy");
    fixture.check(&[], 0, &[("gamma/lib/tests::fails", "known_failure")]);
    fixture.write("gamma/src/lib.rs", "//! Counts.\n/// One.\npub fn one() -> u8 { 1 }\n#[cfg(test)] mod tests { #[test] fn is_one() { assert_eq!(super::one(), 1); } }\n");
    fixture.check(&[], 1, &[("gamma/lib/tests::fails", "missing")]);
}

#[test]
fn a_doctest_that_moves_stays_itself() {
    let fixture = Fixture::with_baseline();
    fixture.edit(
        "alpha/src/lib.rs",
        "//! Adds.\n",
        "//! Adds.\n//!\n//! And nothing else.\n",
    );
    let report = fixture.check(&[], 0, &[]);
    assert_eq!(report["scope"]["doctests"], serde_json::json!(["alpha"]));
    assert_eq!(report["candidate"]["tests"]["passing"], 1);
}

#[test]
fn documentation_runs_nothing_and_ends_quickly() {
    let fixture = Fixture::with_baseline();
    fixture.write("README.md", "# A fixture\n\nMore words.\n");
    fixture.edit("gamma/src/lib.rs", "    1\n", "    // one\n    1\n");
    let answer = fixture.palisade(&["check"]);
    assert_eq!(answer.code, 0, "{}", answer.out);
    assert!(answer.time.as_secs_f64() < 2.0, "{:?}", answer.time);
    assert!(
        answer
            .out
            .contains("nothing that code is built from changed"),
        "{}",
        answer.out
    );
}

#[test]
fn a_test_that_becomes_five_times_slower_is_found() {
    let fixture = Fixture::new();
    let sleep = |ms: u32| format!("std::thread::sleep(std::time::Duration::from_millis({ms}));");
    fixture.add_test("gamma", "sleeps", &sleep(100));
    fixture.commit("a test that takes a while");
    assert_eq!(fixture.palisade(&["baseline", "record"]).code, 0);
    // The test itself is as it was: what it calls became slower.
    fixture.edit("gamma/src/lib.rs", &sleep(100), "super::work();");
    fixture.edit(
        "gamma/src/lib.rs",
        "#[cfg(test)]",
        &format!("fn work() {{ {} }}\n\n#[cfg(test)]", sleep(100)),
    );
    fixture.commit("the work moves");
    assert_eq!(fixture.palisade(&["baseline", "record"]).code, 0);
    fixture.edit("gamma/src/lib.rs", &sleep(100), &sleep(500));
    if !has_nextest() {
        // `cargo test` prints no durations, so there is nothing to judge.
        fixture.check(&[], 0, &[]);
        return;
    }
    let report = fixture.check(&[], 1, &[("gamma/lib/tests::sleeps", "slower")]);
    assert!(
        report["findings"][0]["reason"]
            .as_str()
            .expect("text")
            .contains("rank test")
    );
}

#[test]
fn a_test_that_was_flaky_before_is_not_blamed_on_the_change() {
    let fixture = Fixture::new();
    // Fails in every second run; the first run, the base's, passes.
    let body = fixture.flaky_body("half", 2, &[1]);
    fixture.add_test("beta", "flips", &body);
    fixture.commit("a flaky test");
    assert_eq!(fixture.palisade(&["baseline", "record"]).code, 0);
    fixture.edit("alpha/src/lib.rs", "    a + b\n", "    b + a\n");
    let report = fixture.check(&[], 0, &[("beta/lib/tests::flips", "flaky")]);
    let reason = report["findings"][0]["reason"].as_str().expect("text");
    assert!(reason.contains("Fisher"), "{reason}");
    // The ledger knows it now.
    let (_, ledger) = fixture.json(&["flaky", "list"]);
    assert_eq!(ledger["flaky"][0]["test"], "beta/lib/tests::flips");
    let listed = fixture.palisade(&["flaky", "list"]);
    assert!(
        listed
            .out
            .contains("flaky quarantine beta/lib/tests::flips"),
        "{}",
        listed.out
    );
}

#[test]
fn a_flaky_test_is_named_when_it_arrives() {
    let fixture = Fixture::with_baseline();
    // Fails once in twenty runs, in the thirteenth.
    let body = fixture.flaky_body("twentieth", 20, &[12]);
    fixture.add_test("gamma", "seldom", &body);
    let report = fixture.check(&[], 1, &[("gamma/lib/tests::seldom", "flaky")]);
    let meaning = report["findings"][0]["meaning"].as_str().expect("text");
    assert!(meaning.contains("95 % interval"), "{meaning}");
}

#[test]
fn a_broken_test_is_never_quarantined_and_a_flaky_one_is_released() {
    let fixture = Fixture::new();
    let body = fixture.flaky_body("half", 2, &[1]);
    fixture.add_test("gamma", "flips", &body);
    fixture.add_test("gamma", "fails", "panic!(\"always\");");
    fixture.commit("two bad tests");
    let stress = fixture.palisade(&[
        "flaky",
        "stress",
        "gamma/lib/tests::flips",
        "gamma/lib/tests::fails",
        "--runs",
        "4",
    ]);
    assert_eq!(stress.code, 1, "{}{}", stress.out, stress.err);
    assert!(
        stress
            .out
            .contains("flaky: gamma/lib/tests::flips failed 2 of 4 times"),
        "{}",
        stress.out
    );
    assert!(
        stress
            .out
            .contains("broken: gamma/lib/tests::fails failed 4 of 4 times"),
        "{}",
        stress.out
    );
    let quarantine = |test: &str| {
        fixture.palisade(&[
            "flaky",
            "quarantine",
            test,
            "--owner",
            "ada",
            "--reason",
            "race",
        ])
    };
    let refused = quarantine("tests::fails");
    assert_eq!(refused.code, 2);
    assert!(
        refused.err.contains("it is broken, not flaky"),
        "{}",
        refused.err
    );
    assert_eq!(quarantine("tests::flips").code, 0);
    let shown = fixture.palisade(&["flaky", "show", "tests::flips"]);
    assert!(
        shown.out.contains("in quarantine: ada, race"),
        "{}",
        shown.out
    );
    assert_eq!(quarantine("no_such_test").code, 2);
    let release = fixture.palisade(&["flaky", "release", "tests::flips", "--reason", "repaired"]);
    assert_eq!(release.code, 0);
    let (_, ledger) = fixture.json(&["flaky", "list"]);
    assert_eq!(ledger["flaky"][0]["quarantine"], serde_json::Value::Null);
}

#[test]
fn a_change_that_does_not_build_is_a_regression() {
    let fixture = Fixture::with_baseline();
    fixture.edit("alpha/src/lib.rs", "    a + b\n", "    a + c\n");
    let report = fixture.check(&[], 1, &[("build", "build_failed")]);
    let output = report["findings"][0]["output"].as_str().expect("text");
    assert!(
        output.starts_with("error[E0425]: cannot find value `c`"),
        "{output}"
    );
    assert_eq!(
        report["scope"]["packages"],
        serde_json::json!(["alpha", "beta"])
    );
}

#[test]
fn a_base_that_does_not_build_leaves_nothing_to_compare_with() {
    let fixture = Fixture::new();
    fixture.edit("alpha/src/lib.rs", "    a + b\n", "    a + c\n");
    fixture.commit("broken");
    fixture.edit("alpha/src/lib.rs", "    a + c\n", "    a + b\n");
    let (code, report) = fixture.json(&["check"]);
    assert_eq!(
        (code, report["verdict"].as_str()),
        (3, Some("incomparable")),
        "{report:#}"
    );
}

#[test]
fn no_test_is_not_a_pass() {
    let fixture = Fixture::new();
    for package in ["alpha", "beta", "gamma"] {
        fixture.write(&format!("{package}/src/lib.rs"), "//! Empty.\n");
    }
    fixture.commit("no tests");
    fixture.check(&[], 3, &[("tests", "no_tests")]);
}

#[test]
fn what_is_staged_is_judged_apart_from_what_is_not() {
    let fixture = Fixture::with_baseline();
    fixture.edit("gamma/src/lib.rs", "    1\n", "    2\n");
    fixture.git(&["add", "--all"]);
    fixture.edit("gamma/src/lib.rs", "    2\n", "    1\n");
    fixture.check(&[], 0, &[]);
    let report = fixture.check(
        &["--staged"],
        1,
        &[
            ("gamma/lib/tests::is_one", "newly_failing"),
            ("success rate", "below_minimum"),
        ],
    );
    assert_eq!(report["candidate"]["source"]["origin"], "checkout");
}

#[test]
fn without_nextest_the_verdict_is_the_same() {
    let fixture = Fixture::new();
    fixture.write("palisade.toml", "[run]\nrunner = \"cargo\"\n");
    fixture.commit("the policy");
    let record = fixture.palisade(&["baseline", "record"]);
    assert!(
        record.out.contains("6 of 6 tests pass"),
        "{}{}",
        record.out,
        record.err
    );
    break_add(&fixture);
    let report = fixture.check(&[], 1, &BROKEN_ADD);
    assert_eq!(report["runner"], "cargo test");
}

#[test]
fn a_seldom_flaky_test_that_the_ledger_knows_is_not_blamed_on_a_later_change() {
    let fixture = Fixture::new();
    // Fails once in a hundred runs: in the second, and in the fourth by bad luck.
    let body = fixture.flaky_body("hundredth", 100, &[1, 3]);
    fixture.add_test("beta", "seldom", &body);
    fixture.commit("a flaky test");
    assert_eq!(fixture.palisade(&["baseline", "record"]).code, 0);
    assert_eq!(fixture.palisade(&["test"]).code, 1);
    assert_eq!(fixture.palisade(&["test"]).code, 0);
    fixture.edit("alpha/src/lib.rs", "    a + b\n", "    b + a\n");
    let report = fixture.check(&[], 0, &[("beta/lib/tests::seldom", "flaky")]);
    let reason = report["findings"][0]["reason"].as_str().expect("text");
    assert!(reason.contains("it failed in 1 of"), "{reason}");
}

#[test]
fn a_test_that_failed_on_this_tree_is_in_every_verdict_on_it() {
    let fixture = Fixture::new();
    let state = fixture.outside("state");
    let body = format!("assert!(!std::path::Path::new({state:?}).exists());");
    fixture.add_test("alpha", "depends", &body);
    fixture.commit("a test that depends on something else");
    assert_eq!(fixture.palisade(&["baseline", "record"]).code, 0);
    // The change reaches `gamma` alone, and a run of all tests saw `alpha` fail.
    fixture.edit("gamma/src/lib.rs", "    1\n", "    2 - 1\n");
    std::fs::write(&state, "").expect("written");
    assert_eq!(fixture.palisade(&["test"]).code, 1);
    let (_, report) = fixture.json(&["check"]);
    let findings = report["findings"].as_array().expect("a list");
    assert!(
        findings
            .iter()
            .any(|f| f["name"] == "alpha/lib/tests::depends"),
        "{report:#}"
    );
    let packages = serde_json::json!(["alpha", "gamma"]);
    assert_eq!(report["scope"]["packages"], packages, "{report:#}");
}

#[test]
fn one_failure_in_many_runs_is_no_regression() {
    let fixture = Fixture::new();
    // The base passes, then the candidate fails once; nothing else does.
    let body = fixture.flaky_body("once", 1000, &[1]);
    fixture.add_test("beta", "seldom", &body);
    fixture.commit("a test that seldom fails");
    assert_eq!(fixture.palisade(&["baseline", "record"]).code, 0);
    fixture.edit("alpha/src/lib.rs", "    a + b\n", "    b + a\n");
    let report = fixture.check(&[], 0, &[("beta/lib/tests::seldom", "probably_flaky")]);
    let meaning = report["findings"][0]["meaning"].as_str().expect("text");
    assert!(
        meaning.contains("7 failures in 21 runs would be the change"),
        "{meaning}"
    );
}

#[test]
fn a_test_that_needs_a_file_git_ignores_is_not_judged_by_a_checkout() {
    let fixture = Fixture::new();
    let body = "assert!(std::path::Path::new(\"../target-data\").exists() && super::one() == 1);";
    fixture.add_test("gamma", "needs_data", body);
    fixture.edit(
        "gamma/src/lib.rs",
        "        assert_eq!(super::one(), 1);\n",
        "        assert!(super::one() < 9);\n",
    );
    fixture.write("palisade.toml", "min_success_rate = 0.0\n");
    fixture.commit("a test that reads what git ignores");
    fixture.write("target-data", "");
    assert_eq!(fixture.palisade(&["baseline", "record"]).code, 0);
    // It is the change that breaks it, but the base fails in its checkout as well:
    // that is no pass, and no blame either.
    fixture.edit("gamma/src/lib.rs", "    1\n", "    2\n");
    let report = fixture.check(
        &["--budget", "60s"],
        4,
        &[("gamma/lib/tests::needs_data", "open")],
    );
    assert_eq!(report["verdict"], "inconclusive");
    let (_, ledger) = fixture.json(&["flaky", "list"]);
    assert_eq!(ledger["flaky"], serde_json::json!([]), "it is not flaky");
}

#[test]
fn a_workspace_in_a_folder_of_its_repository_is_guarded_too() {
    let fixture = Fixture::new();
    std::fs::create_dir(fixture.root().join("code")).expect("created");
    for name in ["alpha", "beta", "gamma", "Cargo.toml", "Cargo.lock"] {
        fixture.git(&["mv", name, &format!("code/{name}")]);
    }
    fixture.write(".gitignore", "target\n");
    fixture.commit("the workspace moves");
    fixture.edit(
        "code/alpha/src/lib.rs",
        "    a + b\n",
        "    if a == b { 0 } else { a + b }\n",
    );
    let (code, report) = fixture.json(&["check", "-C", "code"]);
    assert_eq!(code, 1, "{report:#}");
    assert_eq!(report["findings"][0]["name"], "beta/lib/tests::adds");
    assert_eq!(report["base"]["source"]["origin"], "checkout");
    assert_eq!(report["risk"]["files"][0]["package"], "alpha");
    assert!(fixture.root().join("code/.palisade/store.sqlite").exists());
}

#[test]
fn a_hook_judges_what_is_about_to_be_committed() {
    let fixture = Fixture::with_baseline();
    let program = env!("CARGO_BIN_EXE_cargo-palisade");
    let hook = fixture.root().join(".git/hooks/pre-commit");
    std::fs::write(
        &hook,
        format!("#!/bin/sh\nexec {program} check --staged --quiet >&2\n"),
    )
    .expect("written");
    let mode = std::process::Command::new("chmod")
        .arg("+x")
        .arg(&hook)
        .status();
    assert!(mode.expect("chmod runs").success());
    let commit = |message: &str| {
        let mut command = fixture.command("git");
        command.args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]);
        command.args(["commit", "--quiet", "--all", "--message", message]);
        crate::fixture::answer(command)
    };
    fixture.edit("gamma/src/lib.rs", "    1\n", "    2\n");
    let refused = commit("broken");
    assert_eq!(refused.code, 1, "{}", refused.err);
    assert!(
        refused.err.contains("REGRESSION gamma/lib/tests::is_one"),
        "{}",
        refused.err
    );
    fixture.edit("gamma/src/lib.rs", "    2\n", "    2 - 1\n");
    let accepted = commit("sound");
    assert_eq!(accepted.code, 0, "{}", accepted.err);
    assert_eq!(fixture.git(&["status", "--short"]), "");
}

#[test]
fn a_stored_run_is_measured_again_after_some_others() {
    let fixture = Fixture::new();
    fixture.write("palisade.toml", "[reuse]\nremeasure = 2\n");
    // Passes in the first run; what it depends on is no part of the tree.
    let state = fixture.outside("state");
    let body = format!("assert!(!std::path::Path::new({state:?}).exists() || super::one() > 8);");
    fixture.add_test("gamma", "depends", &body);
    fixture.commit("a test that depends on something else");
    assert_eq!(fixture.palisade(&["baseline", "record"]).code, 0);
    // The first check reuses the base's run, the second is due: two runs are newer.
    fixture.edit("gamma/src/lib.rs", "    1\n", "    2 - 1\n");
    let report = fixture.check(&[], 0, &[]);
    assert_eq!(report["base"]["source"]["origin"], "store");
    fixture.edit("gamma/src/lib.rs", "    2 - 1\n", "    3 - 2\n");
    std::fs::write(&state, "").expect("written");
    let report = fixture.json(&["check"]).1;
    assert_eq!(report["base"]["source"]["origin"], "checkout", "{report:#}");
    let findings = report["findings"].as_array().expect("a list");
    let differs = findings.iter().find(|f| f["state"] == "reuse_differs");
    let differs = differs.unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!(differs["output"], "gamma/lib/tests::depends");
    let reason = differs["reason"].as_str().expect("text");
    assert!(
        reason.contains("was measured again: there is another outcome of 1 test"),
        "{reason}"
    );
    // The new run is the youngest, and is reused again.
    fixture.edit("gamma/src/lib.rs", "    3 - 2\n", "    4 - 3\n");
    let report = fixture.json(&["check"]).1;
    assert_eq!(report["base"]["source"]["origin"], "store", "{report:#}");
}

#[test]
fn the_users_own_test_command_is_watched_and_stands_for_a_run() {
    let fixture = Fixture::new();
    fixture.write("palisade.toml", "[run]\nrunner = \"cargo\"\n");
    // Programs that are built and hold no tests.
    fixture.write("alpha/src/bin/tool.rs", "fn main() {}\n");
    fixture.write("alpha/examples/shows.rs", "fn main() {}\n");
    fixture.write("alpha/tests/outer.rs", "#[test]\nfn outer() {}\n");
    fixture.commit("the policy, and programs");
    let watched = ["test", "--", "cargo", "test", "--workspace", "--locked"];
    let found = fixture.palisade(&watched);
    assert_eq!(found.code, 0, "{}{}", found.out, found.err);
    assert!(
        found.err.contains("test tests::is_one ... ok"),
        "{}",
        found.err
    );
    assert!(
        found.out.contains("7 of 7 tests pass, 0 fail, 1 ignored"),
        "{}",
        found.out
    );
    // What it saw is what a run of our own would have seen.
    let report = fixture.check(&[], 0, &[]);
    assert_eq!(report["candidate"]["source"]["origin"], "store");
    let own = fixture.check(&["--fresh"], 0, &[]);
    assert_eq!(own["candidate"]["tests"], report["candidate"]["tests"]);
    // `cargo test` stops at the first target that fails: the others are not known.
    fixture.edit("alpha/src/lib.rs", "    a + b\n", "    a - b\n");
    let (code, report) = {
        let found = fixture.palisade(&[&["test", "--json"], &watched[1..]].concat());
        let report: serde_json::Value = serde_json::from_str(&found.out).expect("is JSON");
        (found.code, report)
    };
    assert_eq!(code, 1, "{report:#}");
    assert_eq!(report["failures"][0]["name"], "alpha/lib/tests::adds");
    let gaps = report["gaps"].to_string();
    assert!(
        gaps.contains("the tests of gamma/lib came to no end"),
        "{gaps}"
    );
    // A command that leaves tests out, or builds them otherwise, stands for nothing.
    for (command, problem) in [
        (&["cargo", "test"][..], "without --workspace"),
        (
            &["cargo", "test", "--workspace", "adds"],
            "adds is not in run.cargo_args",
        ),
        (
            &["cargo", "test", "--workspace", "--release"],
            "--release is not in",
        ),
        (&["make", "test"], "it is not `cargo test --workspace`"),
    ] {
        let found = fixture.palisade(&[&["test", "--"], command].concat());
        assert_eq!(found.code, 2, "{}", found.err);
        assert!(found.err.contains(problem), "{}", found.err);
    }
}

#[test]
fn a_stored_base_is_the_newest_one_that_is_known() {
    let fixture = Fixture::new();
    // Of no commit a run is stored: the tests are judged by themselves, and say so.
    let report = fixture.check(&["--stored-base"], 0, &[("base", "no_history")]);
    assert_eq!(report["candidate"]["tests"]["passing"], 6);
    let first = fixture.git(&["rev-parse", "HEAD"]);
    for number in 0..2 {
        fixture.write("README.md", &format!("{number}\n"));
        fixture.edit("gamma/src/lib.rs", "//! Counts", "// more\n//! Counts");
        fixture.commit("another commit");
    }
    fixture.edit("gamma/src/lib.rs", "    1\n", "    2\n");
    fixture.commit("broken");
    let key = [
        ("gamma/lib/tests::is_one", "newly_failing"),
        ("success rate", "below_minimum"),
    ];
    let report = fixture.check(&["--stored-base"], 1, &key);
    assert_eq!(report["base"]["commit"], first.as_str());
    assert_eq!(report["base"]["source"]["origin"], "store");
}

#[cfg(unix)]
#[test]
fn what_cargo_semver_checks_finds_is_in_the_report() {
    let fixture = Fixture::with_baseline();
    // Stands for the real one: it says what that prints when a function is gone.
    let tools = fixture.outside("tools");
    std::fs::create_dir(&tools).expect("created");
    let log = fixture.outside("log").display().to_string();
    let script = format!(
        "#!/bin/sh
[ \"$2\" = --version ] && {{ echo cargo-semver-checks 0.45.0; exit; }}
echo \"$@\" >> {log}
case \"$*\" in
*--baseline-root*)
    echo '--- failure function_missing: pub fn removed or renamed ---'
    echo 'Failed in:'
    echo '  function alpha::add, previously in file alpha/src/lib.rs:8'
    echo '     Summary semver requires new major version: 1 major and 0 minor checks failed' >&2
    exit 100;;
*) echo 'error: alpha not found in registry' >&2; exit 1;;
esac
"
    );
    let tool = tools.join("cargo-semver-checks");
    std::fs::write(&tool, script).expect("written");
    let mode = std::process::Command::new("chmod")
        .arg("+x")
        .arg(&tool)
        .status();
    assert!(mode.expect("chmod runs").success());
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", tools.display());
    let check = || {
        let mut command = fixture.command(env!("CARGO_BIN_EXE_cargo-palisade"));
        let answer = crate::fixture::answer({
            command.args(["check", "--json"]).env("PATH", &path);
            command
        });
        let report: serde_json::Value =
            serde_json::from_str(&answer.out).unwrap_or_else(|e| panic!("{e}: {}", answer.err));
        let findings = report["findings"].as_array().expect("a list");
        let api = findings.iter().filter(|f| f["kind"] == "api").cloned();
        (answer.code, api.collect::<Vec<_>>(), report["risk"].clone())
    };
    // An ordinary change is not looked at.
    fixture.edit("alpha/src/lib.rs", "    a + b\n", "    b + a\n");
    assert_eq!(check().1, Vec::<serde_json::Value>::new());
    fixture.edit("alpha/src/lib.rs", "pub fn add(", "pub(crate) fn add(");
    fixture.edit(
        "alpha/src/lib.rs",
        "/// assert_eq!(alpha::add(1, 2), 3);",
        "/// assert_eq!(1 + 2, 3);",
    );
    fixture.edit("beta/src/lib.rs", "    alpha::add(a, a)\n", "    a + a\n");
    fixture.edit("beta/src/lib.rs", "alpha::add(1, 1)", "2");
    let (code, api, risk) = check();
    assert_eq!(code, 0, "{api:#?}");
    let states: Vec<_> = api
        .iter()
        .map(|f| f["state"].as_str().expect("text"))
        .collect();
    assert_eq!(
        states,
        ["api_break", "not_compared", "api_break", "not_compared"],
        "{api:#?}"
    );
    let reason = api[0]["reason"].as_str().expect("text");
    assert!(
        reason
            .ends_with("it needs a new major version: function_missing: pub fn removed or renamed"),
        "{reason}"
    );
    assert_eq!(
        api[1]["reason"],
        "it could not be compared with the last release: error: alpha not found in registry"
    );
    // The same without the tool: the signature is named.
    let reasons = risk["files"][0]["reasons"].to_string();
    assert!(reasons.contains("public `add` is gone"), "{reasons}");
    // A package that may not be published has no release, and the policy can block.
    fixture.edit("alpha/Cargo.toml", "edition", "publish = false\nedition");
    fixture.write(
        "palisade.toml",
        "[api]\nbreaks = \"regression\"\nrelease = false\n",
    );
    let (code, api, _) = check();
    assert_eq!(code, 1);
    assert_eq!(api[0]["effect"], "regression");
    assert_eq!(
        api.iter().filter(|f| f["state"] == "not_compared").count(),
        0
    );
}
