//! What a process took, measured from outside, against what other programs say and
//! what must hold.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::Command;

use palisade::host::measure::launch::{Conditions, Launcher, Program, Usage};
use palisade::host::process::Cancel;

const MIB: u64 = 1 << 20;

fn program(words: &[&str]) -> Program {
    Program {
        program: PathBuf::from(words[0]),
        args: words[1..].iter().map(Into::into).collect(),
        dir: std::env::temp_dir(),
        variables: Vec::new(),
    }
}

fn run(words: &[&str], conditions: Conditions) -> Usage {
    let launcher = Launcher::new(env!("CARGO_BIN_EXE_cargo-palisade").into());
    let launched = launcher.run(&program(words), &conditions, &Cancel::default());
    launched.expect("it runs").usage
}

fn peak(words: &[&str]) -> u64 {
    let usage = run(words, Conditions::default());
    usage.peak_bytes.expect("Linux says it")
}

/// Holds so many bytes at once.
fn holder(bytes: u64) -> [String; 4] {
    let block = format!("bs={bytes}");
    ["dd", "if=/dev/zero", "of=/dev/null", &block].map(str::to_owned)
}

fn peak_of_holder(bytes: u64) -> u64 {
    let [dd, from, to, block] = holder(bytes);
    peak(&[&dd, &from, &to, &block, "count=1", "status=none"])
}

#[test]
fn a_process_that_does_nothing_holds_next_to_nothing() {
    // Whatever this process holds itself.
    let ballast = vec![1_u8; 64 << 20];
    let peak = peak(&["true"]);
    assert!(peak < 2 * MIB, "{peak}");
    assert_eq!(std::hint::black_box(&ballast)[1 << 20], 1);
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that does not run must say so")]
fn peaks_are_those_of_the_time_program() {
    let time = "/usr/bin/time";
    if !Path::new(time).exists() {
        eprintln!("SKIPPED: {time} is not installed");
        return;
    }
    let [dd, from, to, block] = holder(33 * MIB);
    let big = [&*dd, &*from, &*to, &*block, "count=1", "status=none"];
    for words in [&["true"][..], &["ls", "/"], &big] {
        let output = Command::new(time).arg("-v").args(words).output();
        let said = String::from_utf8(output.expect("it runs").stderr).expect("text");
        let line = said.lines().find(|line| line.contains("Maximum resident"));
        let theirs: u64 = line
            .and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .expect("a number");
        let theirs = theirs * 1024;
        let ours = peak(words);
        // The least is what whoever starts it holds: each program its own, some 300 KiB
        // apart. How much of a library the system maps at once varies as well.
        let allowed = (theirs / 50).max(512 * 1024);
        assert!(
            ours.abs_diff(theirs) <= allowed,
            "{words:?}: {ours}, {theirs}"
        );
    }
}

#[test]
fn a_peak_does_not_depend_on_what_ran_before() {
    let (small, big) = (8 * MIB, 33 * MIB);
    let forwards = (peak_of_holder(small), peak_of_holder(big));
    let (big, small) = (peak_of_holder(big), peak_of_holder(small));
    for (one, other) in [(forwards.0, small), (forwards.1, big)] {
        assert!(one.abs_diff(other) < MIB / 4, "{one} {other}");
    }
    assert!(small + 20 * MIB < big);
}

#[test]
fn five_percent_more_memory_shows_in_each_pair() {
    for _ in 0..10 {
        let (before, after) = (
            peak_of_holder(33 * MIB),
            peak_of_holder(33 * MIB * 105 / 100),
        );
        let ratio = after as f64 / before as f64;
        assert!((1.035..1.06).contains(&ratio), "{ratio}");
    }
}

#[test]
fn a_process_can_be_slowed_down_by_a_wanted_share() {
    let shell = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
    for share in [0.02, 0.05, 0.10] {
        let conditions = Conditions {
            slowdown: share,
            ..Conditions::default()
        };
        let usages: Vec<Usage> = (0..5)
            .map(|_| run(&["sh", "-c", shell], conditions))
            .collect();
        let sum = |of: fn(&Usage) -> u64| usages.iter().map(of).sum::<u64>() as f64;
        let computed = sum(|usage| usage.user_ns + usage.system_ns);
        let stopped = sum(|usage| usage.stopped_ns);
        let found = stopped / computed;
        assert!((found - share).abs() < 0.01, "{share}: {found}");
        // The process did not run while it was stopped: its CPU time and its waits do not
        // explain the time that passed. Half suffices, because a virtual machine charges
        // time in which it was itself not scheduled to the process.
        let passed = sum(|usage| usage.wall_ns - usage.waited_ns.expect("Linux says it"));
        assert!(passed > computed + 0.5 * stopped, "{usages:?}");
    }
}

/// A launcher in namespaces of its own, and the folder of the script that makes them;
/// `None` where this system makes none.
#[expect(clippy::print_stderr, reason = "a test that does not run must say so")]
fn launcher_apart(flags: &[&str]) -> Option<(Launcher, tempfile::TempDir)> {
    let probe = Command::new("unshare").args(flags).arg("true").output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: unshare {} does not work here", flags.join(" "));
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("launcher");
    let guard = env!("CARGO_BIN_EXE_cargo-palisade");
    let flags = flags.join(" ");
    let text = format!("#!/bin/sh\nexec unshare {flags} '{guard}' \"$@\"\n");
    std::fs::write(&script, text).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).expect("executable");
    Some((Launcher::new(script), folder))
}

/// In a container, the session that a process was started in may be none of its own:
/// Linux then calls it number 0.
#[test]
fn a_process_of_another_namespace_is_measured_too() {
    let flags = ["--map-root-user", "--pid", "--fork"];
    let Some((launcher, _folder)) = launcher_apart(&flags) else {
        return;
    };
    let launched = launcher.run(
        &program(&["true"]),
        &Conditions::default(),
        &Cancel::default(),
    );
    assert!(launched.expect("it runs").usage.wall_ns > 0);
}

#[test]
fn one_that_fails_or_is_missing_or_takes_too_long_is_an_error() {
    let launcher = Launcher::new(env!("CARGO_BIN_EXE_cargo-palisade").into());
    let conditions = Conditions {
        limit: Some(std::time::Duration::from_millis(200)),
        ..Conditions::default()
    };
    for (words, expected) in [
        (
            &["false"][..],
            "failed to run `false`: it ended with exit code 1",
        ),
        (
            &["sleep", "9"],
            "failed to run `sleep 9`: it ran past its time",
        ),
        (&["no-such-program"], "failed to start \"no-such-program\""),
    ] {
        let error = launcher.run(&program(words), &conditions, &Cancel::default());
        let error = error.expect_err("it cannot").to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn a_process_runs_where_its_group_has_no_number() {
    let Some((launcher, _folder)) = launcher_apart(&["--user"]) else {
        return;
    };
    let words = program(&["sh", "-c", "id -g"]);
    let launched = launcher.run(&words, &Conditions::default(), &Cancel::default());
    // The overflow group is what such a namespace shows.
    let overflow = std::fs::read_to_string("/proc/sys/kernel/overflowgid").expect("Linux has it");
    assert_eq!(launched.expect("it runs").out.trim(), overflow.trim());
}
