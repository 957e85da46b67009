//! Runs one process and says what it took: time, processor time, peak memory.
//!
//! The process is not started by the guard itself but by a *launcher*: the program
//! started once more, with one word and a description ([`serve`]). There are two
//! reasons. Linux counts as a process's peak memory whatever its parent held when
//! it was started, so the parent must be small; and a peak taken over all children
//! (`RUSAGE_CHILDREN`) is a running maximum in which the second of two processes
//! cannot be smaller than the first. The launcher has one child, and its own pages
//! are few. It is also what a clock is read in, so that the guard's own threads
//! are not part of what is measured.

use std::ffi::{OsStr, OsString};
use std::fs;
#[cfg(target_os = "linux")]
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wait4::Wait4 as _;

use super::machine;
use crate::host::process::{self, Cancel, Group, Limits, ProcessEnd, ProcessError, Stream, Tail};

/// The first argument that makes the program a launcher.
pub const LAUNCH_WORD: &str = "launch-and-measure";

/// Whether a process can be slowed down on purpose here, by stopping it again and again:
/// not on Windows.
pub const CAN_SLOW_DOWN: bool = cfg!(unix);

/// The variable that makes the environment block longer or shorter.
const PADDING: &str = "PALISADE_PADDING";

/// The longest padding, in bytes. Where the stack begins, and with it the alignment
/// of what is on it, follows the size of the environment.
const MOST_PADDING: usize = 4096;

/// The most that is kept of what a process prints.
const OUTPUT_LIMIT: usize = 4 << 20;

/// Why a process was not measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// A child process could not be started or was interrupted.
    #[error("failed to run a child process")]
    Process(#[from] ProcessError),
    /// The process cannot be started.
    #[error("failed to start {program:?}: {message}")]
    Start {
        /// The program.
        program: String,
        /// What the operating system said.
        message: String,
    },
    /// The launcher ended without an answer.
    #[error(
        "failed to read what {program:?} took: its launcher ended without an answer ({end}): {output}"
    )]
    Silent {
        /// The program.
        program: String,
        /// How the launcher ended.
        end: String,
        /// The end of what it said.
        output: String,
    },
    /// A file for the launcher's answer cannot be made.
    #[error("failed to make a temporary file")]
    Temporary(#[source] std::io::Error),
    /// A process cannot be slowed down on purpose: see [`CAN_SLOW_DOWN`].
    #[error("failed to slow {program:?} down: this system cannot stop a process for a while")]
    NoSlowdown {
        /// The program.
        program: String,
    },
    /// The process ended in a way that says nothing about its speed.
    #[error("failed to run `{command}`: it {end}")]
    Failed {
        /// The command.
        command: String,
        /// How it ended.
        end: String,
        /// The end of what it said.
        output: String,
    },
}

impl LaunchError {
    /// Whether the user ended it.
    pub fn is_interrupt(&self) -> bool {
        matches!(self, Self::Process(ProcessError::Interrupted { .. }))
    }
}

/// What is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// The folder to run it in.
    pub dir: PathBuf,
    /// Variables to set.
    pub variables: Vec<(OsString, OsString)>,
}

impl Program {
    /// The command as a line, for messages.
    pub fn shown(&self) -> String {
        let words = std::iter::once(self.program.as_os_str());
        let words = words.chain(self.args.iter().map(OsString::as_os_str));
        words
            .map(OsStr::to_string_lossy)
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// How a process is run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Conditions {
    /// The processor to run on; any if `None`.
    pub core: Option<usize>,
    /// By how much it is slowed down, such as 0.05 for 5 %.
    pub slowdown: f64,
    /// A number that the size of its environment is made from.
    pub seed: u64,
    /// How long it may take.
    pub limit: Option<Duration>,
}

/// What a process took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// From its start to its end, in nanoseconds.
    pub wall_ns: u64,
    /// Of that, how long its first thread was ready to run and had to wait for a
    /// processor; `None` where the system does not say (it does on Linux).
    pub waited_ns: Option<u64>,
    /// Processor time in user mode, of it and the children it waited for; on Windows of it
    /// alone.
    pub user_ns: u64,
    /// Processor time in the kernel.
    pub system_ns: u64,
    /// The most memory that it, or one of the children it waited for, held at a
    /// time, in bytes: the peak resident set; on Windows the peak working set of it alone.
    /// `None` where the system does not say.
    pub peak_bytes: Option<u64>,
    /// How long it was stopped on purpose. What a busy machine added to that is not
    /// part of this, nor of `wall_ns`.
    pub stopped_ns: u64,
    /// Whether the system was willing to let it run before other work.
    pub has_priority: bool,
}

