//! A session: a workspace with everything needed to judge it: its repository, its policy,
//! its store and the runner of its tests; and the two revisions of a change.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use twox_hash::XxHash3_128;

use crate::baseline::TestSet;
use crate::hash::hash;
use crate::host::git::{Commit, GitError, Repo, Worktree, remove_hook_variables};
use crate::host::measure::launch::LaunchError;
use crate::host::metadata::{self, WorkspaceError};
use crate::host::process::Cancel;
use crate::host::run::{
    BuildLocation, BuiltTests, Progress, Request, RunError, Runner, TestRunOutput, environment,
    run_tests,
};
use crate::host::source::unix_lines;
use crate::host::store::{self, Store, StoreError};
use crate::host::{new_id, now, policy_file};
use crate::observation::{Environment, Purpose, Run, Subject};
use crate::policy::{CLAIMS_FILE_NAME, FILE_NAME, Policy, PolicyError, RunnerChoice};
use crate::record::{Advice, Record, RevisionReport};
use crate::scope::{Scope, Shard, ShardNumber};
use crate::shard::assign;
use crate::workspace::Workspace;

/// Why the machine gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// Git gave no answer.
    #[error(transparent)]
    Git(#[from] GitError),
    /// There is no workspace.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The policy cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tests could not be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A benchmark could not be launched.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Nothing says what the change is compared with.
    #[error("failed to find the branch that this change is to go to{}", if *.shallow { " (in a shallow clone)" } else { "" })]
    NoBase {
        /// Whether the clone is a shallow one.
        shallow: bool,
    },
}

impl SessionError {
    fn inner(&self) -> Option<&dyn Advice> {
        match self {
            Self::Git(error) => Some(error),
            Self::Workspace(error) => Some(error),
            Self::Store(error) => Some(error),
            Self::Run(error) => Some(error),
            Self::Policy(_) | Self::Launch(_) | Self::NoBase { .. } => None,
        }
    }
}

impl Advice for SessionError {
    fn is_usage(&self) -> bool {
        match self {
            Self::Policy(_) => true,
            _ => self.inner().is_some_and(Advice::is_usage),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoBase { shallow: true } => {
                Some("git fetch --unshallow origin BRANCH, or --base REVISION".to_owned())
            }
            Self::NoBase { shallow: false } => {
                Some("git fetch origin BRANCH, or --base REVISION".to_owned())
            }
            Self::Policy(PolicyError::UnknownKey { suggestion, .. }) => {
                Some(suggestion.as_ref().map_or_else(
                    || {
                        "cargo palisade init in an empty repository writes a palisade.toml with \
                         every key"
                            .to_owned()
                    },
                    |key| format!("did you mean `{key}`?"),
                ))
            }
            _ => self.inner()?.hint(),
        }
    }

    fn output(&self) -> Option<&str> {
        self.inner()?.output()
    }
}

/// What a change is compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BaseChoice {
    /// Where the branch left the default branch.
    #[default]
    Branching,
    /// A revision.
    Revision(String),
    /// The newest commit before the change of which a run of all tests is stored: no
    /// base has to be built. Where there is none, the tests are judged by themselves.
    Stored,
}

/// What is judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CandidateChoice {
    /// The user's files as they are.
    #[default]
    Files,
    /// What is staged.
    Staged,
    /// A revision; in the user's files if they hold just that.
    Revision(String),
    /// A revision in a checkout of its own, whatever the user's files hold.
    Checkout(String),
}

/// What happens while a command works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new step begins.
    Step(String),
    /// The step goes on.
    Progress(Progress),
    /// Something worth telling at once.
    Note(String),
}

/// Is told what happens.
pub type Events<'a> = &'a dyn Fn(Event);

/// The file of the store, from the workspace's root.
pub const STORE_FILE: &str = ".palisade/store.sqlite";

/// A workspace under guard.
pub struct Session {
    /// Its repository.
    pub repo: Repo,
    /// Its packages.
    pub workspace: Workspace,
    /// What it wants to hold.
    pub policy: Policy,
    /// What was seen.
    pub store: Box<dyn Store>,
    /// What runs its tests.
    pub runner: Runner,
    run_tests: RunTests,
    cancel: Cancel,
    /// A hash of the packages outside of the repository, if it depends on any.
    outside: Option<String>,
}

