//! Results that other programs wrote: remembered, and compared by the scripts.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::{Answer, Fixture, answer};

/// A script of this repository, run in the fixture with this program.
fn script(fixture: &Fixture, name: &str, args: &[&Path]) -> Answer {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../scripts")
        .join(name);
    let mut command: Command = fixture.command("sh");
    command
        .arg(path)
        .args(args)
        .env("PALISADE", env!("CARGO_BIN_EXE_cargo-palisade"));
    answer(command)
}

/// What `cargo test` prints in the fixture, both streams.
fn log(fixture: &Fixture, name: &str) -> PathBuf {
    let path = fixture.outside(name);
    let file = std::fs::File::create(&path).expect("created");
    let both = file.try_clone().expect("cloned");
    let status = fixture
        .command("cargo")
        .args(["test", "--workspace", "--no-fail-fast"])
        .stdout(file)
        .stderr(both)
        .status();
    status.expect("cargo runs");
    path
}

#[test]
fn two_logs_of_cargo_test_are_compared_and_remembered() {
    let fixture = Fixture::new();
    let base = log(&fixture, "base.log");
    fixture.edit("beta/src/lib.rs", "alpha::add(a, a)", "alpha::add(a, 1)");
    let current = log(&fixture, "current.log");
    let found = script(&fixture, "compare_test_results.sh", &[&base, &current]);
    assert_eq!(found.code, 1, "{}{}", found.out, found.err);
    let line = "REGRESSION beta/lib/tests::doubles (newly failing)";
    assert!(found.out.contains(line), "{}", found.out);
    assert!(found.out.contains("no rerun"), "{}", found.out);
    let same = script(&fixture, "compare_test_results.sh", &[&base, &base]);
    assert_eq!(same.code, 0, "{}{}", same.out, same.err);
    // A log that breaks off is no pass.
    let text = std::fs::read_to_string(&base).expect("read");
    let cut = text.rfind("test result").expect("a result");
    let part = fixture.outside("part.log");
    std::fs::write(&part, &text[..cut]).expect("written");
    let open = script(&fixture, "compare_test_results.sh", &[&base, &part]);
    assert_eq!(open.code, 3, "{}{}", open.out, open.err);
    let usage = script(&fixture, "compare_test_results.sh", &[&base]);
    assert_eq!(usage.code, 2, "{}{}", usage.out, usage.err);

    let base = base.display().to_string();
    for _ in 0..2 {
        let (code, json) = fixture.json(&["import", &base]);
        assert_eq!(code, 0);
        assert_eq!(json["files"][0]["format"], "cargo-test");
        assert_eq!(json["files"][0]["tests"]["passing"], 6, "{json:#}");
    }
    let lines = fixture.palisade(&["store", "export"]).out;
    assert_eq!(lines.lines().count(), 1, "{lines}");
    let unknown = fixture.palisade(&["import", "README.md"]);
    assert_eq!(unknown.code, 2, "{}", unknown.err);
}

/// What `cargo test` prints in the fixture on its standard output.
fn stdout_log(fixture: &Fixture, name: &str, args: &[&str]) -> PathBuf {
    let path = fixture.outside(name);
    let file = std::fs::File::create(&path).expect("created");
    let output = fixture
        .command("cargo")
        .args(["test", "--workspace"])
        .args(args)
        .stdout(file)
        .output();
    output.expect("cargo runs");
    path
}

#[test]
fn the_standard_output_of_cargo_test_is_a_log_too() {
    let fixture = Fixture::new();
    fixture.write("beta/tests/outer.rs", "#[test]\nfn outer() {}\n");
    let base = stdout_log(&fixture, "base.log", &["--no-fail-fast"]);
    fixture.edit("beta/src/lib.rs", "alpha::add(a, a)", "alpha::add(a, 1)");
    let current = stdout_log(&fixture, "current.log", &["--no-fail-fast"]);
    let found = script(&fixture, "compare_test_results.sh", &[&base, &current]);
    assert_eq!(found.code, 1, "{}{}", found.out, found.err);
    let line = "REGRESSION beta/lib/tests::doubles (newly failing)";
    assert!(found.out.contains(line), "{}", found.out);
    assert!(!found.out.contains("(missing)"), "{}", found.out);
    let same = script(&fixture, "compare_test_results.sh", &[&base, &base]);
    assert_eq!(same.code, 0, "{}{}", same.out, same.err);
    // Without --no-fail-fast Cargo stops at the library of `beta`.
    let stopped = stdout_log(&fixture, "stopped.log", &[]);
    let found = script(&fixture, "compare_test_results.sh", &[&base, &stopped]);
    assert_eq!(found.code, 1, "{}{}", found.out, found.err);
    assert!(found.out.contains(line), "{}", found.out);
    assert!(!found.out.contains("(missing)"), "{}", found.out);
    let not_run = "did not run alpha/doc, beta/test:outer, gamma/lib, 3 tests";
    assert!(found.out.contains(not_run), "{}", found.out);
    // Only sums, as `grep "test result:"` leaves them.
    let text = std::fs::read_to_string(&current).expect("read");
    let sums: Vec<&str> = (text.lines())
        .filter(|line| line.contains("test result:"))
        .collect();
    let summarize = |text: &str| {
        let path = fixture.outside("sums");
        std::fs::write(&path, text).expect("written");
        let mut command = fixture.command(env!("CARGO_BIN_EXE_cargo-palisade"));
        command.args(["import", "-", "--format", "summary"]);
        command.stdin(std::fs::File::open(&path).expect("opens"));
        answer(command)
    };
    let below = summarize(&sums.join("\n"));
    assert_eq!(below.code, 1, "{}{}", below.out, below.err);
    assert!(
        below
            .out
            .contains("6 of 7 tests pass (85.71 %), 1 fail, 1 ignored"),
        "{}",
        below.out
    );
    let ok: Vec<&str> = (sums.iter().copied())
        .filter(|line| line.contains("ok."))
        .collect();
    assert_eq!(summarize(&ok.join("\n")).code, 0);
    assert_eq!(summarize("no sums\n").code, 2);
}

