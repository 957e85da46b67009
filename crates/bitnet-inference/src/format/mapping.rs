//! The bytes of a model file: mapped, in memory, or built into the program.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::Mmap;

/// The bytes of one file, readable as a slice.
#[derive(Debug)]
pub(crate) enum FileBytes {
    /// Mapped from a file.
    Mapped(Mmap),
    /// Read by the caller.
    Owned(Vec<u8>),
    /// Part of the program.
    #[cfg_attr(not(feature = "builtin-model"), expect(dead_code))]
    Static(&'static [u8]),
}

impl FileBytes {
    /// Maps a whole file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the mapping is private and read-only. That no other program
        // shortens or rewrites the file while it is mapped is the usual
        // assumption of every program that maps model files: all of them are
        // written once and replaced by a rename.
        #[expect(unsafe_code, reason = "mapping a file is unsafe by its nature")]
        let mapping = unsafe { Mmap::map(&file)? };
        Ok(Self::Mapped(mapping))
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
        if let Self::Mapped(mapping) = self
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
            Self::Mapped(mapping) => mapping,
            Self::Owned(bytes) => bytes,
            Self::Static(bytes) => bytes,
        }
    }
}
