//! The bytes of a model file: mapped, in memory, or built into the program.
//!
//! A mapped file may be shortened by another program. Whoever reads it then is sent
//! SIGBUS by Unix systems, which ends the program without a word. So it is looked at
//! where work begins and ends ([`FileBytes::changed`]); and a program that wants to
//! know of it in between calls [`watch_mapped_files`]. Windows does not allow it.

use std::fs::{File, Metadata};
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::Mmap;

#[cfg(unix)]
mod watch;
#[cfg(unix)]
pub use watch::watch_mapped_files;

/// The bytes of one file, readable as a slice.
#[derive(Debug)]
pub(crate) enum FileBytes {
    /// Mapped from a file.
    Mapped(MappedFile),
    /// Read by the caller.
    Owned(Vec<u8>),
    /// Part of the program.
    #[cfg_attr(not(feature = "builtin-model"), expect(dead_code))]
    Static(&'static [u8]),
}

/// A file in memory, and what it was when it was mapped.
#[derive(Debug)]
pub(crate) struct MappedFile {
    #[cfg(unix)]
    _watched: Option<watch::Watched>,
    mapping: Mmap,
    file: File,
    path: PathBuf,
    len: u64,
    /// When it was last written to, where the system knows.
    modified: Option<SystemTime>,
}

/// A file was shortened or written to since it was mapped.
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
        // SAFETY: the mapping is private and read-only. That no other program
        // rewrites the file while it is mapped is the usual assumption of every
        // program that maps model files: all of them are written once and replaced by
        // a rename. It is checked by `changed`, and bytes that change meanwhile are
        // weights or were checked before; what lies behind a new end is never read:
        // the system sends a signal instead.
        #[expect(unsafe_code, reason = "mapping a file is unsafe by its nature")]
        let mapping = unsafe { Mmap::map(&file)? };
        Ok(Self::Mapped(MappedFile {
            #[cfg(unix)]
            _watched: watch::Watched::new(&mapping, path),
            len: metadata.len(),
            modified: modified(&metadata),
            path: path.to_owned(),
            mapping,
            file,
        }))
    }

    /// Returns whether a mapped file was shortened or written to, as far as the
    /// system tells.
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

    /// Returns whether what is released takes no memory.
    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self, Self::Mapped(_))
    }

    /// Takes a part of a mapped file out of memory, until somebody looks at it
    /// again. Where the system cannot, and for what is not mapped, nothing happens.
    #[cfg_attr(not(unix), expect(unused_variables))]
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(MappedFile { mapping, .. }) = self
            && !range.is_empty()
        {
            let dont_need = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: nobody can write to the mapping, so what is read from the file
            // again is what was there. (What the advice could lose is changes.)
            #[expect(unsafe_code, reason = "it is unsafe for mappings that were changed")]
            let advised =
                unsafe { mapping.unchecked_advise_range(dont_need, range.start, range.len()) };
            // A wish: what is not released stays in memory, as page cache does.
            let _ = advised;
        }
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
