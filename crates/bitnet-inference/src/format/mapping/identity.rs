//! Whether a file is still the one that it was.

use std::fs::Metadata;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// A file with what changes when it is written or replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileIdentity {
    /// The absolute path.
    path: String,
    len: u64,
    /// Nanoseconds since 1970.
    modified: u128,
    /// On Unix, the inode, and when it was changed: programs can set the time of modification,
    /// but not this one.
    inode: Option<(u64, i64, i64)>,
}

impl FileIdentity {
    /// Returns the identity of a file with this metadata; `None` if its path is not Unicode, or
    /// its time of modification is not known.
    pub(crate) fn new(path: &Path, metadata: &Metadata) -> Option<Self> {
        let modified = metadata.modified().ok()?;
        let modified = modified.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        #[cfg(unix)]
        let inode = {
            use std::os::unix::fs::MetadataExt;
            Some((metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
        };
        #[cfg(not(unix))]
        let inode = None;
        Some(Self {
            path: std::path::absolute(path).ok()?.to_str()?.to_owned(),
            len: metadata.len(),
            modified: modified.as_nanos(),
            inode,
        })
    }

    /// Returns the identity of the file that is there now.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        Self::new(path, &path.metadata().ok()?)
    }

    /// Returns the path.
    pub(crate) fn path(&self) -> &Path {
        Path::new(&self.path)
    }
}