/// Runs the tests of a request once, as [`run_tests`] does.
pub(crate) type RunTests = Box<dyn Fn(&Request<'_>) -> Result<TestRunOutput, RunError>>;

impl Session {
    /// Opens the workspace that holds `dir`; `store` is the file or the URL of its
    /// store if that is not in its usual place.
    /// `runner` overrules the policy's.
    pub fn open(
        dir: &Path,
        store: Option<&OsStr>,
        runner: Option<RunnerChoice>,
        cancel: Cancel,
    ) -> Result<Self, SessionError> {
        let mut repo = Repo::discover(dir)?;
        repo.sweep();
        let workspace = metadata::load(dir, repo.root())?;
        repo.link_outside(&workspace.outside);
        let policy = policy_file::load(&workspace.root)?;
        let mut excluded = policy.run.exclude.iter();
        if let Some(package) = excluded.find(|name| !workspace.packages.contains_key(*name)) {
            return Err(SessionError::Policy(PolicyError::NoPackage {
                path: workspace.root.join(FILE_NAME),
                package: package.clone(),
            }));
        }
        repo.limit_cache(policy.run.cache_limit.0);
        let runner = Runner::choose(runner.unwrap_or(policy.run.runner))?;
        let outside = hash_of_folders(&workspace.outside);
        let usual = workspace.root.join(STORE_FILE);
        let store = store::open(store.unwrap_or(usual.as_os_str()))?;
        Ok(Self {
            repo,
            workspace,
            policy,
            store,
            runner,
            run_tests: Box::new(run_tests),
            cancel,
            outside,
        })
    }

    /// The same session, of which something else runs the tests.
    #[cfg(test)]
    pub(crate) fn with_tests(self, run_tests: RunTests) -> Self {
        Self { run_tests, ..self }
    }

    /// The two revisions of a change: what it is compared with, and what is judged. Where
    /// a stored base is asked for and there is none, both are the same.
    pub fn revisions(
        &self,
        base: &BaseChoice,
        candidate: &CandidateChoice,
    ) -> Result<(Revision, Revision), SessionError> {
        let choice = candidate;
        let candidate = self.candidate(choice)?;
        let base = match base {
            BaseChoice::Revision(revision) => self.repo.resolve(revision)?,
            BaseChoice::Branching => match self.repo.default_base()? {
                Some(commit) => commit,
                // What is not committed is a change of the commit below it.
                None if candidate.subject.dirty => candidate.commit.clone(),
                None => {
                    return Err(SessionError::NoBase {
                        shallow: self.repo.is_shallow(),
                    });
                }
            },
            BaseChoice::Stored => match self.stored_base(&candidate)? {
                Some(commit) => commit,
                None => return Ok((self.candidate(choice)?, candidate)),
            },
        };
        Ok((self.commit_revision(base)?, candidate))
    }

    /// What is judged.
    fn candidate(&self, choice: &CandidateChoice) -> Result<Revision, SessionError> {
        match choice {
            CandidateChoice::Files => self.working_revision(),
            CandidateChoice::Staged => self.staged_revision(),
            CandidateChoice::Checkout(revision) => self.in_checkout(Some(revision)),
            CandidateChoice::Revision(revision) => self.revision_of(revision),
        }
    }

    /// The newest commit before the candidate of which the store has all tests, in
    /// an environment that differs by the lockfile at most.
    fn stored_base(&self, candidate: &Revision) -> Result<Option<Commit>, SessionError> {
        /// How many commits it looks back.
        const COMMITS: u32 = 100;
        let mut environment = self.environment(&self.workspace.root, None);
        for commit in self.repo.ancestors("HEAD", COMMITS)? {
            let lockfile = self.lockfile(&commit.tree)?;
            environment.lockfile = lockfile.as_deref().map(hash).unwrap_or_default();
            if commit.tree == candidate.subject.tree {
                continue;
            }
            let runs = self.store.runs_of(&commit.tree, &environment)?;
            let is_whole = |run: &Run| run.scope == Scope::Workspace;
            if runs.iter().any(is_whole) || shards_together(&runs, &Scope::Workspace).is_some() {
                return Ok(Some(commit));
            }
        }
        Ok(None)
    }

    /// What besides the tree decides the outcome of tests at `root`.
    fn environment(&self, root: &Path, lockfile: Option<&str>) -> Environment {
        let outside = self.outside.as_deref();
        let sparse = self.repo.sparse_patterns();
        environment(
            root,
            lockfile,
            outside,
            sparse,
            &self.policy.run,
            &self.runner,
        )
    }

    /// Whether packages outside of the repository may have changed since the tests of a revision
    /// were run: git does not say.
    pub(crate) fn may_differ_outside(&self, revision: &mut Revision) -> Result<bool, SessionError> {
        let is_known = |known: &StoredTests| known.covering.is_some();
        Ok(self.outside.is_some() && !is_known(&self.known(revision, &Scope::Workspace)?))
    }

    /// The lockfile of a tree; the one on disk if git ignores it.
    fn lockfile(&self, tree: &str) -> Result<Option<String>, SessionError> {
        let tracked = self.repo.file(tree, &self.path("Cargo.lock"))?;
        let on_disk = || fs::read(self.workspace.root.join("Cargo.lock")).ok();
        Ok(tracked.or_else(on_disk).map(|bytes| as_git_keeps(&bytes)))
    }

    /// Ends what runs when it is set.
    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// The working tree as a revision.
    pub fn working_revision(&self) -> Result<Revision, SessionError> {
        let head = self.repo.head()?;
        let tree = self.repo.working_tree()?;
        Ok(self.revision(head, tree, true))
    }

    /// What a name of git resolves to; in the user's files if they hold just that.
    pub(crate) fn revision_of(&self, revision: &str) -> Result<Revision, SessionError> {
        self.commit_revision(self.repo.resolve(revision)?)
    }

    /// A revision, or the files as they are, to be run in a checkout of its own.
    pub(crate) fn in_checkout(&self, revision: Option<&str>) -> Result<Revision, SessionError> {
        let revision = match revision {
            Some(revision) => self.commit_revision(self.repo.resolve(revision)?)?,
            None => self.working_revision()?,
        };
        Ok(revision.in_checkout())
    }

    /// The commit that the index would make, as a revision. It is run in the user's
    /// files if they hold just that.
    fn staged_revision(&self) -> Result<Revision, SessionError> {
        let head = self.repo.head()?;
        let tree = self.repo.staged_tree()?;
        let in_place = self.repo.working_tree()? == tree;
        Ok(self.revision(head, tree, in_place))
    }

    /// A commit as a revision. It is run in the user's files if they hold just that.
    fn commit_revision(&self, commit: Commit) -> Result<Revision, SessionError> {
        let in_place = self.repo.working_tree()? == commit.tree;
        let tree = commit.tree.clone();
        Ok(self.revision(commit, tree, in_place))
    }

    fn revision(&self, commit: Commit, tree: String, in_place: bool) -> Revision {
        let subject = Subject {
            dirty: tree != commit.tree,
            checkout: !in_place,
            tree,
            commit: commit.id.clone(),
            branch: self.repo.branch(),
        };
        Revision {
            subject,
            commit,
            in_place,
            checkout: None,
            environment: None,
            built: BuiltTests::default(),
        }
    }

    /// Runs the tests of `scope` on a revision and remembers the run. A run during
    /// which the user's files changed stands for no tree: it is kept as incomplete.
    pub fn run(
        &mut self,
        revision: &mut Revision,
        scope: &Scope,
        purpose: Purpose,
        events: Events<'_>,
    ) -> Result<(Run, Vec<String>), SessionError> {
        self.run_by(None, revision, scope, purpose, events)
    }

    /// Runs the tests of `scope` once with `cargo test`, whatever the policy says, without
    /// documentation tests.
    pub(crate) fn run_as_cargo_test(
        &mut self,
        revision: &mut Revision,
        scope: &Scope,
        events: Events<'_>,
    ) -> Result<(Run, Vec<String>), SessionError> {
        let runner = std::mem::replace(&mut self.runner, Runner::CargoTest);
        let doctests = std::mem::replace(&mut self.policy.run.doctests, false);
        let environment = revision.environment.take();
        let ran = self.run(revision, scope, Purpose::Rerun, events);
        self.runner = runner;
        self.policy.run.doctests = doctests;
        revision.environment = environment;
        ran
    }

    /// Watches the user's own `cargo test` of the whole workspace, in the user's files,
    /// and remembers what it did. What it prints comes as [`Progress::Said`].
    pub fn watch(
        &mut self,
        command: &[String],
        events: Events<'_>,
    ) -> Result<(Run, Vec<String>), SessionError> {
        let mut revision = self.working_revision()?;
        self.run_by(
            Some(command),
            &mut revision,
            &Scope::Workspace,
            Purpose::Tests,
            events,
        )
    }

    fn run_by(
        &mut self,
        command: Option<&[String]>,
        revision: &mut Revision,
        scope: &Scope,
        purpose: Purpose,
        events: Events<'_>,
    ) -> Result<(Run, Vec<String>), SessionError> {
        let environment = revision.environment(self)?;
        let files = revision.prepare(self, events)?;
        let started_ms = now();
        let location = revision.location(self);
        let progress = |progress| events(Event::Progress(progress));
        let seen = (self.run_tests)(&Request {
            location,
            scope,
            command,
            policy: &self.policy.run,
            runner: &self.runner,
            built: &revision.built,
            cancel: &self.cancel,
            progress: &progress,
        })?;
        let mut gaps = seen.gaps;
        if revision.in_place {
            gaps.extend(self.changed_meanwhile(&revision.subject.tree, &files)?);
        }
        let run = Run {
            id: new_id(),
            started_ms,
            finished_ms: now(),
            purpose,
            subject: revision.subject.clone(),
            environment,
            scope: scope.clone(),
            complete: gaps.is_empty(),
            observations: seen.observations,
        };
        let record = Record::Run(run);
        self.store.add(&record)?;
        let Record::Run(run) = record else {
            unreachable!("the record was made from a run");
        };
        Ok((run, gaps))
    }

    /// What changed in the user's files since they held a tree, in words.
    fn changed_meanwhile(
        &self,
        tree: &str,
        before: &BTreeMap<String, String>,
    ) -> Result<Option<String>, SessionError> {
        /// How many are named.
        const NAMED: usize = 3;
        // The index is copied anew: the user may have staged something meanwhile.
        let repo = Repo::discover(self.repo.root())?;
        if repo.working_tree()? == tree {
            return Ok(None);
        }
        let after = repo.working_files()?;
        let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let differs = |path: &&&String| before.get(**path) != after.get(**path);
        let changed: Vec<&str> = paths
            .iter()
            .filter(differs)
            .map(|path| path.as_str())
            .collect();
        let mut words = "files changed while the tests ran".to_owned();
        if !changed.is_empty() {
            words.push_str(": ");
            words.push_str(&changed[..changed.len().min(NAMED)].join(", "));
        }
        if changed.len() > NAMED {
            let _ = write!(words, " and {} more", changed.len() - NAMED);
        }
        Ok(Some(words))
    }

    /// What is known of a revision: all complete runs of its tree in its environment,
    /// and whether one of them covers `scope`.
    pub fn known(
        &self,
        revision: &mut Revision,
        scope: &Scope,
    ) -> Result<StoredTests, SessionError> {
        let environment = revision.environment(self)?;
        let tree = &revision.subject.tree;
        let mut runs = self.store.runs_of(tree, &environment)?;
        // What `init` writes is no part of the tree that it ran. What of a policy decides
        // outcomes is in the environment.
        if covering(&runs, scope).is_none()
            && let Some(before) = self.repo.tree_without(
                tree,
                &[FILE_NAME, CLAIMS_FILE_NAME].map(|name| self.path(name)),
            )?
        {
            runs.extend(self.store.runs_of(&before, &environment)?);
            runs.sort_by_key(|run| std::cmp::Reverse(run.finished_ms));
        }
        Ok(StoredTests {
            set: TestSet::of_runs(&runs, scope),
            covering: covering(&runs, scope).cloned(),
            runs,
        })
    }

    /// The path of a file in the workspace's root, from the repository's.
    fn path(&self, name: &str) -> String {
        match self.workspace.dir.as_str() {
            "" => name.to_owned(),
            dir => format!("{dir}/{name}"),
        }
    }

    /// The packages of the workspace with tests that failed on a tree in any stored run, but for
    /// known failures: what was seen to fail is in the verdict, whatever the change can reach.
    pub(crate) fn failed_packages(&self, tree: &str) -> Result<BTreeSet<String>, SessionError> {
        let failed = self.store.failed_on(tree)?.into_iter();
        let unknown = failed.filter(|test| self.policy.known_failure(test).is_none());
        let packages = unknown.map(|test| test.package);
        Ok(packages
            .filter(|package| self.workspace.packages.contains_key(package))
            .collect())
    }

    /// Whether the user's files hold something that a checkout would not: what git ignores, but
    /// for what was built.
    pub(crate) fn has_ignored_files(&self) -> Result<bool, SessionError> {
        const OWN: [&str; 2] = [".palisade/", "Cargo.lock"];
        let root = self.repo.root();
        let is_built = |path: &str| {
            let folder = root.join(path);
            folder == self.workspace.target || folder.join("CACHEDIR.TAG").exists()
        };
        let is_own = |path: &str| OWN.iter().any(|own| path.ends_with(own));
        let ignored = self.repo.ignored_files()?;
        Ok(ignored.iter().any(|path| !is_own(path) && !is_built(path)))
    }

    /// Whether a run of all tests of a revision stands in the store.
    pub fn knows_all_tests(&self, revision: &str) -> Result<bool, SessionError> {
        let mut revision = self.revision_of(revision)?;
        Ok(self
            .known(&mut revision, &Scope::Workspace)?
            .covering
            .is_some())
    }

    /// The part of a scope that one shard runs: cut by the newest run of all tests in
    /// the store, and by the targets of the user's files.
    pub fn shard(&self, of: Scope, number: ShardNumber) -> Result<Scope, SessionError> {
        let history = self.store.whole_run()?;
        let targets = self.workspace.test_places();
        Ok(Scope::Shard(Shard {
            number,
            of: Box::new(of),
            assigned: assign(number.count, history.as_ref(), &targets),
        }))
    }

    /// How long the tests of `scope` took, one after the other, when they were last
    /// seen; `None` if no recent run has durations.
    pub fn expected_seconds(&self, scope: &Scope) -> Result<Option<f64>, SessionError> {
        const RUNS: u32 = 10;
        for run in self.store.recent_runs(RUNS)? {
            let of_scope = run
                .observations
                .iter()
                .filter(|seen| scope.contains(&seen.test));
            let durations: Vec<f64> = of_scope.filter_map(|seen| seen.duration_ms).collect();
            if run.scope.covers(scope) && !durations.is_empty() {
                return Ok(Some(durations.iter().sum::<f64>() / 1000.0));
            }
        }
        Ok(None)
    }

    /// Makes Cargo see what it may overlook. Cargo takes a file for unchanged if
    /// its time is older than the last build; a file whose content differs from
    /// what was last run here, and whose time is older than that, has a wrong time.
    /// What was built of its package is removed. Returns the files.
    fn freshen(&self) -> Result<BTreeMap<String, String>, SessionError> {
        let root = self.workspace.root.to_string_lossy();
        let list = self
            .workspace
            .target
            .join(format!("palisade-{}.json", &hash(&root)[..12]));
        let files = self.repo.working_files()?;
        let last: Option<BTreeMap<String, String>> = fs::read(&list)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        let last_time = fs::metadata(&list).and_then(|meta| meta.modified()).ok();
        if let (Some(last), Some(last_time)) = (last, last_time) {
            let is_overlooked = |path: &str, content: &String| {
                let time = fs::metadata(self.repo.root().join(path)).and_then(|m| m.modified());
                last.get(path) != Some(content)
                    && time.unwrap_or(SystemTime::UNIX_EPOCH) <= last_time
            };
            for (path, content) in &files {
                if let (true, Some(package)) =
                    (is_overlooked(path, content), self.workspace.owner(path))
                {
                    // If cleaning fails, so does the build after it, and says why.
                    let _ = remove_hook_variables(&mut Command::new("cargo"))
                        .current_dir(&self.workspace.root)
                        .args(["clean", "--quiet", "--package", &package.spec])
                        .output();
                }
            }
        }
        // Where the target folder cannot be written, the build will say so.
        if let Ok(text) = serde_json::to_vec(&files) {
            let _ = fs::create_dir_all(&self.workspace.target);
            let _ = fs::write(&list, text);
        }
        Ok(files)
    }
}

/// A hash of everything in some folders but what was built there and what git keeps; `None` of
/// no folder.
fn hash_of_folders(folders: &BTreeSet<PathBuf>) -> Option<String> {
    let mut files = String::new();
    for folder in folders {
        push_files(&mut files, folder);
    }
    (!folders.is_empty()).then(|| hash(&files))
}

/// Writes the files below a folder with a hash of each.
fn push_files(text: &mut String, folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let is_hidden = |name: &OsStr| name.as_encoded_bytes().starts_with(b".");
        let is_link = path.is_symlink();
        if path.file_name().is_some_and(is_hidden) || path.join("CACHEDIR.TAG").exists() {
            continue;
        }
        if path.is_dir() && !is_link {
            push_files(text, &path);
        } else if let Ok(bytes) = fs::read(&path) {
            let content = XxHash3_128::oneshot(&bytes);
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{} {content:032x}", path.display());
        }
    }
}

