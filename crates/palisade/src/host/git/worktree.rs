//! Checkouts of other commits beside the user's files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use etcetera::{BaseStrategy as _, choose_base_strategy};
use twox_hash::XxHash3_128;

use super::{Commit, GitError, Repo, git, staged_files};

impl Repo {
    /// Checks `commit` out beside the user's tree; with `tree`, its content is
    /// replaced by that tree's. The checkout is taken away when it is dropped.
    pub fn worktree(&self, commit: &Commit, tree: Option<&str>) -> Result<Worktree, GitError> {
        let worktree = self.place(Slot::acquire(&self.common_dir)?);
        // What a killed run left behind.
        worktree.remove();
        let dir = worktree.dir.to_string_lossy();
        self.text_in(&self.root, &["worktree", "prune"])?;
        let add = [
            "worktree", "add", "--quiet", "--detach", "--force", "--force", &dir, &commit.id,
        ];
        self.text_in(&self.root, &add)?;
        if let Some(tree) = tree {
            self.text_in(&worktree.dir, &["read-tree", "--reset", "-u", tree])?;
        }
        if worktree.dir.join(".gitmodules").exists() {
            self.text_in(
                &worktree.dir,
                &["submodule", "update", "--init", "--recursive", "--quiet"],
            )?;
        }
        self.restore_times(&worktree)?;
        Ok(worktree)
    }

    /// Takes away what killed runs left checked out, at places that nobody uses now.
    pub fn sweep(&self) {
        for slot in Slot::left_behind(&self.common_dir) {
            drop(self.place(slot));
        }
    }

    fn place(&self, slot: Slot) -> Worktree {
        Worktree {
            root: self.root.clone(),
            dir: slot.dir.join("tree"),
            target: slot.dir.join("target"),
            lock: slot.lock,
        }
    }

    /// Gives each file of a checkout the time at which its content was first checked
    /// out at this place. A fresh checkout makes all files look new, and Cargo would
    /// build everything again; with these times it builds what it would if the
    /// checkout had stayed.
    fn restore_times(&self, worktree: &Worktree) -> Result<(), GitError> {
        let list = worktree.dir.with_file_name("times.json");
        let known: BTreeMap<String, (String, u64)> = fs::read(&list)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let listed = self.text_in(&worktree.dir, &["ls-files", "--stage", "-z"])?;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = since.unwrap_or_default().as_millis() as u64;
        let mut times = BTreeMap::new();
        for (path, content) in staged_files(&listed) {
            let first = known.get(&path).filter(|(known, _)| *known == content);
            let time = first.map_or(now, |(_, time)| *time);
            let place = worktree.dir.join(&path);
            if place.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(time);
                // Where it fails, the file stays new and is built again.
                let _ = open_for_times(&place).and_then(|file| file.set_modified(modified));
            }
            times.insert(path, (content, time));
        }
        let text = serde_json::to_vec(&times).unwrap_or_default();
        fs::write(&list, text).map_err(|source| GitError::Write { path: list, source })
    }
}

/// A checkout of another commit, with a folder for what is built from it.
#[derive(Debug)]
pub struct Worktree {
    root: PathBuf,
    dir: PathBuf,
    target: PathBuf,
    pub(super) lock: File,
}

impl Worktree {
    /// The root of the checkout.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where its build goes. The folder stays, so that the next run at this
    /// place finds the dependencies built.
    pub fn target(&self) -> &Path {
        &self.target
    }

    fn remove(&self) {
        if self.dir.exists() {
            // Whatever git refuses to remove is removed as a folder; git forgets
            // it at the next `worktree prune`.
            let run = |args: &[&str]| {
                let command = &mut git();
                command.current_dir(&self.root).args(args).arg(&self.dir);
                command.output().is_ok_and(|output| output.status.success())
            };
            if !run(&["worktree", "remove", "--force", "--force"]) {
                // Git holds on to one that a killed git had not finished.
                run(&["worktree", "unlock"]);
            }
            remove_folder(&self.dir);
        }
    }
}

