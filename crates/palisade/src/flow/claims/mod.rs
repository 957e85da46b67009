//! Numbers in documents, bound to what proves them.
//!
//! ```text
//! documents, claims.toml ─► claims ─► measure ─► judge ─► findings
//!                             │                    └────► rewrite (update)
//!                             └─► survey: what has no proof, what contradicts itself
//! ```
//!
//! A claim is a number, what proves it (a command, a test or a benchmark), the relation
//! that both must have, and a tolerance.

mod definition;
mod document;
mod measure;
mod number;
mod survey;
mod test_count;
mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use definition::{Cost, Definition, Proof, Relation, Tolerance};
pub use document::{Document, Marker};
pub use measure::{Checked, Options, check, results};
pub(crate) use measure::{check_revision, proved_number};
pub use number::Number;
pub(crate) use survey::{CountedTests, test_counts};
pub use survey::{Unproved, contradictions, unproved};
pub use test_count::TestCount;
pub use update::update;

use crate::flow::benchmark_comparison::ComparisonError;
use crate::host::git::Repo;
use crate::host::session::{Session, SessionError};
use crate::record::Advice;
use document::NO_CLAIM;

pub use crate::policy::CLAIMS_FILE_NAME as FILE_NAME;

/// Why claims cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimsError {
    /// A document or `claims.toml` cannot be read or written.
    #[error("failed to use {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// `claims.toml`, or what a marker says, has the wrong form.
    #[error("failed to read {path} at line {line}: {message}")]
    Form {
        /// The file.
        path: String,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A definition does not say what it must.
    #[error("failed to read the claim {name:?} of {path}: it {problem}")]
    Definition {
        /// The file.
        path: String,
        /// The claim.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A marker stands behind no number, or names no claim.
    #[error("failed to read {path} at line {line}: the marker {marker:?} {problem}")]
    Marker {
        /// The document.
        path: String,
        /// The line, counted from 1.
        line: usize,
        /// What the marker says.
        marker: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The text around a claim's number is not in its document, or is there more than once.
    #[error(
        "failed to find the number of the claim {name:?} in {path}: {text:?} is there {count} times"
    )]
    Text {
        /// The document.
        path: String,
        /// The claim.
        name: String,
        /// The text, with `{{}}` in place of the number.
        text: String,
        /// How often it was found.
        count: usize,
    },
    /// No claim of that name is there.
    #[error("failed to find a claim called {0:?}")]
    NoClaim(String),
    /// A benchmark that proves a claim could not be measured.
    #[error(transparent)]
    Comparison(#[from] ComparisonError),
    /// The session failed: git, Cargo, the store, a run.
    #[error(transparent)]
    Session(SessionError),
}

impl<E: Into<SessionError>> From<E> for ClaimsError {
    fn from(error: E) -> Self {
        Self::Session(error.into())
    }
}

impl ClaimsError {
    fn inner(&self) -> Option<&dyn Advice> {
        match self {
            Self::Comparison(error) => Some(error),
            Self::Session(error) => Some(error),
            _ => None,
        }
    }
}

impl Advice for ClaimsError {
    fn is_usage(&self) -> bool {
        match self {
            Self::File { .. } => false,
            _ => self.inner().is_none_or(Advice::is_usage),
        }
    }

    fn hint(&self) -> Option<String> {
        match self.inner() {
            Some(inner) => inner.hint(),
            None if self.is_usage() => {
                Some("cargo palisade claims list; docs/claims.md".to_owned())
            }
            None => None,
        }
    }

    fn output(&self) -> Option<&str> {
        self.inner()?.output()
    }
}

/// A number of a document, and what proves it.
#[derive(Clone, Debug, Serialize)]
pub struct Claim {
    /// What it is called.
    pub name: String,
    /// The document.
    pub document: String,
    /// The line of the number, counted from 1.
    pub line: usize,
    /// The number as it is written.
    pub written: String,
    #[serde(skip)]
    pub(crate) number: Number,
    /// What proves it.
    #[serde(flatten)]
    pub definition: Definition,
    #[serde(skip)]
    pub(crate) location: ClaimLocation,
}

/// Where a claim is defined.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ClaimLocation {
    /// In `claims.toml`, at this place of the list.
    File(usize),
    /// In a marker whose content stands at these bytes of its document.
    Marker(std::ops::Range<usize>),
}

impl Claim {
    /// Where it stands and what it is called, for reports.
    pub fn title(&self) -> String {
        format!("{}:{} {}", self.document, self.line, self.name)
    }
}

/// The documents of a workspace with all claims.
#[derive(Clone, Debug)]
pub struct Claims {
    /// The documents, by path.
    pub documents: Vec<Document>,
    /// The claims, in the order of the documents.
    pub list: Vec<Claim>,
}

