//! What a milestone holds, and where it is kept.

use serde_json::{Value, json};

use crate::fixture::Fixture;

const CLAIM: &str = "[[claim]]\nname = \"answer\"\ncommand = \"cat answer.txt\"\n";

/// A fixture whose README makes a claim that holds.
fn fixture() -> Fixture {
    let fixture = Fixture::with_baseline();
    fixture.write("claims.toml", CLAIM);
    fixture.write("README.md", "The answer is 42<!-- claim: answer -->.\n");
    fixture.write("answer.txt", "42\n");
    fixture.commit("a claim");
    fixture
}

fn states(report: &Value) -> Vec<&str> {
    let claims = report["claims"].as_array().expect("a list");
    claims
        .iter()
        .filter_map(|claim| claim["state"].as_str())
        .collect()
}

#[test]
fn a_milestone_holds_the_claims_that_were_true_of_it() {
    let fixture = fixture();
    let (code, set) = fixture.json(&["milestone", "set", "1.0", "--measure"]);
    assert_eq!(code, 0, "{set:#}");
    let snapshot = &set["milestone"]["snapshot"];
    assert_eq!(snapshot["claims"][0]["state"], "holds", "{set:#}");
    assert!(snapshot["tests"]["states"]["passing"]["gamma/lib/tests::is_one"].is_string());
    let (code, report) = fixture.json(&["milestone", "check"]);
    assert_eq!(
        (code, &report["claims_verdict"]),
        (0, &"pass".into()),
        "{report:#}"
    );

    // What held and does not now is a regression, in files that are not committed, too.
    fixture.write("answer.txt", "43\n");
    let answer = fixture.palisade(&["milestone", "check"]);
    assert_eq!(answer.code, 1, "{}", answer.out);
    let line = "broken: README.md:1 answer: 43 was measured, which is not = 42";
    assert!(answer.out.contains(line), "{}", answer.out);
    fixture.commit("another answer");

    // What did not hold at the milestone is told, and is no regression since.
    fixture.palisade(&["milestone", "set", "broken", "--measure"]);
    let (code, report) = fixture.json(&["milestone", "check", "broken"]);
    assert_eq!(
        (code, states(&report)),
        (0, vec!["still_broken"]),
        "{report:#}"
    );
    // The older one is not forgotten.
    assert_eq!(fixture.palisade(&["milestone", "check", "1.0"]).code, 1);

    // What proves it gives no number: no data is no pass.
    fixture.write("answer.txt", "none\n");
    let (code, report) = fixture.json(&["milestone", "check", "1.0"]);
    assert_eq!(
        (code, states(&report)),
        (3, vec!["unmeasured"]),
        "{report:#}"
    );

    // A number that is no longer written is not false.
    fixture.write("claims.toml", "");
    fixture.write("README.md", "There is an answer.\n");
    fixture.commit("no claim");
    fixture.palisade(&["test"]);
    let (code, report) = fixture.json(&["milestone", "check", "1.0"]);
    assert_eq!((code, states(&report)), (0, vec!["gone"]), "{report:#}");
}

#[test]
fn claims_of_a_commit_that_is_not_checked_out_are_not_recorded() {
    let fixture = fixture();
    let (_, set) = fixture.json(&["milestone", "set", "old", "HEAD~1"]);
    let snapshot = &set["milestone"]["snapshot"];
    assert_eq!(snapshot["claims"], Value::Null, "{set:#}");
    let passing = snapshot["tests"]["states"]["passing"].as_object();
    assert_eq!(passing.map(serde_json::Map::len), Some(6), "{set:#}");
}

#[test]
fn a_milestone_of_an_older_version_is_read_and_says_what_it_lacks() {
    let fixture = fixture();
    let commit = fixture.git(&["rev-parse", "HEAD"]);
    let tree = fixture.git(&["rev-parse", "HEAD^{tree}"]);
    let record = json!({
        "record": "milestone", "id": "m", "name": "1.0", "set_ms": 1,
        "subject": {"tree": tree, "commit": commit, "dirty": false, "checkout": true, "branch": "main"},
    });
    let path = fixture.outside("records.jsonl");
    std::fs::write(&path, record.to_string()).expect("written");
    fixture.palisade(&["store", "import", &path.display().to_string()]);
    let answer = fixture.palisade(&["milestone", "check"]);
    assert_eq!(answer.code, 3, "{}", answer.out);
    for part in [
        "tests: not known at the milestone",
        "claims: not recorded at the milestone",
    ] {
        assert!(answer.out.contains(part), "{part}\n{}", answer.out);
    }
    fixture.palisade(&["test"]);
    let answer = fixture.palisade(&["milestone", "check"]);
    assert_eq!(answer.code, 0, "{}", answer.out);
    // Measured, the claims are held to be true.
    fixture.write("answer.txt", "43\n");
    let (code, report) = fixture.json(&["milestone", "check", "--measure"]);
    assert_eq!((code, states(&report)), (1, vec!["broken"]), "{report:#}");
}