/// The text of a file, which git may have written to the disk with other line ends than it
/// keeps.
fn as_git_keeps(bytes: &[u8]) -> String {
    unix_lines(&String::from_utf8_lossy(bytes)).into_owned()
}

/// The newest of some runs that says everything about a scope, alone or as a shard.
fn covering<'a>(runs: &'a [Run], scope: &Scope) -> Option<&'a Run> {
    let whole = runs.iter().find(|run| run.scope.covers(scope));
    whole.or_else(|| shards_together(runs, scope))
}

/// One of some runs that are shards of one cut and cover a scope together; the one
/// that ended first, since the whole is as old as its oldest part.
fn shards_together<'a>(runs: &'a [Run], scope: &Scope) -> Option<&'a Run> {
    let shard_of = |run: &'a Run| match &run.scope {
        Scope::Shard(shard) if shard.of.covers(scope) => Some((run, shard)),
        _ => None,
    };
    let shards: Vec<(&Run, &Shard)> = runs.iter().filter_map(shard_of).collect();
    shards.iter().find_map(|(_, first)| {
        let of_cut = shards.iter().filter(|(_, shard)| shard.is_sibling(first));
        // Runs are listed newest first.
        let by_index: BTreeMap<u32, &Run> = of_cut
            .rev()
            .map(|(run, shard)| (shard.number.index, *run))
            .collect();
        let is_whole = by_index.len() == first.number.count as usize;
        let oldest = by_index.into_values().min_by_key(|run| run.finished_ms);
        oldest.filter(|_| is_whole)
    })
}

