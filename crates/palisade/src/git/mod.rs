//! What git knows: commits, the exact content of the working tree, the change
//! between two trees, and checkouts of other commits beside the user's own.
//!
//! The user's files, index and object database are never written to. The content
//! of the working tree is hashed by git itself through a copy of the index, with
//! new objects in a temporary folder; another commit is checked out in a linked
//! worktree outside the repository, so that no configuration file of the user's
//! tree (`.cargo/config.toml`, `rust-toolchain.toml`) is found from inside it.

mod ancestry;
mod batch;
mod revert;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use batch::Batch;
pub use revert::Reverted;
use twox_hash::XxHash3_128;

use crate::change::{ChangeKind, FileChange, Hunk};
use crate::hash::short;
use crate::process::in_own_process_group;

/// Why git gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GitError {
    /// The program `git` cannot be started.
    #[error("start git")]
    Start(#[source] std::io::Error),
    /// The folder is in no git repository.
    #[error("find a git repository at {}", .0.display())]
    NotARepository(PathBuf),
    /// The repository has no commit.
    #[error("find a commit in {}: the repository is empty", .0.display())]
    NoCommit(PathBuf),
    /// A revision names no commit of this repository.
    #[error("find revision {revision:?} in this repository{}", if *.shallow { " (a shallow clone)" } else { "" })]
    UnknownRevision {
        /// What was asked for.
        revision: String,
        /// Whether the history was cut when the repository was cloned.
        shallow: bool,
    },
    /// A git command failed.
    #[error("run `git {command}`: {message}")]
    Failed {
        /// The subcommand and its arguments.
        command: String,
        /// What git printed.
        message: String,
    },
    /// A branch of that name does something else.
    #[error("make the branch {branch:?}: there is one that does something else")]
    BranchExists {
        /// The branch.
        branch: String,
    },
    /// A file or folder beside the repository cannot be written.
    #[error("write {}", .path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
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

/// The variables in which CI services name the branch that a pull request is to go to: GitHub
/// and Gitea, GitLab, Buildkite, Azure, Jenkins, Bitbucket. (CircleCI sets none.)
pub const PULL_REQUEST_TARGETS: [&str; 6] = [
    "GITHUB_BASE_REF",
    "CI_MERGE_REQUEST_TARGET_BRANCH_NAME",
    "BUILDKITE_PULL_REQUEST_BASE_BRANCH",
    "SYSTEM_PULLREQUEST_TARGETBRANCH",
    "CHANGE_TARGET",
    "BITBUCKET_PR_DESTINATION_BRANCH",
];

/// The branch that the pull request which a CI service builds is to go to.
fn pull_request_target() -> Option<String> {
    let values = PULL_REQUEST_TARGETS
        .iter()
        .filter_map(|name| std::env::var(name).ok());
    let mut names = values.map(|value| value.trim_start_matches("refs/heads/").to_owned());
    names.find(|name| !name.is_empty())
}

/// A git repository and its working tree.
#[derive(Debug)]
pub struct Repo {
    root: PathBuf,
    index: PathBuf,
    objects: PathBuf,
    common_dir: PathBuf,
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
            .arg("--git-common-dir")
            .output()
            .map_err(GitError::Start)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = text.lines().map(PathBuf::from);
        let not_a_repository = || {
            let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
            GitError::NotARepository(dir)
        };
        if !output.status.success() {
            return Err(not_a_repository());
        }
        let mut next = || lines.next().ok_or_else(not_a_repository);
        let (root, index, objects, common_dir) = (next()?, next()?, next()?, next()?);
        let scratch = tempfile::tempdir().map_err(|source| GitError::Write {
            path: std::env::temp_dir(),
            source,
        })?;
        let repo = Self {
            root,
            index,
            objects,
            common_dir,
            batch: Batch::default(),
            scratch,
        };
        repo.prepare_scratch()?;
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

    /// The commit that the change of HEAD starts from: the last one that it has in common with
    /// the branch that it is to go to; `None` if no such branch is here.
    ///
    /// That is the branch that a CI service names, else that of `origin/HEAD`, else the first
    /// of the usual names, at `origin` before here. A merge that is checked out without a
    /// branch, as for a pull request, starts from its first parent if nothing else says more.
    ///
    /// # Errors
    ///
    /// Fails if git does, or there is no commit.
    pub fn default_base(&self) -> Result<Option<Commit>, GitError> {
        let head = self.head()?;
        let found = self.target_branches().into_iter().find_map(|branch| {
            let base = self.text(&["merge-base", "HEAD", &branch]).ok()?;
            self.resolve(&base).ok()
        });
        match found {
            Some(base) if base != head => return Ok(Some(base)),
            _ if self.branch().is_some() || self.resolve("HEAD^2").is_err() => {}
            _ => return self.resolve("HEAD^1").map(Some),
        }
        Ok(found)
    }

    /// The branches that the change of HEAD may go to, the likeliest first.
    fn target_branches(&self) -> Vec<String> {
        let at_origin = |name: &str| format!("refs/remotes/origin/{name}");
        let here = |name: &str| format!("refs/heads/{name}");
        if let Some(name) = pull_request_target() {
            return vec![at_origin(&name), here(&name)];
        }
        let head = self.text(&["symbolic-ref", "--quiet", "refs/remotes/origin/HEAD"]);
        let usual = ["main", "master", "develop", "trunk"];
        head.into_iter()
            .chain(usual.map(at_origin))
            .chain(usual.map(here))
            .collect()
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

    /// The content of the working tree as it is now: tracked files with their
    /// changes, and new files that git does not ignore.
    pub fn working_tree(&self) -> Result<String, GitError> {
        self.text(&["add", "--all", "--", "."])?;
        self.text(&["write-tree"])
    }

    /// The content of the index: what would be committed now.
    pub fn staged_tree(&self) -> Result<String, GitError> {
        self.text(&["write-tree"])
    }

    /// The hash of each file's content in the working tree, by path.
    pub fn working_files(&self) -> Result<BTreeMap<String, String>, GitError> {
        self.text(&["add", "--all", "--", "."])?;
        let listed = self.text(&["ls-files", "--stage", "-z"])?;
        Ok(staged_files(&listed).collect())
    }

    /// What changed from one tree to another.
    pub fn diff(&self, base: &str, candidate: &str) -> Result<Vec<FileChange>, GitError> {
        let options = [
            "--find-renames",
            "--no-color",
            "--no-ext-diff",
            base,
            candidate,
        ];
        let raw = self.text(&[&["diff", "--raw", "-z"], &options[..]].concat())?;
        let patch = self.text(&[&["diff", "--unified=0"], &options[..]].concat())?;
        Ok(parse_diff(&raw, &patch))
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

    /// Checks `commit` out beside the user's tree; with `tree`, its content is
    /// replaced by that tree's. The checkout is taken away when it is dropped.
    pub fn worktree(&self, commit: &Commit, tree: Option<&str>) -> Result<Worktree, GitError> {
        let worktree = self.place(Slot::acquire(&self.common_dir)?);
        // What a killed run left behind.
        worktree.remove();
        let dir = worktree.dir.to_string_lossy();
        self.text_in(&self.root, &["worktree", "prune"])?;
        let add = [
            "worktree", "add", "--quiet", "--detach", "--force", "--force", &dir, &commit.id,
        ];
        self.text_in(&self.root, &add)?;
        if let Some(tree) = tree {
            self.text_in(&worktree.dir, &["read-tree", "--reset", "-u", tree])?;
        }
        if worktree.dir.join(".gitmodules").exists() {
            self.text_in(
                &worktree.dir,
                &["submodule", "update", "--init", "--recursive", "--quiet"],
            )?;
        }
        self.restore_times(&worktree)?;
        Ok(worktree)
    }

    /// Takes away what killed runs left checked out, at places that nobody uses now.
    pub fn sweep(&self) {
        for slot in Slot::left_behind(&self.common_dir) {
            drop(self.place(slot));
        }
    }

    fn place(&self, slot: Slot) -> Worktree {
        Worktree {
            root: self.root.clone(),
            dir: slot.dir.join("tree"),
            target: slot.dir.join("target"),
            lock: slot.lock,
        }
    }

    /// Gives each file of a checkout the time at which its content was first checked
    /// out at this place. A fresh checkout makes all files look new, and Cargo would
    /// build everything again; with these times it builds what it would if the
    /// checkout had stayed.
    fn restore_times(&self, worktree: &Worktree) -> Result<(), GitError> {
        let list = worktree.dir.with_file_name("times.json");
        let known: BTreeMap<String, (String, u64)> = fs::read(&list)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let listed = self.text_in(&worktree.dir, &["ls-files", "--stage", "-z"])?;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = since.unwrap_or_default().as_millis() as u64;
        let mut times = BTreeMap::new();
        for (path, content) in staged_files(&listed) {
            let first = known.get(&path).filter(|(known, _)| *known == content);
            let time = first.map_or(now, |(_, time)| *time);
            let place = worktree.dir.join(&path);
            if place.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(time);
                // Where it fails, the file stays new and is built again.
                let _ = open_for_times(&place).and_then(|file| file.set_modified(modified));
            }
            times.insert(path, (content, time));
        }
        let text = serde_json::to_vec(&times).unwrap_or_default();
        fs::write(&list, text).map_err(|source| GitError::Write { path: list, source })
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

/// Opens a file so that its times can be set, whatever else may be done with it.
#[cfg(not(windows))]
fn open_for_times(path: &Path) -> std::io::Result<File> {
    File::open(path)
}

/// Opens a file so that its times can be set, also one that is read-only.
#[cfg(windows)]
fn open_for_times(path: &Path) -> std::io::Result<File> {
    use std::os::windows::fs::OpenOptionsExt as _;
    /// Windows sets no times through a file that was opened for reading.
    const FILE_WRITE_ATTRIBUTES: u32 = 0x100;
    File::options()
        .access_mode(FILE_WRITE_ATTRIBUTES)
        .open(path)
}

/// Removes a folder. Windows keeps files of a process that just ended locked for a while, and
/// scanners open new files.
fn remove_folder(dir: &Path) {
    const TRIES: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(100);
    for _ in 0..TRIES {
        match fs::remove_dir_all(dir) {
            Err(error) if cfg!(windows) && error.kind() != std::io::ErrorKind::NotFound => {
                std::thread::sleep(PAUSE);
            }
            _ => return,
        }
    }
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

/// A checkout of another commit, with a folder for what is built from it.
#[derive(Debug)]
pub struct Worktree {
    root: PathBuf,
    dir: PathBuf,
    target: PathBuf,
    lock: File,
}

impl Worktree {
    /// The root of the checkout.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where its build goes. The folder stays, so that the next run at this
    /// place finds the dependencies built.
    pub fn target(&self) -> &Path {
        &self.target
    }

    fn remove(&self) {
        if self.dir.exists() {
            // Whatever git refuses to remove is removed as a folder; git forgets
            // it at the next `worktree prune`.
            let run = |args: &[&str]| {
                let command = &mut git();
                command.current_dir(&self.root).args(args).arg(&self.dir);
                command.output().is_ok_and(|output| output.status.success())
            };
            if !run(&["worktree", "remove", "--force", "--force"]) {
                // Git holds on to one that a killed git had not finished.
                run(&["worktree", "unlock"]);
            }
            remove_folder(&self.dir);
        }
    }
}

impl Drop for Worktree {
    fn drop(&mut self) {
        self.remove();
        // A child that another thread is just starting holds a copy of the file for an
        // instant; closing ours would not free the place before that is over.
        let _ = self.lock.unlock();
    }
}

/// A place for a checkout that no other running program uses.
struct Slot {
    dir: PathBuf,
    lock: File,
}

impl Slot {
    /// The folder of all places for a repository.
    fn home(common_dir: &Path) -> PathBuf {
        let name = XxHash3_128::oneshot(common_dir.as_os_str().as_encoded_bytes());
        let name = format!("{name:032x}");
        // Programs that compile and link know paths of up to 260 characters there.
        let length = if cfg!(windows) { 12 } else { name.len() };
        cache_dir().join(&name[..length])
    }

    /// The places that hold a checkout which no running program uses.
    fn left_behind(common_dir: &Path) -> impl Iterator<Item = Self> {
        let home = Self::home(common_dir);
        let dirs = (0..).map(move |number: u32| home.join(number.to_string()));
        let dirs = dirs.take_while(|dir| dir.exists());
        dirs.filter_map(|dir| {
            if !dir.join("tree").exists() {
                return None;
            }
            let lock = File::create(dir.join("lock")).ok()?;
            lock.try_lock().ok()?;
            Some(Self { dir, lock })
        })
    }

    fn acquire(common_dir: &Path) -> Result<Self, GitError> {
        let home = Self::home(common_dir);
        let write_error = |path: &Path| {
            let path = path.to_owned();
            move |source| GitError::Write { path, source }
        };
        let mut number = 0;
        loop {
            let dir = home.join(number.to_string());
            fs::create_dir_all(&dir).map_err(write_error(&dir))?;
            let lock = dir.join("lock");
            let lock = File::create(&lock).map_err(write_error(&lock))?;
            match lock.try_lock() {
                Ok(()) => return Ok(Self { dir, lock }),
                Err(fs::TryLockError::WouldBlock) => number += 1,
                Err(fs::TryLockError::Error(source)) => return Err(write_error(&dir)(source)),
            }
        }
    }
}

/// The folder for checkouts and their builds: `PALISADE_CACHE`, or `palisade` in
/// the user's cache folder.
fn cache_dir() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(dir) = set("PALISADE_CACHE") {
        return PathBuf::from(dir);
    }
    set("XDG_CACHE_HOME")
        .or_else(|| set("LOCALAPPDATA"))
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("palisade")
}

/// Joins git's list of changed files with the hunks of its patch; both name the
/// files in the same order.
fn parse_diff(raw: &str, patch: &str) -> Vec<FileChange> {
    let mut sections = patch_hunks(patch).into_iter();
    let mut fields = raw.split('\0');
    let mut changes = Vec::new();
    while let Some(meta) = fields.next().filter(|meta| meta.starts_with(':')) {
        let status = meta.rsplit(' ').next().unwrap_or_default();
        let Some(first) = fields.next() else { break };
        let (path, kind) = match status.as_bytes().first() {
            Some(b'R' | b'C') => {
                let Some(to) = fields.next() else { break };
                let from = first.to_owned();
                (to, ChangeKind::Renamed { from })
            }
            Some(b'A') => (first, ChangeKind::Added),
            Some(b'D') => (first, ChangeKind::Deleted),
            _ => (first, ChangeKind::Modified),
        };
        changes.push(FileChange {
            path: path.to_owned(),
            kind,
            hunks: sections.next().unwrap_or_default(),
        });
    }
    changes
}

/// The hunks of each file of a patch without context lines.
fn patch_hunks(patch: &str) -> Vec<Vec<Hunk>> {
    let mut files: Vec<Vec<Hunk>> = Vec::new();
    for line in patch.lines() {
        if line.starts_with("diff --git ") {
            files.push(Vec::new());
        } else if let (Some(header), Some(file)) = (line.strip_prefix("@@ "), files.last_mut()) {
            let range = header.split(' ').find_map(|part| part.strip_prefix('+'));
            let Some(range) = range else { continue };
            let (start, lines) = range.split_once(',').unwrap_or((range, "1"));
            if let (Ok(start), Ok(lines)) = (start.parse(), lines.parse()) {
                file.push(Hunk { start, lines });
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository in a temporary folder, with two commits.
    pub(super) fn repository() -> (tempfile::TempDir, Repo) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let git = |args: &[&str]| {
            let output = remove_hook_variables(&mut Command::new("git"))
                .current_dir(dir.path())
                .args(["-c", "user.name=t", "-c", "user.email=t@t"])
                .args(args)
                .output()
                .expect("git runs");
            assert!(output.status.success(), "{args:?}: {output:?}");
        };
        git(&["init", "--quiet", "--initial-branch=main"]);
        fs::write(dir.path().join("a.txt"), "1\n2\n3\n4\n5\n6\n").expect("written");
        git(&["add", "."]);
        git(&["commit", "--quiet", "-m", "first"]);
        fs::write(dir.path().join("b.txt"), "b\n").expect("written");
        git(&["add", "."]);
        git(&["commit", "--quiet", "-m", "second"]);
        let repo = Repo::discover(dir.path()).expect("a repository");
        (dir, repo)
    }

    #[test]
    fn a_clean_working_tree_is_its_commit() {
        let (_dir, repo) = repository();
        let head = repo.head().expect("a commit");
        assert_eq!(head.subject, "second");
        assert_eq!(repo.working_tree().expect("a tree"), head.tree);
        assert_eq!(repo.default_base().expect("a base"), Some(head));
    }

    #[test]
    fn edits_new_files_and_old_times_change_the_tree_but_not_the_repository() {
        let (dir, repo) = repository();
        let head = repo.head().expect("a commit");
        let path = dir.path().join("a.txt");
        let modified = fs::metadata(&path)
            .and_then(|m| m.modified())
            .expect("a time");
        // Git sees an old time by when the file's entry in its folder changed, which Windows does
        // not tell; a size of its own it sees there too.
        let nine = if cfg!(windows) { "99" } else { "9" };
        fs::write(&path, format!("1\n2\n{nine}\n4\n5\n6\n")).expect("written");
        let file = File::options().append(true).open(&path).expect("opened");
        file.set_modified(modified).expect("time set");
        fs::write(dir.path().join("new.txt"), "n\n").expect("written");
        let objects = fs::read_dir(dir.path().join(".git/objects"))
            .expect("read")
            .count();
        let tree = repo.working_tree().expect("a tree");
        assert_ne!(tree, head.tree);
        let changes = repo.diff(&head.tree, &tree).expect("a diff");
        assert_eq!(changes.len(), 2);
        assert_eq!(changes[0].path, "a.txt");
        assert_eq!(changes[0].kind, ChangeKind::Modified);
        assert_eq!(changes[0].hunks, [Hunk { start: 3, lines: 1 }]);
        assert_eq!(changes[1].path, "new.txt");
        assert_eq!(changes[1].kind, ChangeKind::Added);
        assert_eq!(
            repo.file(&tree, "new.txt").expect("read").as_deref(),
            Some(&b"n\n"[..])
        );
        assert_eq!(repo.file(&tree, "none").expect("read"), None);
        let after = fs::read_dir(dir.path().join(".git/objects"))
            .expect("read")
            .count();
        assert_eq!(objects, after, "an object was written");
        let staged = Repo::discover(dir.path())
            .expect("a repository")
            .staged_tree();
        assert_eq!(staged.expect("a tree"), head.tree, "the index was written");
    }

    /// Git's settings of a user on Windows: text has `\r\n` on disk and `\n` in the repository,
    /// and what cannot be restored is refused.
    fn crlf_on_disk(dir: &Path) {
        for setting in [["core.autocrlf", "true"], ["core.safecrlf", "true"]] {
            let set = remove_hook_variables(&mut Command::new("git"))
                .current_dir(dir)
                .arg("config")
                .args(setting)
                .status();
            assert!(set.expect("git runs").success());
        }
    }

    #[test]
    fn line_ends_on_disk_are_no_change() {
        let (dir, repo) = repository();
        let head = repo.head().expect("a commit");
        crlf_on_disk(dir.path());
        let path = dir.path().join("a.txt");
        fs::write(&path, "1\r\n2\r\n3\r\n4\r\n5\r\n6\r\n").expect("written");
        assert_eq!(repo.working_tree().expect("a tree"), head.tree);
        fs::write(&path, "1\r\n2\r\n9\r\n4\r\n5\r\n6\r\n").expect("written");
        // Git would refuse the bare line end of a file like this one.
        fs::write(dir.path().join("new.txt"), "n\n").expect("written");
        let tree = repo.working_tree().expect("a tree");
        let changes = repo.diff(&head.tree, &tree).expect("a diff");
        assert_eq!(changes.len(), 2, "{changes:?}");
        assert_eq!(changes[0].hunks, [Hunk { start: 3, lines: 1 }]);
        // A checkout has them too, and is the same tree.
        let worktree = repo.worktree(&head, Some(&tree)).expect("a worktree");
        let there = fs::read(worktree.dir().join("a.txt")).expect("read");
        assert!(there.starts_with(b"1\r\n2\r\n9\r\n"), "{there:?}");
        let there = Repo::discover(worktree.dir()).expect("a repository");
        assert_eq!(there.working_tree().expect("a tree"), tree);
    }

    #[test]
    fn what_git_says_may_end_its_lines_with_two_characters() {
        use std::process::ExitStatus;
        let output = |text: &str| Output {
            status: ExitStatus::default(),
            stdout: text.into(),
            stderr: Vec::new(),
        };
        assert_eq!(checked(&[], &output("main\r\n")).expect("said"), "main");
        let patch = "diff --git a/x b/x\r\n@@ -3,0 +4,2 @@ fn\r\n+a\r\n@@ -9 +12 @@\r\n";
        assert_eq!(
            patch_hunks(patch),
            [[
                Hunk { start: 4, lines: 2 },
                Hunk {
                    start: 12,
                    lines: 1
                }
            ]]
        );
    }

    #[test]
    fn a_read_only_file_of_a_checkout_keeps_its_time_too() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a.txt");
        fs::write(&path, "a").expect("written");
        let mut permissions = fs::metadata(&path).expect("there").permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&path, permissions).expect("set");
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let file = open_for_times(&path).expect("opened");
        file.set_modified(time).expect("set");
        drop(file);
        let found = fs::metadata(&path).and_then(|meta| meta.modified());
        assert_eq!(found.expect("a time"), time);
    }

    #[test]
    fn renames_and_deletions_are_told_apart() {
        let (dir, repo) = repository();
        let head = repo.head().expect("a commit");
        fs::rename(dir.path().join("a.txt"), dir.path().join("c.txt")).expect("renamed");
        fs::remove_file(dir.path().join("b.txt")).expect("removed");
        let tree = repo.working_tree().expect("a tree");
        let changes = repo.diff(&head.tree, &tree).expect("a diff");
        let from = "a.txt".to_owned();
        assert_eq!(changes[0].kind, ChangeKind::Deleted);
        assert_eq!(changes[1].kind, ChangeKind::Renamed { from });
    }

    #[test]
    fn a_worktree_holds_the_other_commit_and_goes_away() {
        let (dir, repo) = repository();
        let first = repo.resolve("HEAD~1").expect("a commit");
        let head = repo.head().expect("a commit");
        let worktree = repo.worktree(&first, None).expect("a worktree");
        let place = worktree.dir().to_owned();
        assert!(place.join("a.txt").exists() && !place.join("b.txt").exists());
        // While one is in use, a second one gets another place.
        fs::write(dir.path().join("new.txt"), "n\n").expect("written");
        let tree = repo.working_tree().expect("a tree");
        let other = repo.worktree(&head, Some(&tree)).expect("a worktree");
        assert_ne!(other.dir(), place);
        assert!(other.dir().join("new.txt").exists());
        // A killed run leaves its checkout without a lock.
        // (The standard library unlocks twice on Windows; Wine calls the second time an error.)
        let unlocked = other.lock.unlock();
        assert!(unlocked.is_ok() || cfg!(windows), "{unlocked:?}");
        let left = other.dir().to_owned();
        std::mem::forget(other);
        drop(worktree);
        assert!(!place.exists() && left.exists());
        repo.sweep();
        assert!(!left.exists());
        let listed = repo.text(&["worktree", "list"]).expect("listed");
        assert_eq!(listed.lines().count(), 1, "{listed}");
    }

    #[test]
    fn a_file_keeps_its_time_from_checkout_to_checkout_while_its_content_stays() {
        let (dir, repo) = repository();
        let first = repo.resolve("HEAD~1").expect("a commit");
        let head = repo.head().expect("a commit");
        fs::write(dir.path().join("a.txt"), "other\n").expect("written");
        let changed = repo.working_tree().expect("a tree");
        let times = |commit: &Commit, tree: Option<&str>| {
            let worktree = repo.worktree(commit, tree).expect("a worktree");
            std::thread::sleep(Duration::from_millis(20));
            ["a.txt", "b.txt"].map(|name| {
                let meta = fs::metadata(worktree.dir().join(name));
                meta.and_then(|meta| meta.modified()).ok()
            })
        };
        let [a_first, b_first] = times(&first, None);
        let [a_head, b_head] = times(&head, None);
        assert_eq!((b_first, a_head), (None, a_first));
        let [a_changed, b_changed] = times(&head, Some(&changed));
        assert_eq!(b_changed, b_head);
        assert!(a_changed > b_head, "another content is new");
        let [a_back, b_back] = times(&head, None);
        assert!(a_back > a_changed, "a content that comes back is new again");
        assert_eq!(b_back, b_head);
    }

    #[test]
    fn what_is_not_there_is_said() {
        let (_dir, repo) = repository();
        let error = repo.resolve("nope").expect_err("no such revision");
        assert_eq!(
            error.to_string(),
            "find revision \"nope\" in this repository"
        );
        let nowhere = tempfile::tempdir().expect("a temporary folder");
        let error = Repo::discover(nowhere.path()).expect_err("no repository");
        assert!(matches!(error, GitError::NotARepository(_)));
    }
}
