//! What `init` finds in a workspace, and what the commands after it make of that.

use serde_json::Value;

use crate::fixture::Fixture;

const PROGRAM: &str = "\
fn main() {
    match std::env::args().nth(1).as_deref() {
        Some(\"sum\") => println!(\"checksum 4096\"),
        _ => std::process::exit(3),
    }
}
";

const README: &str = "\
# A fixture

Then `gamma sum` prints `checksum 4096`, and `gamma sum 2` peaks below 500 MiB. Nothing else is
known: `gamma other` needs at most 5 s. Decoding takes 12 ms. It has 6 unit tests,
and 9 integration tests.
";

/// A workspace with a program that its documents tell of, and a test behind a feature.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    let manifest = fixture.read("gamma/Cargo.toml");
    fixture.write(
        "gamma/Cargo.toml",
        &format!("{manifest}\n[features]\nextra = []\n"),
    );
    let library = fixture.read("gamma/src/lib.rs");
    let hidden = "#[cfg(all(test, feature = \"extra\"))]\n#[test]\nfn hides() {}\n";
    fixture.write("gamma/src/lib.rs", &format!("{library}\n{hidden}"));
    fixture.write("gamma/src/main.rs", PROGRAM);
    fixture.write("README.md", README);
    fixture.commit("a program");
    fixture
}

#[test]
fn what_documents_show_is_tried_and_proposed() {
    let fixture = fixture();
    let answer = fixture.palisade(&["init"]);
    assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
    for line in [
        "1 of 7 tests are invisible: they need --all-features",
        "proposed: 2 workloads, each tried, as comments",
        "proposed: 2 claims, each tried, as comments",
        "not proposed: README.md:4: `gamma other`",
        "not proposed: README.md:5: `integration tests`: 9 is written, and there are 0",
        "no proof: README.md:4:",
    ] {
        assert!(answer.out.contains(line), "{line}\n{}", answer.out);
    }
    let policy = fixture.read("palisade.toml");
    assert!(policy.contains("# [[workload]] # README.md:3"), "{policy}");
    assert!(policy.contains("# max_rss = \"500.00 MiB\""), "{policy}");
    // Written as comments, it changes nothing: the run of `init` stands for this commit too.
    fixture.commit("the policy");
    let (code, json) = fixture.json(&["claims", "list"]);
    assert_eq!(
        (code, json["claims"].as_array().map(Vec::len)),
        (0, Some(0))
    );
    fixture.edit("alpha/src/lib.rs", "    a + b\n", "    b + a\n");
    let report = fixture.check(&["--base", "HEAD"], 0, &[]);
    assert_eq!(report["base"]["source"]["origin"], "store", "{report:#}");
    // What the change cannot reach has no part in it: gamma's hidden test.
    assert_eq!(report["coverage"]["behind_features"], Value::Null);
    fixture.edit("gamma/src/lib.rs", "    1\n", "    2 - 1\n");
    let answer = fixture.palisade(&["check", "--base", "HEAD"]);
    let said = "; at least 1 of 7 tests is behind features that this run leaves out";
    assert!(answer.out.contains(said), "{}", answer.out);
}

#[test]
fn what_is_proposed_can_be_put_in_force() {
    let fixture = fixture();
    fixture.edit("README.md", "6 unit tests", "7 unit tests");
    fixture.commit("the number of all tests");
    let answer = fixture.palisade(&["init", "--yes"]);
    assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
    assert!(answer.out.contains("in force"), "{}", answer.out);
    fixture.commit("the policy");
    let (code, json) = fixture.json(&["claims", "check"]);
    assert_eq!(code, 0, "{json:#}");
    for claim in json["claims"].as_array().expect("a list") {
        assert_eq!(claim["state"], "holds", "{json:#}");
    }
    assert_eq!(json["claims"][1]["tests"], "unit tests", "{json:#}");
    fixture.edit(
        "gamma/src/lib.rs",
        "fn hides() {}",
        "fn hides() { panic!() }",
    );
    fixture.check(
        &["--base", "HEAD"],
        1,
        &[
            ("gamma/lib/hides", "newly_failing"),
            ("success rate", "below_minimum"),
        ],
    );
}