impl RevisionReport {
    /// A revision of which no test was run.
    pub(crate) fn untested(revision: &Revision) -> Self {
        Self {
            name: revision.name(),
            commit: revision.subject.commit.clone(),
            subject: revision.commit.subject.clone(),
            tree: revision.subject.tree.clone(),
            dirty: revision.subject.dirty,
            tests: None,
            success_rate: None,
            source: None,
        }
    }
}

/// What the store has of the tests of a revision.
#[derive(Clone, Debug, Default)]
pub struct StoredTests {
    /// The state of its tests.
    pub set: TestSet,
    /// The newest run that covers what was asked for.
    pub covering: Option<Run>,
    /// The runs that say so.
    pub runs: Vec<Run>,
}

/// One revision of a change: a tree, and the place where it can be run.
#[derive(Debug)]
pub struct Revision {
    /// What it is.
    pub subject: Subject,
    /// The commit it is, or is made from.
    pub commit: Commit,
    /// Whether the user's files hold it.
    pub in_place: bool,
    checkout: Option<(Worktree, Workspace)>,
    environment: Option<Environment>,
    built: BuiltTests,
}

impl Revision {
    /// A revision that was run elsewhere: there is nothing to run it in here.
    pub(crate) fn elsewhere(report: &RevisionReport) -> Self {
        let subject = Subject {
            tree: report.tree.clone(),
            commit: report.commit.clone(),
            dirty: report.dirty,
            checkout: false,
            branch: None,
        };
        let commit = Commit {
            id: report.commit.clone(),
            tree: report.tree.clone(),
            subject: report.subject.clone(),
        };
        Self {
            subject,
            commit,
            in_place: false,
            checkout: None,
            environment: None,
            built: BuiltTests::default(),
        }
    }

