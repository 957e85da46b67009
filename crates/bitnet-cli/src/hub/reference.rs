//! Names of hub models: `OWNER/NAME@REVISION:FILE`.

use std::path::{Component, Path};

use crate::windows_names::is_device_name;

/// Hosts whose page addresses are accepted.
const HOSTS: [&str; 2] = ["huggingface.co", "hf.co"];

/// Returns the path in the address of a page of this host.
fn in_page<'a>(address: &'a str, host: &str) -> Option<&'a str> {
    let schemes = ["https://", "http://"];
    let mut without_scheme = schemes.iter().filter_map(|s| address.strip_prefix(s));
    let address = without_scheme.next().unwrap_or(address);
    address.strip_prefix(host)?.strip_prefix('/')
}

/// `OWNER/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository(String);

impl Repository {
    /// Parses a repository name; `None` if it is invalid.
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

/// A branch, a tag, the hash of a commit, or a reference such as `refs/pr/1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision(String);

impl Revision {
    /// Parses a revision; `None` if it is invalid. The cache has a file of this name.
    pub fn parse(name: &str) -> Option<Self> {
        let forbidden = |c: char| c.is_control() || c.is_whitespace() || ":?*[~^".contains(c);
        let valid = is_plain(name) && !name.ends_with('/') && !name.contains(forbidden);
        valid.then(|| Self(name.to_owned()))
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Returns whether this is the full hash of a commit.
    pub fn is_commit(&self) -> bool {
        self.0.len() == 40 && is_hash(&self.0)
    }
}

impl Default for Revision {
    fn default() -> Self {
        Self("main".to_owned())
    }
}

/// A hub model as named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The repository.
    pub repository: Repository,
    /// The revision of the repository.
    pub revision: Revision,
    /// The model in it: a file, a folder, or a type such as `Q8_0`.
    pub model: Option<String>,
}

impl Reference {
    /// Parses `OWNER/NAME` or `OWNER/NAME@REVISION`, either with `:FILE`, or the address
    /// of such a page; `None` if it is invalid.
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(page) = HOSTS.iter().find_map(|host| in_page(name, host)) {
            return Self::from_page(page);
        }
        let (name, model) = match name.split_once(':') {
            Some((_, "")) => return None,
            Some((name, model)) => (name, Some(model.to_owned())),
            None => (name, None),
        };
        let (name, revision) = match name.split_once('@') {
            Some((name, revision)) => (name, Revision::parse(revision)?),
            None => (name, Revision::default()),
        };
        Some(Self {
            repository: Repository::parse(name)?,
            revision,
            model,
        })
    }

    /// Parses the path of a page address: `OWNER/NAME`, optionally with `/tree/REVISION`
    /// or `/blob/REVISION/FILE`.
    fn from_page(page: &str) -> Option<Self> {
        let page = page.split(['?', '#']).next().unwrap_or_default();
        let mut parts = page.trim_end_matches('/').splitn(5, '/');
        let repository = format!("{}/{}", parts.next()?, parts.next()?);
        let revision = match (parts.next(), parts.next()) {
            (None, _) => Revision::default(),
            (Some("tree" | "blob" | "resolve"), Some(revision)) => Revision::parse(revision)?,
            _ => return None,
        };
        Some(Self {
            repository: Repository::parse(&repository)?,
            revision,
            model: parts.next().map(str::to_owned),
        })
    }

    /// Returns `OWNER/NAME`, with the revision unless it is the default.
    pub fn name(&self) -> String {
        let name = self.repository.name();
        if self.revision == Revision::default() {
            name.to_owned()
        } else {
            format!("{name}@{}", self.revision.name())
        }
    }
}

/// Returns whether this is a hash in hexadecimal digits.
pub fn is_hash(digits: &str) -> bool {
    [40, 64].contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Returns whether a relative path stays inside its base folder.
pub fn is_plain(path: &str) -> bool {
    !path.is_empty()
        && !path.contains('\\')
        && !path.split('/').any(leads_elsewhere)
        && (Path::new(path).components()).all(|part| matches!(part, Component::Normal(_)))
}

/// Returns whether this is Windows and the name is a device or an alternate data stream.
fn leads_elsewhere(name: &str) -> bool {
    cfg!(windows) && (name.contains(':') || is_device_name(name))
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

    #[test]
    fn a_reference_has_a_revision_and_a_model() {
        let parts = |name| {
            let reference = Reference::parse(name)?;
            let model = reference.model.clone().unwrap_or_default();
            Some((reference.name(), reference.revision.0, model))
        };
        let some = |name: &str, revision: &str, model: &str| {
            Some((name.to_owned(), revision.to_owned(), model.to_owned()))
        };
        assert_eq!(parts("a/b"), some("a/b", "main", ""));
        assert_eq!(parts("a/b@main"), some("a/b", "main", ""));
        assert_eq!(parts("a/b@v1.0"), some("a/b@v1.0", "v1.0", ""));
        let pull_request = "a/b@refs/pr/1:Q2/x.gguf";
        let expected = some("a/b@refs/pr/1", "refs/pr/1", "Q2/x.gguf");
        assert_eq!(parts(pull_request), expected);
        assert_eq!(parts("a/b:q8_0"), some("a/b", "main", "q8_0"));
        for name in [
            "a/b:", "a/b@", "a/b@../x", "a/b@/x", "a/b@x y", "a/b@x/", "a@x/b", "C:/b",
        ] {
            assert_eq!(parts(name), None, "{name}");
        }
        let commit = Revision::parse(&"0a".repeat(20)).unwrap();
        assert!(commit.is_commit() && !Revision::default().is_commit());
    }

    #[test]
    fn the_address_of_a_page_is_a_reference() {
        let parts = |name| {
            let reference = Reference::parse(name)?;
            Some((reference.name(), reference.model.unwrap_or_default()))
        };
        for (address, name, model) in [
            ("https://huggingface.co/a/b", "a/b", ""),
            ("hf.co/a/b/", "a/b", ""),
            ("https://huggingface.co/a/b/tree/v1", "a/b@v1", ""),
            ("https://huggingface.co/a/b/tree/main/Q2", "a/b", "Q2"),
            (
                "https://hf.co/a/b/blob/main/Q2/x.gguf?a=b#c",
                "a/b",
                "Q2/x.gguf",
            ),
            (
                "http://huggingface.co/a/b/resolve/main/x.gguf",
                "a/b",
                "x.gguf",
            ),
        ] {
            let expected = Some((name.to_owned(), model.to_owned()));
            assert_eq!(parts(address), expected, "{address}");
        }
        for address in [
            "https://huggingface.co/a",
            "https://huggingface.co/a/b/discussions/1",
            "https://huggingface.co/a/b/tree/",
            "https://example.com/a/b",
        ] {
            assert_eq!(parts(address), None, "{address}");
        }
    }

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