impl Drop for Worktree {
    fn drop(&mut self) {
        self.remove();
        // A child that another thread is just starting holds a copy of the file for an
        // instant; closing ours would not free the place before that is over.
        let _ = self.lock.unlock();
    }
}

/// A place for a checkout that no other running program uses.
struct Slot {
    dir: PathBuf,
    lock: File,
}

impl Slot {
    /// The folder of all places for a repository.
    fn home(common_dir: &Path) -> PathBuf {
        let name = XxHash3_128::oneshot(common_dir.as_os_str().as_encoded_bytes());
        let name = format!("{name:032x}");
        // Programs that compile and link know paths of up to 260 characters there.
        let length = if cfg!(windows) { 12 } else { name.len() };
        cache_dir().join(&name[..length])
    }

    /// The places that hold a checkout which no running program uses.
    fn left_behind(common_dir: &Path) -> impl Iterator<Item = Self> {
        let home = Self::home(common_dir);
        let dirs = (0..).map(move |number: u32| home.join(number.to_string()));
        let dirs = dirs.take_while(|dir| dir.exists());
        dirs.filter_map(|dir| {
            if !dir.join("tree").exists() {
                return None;
            }
            let lock = File::create(dir.join("lock")).ok()?;
            lock.try_lock().ok()?;
            Some(Self { dir, lock })
        })
    }

    fn acquire(common_dir: &Path) -> Result<Self, GitError> {
        let home = Self::home(common_dir);
        let write_error = |path: &Path| {
            let path = path.to_owned();
            move |source| GitError::Write { path, source }
        };
        let mut number = 0;
        loop {
            let dir = home.join(number.to_string());
            fs::create_dir_all(&dir).map_err(write_error(&dir))?;
            let lock = dir.join("lock");
            let lock = File::create(&lock).map_err(write_error(&lock))?;
            match lock.try_lock() {
                Ok(()) => return Ok(Self { dir, lock }),
                Err(fs::TryLockError::WouldBlock) => number += 1,
                Err(fs::TryLockError::Error(source)) => return Err(write_error(&dir)(source)),
            }
        }
    }
}

/// The folder for checkouts and their builds: `PALISADE_CACHE`, or `palisade` in
/// the user's cache folder.
fn cache_dir() -> PathBuf {
    let chosen = std::env::var_os("PALISADE_CACHE").filter(|value| !value.is_empty());
    if let Some(dir) = chosen {
        return PathBuf::from(dir);
    }
    let caches = choose_base_strategy().map(|base| base.cache_dir());
    caches
        .unwrap_or_else(|_| std::env::temp_dir())
        .join("palisade")
}

/// Opens a file so that its times can be set, whatever else may be done with it.
#[cfg(not(windows))]
pub(super) fn open_for_times(path: &Path) -> std::io::Result<File> {
    File::open(path)
}

/// Opens a file so that its times can be set, also one that is read-only.
#[cfg(windows)]
pub(super) fn open_for_times(path: &Path) -> std::io::Result<File> {
    use std::os::windows::fs::OpenOptionsExt as _;
    /// Windows sets no times through a file that was opened for reading.
    const FILE_WRITE_ATTRIBUTES: u32 = 0x100;
    File::options()
        .access_mode(FILE_WRITE_ATTRIBUTES)
        .open(path)
}

/// Removes a folder. Windows keeps files of a process that just ended locked for a while, and
/// scanners open new files.
fn remove_folder(dir: &Path) {
    const TRIES: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(100);
    for _ in 0..TRIES {
        match fs::remove_dir_all(dir) {
            Err(error) if cfg!(windows) && error.kind() != std::io::ErrorKind::NotFound => {
                std::thread::sleep(PAUSE);
            }
            _ => return,
        }
    }
}
