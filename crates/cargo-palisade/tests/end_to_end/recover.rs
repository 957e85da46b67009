//! The way back: where it begins, and what it does with merges and interrupts.

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
