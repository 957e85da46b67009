//! The way back: where it begins, and what it does with merges and interrupts.

#[cfg(unix)]
use std::os::unix::process::CommandExt as _;
#[cfg(unix)]
use std::process::{Command, Stdio};
#[cfg(unix)]
use std::time::{Duration, Instant};

#[cfg(unix)]
use crate::culprit::{state, steps};
use crate::fixture::Fixture;

#[test]
fn without_a_question_the_way_back_begins_with_the_test_that_fails_at_head() {
    let fixture = Fixture::with_baseline();
    fixture.edit("gamma/src/lib.rs", "    1\n}", "    2\n}");
    fixture.commit("the culprit");
    let answer = fixture.palisade(&["recover"]);
    assert_eq!(answer.code, 2, "{}", answer.err);
    let said = "find an open incident, or a run of the tests of";
    assert!(answer.err.contains(said), "{}", answer.err);

    assert_eq!(fixture.palisade(&["test"]).code, 1);
    let answer = fixture.palisade(&["recover", "--json"]);
    assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
    let said = "gamma/lib/tests::is_one fails in the newest run of";
    assert!(answer.err.contains(said), "{}", answer.err);
    let incident: serde_json::Value = serde_json::from_str(&answer.out).expect("JSON");
    assert_eq!(incident["question"]["test"], "gamma/lib/tests::is_one");
    assert_eq!(
        incident["bisection"]["culprits"][0]["subject"],
        "the culprit"
    );

    // It is done, and that is said.
    let answer = fixture.palisade(&["recover"]);
    assert_eq!(answer.code, 2, "{}", answer.err);
    let branch = incident["revert"]["branch"].as_str().expect("a branch");
    let said = format!("{branch} takes back what broke gamma/lib/tests::is_one");
    assert!(answer.err.contains(&said), "{}", answer.err);

    // Of several, one is to be named.
    fixture.edit("alpha/src/lib.rs", "    a + b\n", "    a + b + 1\n");
    fixture.commit("more is broken");
    assert_eq!(fixture.palisade(&["test"]).code, 1);
    let answer = fixture.palisade(&["recover"]);
    assert_eq!(answer.code, 2, "{}", answer.err);
    for test in [
        "gamma/lib/tests::is_one",
        "alpha/lib/tests::adds",
        "alpha/lib/tests::adds_zero",
        "beta/lib/tests::doubles",
    ] {
        assert!(answer.err.contains(test), "{test}: {}", answer.err);
    }
    // What passes again is not red.
    fixture.git(&["revert", "--no-edit", "HEAD", "HEAD~1"]);
    assert_eq!(fixture.palisade(&["test"]).code, 0);
    let answer = fixture.palisade(&["recover"]);
    assert_eq!(answer.code, 2, "{}", answer.err);
    assert!(
        answer.err.contains("none does in its newest run"),
        "{}",
        answer.err
    );
}

