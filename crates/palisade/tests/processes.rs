//! What the guard asks of the operating system, on each of them: processes are ended with all
//! that they started, their files are free then, and what they took is known.
//!
//! The processes are those of `examples/child.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use palisade::host::measure::launch::{
    CAN_SLOW_DOWN, Conditions, LaunchError, Launched, Launcher, Program,
};
use palisade::host::process::{Cancel, Limits, ProcessEnd, ProcessError, Stream, run};
use palisade::host::running_program::move_running_program;

const MIB: u64 = 1 << 20;

/// Longer than a process needs to start another one, which starts a third.
const STARTED: Duration = Duration::from_secs(20);

/// Cargo builds examples before it runs tests, into a folder beside theirs.
fn child() -> PathBuf {
    let test = std::env::current_exe().expect("it has a path");
    let deps = test.parent().expect("a folder");
    let folder = deps.parent().expect("a folder").join("examples");
    folder.join(format!("child{}", std::env::consts::EXE_SUFFIX))
}

/// A folder on the same disk.
fn folder() -> tempfile::TempDir {
    let child = child();
    tempfile::tempdir_in(child.parent().expect("a folder")).expect("a folder")
}

/// Gives the program a second name. On Windows it is a copy: there a second name of a program
/// that runs would be locked.
fn second(path: &Path) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    if cfg!(windows) {
        fs::copy(child(), path).expect("copied");
    } else {
        // While a file is written, no thread of this process can start it.
        fs::hard_link(child(), path).expect("linked");
    }
}

/// The program at a path that is hard to hand on.
fn odd_path(dir: &Path) -> PathBuf {
    let name = format!("a child{}", std::env::consts::EXE_SUFFIX);
    let path = dir.join("with space, ü & 'quote'").join(name);
    second(&path);
    path
}

/// What a build does with a program that it made before.
fn replace(path: &Path) {
    fs::remove_file(path).expect("it is free");
    fs::write(path, "another program").expect("it is free");
}

fn length(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |meta| meta.len())
}

/// Waits until something beats.
fn wait_for_beat(file: &Path) {
    let started = Instant::now();
    while length(file) == 0 {
        assert!(started.elapsed() < STARTED, "nothing beats");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn beats(file: &Path) -> bool {
    let before = length(file);
    std::thread::sleep(Duration::from_millis(500));
    length(file) > before
}

/// Runs a child until what it starts beats, then cancels it.
fn cancel_when_it_beats(command: &mut Command, file: &Path) {
    let cancel = Cancel::default();
    let ended = std::thread::scope(|scope| {
        let on_beat = cancel.clone();
        scope.spawn(move || {
            wait_for_beat(file);
            on_beat.cancel();
        });
        run(command, Limits::default(), &cancel, true, |_, _| {})
    });
    assert!(
        matches!(ended, Err(ProcessError::Interrupted { .. })),
        "{ended:?}"
    );
}

#[test]
fn cancelling_ends_a_whole_tree_of_processes_and_frees_its_program() {
    let dir = folder();
    let (program, file) = (odd_path(dir.path()), dir.path().join("beat"));
    let mut command = Command::new(&program);
    command.args(["tree", "2"]).arg(&file);
    cancel_when_it_beats(&mut command, &file);
    replace(&program);
    assert!(!beats(&file), "a grandchild still runs");
    // The command still says what it was, for messages.
    assert_eq!(command.get_program(), program.as_os_str());
}

#[test]
fn a_time_out_ends_a_whole_tree_of_processes() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("beat");
    let limits = Limits {
        total: Some(Duration::from_secs(4)),
        quiet: None,
    };
    let started = Instant::now();
    let mut command = Command::new(child());
    command.args(["tree", "1"]).arg(&file);
    let end = run(&mut command, limits, &Cancel::default(), false, |_, _| {});
    assert_eq!(end.expect("it runs"), ProcessEnd::TimedOut);
    assert!(started.elapsed() < STARTED, "{:?}", started.elapsed());
    assert!(length(&file) > 0, "the grandchild did not start in time");
    assert!(!beats(&file), "the grandchild still runs");
}

#[test]
fn one_that_keeps_the_output_open_is_ended_after_its_parent() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("beat");
    let mut command = Command::new(child());
    command.arg("leave").arg(&file);
    let started = Instant::now();
    let end = run(
        &mut command,
        Limits::default(),
        &Cancel::default(),
        true,
        |_, _| {},
    );
    assert_eq!(end.expect("it runs"), ProcessEnd::Exited(Some(0)));
    assert!(started.elapsed() < STARTED, "{:?}", started.elapsed());
    assert!(!beats(&file), "it still runs");
}

#[test]
fn lines_come_without_their_ends_and_codes_as_they_are() {
    let ended = |words: &[&str]| {
        let mut lines = Vec::new();
        let mut command = Command::new(child());
        command.args(words);
        let cancel = Cancel::default();
        let end = run(
            &mut command,
            Limits::default(),
            &cancel,
            false,
            |stream, line| {
                if stream == Stream::Out {
                    lines.push(String::from_utf8_lossy(line).into_owned());
                }
            },
        );
        (end.expect("it runs"), lines)
    };
    let (end, lines) = ended(&["say"]);
    assert_eq!(end, ProcessEnd::Exited(Some(0)));
    assert_eq!(lines, ["one", "", "two", "last\r"]);
    assert_eq!(ended(&["exit", "101"]).0, ProcessEnd::Exited(Some(101)));
    match ended(&["crash"]).0 {
        ProcessEnd::Exited(Some(code)) if cfg!(windows) => {
            assert!(code < 0 || code == 3, "{code:#x}");
        }
        end => assert_eq!(end, ProcessEnd::Exited(None)),
    }
}

