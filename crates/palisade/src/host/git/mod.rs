//! What git knows: commits, the exact content of the working tree, the change
//! between two trees, and checkouts of other commits beside the user's own.
//!
//! The user's files, index and object database are never written to. The content
//! of the working tree is hashed by git itself through a copy of the index, with
//! new objects in a temporary folder; another commit is checked out in a linked
//! worktree outside the repository, so that no configuration file of the user's
//! tree (`.cargo/config.toml`, `rust-toolchain.toml`) is found from inside it.

mod ancestry;
mod base;
mod batch;
pub mod cache;
mod diff;
mod revert;
#[cfg(test)]
mod tests;
mod worktree;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub use base::PULL_REQUEST_TARGETS;
use batch::Batch;
pub use revert::Reverted;
pub use worktree::Worktree;

use crate::hash::short;
use crate::host::process::in_own_process_group;
use crate::record::{Advice, shell_word};

/// Why git gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GitError {
    /// The program `git` cannot be started.
    #[error("failed to start git")]
    Start(#[source] std::io::Error),
    /// The folder is in no git repository.
    #[error("failed to find a git repository at {}", .0.display())]
    NotARepository(PathBuf),
    /// Git refuses to read the repository, such as one of another user's.
    #[error("failed to read the git repository at {}: {message}", .dir.display())]
    Refused {
        /// The folder.
        dir: PathBuf,
        /// What git says, in one line.
        message: String,
        /// The command by which git says that this is mended.
        mend: Option<String>,
    },
    /// A submodule does not have the commit that is asked for.
    #[error("failed to check out commit {commit} of the submodule {path}, which is not in it")]
    Submodule {
        /// Its path.
        path: String,
        /// The commit.
        commit: String,
    },
    /// The repository has no commit.
    #[error("failed to find a commit in {}: the repository is empty", .0.display())]
    NoCommit(PathBuf),
    /// A revision names no commit of this repository.
    #[error("failed to find revision {revision:?} in this repository{}", if *.shallow { " (a shallow clone)" } else { "" })]
    UnknownRevision {
        /// What was asked for.
        revision: String,
        /// Whether the history was cut when the repository was cloned.
        shallow: bool,
    },
    /// A git command failed.
    #[error("failed to run `git {command}`: {message}")]
    Failed {
        /// The subcommand and its arguments.
        command: String,
        /// What git printed.
        message: String,
    },
    /// A branch of that name does something else.
    #[error("failed to make the branch {branch:?}: there is one that does something else")]
    BranchExists {
        /// The branch.
        branch: String,
    },
    /// A file or folder beside the repository cannot be written.
    #[error("failed to write {}", .path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
}