    /// The same revision, to be run in a checkout beside the user's files.
    pub(crate) fn in_checkout(&self) -> Self {
        let mut subject = self.subject.clone();
        subject.checkout = true;
        Self {
            subject,
            commit: self.commit.clone(),
            in_place: false,
            checkout: None,
            environment: None,
            built: BuiltTests::default(),
        }
    }

    /// Gives the place of its checkout back.
    pub(crate) fn leave(&mut self) {
        self.checkout = None;
        self.built = BuiltTests::default();
    }

    /// What people call it.
    pub fn name(&self) -> String {
        if self.subject.dirty {
            format!("{} with changes", self.commit.short())
        } else {
            self.commit.short().to_owned()
        }
    }

    /// Whether it was checked out beside the user's tree.
    pub fn is_checked_out(&self) -> bool {
        self.checkout.is_some()
    }

    /// What besides the tree decides the outcome of its tests.
    pub fn environment(&mut self, session: &Session) -> Result<Environment, SessionError> {
        if let Some(environment) = &self.environment {
            return Ok(environment.clone());
        }
        let lockfile = session.lockfile(&self.subject.tree)?;
        let mut root = session.workspace.root.clone();
        for name in ["rust-toolchain", "rust-toolchain.toml"] {
            let here = fs::read(session.repo.root().join(name)).ok();
            let text = |file: Option<Vec<u8>>| file.map(|bytes| as_git_keeps(&bytes));
            // Another toolchain can only be asked where its file is.
            if !self.in_place && text(session.repo.file(&self.subject.tree, name)?) != text(here) {
                self.check_out(session)?;
                root.clone_from(&self.location(session).workspace.root);
            }
        }
        let environment = session.environment(&root, lockfile.as_deref());
        self.environment = Some(environment.clone());
        Ok(environment)
    }

