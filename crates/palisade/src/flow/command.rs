//! A command that says whether all is well with a revision.

use std::process::Command;

use crate::bisect::CommitObservation;
use crate::host::git::remove_hook_variables;
use crate::host::process::{self, Limits, ProcessEnd, Tail};
use crate::host::run::{Progress, RunError};
use crate::host::session::{Event, Events, Revision, Session, SessionError};

/// The exit code by which a command says that nothing can be said, as for `git bisect run`.
const SKIP: i32 = 125;

/// What a command says of a revision.
pub(crate) struct CommandResult {
    /// Whether all is well.
    pub(crate) seen: CommitObservation,
    /// Why nothing can be said.
    pub(crate) why: Option<String>,
    /// The end of what it printed.
    pub(crate) output: String,
}

/// Runs a command in a revision's checkout, once.
pub(crate) fn run_command(
    session: &Session,
    revision: &mut Revision,
    words: &[String],
    events: Events<'_>,
) -> Result<CommandResult, SessionError> {
    let root = revision.root(session, events)?;
    let mut command = Command::new(&words[0]);
    remove_hook_variables(&mut command)
        .args(&words[1..])
        .current_dir(root);
    if let Some(target) = revision.location(session).target {
        command.env("CARGO_TARGET_DIR", target);
    }
    let limits = Limits {
        total: Some(session.policy.run.run_time_out.0),
        quiet: None,
    };
    let mut said = Tail::default();
    let end = process::run(&mut command, limits, session.cancel(), true, |_, line| {
        said.push(line);
        let line = String::from_utf8_lossy(line).trim().to_owned();
        events(Event::Progress(Progress::Building(line)));
    });
    let (seen, why) = match end.map_err(RunError::from)? {
        ProcessEnd::Exited(Some(0)) => (CommitObservation::Good, None),
        ProcessEnd::Exited(Some(SKIP)) => {
            let why = format!("the command ended with {SKIP}");
            (CommitObservation::Skip, Some(why))
        }
        ProcessEnd::Exited(_) | ProcessEnd::TimedOut => (CommitObservation::Bad, None),
    };
    let output = said.text();
    Ok(CommandResult { seen, why, output })
}
