//! Environment variables for the hub, with the names of the hub's own programs.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use crate::http::{Token, TokenError};

/// The default endpoint.
const ENDPOINT: &str = "https://huggingface.co";

/// Returns a variable by its name.
type Lookup = dyn Fn(&str) -> Option<OsString>;

/// Looks up environment variables.
pub struct Settings {
    variable: Box<Lookup>,
    home: Option<PathBuf>,
}

/// An invalid setting.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The endpoint is not a URL.
    #[error("HF_ENDPOINT is {found:?}, expected a URL that begins with https:// or http://")]
    Endpoint {
        /// The value.
        found: String,
    },
    /// The token contains an invalid character.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token file exists but cannot be read.
    #[error("cannot read the token in {}", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Settings {
    /// Returns the settings of this process's environment.
    pub fn from_env() -> Self {
        Self {
            variable: Box::new(|name| std::env::var_os(name)),
            home: std::env::home_dir(),
        }
    }

    /// Returns a variable that is not empty.
    fn variable(&self, name: &str) -> Option<OsString> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    /// Returns a variable that is a path; `~` is the home folder.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let path = PathBuf::from(self.variable(name)?);
        Some(match (path.strip_prefix("~"), &self.home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => path,
        })
    }

    /// Returns whether a variable is true.
    fn is_true(&self, name: &str) -> bool {
        let value = self.variable(name).unwrap_or_default();
        let words = ["1", "on", "yes", "true"];
        words.iter().any(|word| value.eq_ignore_ascii_case(word))
    }

    /// Returns the folder of the hub's programs: `HF_HOME`, or `huggingface` in the
    /// user's cache folder; `None` without a home folder.
    fn hub_home(&self) -> Option<PathBuf> {
        self.path("HF_HOME").or_else(|| {
            let home = || Some(self.home.as_ref()?.join(".cache"));
            let caches = self.path("XDG_CACHE_HOME").or_else(home)?;
            Some(caches.join("huggingface"))
        })
    }

    /// Returns the cache folder; `None` without a home folder.
    pub fn cache(&self) -> Option<PathBuf> {
        self.path("HF_HUB_CACHE")
            .or_else(|| self.path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(self.hub_home()?.join("hub")))
    }

    /// Returns whether network requests are disabled.
    pub fn is_offline(&self) -> bool {
        self.is_true("HF_HUB_OFFLINE") || self.is_true("TRANSFORMERS_OFFLINE")
    }

    /// Returns the hub's URL, without a trailing slash.
    ///
    /// # Errors
    ///
    /// Returns an error if `HF_ENDPOINT` is not an HTTP URL.
    pub fn endpoint(&self) -> Result<String, SettingsError> {
        let Some(endpoint) = self.variable("HF_ENDPOINT") else {
            return Ok(ENDPOINT.to_owned());
        };
        let endpoint = endpoint.to_string_lossy().trim().to_owned();
        let is_url = |scheme| {
            let rest = endpoint.strip_prefix(scheme);
            rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_alphanumeric() || c == '['))
        };
        if !is_url("https://") && !is_url("http://") {
            return Err(SettingsError::Endpoint { found: endpoint });
        }
        Ok(endpoint.trim_end_matches('/').to_owned())
    }

    /// Returns the access token: that of `HF_TOKEN`, or the one that `hf auth login`
    /// stored in a file; `None` if there is none.
    ///
    /// # Errors
    ///
    /// Returns an error if the token is malformed or its file cannot be read.
    pub fn token(&self) -> Result<Option<Token>, SettingsError> {
        if self.is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            return Ok(None);
        }
        for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
            let value = self.variable(name).unwrap_or_default();
            let token = Token::read(&value.to_string_lossy(), name.to_owned())?;
            if token.is_some() {
                return Ok(token);
            }
        }
        let of_home = || Some(self.hub_home()?.join("token"));
        let Some(path) = self.path("HF_TOKEN_PATH").or_else(of_home) else {
            return Ok(None);
        };
        match std::fs::read(&path) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                Ok(Token::read(&text, path.display().to_string())?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SettingsError::TokenFile { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let variables = variables.iter();
        let variables: Vec<_> = variables
            .map(|(name, value)| ((*name).to_owned(), OsString::from(value)))
            .collect();
        let variable = move |name: &str| {
            let found = variables.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone())
        };
        Settings {
            variable: Box::new(variable),
            home: Some("/home/ann".into()),
        }
    }

    #[test]
    fn the_cache_is_where_the_hubs_programs_have_it() {
        let cache = |variables: &[(&str, &str)]| {
            let cache = settings(variables).cache().unwrap();
            cache.display().to_string().replace('\\', "/")
        };
        assert_eq!(cache(&[]), "/home/ann/.cache/huggingface/hub");
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/c")]), "/c/huggingface/hub");
        let home = [("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/c")];
        assert_eq!(cache(&home), "/home/ann/hf/hub");
        let old = [("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HOME", "/hf")];
        assert_eq!(cache(&old), "/old");
        let new = [("HF_HUB_CACHE", "/new"), ("HUGGINGFACE_HUB_CACHE", "/old")];
        assert_eq!(cache(&new), "/new");
        let empty = [("HF_HUB_CACHE", ""), ("HF_HOME", "")];
        assert_eq!(cache(&empty), "/home/ann/.cache/huggingface/hub");
    }

    #[test]
    fn the_endpoint_is_a_url() {
        let endpoint = |url| {
            let endpoint = settings(&[("HF_ENDPOINT", url)]).endpoint();
            endpoint.map_err(|error| error.to_string())
        };
        assert_eq!(endpoint("").unwrap(), ENDPOINT);
        assert_eq!(endpoint("https://hub.test/").unwrap(), "https://hub.test");
        let port = "http://[::1]:80/x";
        assert_eq!(endpoint(port).unwrap(), port);
        for url in ["hub.test", "https://", "ftp://hub.test"] {
            assert!(endpoint(url).unwrap_err().contains(url));
        }
    }

    #[test]
    fn a_token_is_trimmed_and_has_an_origin() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let file = path.to_str().unwrap();
        let home = folder.path().to_str().unwrap();
        let token = |variables: &[(&str, &str)]| {
            let token = settings(variables)
                .token()
                .map_err(|error| error.to_string());
            token.map(|token| token.map(|token| (token.header(), token.origin().to_owned())))
        };
        let some =
            |value: &str, origin: &str| Ok(Some((format!("Bearer {value}"), origin.to_owned())));
        assert_eq!(token(&[("HF_HOME", home)]), Ok(None));
        std::fs::write(&path, "\n hf_file \r\n").unwrap();
        assert_eq!(token(&[("HF_HOME", home)]), some("hf_file", file));
        assert_eq!(token(&[("HF_TOKEN_PATH", file)]), some("hf_file", file));
        let all = [
            ("HF_TOKEN", "\thf_new\n"),
            ("HUGGING_FACE_HUB_TOKEN", "hf_old"),
            ("HF_HOME", home),
        ];
        assert_eq!(token(&all), some("hf_new", "HF_TOKEN"));
        assert_eq!(token(&all[1..]), some("hf_old", "HUGGING_FACE_HUB_TOKEN"));
        assert_eq!(token(&[("HF_TOKEN", " "), all[2]]), some("hf_file", file));
        let not = ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "TRUE");
        assert_eq!(token(&[all[0], not]), Ok(None));
        // Error messages do not contain the token.
        for value in ["hf_a\nhf_b", "hf_a hf_b", "hf_ä"] {
            let error = token(&[("HF_TOKEN", value)]).unwrap_err();
            assert!(error.contains("HF_TOKEN has ") && !error.contains("hf_a"));
        }
        std::fs::write(&path, "hf_a\nhf_b").unwrap();
        let error = token(&[("HF_TOKEN_PATH", file)]).unwrap_err();
        assert!(
            error.contains(file) && error.contains("a line end"),
            "{error}"
        );
        let printed = format!("{:?}", settings(&[all[0]]).token());
        assert!(!printed.contains("hf_new"), "{printed}");
    }
}
