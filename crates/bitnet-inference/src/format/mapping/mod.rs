//! The bytes of a model file: mapped, in memory, or built into the program.
//!
//! If another program truncates a mapped file, accessing it raises SIGBUS on Unix, which
//! kills the process. So files are checked before and after work
//! ([`FileBytes::changed`]), and a program can call [`watch_mapped_files`] to be notified
//! in between. Windows does not allow truncation of mapped files.

use std::fs::{File, Metadata};
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bitnet_core::memory::FixedBytes;
use memmap2::Mmap;

mod identity;
#[cfg(unix)]
mod watch;
pub(crate) use identity::FileIdentity;
#[cfg(unix)]
pub use watch::watch_mapped_files;

/// The bytes of one file, readable as a slice.
#[derive(Debug)]
pub(crate) enum FileBytes {
    /// Mapped from a file.
    Mapped(MappedFile),
    /// Read by the caller.
    Owned(Vec<u8>),
    /// Built into the program.
    #[cfg_attr(not(feature = "builtin-model"), expect(dead_code))]
    Static(&'static [u8]),
}

/// A mapped file with its size and modification time when it was mapped.
#[derive(Debug)]
pub(crate) struct MappedFile {
    #[cfg(unix)]
    _watched: Option<watch::Watched>,
    mapping: Mmap,
    file: File,
    path: PathBuf,
    len: u64,
    /// Modification time, if known.
    modified: Option<SystemTime>,
    identity: Option<FileIdentity>,
}

/// A file was truncated or modified since it was mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) file: PathBuf,
}

fn modified(metadata: &Metadata) -> Option<SystemTime> {
    metadata.modified().ok()
}

impl FileBytes {
    /// Maps a whole file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        // SAFETY: the mapping is private and read-only. As usual for model files, we
        // assume that no other program modifies the file while it is mapped: they are
        // written once and replaced by a rename. `changed` checks this; bytes that
        // change meanwhile are weights or were validated before, and accesses beyond
        // a new end raise a signal.
        #[expect(unsafe_code, reason = "mapping a file is unsafe by its nature")]
        let mapping = unsafe { Mmap::map(&file)? };
        Ok(Self::Mapped(MappedFile {
            #[cfg(unix)]
            _watched: watch::Watched::new(&mapping, path),
            len: metadata.len(),
            modified: modified(&metadata),
            identity: FileIdentity::new(path, &metadata),
            path: path.to_owned(),
            mapping,
            file,
        }))
    }

    /// Returns whether a mapped file was truncated or modified, as far as known.
    pub(crate) fn changed(&self) -> Option<Changed> {
        let Self::Mapped(mapped) = self else {
            return None;
        };
        let metadata = mapped.file.metadata().ok()?;
        let is_same = metadata.len() == mapped.len && modified(&metadata) == mapped.modified;
        (!is_same).then(|| Changed {
            file: mapped.path.clone(),
        })
    }

    /// Returns what identifies a mapped file as it was when it was mapped, as far as known.
    pub(crate) fn identity(&self) -> Option<FileIdentity> {
        match self {
            Self::Mapped(mapped) => mapped.identity.clone(),
            Self::Owned(_) | Self::Static(_) => None,
        }
    }

    /// Returns whether [`release`](Self::release) frees memory.
    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self, Self::Mapped(_))
    }

    /// Asks for large pages of a mapped file, all of which is read again and again. They are read
    /// ahead as a whole, too.
    pub(crate) fn prefer_large_pages(&self) {
        // A hint, without effect where the system has no large pages of files.
        #[cfg(target_os = "linux")]
        if let Self::Mapped(MappedFile { mapping, .. }) = self {
            let _ = mapping.advise(memmap2::Advice::HugePage);
        }
    }

    /// Evicts a part of a mapped file from memory until it is accessed again. Does nothing if
    /// the file is not mapped or the platform does not support it.
    #[cfg_attr(not(unix), expect(unused_variables))]
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(MappedFile { mapping, .. }) = self
            && !range.is_empty()
        {
            let dont_need = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the mapping is read-only, so its pages can be read from the file
            // again. (The advice discards modified pages only.)
            #[expect(unsafe_code, reason = "it is unsafe for mappings that were changed")]
            let advised =
                unsafe { mapping.unchecked_advise_range(dont_need, range.start, range.len()) };
            // Best effort: pages that are not released stay in memory as page cache.
            let _ = advised;
        }
    }
}

// SAFETY: a mapping is not remapped, and the contents of a vector do not move with it. Nobody
// modifies the bytes, as far as they are read (see `open`).
#[expect(unsafe_code, reason = "a promise to those who read the bytes")]
unsafe impl FixedBytes for FileBytes {
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(mapped) => &mapped.mapping,
            Self::Owned(bytes) => bytes,
            Self::Static(bytes) => bytes,
        }
    }
}