impl Advice for GitError {
    fn is_usage(&self) -> bool {
        !matches!(self, Self::Submodule { .. }) && self.hint().is_some()
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Refused { mend, .. } => return mend.clone(),
            Self::Submodule { path, commit } => {
                return Some(format!("git -C {} fetch origin {commit}", shell_word(path)));
            }
            Self::NotARepository(_) => "git init && git add . && git commit",
            Self::NoCommit(_) => "git add . && git commit",
            Self::BranchExists { .. } => "git branch --move that branch to another name",
            Self::UnknownRevision { shallow: true, .. } => "git fetch --unshallow",
            Self::UnknownRevision { shallow: false, .. } => {
                "git fetch --all, or git branch --all to see what there is"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// A commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The full hash.
    pub id: String,
    /// The hash of its content.
    pub tree: String,
    /// The first line of its message.
    pub subject: String,
}

impl Commit {
    /// The hash as people write it.
    pub fn short(&self) -> &str {
        short(&self.id)
    }
}

/// A git repository and its working tree.
#[derive(Debug)]
pub struct Repo {
    root: PathBuf,
    index: PathBuf,
    objects: PathBuf,
    common_dir: PathBuf,
    /// The patterns of a sparse checkout, if it is one.
    sparse: Option<String>,
    /// Folders outside of it that checkouts have to find where they are from here.
    outside: BTreeSet<PathBuf>,
    /// How large all checkouts may be together with what is built from them.
    cache_limit: Option<u64>,
    // Ended before the folder that it reads from is removed.
    batch: Batch,
    scratch: tempfile::TempDir,
}

/// Variables by which git tells a hook's children about the repository. They
/// would send every git command below, and those of the tests, to the wrong place.
const HOOK_VARIABLES: [&str; 6] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_PREFIX",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
];

/// Takes the variables of a surrounding git hook out of a command's environment.
pub fn remove_hook_variables(command: &mut Command) -> &mut Command {
    for variable in HOOK_VARIABLES {
        command.env_remove(variable);
    }
    command
}

/// Git, as if no hook were around it; an interrupt of ours does not end it half-way.
fn git() -> Command {
    let mut command = Command::new("git");
    remove_hook_variables(in_own_process_group(&mut command));
    // Checkouts lie deep in the user's cache: longer paths than Windows used to take.
    command.args(["-c", "core.longPaths=true"]);
    command
}

impl Repo {
    /// Finds the repository that holds `dir`.
    pub fn discover(dir: &Path) -> Result<Self, GitError> {
        let output = in_own_process_group(&mut Command::new("git"))
            .current_dir(dir)
            .args(["rev-parse", "--path-format=absolute", "--show-toplevel"])
            .args(["--git-path", "index", "--git-path", "objects"])
            .args(["--git-path", "info/sparse-checkout", "--git-common-dir"])
            // What it says is read.
            .env("LC_ALL", "C")
            .output()
            .map_err(GitError::Start)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = text.lines().map(PathBuf::from);
        let not_a_repository = || {
            let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
            GitError::NotARepository(dir)
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(refusal(dir, &said).unwrap_or_else(not_a_repository));
        }
        let mut next = || lines.next().ok_or_else(not_a_repository);
        let (root, index, objects) = (next()?, next()?, next()?);
        let (patterns, common_dir) = (next()?, next()?);
        let scratch = tempfile::tempdir().map_err(|source| GitError::Write {
            path: std::env::temp_dir(),
            source,
        })?;
        let mut repo = Self {
            root,
            index,
            objects,
            common_dir,
            sparse: None,
            outside: BTreeSet::new(),
            cache_limit: None,
            batch: Batch::default(),
            scratch,
        };
        repo.prepare_scratch()?;
        // The patterns stay where a checkout is whole again.
        if let Ok(patterns) = fs::read_to_string(patterns) {
            let is_sparse = repo.text(&["config", "--type=bool", "core.sparseCheckout"]);
            repo.sparse = is_sparse.is_ok_and(|is| is == "true").then_some(patterns);
        }
        Ok(repo)
    }

    fn prepare_scratch(&self) -> Result<(), GitError> {
        let objects = self.scratch.path().join("objects");
        let result = fs::create_dir(&objects).and_then(|()| {
            if self.index.exists() {
                let copy = self.scratch.path().join("index");
                fs::copy(&self.index, &copy)?;
                // Files as young as the index are hashed again by git, so the
                // copy must not look younger than the index is.
                let age = fs::metadata(&self.index)?.modified()?;
                File::options()
                    .append(true)
                    .open(&copy)?
                    .set_modified(age)?;
            }
            Ok(())
        });
        result.map_err(|source| GitError::Write {
            path: objects,
            source,
        })
    }

    /// The root of the working tree.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Lets checkouts find these folders outside of the repository where they are from here.
    pub fn link_outside(&mut self, folders: &BTreeSet<PathBuf>) {
        self.outside.clone_from(folders);
    }

    /// Limits how large all checkouts may be together, those of other repositories too. It is
    /// looked at before each new one.
    pub fn limit_cache(&mut self, bytes: u64) {
        self.cache_limit = Some(bytes);
    }

    /// The commit a revision names.
    pub fn resolve(&self, revision: &str) -> Result<Commit, GitError> {
        let peeled = format!("{revision}^{{commit}}");
        let mut verified = self.command(&[
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            &peeled,
        ]);
        let output = verified.output().map_err(GitError::Start)?;
        if !output.status.success() {
            return Err(GitError::UnknownRevision {
                revision: revision.to_owned(),
                shallow: self.is_shallow(),
            });
        }
        let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let shown = self.text(&["show", "-s", "--format=%T%n%s", &id])?;
        let (tree, subject) = shown.split_once('\n').unwrap_or((&shown, ""));
        Ok(Commit {
            tree: tree.trim_end().to_owned(),
            subject: subject.trim_end().to_owned(),
            id,
        })
    }

    /// The commit that is checked out.
    pub fn head(&self) -> Result<Commit, GitError> {
        self.resolve("HEAD").map_err(|error| match error {
            GitError::UnknownRevision { .. } => GitError::NoCommit(self.root.clone()),
            other => other,
        })
    }

    /// The branch that is checked out; `None` on a detached HEAD.
    pub fn branch(&self) -> Option<String> {
        self.text(&["symbolic-ref", "--quiet", "--short", "HEAD"])
            .ok()
    }

    /// The name that the user commits under, if one is set.
    pub fn user_name(&self) -> Option<String> {
        let name = self.text(&["config", "user.name"]).ok()?;
        (!name.is_empty()).then_some(name)
    }

