//! What `tests/processes.rs` starts: a program that does what its words say. It is also a
//! launcher, as `cargo-palisade` is.
//!
//! - `say`: prints lines as programs for Windows end them, and one without an end
//! - `exit CODE`, `crash`: ends so
//! - `hold MIB`: holds so much memory at once
//! - `sleep`: sleeps for a minute
//! - `beat FILE`: makes a file longer all the time, for a minute
//! - `tree DEPTH FILE`: starts itself, so many times one below the other; the last one beats
//! - `leave FILE`: starts one that beats, and ends at once
//! - `words …`: prints its folder, then the words, a line each

use std::io::Write as _;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// How long anything lasts that nobody ends.
const LONG: Duration = Duration::from_mins(1);

fn main() -> ExitCode {
    if let Some(code) = palisade::host::measure::launch::serve() {
        return code;
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut out = std::io::stdout();
    match words.as_slice() {
        ["say"] => out.write_all(b"one\r\n\r\ntwo\nlast\r").expect("said"),
        ["exit", code] => return ExitCode::from(code.parse::<u8>().expect("a code")),
        ["crash"] => std::process::abort(),
        ["hold", mib] => {
            let mib: usize = mib.parse().expect("a number");
            std::hint::black_box(vec![1_u8; mib << 20]);
        }
        ["sleep"] => std::thread::sleep(LONG),
        ["beat", file] | ["tree", "0", file] => beat(file),
        ["tree", depth, file] => {
            let depth: u32 = depth.parse().expect("a number");
            let below = (depth - 1).to_string();
            let status = this().args(["tree", &below, file]).status();
            assert!(status.expect("it runs").success());
        }
        ["leave", file] => drop(this().args(["beat", file]).spawn().expect("it runs")),
        ["words", rest @ ..] => {
            let folder = std::env::current_dir().expect("a folder");
            writeln!(out, "{}", folder.display()).expect("said");
            for word in rest {
                writeln!(out, "{word}").expect("said");
            }
        }
        other => panic!("{other:?}"),
    }
    ExitCode::SUCCESS
}

fn this() -> Command {
    Command::new(std::env::current_exe().expect("it has a path"))
}

fn beat(file: &str) {
    let started = Instant::now();
    while started.elapsed() < LONG {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(file);
        file.and_then(|mut file| file.write_all(b"x"))
            .expect("written");
        std::thread::sleep(Duration::from_millis(20));
    }
}
