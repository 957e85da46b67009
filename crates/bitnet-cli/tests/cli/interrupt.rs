//! Ctrl-C, and closed pipes.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::{PROMPT, command};

/// A generation that takes much longer than the tests wait.
const LONG: [&str; 9] = [
    "run", "--seed", "1", "--temp", "1", "-n", "100000", "-c", "1024",
];
const NOTE: &str = "note: this is the built-in demo model";

/// Waits for the exit with a timeout.
fn end_of(child: &mut Child) -> std::process::ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            panic!("the program does not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn stderr_of(child: &mut Child) -> String {
    let mut stderr = String::new();
    let pipe = child.stderr.as_mut().unwrap();
    pipe.read_to_string(&mut stderr).unwrap();
    stderr
}

#[test]
fn a_reader_who_has_seen_enough_ends_a_story() {
    let args = [&LONG[..], &[PROMPT]].concat();
    let mut child = command(Path::new("."), &args).spawn().unwrap();
    let mut text = [0; 5];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut text).unwrap();
    drop(stdout);
    assert_eq!(&text, b"Once ");
    assert_eq!(end_of(&mut child).code(), Some(0));
    let stderr = stderr_of(&mut child);
    assert!(stderr.starts_with(NOTE), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

/// Returns the write end of a pipe whose read end is closed.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn nobody_who_reads_is_no_error() {
    let commands: [&[&str]; 6] = [
        &["inspect", "-q", "--tensors"],
        &["inspect", "-q", "--json"],
        &["tokenize", "-q", "king"],
        &["logits", "-q", "--tokens", "1"],
        &["completions", "zsh"],
        &["run", "-q", "--json", "-n", "1", "king"],
    ];
    for args in commands {
        let mut command = command(Path::new("."), args);
        let mut child = command.stdout(closed_pipe()).spawn().unwrap();
        assert_eq!(end_of(&mut child).code(), Some(0), "{args:?}");
        assert_eq!(stderr_of(&mut child), "", "{args:?}");
    }
}

#[test]
fn nobody_who_reads_stderr_changes_nothing() {
    let commands: [(&[&str], i32); 2] = [
        (&["run", "--temp", "0", "-n", "1", PROMPT], 0),
        (&["run", "--top-p", "2", PROMPT], 2),
    ];
    for (args, code) in commands {
        let mut command = command(Path::new("."), args);
        let mut child = command.stderr(closed_pipe()).spawn().unwrap();
        assert_eq!(end_of(&mut child).code(), Some(code), "{args:?}");
    }
}

/// Ctrl-C as a Unix signal; scripts/test-windows.sh tests it for Windows.
#[cfg(unix)]
mod ctrl_c {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use super::super::in_repository;
    use super::{LONG, NOTE, PROMPT, command, end_of, stderr_of};

    fn interrupt(child: &Child) {
        let pid = child.id().to_string();
        let status = Command::new("kill").args(["-INT", &pid]).status().unwrap();
        assert!(status.success());
    }

    #[test]
    fn an_interrupted_story_ends_with_its_line() {
        let args = [&LONG[..], &[PROMPT]].concat();
        let mut child = command(Path::new("."), &args).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut text = vec![0; PROMPT.len() + 4];
        stdout.read_exact(&mut text).unwrap();
        interrupt(&child);
        stdout.read_to_end(&mut text).unwrap();
        assert_eq!(end_of(&mut child).code(), Some(130));
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with(PROMPT) && text.ends_with('\n'), "{text}");
        let stderr = stderr_of(&mut child);
        assert!(stderr.starts_with(NOTE), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }

