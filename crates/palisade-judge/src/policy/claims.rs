//! How numbers in documents are held.

use std::time::Duration;

use serde::Deserialize;

use super::{Pattern, Span};

/// How numbers in documents are held.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClaimsPolicy {
    /// The documents that are looked at, as patterns from the workspace's root.
    pub documents: Vec<Pattern>,
    /// Those that are not: what tells of the past is not to be true now.
    pub except: Vec<Pattern>,
    /// Whether `check` measures the cheap claims.
    pub check: bool,
    /// How long a command may take that proves a claim.
    pub time_out: Span,
}

impl Default for ClaimsPolicy {
    fn default() -> Self {
        let pattern = |text| Pattern::new(text).expect("a valid pattern");
        Self {
            documents: vec![pattern("**/*.md")],
            except: vec![pattern("**/CHANGELOG.md"), pattern("**/CHANGES.md")],
            check: true,
            time_out: Span(Duration::from_mins(5)),
        }
    }
}

impl ClaimsPolicy {
    /// Whether a file is a document whose numbers are looked at.
    pub fn holds(&self, path: &str) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(path));
        any(&self.documents) && !any(&self.except)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_all_that_tell_of_now() {
        let policy = ClaimsPolicy::default();
        for (path, expected) in [
            ("README.md", true),
            ("docs/a/b.md", true),
            ("src/lib.rs", false),
            ("CHANGELOG.md", false),
            ("crates/a/CHANGELOG.md", false),
        ] {
            assert_eq!(policy.holds(path), expected, "{path}");
        }
    }
}
