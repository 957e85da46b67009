//! A HuggingFace-compatible hub: what a repository holds, and its files, brought
//! into the cache that other programs of the hub use, too.
//!
//! ```text
//! CACHE/models--OWNER--NAME/blobs/HASH              a file by its content
//!                           blobs/HASH.incomplete   what has arrived so far
//!                           snapshots/COMMIT/FILE   the same by its name
//!                           refs/main               the COMMIT
//! ```
//!
//! A transfer that breaks is taken up where it broke. A file gets its name when
//! all of it is there and its hash is the one that the hub states: the SHA-256 of
//! large files, git's SHA-1 of small ones.

mod cache;
mod download;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use ureq::Agent;
use ureq::config::RedirectAuthHeaders;

pub use cache::Cache;

/// The hub that everybody means.
const ENDPOINT: &str = "https://huggingface.co";
/// How long a server may say nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// `OWNER/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository(String);

impl Repository {
    /// Takes a name that may be one.
    pub fn parse(name: &str) -> Option<Self> {
        let is_part = |part: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed)
        };
        let (owner, name_part) = name.split_once('/')?;
        (is_part(owner) && is_part(name_part) && !name.contains("--"))
            .then(|| Self(name.to_owned()))
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// A repository as it is now.
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
    /// What its content must be.
    pub hash: Hash,
}

/// What a file is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256, of files in large file storage.
    Sha256(String),
    /// SHA-1 over `blob LENGTH`, a zero, and the file, as git has it.
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

/// A hub, and who asks.
#[derive(Debug)]
pub struct Hub {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// What the hub says of a repository.
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
    /// Makes a client by `HF_ENDPOINT` and `HF_TOKEN`.
    pub fn from_env() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .user_agent(concat!("bitnet/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: config.into(),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: variable("HF_TOKEN"),
        }
    }

    /// Asks what a repository holds.
    pub fn snapshot(&self, repository: &Repository) -> Result<Snapshot, HubError> {
        let name = repository.name();
        let url = format!(
            "{}/api/models/{name}/revision/main?blobs=true",
            self.endpoint
        );
        let mut response = self.get(&url, 0)?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(self.refused(status, url));
        }
        // The largest lists have some thousand files.
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
            // It becomes part of a path.
            if !is_hash(hash.digits()) {
                return Err(format!(
                    "{:?} has hash {:?}",
                    sibling.rfilename,
                    hash.digits()
                ));
            }
            if !cache::is_plain(&sibling.rfilename) {
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

    /// Asks for a file or the like, from byte `from` on.
    fn get(&self, url: &str, from: u64) -> Result<ureq::http::Response<ureq::Body>, HubError> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call().map_err(|source| HubError::Transfer {
            url: url.to_owned(),
            source,
        })
    }

    fn refused(&self, status: u16, url: String) -> HubError {
        match status {
            401 | 403 => HubError::Denied {
                status,
                url,
                with_token: self.token.is_some(),
            },
            404 => HubError::NotFound { url },
            _ => HubError::Status { status, url },
        }
    }
}

/// Returns whether these are digits of a hash.
fn is_hash(digits: &str) -> bool {
    [40, 64].contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Why a hub gives nothing.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The connection fails, now and again.
    #[error("cannot get {url}")]
    Transfer { url: String, source: ureq::Error },
    /// The user may not.
    #[error("{url} is denied ({status})")]
    Denied {
        status: u16,
        url: String,
        with_token: bool,
    },
    /// There is nothing.
    #[error("{url} does not exist (404)")]
    NotFound { url: String },
    /// The server is in trouble.
    #[error("{url} answers with status {status}")]
    Status { status: u16, url: String },
    /// The answer is not what a hub says.
    #[error("{url} answers as no hub does: {what}")]
    Answer { url: String, what: String },
    /// All bytes are there, but not the right ones.
    #[error("{file} arrived with hash {found}, expected {expected}; nothing of it was kept")]
    Hash {
        file: String,
        expected: String,
        found: String,
    },
    /// The connection ends early, again and again.
    #[error("{file} breaks off at byte {at} of {size}; what has arrived is kept")]
    Broken { file: String, at: u64, size: u64 },
    /// The user asked to end.
    #[error("{file}: {at} of {size} bytes have arrived and are kept; the same command goes on")]
    Interrupted { file: String, at: u64, size: u64 },
    /// The cache cannot be written or read.
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_repositories_are_told_from_paths() {
        for name in [
            "microsoft/bitnet-b1.58-2B-4T-gguf",
            "a/b",
            "tiiuae/Falcon3_1B.x",
        ] {
            assert_eq!(Repository::parse(name).unwrap().name(), name);
        }
        for name in [
            "", "a", "a/b/c", "/a", "a/", "./a", "../a", "a/..", "a/.b", "a b/c", "a/b--c",
        ] {
            assert_eq!(Repository::parse(name), None, "{name}");
        }
    }
}
