//! A client for a HuggingFace-compatible hub: lists the files of a repository and
//! downloads them into the cache shared with the hub's own programs.
//!
//! ```text
//! CACHE/models--OWNER--NAME/blobs/HASH              a file by its content
//!                           blobs/HASH.incomplete   a partial download
//!                           snapshots/COMMIT/FILE   the same file by its name
//!                           refs/REVISION           the COMMIT
//! ```
//!
//! An interrupted transfer is resumed. A file gets its final name when it is complete
//! and its hash matches the hub's: SHA-256 for large files, git's SHA-1 for small ones.

mod cache;
pub mod choice;
mod download;
mod reference;
mod settings;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use ureq::Agent;

use crate::http::{self, CertificateError, PATIENCE, Token};
use crate::interrupt;

pub use cache::{Cache, below, files};
pub use reference::{Reference, Repository, Revision};
pub use settings::SettingsError;

use reference::{is_hash, is_plain};
use settings::Settings;

/// Maximum number of consecutive attempts that fail or transfer no data.
const TRIES: u32 = 5;
/// Maximum accepted `Retry-After`.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// Returns whether network requests are disabled by the environment.
pub fn is_offline() -> bool {
    Settings::from_env().is_offline()
}

/// The files of a repository at a commit.
#[derive(Debug)]
pub struct Snapshot {
    /// The commit, in hexadecimal digits.
    pub commit: String,
    /// Its files.
    pub files: Vec<RemoteFile>,
}

/// A file of a repository.
#[derive(Clone, Debug)]
pub struct RemoteFile {
    /// Its path in the repository.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// The expected hash of its content.
    pub hash: Hash,
}

/// The hash of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256, for files in Git LFS.
    Sha256(String),
    /// git's blob hash: SHA-1 over `blob LENGTH`, a zero byte, and the file.
    Git(String),
}

impl Hash {
    /// Returns the hexadecimal digits.
    pub fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::Git(digits) => digits,
        }
    }
}

/// A hub with an optional access token.
#[derive(Debug)]
pub struct Hub {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
}

/// An error while creating a client.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A setting is invalid.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The configured certificates cannot be read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// The hub's description of a repository.
#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Hub {
    /// Returns a client configured by the environment: endpoint, token, certificates,
    /// and the proxies of `ALL_PROXY`, `HTTPS_PROXY` or `HTTP_PROXY`, except for the
    /// hosts of `NO_PROXY`.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting is invalid or certificates cannot be read.
    pub fn from_env() -> Result<Self, SetupError> {
        let settings = Settings::from_env();
        let (endpoint, token) = (settings.endpoint()?, settings.token()?);
        let config = http::config(&endpoint)?
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .build();
        Ok(Self {
            agent: config.into(),
            endpoint,
            token,
        })
    }

    /// Returns the commit and the files of a revision of a repository.
    ///
    /// # Errors
    ///
    /// Returns an error if the request fails or the response is invalid.
    pub fn snapshot(
        &self,
        repository: &Repository,
        revision: &Revision,
    ) -> Result<Snapshot, HubError> {
        let url = format!(
            "{}/api/models/{}/revision/{}?blobs=true",
            self.endpoint,
            repository.name(),
            download::escaped(revision.name()).replace('/', "%2F")
        );
        let mut failures = 0;
        let mut response = loop {
            let response = self.get(&url, 0)?;
            if response.status() == 200 {
                break response;
            }
            let error = self.refused(repository, &response, &url);
            failures += 1;
            match error.wait(failures) {
                Some(wait) if failures < TRIES => interrupt::sleep(wait),
                _ => return Err(error),
            }
        };
        // The largest repositories have some thousand files.
        let body = response
            .body_mut()
            .with_config()
            .limit(64 << 20)
            .read_to_vec();
        let body = body.map_err(|source| HubError::Transfer {
            url: url.clone(),
            source,
        })?;
        let answer = |what: String| HubError::Answer {
            url: url.clone(),
            what,
        };
        let info: Info =
            serde_json::from_slice(&body).map_err(|error| answer(error.to_string()))?;
        if !is_hash(&info.sha) {
            return Err(answer(format!("the commit is {:?}", info.sha)));
        }
        let files = info.siblings.into_iter().map(|sibling| {
            let (hash, size) = match (sibling.lfs, sibling.blob_id, sibling.size) {
                (Some(lfs), ..) => (Hash::Sha256(lfs.sha256), lfs.size),
                (None, Some(blob), Some(size)) => (Hash::Git(blob), size),
                _ => return Err(format!("{:?} has no hash or size", sibling.rfilename)),
            };
            // The hash becomes part of a path.
            if !is_hash(hash.digits()) {
                return Err(format!(
                    "{:?} has hash {:?}",
                    sibling.rfilename,
                    hash.digits()
                ));
            }
            if !is_plain(&sibling.rfilename) {
                return Err(format!(
                    "{:?} is not a path inside a folder",
                    sibling.rfilename
                ));
            }
            Ok(RemoteFile {
                path: sibling.rfilename,
                size,
                hash,
            })
        });
        Ok(Snapshot {
            commit: info.sha,
            files: files.collect::<Result<_, _>>().map_err(answer)?,
        })
    }

    /// Sends a GET request for the content from byte `from` on.
    fn get(&self, url: &str, from: u64) -> Result<ureq::http::Response<ureq::Body>, HubError> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", token.header());
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call().map_err(|source| HubError::Transfer {
            url: url.to_owned(),
            source,
        })
    }

    /// Returns the error of an unsuccessful response.
    fn refused(
        &self,
        repository: &Repository,
        response: &ureq::http::Response<ureq::Body>,
        url: &str,
    ) -> HubError {
        let header = |name| response.headers().get(name)?.to_str().ok();
        let (status, url) = (response.status().as_u16(), url.to_owned());
        match (status, header("X-Error-Code")) {
            (401 | 403, Some("GatedRepo")) => HubError::Gated {
                page: format!("{}/{}", self.endpoint, repository.name()),
                token: self.token_origin(),
            },
            (401 | 403, _) => HubError::Denied {
                status,
                url,
                token: self.token_origin(),
            },
            (404, Some("RevisionNotFound")) => HubError::NoRevision {
                repository: repository.name().to_owned(),
            },
            (404, _) => HubError::NotFound { url },
            _ => HubError::Status {
                status,
                url,
                retry_after: header("Retry-After")
                    .and_then(|seconds| seconds.trim().parse().ok())
                    .map(Duration::from_secs),
            },
        }
    }

    fn token_origin(&self) -> Option<String> {
        self.token.as_ref().map(|token| token.origin().to_owned())
    }
}

