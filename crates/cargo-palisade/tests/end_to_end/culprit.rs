//! The way back: from a failure to the commit that brought it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fixture::Fixture;

/// A test that every commit of these histories has.
const TEST: &str = "alpha/lib/tests::adds";

/// What is done wrong in the culprit.
fn break_it(fixture: &Fixture) {
    fixture.edit("alpha/src/lib.rs", "    a + b\n", "    a + b + 1\n");
}

/// Adds `count` commits that change something else, named by a letter and a number.
fn more(fixture: &Fixture, letter: char, count: usize) {
    for number in 0..count {
        fixture.write(&format!("gamma/src/{letter}{number}.txt"), "more\n");
        fixture.commit(&format!("{letter}{number}"));
    }
}

fn culprits(report: &Value) -> Vec<&str> {
    let culprits = report["culprits"].as_array().expect("a list").iter();
    culprits
        .map(|commit| commit["subject"].as_str().expect("text"))
        .collect()
}

#[test]
fn a_broken_test_is_traced_through_merges_and_over_a_commit_that_does_not_build() {
    let fixture = Fixture::new();
    more(&fixture, 'a', 1);
    fixture.git(&["checkout", "--quiet", "-b", "side"]);
    more(&fixture, 's', 1);
    break_it(&fixture);
    fixture.commit("the culprit");
    more(&fixture, 't', 1);
    fixture.git(&["checkout", "--quiet", "main"]);
    more(&fixture, 'b', 1);
    let merge = [
        "merge",
        "--quiet",
        "--no-ff",
        "--message",
        "the merge",
        "side",
    ];
    fixture.git(&merge);
    fixture.write("gamma/src/lib.rs", "not rust\n");
    fixture.commit("does not build");
    fixture.git(&["revert", "--no-edit", "HEAD"]);
    let before = fixture.git(&["status", "--porcelain"]);

    let answer = fixture.palisade(&["bisect", "--test", TEST]);
    assert_eq!(answer.code, 2);
    assert!(answer.err.contains("--good REV"), "{}", answer.err);

    let first = fixture.git(&["rev-list", "--max-parents=0", "HEAD"]);
    let markdown = fixture.outside("bisect.md");
    let args = ["bisect", "--test", TEST, "--good", &first];
    let args = [&args[..], &["--markdown", markdown.to_str().expect("text")]].concat();
    let (code, report) = fixture.json(&args);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(culprits(&report), ["the culprit"]);
    assert_eq!(report["model"], "certain");
    let markdown = std::fs::read_to_string(markdown).expect("written");
    assert!(markdown.contains("The culprit is"), "{markdown}");
    // Nothing of the user's was touched, and the checkouts are gone.
    assert_eq!(fixture.git(&["status", "--porcelain"]), before);
    assert_eq!(fixture.git(&["worktree", "list"]).lines().count(), 1);
    assert_eq!(fixture.git(&["symbolic-ref", "HEAD"]), "refs/heads/main");

    // By the first parents alone the merge brought it.
    let (_, report) = fixture.json(&["bisect", "--test", TEST, "--good", &first, "--first-parent"]);
    assert_eq!(culprits(&report), ["the merge"]);
    // A culprit next to what does not build is one of both.
    let command =
        "sh -c 'grep -q \"not rust\" gamma/src/lib.rs && exit 125; ! test -e gamma/src/t0.txt'";
    let (code, report) = fixture.json(&[
        "bisect", "--cmd", command, "--good", &first, "--bad", "side", "--mode", "certain",
    ]);
    assert_eq!((code, culprits(&report)), (0, vec!["t0"]));
    let command = "sh -c 'grep -q \"not rust\" gamma/src/lib.rs && exit 125; git log --format=%s | grep -q Revert && exit 1; exit 0'";
    let (code, report) = fixture.json(&["bisect", "--cmd", command, "--good", &first]);
    assert_eq!(code, 0, "{report:#}");
    let named = culprits(&report);
    assert_eq!(named, ["does not build", "Revert \"does not build\""]);
}

#[test]
fn the_newest_commit_that_is_known_good_is_the_good_end() {
    let fixture = Fixture::with_baseline();
    more(&fixture, 'a', 1);
    break_it(&fixture);
    fixture.commit("the culprit");
    let (code, report) = fixture.json(&["bisect", "--test", "alpha/lib/tests::adds"]);
    assert_eq!((code, culprits(&report)), (0, vec!["the culprit"]));
    assert_eq!(report["good"]["subject"], "the first commit");
    let answer = fixture.palisade(&["bisect", "--test", "no_such_test"]);
    assert_eq!(answer.code, 2, "{}", answer.err);
    // What passes at both ends has no culprit.
    let args = [
        "bisect",
        "--test",
        "gamma/lib/tests::is_one",
        "--max-runs",
        "8",
    ];
    let answer = fixture.palisade(&args);
    assert!([3, 4].contains(&answer.code), "{}", answer.out);
}