    /// The user as commits name them: `Name <address>`.
    pub fn user(&self) -> Option<String> {
        let address = self.text(&["config", "user.email"]).unwrap_or_default();
        self.user_name().map(|name| format!("{name} <{address}>"))
    }

    /// Who wrote the commits of `candidate` that `base` does not have, as `Name <address>`.
    pub fn authors(&self, base: &str, candidate: &str) -> Result<BTreeSet<String>, GitError> {
        let range = format!("{base}..{candidate}");
        let listed = self.text(&["log", "--format=%an <%ae>", &range])?;
        Ok(listed.lines().map(str::to_owned).collect())
    }

    /// The folder that git looks for hooks in, as the user's settings name it.
    pub fn hooks_folder(&self) -> Result<PathBuf, GitError> {
        let args = ["rev-parse", "--path-format=absolute", "--git-path", "hooks"];
        let output = git()
            .current_dir(&self.root)
            .args(args)
            .output()
            .map_err(GitError::Start)?;
        checked(&args, &output).map(PathBuf::from)
    }

    /// The folder that all working trees of the repository share.
    pub fn common_dir(&self) -> &Path {
        &self.common_dir
    }

    /// The commits that `git commit` made in this working tree since a time, newest first;
    /// not those of others, nor what a rebase or a merge made.
    pub fn local_commits_since(&self, since_ms: i64) -> Result<Vec<Commit>, GitError> {
        let format = "--format=%ct %H %T %gs%x09%s";
        // Without a log there is nothing to tell.
        let Ok(listed) = self.text(&["log", "--walk-reflogs", "--max-count=200", format, "HEAD"])
        else {
            return Ok(Vec::new());
        };
        let commit = |line: &str| {
            let (entry, subject) = line.split_once('\t')?;
            let mut fields = entry.splitn(4, ' ');
            let at: i64 = fields.next()?.parse().ok()?;
            let (id, tree, done) = (fields.next()?, fields.next()?, fields.next()?);
            let is_made = done.starts_with("commit:") || done.starts_with("commit (amend):");
            // Times of commits are whole seconds.
            (is_made && (at + 1) * 1000 > since_ms).then(|| Commit {
                id: id.to_owned(),
                tree: tree.to_owned(),
                subject: subject.to_owned(),
            })
        };
        Ok(listed.lines().filter_map(commit).collect())
    }

    /// The URL of the remote `origin`, if there is one.
    pub fn remote_url(&self) -> Option<String> {
        self.text(&["remote", "get-url", "origin"]).ok()
    }

    /// Whether the history ends where the clone was cut off.
    pub fn is_shallow(&self) -> bool {
        self.common_dir.join("shallow").exists()
    }

    /// A commit and those before it, newest first, as far as `limit` goes; of a merge the
    /// first parent only.
    pub fn ancestors(&self, of: &str, limit: u32) -> Result<Vec<Commit>, GitError> {
        let count = format!("--max-count={limit}");
        let format = "--format=%H %T %s";
        let listed = self.text(&["log", "--first-parent", &count, format, of])?;
        let commit = |line: &str| {
            let mut fields = line.splitn(3, ' ');
            Some(Commit {
                id: fields.next()?.to_owned(),
                tree: fields.next()?.to_owned(),
                subject: fields.next().unwrap_or_default().to_owned(),
            })
        };
        Ok(listed.lines().filter_map(commit).collect())
    }

    /// The patterns of a sparse checkout: which files of a commit are in the working tree, and in
    /// checkouts beside it. `None` if all of them are.
    pub fn sparse_patterns(&self) -> Option<&str> {
        self.sparse.as_deref()
    }

    /// The content of the working tree as it is now: tracked files with their
    /// changes, and new files that git does not ignore. What a sparse checkout leaves out is as
    /// in the index.
    pub fn working_tree(&self) -> Result<String, GitError> {
        self.add_all()?;
        self.text(&["write-tree"])
    }

    /// Takes the working tree into our index.
    fn add_all(&self) -> Result<(), GitError> {
        // Git refuses new files outside of a sparse checkout, to keep the user from losing them.
        let sparse = self.sparse.as_ref().map(|_| "--sparse");
        let args: Vec<&str> = ["add", "--all"].into_iter().chain(sparse).collect();
        self.text(&[args.as_slice(), &["--", "."]].concat())
            .map(drop)
    }

    /// The content of the index: what would be committed now.
    pub fn staged_tree(&self) -> Result<String, GitError> {
        self.text(&["write-tree"])
    }

