//! End-to-end tests of the program `bitnet`, mostly with the built-in model.

mod bad_input;
mod batch;
mod chat;
#[cfg(unix)]
mod client;
mod convert;
mod damaged;
mod formats;
#[cfg(target_os = "linux")]
mod gpu;
mod help;
mod hub;
mod interrupt;
mod json;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(unix)]
mod names;
mod pull;
mod sampling;
#[cfg(unix)]
mod serve;
mod text;
mod toy;
mod verify;
mod weight_cache;
#[cfg(windows)]
mod windows;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The prompt that the documentation uses.
const PROMPT: &str = "Once upon a time there was a";

/// The exit code and output of a run.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Returns the command with these arguments, in this folder, with empty stdin and a width
/// of 80 columns.
fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnet"));
    command
        .args(args)
        .current_dir(folder)
        .env("COLUMNS", "80")
        // The same everywhere: no GPU, unless a test wants one.
        .env("VK_ICD_FILENAMES", "no-driver.json")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs the program in a folder.
fn bitnet_in(folder: &Path, args: &[&str]) -> Run {
    bitnet_with_stdin(folder, args, b"")
}

/// Runs the program without files.
fn bitnet(args: &[&str]) -> Run {
    bitnet_in(Path::new("."), args)
}

fn bitnet_with_stdin(folder: &Path, args: &[&str], stdin: &[u8]) -> Run {
    let mut child = command(folder, args).stdin(Stdio::piped()).spawn().unwrap();
    // The program may exit without reading its input.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap().into()
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

impl Run {
    /// Returns stdout of a successful run without output on stderr.
    fn quietly(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        self.stdout
    }

    /// Returns the JSON document of a successful run without output on stderr.
    fn json(self) -> serde_json::Value {
        let stdout = self.quietly();
        assert_eq!(stdout.matches('\n').count(), 1, "one line: {stdout}");
        serde_json::from_str(&stdout).unwrap()
    }
}

/// Returns a message without the platform-specific text of system errors.
fn without_system_words(message: &str) -> String {
    match message.split_once(" (os error ") {
        Some((text, _)) => format!("{}: SYSTEM", text.rsplit_once(": ").unwrap().0),
        None => message.to_owned(),
    }
}

/// Returns the path of a file of the repository.
fn in_repository(path: &str) -> String {
    format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"))
}

/// Returns the file of the built-in model.
fn storyteller() -> Vec<u8> {
    std::fs::read(in_repository("models/storyteller/storyteller.gguf")).unwrap()
}
