//! The changed files between two trees, and what they risk.

use std::path::Path;

use crate::host::git::{GitError, Repo};
use crate::host::session::Session;
use crate::host::source::{includes, rust_file};
use crate::risk::{Assessment, Files, RustFile, assess};

/// The changed files between two trees, and what they risk.
pub fn assess_change(
    session: &Session,
    base: &str,
    candidate: &str,
) -> Result<Assessment, GitError> {
    let changes = session.repo.diff(base, candidate)?;
    let files = TreeFiles {
        repo: &session.repo,
        base,
        candidate,
        root: &session.workspace.root,
    };
    Ok(assess(
        &changes,
        &session.workspace,
        &session.policy.class,
        &files,
    ))
}

/// The contents of two trees.
struct TreeFiles<'a> {
    repo: &'a Repo,
    base: &'a str,
    candidate: &'a str,
    root: &'a Path,
}

impl TreeFiles<'_> {
    fn read(&self, tree: &str, path: &str) -> RustFile {
        // A file that cannot be read is judged as one that is not understood.
        let bytes = self.repo.file(tree, path).ok().flatten();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        rust_file(text.as_deref())
    }
}

impl Files for TreeFiles<'_> {
    fn base(&self, path: &str) -> RustFile {
        self.read(self.base, path)
    }

    fn candidate(&self, path: &str) -> RustFile {
        self.read(self.candidate, path)
    }

    fn is_included(&self, name: &str) -> bool {
        includes(self.root, name)
    }
}
