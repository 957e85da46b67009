//! Speed and memory, on programs whose numbers are known.

#[cfg(unix)]
use std::process::{Command, Stdio};
#[cfg(unix)]
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fixture::Fixture;

/// A program of `gamma` that prints a number, holds memory, sleeps or computes.
const METER: &str = "\
fn main() {
    let what = std::env::args().nth(1).unwrap_or_default();
    match what.as_str() {
        // Changes a little from launch to launch, as measurements do.
        \"print\" => {
            let noise = u64::from(std::process::id()) * 7 % 10;
            println!(\"loading\\n{}\", NUMBER * (1000 + noise) as f64 / 1000.0);
        }
        \"hold\" => {
            let held = vec![1_u8; MIB << 20];
            println!(\"{}\", held.iter().step_by(4096).map(|b| u64::from(*b)).sum::<u64>());
        }
        \"nap\" => std::thread::sleep(std::time::Duration::from_millis(250)),
        \"compute\" => {
            let mut x = 1_u64;
            for i in 0..20_000_000 {
                x = std::hint::black_box(x.wrapping_mul(6364136223846793005).wrapping_add(i));
            }
            println!(\"{x}\");
        }
        _ => std::process::exit(7),
    }
}
";

const POLICY: &str = "\
[speed]
wait = \"0s\"
counters = \"off\"

[[bench]]
name = \"rate\"
command = \"meter print\"
prints = \"number\"

[[workload]]
name = \"hold\"
command = \"meter hold\"
max_rss = \"48 MiB\"
";

/// The part of the policy that does not depend on how busy the machine is.
const STEADY: &str = "\
[speed]
wait = \"0s\"
counters = \"off\"

[[bench]]
name = \"rate\"
command = \"meter print\"
prints = \"number\"
";

/// The fixture with the program and the policy, committed.
pub fn metered() -> Fixture {
    let fixture = Fixture::new();
    write_meter(&fixture, "100.0", 24);
    fixture.write("palisade.toml", POLICY);
    fixture.commit("a meter");
    fixture
}

pub fn write_meter(fixture: &Fixture, number: &str, mib: usize) {
    let constants = format!("const NUMBER: f64 = {number};\nconst MIB: usize = {mib};\n\n");
    fixture.write("gamma/src/bin/meter.rs", &format!("{constants}{METER}"));
}

/// Compares and returns (exit code, report, findings as (name, state)).
fn compare(fixture: &Fixture, args: &[&str]) -> (i32, Value, Vec<(String, String)>) {
    let (code, report) = fixture.json(&[&["compare"], args].concat());
    let findings = report["findings"].as_array().expect("a list").iter();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let findings = findings
        .map(|f| (text(&f["name"]), text(&f["state"])))
        .collect();
    assert_eq!(report["exit_code"], code);
    (code, report, findings)
}

fn entry<'a>(report: &'a Value, name: &str, measure: &str) -> &'a Value {
    let entries = report["speed"]["benchmarks"].as_array().expect("a list");
    let is_it = |e: &&Value| e["benchmark"] == name && e["decision"]["measure"] == measure;
    entries
        .iter()
        .find(is_it)
        .unwrap_or_else(|| panic!("{name} {measure}: {report:#}"))
}

#[test]
fn the_same_code_is_measured_on_both_sides_and_equivalent() {
    let fixture = metered();
    let (code, report, findings) = compare(&fixture, &["HEAD", "HEAD", "--only", "rate"]);
    assert_eq!(findings, []);
    assert_eq!(code, 0);
    let rate = entry(&report, "rate", "time");
    assert_eq!(rate["decision"]["state"], "equivalent");
    assert_eq!(rate["unchanged"], true);
    if cfg!(target_os = "linux") {
        let disturbed = report["speed"]["disturbed"].as_u64();
        assert!(
            disturbed <= report["speed"]["launches"].as_u64(),
            "{report:#}"
        );
        assert!(disturbed.is_some());
    }
    // Not one launch was used for both revisions.
    let pairs = rate["decision"]["pairs"].as_u64().expect("a number");
    assert!(pairs >= 6);
    assert!(report["speed"]["launches"].as_u64().expect("a number") >= 2 * pairs);
    let answer = fixture.palisade(&["store", "export"]);
    let revisions = answer
        .out
        .lines()
        .filter(|line| line.contains("\"speed\""))
        .count();
    assert_eq!(revisions, 2, "{}", answer.out);
    // The checkouts are gone, and the user's tree is as it was.
    assert_eq!(fixture.git(&["worktree", "list"]).lines().count(), 1);
    assert_eq!(fixture.git(&["status", "--porcelain"]), "");
}

