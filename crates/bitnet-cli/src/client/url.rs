//! The URL of a server.

use std::fmt;
use std::str::FromStr;

use ureq::http::Uri;

/// The base of the URLs of an API, without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl(String);

impl ServerUrl {
    /// Returns the URL of a path that begins with a slash.
    pub fn of(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ServerUrl {
    type Err = String;

    /// Parses a URL with or without the path of the API: `/v1` unless it names another.
    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected a URL such as http://127.0.0.1:8080";
        let uri: Uri = text
            .parse()
            .map_err(|error| format!("{error}, {EXPECTED}"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(EXPECTED.to_owned());
        }
        if uri
            .authority()
            .is_some_and(|host| host.as_str().contains('@'))
        {
            return Err("it has a password in it; a key belongs into OPENAI_API_KEY".to_owned());
        }
        if uri.query().is_some() {
            return Err(format!("it has a query, {EXPECTED}"));
        }
        let base = text.trim_end_matches('/');
        let path = if uri.path() == "/" { "/v1" } else { "" };
        Ok(Self(format!("{base}{path}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_the_api_may_be_left_out() {
        let cases = [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1/models"),
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/v1/models"),
            ("https://a.example/v1", "https://a.example/v1/models"),
            ("https://a.example/v1/", "https://a.example/v1/models"),
            ("https://a.example/api/b", "https://a.example/api/b/models"),
            ("http://[::1]:80", "http://[::1]:80/v1/models"),
        ];
        for (text, expected) in cases {
            let url: ServerUrl = text.parse().unwrap();
            assert_eq!(url.of("/models"), expected);
        }
    }

    #[test]
    fn what_is_no_url_of_a_server_is_refused() {
        let cases = [
            ("", "expected a URL"),
            ("127.0.0.1:8080", "expected a URL"),
            ("ftp://a.example", "expected a URL"),
            ("unix:/run/bitnet.sock", "expected a URL"),
            ("http://", "expected a URL"),
            ("http://me:secret@a.example", "OPENAI_API_KEY"),
            ("http://a.example/v1?key=1", "it has a query"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<ServerUrl>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("secret"));
        }
    }
}
