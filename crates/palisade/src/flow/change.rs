//! The changed files between two trees, and what they risk.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use crate::host::git::{GitError, Repo};
use crate::host::reading::SourceTexts;
use crate::host::session::Session;
use crate::host::source::rust_file;
use crate::risk::{Assessment, Files, RustFile, TextKind, assess};
use crate::workspace::{Package, Workspace};

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
        workspace: &session.workspace,
        source: OnceCell::new(),
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
    workspace: &'a Workspace,
    /// The source in the user's files: read where a document or a comment changed.
    source: OnceCell<SourceTexts>,
}

impl TreeFiles<'_> {
    fn source(&self) -> &SourceTexts {
        let load = || SourceTexts::load(self.workspace);
        self.source.get_or_init(load)
    }

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
        self.source().include(name)
    }

    fn readers(&self, path: &str, owner: Option<&Package>, kind: TextKind) -> BTreeSet<String> {
        self.source().readers(path, owner, kind)
    }

    fn know_lines(&self, packages: &BTreeSet<String>) -> bool {
        self.source().know_lines(packages)
    }
}