#[test]
fn what_became_slower_or_larger_is_named() {
    let fixture = metered();
    write_meter(&fixture, "120.0", 40);
    let markdown = fixture.outside("report.md");
    let html = fixture.outside("report.html");
    let files = [
        markdown.to_str().expect("text"),
        html.to_str().expect("text"),
    ];
    let args = ["HEAD", "--markdown", files[0], "--html", files[1]];
    let (code, report, findings) = compare(&fixture, &args);
    assert_eq!(code, 1, "{report:#}");
    for name in ["rate", "hold: peak memory"] {
        let is_it = |(found, state): &&(String, String)| found == name && state == "regressed";
        assert!(findings.iter().any(|f| is_it(&f)), "{findings:?}");
    }
    let rate = &entry(&report, "rate", "time")["decision"];
    assert_eq!(rate["severity"], "block");
    assert_eq!(rate["confirmation"]["agrees"], true);
    let ratio = rate["estimate"]["ratio"].as_f64().expect("a number");
    assert!((ratio - 1.2).abs() < 0.01, "{ratio}");
    let memory = &entry(&report, "hold", "peak_memory")["decision"];
    let base = memory["base"].as_f64().expect("a number");
    assert!((24.0..28.0).contains(&(base / 1_048_576.0)), "{base}");
    let bound = &report["speed"]["bounds"][0];
    assert_eq!(bound["name"], "hold");
    assert_eq!(bound["decision"]["state"], "kept");
    for file in files {
        let text = std::fs::read_to_string(file).expect("written");
        for part in ["rate", "hold: peak memory", "regressed", "Launches"] {
            assert!(text.contains(part), "{file} lacks {part}");
        }
    }
    // A budget is held whatever the base was.
    write_meter(&fixture, "100.0", 64);
    fixture.commit("more memory");
    let (code, _, findings) = compare(&fixture, &["HEAD", "HEAD", "--only", "hold"]);
    assert!(
        findings.contains(&("hold".to_owned(), "broken".to_owned())),
        "{findings:?}"
    );
    assert_eq!(code, 1);
}

#[test]
fn ratios_are_held_within_one_run() {
    let fixture = metered();
    let ratio = |least: &str| {
        let text = format!(
            "[speed]\nwait = \"0s\"\ncounters = \"off\"\n\n\
             [[bench]]\nname = \"rate\"\ncommand = \"meter print\"\nprints = \"number\"\n\n\
             [[workload]]\nname = \"small\"\ncommand = \"true\"\n\n\
             [[workload]]\nname = \"large\"\ncommand = \"meter hold\"\n\n\
             [[ratio]]\nname = \"overhead\"\nof = \"large\"\nto = \"small\"\nmeasure = \"peak_memory\"\n{least}\n"
        );
        fixture.write("palisade.toml", &text);
    };
    ratio("at_least = 10.0\nwithin = 5.0");
    let (_, report, findings) = compare(&fixture, &["HEAD", "--only", "large", "--only", "small"]);
    let bound = &report["speed"]["bounds"][0];
    assert_eq!(bound["decision"]["state"], "kept", "{bound:#}");
    assert!(!findings.iter().any(|(name, _)| name == "overhead"));
    ratio("at_most = 1.3");
    let (code, _, findings) = compare(&fixture, &["HEAD", "--only", "large", "--only", "small"]);
    assert!(
        findings.contains(&("overhead".to_owned(), "broken".to_owned())),
        "{findings:?}"
    );
    assert_eq!(code, 1);
    // On a processor that it was not measured on, it is a note until it is recorded. Without a
    // tolerance, the limit would be the end of the interval, which another one may reach over.
    ratio("at_most = 1.3\nwithin = 5.0\non = [{ processor = \"no such processor\" }]");
    let args = [
        "bench",
        "--launches",
        "2",
        "--only",
        "large",
        "--only",
        "small",
    ];
    let (code, report) = fixture.json(&[&args[..], &["--record"]].concat());
    assert_eq!(code, 0, "{report:#}");
    let state = &report["bounds"][0]["decision"]["state"];
    assert_eq!(
        (state, &report["recorded"][0]),
        (&"unrecorded".into(), &"overhead".into())
    );
    let (code, report) = fixture.json(&args);
    assert_eq!(
        report["bounds"][0]["decision"]["state"], "kept",
        "{report:#}"
    );
    assert_eq!(code, 0);
    ratio("at_most = 1.3\nat_least = 2.0");
    let answer = fixture.palisade(&["compare", "HEAD"]);
    assert_eq!(answer.code, 2, "{}", answer.err);
    assert!(answer.err.contains("overhead"), "{}", answer.err);
}

