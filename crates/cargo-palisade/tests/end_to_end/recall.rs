//! What the plan of a change finds of the failures that all tests show, over mutations of
//! the fixture.

use serde_json::Value;

use crate::fixture::Fixture;

/// Single changes that break something: file, text, its replacement.
const MUTATIONS: [(&str, &str, &str); 9] = [
    ("alpha/src/lib.rs", "    a + b\n", "    a - b\n"),
    ("alpha/src/lib.rs", "    a + b\n", "    let _ = b;\n    a\n"),
    (
        "alpha/src/lib.rs",
        "    a + b\n",
        "    if a > 5 { b } else { a + b }\n",
    ),
    ("beta/src/lib.rs", "alpha::add(a, a)", "alpha::add(a, 1)"),
    ("beta/src/lib.rs", "alpha::add(a, a)", "a"),
    ("gamma/src/lib.rs", "    1\n", "    2\n"),
    (
        "gamma/src/lib.rs",
        "    1\n",
        "    unsafe { std::mem::transmute::<i8, u8>(2) }\n",
    ),
    // Data that a test reads while it runs, and data that is compiled in.
    ("gamma/limits.txt", "10", "1"),
    ("beta/names.txt", "two", "three"),
];

/// `cargo test -p cargo-palisade --test end_to_end recall -- --nocapture` prints the figure of
/// `docs/accuracy.md`.
#[test]
#[expect(clippy::print_stdout, reason = "the figure of docs/accuracy.md")]
fn the_plan_finds_what_mutations_break() {
    let fixture = Fixture::new();
    // Fewer reruns: each mutation fails each time.
    fixture.write("palisade.toml", "[flaky]\nreruns = 1\nmax_reruns = 1\n");
    fixture.write("gamma/limits.txt", "10\n");
    fixture.add_test(
        "gamma",
        "is_below_the_limit",
        "let text = std::fs::read_to_string(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/limits.txt\"));
        assert!(super::one() < text.unwrap().trim().parse().unwrap());",
    );
    fixture.write("beta/names.txt", "two\n");
    fixture.add_test(
        "beta",
        "has_a_name",
        "assert_eq!(include_str!(\"../names.txt\").trim(), \"two\");",
    );
    fixture.commit("data");
    assert_eq!(fixture.palisade(&["baseline", "record"]).code, 0);
    for (path, from, to) in MUTATIONS {
        let before = fixture.read(path);
        fixture.edit(path, from, to);
        let (code, report) = fixture.json(&["check", "--full"]);
        let scored = &report["recall"];
        let missed = scored["missed"].as_array().expect("a list").len() as u64;
        let failures = scored["found"].as_u64().expect("a number") + missed;
        assert!(code == 1 && failures > 0, "{path}: {to}: {report:#}");
        fixture.write(path, &before);
    }
    let (code, json) = fixture.json(&["report"]);
    assert_eq!(code, 0);
    let recall = &json["recall"];
    println!("{}", fixture.palisade(&["report"]).out);
    assert_eq!(recall["checks"], MUTATIONS.len());
    let share = |scores: &Value| {
        let number = |key: &str| scores[key].as_u64().expect("a number") as f64;
        number("found") / number("of")
    };
    assert!(share(&recall["all"]) >= 0.95, "{recall:#}");
    assert_eq!(share(&recall["by_level"]["critical"]), 1.0, "{recall:#}");
}
