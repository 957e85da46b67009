//! The files that differ between two trees.

/// What happened to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
    /// Its content or mode changed.
    Modified,
    /// It had another name.
    Renamed {
        /// The name before.
        from: String,
    },
}

/// A run of changed lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hunk {
    /// The first line in the new file, counted from 1.
    pub start: u32,
    /// How many lines of the new file it covers; 0 where lines were only taken away.
    pub lines: u32,
}

/// A changed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    /// The path from the repository's root, with `/`.
    pub path: String,
    /// What happened.
    pub kind: ChangeKind,
    /// Where; empty for files that git takes for binary.
    pub hunks: Vec<Hunk>,
}