/// A process that was run.
#[derive(Clone, Debug)]
pub struct Launched {
    /// What it took.
    pub usage: Usage,
    /// What it printed on standard output, up to a limit.
    pub out: String,
}

/// The program that measures: see [`serve`].
#[derive(Clone, Debug)]
pub struct Launcher(PathBuf);

#[derive(Debug, Serialize, Deserialize)]
struct LaunchOrder {
    program: PathBuf,
    args: Vec<OsString>,
    answer: PathBuf,
    core: Option<usize>,
    slowdown: f64,
}

#[derive(Debug, Serialize, Deserialize)]
enum LaunchAnswer {
    Ran(Usage, Option<i32>),
    NotStarted(String),
}

impl Launcher {
    /// A program whose `main` begins with [`serve`].
    pub fn new(program: PathBuf) -> Self {
        Self(program)
    }

    /// Runs a process to its end. One that fails is an error: it may have ended early.
    pub fn run(
        &self,
        program: &Program,
        conditions: &Conditions,
        cancel: &Cancel,
    ) -> Result<Launched, LaunchError> {
        if conditions.slowdown > 0.0 && !CAN_SLOW_DOWN {
            let program = program.program.to_string_lossy().into_owned();
            return Err(LaunchError::NoSlowdown { program });
        }
        let answer = tempfile::NamedTempFile::new().map_err(LaunchError::Temporary)?;
        let order = LaunchOrder {
            program: program.program.clone(),
            args: program.args.clone(),
            answer: answer.path().to_owned(),
            core: conditions.core,
            slowdown: conditions.slowdown,
        };
        let order = serde_json::to_string(&order).map_err(|e| LaunchError::Temporary(e.into()))?;
        let mut command = Command::new(&self.0);
        command
            .args([LAUNCH_WORD, &order])
            .current_dir(&program.dir)
            .env(PADDING, "x".repeat(conditions.seed as usize % MOST_PADDING))
            .envs(program.variables.iter().map(|(name, value)| (name, value)));
        let limits = Limits {
            total: conditions.limit,
            quiet: None,
        };
        let (mut out, mut said) = (String::new(), Tail::default());
        // The launcher makes itself the head of a session.
        let end = process::run_in(
            Group::Session,
            &mut command,
            limits,
            cancel,
            false,
            |stream, line| {
                said.push(line);
                if stream == Stream::Out && out.len() < OUTPUT_LIMIT {
                    out.push_str(&String::from_utf8_lossy(line));
                    out.push('\n');
                }
            },
        )?;
        let failed = |end: String| LaunchError::Failed {
            command: program.shown(),
            end,
            output: said.text(),
        };
        if end == ProcessEnd::TimedOut {
            return Err(failed("ran past its time".to_owned()));
        }
        let name = || program.program.to_string_lossy().into_owned();
        let text = fs::read(answer.path()).map_err(LaunchError::Temporary)?;
        match serde_json::from_slice(&text) {
            Ok(LaunchAnswer::Ran(usage, Some(0))) => Ok(Launched { usage, out }),
            Ok(LaunchAnswer::Ran(_, Some(code))) => {
                Err(failed(format!("ended with {}", process::exit_code(code))))
            }
            Ok(LaunchAnswer::Ran(_, None)) => Err(failed("was ended by a signal".to_owned())),
            Ok(LaunchAnswer::NotStarted(message)) => Err(LaunchError::Start {
                program: name(),
                message,
            }),
            Err(_) => Err(LaunchError::Silent {
                program: name(),
                end: format!("{end:?}"),
                output: said.text(),
            }),
        }
    }
}

