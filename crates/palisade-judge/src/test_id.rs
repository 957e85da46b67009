//! What makes two observations observations of *the same test*.
//!
//! A test is named by package, kind of target, target and path, so that two
//! packages may have tests of one name. A doctest is named by its file and item,
//! without the line it stands on, so that it stays itself when lines above it move.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The kind of Cargo target a test belongs to.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    /// Unit tests of a library or a procedural macro.
    Lib,
    /// Unit tests of a program.
    Bin,
    /// An integration test, `tests/*.rs`.
    Test,
    /// Tests inside an example.
    Example,
    /// Tests inside a benchmark target.
    Bench,
    /// Tests in documentation comments.
    Doc,
}

impl TargetKind {
    const ALL: [Self; 6] = [
        Self::Lib,
        Self::Bin,
        Self::Test,
        Self::Example,
        Self::Bench,
        Self::Doc,
    ];

    /// The word for it in names and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lib => "lib",
            Self::Bin => "bin",
            Self::Test => "test",
            Self::Example => "example",
            Self::Bench => "bench",
            Self::Doc => "doc",
        }
    }

    /// The kind a word of Cargo's metadata or of nextest's list stands for.
    pub fn from_cargo(word: &str) -> Option<Self> {
        match word {
            "lib" | "rlib" | "dylib" | "cdylib" | "staticlib" | "proc-macro" => Some(Self::Lib),
            _ => Self::ALL.into_iter().find(|kind| kind.as_str() == word),
        }
    }
}

/// The identity of a test.
///
/// Its text form is `package/kind:target/path`, where the target is left out for
/// libraries and doctests, of which a package has one.
///
/// ```
/// use palisade_judge::test_id::{TargetKind, TestId};
///
/// let id = TestId::new("parser", TargetKind::Test, "cli", "help::fits");
/// assert_eq!(id.to_string(), "parser/test:cli/help::fits");
/// assert_eq!(id.to_string().parse::<TestId>().unwrap(), id);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TestId {
    /// The package's name.
    pub package: String,
    /// The kind of target.
    pub kind: TargetKind,
    /// The target's name; empty for libraries and doctests.
    pub target: String,
    /// The path of the test inside the target, as libtest prints it.
    pub path: String,
}

/// Why a text is not the name of a test.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the name of a test (expected package/kind:target/path)")]
pub struct ParseTestIdError {
    /// The text.
    pub text: String,
}

impl TestId {
    /// Names a test; the target of libraries and doctests is dropped.
    pub fn new(package: &str, kind: TargetKind, target: &str, path: &str) -> Self {
        let target = match kind {
            TargetKind::Lib | TargetKind::Doc => "",
            _ => target,
        };
        Self {
            package: package.to_owned(),
            kind,
            target: target.to_owned(),
            path: path.to_owned(),
        }
    }

    /// The target it is in, as the test's name begins: `package/kind:target`.
    pub fn place(&self) -> String {
        place(&self.package, self.kind, &self.target)
    }

    /// The last part of the path: the name of the test function.
    pub fn function(&self) -> &str {
        self.path.rsplit("::").next().unwrap_or(&self.path)
    }
}

/// A target as the names of its tests begin: `package/kind:target`.
pub fn place(package: &str, kind: TargetKind, target: &str) -> String {
    let kind_word = kind.as_str();
    match kind {
        TargetKind::Lib | TargetKind::Doc => format!("{package}/{kind_word}"),
        _ => format!("{package}/{kind_word}:{target}"),
    }
}

impl fmt::Display for TestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.place(), self.path)
    }
}

impl FromStr for TestId {
    type Err = ParseTestIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (package, rest) = text.split_once('/')?;
            let (place, path) = rest.split_once('/')?;
            let (kind, target) = place.split_once(':').unwrap_or((place, ""));
            let kind = TargetKind::ALL.into_iter().find(|k| k.as_str() == kind)?;
            let parts_given = !package.is_empty() && !path.is_empty();
            parts_given.then(|| Self::new(package, kind, target, path))
        };
        parse().ok_or_else(|| ParseTestIdError {
            text: text.to_owned(),
        })
    }
}

impl serde::Serialize for TestId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for TestId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Turns the names that rustdoc prints, such as `src/lib.rs - item (line 12)`,
/// into paths without line numbers. On Windows rustdoc prints `src\lib.rs`; the path has `/`,
/// so that a test has one name on every system. Several doctests of one item are told apart
/// by their order in the file: the second is `src/lib.rs - item #2`.
pub fn doctest_paths<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, String> {
    let mut by_item: BTreeMap<String, Vec<(u64, &str)>> = BTreeMap::new();
    for name in names {
        let (item, line) = split_line(name);
        by_item
            .entry(with_slashes(&item))
            .or_default()
            .push((line, name));
    }
    let mut paths = BTreeMap::new();
    for (item, mut places) in by_item {
        places.sort_unstable();
        places.dedup();
        for (index, (_, name)) in places.into_iter().enumerate() {
            let path = match index {
                0 => item.clone(),
                _ => format!("{item} #{}", index + 1),
            };
            paths.insert(name, path);
        }
    }
    paths
}

