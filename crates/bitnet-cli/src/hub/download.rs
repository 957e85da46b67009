//! Downloading one file.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::{Cache, Hash, Hub, HubError, RemoteFile, Repository, TRIES};
use crate::hex::hex;
use crate::interrupt;

/// Bytes read at a time.
const CHUNK: usize = 1 << 18;

/// A file of a commit, and where it comes from.
#[derive(Clone, Copy)]
struct Source<'a> {
    repository: &'a Repository,
    file: &'a RemoteFile,
    url: &'a str,
}

impl Hub {
    /// Downloads a file of a commit into the cache, unless it is cached, and returns
    /// its path. `progress` is called with the number of bytes available.
    ///
    /// # Errors
    ///
    /// Returns an error if the download fails, its hash is wrong, the cache cannot be
    /// written, or the user pressed Ctrl-C.
    pub fn download(
        &self,
        cache: &Cache,
        repository: &Repository,
        commit: &str,
        file: &RemoteFile,
        mut progress: impl FnMut(u64),
    ) -> Result<PathBuf, HubError> {
        let named = cache.named(repository, commit, &file.path);
        let blob = cache.blob(repository, file);
        if !named.is_file() && !blob.is_file() {
            let url = format!(
                "{}/{}/resolve/{commit}/{}",
                self.endpoint,
                repository.name(),
                escaped(&file.path)
            );
            let source = Source {
                repository,
                file,
                url: &url,
            };
            self.fetch(source, &blob, &mut progress)?;
        }
        progress(file.size);
        cache.name_blob(repository, commit, file)
    }

    fn fetch(
        &self,
        source: Source<'_>,
        blob: &Path,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), HubError> {
        let file = source.file;
        let incomplete = blob.with_extension("incomplete");
        let failed = |source| HubError::Write {
            path: incomplete.clone(),
            source,
        };
        let folder = blob.parent().expect("a blob is in a folder");
        std::fs::create_dir_all(folder).map_err(failed)?;
        let mut out = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&incomplete)
            .map_err(failed)?;
        // Prevent two concurrent downloads of one file.
        out.try_lock().map_err(|error| failed(error.into()))?;

        let interrupted = |at| HubError::Interrupted {
            file: file.path.clone(),
            at,
            size: file.size,
        };
        let mut failures = 0;
        let mut at = out.metadata().map_err(failed)?.len();
        while at < file.size {
            let before = at;
            let mut asked = None;
            match self.continue_at(source, &mut out, &mut at, progress) {
                Err(Trouble::Network(error)) if failures + 1 == TRIES => return Err(error),
                Err(Trouble::Network(error @ HubError::Status { .. })) => {
                    asked = Some(error.wait(failures + 1).ok_or(error)?);
                }
                Ok(()) | Err(Trouble::Network(_)) => {}
                Err(Trouble::File(source)) => return Err(failed(source)),
                Err(Trouble::Final(error)) => return Err(error),
            }
            if interrupt::requested() {
                return Err(interrupted(at));
            }
            if at >= file.size {
                break;
            }
            failures = if at > before { 0 } else { failures + 1 };
            if failures == TRIES {
                return Err(HubError::Broken {
                    file: file.path.clone(),
                    at,
                    size: file.size,
                });
            }
            interrupt::sleep(asked.unwrap_or(Duration::from_millis(100 << failures)));
            if interrupt::requested() {
                return Err(interrupted(at));
            }
        }
        let found = hash(&mut out, file).map_err(failed)?;
        if at != file.size || !found.eq_ignore_ascii_case(file.hash.digits()) {
            let _ = std::fs::remove_file(&incomplete);
            return Err(HubError::Hash {
                file: file.path.clone(),
                expected: file.hash.digits().to_owned(),
                found,
            });
        }
        out.sync_all().map_err(failed)?;
        std::fs::rename(&incomplete, blob).map_err(failed)
    }

    /// Requests the rest of the file once and writes it; `at` is the current length.
    fn continue_at(
        &self,
        source: Source<'_>,
        out: &mut File,
        at: &mut u64,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), Trouble> {
        let Source {
            repository,
            file,
            url,
        } = source;
        let response = self.get(url, *at).map_err(Trouble::Network)?;
        match response.status().as_u16() {
            206 if *at > 0 => {}
            // The server does not support ranges, or ignores this one.
            200 => *at = 0,
            416 => {
                *at = 0;
                out.set_len(0)?;
                return Ok(());
            }
            status => {
                let error = self.refused(repository, &response, url);
                return Err(match status {
                    408 | 429 | 500.. => Trouble::Network(error),
                    _ => Trouble::Final(error),
                });
            }
        }
        out.set_len(*at)?;
        out.seek(SeekFrom::Start(*at))?;
        // One byte beyond the expected size proves that the file is a different one.
        let mut body = response.into_body().into_reader().take(file.size - *at + 1);
        let mut chunk = vec![0; CHUNK];
        loop {
            // The next request resumes an interrupted transfer.
            let Ok(n) = body.read(&mut chunk) else {
                return Ok(());
            };
            if n == 0 || interrupt::requested() {
                return Ok(());
            }
            out.write_all(&chunk[..n])?;
            *at += n as u64;
            progress(*at);
        }
    }
}

/// Why a request did not complete the file.
enum Trouble {
    /// A retry may succeed.
    Network(HubError),
    /// A file error, such as a full disk.
    File(io::Error),
    /// A retry is useless.
    Final(HubError),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

/// Returns the hash of a file's content, in hexadecimal digits.
fn hash(out: &mut File, file: &RemoteFile) -> io::Result<String> {
    let mut context = match file.hash {
        Hash::Sha256(_) => Context::new(&SHA256),
        Hash::Git(_) => {
            let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
            context.update(format!("blob {}\0", file.size).as_bytes());
            context
        }
    };
    out.seek(SeekFrom::Start(0))?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match out.read(&mut chunk)? {
            0 => break,
            n => context.update(&chunk[..n]),
        }
    }
    Ok(hex(context.finish().as_ref()))
}

/// Returns a path percent-encoded for a URL.
pub(super) fn escaped(path: &str) -> String {
    let mut url = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            url.push(byte as char);
        } else {
            let _ = write!(url, "%{byte:02X}");
        }
    }
    url
}

#[cfg(test)]
mod tests {
    #[test]
    fn paths_become_urls() {
        assert_eq!(super::escaped("a b/ü-1.gguf"), "a%20b/%C3%BC-1.gguf");
    }
}