/// An error of a request or a download.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The connection failed repeatedly.
    #[error("cannot get {url}")]
    Transfer { url: String, source: ureq::Error },
    /// Access is denied.
    #[error("{url} is denied ({status})")]
    Denied {
        status: u16,
        url: String,
        /// Where the token that was shown is from.
        token: Option<String>,
    },
    /// The repository's conditions have not been accepted.
    #[error("{page} is gated: its conditions must be accepted first")]
    Gated {
        page: String,
        /// Where the token that was shown is from.
        token: Option<String>,
    },
    /// The repository has no such revision.
    #[error("{repository} has no such revision (404)")]
    NoRevision { repository: String },
    /// The URL does not exist.
    #[error("{url} does not exist (404)")]
    NotFound { url: String },
    /// The server responded with an error status.
    #[error("{url} answers with status {status}{}", asks_to_wait(*.retry_after))]
    Status {
        status: u16,
        url: String,
        retry_after: Option<Duration>,
    },
    /// The response is invalid.
    #[error("{url} sent an unexpected response: {what}")]
    Answer { url: String, what: String },
    /// The hash of a complete download is wrong.
    #[error("{file} has hash {found}, expected {expected}; the download was discarded")]
    Hash {
        file: String,
        expected: String,
        found: String,
    },
    /// The connection was closed early, repeatedly.
    #[error("{file} stopped at byte {at} of {size}; the partial download is kept")]
    Broken { file: String, at: u64, size: u64 },
    /// The user pressed Ctrl-C.
    #[error("{file}: interrupted after {at} of {size} bytes; run the same command to resume")]
    Interrupted { file: String, at: u64, size: u64 },
    /// A file of the cache cannot be written or read.
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl HubError {
    /// Returns the delay before the next attempt after `failures` ones; `None` if
    /// retrying is useless.
    fn wait(&self, failures: u32) -> Option<Duration> {
        let wait = Duration::from_millis(100 << failures);
        match self {
            Self::Status {
                status: 408 | 429 | 500..,
                retry_after,
                ..
            } => Some(retry_after.unwrap_or(wait)).filter(|wait| *wait <= LONGEST_WAIT),
            _ => None,
        }
    }

    /// Returns whether the server's certificate is untrusted.
    pub fn is_untrusted(&self) -> bool {
        let Self::Transfer { source, .. } = self else {
            return false;
        };
        http::is_untrusted(source)
    }
}

fn asks_to_wait(retry_after: Option<Duration>) -> String {
    let seconds = retry_after.map(|wait| format!(", retry after {} s", wait.as_secs()));
    seconds.unwrap_or_default()
}
