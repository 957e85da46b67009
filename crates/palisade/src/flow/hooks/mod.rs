//! Git hooks that run the guard: where they are, how they are installed beside others, and
//! which commits were made without them.

mod pre_commit;
mod pre_push;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use pre_commit::pre_commit;
pub use pre_push::{Push, PushAnswer, pre_push};

use crate::flow::check::CheckError;
use crate::flow::claims::ClaimsError;
use crate::host::git::Commit;
use crate::host::journal_entry;
use crate::host::session::{Session, SessionError};
use crate::record::{Advice, JournalEvent, Record, shell_word};

/// A hook that the guard can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Before a commit is made of what is staged.
    PreCommit,
    /// Before commits are sent elsewhere.
    PrePush,
}

impl Hook {
    /// Both, in the order in which they run.
    pub const ALL: [Self; 2] = [Self::PreCommit, Self::PrePush];

    /// How git calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::PreCommit => "pre-commit",
            Self::PrePush => "pre-push",
        }
    }

    /// How long it may take if nothing else is said.
    pub fn budget(self) -> Duration {
        match self {
            Self::PreCommit => Duration::from_secs(5),
            Self::PrePush => Duration::from_secs(90),
        }
    }
}

/// Why hooks cannot be installed or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// The folder of the hooks is outside of the repository: other repositories use it too.
    #[error("failed to install a hook in {}: core.hooksPath leads out of this repository", .0.display())]
    Shared(PathBuf),
    /// A hook cannot be read, written or moved.
    #[error("failed to use {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// What was put aside for ours is there already, and ours is not.
    #[error("failed to put {} aside: {} is there already", .from.display(), .to.display())]
    Aside {
        /// The hook of somebody else.
        from: PathBuf,
        /// Where it would be kept.
        to: PathBuf,
    },
    /// The change could not be judged.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// The claims could not be measured.
    #[error(transparent)]
    Claims(#[from] ClaimsError),
    /// The session failed: git, Cargo, the store, a run.
    #[error(transparent)]
    Session(SessionError),
}

impl<E: Into<SessionError>> From<E> for HookError {
    fn from(error: E) -> Self {
        Self::Session(error.into())
    }
}

impl HookError {
    fn inner(&self) -> Option<&dyn Advice> {
        match self {
            Self::Check(error) => Some(error),
            Self::Claims(error) => Some(error),
            Self::Session(error) => Some(error),
            _ => None,
        }
    }
}

impl Advice for HookError {
    fn is_usage(&self) -> bool {
        match self {
            Self::Shared(_) | Self::Aside { .. } => true,
            _ => self.inner().is_some_and(Advice::is_usage),
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Shared(_) => "call cargo palisade hooks run pre-commit from your own hook there",
            Self::Aside { .. } => "move one of them away, then cargo palisade hooks install",
            _ => return self.inner()?.hint(),
        };
        Some(hint.to_owned())
    }

    fn output(&self) -> Option<&str> {
        self.inner()?.output()
    }
}

/// The line by which a hook of ours is known.
const MARK: &str = "# Installed by `cargo palisade hooks install`.";

/// What the name of another hook gets that ours calls first.
const KEPT_SUFFIX: &str = ".before-palisade";

/// What installing or removing did to a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookChange {
    /// It is installed now, or is written anew.
    Installed,
    /// The same, and calls another hook first that was there.
    Chained,
    /// It is gone.
    Removed,
    /// The same, and what was there before is back.
    Restored,
    /// It was not there, or is somebody else's.
    Nothing,
}

/// Installs both hooks in the folder that git looks in, by `program`, this program's file.
/// A hook that is there is kept and called first.
pub fn install(
    session: &mut Session,
    program: &Path,
) -> Result<Vec<(PathBuf, HookChange)>, HookError> {
    let folder = folder(session)?;
    fs::create_dir_all(&folder).map_err(|source| file_error(&folder, source))?;
    let mut done = Vec::new();
    for hook in Hook::ALL {
        let path = folder.join(hook.name());
        let text = script(hook, program, &session.workspace.dir);
        done.push((path.clone(), install_one(&path, &text)?));
    }
    let head = session.repo.head()?;
    let entry = journal_entry(&head.tree, &head.id, JournalEvent::HooksInstalled);
    session.store.add(&Record::Journal(entry))?;
    Ok(done)
}

fn install_one(path: &Path, text: &str) -> Result<HookChange, HookError> {
    let kept_path = kept_path(path);
    if path.exists() && !is_ours(path) {
        if kept_path.exists() {
            return Err(HookError::Aside {
                from: path.to_owned(),
                to: kept_path,
            });
        }
        fs::rename(path, &kept_path).map_err(|source| file_error(path, source))?;
    }
    write(path, text).map_err(|source| file_error(path, source))?;
    Ok(if kept_path.exists() {
        HookChange::Chained
    } else {
        HookChange::Installed
    })
}

/// Takes both hooks away and puts back what was there before.
pub fn uninstall(session: &Session) -> Result<Vec<(PathBuf, HookChange)>, HookError> {
    let folder = folder(session)?;
    let mut done = Vec::new();
    for hook in Hook::ALL {
        let path = folder.join(hook.name());
        let what = uninstall_one(&path).map_err(|source| file_error(&path, source))?;
        done.push((path, what));
    }
    Ok(done)
}