#[test]
fn a_flaky_failure_and_a_slower_number_are_traced() {
    let fixture = Fixture::new();
    fixture.write(
        "palisade.toml",
        "[speed]\nwait = \"0s\"\n\n[[bench]]\nname = \"number\"\ncommand = \"cat number\"\nprints = \"number\"\n",
    );
    fixture.write("number", "100.0\n");
    fixture.commit("a number");
    fixture.git(&["tag", "good"]);
    more(&fixture, 'a', 2);
    fixture.write("number", "105.0\n");
    fixture.write("flaky", "");
    fixture.commit("the culprit");
    more(&fixture, 'b', 3);
    let (code, report) = fixture.json(&["bisect", "--bench", "number", "--good", "good"]);
    assert_eq!(
        (code, culprits(&report)),
        (0, vec!["the culprit"]),
        "{report:#}"
    );
    assert_eq!(report["model"], "ratios");
    // Fails two times in three where the file is.
    let counter = fixture.outside("counter").display().to_string();
    let command = format!(
        "sh -c 'test -e flaky || exit 0; echo >> {counter}; test $(($(wc -l < {counter}) % 3)) = 0'"
    );
    let (code, report) = fixture.json(&["bisect", "--cmd", &command, "--good", "good"]);
    assert_eq!(
        (code, culprits(&report)),
        (0, vec!["the culprit"]),
        "{report:#}"
    );
    assert_eq!(report["model"], "rates");
}

#[test]
#[cfg(unix)]
fn a_search_that_is_killed_goes_on_where_it_was() {
    let fixture = Fixture::new();
    fixture.git(&["tag", "good"]);
    more(&fixture, 'a', 5);
    fixture.write("bad", "");
    fixture.commit("the culprit");
    more(&fixture, 'b', 5);
    let answer = fixture.palisade(&["bisect", "--resume"]);
    assert_eq!(answer.code, 2, "{}", answer.err);
    let looks = fixture.outside("looks");
    let command = format!(
        "sh -c 'echo >> {}; sleep 0.2; ! test -e bad'",
        looks.display()
    );
    let state = fixture.root().join(".palisade/bisect.json");
    let count = || std::fs::read_to_string(&looks).map_or(0, |text| text.lines().count());
    let kept = || -> Option<usize> {
        let text = std::fs::read(&state).ok()?;
        let state: Value = serde_json::from_slice(&text).expect("a whole document");
        state["looks"].as_array().map(Vec::len)
    };
    // Killed again and again, at any point.
    let mut args = vec!["bisect", "--cmd", &command, "--good", "good"];
    for round in 0..4 {
        let mut program = fixture.command(env!("CARGO_BIN_EXE_cargo-palisade"));
        program
            .args(&args)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = program.spawn().expect("it starts");
        let started = Instant::now();
        let goal = count() + 1;
        while count() < goal && started.elapsed() < Duration::from_mins(1) {
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(70 * round));
        child.kill().expect("killed");
        child.wait().expect("reaped");
        args = vec!["bisect", "--resume"];
    }
    let before = kept().expect("a state");
    let (code, report) = fixture.json(&args);
    assert_eq!(
        (code, culprits(&report)),
        (0, vec!["the culprit"]),
        "{report:#}"
    );
    let runs = report["runs"].as_u64().expect("a number") as usize;
    assert!(before < runs, "{before} {runs}");
    // What was kept was not looked at again; each kill lost one look at most.
    assert!(count() <= runs + 4, "{} {runs}", count());
    assert_eq!(fixture.git(&["worktree", "list"]).lines().count(), 1);
}