#[test]
fn of_a_merge_that_is_the_culprit_what_it_brought_is_taken_back() {
    let fixture = Fixture::new();
    fixture.git(&["tag", "good"]);
    fixture.git(&["checkout", "--quiet", "-b", "side"]);
    fixture.write("gamma/src/right.txt", "\n");
    fixture.commit("the right half");
    fixture.git(&["checkout", "--quiet", "main"]);
    fixture.write("gamma/src/left.txt", "\n");
    fixture.commit("the left half");
    let merge = [
        "merge",
        "--quiet",
        "--no-ff",
        "--message",
        "the merge",
        "side",
    ];
    fixture.git(&merge);
    let culprit = fixture.git(&["rev-parse", "HEAD"]);
    fixture.write("README.md", "# Later\n");
    fixture.commit("later");
    // Each half alone is well.
    let both = "sh -c '! test -e gamma/src/left.txt || ! test -e gamma/src/right.txt'";
    let (code, incident) = fixture.json(&["recover", "--cmd", both, "--good", "good"]);
    assert_eq!(code, 0, "{incident:#}");
    let found = &incident["bisection"]["culprits"];
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{incident:#}");
    assert_eq!(found[0]["id"], culprit.as_str());
    assert_eq!(incident["validation"]["red"]["failures"], 0);
    let branch = format!("palisade/recover-{}", &culprit[..10]);
    assert_eq!(incident["revert"]["branch"], branch.as_str());
    let files = fixture.git(&["ls-tree", "-r", "--name-only", &branch, "gamma/src"]);
    assert!(
        files.contains("left.txt") && !files.contains("right.txt"),
        "{files}"
    );
    let message = fixture.git(&["show", "-s", "--format=%B", &format!("{branch}~1")]);
    let said = "reversing\nchanges made to";
    assert!(
        message.contains(&culprit) && message.contains(said),
        "{message}"
    );

    // By the first parents it brought what the side did, and the same branch takes that
    // back, too.
    let right = "sh -c '! test -e gamma/src/right.txt'";
    let args = [
        "recover",
        "--cmd",
        right,
        "--good",
        "good",
        "--first-parent",
    ];
    let (code, incident) = fixture.json(&args);
    assert_eq!(code, 0, "{incident:#}");
    assert_eq!(incident["bisection"]["culprits"][0]["id"], culprit.as_str());
    let policy = fixture.git(&["show", &format!("{branch}:palisade.toml")]);
    assert_eq!(policy.matches("[[monitor]]").count(), 2, "{policy}");
    assert_eq!(
        fixture.git(&["rev-list", "--count", &format!("main..{branch}")]),
        "3"
    );
}

#[test]
fn the_claims_that_the_branch_is_held_to_are_those_of_the_branch() {
    let fixture = Fixture::new();
    let claims = "[[claim]]\nname = \"answer\"\ncommand = \"cat answer.txt\"\n";
    fixture.write("claims.toml", claims);
    fixture.write("README.md", "It is 42<!-- claim: answer -->.\n");
    fixture.write("answer.txt", "42\n");
    fixture.commit("a claim");
    fixture.git(&["tag", "good"]);
    fixture.write("bad", "\n");
    fixture.write("answer.txt", "43\n");
    fixture.commit("the culprit");
    // What the user has not committed says something else.
    fixture.write("answer.txt", "44\n");
    let command = [
        "recover",
        "--cmd",
        "sh -c '! test -e bad'",
        "--good",
        "good",
    ];
    let (code, incident) = fixture.json(&command);
    assert_eq!(code, 0, "{incident:#}");
    assert_eq!(incident["validation"]["verdict"], "pass");
    fixture.git(&["checkout", "--quiet", "answer.txt"]);

    fixture.write("README.md", "It is 41<!-- claim: answer -->.\n");
    fixture.commit("a wrong number");
    fixture.write("answer.txt", "41\n");
    let branch = incident["revert"]["branch"].as_str().expect("a branch");
    fixture.git(&["branch", "--quiet", "-D", branch]);
    let (code, incident) = fixture.json(&command);
    assert_eq!(code, 1, "{incident:#}");
    let findings = incident["validation"]["findings"].to_string();
    let said = "README.md:1 answer is broken: 42 was measured, which is not = 41";
    assert!(findings.contains(said), "{findings}");
    assert_eq!(fixture.read("answer.txt"), "41\n");
    assert_eq!(fixture.git(&["worktree", "list"]).lines().count(), 1);
}

#[test]
#[cfg(unix)]
fn an_interrupt_in_any_step_leaves_no_checkout_and_the_way_goes_on_there() {
    let fixture = Fixture::new();
    fixture.git(&["tag", "good"]);
    fixture.edit("alpha/src/lib.rs", "    a + b\n", "    a + b + 1\n");
    fixture.commit("the culprit");
    fixture.write("README.md", "stashed\n");
    fixture.git(&["stash", "--quiet"]);
    fixture.write("README.md", "staged\n");
    fixture.git(&["add", "README.md"]);
    fixture.write("README.md", "changed\n");
    let before = state(&fixture);
    let folder = fixture.root().join(".palisade/incidents");
    let temporary = fixture.outside("temporary");
    std::fs::create_dir(&temporary).expect("created");
    let steps = || steps(&folder);
    let mut args = vec![
        "recover",
        "--test",
        "alpha/lib/tests::adds",
        "--good",
        "good",
    ];
    let mut interrupted = 0;
    for step in 0..5 {
        let mut program = fixture.command(env!("CARGO_BIN_EXE_cargo-palisade"));
        program
            .args(&args)
            .env("TMPDIR", &temporary)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let mut child = program.spawn().expect("it starts");
        let started = Instant::now();
        while steps().is_none_or(|steps| steps < step) && started.elapsed() < Duration::from_mins(5)
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(150));
        // As a terminal does, to all that runs there.
        let group = format!("-{}", child.id());
        let kill = Command::new("kill")
            .args(["-s", "INT", "--", &group])
            .status();
        let was_running = kill.expect("kill runs").success();
        let code = child.wait().expect("it ends").code();
        let is_done = steps() == Some(5);
        assert_eq!(code, Some(if is_done { 0 } else { 3 }), "in step {step}");
        interrupted += u32::from(was_running && !is_done);
        assert_eq!(state(&fixture), before, "in step {step}");
        let worktrees = fixture.git(&["worktree", "list"]);
        assert_eq!(worktrees.lines().count(), 1, "in step {step}: {worktrees}");
        let left: Vec<_> = std::fs::read_dir(&temporary).expect("read").collect();
        assert!(left.is_empty(), "in step {step}: {left:?}");
        args = vec!["recover"];
        if is_done {
            break;
        }
    }
    assert!(interrupted >= 3, "{interrupted}");
    if steps() < Some(5) {
        let answer = fixture.palisade(&["recover"]);
        assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
    }
    assert_eq!(steps(), Some(5));
    assert_eq!(state(&fixture), before);
}