/// The path of a doctest with `/` between the folders of its file.
fn with_slashes(path: &str) -> String {
    let (file, item) = path.split_at(path.find(" - ").unwrap_or(path.len()));
    file.replace('\\', "/") + item
}

/// What rustdoc takes as the name of some tests, or a part of it, to run the doctest with such
/// a path, whatever stands between the folders of its file. Others may have that part too.
pub fn doctest_filter(path: &str) -> &str {
    let path = path.split(" #").next().unwrap_or(path);
    let file = path.find(" - ").unwrap_or(path.len());
    let folder = path[..file].rfind('/').filter(|_| cfg!(windows));
    folder.map_or(path, |end| &path[end + 1..])
}

/// Takes ` (line 12)` and what follows it (` - compile fail`) off a doctest's name.
fn split_line(name: &str) -> (String, u64) {
    let split = name.rfind(" (line ").and_then(|at| {
        let rest = &name[at + " (line ".len()..];
        let line = rest[..rest.find(')')?].parse().ok()?;
        Some((name[..at].trim_end_matches([' ', '-']).to_owned(), line))
    });
    split.unwrap_or_else(|| (name.to_owned(), 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        for (id, text) in [
            (
                TestId::new("a", TargetKind::Lib, "a", "tests::x"),
                "a/lib/tests::x",
            ),
            (
                TestId::new("a-b", TargetKind::Bin, "tool", "t"),
                "a-b/bin:tool/t",
            ),
            (
                TestId::new("a", TargetKind::Doc, "a", "src/lib.rs - m::f #2"),
                "a/doc/src/lib.rs - m::f #2",
            ),
        ] {
            assert_eq!(id.to_string(), text);
            assert_eq!(text.parse::<TestId>(), Ok(id));
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "a", "a/lib", "a/lib/", "/lib/x", "a/tree/x", "tests::x"] {
            assert!(text.parse::<TestId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_doctest_keeps_its_name_when_its_line_moves() {
        let before = doctest_paths(["src/lib.rs - f (line 3)", "src/lib.rs - f (line 9)"]);
        let after = doctest_paths(["src/lib.rs - f (line 19)", "src/lib.rs - f (line 13)"]);
        assert_eq!(before["src/lib.rs - f (line 3)"], "src/lib.rs - f");
        assert_eq!(before["src/lib.rs - f (line 9)"], "src/lib.rs - f #2");
        assert_eq!(after["src/lib.rs - f (line 13)"], "src/lib.rs - f");
        assert_eq!(after["src/lib.rs - f (line 19)"], "src/lib.rs - f #2");
    }

    #[test]
    fn a_doctest_has_one_name_on_every_system() {
        let names = [
            "crates\\a\\src\\lib.rs - m::f (line 3)",
            "crates/a/src/lib.rs - m::f (line 9)",
            "src\\../README.md - (line 1)",
            "src/lib.rs - \\odd (line 7)",
        ];
        let paths = doctest_paths(names);
        assert_eq!(paths[names[0]], "crates/a/src/lib.rs - m::f");
        assert_eq!(paths[names[1]], "crates/a/src/lib.rs - m::f #2");
        assert_eq!(paths[names[2]], "src/../README.md");
        assert_eq!(paths[names[3]], "src/lib.rs - \\odd");
    }

    #[test]
    fn a_doctest_is_asked_for_by_what_rustdoc_prints() {
        let filter = doctest_filter("crates/a/src/lib.rs - m::f #2");
        if cfg!(windows) {
            assert_eq!(filter, "lib.rs - m::f");
        } else {
            assert_eq!(filter, "crates/a/src/lib.rs - m::f");
        }
        for printed in [
            "crates/a/src/lib.rs - m::f (line 3)",
            "crates\\a\\src\\lib.rs - m::f (line 3)",
        ] {
            let is_native = printed.contains(std::path::MAIN_SEPARATOR);
            assert_eq!(
                printed.contains(filter),
                is_native || cfg!(windows),
                "{printed}"
            );
        }
    }

    #[test]
    fn marks_of_rustdoc_are_no_part_of_the_name() {
        let names = [
            "src/lib.rs - g (line 9) - compile",
            "src/lib.rs - (line 1)",
            "src/m.rs - m::h (line 4) - compile fail",
        ];
        let paths = doctest_paths(names);
        assert_eq!(paths[names[0]], "src/lib.rs - g");
        assert_eq!(paths[names[1]], "src/lib.rs");
        assert_eq!(paths[names[2]], "src/m.rs - m::h");
    }
}