#[test]
fn a_slowdown_that_was_put_in_is_found() {
    let fixture = metered();
    let more = "\n[[workload]]\nname = \"compute\"\ncommand = \"meter compute\"\n";
    fixture.write("palisade.toml", &format!("{POLICY}{more}"));
    fixture.commit("a computation");
    let args = [
        "HEAD",
        "HEAD",
        "--only",
        "compute",
        "--inject",
        "compute=60%",
    ];
    let (code, report, findings) = compare(&fixture, &args);
    assert_eq!(
        findings,
        [("compute".to_owned(), "regressed".to_owned())],
        "{report:#}"
    );
    assert_eq!(code, 1);
    let notes = report["speed"]["notes"].to_string();
    assert!(
        notes.contains("slowed down by 60.0 % on purpose"),
        "{notes}"
    );
    // What is not true of the tree is not remembered.
    let answer = fixture.palisade(&["store", "export"]);
    assert!(!answer.out.contains("\"speed\""), "{}", answer.out);
}

#[test]
fn no_data_is_never_a_pass() {
    let fixture = Fixture::new();
    let answer = fixture.palisade(&["compare", "HEAD"]);
    assert_eq!(answer.code, 2, "{}", answer.err);
    assert!(answer.err.contains("find a benchmark"), "{}", answer.err);

    let fixture = metered();
    let answer = fixture.palisade(&["compare", "HEAD", "--only", "no such thing"]);
    assert_eq!(answer.code, 2, "{}", answer.err);
    let (code, _, findings) = compare(&fixture, &["HEAD", "--only", "rate", "--budget", "1ms"]);
    assert_eq!(code, 4);
    let open = |name: &str| (name.to_owned(), "inconclusive".to_owned());
    assert_eq!(findings, [open("rate"), open("rate: peak memory")]);
    // One that fails is told with what it did.
    let broken = POLICY.replace("meter print", "meter nothing");
    fixture.write("palisade.toml", &broken);
    let (code, report, findings) = compare(&fixture, &["HEAD", "--only", "rate"]);
    assert_eq!(findings, [("rate".to_owned(), "incomparable".to_owned())]);
    assert_eq!(code, 3);
    assert!(report.to_string().contains("exit code 7"), "{report:#}");
}

#[test]
fn benchmarks_of_the_workspace_are_found_and_paired() {
    let fixture = metered();
    fixture.write("palisade.toml", STEADY);
    let code_of_gamma = fixture.read("gamma/src/lib.rs");
    let nap = |ms: u32| {
        let function = format!("/// Milliseconds.\npub fn nap() -> u64 {{\n    {ms}\n}}\n");
        fixture.write("gamma/src/lib.rs", &format!("{code_of_gamma}\n{function}"));
    };
    nap(20);
    let bench =
        "fn main() { std::thread::sleep(std::time::Duration::from_millis(gamma::nap())); }\n";
    fixture.write("gamma/benches/naps.rs", bench);
    let manifest = "[package]\nname = \"gamma\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n\
                    [[bench]]\nname = \"naps\"\nharness = false\n";
    fixture.write("gamma/Cargo.toml", manifest);
    let (code, _, findings) = compare(&fixture, &["HEAD", "--only", "naps"]);
    // Nothing is on both revisions.
    let expected = [
        ("benchmarks", "incomparable"),
        ("gamma/bench:naps", "added"),
    ];
    assert_eq!(
        findings,
        expected.map(|(name, state)| (name.to_owned(), state.to_owned()))
    );
    assert_eq!(code, 3);
    fixture.commit("a bench");
    nap(40);
    let (code, report, findings) = compare(&fixture, &["HEAD", "--package", "gamma"]);
    let naps = |state: &str| [("gamma/bench:naps".to_owned(), state.to_owned())];
    assert_eq!(findings, naps("regressed"), "{report:#}");
    assert_eq!(code, 1);
    // Another benchmark of the same name says nothing about the code that is measured.
    fixture.write(
        "gamma/benches/naps.rs",
        &bench.replace("nap()", "nap() / 2"),
    );
    let (code, report, findings) = compare(&fixture, &["HEAD", "--package", "gamma"]);
    assert_eq!((code, findings), (3, naps("incomparable").to_vec()));
    let why = "its own source, benches/naps.rs, is not the same on both revisions";
    assert!(report.to_string().contains(why), "{report:#}");
}

