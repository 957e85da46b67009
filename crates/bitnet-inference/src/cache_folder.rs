//! A folder of files that can be made again.
//!
//! Several processes may share a folder. A file is complete when it gets its name.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const TEMPORARY: &str = ".new-";
/// A temporary file that was not written to for so long has no process any more.
const ABANDONED: Duration = Duration::from_hours(1);

/// A folder of files of one kind, limited in size.
#[derive(Clone, Debug)]
pub(crate) struct CacheFolder {
    path: PathBuf,
    /// The kind: the extension of the files.
    extension: &'static str,
    max_bytes: u64,
}

/// A file of the folder.
#[derive(Clone, Debug)]
pub(crate) struct CachedFile {
    pub(crate) path: PathBuf,
    pub(crate) n_bytes: u64,
    /// When it was used last.
    pub(crate) used: SystemTime,
}

impl CacheFolder {
    /// Opens a folder, and makes it if there is none. `max_bytes` limits all files of the kind;
    /// those not used for longest are removed first.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder cannot be made or read.
    pub(crate) fn open(path: &Path, extension: &'static str, max_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let is_temporary = entry.file_name().to_string_lossy().starts_with(TEMPORARY);
            if is_temporary && age(&entry).is_some_and(|age| age > ABANDONED) {
                // Another process may have removed it.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Self {
            path: path.to_owned(),
            extension,
            max_bytes,
        })
    }

    /// Returns the path of the folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the limit of all files together.
    pub(crate) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Returns the path of a file.
    pub(crate) fn file(&self, id: u128) -> PathBuf {
        self.path.join(format!("{id:032x}.{}", self.extension))
    }

    /// Makes a file of `n_bytes`, which `write` writes, after others have made room for it.
    ///
    /// # Errors
    ///
    /// Returns the error of `write`, or one if the file cannot be made. There is no file then,
    /// or that which was there before.
    pub(crate) fn make(
        &self,
        id: u128,
        n_bytes: u64,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<()> {
        self.make_room(n_bytes)?;
        let mut file = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempfile_in(&self.path)?;
        write(file.as_file_mut())?;
        file.persist(self.file(id))?;
        Ok(())
    }

    /// Marks files as used now: each before those after it, so that none is removed before
    /// those that need it.
    pub(crate) fn touch(&self, ids: impl DoubleEndedIterator<Item = u128>) {
        let mut now = SystemTime::now();
        for id in ids.rev() {
            // Another process may have removed it.
            let file = File::options().append(true).open(self.file(id));
            let _ = file.and_then(|file| file.set_modified(now));
            now += Duration::from_micros(1);
        }
    }

    /// Returns the files, that not used for longest first.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder cannot be read.
    pub(crate) fn files(&self) -> io::Result<Vec<CachedFile>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            // Another process may have removed it.
            if let (true, Ok(metadata)) = (self.has(&entry.path()), entry.metadata()) {
                files.push(CachedFile {
                    path: entry.path(),
                    n_bytes: metadata.len(),
                    used: metadata.modified()?,
                });
            }
        }
        files.sort_unstable_by(|a, b| (a.used, &a.path).cmp(&(b.used, &b.path)));
        Ok(files)
    }

    /// Removes the files not used for longest, until so many bytes more are within the limit.
    fn make_room(&self, n_bytes: u64) -> io::Result<()> {
        let files = self.files()?;
        let mut total: u64 = files.iter().map(|file| file.n_bytes).sum();
        for CachedFile {
            path, n_bytes: len, ..
        } in files
        {
            if total.saturating_add(n_bytes) <= self.max_bytes {
                break;
            }
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => total -= len,
            }
        }
        Ok(())
    }

    /// Returns whether a path is that of a file of the kind.
    fn has(&self, path: &Path) -> bool {
        let is_id = |name: &str| name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit());
        path.extension().is_some_and(|end| end == self.extension)
            && (path.file_stem()).is_some_and(|name| name.to_str().is_some_and(is_id))
    }
}

/// Returns the time since a file was changed.
fn age(entry: &fs::DirEntry) -> Option<Duration> {
    entry.metadata().ok()?.modified().ok()?.elapsed().ok()
}
