//! What changed between two trees.

use super::{GitError, Repo};
use crate::change::{ChangeKind, FileChange, Hunk};

impl Repo {
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
pub(super) fn patch_hunks(patch: &str) -> Vec<Vec<Hunk>> {
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