#[test]
fn a_check_measures_what_the_change_can_reach() {
    let fixture = metered();
    fixture.write("palisade.toml", STEADY);
    fixture.commit("numbers only");
    write_meter(&fixture, "120.0", 24);
    let left_out = |report: &Value| report["coverage"]["left_out"].clone();
    let report = fixture.check(&[], 1, &[("rate", "regressed")]);
    let rate = entry(&report, "rate", "time");
    assert_eq!(rate["decision"]["severity"], "block");
    assert_eq!(report["coverage"]["looked_at"], json!(["tests", "speed"]));
    let report = fixture.check(&["--tests-only"], 0, &[]);
    assert_eq!(report.get("speed"), None);
    assert_eq!(left_out(&report)[1]["why"], "tests_only");
    let report = fixture.check(&["--budget", "1ms"], 0, &[]);
    let budget = json!([{"what": "speed", "why": "budget"}]);
    assert_eq!(left_out(&report), budget);
    let told = fixture.palisade(&["check", "--budget", "1ms"]).out;
    assert!(
        told.contains("pass of tests: no test became worse"),
        "{told}"
    );
    assert!(told.contains("; speed not measured: budget"), "{told}");
    // What the change cannot reach is not measured, and what it reaches only by name neither.
    fixture.git(&["checkout", "--quiet", "gamma"]);
    fixture.edit("alpha/src/lib.rs", "    a + b\n", "    b + a\n");
    let report = fixture.check(&[], 0, &[]);
    assert_eq!(left_out(&report)[0]["why"], "no_benchmark");
    let report = fixture.check(&["--speed"], 0, &[("benchmarks", "no_benchmark")]);
    assert_eq!(report.get("speed"), None);
    fixture.git(&["checkout", "--quiet", "alpha"]);
    fixture.edit("gamma/src/lib.rs", "    1\n", "    2 - 1\n");
    let report = fixture.check(&[], 0, &[]);
    assert_eq!(report.get("speed"), None, "equal programs were launched");
    assert_eq!(left_out(&report), json!([]));
    assert_eq!(report["coverage"]["looked_at"], json!(["tests", "speed"]));
}

#[test]
fn a_benchmark_that_does_not_build_or_run_does_not_fail_a_check() {
    let fixture = metered();
    fixture.write(
        "palisade.toml",
        &STEADY.replace("meter print", "meter fail"),
    );
    fixture.commit("a number that there is not");
    write_meter(&fixture, "120.0", 24);
    let report = fixture.check(&[], 0, &[("rate", "incomparable")]);
    let left_out = &report["coverage"]["left_out"];
    assert_eq!(left_out[0]["why"], "not_comparable", "{report:#}");
    fixture.check(&["--speed"], 3, &[("rate", "incomparable")]);
    // Tests build without it.
    fixture.write("gamma/benches/naps.rs", "fn main() { no such thing }\n");
    let report = fixture.check(&[], 0, &[("benchmarks", "build_failed")]);
    let left_out = &report["coverage"]["left_out"];
    assert_eq!(left_out[0]["why"], "build_failed", "{report:#}");
}

#[test]
fn a_tree_is_measured_and_held_against_its_budgets() {
    let fixture = metered();
    let (code, report) = fixture.json(&["bench", "--launches", "6"]);
    assert_eq!(code, 0, "{report:#}");
    let benchmarks = report["benchmarks"].as_array().expect("a list");
    let is_rate = |b: &&Value| b["benchmark"] == "rate" && b["measure"] == "time";
    let rate = benchmarks.iter().find(is_rate).expect("measured");
    let median = rate["median"].as_f64().expect("a number");
    assert!((100.0..101.0).contains(&median), "{rate}");
    assert_eq!(rate["values"].as_array().map(Vec::len), Some(6));
    assert_eq!(report["bounds"][0]["decision"]["state"], "kept");
    write_meter(&fixture, "100.0", 64);
    let answer = fixture.palisade(&["bench", "--launches", "6", "--only", "hold"]);
    assert_eq!(answer.code, 1, "{}{}", answer.out, answer.err);
    assert!(answer.out.contains("Bound hold: BROKEN"), "{}", answer.out);
}

