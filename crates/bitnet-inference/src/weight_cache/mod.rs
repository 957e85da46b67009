//! The weight cache: packed weights in a folder, which the next start maps instead of packing
//! them again.
//!
//! ```text
//! load   Checkpoint ── CacheKey ──► PackedFile, mapped ──► Model
//! save   Model ── PackedMatrix ──► PackedFile
//! ```
//!
//! A file is of one model, as its files were when it was packed, of one layout and of one
//! version of this program. It is complete when it gets its name, and is checked when it is
//! mapped: a file that is damaged is packed again. So the cache changes no result.

mod key;
mod packed_file;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bitnet_core::{PackedInt8, PackedTernary, TernaryLayout, ThreadPool};
pub(crate) use key::{CacheKey, PackedAs};
pub(crate) use packed_file::PackedFile;
use packed_file::PackedFileError;

use crate::cache_folder::{CacheFolder, CachedFile};
use crate::note::Note;

/// The extension of the files.
const EXTENSION: &str = "packed";

/// The sizes that a cache allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightCacheLimits {
    /// The most that all files have together, in bytes. Those not used for longest are removed
    /// first.
    pub max_bytes: u64,
    /// Models with less packed weights are not saved: packing them is fast.
    pub min_model_bytes: usize,
}

/// A folder of packed weights. Processes may share it.
#[derive(Clone, Debug)]
pub struct WeightCache {
    folder: CacheFolder,
    min_model_bytes: usize,
}

/// The packed weights of a model in a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedWeights {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub n_bytes: u64,
    /// When it was used last.
    pub used: SystemTime,
    /// The first file of the model; `None` if the file is damaged.
    pub model: Option<PathBuf>,
    /// Whether a model can be loaded from it: its files are as they were, and this version of
    /// the program packed it.
    pub is_current: bool,
}

/// What came of saving a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saved {
    /// The packed weights are in this file now.
    Written {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        n_bytes: u64,
    },
    /// There is nothing to save: the model comes from a cache, was loaded without one, is not
    /// packed or too small, or exceeds the limit.
    Nothing,
    /// The disk has less than twice the space that the file needs.
    NoSpace {
        /// The size of the file in bytes.
        n_bytes: u64,
        /// The space that is left.
        available: u64,
    },
    /// `progress` cancelled it.
    Cancelled,
}

impl WeightCache {
    /// Opens a folder, and makes it if there is none.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder cannot be made or read.
    pub fn open(folder: &Path, limits: WeightCacheLimits) -> io::Result<Self> {
        Ok(Self {
            folder: CacheFolder::open(folder, EXTENSION, limits.max_bytes)?,
            min_model_bytes: limits.min_model_bytes,
        })
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Maps the packed weights of a model and checks them on all threads. If there are none, or
    /// they are damaged, which is noted, they are to be packed.
    pub(crate) fn find(
        &self,
        key: &CacheKey,
        threads: &mut ThreadPool,
    ) -> (Option<PackedFile>, Option<Note>) {
        let path = self.folder.file(key.id());
        match PackedFile::open(&path, key, threads) {
            Ok(file) => {
                self.folder.touch(std::iter::once(key.id()));
                (Some(file), None)
            }
            Err(PackedFileError::Read(error)) if error.kind() == io::ErrorKind::NotFound => {
                (None, None)
            }
            Err(error) => {
                let note = Note::CachedWeights {
                    file: path.display().to_string(),
                    error: error.to_string(),
                };
                (None, Some(note))
            }
        }
    }

    /// Writes packed weights, at the speed of the disk or of memory. Calls `progress(done, total)`
    /// with bytes, which may cancel it.
    pub(crate) fn write(
        &self,
        key: &CacheKey,
        layout: TernaryLayout,
        matrices: &[(String, PackedMatrix<'_>)],
        mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> io::Result<Saved> {
        let total = matrices.iter().map(|(_, matrix)| matrix.n_bytes()).sum();
        let n_bytes = packed_file::max_len(total, matrices.len());
        if total < self.min_model_bytes || n_bytes > self.folder.max_bytes() {
            return Ok(Saved::Nothing);
        }
        let available = available_space(self.path())?;
        if available / 2 < n_bytes {
            return Ok(Saved::NoSpace { n_bytes, available });
        }
        let mut is_cancelled = false;
        let made = self.folder.make(key.id(), n_bytes, |file| {
            packed_file::write(file, key, layout, matrices, |done| {
                let next = progress(done, total);
                is_cancelled = next.is_break();
                next
            })
        });
        match made {
            Ok(()) => {
                let path = self.folder.file(key.id());
                let n_bytes = path.metadata()?.len();
                Ok(Saved::Written { path, n_bytes })
            }
            Err(_) if is_cancelled => Ok(Saved::Cancelled),
            Err(error) => Err(error),
        }
    }

    /// Returns the files of the cache, that used last first.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder cannot be read.
    pub fn entries(&self) -> io::Result<Vec<CachedWeights>> {
        let files = self.folder.files()?;
        let entry = |file: CachedFile| {
            let key = packed_file::read_key(&file.path).ok();
            CachedWeights {
                n_bytes: file.n_bytes,
                used: file.used,
                is_current: key.as_ref().is_some_and(CacheKey::is_current),
                model: key.map(|key| key.model()),
                path: file.path,
            }
        };
        Ok(files.into_iter().rev().map(entry).collect())
    }

    /// Removes a file of the cache. Programs that have mapped it go on with it, except on
    /// Windows, where it cannot be removed then.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be removed.
    pub fn remove(&self, weights: &CachedWeights) -> io::Result<()> {
        match std::fs::remove_file(&weights.path) {
            // Another process has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

#[cfg(any(unix, windows))]
fn available_space(folder: &Path) -> io::Result<u64> {
    fs4::available_space(folder)
}

/// There are no files.
#[cfg(not(any(unix, windows)))]
fn available_space(_: &Path) -> io::Result<u64> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A packed matrix of a model.
#[derive(Debug)]
pub(crate) enum PackedMatrix<'a> {
    Ternary(&'a PackedTernary),
    Int8(&'a PackedInt8),
}

impl PackedMatrix<'_> {
    /// Returns the bytes of its arrays.
    fn n_bytes(&self) -> usize {
        match self {
            Self::Ternary(matrix) => matrix.n_bytes(),
            Self::Int8(matrix) => matrix.n_bytes(),
        }
    }
}