/// Makes a program a launcher, if it was started as one: runs what it is told to run
/// and writes what that took. To be called before anything else in `main`, while the
/// program holds little memory.
pub fn serve() -> Option<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    if words.next()? != LAUNCH_WORD {
        return None;
    }
    let order = words.next()?;
    let Ok(order) = serde_json::from_slice::<LaunchOrder>(order.as_encoded_bytes()) else {
        return Some(ExitCode::FAILURE);
    };
    let answer = match measure(&order) {
        Ok((usage, code)) => LaunchAnswer::Ran(usage, code),
        Err(error) => LaunchAnswer::NotStarted(error.to_string()),
    };
    let written = serde_json::to_vec(&answer)
        .map_err(std::io::Error::from)
        .and_then(|text| fs::write(&order.answer, text));
    Some(if written.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn measure(order: &LaunchOrder) -> std::io::Result<(Usage, Option<i32>)> {
    let has_priority = raise_priority();
    let all = machine::cores();
    if let Some(core) = order.core {
        machine::run_on(&[core])?;
    }
    let mut command = command_of(order);
    // To set the group that is set already makes the standard library fork instead of
    // sharing its memory with the child until that starts its program. A forked child
    // begins with the few pages that the launcher wrote to, instead of all its pages.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::gid(&mut command, rustix::process::getegid().as_raw());
    let mut started = Instant::now();
    let child = match command.spawn() {
        // In a user namespace that has no number for the group, it cannot be set.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
            let mut plain = command_of(order);
            started = Instant::now();
            plain.spawn()?
        }
        spawned => spawned?,
    };
    // The launcher itself keeps out of its way. It sleeps where it cannot.
    if order.core.is_some() {
        let _ = machine::run_on(&all);
    }
    let id = child.id();
    let is_over = AtomicBool::new(false);
    let (wall, waited, used, stopped) = std::thread::scope(|scope| {
        let holding =
            (order.slowdown > 0.0).then(|| scope.spawn(|| inject_slowdown(id, order, &is_over)));
        let has_waited = wait_for_end(id);
        let wall = started.elapsed();
        let waited = sched_stat(id).map(|sched_stat| sched_stat.waited);
        is_over.store(true, Ordering::Relaxed);
        // Only now may the process's number be given to another.
        let stopped = holding.map_or(Ok(Duration::ZERO), std::thread::ScopedJoinHandle::join);
        let used = child.wait4();
        // Where there is no waiting without taking leave, that was the end.
        let wall = if has_waited { wall } else { started.elapsed() };
        (wall, waited, used, stopped.unwrap_or_default())
    });
    let used = used?;
    let computed = used.rusage.utime + used.rusage.stime;
    let stopped_too_long = stopped.saturating_sub(computed.mul_f64(order.slowdown));
    let wall = wall.saturating_sub(stopped_too_long);
    let stopped = stopped.saturating_sub(stopped_too_long);
    let nanos = |time: Duration| time.as_nanos() as u64;
    let usage = Usage {
        wall_ns: nanos(wall),
        waited_ns: waited.map(nanos),
        user_ns: nanos(used.rusage.utime),
        system_ns: nanos(used.rusage.stime),
        peak_bytes: (used.rusage.maxrss > 0).then_some(used.rusage.maxrss),
        stopped_ns: nanos(stopped),
        has_priority,
    };
    Ok((usage, used.status.code()))
}

fn command_of(order: &LaunchOrder) -> Command {
    let mut command = Command::new(&order.program);
    command.args(&order.args).stdin(Stdio::null());
    command
}

/// Waits until a process ended, and leaves it to be taken leave of; false where there
/// is no such waiting.
#[cfg(unix)]
fn wait_for_end(id: u32) -> bool {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) else {
        return false;
    };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while let Err(error) = waitid(WaitId::Pid(pid), options) {
        if error != rustix::io::Errno::INTR {
            return false;
        }
    }
    true
}

#[cfg(not(unix))]
fn wait_for_end(_id: u32) -> bool {
    false
}

/// What Linux says in `schedstat` about a process's first thread.
struct SchedStat {
    /// How long it ran.
    #[cfg_attr(not(unix), expect(dead_code, reason = "nothing is slowed down there"))]
    ran: Duration,
    /// How long it was ready to run and waited.
    waited: Duration,
}

