//! What goes wrong outside of the tests: each gives a clear message and a truthful
//! answer, and loses nothing.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::fixture::{Answer, Fixture, answer, has_nextest};

/// The errors that need no build must come at once.
const AT_ONCE: Duration = Duration::from_millis(500);

fn palisade_in(dir: &std::path::Path, args: &[&str]) -> Answer {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cargo-palisade"));
    command
        .current_dir(dir)
        .args(args)
        .env_remove("PALISADE_STORE");
    answer(command)
}

#[test]
fn usage_errors_are_one_sentence_and_one_command_at_once() {
    let check = |answer: &Answer, error: &str, hint: &str| {
        assert_eq!(answer.code, 2, "{}", answer.err);
        let lines: Vec<&str> = answer.err.lines().collect();
        assert_eq!(lines.len(), 2, "{}", answer.err);
        assert!(lines[0].starts_with(error), "{}", answer.err);
        assert!(lines[1].starts_with(hint), "{}", answer.err);
        assert!(answer.time < AT_ONCE, "{:?}", answer.time);
        assert_eq!(answer.out, "");
    };
    let nowhere = tempfile::tempdir().expect("a folder");
    let found = palisade_in(nowhere.path(), &["check"]);
    check(
        &found,
        "error: failed to find a git repository at ",
        "hint: git init",
    );

    let fixture = Fixture::new();
    let found = fixture.palisade(&["check", "--base", "nope"]);
    check(
        &found,
        "error: failed to find revision \"nope\" in this repository",
        "hint: git ",
    );
    let found = fixture.palisade(&["baseline", "show"]);
    check(
        &found,
        "error: failed to find a baseline of branch \"main\"",
        "hint: cargo palisade baseline record",
    );
    fixture.write("palisade.toml", "[run]\ntest_timeout = \"9s\"\n");
    let found = fixture.palisade(&["check"]);
    check(
        &found,
        "error: failed to read ",
        "hint: did you mean `test_time_out`?",
    );
    assert!(
        found
            .err
            .contains("palisade.toml at line 2: unknown key `test_timeout`"),
        "{}",
        found.err
    );
    fixture.write("palisade.toml", "");
    let found = fixture.palisade(&["check", "--store", "mysql://ada:secret@localhost/x"]);
    let error = "error: failed to open the store mysql://…: it is neither a file nor postgres://…";
    check(&found, error, "hint: --store FILE, or --store postgres://");
    if cfg!(not(feature = "postgres")) {
        let found = fixture.palisade(&["check", "--store", "postgres://localhost/x"]);
        check(
            &found,
            "error: failed to open the store on a PostgreSQL server: this build keeps its store in files only",
            "hint: cargo install --locked cargo-palisade --features postgres",
        );
    }
    let found = fixture.palisade(&["baseline", "record"]);
    check(
        &found,
        "error: failed to record a baseline: the working tree has changes",
        "hint: git commit",
    );

    std::fs::remove_file(fixture.root().join("Cargo.toml")).expect("removed");
    let found = fixture.palisade(&["check"]);
    check(
        &found,
        "error: failed to find a Cargo.toml at ",
        "hint: cargo init",
    );
}

#[test]
fn a_shallow_clone_says_so() {
    let fixture = Fixture::new();
    fixture.write("README.md", "more\n");
    fixture.commit("the second commit");
    let url = format!("file://{}", fixture.root().display());
    fixture.git(&["clone", "--quiet", "--depth", "1", &url, "../shallow"]);
    let found = palisade_in(&fixture.outside("shallow"), &["check", "--base", "HEAD~1"]);
    assert_eq!(found.code, 2, "{}", found.err);
    assert!(
        found.err.contains("(a shallow clone)") && found.err.contains("git fetch --unshallow"),
        "{}",
        found.err
    );
}

