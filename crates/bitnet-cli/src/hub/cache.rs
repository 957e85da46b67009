//! The cache on disk.

use std::path::{Path, PathBuf};

use super::settings::Settings;
use super::{HubError, RemoteFile, Repository, Revision, is_hash};

/// The cache folder of the hub's programs.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

/// Maximum depth of the search for files.
const DEEPEST: usize = 8;

impl Cache {
    /// Returns the cache at the location of the hub's own programs; `None` without a
    /// home folder.
    pub fn from_env() -> Option<Self> {
        let folder = Settings::from_env().cache()?;
        Some(Self { folder })
    }

    fn repository(&self, repository: &Repository) -> PathBuf {
        let name = repository.name().replace('/', "--");
        self.folder.join(format!("models--{name}"))
    }

    /// Returns the folder of the files of a revision, if it was pulled.
    pub fn pulled(&self, repository: &Repository, revision: &Revision) -> Option<PathBuf> {
        let commit = if revision.is_commit() {
            revision.name().to_lowercase()
        } else {
            let path = self.reference(repository, revision);
            let commit = std::fs::read_to_string(path).ok()?;
            commit.trim().to_owned()
        };
        let snapshot = self.snapshot(repository, &commit);
        (is_hash(&commit) && snapshot.is_dir()).then_some(snapshot)
    }

    /// Returns the pulled revisions of a repository, by name, or by commit if it has
    /// none.
    pub fn revisions(&self, repository: &Repository) -> Vec<String> {
        let folder = self.repository(repository);
        let mut names = Vec::new();
        let mut named = Vec::new();
        for name in files(&folder.join("refs")) {
            let revision = Revision::parse(&name);
            if let Some(snapshot) = revision.and_then(|name| self.pulled(repository, &name)) {
                names.push(name);
                named.push(snapshot);
            }
        }
        let snapshots = folder.join("snapshots").read_dir();
        let snapshots = snapshots.into_iter().flatten().flatten();
        let unnamed = snapshots.filter(|entry| !named.contains(&entry.path()));
        let commits = unnamed.filter_map(|entry| entry.file_name().into_string().ok());
        let mut commits: Vec<_> = commits.filter(|name| is_hash(name)).collect();
        commits.sort_unstable();
        names.extend(commits);
        names
    }

    /// Returns the path of the file with a revision's commit.
    fn reference(&self, repository: &Repository, revision: &Revision) -> PathBuf {
        let refs = self.repository(repository).join("refs");
        refs.join(revision.name())
    }

    /// Returns the path of a file's content by its hash.
    pub(super) fn blob(&self, repository: &Repository, file: &RemoteFile) -> PathBuf {
        self.repository(repository)
            .join("blobs")
            .join(file.hash.digits())
    }

    /// Returns the folder of a commit's files.
    pub fn snapshot(&self, repository: &Repository, commit: &str) -> PathBuf {
        self.repository(repository).join("snapshots").join(commit)
    }

    /// Returns the path of a commit's file, by its path in the repository.
    pub fn named(&self, repository: &Repository, commit: &str, path: &str) -> PathBuf {
        below(self.snapshot(repository, commit), path)
    }

    /// Links a complete blob to its path in a commit.
    pub(super) fn name_blob(
        &self,
        repository: &Repository,
        commit: &str,
        file: &RemoteFile,
    ) -> Result<PathBuf, HubError> {
        let path = self.named(repository, commit, &file.path);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| HubError::Write { path, source }
        };
        let folder = path.parent().expect("a file is in a folder");
        std::fs::create_dir_all(folder).map_err(failed(folder))?;
        if path.is_file() {
            return Ok(path);
        }
        let blob = self.blob(repository, file);
        // Remove a dangling link of the same name.
        let _ = std::fs::remove_file(&path);
        #[cfg(unix)]
        {
            let up = "../".repeat(2 + file.path.matches('/').count());
            let target = format!("{up}blobs/{}", file.hash.digits());
            std::os::unix::fs::symlink(target, &path).map_err(failed(&path))?;
            debug_assert!(blob.is_file());
        }
        #[cfg(not(unix))]
        std::fs::rename(&blob, &path).map_err(failed(&path))?;
        Ok(path)
    }

    /// Sets the commit of a revision.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be written.
    pub fn set_reference(
        &self,
        repository: &Repository,
        revision: &Revision,
        commit: &str,
    ) -> Result<(), HubError> {
        if revision.is_commit() {
            return Ok(());
        }
        let path = self.reference(repository, revision);
        let failed = |source| HubError::Write {
            path: path.clone(),
            source,
        };
        let folder = path.parent().expect("a reference is in a folder");
        std::fs::create_dir_all(folder).map_err(failed)?;
        let mut temporary = path.clone().into_os_string();
        temporary.push(format!(".{}", std::process::id()));
        std::fs::write(&temporary, commit).map_err(failed)?;
        std::fs::rename(&temporary, &path).map_err(failed)
    }
}

/// Joins a `/`-separated path of a hub to a folder, with the platform's separators.
pub fn below(mut folder: PathBuf, path: &str) -> PathBuf {
    folder.extend(path.split('/'));
    folder
}

/// Returns the sorted relative paths of all files in a folder and its subfolders, with
/// `/` as separator. Links to folders are not followed.
pub fn files(folder: &Path) -> Vec<String> {
    fn look(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<String>) {
        for entry in folder.read_dir().into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                // File names of a hub are UTF-8.
                continue;
            };
            let path = format!("{prefix}{name}");
            if entry.file_type().is_ok_and(|ty| ty.is_dir()) {
                if depth < DEEPEST {
                    look(&entry.path(), &format!("{path}/"), depth + 1, files);
                }
            } else if entry.path().is_file() {
                files.push(path);
            }
        }
    }
    let mut found = Vec::new();
    look(folder, "", 0, &mut found);
    found.sort_unstable();
    found
}
