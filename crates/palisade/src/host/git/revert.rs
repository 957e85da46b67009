//! Branches beside the user's: a commit is taken back there, or a file changed.
//!
//! New commits go into the repository, and nothing else of it is written: not HEAD, the
//! index, the stash, or a branch that was there before.

use std::fs;
use std::path::Path;
use std::process::Output;

use super::{Commit, GitError, Repo, checked, git};

/// What came out of taking a commit back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reverted {
    /// The branch's newest commit, which does so.
    Done(Commit),
    /// Files in which later commits changed the same places.
    Conflicts(Vec<String>),
}

/// Who commits where the user has no name.
const NOBODY: [&str; 4] = [
    "-c",
    "user.name=cargo palisade",
    "-c",
    "user.email=palisade@localhost",
];

impl Repo {
    /// Takes `culprit` back on top of `on`, in a checkout beside the user's files, and
    /// names the result `branch`. A branch that begins with just that is left as it is.
    pub fn revert(&self, on: &Commit, culprit: &str, branch: &str) -> Result<Reverted, GitError> {
        if let Some(there) = self.branch_commit(branch) {
            // Behind it there may be monitors.
            let range = format!("{}..{}", on.id, there.id);
            let commits = self.text(&["rev-list", "--reverse", &range])?;
            let first = commits.lines().next().unwrap_or_default();
            let message = self.text(&["show", "-s", "--format=%B", first])?;
            let says = format!("This reverts commit {culprit}");
            if message.contains(&says) && self.resolve(&format!("{first}^"))?.id == on.id {
                return self.resolve(first).map(Reverted::Done);
            }
            return Err(GitError::BranchExists {
                branch: branch.to_owned(),
            });
        }
        let worktree = self.worktree(on, None)?;
        let parents = self.text(&["show", "-s", "--format=%P", culprit])?;
        let is_merge = parents.contains(' ');
        let mut args = vec!["revert", "--no-edit"];
        // Of a merge, what it brought to its first parent is taken back.
        args.extend(is_merge.then_some(["-m", "1"]).into_iter().flatten());
        args.push(culprit);
        let output = self.write_in(worktree.dir(), &args)?;
        if !output.status.success() {
            let conflicts = ["diff", "--name-only", "--diff-filter=U"];
            let conflicts = self.text_in(worktree.dir(), &conflicts)?;
            if conflicts.is_empty() {
                checked(&args, &output)?;
            }
            let conflicts = conflicts.lines().map(str::to_owned).collect();
            return Ok(Reverted::Conflicts(conflicts));
        }
        let made = self.text_in(worktree.dir(), &["rev-parse", "HEAD"])?;
        self.set_branch(worktree.dir(), branch, &made, "")?;
        self.resolve(&made).map(Reverted::Done)
    }

    /// Adds a commit to a branch of ours that changes one file, in a checkout beside the
    /// user's files.
    pub fn commit_file(
        &self,
        branch: &str,
        path: &str,
        text: &str,
        message: &str,
    ) -> Result<Commit, GitError> {
        let tip = self.resolve(&format!("refs/heads/{branch}"))?;
        let worktree = self.worktree(&tip, None)?;
        let place = worktree.dir().join(path);
        fs::write(&place, text).map_err(|source| GitError::Write {
            path: place,
            source,
        })?;
        for args in [
            &["add", "--force", "--", path][..],
            &["commit", "--quiet", "--message", message][..],
        ] {
            checked(args, &self.write_in(worktree.dir(), args)?)?;
        }
        let made = self.text_in(worktree.dir(), &["rev-parse", "HEAD"])?;
        self.set_branch(worktree.dir(), branch, &made, &tip.id)?;
        self.resolve(&made)
    }

    /// The newest commit of a branch, if there is such a branch.
    pub fn branch_commit(&self, branch: &str) -> Option<Commit> {
        self.resolve(&format!("refs/heads/{branch}")).ok()
    }

    /// Moves a branch from one commit, or from nothing, to another one.
    fn set_branch(&self, dir: &Path, branch: &str, to: &str, from: &str) -> Result<(), GitError> {
        /// What git takes for a branch that is not there.
        const NOTHING: &str = "0000000000000000000000000000000000000000";
        let from = if from.is_empty() { NOTHING } else { from };
        let reference = format!("refs/heads/{branch}");
        let args = ["update-ref", &reference, to, from];
        checked(&args, &self.write_in(dir, &args)?).map(drop)
    }

    /// Runs git in a checkout, so that what it makes stays in the repository. It runs no
    /// hook, asks for no key, and tidies nothing up.
    fn write_in(&self, dir: &Path, args: &[&str]) -> Result<Output, GitError> {
        let mut command = git();
        command.current_dir(dir).env("GIT_EDITOR", "true");
        for setting in [
            "core.hooksPath=/dev/null",
            "core.quotePath=false",
            "core.safecrlf=false",
            "commit.gpgSign=false",
            "gc.auto=0",
            "maintenance.auto=false",
        ] {
            command.args(["-c", setting]);
        }
        if self.user_name().is_none() {
            command.args(NOBODY);
        }
        command.args(args).output().map_err(GitError::Start)
    }
}
