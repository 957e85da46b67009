//! Numbers in documents, held to what proves them.

use crate::fixture::Fixture;
use crate::speed::{metered, write_meter};

const CLAIMS: &str = "\
[[claim]]
name = \"answer\"
command = \"cat answer.json\"
json = \"/rows/0/value\"

[[claim]]
name = \"sum\"
document = \"README.md\"
text = \"adds up to {}\\n\"
test = \"alpha/lib/tests::adds\"

[[claim]]
name = \"slow\"
command = \"cat answer.txt\"
relation = \"<=\"
cost = \"costly\"
";

const README: &str = "\
# A fixture

The answer is 42<!-- claim: answer -->, found in 9 s<!-- claim: slow -->.

```text
adds up to 3
```

Decoding takes 12 ms.
";

fn fixture() -> Fixture {
    let fixture = Fixture::new();
    fixture.write("claims.toml", CLAIMS);
    fixture.write("README.md", README);
    fixture.write("answer.json", "{\"rows\": [{\"value\": 42}]}");
    fixture.write("answer.txt", "it took\n7\n");
    fixture.commit("claims");
    fixture
}

#[test]
fn a_number_is_held_to_its_proof_and_rewritten_from_it() {
    let fixture = fixture();
    let (code, json) = fixture.json(&["claims", "check"]);
    assert_eq!(code, 0, "{json:#}");
    let states: Vec<&str> = json["claims"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|claim| claim["state"].as_str().expect("a word"))
        .collect();
    assert_eq!(states, ["holds", "left_out", "holds"]);
    // What is left out alone is no pass.
    assert_eq!(fixture.palisade(&["claims", "check", "slow"]).code, 3);
    let costly = fixture.palisade(&["claims", "check", "slow", "--costly"]);
    assert_eq!(costly.code, 0, "{}", costly.out);

    // The proof changes: the document is wrong, for `check` too.
    fixture.write("answer.json", "{\"rows\": [{\"value\": 43}]}");
    let answer = fixture.palisade(&["claims", "check"]);
    assert_eq!(answer.code, 1, "{}", answer.out);
    let said = "BROKEN        README.md:3 answer: 43 was measured, which is not = 42";
    assert!(answer.out.contains(said), "{}", answer.out);
    let report = fixture.json(&["check"]).1;
    assert_eq!(report["findings"][0]["kind"], "claim", "{report:#}");
    assert_eq!(report["exit_code"], 1);

    let update = fixture.palisade(&["claims", "update"]);
    assert_eq!(update.code, 0, "{}{}", update.out, update.err);
    let expected = README.replace("42<!--", "43<!--");
    assert_eq!(fixture.read("README.md"), expected);
    let definitions = fixture.read("claims.toml");
    assert_eq!(
        definitions.matches("measured = \"20").count(),
        1,
        "{definitions}"
    );
    assert_eq!(fixture.palisade(&["claims", "check"]).code, 0);

    // What gives no number is no pass, and a failing test breaks its claim.
    fixture.write("answer.json", "{}");
    assert_eq!(fixture.palisade(&["claims", "check", "answer"]).code, 3);
    fixture.edit("alpha/src/lib.rs", "a + b", "a - b");
    assert_eq!(fixture.palisade(&["claims", "check", "sum"]).code, 1);
    let wrong = fixture.palisade(&["claims", "check", "none of them"]);
    assert_eq!(wrong.code, 2, "{}", wrong.err);
}

#[test]
fn what_has_no_proof_is_listed_and_contradictions_are_found() {
    let fixture = fixture();
    let list = fixture.palisade(&["claims", "list"]);
    assert_eq!(list.code, 0);
    for line in [
        "README.md:3 answer: 42 = cat answer.json /rows/0/value\n",
        "README.md:3 slow: 9 ≤ cat answer.txt (costly)\n",
        "no proof: README.md:9: 12 in “Decoding takes 12 ms.”\n",
        "3 claims, 0 contradictions, 1 figure without proof\n",
    ] {
        assert!(list.out.contains(line), "{line}\n{}", list.out);
    }
    fixture.write(
        "NOTES.md",
        "There are 8 failing tests.\n\nOf them 9 failing in CI.\n9 failing.\n",
    );
    let answer = fixture.palisade(&["claims", "check"]);
    assert_eq!(answer.code, 1);
    let said = "contradiction  NOTES.md failing: 8 in line 1, 9 in line 4\n";
    assert!(answer.out.contains(said), "{}", answer.out);
}

#[test]
fn a_number_is_held_to_a_benchmark() {
    let fixture = metered();
    let claims = "\
        [[claim]]\nname = \"pace\"\nbench = \"rate\"\nrelation = \"within\"\nwithin = \"3 %\"\n\n\
        [[claim]]\nname = \"held\"\nbench = \"hold\"\nmeasure = \"peak_memory\"\n\
        scale = 1e-6\nrelation = \"<=\"\n\n\
        [[claim]]\nname = \"nothing\"\nbench = \"no such benchmark\"\n";
    fixture.write("claims.toml", claims);
    fixture.write(
        "README.md",
        "It takes 100 ns<!-- claim: pace --> and 40 MB<!-- claim: held -->, or 1 s<!-- claim: nothing -->.\n",
    );
    fixture.commit("claims");
    // A benchmark is costly where nothing else is said.
    assert_eq!(fixture.palisade(&["claims", "check", "pace"]).code, 3);
    let (code, json) = fixture.json(&["claims", "check", "pace", "held", "--costly"]);
    assert_eq!(code, 0, "{json:#}");
    let found = |at: usize| json["claims"][at]["found"].as_f64().expect("a number");
    assert!((100.0..101.0).contains(&found(0)), "{json:#}");
    // 24 MiB that it holds, and the program itself.
    assert!((25.0..40.0).contains(&found(1)), "{json:#}");

    write_meter(&fixture, "120.0", 64);
    let (code, json) = fixture.json(&["claims", "check", "pace", "held", "--costly"]);
    assert_eq!(code, 1, "{json:#}");
    assert_eq!(
        json["findings"].as_array().map(Vec::len),
        Some(2),
        "{json:#}"
    );
    let update = fixture.palisade(&["claims", "update", "pace", "--costly"]);
    assert_eq!(update.code, 0, "{}{}", update.out, update.err);
    // The meter prints up to a hundredth more than its number.
    let text = fixture.read("README.md");
    let is_new = |number| text.contains(&format!("It takes {number} ns<!-- claim: pace"));
    assert!(is_new("120") || is_new("121"), "{text}");
    assert_eq!(
        fixture
            .palisade(&["claims", "check", "pace", "--costly"])
            .code,
        0
    );

    let answer = fixture.palisade(&["claims", "check", "nothing", "--costly"]);
    assert_eq!(answer.code, 3, "{}", answer.out);
    assert!(
        answer
            .out
            .contains("there is no benchmark no such benchmark"),
        "{}",
        answer.out
    );
}