/// Runs a script as root of a mount namespace of its own, where it may mount things
/// that nobody else sees; `None` where the system does not allow that.
#[cfg(target_os = "linux")]
#[expect(clippy::print_stderr, reason = "a test that cannot run must say so")]
fn in_own_mounts(fixture: &Fixture, script: &str) -> Option<Answer> {
    let mut probe = Command::new("unshare");
    probe.args(["-rm", "sh", "-c", "mount -t tmpfs none /mnt"]);
    if !probe.output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this system lets nobody mount anything");
        return None;
    }
    let mut command = fixture.command("unshare");
    command
        .args(["-rm", "sh", "-c", script])
        .env("PALISADE", env!("CARGO_BIN_EXE_cargo-palisade"))
        .env("OUTSIDE", fixture.outside(""));
    Some(answer(command))
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_loses_nothing_that_was_recorded() {
    let fixture = Fixture::new();
    let script = "
        export PALISADE_STORE=$OUTSIDE/disk/store.sqlite
        mkdir $OUTSIDE/disk && mount -t tmpfs -o size=1m none $OUTSIDE/disk || exit 99
        $PALISADE test >/dev/null || exit 98
        cat /dev/zero > $OUTSIDE/disk/fill 2>/dev/null
        $PALISADE test 1>&2; code=$?
        rm $OUTSIDE/disk/fill
        $PALISADE store export
        exit $code";
    let Some(found) = in_own_mounts(&fixture, script) else {
        return;
    };
    assert_eq!(found.code, 3, "{}{}", found.out, found.err);
    assert!(found.err.contains("error: failed to use "), "{}", found.err);
    // Which of its files has no room decides what SQLite says.
    assert!(
        found.err.contains("disk is full") || found.err.contains("disk I/O error"),
        "{}",
        found.err
    );
    assert!(
        found.err.contains("--store FILE keeps the store elsewhere"),
        "{}",
        found.err
    );
    assert_eq!(
        found.out.lines().count(),
        1,
        "the first run is there, and no half one"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_checkout_that_cannot_be_written_is_judged_with_a_memory_elsewhere() {
    let fixture = Fixture::new();
    let store = fixture.outside("store.sqlite").display().to_string();
    let record = fixture.palisade(&["baseline", "record", "--store", &store]);
    assert_eq!(record.code, 0, "{}", record.err);
    fixture.edit("gamma/src/lib.rs", "    1\n", "    2\n");
    let script = "
        mount --bind . . && mount -o remount,bind,ro . && cd $PWD || exit 99
        $PALISADE check 1>&2; echo $?
        export CARGO_TARGET_DIR=$OUTSIDE/elsewhere
        $PALISADE check --store $OUTSIDE/store.sqlite";
    let Some(found) = in_own_mounts(&fixture, script) else {
        return;
    };
    assert!(found.out.starts_with("3\n"), "{}{}", found.out, found.err);
    assert!(
        found.err.contains("error: failed to write "),
        "{}",
        found.err
    );
    assert!(
        found.err.contains(".palisade: Read-only file system"),
        "{}",
        found.err
    );
    assert!(
        found.err.contains("--store FILE keeps the store elsewhere"),
        "{}",
        found.err
    );
    assert_eq!(found.code, 1, "{}{}", found.out, found.err);
    assert!(
        found.out.contains("REGRESSION gamma/lib/tests::is_one"),
        "{}",
        found.out
    );
}

#[test]
fn a_test_program_without_libtest_is_one_test() {
    let fixture = Fixture::new();
    let manifest = fixture.read("gamma/Cargo.toml");
    let target = "\n[[test]]\nname = \"own\"\nharness = false\n";
    fixture.write("gamma/Cargo.toml", &format!("{manifest}{target}"));
    let program = "fn main() { assert_eq!(gamma::one(), 1, \"not one\"); println!(\"well\"); }\n";
    fixture.write("gamma/tests/own.rs", program);
    fixture.commit("a program");
    let runners: &[&str] = if has_nextest() {
        &["cargo", "nextest"]
    } else {
        &["cargo"]
    };
    for runner in runners {
        let (code, report) = fixture.json(&["test", "--runner", runner]);
        assert_eq!(
            (code, &report["tests"]["passing"]),
            (0, &7.into()),
            "{runner}"
        );
        fixture.edit("gamma/src/lib.rs", "    1\n", "    2\n");
        let report = fixture.check(
            &["--runner", runner],
            1,
            &[
                ("gamma/lib/tests::is_one", "newly_failing"),
                ("gamma/test:own/main", "newly_failing"),
                ("success rate", "below_minimum"),
            ],
        );
        let output = report["findings"][1]["output"].as_str().expect("text");
        assert!(output.contains("not one"), "{output}");
        fixture.edit("gamma/src/lib.rs", "    2\n", "    1\n");
    }
}

#[test]
fn submodules_are_part_of_both_sides() {
    let fixture = Fixture::new();
    let data = fixture.outside("data");
    std::fs::create_dir(&data).expect("created");
    let in_data = |dir: &std::path::Path, value: &str| {
        std::fs::write(dir.join("value.txt"), value).expect("written");
        let dir = dir.display().to_string();
        fixture.git(&["-C", &dir, "add", "--all"]);
        fixture.git(&["-C", &dir, "commit", "--quiet", "--message", value]);
    };
    fixture.git(&["init", "--quiet", &data.display().to_string()]);
    in_data(&data, "1");
    let url = data.display().to_string();
    fixture.git(&[
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "add",
        "--quiet",
        &url,
        "data",
    ]);
    let body = "assert_eq!(std::fs::read_to_string(\"../data/value.txt\").unwrap(), super::one().to_string());";
    fixture.add_test("gamma", "agrees", body);
    fixture.commit("a submodule");
    let check = || {
        let mut command = fixture.command(env!("CARGO_BIN_EXE_cargo-palisade"));
        // git fetches no submodule from a folder unless it is told to.
        command
            .args(["check", "--json"])
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "protocol.file.allow")
            .env("GIT_CONFIG_VALUE_0", "always");
        let found = answer(command);
        let report: serde_json::Value =
            serde_json::from_str(&found.out).unwrap_or_else(|e| panic!("{e}: {}", found.err));
        (found.code, report)
    };
    // The base, in its checkout, has the submodule's file.
    fixture.edit("gamma/src/lib.rs", "    1\n", "    2\n");
    let (code, report) = check();
    assert_eq!(code, 1, "{report:#}");
    assert_eq!(report["base"]["source"]["origin"], "checkout");
    assert_eq!(report["base"]["tests"]["failing"], 0, "{report:#}");
    fixture.edit("gamma/src/lib.rs", "    2\n", "    1\n");
    // Another commit of the submodule is a change, which anything may depend on.
    in_data(&fixture.root().join("data"), "2");
    let (code, report) = check();
    assert_eq!(code, 1, "{report:#}");
    assert_eq!(report["findings"][0]["name"], "gamma/lib/tests::agrees");
    assert_eq!(report["risk"]["files"][0]["path"], "data");
    assert_eq!(report["scope"], "workspace");
}

#[test]
fn a_sparse_checkout_is_compared_with_a_base_of_the_same_files() {
    let fixture = Fixture::new();
    fixture.write("assets/number.txt", "1\n");
    fixture.write("data/number.txt", "1\n");
    // It passes only where the one folder is there and the other is left out.
    let body = "assert!(std::path::Path::new(\"../data/number.txt\").exists());
        assert!(!std::path::Path::new(\"../assets\").exists());";
    fixture.add_test("gamma", "reads_what_is_here", body);
    fixture.commit("two folders");
    fixture.git(&["checkout", "--quiet", "-b", "change"]);
    fixture.write("assets/number.txt", "2\n");
    fixture.commit("a change of what is left out");
    let cone = ["alpha", "beta", "gamma", "data"];
    fixture.git(&[&["sparse-checkout", "set", "--cone"][..], &cone].concat());
    assert!(!fixture.root().join("assets").exists());
    let changed = |report: &serde_json::Value| {
        let files = report["risk"]["files"].as_array().expect("a list");
        let paths = files.iter().map(|file| file["path"].as_str());
        paths.map(|path| path.expect("text").to_owned()).collect()
    };
    // What is left out is not deleted, and the base's checkout leaves it out too.
    let report = fixture.check(&["--base", "main", "--full"], 0, &[]);
    let files: Vec<String> = changed(&report);
    assert_eq!(files, ["assets/number.txt"]);
    for side in ["base", "candidate"] {
        let tests = &report[side]["tests"];
        assert_eq!(
            (&tests["passing"], &tests["failing"]),
            (&7.into(), &0.into())
        );
    }
    assert_eq!(report["base"]["source"]["origin"], "checkout");
    fixture.edit("gamma/src/lib.rs", "    1\n", "    2\n");
    let broken = [
        ("gamma/lib/tests::is_one", "newly_failing"),
        ("success rate", "below_minimum"),
    ];
    let report = fixture.check(&["--base", "HEAD"], 1, &broken);
    let files: Vec<String> = changed(&report);
    assert_eq!(files, ["gamma/src/lib.rs"]);
    assert_eq!(fixture.git(&["status", "--short"]), "M gamma/src/lib.rs");
}

#[test]
fn a_detached_head_is_checked_against_its_base() {
    let fixture = Fixture::with_baseline();
    fixture.git(&["checkout", "--quiet", "--detach"]);
    fixture.edit("gamma/src/lib.rs", "    1\n", "    2\n");
    fixture.commit("broken, on no branch");
    let (code, report) = fixture.json(&["check"]);
    assert_eq!(code, 1, "{report:#}");
    assert_eq!(report["base"]["source"]["origin"], "store");
}

#[test]
fn a_test_that_hangs_is_ended_with_what_it_started() {
    for runner in ["auto", "cargo"] {
        let fixture = Fixture::new();
        let pid = fixture.outside("pid").display().to_string();
        fixture.add_test(
            "gamma",
            "hangs",
            &format!(
                "let child = std::process::Command::new(\"sleep\").arg(\"300\").spawn().unwrap();
        std::fs::write({pid:?}, child.id().to_string()).unwrap();
        std::thread::sleep(std::time::Duration::from_secs(300));"
            ),
        );
        let policy = format!("[run]\nrunner = \"{runner}\"\ntest_time_out = \"2s\"\n");
        fixture.write("palisade.toml", &policy);
        fixture.commit("a test that hangs");
        let (code, report) = fixture.json(&["test", "--package", "gamma"]);
        assert_eq!(code, 1, "{report:#}");
        assert_eq!(report["failures"][0]["name"], "gamma/lib/tests::hangs");
        assert_eq!(report["failures"][0]["outcome"], "timed_out");
        assert_eq!(
            report["tests"]["passing"], 1,
            "the other test passed: {report:#}"
        );
        let pid = std::fs::read_to_string(fixture.outside("pid")).expect("written");
        let alive = || {
            let ps = Command::new("ps")
                .args(["-o", "stat=", "-p", &pid])
                .output()
                .expect("ps runs");
            let state = String::from_utf8_lossy(&ps.stdout).trim().to_owned();
            !state.is_empty() && !state.starts_with('Z')
        };
        let started = Instant::now();
        while alive() {
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "{runner}: {pid} is alive"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn much_output_and_garbage_do_not_change_the_answer() {
    for runner in ["auto", "cargo"] {
        let fixture = Fixture::new();
        // Past the capture of libtest, straight to the standard output.
        let noise = "let noise = |text: &str, times: usize| {
            use std::io::Write as _;
            let mut out = std::fs::OpenOptions::new().write(true).open(\"/dev/stdout\").unwrap();
            for _ in 0..times { let _ = out.write_all(text.as_bytes()); }
        };
        ";
        let much = format!("{noise}noise(&\"x\".repeat(1024), 100 * 1024);");
        fixture.add_test("gamma", "prints_much", &much);
        let lies =
            format!("{noise}noise(\"\\u{{1b}}[2J\\0test tests::fails ... ok\\ntest a \", 3);");
        fixture.add_test("gamma", "prints_lies", &lies);
        fixture.add_test("gamma", "fails", "panic!(\"broken \\u{1b}[31m\");");
        fixture.write("palisade.toml", &format!("[run]\nrunner = \"{runner}\"\n"));
        fixture.commit("noise");
        let (code, report) = fixture.json(&["test", "--package", "gamma"]);
        assert_eq!(code, 1, "{report:#}");
        assert_eq!(report["tests"]["passing"], 3, "{runner}: {report:#}");
        assert_eq!(report["tests"]["failing"], 1, "{runner}: {report:#}");
        assert_eq!(report["failures"][0]["name"], "gamma/lib/tests::fails");
        let text = fixture
            .palisade(&["test", "--test", "gamma/lib/tests::fails"])
            .out;
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}

#[test]
fn a_test_that_ends_the_program_fails_and_its_neighbours_do_not() {
    for runner in ["auto", "cargo"] {
        let fixture = Fixture::new();
        fixture.add_test("gamma", "exits", "std::process::abort();");
        fixture.write("palisade.toml", &format!("[run]\nrunner = \"{runner}\"\n"));
        fixture.commit("an abort");
        let (code, report) = fixture.json(&["test", "--package", "gamma"]);
        assert_eq!(code, 1, "{report:#}");
        assert_eq!(report["tests"]["passing"], 1, "{runner}: {report:#}");
        assert_eq!(report["failures"][0]["name"], "gamma/lib/tests::exits");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_children_and_leaves_no_run_and_no_checkout() {
    for signal in ["INT", "KILL"] {
        let fixture = Fixture::new();
        let body = "std::thread::sleep(std::time::Duration::from_secs(100));";
        fixture.add_test("gamma", "sleeps", body);
        fixture.commit("a long test");
        fixture.edit("gamma/src/lib.rs", body, "");
        // The candidate is done soon; then the base sleeps in its checkout.
        let mut command = fixture.command(env!("CARGO_BIN_EXE_cargo-palisade"));
        let mut child = command
            .arg("check")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let started = Instant::now();
        let lists = || fixture.git(&["worktree", "list"]).lines().count();
        while lists() < 2 {
            assert!(
                started.elapsed() < Duration::from_mins(1),
                "no checkout was made"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_secs(2));
        let id = child.id().to_string();
        let kill = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(kill.expect("kill runs").success());
        let status = child.wait().expect("it ends");
        assert!(
            started.elapsed() < Duration::from_mins(1),
            "it waited for the test"
        );
        if signal == "INT" {
            assert_eq!(status.code(), Some(3));
            assert_eq!(lists(), 1);
        }
        let store = rows(&fixture);
        assert_eq!(store, ["tests true"], "only the candidate's run counts");
        // What a killed run left is in nobody's way.
        fixture.edit(
            "gamma/src/lib.rs",
            "fn sleeps() {\n        \n    }",
            "fn sleeps() {}",
        );
        fixture.commit("the next commit");
        let next = fixture.palisade(&["check", "--base", "HEAD"]);
        assert_eq!(next.code, 0, "{}{}", next.out, next.err);
    }
}

/// Purpose and completeness of each stored run.
fn rows(fixture: &Fixture) -> Vec<String> {
    let exported = fixture.palisade(&["store", "export"]);
    assert_eq!(exported.code, 0, "{}", exported.err);
    let row = |line: &str| {
        let json: serde_json::Value = serde_json::from_str(line).expect("is JSON");
        format!(
            "{} {}",
            json["purpose"].as_str().expect("a word"),
            json["complete"]
        )
    };
    exported.out.lines().map(row).collect()
}

#[test]
fn a_run_during_which_files_change_stands_for_nothing() {
    let fixture = Fixture::new();
    let readme = fixture.root().join("README.md").display().to_string();
    fixture.add_test(
        "gamma",
        "writes",
        &format!("std::fs::write({readme:?}, \"other\").unwrap();"),
    );
    fixture.commit("a test that writes into the repository");
    let (code, report) = fixture.json(&["test"]);
    assert_eq!(code, 3, "{report:#}");
    let gaps = serde_json::json!(["files changed while the tests ran: README.md"]);
    assert_eq!(report["gaps"], gaps);
    assert_eq!(
        rows(&fixture),
        ["tests false"],
        "it is kept, and is not complete"
    );
    fixture.git(&["checkout", "--quiet", "README.md"]);
    let (code, report) = fixture.json(&["check"]);
    assert_eq!(
        (code, report["verdict"].as_str()),
        (3, Some("incomparable")),
        "{report:#}"
    );
}

#[test]
fn a_damaged_store_is_named_with_what_to_do() {
    let fixture = Fixture::new();
    fixture.write(".palisade/store.sqlite", &"not a database ".repeat(100));
    let found = fixture.palisade(&["check"]);
    assert_eq!(found.code, 3, "{}", found.err);
    assert!(
        found.err.contains("the database is damaged or is not one"),
        "{}",
        found.err
    );
    assert!(found.err.contains("hint: mv "), "{}", found.err);
}

#[test]
fn wrong_file_times_do_not_hide_a_change() {
    let fixture = Fixture::new();
    assert_eq!(fixture.palisade(&["baseline", "record"]).code, 0);
    let path = fixture.root().join("gamma/src/lib.rs");
    let times = std::fs::metadata(&path)
        .and_then(|meta| meta.modified())
        .expect("a time");
    let set = |time| {
        let file = std::fs::File::options()
            .append(true)
            .open(&path)
            .expect("opens");
        file.set_modified(time).expect("set");
    };
    fixture.edit("gamma/src/lib.rs", "    1\n", "    2\n");
    // Older than what was built from the file before.
    set(times);
    let key = [
        ("gamma/lib/tests::is_one", "newly_failing"),
        ("success rate", "below_minimum"),
    ];
    fixture.check(&[], 1, &key);
    // And back, again with an old time.
    fixture.edit("gamma/src/lib.rs", "    2\n", "    1\n");
    fixture.add_test("gamma", "more", "assert_eq!(super::one(), 1);");
    set(times);
    fixture.check(&[], 0, &[("gamma/lib/tests::more", "added")]);
}

#[test]
fn target_folders_of_any_kind_give_the_same_answers_in_a_sequence_of_checks() {
    let fixture = Fixture::with_baseline();
    fixture.git(&["worktree", "add", "--quiet", "../second", "-b", "second"]);
    let shared = fixture.outside("shared-target");
    let run = |dir: &std::path::Path, expected: i32| {
        let mut command = fixture.command(env!("CARGO_BIN_EXE_cargo-palisade"));
        command
            .current_dir(dir)
            .arg("check")
            .env("CARGO_TARGET_DIR", &shared);
        let found = answer(command);
        assert_eq!(found.code, expected, "{}{}", found.out, found.err);
    };
    let second = fixture.outside("second");
    let in_second = second.join("gamma/src/lib.rs");
    // Broken here and sound there, through one target folder, in turn.
    fixture.edit("gamma/src/lib.rs", "    1\n", "    2\n");
    run(&fixture.root(), 1);
    let text = std::fs::read_to_string(&in_second).expect("read");
    std::fs::write(&in_second, text.replace("    1\n", "    2 - 1\n")).expect("written");
    run(&second, 0);
    run(&fixture.root(), 1);
    // Mended here and broken there.
    fixture.edit("gamma/src/lib.rs", "    2\n", "    3 - 2\n");
    run(&fixture.root(), 0);
    std::fs::write(&in_second, text.replace("    1\n", "    5\n")).expect("written");
    run(&second, 1);
    run(&fixture.root(), 0);
    // A commit moves the base; the old base's results must not be taken for it.
    fixture.commit("mended");
    fixture.edit("gamma/src/lib.rs", "    3 - 2\n", "    3 - 1\n");
    run(&fixture.root(), 1);
}

#[test]
fn the_base_is_found_as_ci_services_check_out() {
    let origin = Fixture::new();
    let first = origin.git(&["rev-parse", "HEAD"]);
    origin.git(&["checkout", "--quiet", "-b", "feature"]);
    origin.edit("gamma/src/lib.rs", "    1\n", "    2\n");
    origin.commit("a change");
    origin.git(&["checkout", "--quiet", "main"]);
    origin.edit("alpha/src/lib.rs", "    a + b\n", "    b + a\n");
    origin.commit("another change");
    let main = origin.git(&["rev-parse", "HEAD"]);
    origin.git(&["merge", "--quiet", "--no-ff", "-m", "merged", "feature"]);
    origin.git(&["branch", "pull"]);
    origin.git(&["reset", "--quiet", "--hard", "HEAD^1"]);
    origin.git(&["branch", "release", "main"]);

    let url = format!("file://{}", origin.root().display());
    let clone = |name: &str, args: &[&str]| {
        let path = origin.outside(name);
        let place = path.to_str().expect("text");
        origin.git(&[&["clone", "--quiet"], args, &[&url, place]].concat());
        path
    };
    let risk = |dir: &std::path::Path, variable: Option<(&str, &str)>| {
        let mut command = origin.command(env!("CARGO_BIN_EXE_cargo-palisade"));
        command.current_dir(dir).args(["risk", "--json"]);
        command.envs(variable);
        answer(command)
    };
    let base = |dir: &std::path::Path, variable: Option<(&str, &str)>| {
        let found = risk(dir, variable);
        let json: serde_json::Value = serde_json::from_str(&found.out).expect("is JSON");
        json["base"].as_str().expect("text").to_owned()
    };
    let git_in = |dir: &std::path::Path, args: &[&str]| {
        let status = origin.command("git").current_dir(dir).args(args).status();
        assert!(status.expect("git runs").success(), "{args:?}");
    };

    // A branch, where only what `origin` has says where it began.
    let branch = clone("branch", &["--branch", "feature"]);
    git_in(&branch, &["remote", "set-head", "origin", "--delete"]);
    assert_eq!(base(&branch, None), first);
    // The branch that the service names, and no other if that one is missing.
    git_in(
        &branch,
        &["update-ref", "--no-deref", "-d", "refs/remotes/origin/main"],
    );
    let target = Some(("SYSTEM_PULLREQUEST_TARGETBRANCH", "refs/heads/release"));
    assert_eq!(base(&branch, target), first);
    let missing = risk(&branch, Some(("GITHUB_BASE_REF", "next")));
    assert_eq!(missing.code, 3, "{}{}", missing.out, missing.err);
    // The merge of a pull request, checked out without a branch.
    let pull = clone("pull", &["--branch", "pull"]);
    git_in(&pull, &["checkout", "--quiet", "--detach"]);
    assert_eq!(base(&pull, None), main);
    for branch in ["main", "release", "feature", "pull", "HEAD"] {
        let name = format!("refs/remotes/origin/{branch}");
        git_in(&pull, &["update-ref", "--no-deref", "-d", &name]);
    }
    git_in(&pull, &["branch", "--quiet", "-D", "pull"]);
    assert_eq!(base(&pull, None), main);
    // A clone that holds one commit says nothing, and passes nothing.
    let shallow = clone("shallow", &["--branch", "feature", "--depth", "1"]);
    let mut command = origin.command(env!("CARGO_BIN_EXE_cargo-palisade"));
    command.current_dir(&shallow).arg("check");
    let found = answer(command);
    assert_eq!(found.code, 3, "{}{}", found.out, found.err);
    let words = "find the branch that this change is to go to (in a shallow clone)";
    assert!(found.err.contains(words), "{}", found.err);
    let hint = "hint: git fetch --unshallow origin BRANCH, or --base REVISION";
    assert!(found.err.contains(hint), "{}", found.err);
}

#[test]
fn a_package_that_shares_its_name_with_a_dependency_is_tested() {
    let fixture = Fixture::new();
    fixture.edit(
        "Cargo.toml",
        "resolver = \"3\"\n",
        "resolver = \"3\"\nexclude = [\"vendor\"]\n",
    );
    let manifest = "[package]\nname = \"alpha\"\nversion = \"0.2.0\"\nedition = \"2024\"\n";
    fixture.write("vendor/alpha/Cargo.toml", manifest);
    fixture.write("vendor/alpha/src/lib.rs", "//! Another one.\n");
    let manifest = fixture.read("gamma/Cargo.toml");
    let dependency = "other = { path = \"../vendor/alpha\", package = \"alpha\" }\n";
    fixture.write("gamma/Cargo.toml", &format!("{manifest}{dependency}"));
    let lock = fixture
        .command("cargo")
        .args(["metadata", "--format-version", "1"])
        .output();
    assert!(lock.expect("cargo runs").status.success());
    fixture.commit("two packages with one name");
    fixture.edit("alpha/src/lib.rs", "    a + b\n", "    b + a\n");
    let report = fixture.check(&[], 0, &[]);
    assert_eq!(report["candidate"]["tests"]["passing"], 5, "{report:#}");
    let (code, report) = fixture.json(&["test", "--package", "alpha", "--runner", "cargo"]);
    assert_eq!(
        (code, &report["tests"]["passing"]),
        (0, &3.into()),
        "{report:#}"
    );
}