#[test]
fn a_fresh_clone_is_held_against_the_milestones_that_git_keeps() {
    let fixture = fixture();
    let set = fixture.palisade(&["milestone", "set", "first", "--measure", "--file"]);
    assert_eq!(set.code, 0, "{}{}", set.out, set.err);
    fixture.commit("the first milestone");
    let clone = fixture.outside("clone");
    let path = clone.display().to_string();
    fixture.git(&["clone", "--quiet", ".", &path]);
    let palisade = |args: &[&str]| fixture.palisade(&[&["-C", path.as_str()], args].concat());
    let edit = |file: &str, from: &str, to: &str| {
        let file = clone.join(file);
        let text = std::fs::read_to_string(&file).expect("read");
        assert!(text.contains(from), "{from:?} in {text}");
        std::fs::write(&file, text.replace(from, to)).expect("written");
    };

    let listed = palisade(&["milestone", "list"]).out;
    for part in ["first: ", "tests: 6 passing, 1 ignored", "claims: 1 hold"] {
        assert!(listed.contains(part), "{part}\n{listed}");
    }
    // Its own tests are not known yet: no data is no pass.
    let answer = palisade(&["milestone", "check", "first"]);
    assert_eq!(answer.code, 3, "{}", answer.out);
    assert_eq!(palisade(&["test"]).code, 0);
    let answer = palisade(&["milestone", "check", "first"]);
    assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
    assert!(answer.out.contains("tests: pass\n"), "{}", answer.out);

    // A test that fails, one that is gone, and one with another name and the same body.
    edit("gamma/src/lib.rs", "    1\n", "    2\n");
    edit("alpha/src/lib.rs", "fn adds_zero", "fn adds_nothing");
    edit(
        "beta/src/lib.rs",
        "    #[test]\n    fn doubles",
        "    #[allow(dead_code)]\n    fn doubles",
    );
    palisade(&["test"]);
    let answer = palisade(&["milestone", "check", "first"]);
    assert_eq!(answer.code, 1, "{}", answer.out);
    for part in [
        "newly failing: gamma/lib/tests::is_one",
        "missing: beta/lib/tests::doubles",
        "renamed: alpha/lib/tests::adds_nothing",
    ] {
        assert!(answer.out.contains(part), "{part}\n{}", answer.out);
    }
    fixture.git(&["-C", &path, "checkout", "--quiet", "."]);

    // Seen on another machine, outcomes still say something; on another system nothing.
    let machine = format!("{} {}", std::env::consts::OS, std::env::consts::ARCH);
    edit(
        "milestones/first.json",
        &format!("\"{machine}, "),
        &format!("\"{machine}, another "),
    );
    palisade(&["test"]);
    let answer = palisade(&["milestone", "check", "first"]);
    assert_eq!(answer.code, 0, "{}", answer.out);
    let said = "tests: held by their outcomes alone, which were seen elsewhere (machine: ";
    assert!(answer.out.contains(said), "{}", answer.out);
    edit(
        "milestones/first.json",
        &format!("\"{machine}, "),
        "\"plan9 mips, ",
    );
    let answer = palisade(&["milestone", "check", "first"]);
    let said = format!("tests: incomparable, they were seen on plan9 mips, and this is {machine}");
    assert!(answer.out.contains(&said), "{}", answer.out);
    // The claims are held nevertheless.
    assert_eq!(answer.code, 0, "{}", answer.out);

    std::fs::write(clone.join("milestones/first.json"), "{}").expect("written");
    let answer = palisade(&["milestone", "list"]);
    assert_eq!(answer.code, 2, "{}", answer.err);
    assert!(answer.err.contains("first.json"), "{}", answer.err);
    let answer = fixture.palisade(&["milestone", "set", "../up", "--file"]);
    assert_eq!(answer.code, 2, "{}", answer.err);
}