fn uninstall_one(path: &Path) -> std::io::Result<HookChange> {
    if !path.exists() || !is_ours(path) {
        return Ok(HookChange::Nothing);
    }
    let kept_path = kept_path(path);
    if kept_path.exists() {
        fs::rename(&kept_path, path)?;
        return Ok(HookChange::Restored);
    }
    fs::remove_file(path)?;
    Ok(HookChange::Removed)
}

/// The folder that git looks for hooks in. One that other repositories share is refused.
fn folder(session: &Session) -> Result<PathBuf, HookError> {
    let folder = session.repo.hooks_folder()?;
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let homes = [session.repo.root(), session.repo.common_dir()];
    if homes
        .iter()
        .any(|home| real(&folder).starts_with(real(home)))
    {
        Ok(folder)
    } else {
        Err(HookError::Shared(folder))
    }
}

fn kept_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(KEPT_SUFFIX);
    path.with_file_name(name)
}

fn is_ours(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.lines().any(|line| line == MARK))
}

/// The hook's text. Where the program is gone from its place, the one in `PATH` is taken. Git
/// runs it in the repository's root, in which the workspace is the folder `dir`.
fn script(hook: Hook, program: &Path, dir: &str) -> String {
    let name = hook.name();
    let program = program.to_string_lossy();
    // The shell that git brings to Windows takes both, and `\\` for more than that.
    let program = if cfg!(windows) {
        program.replace('\\', "/")
    } else {
        program.into_owned()
    };
    let program = shell_word(&program);
    let mut text = format!(
        "#!/bin/sh\n{MARK}\nguard={program}\n[ -x \"$guard\" ] || guard=cargo-palisade\n\
         before=$(dirname \"$0\")/{name}{KEPT_SUFFIX}\n"
    );
    let place = match dir {
        "" => String::new(),
        dir => format!(" -C {}", shell_word(dir)),
    };
    // What git says on standard input is for both.
    let (take, give) = match hook {
        Hook::PreCommit => ("", ""),
        Hook::PrePush => ("said=$(cat)\n", "printf '%s\\n' \"$said\" | "),
    };
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "{take}if [ -x \"$before\" ]; then\n    {give}\"$before\" \"$@\" || exit\nfi\n\
         {give}\"$guard\"{place} hooks run {name}\n"
    );
    text
}

/// Writes an executable file whole, and renames it.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::Permissions::from_mode(0o755);
        file.as_file().set_permissions(mode)?;
    }
    file.persist(path).map_err(|failed| failed.error)?;
    Ok(())
}

fn file_error(path: &Path, source: std::io::Error) -> HookError {
    HookError::File {
        path: path.to_owned(),
        source,
    }
}

/// Records that a hook judged a tree.
pub fn record_run(
    session: &mut Session,
    hook: Hook,
    tree: &str,
    commit: &str,
    exit_code: u8,
) -> Result<(), HookError> {
    let event = JournalEvent::HookRan {
        hook: hook.name().to_owned(),
        exit_code,
    };
    let entry = journal_entry(tree, commit, event);
    session.store.add(&Record::Journal(entry))?;
    Ok(())
}

/// The commits that were made in this working tree since the hooks were installed and that
/// the pre-commit hook did not let through; each is told, and remembered, once.
pub fn bypassed(session: &mut Session) -> Result<Vec<Commit>, HookError> {
    let journal = session.store.journal()?;
    let hook = Hook::PreCommit.name();
    let installed = journal
        .iter()
        .filter(|entry| entry.event == JournalEvent::HooksInstalled)
        .map(|entry| entry.at_ms)
        .next_back();
    let Some(installed) = installed else {
        return Ok(Vec::new());
    };
    let passed: BTreeSet<&str> = journal
        .iter()
        .filter(|entry| {
            matches!(&entry.event, JournalEvent::HookRan { hook: ran, exit_code: 0 } if ran == hook)
        })
        .map(|entry| entry.tree.as_str())
        .collect();
    let told: BTreeSet<&str> = journal
        .iter()
        .filter(|entry| matches!(entry.event, JournalEvent::HookBypassed { .. }))
        .map(|entry| entry.commit.as_str())
        .collect();
    let made = session.repo.local_commits_since(installed)?;
    let bypassed: Vec<Commit> = made
        .into_iter()
        .filter(|commit| {
            !passed.contains(commit.tree.as_str()) && !told.contains(commit.id.as_str())
        })
        .collect();
    for commit in &bypassed {
        let event = JournalEvent::HookBypassed {
            hook: hook.to_owned(),
        };
        let entry = journal_entry(&commit.tree, &commit.id, event);
        session.store.add(&Record::Journal(entry))?;
    }
    Ok(bypassed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_runs_in_the_folder_of_the_workspace() {
        let text = |dir| script(Hook::PreCommit, Path::new("/bin/guard"), dir);
        let last = |dir| text(dir).lines().last().map(str::to_owned);
        assert_eq!(last("").as_deref(), Some("\"$guard\" hooks run pre-commit"));
        assert_eq!(
            last("the rust").as_deref(),
            Some("\"$guard\" -C 'the rust' hooks run pre-commit")
        );
    }
}