#[test]
fn a_calibration_is_kept_and_told_in_reports() {
    let fixture = metered();
    let args = [
        "calibrate",
        "--only",
        "rate",
        "--comparisons",
        "2",
        "--injected",
        "1",
    ];
    let (code, report) = fixture.json(&args);
    assert_eq!(code, 0, "{report:#}");
    let calibration = &report["calibration"];
    assert_eq!(calibration["false_alarms"]["of"], 2);
    assert_eq!(calibration["spreads"][0]["benchmark"], "rate");
    assert_eq!(calibration["spreads"][0]["comparisons"], 2);
    let detections = calibration["detections"].as_array().expect("a list");
    let sizes: Vec<_> = detections.iter().map(|d| d["slowdown"].as_f64()).collect();
    assert_eq!(sizes, [Some(0.02), Some(0.05), Some(0.1)]);
    // What is printed does not depend on how long it takes.
    assert!(
        detections
            .iter()
            .all(|d| d["rate"]["found"] == 0 && d["rate"]["of"] == 1)
    );
    let before = fixture.palisade(&["compare", "HEAD", "--only", "rate"]);
    let told = "ago on this machine: equal programs raised 0 of 2 alarms; 2 % slower found 0 of 1";
    assert!(before.out.contains(told), "{}", before.out);
    // What cannot be run raises no alarm, and has not passed either.
    fixture.write("palisade.toml", &STEADY.replace("print\"", "fail\""));
    let (code, report) = fixture.json(&args);
    assert_eq!(code, 3, "{report:#}");
    assert_eq!(report["calibration"]["false_alarms"]["of"], 0);
    fixture.write("palisade.toml", POLICY);
    // Elsewhere it says nothing.
    let mut elsewhere = fixture.command(env!("CARGO_BIN_EXE_cargo-palisade"));
    elsewhere
        .args(["compare", "HEAD", "--only", "rate"])
        .env("RUSTFLAGS", "-Copt-level=1");
    let after = crate::fixture::answer(elsewhere);
    assert!(
        after
            .out
            .contains("incomparable, it was made elsewhere (flags"),
        "{}",
        after.out
    );
}

#[test]
fn allocations_are_counted_where_a_program_counts_them() {
    let fixture = metered();
    // As `palisade-alloc` writes them; that it does is tested there.
    let count = |allocations: u32| {
        let text = format!(
            "fn main() {{\n    let file = std::env::var_os(\"PALISADE_ALLOC_FILE\").unwrap();\n    \
             std::fs::write(file, \"{{\\\"allocations\\\": {allocations}, \\\"bytes\\\": 5000}}\").unwrap();\n}}\n"
        );
        fixture.write("gamma/src/bin/counter.rs", &text);
    };
    count(100);
    let policy = "[speed]\nwait = \"0s\"\ncounters = \"off\"\n\n[[workload]]\nname = \"count\"\ncommand = \"counter\"\n";
    fixture.write("palisade.toml", policy);
    fixture.commit("a counter");
    count(101);
    let (code, report, findings) = compare(&fixture, &["HEAD"]);
    assert_eq!(code, 1, "{report:#}");
    let expected = ("count: allocations".to_owned(), "regressed".to_owned());
    assert!(findings.contains(&expected), "{findings:?}");
    let bytes = &entry(&report, "count", "allocation_bytes")["decision"];
    assert_eq!(bytes["state"], "equivalent");
}