    fn check_out(&mut self, session: &Session) -> Result<(), SessionError> {
        if self.in_place || self.checkout.is_some() {
            return Ok(());
        }
        let tree = self.subject.dirty.then_some(self.subject.tree.as_str());
        let worktree = session.repo.worktree(&self.commit, tree)?;
        let root = worktree.dir().join(&session.workspace.dir);
        // A lockfile that git ignores is part of neither revision, and of both.
        let lockfile = root.join("Cargo.lock");
        if !lockfile.exists() && root.exists() {
            // Without one, Cargo makes its own.
            let _ = fs::copy(session.workspace.root.join("Cargo.lock"), &lockfile);
        }
        let workspace = metadata::load(&root, worktree.dir())?;
        self.checkout = Some((worktree, workspace));
        Ok(())
    }

    /// Makes its place ready for a build; returns the user's files if that is where it is run.
    fn prepare(
        &mut self,
        session: &Session,
        events: Events<'_>,
    ) -> Result<BTreeMap<String, String>, SessionError> {
        if self.in_place {
            return session.freshen();
        }
        if self.checkout.is_none() {
            let name = self.name();
            events(Event::Step(format!(
                "check out {name} beside the working tree"
            )));
            self.check_out(session)?;
        }
        Ok(BTreeMap::new())
    }

    /// The root of its workspace, checked out if it has to be.
    pub(crate) fn root(
        &mut self,
        session: &Session,
        events: Events<'_>,
    ) -> Result<PathBuf, SessionError> {
        if !self.in_place {
            self.prepare(session, events)?;
        }
        Ok(self.workspace(session).root.clone())
    }

    /// Its packages; those of the user's files while it is not checked out.
    pub(crate) fn workspace<'a>(&'a self, session: &'a Session) -> &'a Workspace {
        self.location(session).workspace
    }

    /// Where it is run.
    pub(crate) fn location<'a>(&'a self, session: &'a Session) -> BuildLocation<'a> {
        match &self.checkout {
            Some((worktree, workspace)) => BuildLocation {
                workspace,
                target: Some(worktree.target()),
            },
            None => BuildLocation {
                workspace: &session.workspace,
                target: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lockfile_on_disk_is_the_one_that_git_keeps() {
        assert_eq!(as_git_keeps(b"a\r\nb\r\n"), as_git_keeps(b"a\nb\n"));
        assert_ne!(as_git_keeps(b"a\nb\n"), as_git_keeps(b"a\nc\n"));
    }
}
