//! The bytes of a model file: mapped, in memory, or built into the program.

use std::fs::File;
use std::io;
use std::ops::Deref;
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