impl Claims {
    /// Reads the documents that the policy names, as they are in the user's files, and
    /// `claims.toml`.
    pub fn load(session: &Session) -> Result<Self, ClaimsError> {
        Self::load_in(session, &session.workspace.root)
    }

    /// The same of a checkout, in which the workspace has its root at `root`.
    pub(crate) fn load_in(session: &Session, root: &Path) -> Result<Self, ClaimsError> {
        let mut documents = Vec::new();
        for path in Repo::discover(root)?.working_files()?.into_keys() {
            let inside = path.strip_prefix(&session.workspace.dir);
            let Some(inside) = inside.map(|path| path.trim_start_matches('/')) else {
                continue;
            };
            if session.policy.claims.holds(inside) {
                documents.push((inside.to_owned(), read(&root.join(inside))?));
            }
        }
        let file = root.join(FILE_NAME);
        let definitions = if file.exists() {
            read(&file)?
        } else {
            String::new()
        };
        Self::of(documents, &definitions)
    }

    /// Finds the claims of some documents, given by path and text; `definitions` is the
    /// text of `claims.toml`.
    pub fn of(documents: Vec<(String, String)>, definitions: &str) -> Result<Self, ClaimsError> {
        let entries = definition::entries(definitions)?;
        let named = by_name(&entries)?;
        let documents: Vec<Document> = documents
            .into_iter()
            .map(|(path, text)| Document::read(&path, text))
            .collect();
        let mut list = Vec::new();
        let mut used = BTreeSet::new();
        for document in &documents {
            for marker in &document.markers {
                list.extend(of_marker(document, marker, &entries, &named, &mut used)?);
            }
        }
        for (at, entry) in entries.iter().enumerate() {
            list.extend(of_entry(&documents, entry, at, used.contains(&at))?);
        }
        list.sort_by(|a, b| {
            (&a.document, a.number.at.start).cmp(&(&b.document, b.number.at.start))
        });
        Ok(Self { documents, list })
    }

    /// Keeps the claims of these names only; all if there are none.
    pub fn only(&mut self, names: &[String]) -> Result<(), ClaimsError> {
        for name in names {
            if !self.list.iter().any(|claim| claim.name == *name) {
                return Err(ClaimsError::NoClaim(name.clone()));
            }
        }
        self.list
            .retain(|claim| names.is_empty() || names.contains(&claim.name));
        Ok(())
    }

    /// The document that a claim stands in.
    pub(crate) fn document(&self, claim: &Claim) -> &Document {
        let mut documents = self.documents.iter();
        documents
            .find(|document| document.path == claim.document)
            .expect("a claim is made from a document")
    }
}

fn definition_error(path: &str, name: &str, problem: &'static str) -> ClaimsError {
    ClaimsError::Definition {
        path: path.to_owned(),
        name: name.to_owned(),
        problem,
    }
}

fn claim(
    document: &Document,
    number: &Number,
    name: &str,
    definition: &Definition,
    location: ClaimLocation,
) -> Claim {
    Claim {
        name: name.to_owned(),
        document: document.path.clone(),
        line: document.line(number.at.start),
        written: document.text[number.at.clone()].to_owned(),
        number: number.clone(),
        definition: definition.clone(),
        location,
    }
}

/// Where the entry of each name is.
fn by_name(entries: &[definition::DefinitionEntry]) -> Result<BTreeMap<&str, usize>, ClaimsError> {
    let mut named = BTreeMap::new();
    for (at, entry) in entries.iter().enumerate() {
        if named.insert(entry.name.as_str(), at).is_some() {
            let problem = "is there twice";
            return Err(definition_error(FILE_NAME, &entry.name, problem));
        }
    }
    Ok(named)
}

/// The claim of a marker; `None` if it says that its number is none.
fn of_marker(
    document: &Document,
    marker: &Marker,
    entries: &[definition::DefinitionEntry],
    named: &BTreeMap<&str, usize>,
    used: &mut BTreeSet<usize>,
) -> Result<Option<Claim>, ClaimsError> {
    let content = &document.text[marker.content.clone()];
    let line = document.line(marker.at.start);
    let error = |problem| ClaimsError::Marker {
        path: document.path.clone(),
        line,
        marker: content.to_owned(),
        problem,
    };
    let Some(number) = marker.number.map(|at| &document.numbers[at].number) else {
        return Err(error("stands behind no number"));
    };
    if content == NO_CLAIM {
        return Ok(None);
    }
    if !content.contains('=') {
        let at = *named
            .get(content)
            .ok_or_else(|| error("names no claim of claims.toml"))?;
        if entries[at].text.is_some() {
            return Err(error("names a claim that claims.toml binds by a text"));
        }
        used.insert(at);
        let definition = &entries[at].definition;
        return Ok(Some(claim(
            document,
            number,
            content,
            definition,
            ClaimLocation::File(at),
        )));
    }
    // GitHub ends such a comment there.
    if content.contains("--") {
        return Err(error(
            "holds two dashes, which end a comment: define it in claims.toml",
        ));
    }
    let definition = definition::inline(&document.path, line, content)?;
    let name = definition.proof().title();
    let location = ClaimLocation::Marker(marker.content.clone());
    Ok(Some(claim(document, number, &name, &definition, location)))
}

