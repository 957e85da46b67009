//! Which commits come before which.

use super::{Commit, GitError, Repo};
use crate::bisect::Node;

impl Repo {
    /// Whether `commit` holds `ancestor`, or is it.
    pub fn is_ancestor(&self, ancestor: &str, commit: &str) -> Result<bool, GitError> {
        let mut command = self.command(&["merge-base", "--is-ancestor", ancestor, commit]);
        let output = command.output().map_err(GitError::Start)?;
        Ok(output.status.success())
    }

    /// The newest commit that two commits both hold; `None` if there is none.
    pub fn merge_base(&self, one: &str, other: &str) -> Result<Option<Commit>, GitError> {
        let mut command = self.command(&["merge-base", one, other]);
        let output = command.output().map_err(GitError::Start)?;
        let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() || id.is_empty() {
            return Ok(None);
        }
        self.resolve(&id).map(Some)
    }

    /// Who wrote a commit, and on which day.
    pub fn signature(&self, commit: &str) -> Result<(String, String), GitError> {
        let shown = self.text(&["show", "-s", "--format=%an%n%as", commit])?;
        let (author, date) = shown.split_once('\n').unwrap_or((&shown, ""));
        Ok((author.to_owned(), date.trim_end().to_owned()))
    }

    /// All commits that `bad` holds and `good` does not, each after its parents; of merges
    /// the first parent only if that is asked for.
    pub fn between(
        &self,
        good: &str,
        bad: &str,
        first_parent: bool,
    ) -> Result<Vec<Node>, GitError> {
        let range = format!("{good}..{bad}");
        let mut args = vec!["rev-list", "--reverse", "--topo-order", "--parents"];
        args.extend(first_parent.then_some("--first-parent"));
        args.push(&range);
        let listed = self.text(&args)?;
        let node = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            let id = words.next()?;
            let parents = if first_parent {
                words.take(1).collect()
            } else {
                words.collect()
            };
            Some(Node { id, parents })
        };
        Ok(listed.lines().filter_map(node).collect())
    }
}