#[test]
fn what_benchmarks_print_is_compared() {
    let fixture = Fixture::new();
    let log = |name: &str, micros: f64| {
        let path = fixture.outside(name);
        let [low, high] = [micros * 0.99, micros * 1.01];
        let text = format!(
            "running 1 test\ntest tests::t ... ignored\n\ntest result: ok. 0 passed; 0 failed; \
             1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\n\
             fib 20                  time:   [{low:.3} µs {micros:.3} µs {high:.3} µs]\n"
        );
        std::fs::write(&path, text).expect("written");
        path
    };
    let base = log("base.log", 26.0);
    let compare = |current: &Path| script(&fixture, "compare_performance.sh", &[&base, current]);
    let slower = compare(&log("slower.log", 40.0));
    assert_eq!(slower.code, 1, "{}{}", slower.out, slower.err);
    assert!(
        slower.out.contains("fib 20: time (regressed)"),
        "{}",
        slower.out
    );
    let open = compare(&log("open.log", 28.5));
    assert_eq!(open.code, 4, "{}{}", open.out, open.err);
    let words = "two single runs cannot carry a difference this small";
    assert!(open.out.contains(words), "{}", open.out);
    assert!(
        open.out.contains("cargo palisade compare BASE"),
        "{}",
        open.out
    );
    assert_eq!(compare(&base).code, 0);
}

#[test]
fn saved_measurements_are_compared_and_remembered() {
    let fixture = Fixture::new();
    let hyperfine = |name: &str, seconds: f64| {
        let times: Vec<f64> = (0..12)
            .map(|n| seconds * (1.0 + 0.001 * f64::from(n % 4)))
            .collect();
        let text = format!("{{\"results\": [{{\"command\": \"app\", \"times\": {times:?}}}]}}");
        let path = fixture.outside(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let (base, slower) = (hyperfine("base.json", 1.0), hyperfine("slower.json", 1.1));
    let found = script(&fixture, "compare_performance.sh", &[&base, &slower]);
    assert_eq!(found.code, 1, "{}{}", found.out, found.err);
    assert!(found.out.contains("app: time (regressed)"), "{}", found.out);
    assert_eq!(
        script(&fixture, "compare_performance.sh", &[&base, &base]).code,
        0
    );
    // One value without bounds says nothing.
    let bencher = |value: f64| {
        let path = fixture.outside(&format!("{value}.json"));
        let text = format!("{{\"app\": {{\"latency\": {{\"value\": {value}}}}}}}");
        std::fs::write(&path, text).expect("written");
        path
    };
    let open = script(
        &fixture,
        "compare_performance.sh",
        &[&bencher(100.0), &bencher(110.0)],
    );
    assert_eq!(open.code, 4, "{}{}", open.out, open.err);

    let samples = "target/criterion/sum/new";
    fixture.write(
        &format!("{samples}/benchmark.json"),
        "{\"full_id\": \"sum\"}",
    );
    fixture.write(
        &format!("{samples}/sample.json"),
        "{\"iters\": [10.0, 20.0], \"times\": [1000.0, 2000.0]}",
    );
    let answer = fixture.palisade(&["import", "target/criterion"]);
    assert_eq!(answer.code, 0, "{}", answer.err);
    let history = fixture.palisade(&["history"]).out;
    assert!(
        history.contains("sum, time (imported: criterion): 100"),
        "{history}"
    );

    // What the guard measured of the same benchmark is not hidden, though it is older.
    let commit = fixture.git(&["rev-parse", "HEAD"]);
    let own = serde_json::json!({
        "record": "speed", "id": "own", "session": "own", "started_ms": 1, "finished_ms": 2,
        "purpose": "series",
        "subject": {"tree": commit, "commit": commit, "dirty": false, "checkout": true, "branch": "main"},
        "fingerprint": {"cores": "2"},
        "measurements": [{"benchmark": "sum", "measure": "time", "values": [90.0, 90.0]}],
    });
    let path = fixture.outside("own.jsonl");
    std::fs::write(&path, own.to_string()).expect("written");
    fixture.palisade(&["store", "import", &path.display().to_string()]);
    let (_, history) = fixture.json(&["history"]);
    let series = history["series"].as_array().expect("a list");
    let values: Vec<_> = series
        .iter()
        .map(|one| (one["source"].as_str(), one["points"][0]["value"].as_f64()))
        .collect();
    assert_eq!(
        values,
        [(None, Some(90.0)), (Some("criterion"), Some(100.0))],
        "{history:#}"
    );
    assert_eq!(history["fingerprint"]["cores"], "2", "{history:#}");
    assert_eq!(history["left_out"], serde_json::json!([]), "{history:#}");
}

#[test]
fn the_check_is_a_script_too() {
    let fixture = Fixture::with_baseline();
    fixture.edit("gamma/src/lib.rs", "    1\n", "    2\n");
    let found = script(&fixture, "regression_check.sh", &[]);
    assert_eq!(found.code, 1, "{}{}", found.out, found.err);
    assert!(
        found.out.contains("gamma/lib/tests::is_one"),
        "{}",
        found.out
    );
}