#[test]
fn words_and_folders_reach_a_child_as_they_are() {
    let dir = folder();
    let program = odd_path(dir.path());
    let folder = program.parent().expect("a folder");
    let words = [
        "words",
        "C:\\a b\\",
        "say \"it\"",
        "",
        "ü",
        "^&|%PATH%",
        "src/lib.rs - m::f",
    ];
    let mut lines = Vec::new();
    let mut command = Command::new(&program);
    command.args(words).current_dir(folder);
    let cancel = Cancel::default();
    let end = run(&mut command, Limits::default(), &cancel, true, |_, line| {
        lines.push(String::from_utf8_lossy(line).into_owned());
    });
    assert_eq!(end.expect("it runs"), ProcessEnd::Exited(Some(0)));
    let real = |path: &Path| path.canonicalize().expect("there");
    assert_eq!(real(Path::new(&lines[0])), real(folder));
    assert_eq!(lines[1..], words[1..]);
}

fn launch(words: &[&str], limit: Option<Duration>) -> Result<Launched, LaunchError> {
    let program = Program {
        program: child(),
        args: words.iter().map(Into::into).collect(),
        dir: std::env::temp_dir(),
        variables: Vec::new(),
    };
    let conditions = Conditions {
        limit,
        ..Conditions::default()
    };
    Launcher::new(child()).run(&program, &conditions, &Cancel::default())
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that does not run must say so")]
fn peaks_of_memory_are_those_of_one_process() {
    // Whatever this process holds itself.
    let ballast = vec![1_u8; 200 << 20];
    let peak = |mib: &str| {
        let launched = launch(&["hold", mib], None).expect("it runs");
        launched.usage.peak_bytes
    };
    let (large, small) = (peak("96"), peak("8"));
    assert_eq!(std::hint::black_box(&ballast)[1 << 20], 1);
    let (Some(large), Some(small)) = (large, small) else {
        // Wine keeps no counters of a process that ended; Windows does.
        assert_eq!((large, small, cfg!(windows)), (None, None, true));
        eprintln!("SKIPPED: this system does not say how much memory a process held");
        return;
    };
    assert!((96 * MIB..150 * MIB).contains(&large), "{large}");
    assert!((8 * MIB..62 * MIB).contains(&small), "{small}");
}

#[test]
fn a_launch_that_runs_past_its_time_is_ended_with_its_children() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("beat");
    let words = ["tree", "1", &file.to_string_lossy()];
    let ended = launch(&words, Some(Duration::from_secs(5)));
    let said = ended.expect_err("it would run for a minute").to_string();
    assert!(said.ends_with("it ran past its time"), "{said}");
    assert!(length(&file) > 0, "the grandchild did not start in time");
    assert!(!beats(&file), "the grandchild still runs");
}

#[test]
fn a_slowdown_is_put_in_or_refused() {
    let program = Program {
        program: child(),
        args: vec!["exit".into(), "0".into()],
        dir: std::env::temp_dir(),
        variables: Vec::new(),
    };
    let conditions = Conditions {
        slowdown: 0.5,
        ..Conditions::default()
    };
    let launched = Launcher::new(child()).run(&program, &conditions, &Cancel::default());
    if CAN_SLOW_DOWN {
        launched.expect("it runs");
    } else {
        // Nothing was slowed down, so nothing may be said of it.
        let error = launched.expect_err("it cannot be");
        assert!(matches!(error, LaunchError::NoSlowdown { .. }), "{error}");
    }
}

#[test]
fn a_launch_that_fails_says_how() {
    let said = |words: &[&str]| launch(words, None).expect_err("it fails").to_string();
    let code = said(&["exit", "7"]);
    assert!(code.ends_with("it ended with exit code 7"), "{code}");
    let crash = said(&["crash"]);
    let word = if cfg!(windows) { "exit code" } else { "signal" };
    assert!(crash.contains(word), "{crash}");
}

#[test]
fn a_program_that_runs_makes_way_for_a_build() {
    let dir = folder();
    let target = dir.path().join("target");
    let suffix = std::env::consts::EXE_SUFFIX;
    let program = target.join("debug").join(format!("a-guard{suffix}"));
    let built = target
        .join("debug/deps")
        .join(format!("a_guard-01{suffix}"));
    second(&built);
    fs::hard_link(&built, &program).expect("linked");
    let mut running = Command::new(&program)
        .arg("sleep")
        .stdin(Stdio::null())
        .spawn()
        .expect("it runs");
    std::thread::sleep(Duration::from_secs(1));
    if cfg!(windows) {
        // Else there would be nothing to make way for.
        let locked = fs::write(&program, "a new build");
        assert!(locked.is_err(), "Windows would not allow that");
    }
    let moved = move_running_program(&program, &target).expect("moved");
    for path in [&program, &built] {
        replace(path);
    }
    // It still runs, and can be started again, from its new place.
    assert!(running.try_wait().expect("asked").is_none());
    let moved = moved.expect("it was inside");
    let again = Command::new(&moved).args(["exit", "5"]).status();
    assert_eq!(again.expect("it runs").code(), Some(5));
    running.kill().expect("ended");
    running.wait().expect("ended");
}