    #[test]
    fn an_interrupted_measurement_tells_how_far_it_came() {
        let text = in_repository("models/storyteller/heldout.txt");
        let args = ["perplexity", "-v", "-c", "16", "-f", &text];
        let mut child = command(Path::new("."), &args).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("loaded") {
            line.clear();
            assert_ne!(stderr.read_line(&mut line).unwrap(), 0);
        }
        // The work begins immediately; an earlier interrupt would exit with the same
        // code, but without a message.
        std::thread::sleep(Duration::from_millis(100));
        interrupt(&child);
        assert_eq!(end_of(&mut child).code(), Some(130));
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).unwrap();
        // After what was skipped, by layer where the kernels skip anything.
        let last = rest.lines().last().unwrap_or_default();
        assert!(last.starts_with("interrupted after "), "{rest}");
        let is_skipped = |line: &&str| line.contains("skipped");
        assert_eq!(
            rest.lines().filter(is_skipped).count() + 1,
            rest.lines().count()
        );
    }

    #[test]
    fn an_interrupted_conversion_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let names = || -> Vec<_> {
            let entries = folder.path().read_dir().unwrap();
            entries.map(|e| e.unwrap().file_name()).collect()
        };
        let args = ["convert", "-q", "builtin", "out.gguf", "--head", "q6_k"];
        let mut child = command(folder.path(), &args).spawn().unwrap();
        while names().is_empty() && child.try_wait().unwrap().is_none() {}
        interrupt(&child);
        let status = end_of(&mut child);
        let stderr = stderr_of(&mut child);
        match status.code() {
            Some(130) => {
                assert!(names().is_empty(), "{:?}", names());
                let said = "error: failed to convert builtin to out.gguf: interrupted; nothing was written\n";
                assert_eq!(stderr, said);
            }
            // It finished before the signal.
            Some(0) => assert_eq!(names(), ["out.gguf"]),
            _ => panic!("{status}: {stderr}"),
        }
    }

    #[test]
    fn an_interrupted_batch_tells_what_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let request = r#"{"custom_id": "ID", "method": "POST", "url": "/v1/completions",
            "body": {"prompt": "a", "max_tokens": 200, "ignore_eos": true}}"#;
        let lines =
            (0..1000).map(|i| request.replace('\n', " ").replace("ID", &i.to_string()) + "\n");
        std::fs::write(folder.path().join("in"), lines.collect::<String>()).unwrap();
        let mut child = command(folder.path(), &["batch", "in", "out"])
            .spawn()
            .unwrap();
        let out = folder.path().join("out");
        while std::fs::metadata(&out).map_or(0, |out| out.len()) == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        interrupt(&child);
        assert_eq!(end_of(&mut child).code(), Some(130));
        let stderr = stderr_of(&mut child);
        let written = std::fs::read_to_string(&out).unwrap().lines().count();
        let left = format!(
            "interrupted; the same command answers the {} left\n",
            1000 - written
        );
        assert!(stderr.ends_with(&left), "{stderr}");
    }

    #[test]
    fn waiting_for_a_prompt_is_interrupted_at_once() {
        let mut command = command(Path::new("."), &["run", "-q", "-"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        interrupt(&child);
        let status = end_of(&mut child);
        // Killed by the signal, if the handler was not installed yet.
        let ended = status.code() == Some(130) || status.signal() == Some(2);
        assert!(ended, "{status}");
        assert_eq!(stderr_of(&mut child), "");
    }

    #[test]
    fn an_interrupted_answer_does_not_end_the_conversation() {
        let mut args = LONG;
        args[0] = "chat";
        let template = [
            "--chat-template",
            "{{ bos_token }}{{ messages[-1].content }}",
            "-v",
        ];
        let mut command = command(Path::new("."), &[&args[..], &template].concat());
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "{PROMPT}").unwrap();
        let mut begun = [0; 4];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut begun)
            .unwrap();
        interrupt(&child);
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let end = stderr.find_map(|line| line.ok().filter(|line| line.starts_with('[')));
        assert!(end.unwrap().ends_with(", stopped]"));
        // It accepts input again.
        writeln!(stdin, "/exit").unwrap();
        assert_eq!(end_of(&mut child).code(), Some(0));
    }
}
