//! A child and everything that it starts, which are ended together.

use std::process::{ChildStderr, ChildStdout, Command, ExitStatus};

#[cfg(unix)]
pub(super) use group::ProcessTree;
#[cfg(windows)]
pub(super) use job::{NEW_PROCESS_GROUP, ProcessTree};

/// On Unix: a process group. Its head is the child.
#[cfg(unix)]
mod group {
    use std::process::Child;

    use rustix::process::{Pid, Signal, kill_process_group};

    use super::{ChildStderr, ChildStdout, Command, ExitStatus};

    /// A running child, and the group that it leads.
    pub(crate) struct ProcessTree(Child);

    impl ProcessTree {
        /// Starts a command that leads a group, or makes itself lead one.
        pub(crate) fn spawn(command: &mut Command) -> std::io::Result<Self> {
            command.spawn().map(Self)
        }

        pub(crate) fn stdout(&mut self) -> Option<ChildStdout> {
            self.0.stdout.take()
        }

        pub(crate) fn stderr(&mut self) -> Option<ChildStderr> {
            self.0.stderr.take()
        }

        /// How the child ended, if it did.
        pub(crate) fn try_wait(&mut self) -> std::io::Result<Option<ExitStatus>> {
            self.0.try_wait()
        }

        /// Waits for the child's end.
        pub(crate) fn wait(&mut self) -> std::io::Result<ExitStatus> {
            self.0.wait()
        }

        /// Lets all of the group tidy up and end.
        pub(crate) fn ask_to_end(&mut self) {
            self.signal(Signal::TERM);
        }

        /// Ends all of the group at once.
        pub(crate) fn kill(&mut self) {
            self.signal(Signal::KILL);
        }

        fn signal(&self, signal: Signal) {
            if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
                // The group is often gone by now, which is what was asked for.
                let _ = kill_process_group(group, signal);
            }
        }
    }
}

/// On Windows: a job object. The child is put into it before it runs its first instruction,
/// and whatever a process of the job starts is in it too.
#[cfg(windows)]
mod job {
    use std::time::Duration;

    use process_wrap::std::{ChildWrapper, CommandWrap, CreationFlags, JobObject};

    use super::{ChildStderr, ChildStdout, Command, ExitStatus};

    /// `CREATE_NEW_PROCESS_GROUP`: Ctrl-C in the console does not reach the process.
    pub(crate) const NEW_PROCESS_GROUP: u32 = 0x200;

    /// How often [`ProcessTree::wait`] looks.
    const LOOK: Duration = Duration::from_millis(5);

    /// A running child, and the job that it is in.
    pub(crate) struct ProcessTree(Box<dyn ChildWrapper>);

    impl ProcessTree {
        /// Starts a command in a job of its own.
        pub(crate) fn spawn(command: &mut Command) -> std::io::Result<Self> {
            let mut flags = CreationFlags(Default::default());
            flags.0.0 = NEW_PROCESS_GROUP;
            // The caller goes on using the command: it says what it was in messages.
            let mut wrap = CommandWrap::from(std::mem::replace(command, Command::new("")));
            let child = wrap.wrap(flags).wrap(JobObject).spawn();
            *command = wrap.into_command();
            child.map(Self)
        }

        pub(crate) fn stdout(&mut self) -> Option<ChildStdout> {
            self.0.stdout().take()
        }

        pub(crate) fn stderr(&mut self) -> Option<ChildStderr> {
            self.0.stderr().take()
        }

        /// How the child ended, if it did.
        pub(crate) fn try_wait(&mut self) -> std::io::Result<Option<ExitStatus>> {
            self.0.try_wait()
        }

        /// Waits for the child's end. (The wrapper's own `wait` also waits for the job's next
        /// message, and there may be none.)
        pub(crate) fn wait(&mut self) -> std::io::Result<ExitStatus> {
            loop {
                if let Some(status) = self.try_wait()? {
                    return Ok(status);
                }
                std::thread::sleep(LOOK);
            }
        }

        /// Windows has no way to ask that every program understands: a job is ended at once.
        pub(crate) fn ask_to_end(&mut self) {
            self.kill();
        }

        /// Ends all of the job.
        pub(crate) fn kill(&mut self) {
            // It is often gone by now, which is what was asked for.
            let _ = self.0.start_kill();
        }
    }
}