/// Waits until something is so, for a minute at most.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_mins(1), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[cfg(unix)]
fn an_interrupted_search_goes_on_and_a_second_one_beside_it_is_refused() {
    let fixture = Fixture::new();
    let [hang, hangs, looks] = ["hang", "hangs", "looks"].map(|name| fixture.outside(name));
    // A build, and then a command, that do not end while `hang` is there.
    let script = format!(
        "fn main() {{
    while std::path::Path::new({hang:?}).exists() {{
        std::fs::write({hangs:?}, \"\").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }}
}}
"
    );
    fixture.write("alpha/build.rs", &script);
    fixture.commit("a build script");
    fixture.git(&["tag", "good"]);
    more(&fixture, 'a', 2);
    break_it(&fixture);
    fixture.write("bad", "");
    fixture.commit("the culprit");
    more(&fixture, 'b', 2);
    let command = format!(
        "sh -c 'echo >> {looks}; while test -e {hang}; do echo > {hangs}; sleep 0.02; done; ! test -e bad'",
        looks = looks.display(),
        hang = hang.display(),
        hangs = hangs.display()
    );
    let state = fixture.root().join(".palisade/bisect.json");
    let kept = || -> Value {
        let text = std::fs::read(&state).expect("a state");
        serde_json::from_slice(&text).expect("a whole document")
    };
    let looked = || std::fs::read_to_string(&looks).map_or(0, |text| text.lines().count());
    for (question, name, before) in [("--test", TEST, 0), ("--cmd", command.as_str(), 3)] {
        if before == 0 {
            std::fs::write(&hang, "").expect("written");
        }
        let mut program = fixture.command(env!("CARGO_BIN_EXE_cargo-palisade"));
        program
            .args(["bisect", question, name, "--good", "good"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let child = program.spawn().expect("it starts");
        wait_until("it looks", || looked() >= before);
        std::fs::write(&hang, "").expect("written");
        wait_until("it hangs", || hangs.exists());
        // What is under way is not overwritten, nor gone on with.
        let under_way = kept();
        for second in [
            &["bisect", "--cmd", "true", "--good", "good"][..],
            &["bisect", "--resume"],
        ] {
            let answer = fixture.palisade(second);
            assert_eq!(answer.code, 2, "{}", answer.err);
            assert!(
                answer.err.contains("another one is kept in"),
                "{}",
                answer.err
            );
        }
        assert_eq!(kept(), under_way);
        let id = child.id().to_string();
        let kill = Command::new("kill").args(["-s", "INT", &id]).status();
        assert!(kill.expect("kill runs").success());
        let output = child.wait_with_output().expect("it ends");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{err}");
        assert!(err.contains("interrupted"), "{err}");
        // No checkout is left, and nothing that it had started.
        assert_eq!(fixture.git(&["worktree", "list"]).lines().count(), 1);
        std::fs::remove_file(&hangs).expect("it was there");
        std::thread::sleep(Duration::from_millis(200));
        assert!(!hangs.exists(), "what was looked at still runs");
        std::fs::remove_file(&hang).expect("it was there");
        let (so_far, done) = (kept()["looks"].as_array().expect("a list").len(), looked());
        let (code, report) = fixture.json(&["bisect", "--resume"]);
        assert_eq!(
            (code, culprits(&report)),
            (0, vec!["the culprit"]),
            "{report:#}"
        );
        let runs = report["runs"].as_u64().expect("a number") as usize;
        assert!(
            so_far >= before.saturating_sub(1) && so_far < runs,
            "{report:#}"
        );
        if before > 0 {
            assert_eq!(looked() - done, runs - so_far, "none is looked at twice");
        }
    }
}

/// Everything of the user's that a way back must not touch: files, index, HEAD, stash and
/// branches.
pub fn state(fixture: &Fixture) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![fixture.root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("read").flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let skipped = [
                "target",
                ".palisade",
                "objects",
                "worktrees",
                "palisade",
                "logs",
            ];
            if path.is_dir() && !skipped.contains(&name.as_str()) {
                folders.push(path);
            } else if path.is_file() {
                let content = std::fs::read(&path).expect("read");
                found.push((path.display().to_string(), content));
            }
        }
    }
    found.sort();
    found
}

/// How many steps the one incident in a folder has behind it.
#[cfg(unix)]
pub fn steps(folder: &std::path::Path) -> Option<usize> {
    let files = std::fs::read_dir(folder).ok()?.flatten();
    let mut files = files.map(|entry| entry.path()).filter(|path| {
        let name = path.to_string_lossy();
        name.ends_with(".json") && !name.ends_with(".search.json")
    });
    let text = std::fs::read(files.next()?).ok()?;
    let incident: Value = serde_json::from_slice(&text).expect("a whole document");
    incident["timeline"].as_array().map(Vec::len)
}

#[test]
#[cfg(unix)]
fn the_way_back_touches_nothing_of_the_users_also_when_it_is_killed_at_every_step() {
    let fixture = Fixture::new();
    fixture.git(&["tag", "good"]);
    more(&fixture, 'a', 1);
    break_it(&fixture);
    fixture.commit("the culprit");
    more(&fixture, 'b', 1);
    // The user is in the middle of something.
    fixture.write("README.md", "stashed\n");
    fixture.git(&["stash", "--quiet"]);
    fixture.write("README.md", "staged\n");
    fixture.git(&["add", "README.md"]);
    fixture.write("README.md", "changed\n");
    fixture.write("new.txt", "untracked\n");
    let before = state(&fixture);
    let folder = fixture.root().join(".palisade/incidents");
    let steps = || steps(&folder);
    let mut args = vec!["recover", "--test", TEST, "--good", "good"];
    for step in 0..5 {
        let mut program = fixture.command(env!("CARGO_BIN_EXE_cargo-palisade"));
        program
            .args(&args)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = program.spawn().expect("it starts");
        let started = Instant::now();
        while steps().is_none_or(|steps| steps < step) && started.elapsed() < Duration::from_mins(5)
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(100));
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert_eq!(state(&fixture), before, "killed in step {step}");
        args = vec!["recover"];
    }
    let open = fixture.palisade(&["recover", "--step", "monitor", "no-such-incident"]);
    assert_eq!(open.code, 2, "{}", open.err);
    if steps() < Some(5) {
        let answer = fixture.palisade(&["recover"]);
        assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
        assert!(
            answer.out.contains("The way back is prepared"),
            "{}",
            answer.out
        );
    }
    assert_eq!(state(&fixture), before);
    assert_eq!(fixture.git(&["worktree", "list"]).lines().count(), 1);
    // The branch takes the culprit back, and watches the test.
    let culprit = fixture.git(&["rev-parse", "main~1"]);
    let branch = format!("palisade/recover-{}", &culprit[..10]);
    let library = fixture.git(&["show", &format!("{branch}:alpha/src/lib.rs")]);
    assert!(library.contains("    a + b\n}"), "{library}");
    let policy = fixture.git(&["show", &format!("{branch}:palisade.toml")]);
    assert!(policy.contains(&format!("test = \"{TEST}\"")), "{policy}");
    assert_eq!(
        fixture.git(&["rev-list", "--count", &format!("main..{branch}")]),
        "2"
    );
    // The record: in the store, and for people.
    let records = fixture.palisade(&["store", "export"]).out;
    let record = records
        .lines()
        .find(|line| line.contains("\"record\":\"incident\""));
    let record: Value = serde_json::from_str(record.expect("an incident")).expect("JSON");
    assert_eq!(record["validation"]["red"]["failures"], 0);
    assert_eq!(record["validation"]["verdict"], "pass");
    assert_eq!(record["bisection"]["culprits"][0]["id"], culprit.as_str());
    let pages = std::fs::read_dir(&folder).expect("read").flatten();
    let mut pages = pages.filter(|entry| entry.path().extension().is_some_and(|e| e == "md"));
    let page = std::fs::read_to_string(pages.next().expect("a page").path()).expect("read");
    for part in [
        "## Timeline",
        "## Culprit and evidence",
        "## Actions",
        "[[monitor]]",
    ] {
        assert!(page.contains(part), "{page}");
    }
}

#[test]
fn a_revert_with_conflicts_and_what_is_not_red_stop_with_what_to_do() {
    let fixture = Fixture::new();
    fixture.git(&["tag", "good"]);
    fixture.write("number", "1\n");
    fixture.commit("the culprit");
    fixture.write("number", "2\n");
    fixture.commit("later");
    let before = state(&fixture);
    let command = "sh -c '! test -e number'";
    let args = ["recover", "--cmd", command, "--good", "good"];
    let (code, incident) = fixture.json(&args);
    assert_eq!(code, 1, "{incident:#}");
    assert_eq!(incident["revert"]["conflicts"][0], "number");
    assert_eq!(
        incident["bisection"]["culprits"][0]["subject"],
        "the culprit"
    );
    let id = incident["id"].as_str().expect("text");
    let answer = fixture.palisade(&["recover", id, "--step", "monitor"]);
    assert_eq!(answer.code, 2, "{}{}", answer.out, answer.err);
    let (code, incident) = fixture.json(&["recover", "--cmd", "true", "--good", "good"]);
    assert_eq!(code, 3, "{incident:#}");
    assert_eq!(incident["timeline"].as_array().expect("a list").len(), 1);
    assert_eq!(state(&fixture), before);
}