    /// A tree without some of its files; `None` if none of them is in it.
    pub fn tree_without(&self, tree: &str, paths: &[String]) -> Result<Option<String>, GitError> {
        let mut args = vec!["update-index", "--force-remove", "--"];
        for path in paths {
            args.extend(self.file(tree, path)?.map(|_| path.as_str()));
        }
        if args.len() == 3 {
            return Ok(None);
        }
        let index = self.scratch.path().join("index-without");
        let text = |args: &[&str]| {
            let mut command = self.command(args);
            let output = command.env("GIT_INDEX_FILE", &index).output();
            checked(args, &output.map_err(GitError::Start)?)
        };
        text(&["read-tree", tree])?;
        text(&args)?;
        text(&["write-tree"]).map(Some)
    }

    /// The hash of each file's content in the working tree, by path.
    pub fn working_files(&self) -> Result<BTreeMap<String, String>, GitError> {
        self.add_all()?;
        let listed = self.text(&["ls-files", "--stage", "-z"])?;
        let is_here = |path: &str| self.root.join(path).symlink_metadata().is_ok();
        let all = staged_files(&listed);
        Ok(all
            .filter(|(path, _)| self.sparse.is_none() || is_here(path))
            .collect())
    }

    /// What git ignores of the user's files; a folder of which it ignores everything ends with
    /// a slash.
    pub fn ignored_files(&self) -> Result<Vec<String>, GitError> {
        let ignored = ["--others", "--ignored", "--exclude-standard", "--directory"];
        let listed = self.text(&[&["ls-files", "-z"], ignored.as_slice()].concat())?;
        let paths = listed.split('\0').filter(|path| !path.is_empty());
        Ok(paths.map(str::to_owned).collect())
    }

    /// The content of a file in a tree, if it is there.
    pub fn file(&self, tree: &str, path: &str) -> Result<Option<Vec<u8>>, GitError> {
        let place = format!("{tree}:{path}");
        let batch = self.command(&["cat-file", "--batch"]);
        if let Ok(content) = self.batch.file(&place, batch) {
            return Ok(content);
        }
        let output = self
            .command(&["cat-file", "blob", &place])
            .output()
            .map_err(GitError::Start)?;
        Ok(output.status.success().then_some(output.stdout))
    }

    fn text(&self, args: &[&str]) -> Result<String, GitError> {
        let output = self.command(args).output().map_err(GitError::Start)?;
        checked(args, &output)
    }

    /// Runs git on the own index of the checkout at `dir`, not on the copy.
    fn text_in(&self, dir: &Path, args: &[&str]) -> Result<String, GitError> {
        let mut command = self.command(args);
        command.current_dir(dir).env_remove("GIT_INDEX_FILE");
        let output = command.output().map_err(GitError::Start)?;
        checked(args, &output)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = git();
        command
            .current_dir(&self.root)
            .env("GIT_INDEX_FILE", self.scratch.path().join("index"))
            .env("GIT_OBJECT_DIRECTORY", self.scratch.path().join("objects"))
            .env("GIT_ALTERNATE_OBJECT_DIRECTORIES", &self.objects)
            .args(["-c", "core.hooksPath=/dev/null"])
            .args(["-c", "core.quotePath=false"])
            // A user may forbid git to change line ends. Nothing is written to the user's
            // files here, so there is nothing to be safe from, and git would refuse.
            .args(["-c", "core.safecrlf=false"])
            .args(args);
        command
    }
}

/// Why git does not read a repository that is there: the line that says so, and the command that
/// git proposes. `None` if it says that there is none.
fn refusal(dir: &Path, said: &str) -> Option<GitError> {
    let mut lines = said.lines().map(str::trim);
    let message = lines
        .clone()
        .find_map(|line| line.strip_prefix("fatal: "))?;
    if message.starts_with("not a git repository") {
        return None;
    }
    Some(GitError::Refused {
        dir: std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()),
        message: message.to_owned(),
        mend: lines
            .find(|line| line.starts_with("git "))
            .map(str::to_owned),
    })
}

/// Path and content of each file that `git ls-files --stage -z` lists.
fn staged_files(listed: &str) -> impl Iterator<Item = (String, String)> + '_ {
    listed.split('\0').filter_map(|entry| {
        let (meta, path) = entry.split_once('\t')?;
        let content = meta.split(' ').nth(1)?;
        Some((path.to_owned(), content.to_owned()))
    })
}

fn checked(args: &[&str], output: &Output) -> Result<String, GitError> {
    if output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout);
        return Ok(text.trim_end_matches(['\n', '\r']).to_owned());
    }
    Err(GitError::Failed {
        command: args.join(" "),
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
