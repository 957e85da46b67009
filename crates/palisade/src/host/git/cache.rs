//! The folder of all checkouts and what is built from them: how large it is, and what goes when
//! it is larger than it may be.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use twox_hash::XxHash3_128;

use super::GitError;
use super::worktree::{Slot, cache_dir};

/// The file that says whose checkouts a folder holds.
const OWNER: &str = "repository";

/// The file of a place that says that it is in use; it stays when all else goes.
const LOCK: &str = "lock";

/// A place for checkouts of one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedPlace {
    /// The repository's git folder, where it is known.
    pub repository: Option<PathBuf>,
    /// The place.
    pub dir: PathBuf,
    /// How large it is.
    pub bytes: u64,
    /// When it was last used.
    pub used: SystemTime,
}

/// The folder that holds all places.
pub fn folder() -> PathBuf {
    cache_dir()
}

/// What the folder of all places for a repository is called, by its git folder.
pub fn name(common_dir: &Path) -> String {
    let name = XxHash3_128::oneshot(common_dir.as_os_str().as_encoded_bytes());
    let name = format!("{name:032x}");
    // Programs that compile and link know paths of up to 260 characters there.
    let length = if cfg!(windows) { 12 } else { name.len() };
    name[..length].to_owned()
}

/// All places with something in them, those that were used last before the others.
pub fn places() -> Vec<CachedPlace> {
    places_in(&cache_dir())
}

fn places_in(folder: &Path) -> Vec<CachedPlace> {
    let mut found = Vec::new();
    for home in folders(folder) {
        let owner = fs::read_to_string(home.join(OWNER)).ok();
        for dir in folders(&home) {
            let used = fs::metadata(dir.join(LOCK)).and_then(|meta| meta.modified());
            // A link leads out of the cache.
            let (Ok(used), false) = (used, dir.is_symlink()) else {
                continue;
            };
            let bytes = size(&dir);
            if bytes > 0 {
                found.push(CachedPlace {
                    repository: owner.as_ref().map(PathBuf::from),
                    dir,
                    bytes,
                    used,
                });
            }
        }
    }
    found.sort_by_key(|place| std::cmp::Reverse(place.used));
    found
}

/// Empties places until the others are not larger than `limit` together: those that were used
/// last stay, and so do those in use. Returns how much was removed.
pub fn keep_within(limit: u64) -> u64 {
    keep_within_of(&cache_dir(), limit)
}

fn keep_within_of(folder: &Path, limit: u64) -> u64 {
    let (mut kept, mut removed) = (0, 0);
    for place in places_in(folder) {
        if kept + place.bytes <= limit || !place.clear() {
            kept += place.bytes;
        } else {
            removed += place.bytes;
        }
    }
    removed
}

impl CachedPlace {
    /// Whether it is of a repository with this git folder.
    pub fn is_of(&self, common_dir: &Path) -> bool {
        self.dir.parent() == Some(Slot::home(common_dir).as_path())
    }

    /// Empties it; false if it is in use. What cannot be removed stays.
    pub fn clear(&self) -> bool {
        let Ok(lock) = fs::File::open(self.dir.join(LOCK)) else {
            return false;
        };
        if lock.try_lock().is_err() {
            return false;
        }
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let _ = match entry.file_type() {
                Ok(kind) if kind.is_dir() => fs::remove_dir_all(path),
                _ if entry.file_name() == LOCK => Ok(()),
                _ => fs::remove_file(path),
            };
        }
        true
    }
}

/// Says whose checkouts a folder holds.
pub(super) fn name_owner(home: &Path, common_dir: &Path) -> Result<(), GitError> {
    let path = home.join(OWNER);
    if path.exists() {
        return Ok(());
    }
    let text = common_dir.to_string_lossy();
    fs::write(&path, text.as_bytes()).map_err(|source| GitError::Write { path, source })
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let folders = entries.map(|entry| entry.path());
    folders.filter(|path| path.is_dir()).collect()
}

/// How large the files below a folder are, where no link leads to.
fn size(dir: &Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        bytes += match entry.metadata() {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            Ok(meta) if meta.is_file() => meta.len(),
            _ => 0,
        };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A place with so many bytes that was last used some seconds after the first one.
    fn place(folder: &Path, name: &str, bytes: usize, used: u64) -> fs::File {
        let dir = folder.join(name);
        fs::create_dir_all(dir.join("target/deps")).expect("made");
        fs::write(dir.join("target/deps/a"), vec![0; bytes]).expect("written");
        let lock = fs::File::create(dir.join(LOCK)).expect("made");
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + used);
        lock.set_modified(time).expect("set");
        lock
    }

    #[test]
    fn the_places_that_were_used_last_stay_and_those_in_use() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let in_use = place(folder, "one/0", 400, 0);
        drop(place(folder, "one/1", 300, 1));
        drop(place(folder, "two/0", 200, 2));
        drop(place(folder, "two/1", 100, 3));
        in_use.try_lock().expect("locked");
        let sizes = || -> Vec<u64> { places_in(folder).iter().map(|p| p.bytes).collect() };
        assert_eq!(sizes(), [100, 200, 300, 400]);
        assert_eq!(keep_within_of(folder, 1000), 0);
        assert_eq!(keep_within_of(folder, 350), 300);
        assert_eq!(sizes(), [100, 200, 400]);
        assert_eq!(keep_within_of(folder, 0), 300);
        assert_eq!(sizes(), [400]);
        assert!(folder.join("two/1/lock").exists());
    }
}
