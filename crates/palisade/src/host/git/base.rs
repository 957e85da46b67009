//! Which commit a change starts from.

use super::{Commit, GitError, Repo};

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

impl Repo {
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
}
