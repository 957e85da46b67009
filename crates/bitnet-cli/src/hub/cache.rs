//! The cache on disk.

use std::path::{Component, Path, PathBuf};

use super::{HubError, RemoteFile, Repository};

/// The folder that holds what was pulled.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

/// Returns whether a path stays inside the folder that it begins in.
pub(super) fn is_plain(path: &str) -> bool {
    !path.is_empty()
        && !path.contains('\\')
        && (Path::new(path).components()).all(|part| matches!(part, Component::Normal(_)))
}

impl Cache {
    /// Finds the cache by `HF_HUB_CACHE`, `HF_HOME` or the user's home, as the
    /// hub's own programs do; `None` where there is no home.
    pub fn from_env() -> Option<Self> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let folder = if let Some(cache) = variable("HF_HUB_CACHE") {
            PathBuf::from(cache)
        } else if let Some(home) = variable("HF_HOME") {
            Path::new(&home).join("hub")
        } else if let Some(cache) = variable("XDG_CACHE_HOME") {
            Path::new(&cache).join("huggingface/hub")
        } else {
            std::env::home_dir()?.join(".cache/huggingface/hub")
        };
        Some(Self { folder })
    }

    fn repository(&self, repository: &Repository) -> PathBuf {
        let name = repository.name().replace('/', "--");
        self.folder.join(format!("models--{name}"))
    }

    /// Returns the folder of the files of the commit that was pulled last.
    pub fn pulled(&self, repository: &Repository) -> Option<PathBuf> {
        let folder = self.repository(repository);
        let commit = std::fs::read_to_string(folder.join("refs/main")).ok()?;
        let commit = commit.trim();
        let snapshot = folder.join("snapshots").join(commit);
        (super::is_hash(commit) && snapshot.is_dir()).then_some(snapshot)
    }

    /// Returns where a file's content is, once it is complete.
    pub(super) fn blob(&self, repository: &Repository, file: &RemoteFile) -> PathBuf {
        self.repository(repository)
            .join("blobs")
            .join(file.hash.digits())
    }

    /// Returns the folder of a commit's files.
    pub fn snapshot(&self, repository: &Repository, commit: &str) -> PathBuf {
        self.repository(repository).join("snapshots").join(commit)
    }

    /// Gives a complete blob the name that it has in a commit.
    pub(super) fn name_blob(
        &self,
        repository: &Repository,
        commit: &str,
        file: &RemoteFile,
    ) -> Result<PathBuf, HubError> {
        let path = self.snapshot(repository, commit).join(&file.path);
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
        // What is left of an earlier file of this name leads nowhere.
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

    /// Makes a commit the one that the repository's name means.
    pub fn set_main(&self, repository: &Repository, commit: &str) -> Result<(), HubError> {
        let folder = self.repository(repository).join("refs");
        let path = folder.join("main");
        let failed = |source| HubError::Write {
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let temporary = folder.join(format!("main.{}", std::process::id()));
        std::fs::write(&temporary, commit).map_err(failed)?;
        std::fs::rename(&temporary, &path).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_of_a_file_leads_out_of_its_folder() {
        for path in ["a", "a/b.gguf", "a.b/c-d_e"] {
            assert!(is_plain(path), "{path}");
        }
        for path in ["", "/a", "../a", "a/../../b", "./a", "a\\b", "a/.."] {
            assert!(!is_plain(path), "{path}");
        }
    }
}