#[test]
fn a_milestone_is_measured_where_no_comparison_leads_to_it() {
    let fixture = metered();
    fixture.write("palisade.toml", STEADY);
    fixture.commit("only what does not depend on the machine");
    fixture.palisade(&["milestone", "set", "1.0"]);
    fixture.write("README.md", "# Later\n");
    fixture.commit("nothing that is measured");
    let (code, unmeasured) = fixture.json(&["milestone", "check"]);
    assert_eq!((code, &unmeasured["verdict"]), (3, &"incomparable".into()));
    let standing = |report: &Value| {
        let standings = report["standings"].as_array().expect("a list");
        let mut rates = standings.iter().filter(|s| s["measure"] == "time");
        rates.next().expect("the rate")["state"].clone()
    };
    let (_, same) = fixture.json(&["milestone", "check", "--measure"]);
    assert_eq!(standing(&same), "equivalent", "{same:#}");
    write_meter(&fixture, "120.0", 24);
    fixture.commit("slower");
    let (code, slower) = fixture.json(&["milestone", "check", "1.0", "--measure"]);
    assert_eq!(
        (code, standing(&slower)),
        (1, "regressed".into()),
        "{slower:#}"
    );
    // What was measured is remembered.
    let (code, again) = fixture.json(&["milestone", "check"]);
    assert_eq!((code, standing(&again)), (1, "regressed".into()));
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_what_is_measured_and_leaves_nothing() {
    let fixture = metered();
    let started_file = fixture.outside("started");
    let policy = format!(
        "[speed]\nwait = \"0s\"\ncounters = \"off\"\n\n[[workload]]\nname = \"sleep\"\n\
         command = \"sh -c 'echo $$ > {}; sleep 100'\"\n",
        started_file.display()
    );
    fixture.write("palisade.toml", &policy);
    fixture.commit("a long workload");
    let temporary = fixture.outside("temporary");
    std::fs::create_dir(&temporary).expect("created");
    let mut command = fixture.command(env!("CARGO_BIN_EXE_cargo-palisade"));
    let mut child = command
        .args(["compare", "HEAD", "HEAD"])
        .env("TMPDIR", &temporary)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let started = Instant::now();
    let id = loop {
        assert!(
            started.elapsed() < Duration::from_mins(1),
            "nothing was launched"
        );
        std::thread::sleep(Duration::from_millis(50));
        let text = std::fs::read_to_string(&started_file).unwrap_or_default();
        if text.ends_with('\n') {
            break text.trim().to_owned();
        }
    };
    // One that ended may still be listed as a zombie, where nobody takes leave of orphans.
    let runs = || {
        let listed = Command::new("ps").args(["-o", "stat=", "-p", &id]).output();
        let state = listed.expect("ps runs").stdout;
        !state.trim_ascii().is_empty() && !state.starts_with(b"Z")
    };
    assert!(runs(), "the workload does not run");
    let guard = child.id().to_string();
    let kill = Command::new("kill").args(["-s", "INT", &guard]).status();
    assert!(kill.expect("kill runs").success());
    assert_eq!(child.wait().expect("it ends").code(), Some(3));
    assert!(
        started.elapsed() < Duration::from_secs(90),
        "it waited for the workload"
    );
    assert!(!runs(), "the workload still runs");
    assert_eq!(fixture.git(&["worktree", "list"]).lines().count(), 1);
    assert_eq!(fixture.git(&["status", "--porcelain"]), "");
    let left = std::fs::read_dir(&temporary).expect("a folder").count();
    assert_eq!(left, 0, "temporary files are left");
    let store = fixture.palisade(&["store", "export"]).out;
    assert!(!store.contains("\"speed\""), "{store}");
}

/// A fixture with a workload that does the same work each time, and a counter.
fn counted(counters: &str) -> Fixture {
    let fixture = Fixture::new();
    write_loop(&fixture, 1_000_000);
    let policy = format!(
        "[speed]\nwait = \"0s\"\ncounters = \"{counters}\"\n\n\
         [[workload]]\nname = \"loop\"\ncommand = \"loop\"\n"
    );
    fixture.write("palisade.toml", &policy);
    fixture.commit("a loop");
    fixture
}

fn write_loop(fixture: &Fixture, times: u32) {
    let text = format!(
        "fn main() {{\n    let mut x = 1_u64;\n    for i in 0..{times} {{\n        \
         x = std::hint::black_box(x.wrapping_mul(6364136223846793005).wrapping_add(i));\n    \
         }}\n    std::process::exit(i32::from(x == 0));\n}}\n"
    );
    fixture.write("gamma/src/bin/loop.rs", &text);
}

#[cfg(target_os = "linux")]
#[test]
#[expect(clippy::print_stderr, reason = "a test that does not run must say so")]
fn instructions_name_a_small_slowdown_and_do_not_block() {
    let valgrind = Command::new("valgrind").arg("--version").output();
    if !valgrind.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: valgrind is not installed");
        return;
    }
    let fixture = counted("callgrind");
    let (_, same, _) = compare(&fixture, &["HEAD", "HEAD", "--budget", "60s"]);
    let decision = &entry(&same, "loop", "instructions")["decision"];
    assert_eq!(decision["state"], "equivalent", "{same:#}");
    let notes = same["speed"]["notes"].to_string();
    assert!(
        notes.contains("callgrind, on a processor without AVX-512"),
        "{notes}"
    );

    write_loop(&fixture, 1_020_000);
    let (_, report, _) = compare(&fixture, &["HEAD", "--budget", "60s"]);
    let decision = &entry(&report, "loop", "instructions")["decision"];
    assert_eq!(decision["state"], "regressed", "{report:#}");
    assert_eq!(decision["severity"], "warn");
    let ratio = decision["estimate"]["ratio"].as_f64().expect("a number");
    assert!((1.015..1.021).contains(&ratio), "{ratio}");
    let findings = report["findings"].as_array().expect("a list");
    let mut named = findings
        .iter()
        .filter(|f| f["name"] == "loop: instructions");
    let named = named.next().expect("it is named");
    assert_eq!(named["effect"], "note");
    assert_eq!(named["meaning"], "a counter alone decides nothing");
}

