//! Starts child processes, reads their output line by line, and ends them with
//! everything they started when time is up or the user interrupts.
//!
//! Each child leads its own process group, or makes itself the head of a session. On Windows
//! it is the first process of a job object, which holds everything that the child starts.
//! Output is handed on as it arrives and
//! never stored here, so a child that prints 100 MB costs no memory; a single
//! line is cut after [`LINE_LIMIT`] bytes.

mod tree;

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use tree::ProcessTree;

/// The most bytes of one line that are handed on; the rest of the line is dropped.
pub const LINE_LIMIT: usize = 64 * 1024;

/// How long a child may take to end after it was asked to, before it is killed.
const GRACE: Duration = Duration::from_secs(3);

/// How often the loop looks at the clock and at [`Cancel`].
const TICK: Duration = Duration::from_millis(20);

/// Why a child process gave no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The program is missing or may not be executed.
    #[error("failed to start {program:?}")]
    Start {
        /// The program's name or path.
        program: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The operating system lost track of the child.
    #[error("failed to wait for {program:?}")]
    Wait {
        /// The program's name or path.
        program: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// [`Cancel::cancel`] was called; the child and its group were ended.
    #[error("failed to finish {program:?}: interrupted")]
    Interrupted {
        /// The program's name or path.
        program: String,
    },
}

/// A flag that ends every running child when it is set; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks all running children to end.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Which of the child's two outputs a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessEnd {
    /// It ended by itself; `None` if a signal ended it. A crash on Windows has the code of an
    /// `NTSTATUS`, which is below 0.
    Exited(Option<i32>),
    /// It ran past its time and was ended with its process group.
    TimedOut,
}

impl ProcessEnd {
    fn of(status: ExitStatus) -> Self {
        Self::Exited(status.code())
    }
}

/// An exit code in words. Those of crashes on Windows are known by their digits.
pub(crate) fn exit_code(code: i32) -> String {
    if code < 0 {
        format!("exit code 0x{code:08X}")
    } else {
        format!("exit code {code}")
    }
}

/// How long a child may run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// From its start to its end.
    pub total: Option<Duration>,
    /// Without a line of output.
    pub quiet: Option<Duration>,
}

/// How a child is kept apart from the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// It is started as the leader of a process group.
    Own,
    /// It makes itself the head of a session, and with that the leader of a group.
    Session,
}

/// Runs `command` to its end and hands each line of its output, without the line
/// break (`\n` or `\r\n`), to `on_line`. With `merged`, both outputs share one pipe and arrive in
/// the order they were written, all as [`Stream::Out`].
pub fn run(
    command: &mut Command,
    limits: Limits,
    cancel: &Cancel,
    merged: bool,
    on_line: impl FnMut(Stream, &[u8]),
) -> Result<ProcessEnd, ProcessError> {
    run_in(Group::Own, command, limits, cancel, merged, on_line)
}

/// The same with a choice of how the child is kept apart.
pub fn run_in(
    group: Group,
    command: &mut Command,
    limits: Limits,
    cancel: &Cancel,
    merged: bool,
    mut on_line: impl FnMut(Stream, &[u8]),
) -> Result<ProcessEnd, ProcessError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let (mut child, lines) =
        start(group, command, merged).map_err(|source| ProcessError::Start {
            program: program.clone(),
            source,
        })?;
    let wait_error = |source| ProcessError::Wait {
        program: program.clone(),
        source,
    };
    let started = Instant::now();
    let mut last_line = started;
    let mut exited: Option<(ExitStatus, Instant)> = None;
    // Most children end right after they close their outputs.
    let mut pause = Duration::from_millis(1);
    loop {
        let mut drained = false;
        match lines.recv_timeout(TICK) {
            Ok((stream, line)) => {
                on_line(stream, &line);
                last_line = Instant::now();
            }
            Err(RecvTimeoutError::Disconnected) => drained = true,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let is_over = |limit: Option<Duration>, since: Instant| {
            limit.is_some_and(|limit| since.elapsed() >= limit)
        };
        let ended = if cancel.is_cancelled() {
            Some(Err(ProcessError::Interrupted {
                program: program.clone(),
            }))
        } else if is_over(limits.total, started) || is_over(limits.quiet, last_line) {
            Some(Ok(ProcessEnd::TimedOut))
        } else {
            None
        };
        if let Some(ended) = ended {
            end_tree(&mut child, &lines).map_err(wait_error)?;
            return ended;
        }
        if exited.is_none() {
            exited = child
                .try_wait()
                .map_err(wait_error)?
                .map(|status| (status, Instant::now()));
            if drained && exited.is_none() {
                std::thread::sleep(pause);
                pause = (2 * pause).min(TICK);
            }
        }
        // A grandchild may hold the pipe open after the child is gone: it gets
        // as long as an ending child would, then the group is cleared away.
        if let Some((status, at)) = exited {
            if drained {
                return Ok(ProcessEnd::of(status));
            }
            if at.elapsed() > GRACE {
                child.kill();
                return Ok(ProcessEnd::of(status));
            }
        }
    }
}

