//! Checkouts of other commits beside the user's files.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use etcetera::{BaseStrategy as _, choose_base_strategy};

use super::{Commit, GitError, Repo, cache, checked, git, staged_files};

impl Repo {
    /// Checks `commit` out beside the user's tree; with `tree`, its content is
    /// replaced by that tree's. The checkout is taken away when it is dropped.
    pub fn worktree(&self, commit: &Commit, tree: Option<&str>) -> Result<Worktree, GitError> {
        let worktree = self.place(Slot::acquire(&self.common_dir)?);
        cache::name_owner(&Slot::home(&self.common_dir), &self.common_dir)?;
        if let Some(limit) = self.cache_limit {
            cache::keep_within(limit);
        }
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
        add_submodules(&self.root, &worktree.dir)?;
        self.restore_times(&worktree)?;
        for link in self.outside.iter().filter_map(|at| self.link(at)) {
            link.make(&worktree.dir);
        }
        Ok(worktree)
    }

    /// What leads from a checkout to a folder outside of the repository.
    fn link(&self, outside: &Path) -> Option<Link> {
        let common = self.root.components().zip(outside.components());
        let common = common.take_while(|(one, other)| one == other).count();
        let above: PathBuf = outside.components().take(common).collect();
        let name = outside.components().nth(common)?.as_os_str();
        Some(Link {
            ups: self.root.components().count() - common,
            name: name.to_owned(),
            to: above.join(name),
        })
    }

    /// Takes away what killed runs left checked out, at places that nobody uses now.
    pub fn sweep(&self) {
        for (slot, dir) in Slot::left_behind(&self.common_dir) {
            drop(self.place_at(slot, dir));
        }
    }

    fn place(&self, slot: Slot) -> Worktree {
        // What is above the repository has to lie inside of the place, too.
        let links = self.outside.iter().filter_map(|at| self.link(at));
        let above = links.map(|link| link.ups).max().unwrap_or(1).max(1) - 1;
        let home = (0..above).fold(slot.dir.clone(), |dir, _| dir.join(ABOVE));
        self.place_at(slot, home.join("tree"))
    }

    fn place_at(&self, slot: Slot, dir: PathBuf) -> Worktree {
        Worktree {
            root: self.root.clone(),
            dir,
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
            let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(time);
            if place.join(".git").exists() {
                set_times(&place, modified);
            } else if place.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
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

/// The folder that stands for one above the repository.
const ABOVE: &str = "above";

/// What a checkout needs to find a folder outside of the repository: a link so many folders
/// above its root.
struct Link {
    ups: usize,
    name: OsString,
    to: PathBuf,
}

impl Link {
    /// Makes it for the checkout at `dir`. Where that fails, so does the build, and says what is
    /// missing.
    fn make(&self, dir: &Path) {
        let Some(home) = dir.ancestors().nth(self.ups) else {
            return;
        };
        let place = home.join(&self.name);
        match fs::read_link(&place) {
            Ok(to) if to == self.to => return,
            Ok(_) => drop(fs::remove_file(&place)),
            Err(_) => {}
        }
        #[cfg(unix)]
        let _ = std::os::unix::fs::symlink(&self.to, &place);
        #[cfg(windows)]
        let _ = std::os::windows::fs::symlink_dir(&self.to, &place);
    }
}

/// Checks out the submodules of the checkout at `dir` that are there in the user's files at
/// `theirs`, from the objects that are there. Nothing is fetched, and nothing written to them.
fn add_submodules(theirs: &Path, dir: &Path) -> Result<(), GitError> {
    /// How git's index marks a commit in the place of a file.
    const SUBMODULE: &str = "160000 ";
    let listed = plain(dir, &["ls-files", "--stage", "-z"])?;
    let entries = listed.split('\0');
    let modules: String = entries
        .filter(|entry| entry.starts_with(SUBMODULE))
        .flat_map(|entry| [entry, "\0"])
        .collect();
    for (path, commit) in staged_files(&modules) {
        let (theirs, place) = (theirs.join(&path), dir.join(&path));
        if !theirs.join(".git").exists() {
            continue;
        }
        let git_path = |name| {
            let args = ["rev-parse", "--path-format=absolute", "--git-path", name];
            plain(&theirs, &args).map(PathBuf::from)
        };
        let (objects, shallow) = (git_path("objects")?, git_path("shallow")?);
        let to = place.to_string_lossy();
        plain(dir, &["init", "--quiet", "--template=", &to])?;
        let git_dir = place.join(".git");
        let line = format!("{}\n", objects.display());
        let info = git_dir.join("objects/info");
        let written = fs::create_dir_all(&info).and_then(|()| {
            fs::write(info.join("alternates"), line)?;
            if shallow.exists() {
                fs::copy(&shallow, git_dir.join("shallow"))?;
            }
            Ok(())
        });
        written.map_err(|source| GitError::Write { path: info, source })?;
        let checked_out = plain(&place, &["checkout", "--quiet", "--detach", &commit]);
        checked_out.map_err(|_| GitError::Submodule { path, commit })?;
        add_submodules(&theirs, &place)?;
    }
    Ok(())
}

/// Runs git in a folder as it is.
fn plain(dir: &Path, args: &[&str]) -> Result<String, GitError> {
    let mut command = git();
    command.current_dir(dir);
    command.args(["-c", "core.hooksPath=/dev/null"]).args(args);
    checked(args, &command.output().map_err(GitError::Start)?)
}

/// Gives all files of a submodule one time.
fn set_times(dir: &Path, time: SystemTime) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        let path = entry.path();
        if kind.is_dir() && entry.file_name() != ".git" {
            set_times(&path, time);
        } else if kind.is_file() {
            // Where it fails, the file stays new and is built again.
            let _ = open_for_times(&path).and_then(|file| file.set_modified(time));
        }
    }
}

/// A place for a checkout that no other running program uses.
pub(super) struct Slot {
    dir: PathBuf,
    lock: File,
}

impl Slot {
    /// The folder of all places for a repository.
    pub(super) fn home(common_dir: &Path) -> PathBuf {
        cache_dir().join(cache::name(common_dir))
    }

    /// The places that hold a checkout which no running program uses.
    fn left_behind(common_dir: &Path) -> impl Iterator<Item = (Self, PathBuf)> {
        let home = Self::home(common_dir);
        let dirs = (0..).map(move |number: u32| home.join(number.to_string()));
        let dirs = dirs.take_while(|dir| dir.exists());
        dirs.filter_map(|dir| {
            let homes = std::iter::successors(Some(dir.clone()), |home| {
                Some(home.join(ABOVE)).filter(|above| above.exists())
            });
            let mut trees = homes.map(|home| home.join("tree"));
            let tree = trees.find(|tree| tree.exists())?;
            let lock = File::create(dir.join("lock")).ok()?;
            lock.try_lock().ok()?;
            Some((Self { dir, lock }, tree))
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
pub(super) fn cache_dir() -> PathBuf {
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