#[cfg(unix)]
#[test]
fn instructions_are_counted_by_perf_where_it_can() {
    let fixture = counted("auto");
    // What perf writes on a processor that counts; the program runs as it is.
    let folder = fixture.outside("bin");
    std::fs::create_dir(&folder).expect("created");
    let perf = folder.join("perf");
    let script = "#!/bin/sh\n\
        [ \"$1 $4 $5 $6 $8\" = 'stat -e instructions:u -o --' ] || exit 9\n\
        echo '1234567,,instructions:u,364230,100.00,,' > \"$7\"\n\
        shift 8\nexec \"$@\"\n";
    std::fs::write(&perf, script).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&perf, mode).expect("set");
    let path = std::env::var("PATH").expect("a path");
    let mut command = fixture.command(env!("CARGO_BIN_EXE_cargo-palisade"));
    command
        .args(["compare", "HEAD", "HEAD", "--json", "--budget", "20s"])
        .env("PATH", format!("{}:{path}", folder.display()));
    let answer = crate::fixture::answer(command);
    let report: Value = serde_json::from_str(&answer.out).expect("a report");
    let decision = &entry(&report, "loop", "instructions")["decision"];
    assert_eq!(decision["base"], 1_234_567.0);
    assert_eq!(decision["state"], "equivalent");
    let notes = report["speed"]["notes"].to_string();
    assert!(notes.contains("counted by perf"), "{notes}");
}

#[test]
fn the_time_of_a_build_is_measured_and_held_to_its_budget() {
    let fixture = Fixture::new();
    let policy = |most: &str| {
        format!(
            "[speed]\nwait = \"0s\"\n\n[[build]]\npackage = \"beta\"\nmax_build_time = \"{most}\"\n"
        )
    };
    fixture.write("palisade.toml", &policy("10m"));
    fixture.commit("builds are measured");
    let (_, report, _) = compare(&fixture, &["HEAD", "HEAD", "--budget", "120s"]);
    let decision = &entry(&report, "beta", "build_time")["decision"];
    assert!(decision["pairs"].as_u64() >= Some(6), "{report:#}");
    // A compiler was started each time.
    assert!(decision["base"].as_f64() > Some(10e6), "{report:#}");
    let bound = &report["speed"]["bounds"][0];
    assert_eq!(
        (&bound["name"], &bound["decision"]["state"]),
        (&"beta".into(), &"kept".into())
    );
    fixture.write("palisade.toml", &policy("1ms"));
    let (code, report, findings) = compare(&fixture, &["HEAD", "--budget", "120s"]);
    assert_eq!(code, 1, "{report:#}");
    let broken = ("beta".to_owned(), "broken".to_owned());
    assert!(findings.contains(&broken), "{findings:?}");
    // What does not build is no time, and no pass.
    fixture.edit("beta/src/lib.rs", "alpha::add(a, a)", "alpha::none(a)");
    let (code, report, _) = compare(&fixture, &["HEAD", "--budget", "120s"]);
    assert_eq!(code, 3, "{report:#}");
    let decision = &entry(&report, "beta", "build_time")["decision"];
    assert_eq!(decision["state"], "incomparable");
}