type Lines = Receiver<(Stream, Vec<u8>)>;

/// Starts a command in a process group of its own, which Ctrl-C in a terminal does not
/// reach: what is short comes to its end, so that nothing looks like a failure of its own.
pub(crate) fn in_own_process_group(command: &mut Command) -> &mut Command {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    #[cfg(windows)]
    std::os::windows::process::CommandExt::creation_flags(command, tree::NEW_PROCESS_GROUP);
    command
}

fn start(
    group: Group,
    command: &mut Command,
    merged: bool,
) -> std::io::Result<(ProcessTree, Lines)> {
    if group == Group::Own {
        in_own_process_group(command);
    }
    command.stdin(Stdio::null());
    let (sender, lines) = sync_channel(1024);
    if merged {
        let (reader, writer) = std::io::pipe()?;
        command.stdout(writer.try_clone()?).stderr(writer);
        let child = ProcessTree::spawn(command)?;
        // The command keeps its ends of the pipe; without this the pipe never ends.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        read_lines(reader, Stream::Out, sender);
        return Ok((child, lines));
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = ProcessTree::spawn(command)?;
    if let Some(out) = child.stdout() {
        read_lines(out, Stream::Out, sender.clone());
    }
    if let Some(err) = child.stderr() {
        read_lines(err, Stream::Err, sender);
    }
    Ok((child, lines))
}

fn read_lines(
    source: impl Read + Send + 'static,
    stream: Stream,
    sender: SyncSender<(Stream, Vec<u8>)>,
) {
    std::thread::spawn(move || {
        let mut reader = BufReader::with_capacity(LINE_LIMIT, source);
        let mut line = Vec::new();
        loop {
            let (used, complete) = match reader.fill_buf() {
                Ok([]) | Err(_) => break,
                Ok(bytes) => {
                    let end = bytes.iter().position(|&byte| byte == b'\n');
                    let part = &bytes[..end.unwrap_or(bytes.len())];
                    let room = LINE_LIMIT.saturating_sub(line.len()).min(part.len());
                    line.extend_from_slice(&part[..room]);
                    (part.len() + usize::from(end.is_some()), end.is_some())
                }
            };
            reader.consume(used);
            if complete && line.last() == Some(&b'\r') {
                line.pop();
            }
            if complete && sender.send((stream, std::mem::take(&mut line))).is_err() {
                return;
            }
        }
        if !line.is_empty() {
            // The receiver is gone only when the child was given up on.
            let _ = sender.send((stream, line));
        }
    });
}

/// Asks a child and what it started to end, and kills what is left after [`GRACE`].
fn end_tree(child: &mut ProcessTree, lines: &Lines) -> std::io::Result<()> {
    child.ask_to_end();
    let asked = Instant::now();
    while asked.elapsed() < GRACE && child.try_wait()?.is_none() {
        // Readers block on a full channel, and the child on a full pipe.
        let _ = lines.recv_timeout(TICK);
    }
    child.kill();
    child.wait()?;
    // Windows ends processes after it said so, and keeps their files locked until then. The
    // pipe is closed when the last one that holds it is gone.
    while cfg!(windows) && asked.elapsed() < 2 * GRACE {
        if lines.recv_timeout(TICK) == Err(RecvTimeoutError::Disconnected) {
            break;
        }
    }
    Ok(())
}

/// The last bytes of an output, for messages.
#[derive(Debug, Default)]
pub struct Tail {
    lines: std::collections::VecDeque<String>,
    bytes: usize,
}

impl Tail {
    const LIMIT: usize = 16 * 1024;

    /// Adds a line and forgets the oldest ones past the limit.
    pub fn push(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line).into_owned();
        self.bytes += line.len() + 1;
        self.lines.push_back(line);
        while self.bytes > Self::LIMIT {
            let Some(oldest) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= oldest.len() + 1;
        }
    }

    /// The kept lines, joined.
    pub fn text(&self) -> String {
        self.lines
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn sh(script: &str, total: Option<Duration>, merged: bool) -> (ProcessEnd, Vec<String>) {
        let mut seen = Vec::new();
        let end = run(
            Command::new("sh").args(["-c", script]),
            Limits { total, quiet: None },
            &Cancel::default(),
            merged,
            |_, line| seen.push(String::from_utf8_lossy(line).into_owned()),
        )
        .expect("sh runs");
        (end, seen)
    }

    #[test]
    fn hands_on_lines_and_the_exit_code() {
        let (end, seen) = sh("echo one; printf two; exit 7", None, false);
        assert_eq!(end, ProcessEnd::Exited(Some(7)));
        assert_eq!(seen, ["one", "two"]);
    }

    #[test]
    fn merged_output_keeps_the_order() {
        let (_, seen) = sh("echo a; echo b >&2; echo c; echo d >&2", None, true);
        assert_eq!(seen, ["a", "b", "c", "d"]);
    }

    #[test]
    fn a_time_out_ends_the_grandchildren_too() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let pid_file = dir.path().join("pid");
        let script = format!("sleep 60 & echo $! > {}; wait", pid_file.display());
        let started = Instant::now();
        let (end, _) = sh(&script, Some(Duration::from_millis(300)), false);
        assert_eq!(end, ProcessEnd::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(20));
        let pid = std::fs::read_to_string(pid_file).expect("the script wrote it");
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().expect("a number"));
        let pid = pid.expect("not 0");
        // One that ended answers still until its new parent takes leave of it, which in a
        // container may be never; then Linux calls it a zombie.
        let is_zombie = || {
            let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
            std::fs::read_to_string(stat).is_ok_and(|text| text.contains(") Z "))
        };
        let gone = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            rustix::process::test_kill_process(pid).is_err() || is_zombie()
        });
        assert!(gone, "the grandchild still runs");
    }

    #[test]
    fn a_child_may_tidy_up_before_it_is_killed() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("tidy");
        let script = format!(
            "trap 'echo done > {}; exit' TERM; sleep 60 & wait",
            file.display()
        );
        let (end, _) = sh(&script, Some(Duration::from_millis(300)), false);
        assert_eq!(end, ProcessEnd::TimedOut);
        assert!(file.exists(), "it was killed at once");
    }

    #[test]
    fn silence_has_its_own_limit() {
        let limits = Limits {
            total: None,
            quiet: Some(Duration::from_millis(300)),
        };
        let run = |script| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            run(&mut command, limits, &Cancel::default(), false, |_, _| {}).expect("sh runs")
        };
        let chatty = "for i in 1 2 3 4 5 6; do sleep 0.1; echo $i; done";
        assert_eq!(run(chatty), ProcessEnd::Exited(Some(0)));
        assert_eq!(run("echo one; sleep 60"), ProcessEnd::TimedOut);
    }

    #[test]
    fn long_lines_are_cut_and_much_output_is_not_stored() {
        let script = "head -c 200000 /dev/zero | tr '\\0' x; echo; echo end";
        let (end, seen) = sh(script, None, false);
        assert_eq!(end, ProcessEnd::Exited(Some(0)));
        assert_eq!(seen[0].len(), LINE_LIMIT);
        assert_eq!(seen[1], "end");
    }

    #[test]
    fn cancelling_ends_the_child() {
        let cancel = Cancel::default();
        cancel.cancel();
        let result = run(
            Command::new("sleep").arg("60"),
            Limits::default(),
            &cancel,
            false,
            |_, _| {},
        );
        assert!(matches!(result, Err(ProcessError::Interrupted { .. })));
    }

    #[test]
    fn a_missing_program_is_named() {
        let result = run(
            &mut Command::new("no-such-program-here"),
            Limits::default(),
            &Cancel::default(),
            false,
            |_, _| {},
        );
        assert!(
            matches!(result, Err(ProcessError::Start { program, .. }) if program == "no-such-program-here")
        );
    }
}