/// The claim of an entry that says where its number stands; `None` if a marker names it.
fn of_entry(
    documents: &[Document],
    entry: &definition::DefinitionEntry,
    at: usize,
    has_marker: bool,
) -> Result<Option<Claim>, ClaimsError> {
    let error = |problem| definition_error(FILE_NAME, &entry.name, problem);
    let (path, text) = match (&entry.document, &entry.text) {
        (Some(path), Some(text)) => (path, text),
        (None, None) if has_marker => return Ok(None),
        (None, None) => {
            let problem = "has no marker in a document, and no document and text";
            return Err(error(problem));
        }
        _ => return Err(error("needs both document and text, or a marker")),
    };
    let document = documents.iter().find(|document| document.path == *path);
    let document = document.ok_or_else(|| error("names a document that is none"))?;
    let number = by_text(document, entry, text)?;
    let location = ClaimLocation::File(at);
    let (name, definition) = (&entry.name, &entry.definition);
    Ok(Some(claim(document, &number, name, definition, location)))
}

/// The number of an entry that says where it stands by the text around it.
fn by_text(
    document: &Document,
    entry: &definition::DefinitionEntry,
    text: &str,
) -> Result<Number, ClaimsError> {
    let Some((before, after)) = text.split_once("{}") else {
        let problem = "has a text without {} in place of the number";
        return Err(definition_error(FILE_NAME, &entry.name, problem));
    };
    let mut found = document.between(before, after);
    match (found.pop(), found.len()) {
        (Some(number), 0) => Ok(number),
        (number, count) => Err(ClaimsError::Text {
            path: document.path.clone(),
            name: entry.name.clone(),
            text: text.to_owned(),
            count: count + usize::from(number.is_some()),
        }),
    }
}

fn read(path: &Path) -> Result<String, ClaimsError> {
    let bytes = std::fs::read(path).map_err(|source| ClaimsError::File {
        path: path.to_owned(),
        source,
    })?;
    // What is no text has no claims; a lossy reading would be written back by `update`.
    Ok(String::from_utf8(bytes).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(text: &str, definitions: &str) -> Result<Claims, ClaimsError> {
        Claims::of(vec![("README.md".to_owned(), text.to_owned())], definitions)
    }

    const SIZE: &str = "[[claim]]\nname = \"size\"\ncommand = \"size model\"\nscale = 1e-6\n";

    #[test]
    fn numbers_are_bound_by_markers_and_by_text() {
        let text = "It takes 11.5 MB<!-- claim: size --> and \
                    7 s<!-- claim: command = \"clock\", relation = \"<=\", within = \"5 %\" -->.\n\n\
                    ```text\nran 12 tests\n```\n";
        let tests = "[[claim]]\nname = \"tests\"\ndocument = \"README.md\"\ntext = \"ran {} tests\"\n\
                     test = \"a/lib/tests::x\"\n";
        let found = claims(text, &format!("{SIZE}{tests}")).expect("valid");
        let listed: Vec<(&str, &str, usize)> = found
            .list
            .iter()
            .map(|claim| (claim.name.as_str(), claim.written.as_str(), claim.line))
            .collect();
        assert_eq!(
            listed,
            [("size", "11.5", 1), ("clock", "7", 1), ("tests", "12", 4)]
        );
    }

    #[test]
    fn what_binds_nothing_is_an_error_that_says_where() {
        let said = |text: &str, definitions: &str| {
            let error = claims(text, definitions).expect_err("wrong");
            error.to_string()
        };
        assert!(said("none<!-- claim: size -->", SIZE).contains("at line 1"));
        assert!(said("1<!-- claim: siez -->", SIZE).contains("names no claim"));
        assert!(said("1<!-- claim: command = \"a --b\" -->", "").contains("two dashes"));
        assert!(said("1<!-- claim: comand = \"a\" -->", "").contains("unknown field `comand`"));
        assert!(said("1<!-- claim: json = \"/a\" -->", "").contains("command"));
        assert!(said("1", SIZE).contains("no marker"));
        let text = format!("{SIZE}document = \"README.md\"\ntext = \"{{}} MB\"\n");
        assert!(said("1 MB, 2 MB", &text).contains("2 times"));
        assert!(said("nothing", &text).contains("0 times"));
        assert!(said("1<!-- claim: size -->", &format!("{SIZE}{SIZE}")).contains("twice"));
    }
}