fn sched_stat(id: u32) -> Option<SchedStat> {
    let text = fs::read_to_string(format!("/proc/{id}/schedstat")).ok()?;
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    let mut next = || Some(Duration::from_nanos(numbers.next()?.ok()?));
    Some(SchedStat {
        ran: next()?,
        waited: next()?,
    })
}

/// Asks that the process be let run before other work; whether it is. Linux shares
/// processors between sessions first, so it gets one of its own.
#[cfg(target_os = "linux")]
fn raise_priority() -> bool {
    const HIGHEST: i32 = -20;
    let has_own_session = rustix::process::setsid().is_ok();
    let of_session =
        has_own_session && fs::write("/proc/self/autogroup", HIGHEST.to_string()).is_ok();
    let of_process = rustix::process::setpriority_process(None, HIGHEST).is_ok();
    // Without sharing between sessions there is no such file.
    of_process && (of_session || !std::path::Path::new("/proc/self/autogroup").exists())
}

#[cfg(not(target_os = "linux"))]
fn raise_priority() -> bool {
    false
}

/// How long a process is stopped at a time. Shorter stops follow each other more evenly,
/// so that each sample of a benchmark has its share of them; timers are as exact as this.
#[cfg(unix)]
const STOP: Duration = Duration::from_micros(100);

/// How long one that runs takes at most to follow a signal. It does not compute then.
/// (Most of a longer time it waited for a processor.)
#[cfg(unix)]
const STOP_LATENCY: Duration = Duration::from_micros(30);

/// What it takes until it computes as before, with the processor's caches filled again:
/// measured on an EPYC at slowdowns of 5 and 10 %.
#[cfg(unix)]
const RESUME_COST: Duration = Duration::from_micros(20);

/// Stops a process again and again, for `share` of the time that it runs, until `is_over`.
/// Stops that turn out too long or too short are made up for by the next ones.
/// Returns how long it was stopped.
#[cfg(unix)]
fn inject_slowdown(id: u32, order: &LaunchOrder, is_over: &AtomicBool) -> Duration {
    use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
    let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) else {
        return Duration::ZERO;
    };
    let share = order.slowdown;
    // Slower code would not leave its processor to others meanwhile: where the process
    // has one of its own, this thread computes in its place.
    let takes_its_place = order
        .core
        .is_some_and(|core| machine::run_on(&[core]).is_ok());
    // Timers may be late by 50 µs where nobody asks for better.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let started = Instant::now();
    let mut stopped = Duration::ZERO;
    // How long it had run when it was last let go on: the system counts that up to date
    // only when it stops. Until then it may have run all the time.
    let (mut ran, mut since) = (Duration::ZERO, started);
    while !is_over.load(Ordering::Relaxed) {
        let owes = |ran: Duration| ran.mul_f64(share).saturating_sub(stopped);
        let owed = owes(ran + since.elapsed());
        if owed < STOP {
            let until = STOP.saturating_sub(owed).div_f64(share);
            std::thread::sleep(until.min(Duration::from_millis(20)));
            continue;
        }
        let asked = Instant::now();
        if kill_process(pid, Signal::STOP).is_err() {
            break;
        }
        // One that waits for a processor stops when it is given one. It may also end.
        let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let _ = waitid(WaitId::Pid(pid), options);
        let stop = Instant::now();
        let followed = asked.elapsed().min(STOP_LATENCY);
        let passed = || started.elapsed().saturating_sub(stopped);
        ran = sched_stat(id).map_or_else(passed, |sched_stat| sched_stat.ran);
        let owed = owes(ran).saturating_sub(followed + RESUME_COST);
        if takes_its_place {
            while stop.elapsed() < owed {
                std::hint::spin_loop();
            }
        } else {
            std::thread::sleep(owed);
        }
        stopped += stop.elapsed() + followed + RESUME_COST;
        since = Instant::now();
        // It is our child: it can be signalled until it is taken leave of.
        let _ = kill_process(pid, Signal::CONT);
    }
    stopped
}

#[cfg(not(unix))]
fn inject_slowdown(_id: u32, _order: &LaunchOrder, _is_over: &AtomicBool) -> Duration {
    Duration::ZERO
}