/// A benchmark that lists itself and prints as divan does: one row for each argument, below the
/// benchmark's own.
const DIVAN: &str = "\
//! Prints what a main of divan's prints.
fn main() {
    let words: Vec<String> = std::env::args().collect();
    if words.iter().any(|word| word == \"--list\") {
        println!(\"table\\n╰─ fib\");
        return;
    }
    assert_eq!(words.last().map(String::as_str), Some(\"^table::fib(::|$)\"));
    let noise = f64::from(std::process::id() * 7 % 10);
    println!(\"table    fastest │ slowest │ median │ mean │ samples │ iters\\n╰─ fib  │ │ │ │ │\");
    for (branch, n) in [('├', 1), ('╰', 22)] {
        let time = gamma::cost(n) * (1000.0 + noise) / 1000.0;
        println!(\"   {branch}─ {n}  {time:.3} ns │ 900 ns │ {time:.3} ns │ 700 ns │ 100 │ 100\");
    }
}
";

#[test]
fn benches_that_not_every_build_has_are_measured_or_named() {
    let fixture = Fixture::new();
    let code_of_gamma = fixture.read("gamma/src/lib.rs");
    let cost = |of_22: &str| {
        let code = format!(
            "{code_of_gamma}\n#[cfg(feature = \"broken\")]\ncompile_error!(\"no such library\");\n\n\
             /// Nanoseconds.\npub fn cost(n: u32) -> f64 {{\n    if n == 22 {{ {of_22} }} else {{ 100.0 }}\n}}\n"
        );
        fixture.write("gamma/src/lib.rs", &code);
    };
    cost("200.0");
    fixture.write(
        "palisade.toml",
        "[speed]\nwait = \"0s\"\ncounters = \"off\"\n",
    );
    let bench = |name: &str, feature: &str| {
        format!(
            "[[bench]]\nname = \"{name}\"\nharness = false\nrequired-features = [\"{feature}\"]\n\n"
        )
    };
    let manifest = format!(
        "[package]\nname = \"gamma\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n\
         [features]\nfast = []\nbroken = []\n\n{}{}",
        bench("table", "fast"),
        bench("nowhere", "broken")
    );
    fixture.write("gamma/Cargo.toml", &manifest);
    fixture.write("gamma/benches/table.rs", DIVAN);
    fixture.write("gamma/benches/nowhere.rs", "fn main() {}\n");
    let libtest = "#[bench]\nfn old(b: &mut test::Bencher) { b.iter(|| 1) }\n";
    fixture.write("gamma/benches/old.rs", libtest);
    fixture.commit("benches");
    cost("240.0");
    let (code, report, findings) = compare(&fixture, &["HEAD"]);
    let regressed = (
        "gamma/bench:table/fib::22".to_owned(),
        "regressed".to_owned(),
    );
    assert_eq!(findings, [regressed], "{report:#}");
    assert_eq!(code, 1);
    let other = entry(&report, "gamma/bench:table/fib::1", "time");
    assert_eq!(other["decision"]["state"], "equivalent");
    let notes = report["speed"]["notes"].to_string();
    let broken = "gamma/bench:nowhere is not measured: it does not build with the feature that it requires, \
                  broken: error: no such library";
    for told in [
        broken,
        "gamma/bench:old is not measured: #[bench] needs a nightly compiler",
    ] {
        assert_eq!(notes.matches(told).count(), 1, "{notes}");
    }
    // Where nothing else is wanted, that is why there is none.
    let answer = fixture.palisade(&["compare", "HEAD", "--only", "bench:old"]);
    assert_eq!(answer.code, 2, "{}", answer.err);
    assert!(
        answer.err.contains("needs a nightly compiler"),
        "{}",
        answer.err
    );
}

#[test]
fn a_budget_that_is_too_short_is_passed_for_a_first_look() {
    let fixture = metered();
    let policy = "[speed]\nwait = \"0s\"\ncounters = \"off\"\n\n\
                  [[workload]]\nname = \"nap\"\ncommand = \"meter nap\"\n";
    fixture.write("palisade.toml", policy);
    fixture.commit("a nap");
    // Two blocks of four launches fit into it.
    let (code, report, _) = compare(&fixture, &["HEAD", "HEAD", "--budget", "2200ms"]);
    let pairs = &entry(&report, "nap", "time")["decision"]["pairs"];
    assert_eq!((code, pairs), (0, &json!(6)), "{report:#}");
}
