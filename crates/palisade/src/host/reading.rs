//! What code may read while it is built or run, by the words in its source. Documents, comments
//! and sources are no code until something reads them.
//!
//! The words are those of the standard library and of crates that read by themselves. Where a
//! word is there for another reason, tests run that need not; where none is there, a package
//! cannot read anything.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::risk::TextKind;
use crate::workspace::{Package, Workspace};

/// What takes the text of a file in while code is built.
const INCLUDES: [&str; 3] = ["include!", "include_str!", "include_bytes!"];

/// How far behind such a word the name of the file may stand.
const INCLUDE_LENGTH: usize = 200;

/// What opens files, starts programs that do, or makes tests of documents.
const READS: [&str; 10] = [
    "fs::",
    "File::open",
    "read_to_string",
    "read_dir",
    "Command::new",
    "WalkDir",
    "glob(",
    "doctest!",
    "skeptic",
    "version_sync",
];

/// What goes through folders; of sources where the same file speaks of them.
const WALKS: [&str; 4] = ["read_dir", "WalkDir", "glob(", "syn::parse_file"];

/// What compiles files of a folder and compares what the compiler says, with its lines.
const COMPILES: [&str; 5] = [
    "trybuild",
    "compiletest",
    "ui_test",
    "macrotest",
    "lang_tester",
];

/// What says on which line it stands.
const LINES: [&str; 4] = ["line!", "column!", "Location::caller", "track_caller"];

/// The source of a workspace.
#[derive(Debug, Default)]
pub struct SourceTexts(Vec<SourceText>);

#[derive(Debug)]
struct SourceText {
    package: Option<String>,
    text: String,
}

impl SourceTexts {
    /// Reads the Rust files of a workspace as they are on the disk.
    pub fn load(workspace: &Workspace) -> Self {
        let mut texts = Self::default();
        texts.add_folder(workspace, &workspace.root, &workspace.dir);
        texts
    }

    /// The texts of files that belong to packages.
    pub fn new<'a>(texts: impl IntoIterator<Item = (Option<&'a str>, &'a str)>) -> Self {
        let text = |(package, text): (Option<&str>, &str)| SourceText {
            package: package.map(str::to_owned),
            text: text.to_owned(),
        };
        Self(texts.into_iter().map(text).collect())
    }

    fn add_folder(&mut self, workspace: &Workspace, folder: &Path, dir: &str) {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let inside = if dir.is_empty() {
                name.to_string()
            } else {
                format!("{dir}/{name}")
            };
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    self.add_folder(workspace, &path, &inside);
                }
            } else if path.extension() == Some("rs".as_ref())
                && let Ok(text) = fs::read_to_string(&path)
            {
                let package = workspace.owner(&inside).map(|owner| owner.name.clone());
                self.0.push(SourceText { package, text });
            }
        }
    }

    /// Whether some file includes one of this name; of a `.txt` file, which may as well be data,
    /// whether one names it: a test may read it while it runs.
    pub fn include(&self, name: &str) -> bool {
        let may_be_data = Path::new(name).extension() == Some("txt".as_ref());
        let is_rust = Path::new(name).extension() == Some("rs".as_ref());
        let end = format!("{name}\"");
        self.0.iter().any(|source| {
            let text = &source.text;
            if is_rust {
                return includes(text, &end);
            }
            text.contains(&end) && (may_be_data || text.contains("include"))
        })
    }

    /// The packages that may read the text of a file, which lies in the folder of `owner`: those
    /// that name it by a way out of their own folder, and the owner if it reads anything of
    /// that kind.
    pub fn readers(&self, path: &str, owner: Option<&Package>, kind: TextKind) -> BTreeSet<String> {
        let name = path.rsplit('/').next().unwrap_or(path);
        let end = format!("{name}\"");
        let ways = ways_out(path, owner.map_or("", |owner| &owner.dir));
        let owner = owner.map(|owner| owner.name.as_str());
        let reads = |source: &&SourceText| {
            let text = source.text.as_str();
            let is_own = owner.is_some() && source.package.as_deref() == owner;
            let is_named = ways.iter().any(|way| text.contains(way.as_str()));
            let may_read = match kind {
                TextKind::Prose => has_any(text, &READS) || has_includes(text),
                TextKind::Source => scans(text) || includes(text, &end),
                TextKind::Setting => text.contains(&end) && has_any(text, &READS),
            };
            is_named || is_own && may_read
        };
        let readers = self.0.iter().filter(reads);
        readers
            .filter_map(|source| source.package.clone())
            .collect()
    }

    /// Whether code of some packages knows the lines that it stands on.
    pub fn know_lines(&self, packages: &BTreeSet<String>) -> bool {
        let is_theirs = |package: &String| packages.contains(package);
        let theirs = self.0.iter();
        let mut theirs = theirs.filter(|source| source.package.as_ref().is_some_and(is_theirs));
        theirs.any(|source| has_any(&source.text, &LINES))
    }
}

fn has_any(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.contains(word))
}

fn has_includes(text: &str) -> bool {
    has_any(text, &INCLUDES)
}

/// Whether a text includes a file whose path ends like this.
fn includes(text: &str, end: &str) -> bool {
    let behind = INCLUDES
        .iter()
        .flat_map(|word| text.match_indices(word).map(|(at, _)| &text[at..]));
    behind.into_iter().any(|behind| {
        let length = behind.char_indices().nth(INCLUDE_LENGTH);
        let near = &behind[..length.map_or(behind.len(), |(at, _)| at)];
        near.contains(end)
    })
}

/// Whether a text goes through sources, or has them compiled.
fn scans(text: &str) -> bool {
    let speaks_of_sources = text.contains(".rs") || text.contains("\"rs\"");
    has_any(text, &COMPILES) || has_any(text, &WALKS) && speaks_of_sources
}

/// How code may name a file that is not in its own folder: `../other/README.md"`. Of a file in
/// the folder of a package, with that folder: `../README.md` is each package's own one.
fn ways_out(path: &str, dir: &str) -> Vec<String> {
    let folders = dir.rsplit_once('/').map_or(0, |(above, _)| above.len() + 1);
    let ends = path.match_indices('/').map(|(at, _)| at + 1);
    let ends = std::iter::once(0).chain(ends);
    let ends = ends.filter(|at| dir.is_empty() || *at <= folders);
    let ends = ends.map(|at| &path[at..]);
    // A name alone is that of each package's own file from its `src`.
    let above = |end: &str| if end.contains('/') { "../" } else { "../../" };
    ends.map(|end| format!("{}{end}\"", above(end))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readers(text: &str, path: &str, kind: TextKind) -> bool {
        let texts = SourceTexts::new([(Some("a"), text), (Some("b"), "fn f() {}")]);
        let found = texts.readers(path, Some(&Package::new("a", "a")), kind);
        assert!(!found.contains("b"), "{text}");
        found.contains("a")
    }

    #[test]
    fn a_package_that_opens_nothing_reads_no_document_in_its_folder() {
        let prose = |text| readers(text, "a/README.md", TextKind::Prose);
        assert!(!prose("fn f(){ let s = \"README.md\"; }"));
        assert!(prose("#[test] fn t() { std::fs::read_to_string(path()); }"));
        assert!(prose("#![doc = include_str!(\"../README.md\")]"));
        assert!(prose(
            "version_sync::assert_markdown_deps_updated!(\"README.md\");"
        ));
        // A setting is read by those that name it.
        let setting = |text| readers(text, ".github/workflows/ci.yml", TextKind::Setting);
        assert!(!setting("fs::read(path)"));
        assert!(setting("fs::read(\".github/workflows/ci.yml\")"));
    }

    #[test]
    fn sources_are_read_by_what_scans_or_includes_them() {
        let source = |text| readers(text, "a/src/lib.rs", TextKind::Source);
        assert!(!source("fs::read_to_string(path)"));
        assert!(!source(
            "mod x; fn include() -> &'static str { \"lib.rs\" }"
        ));
        assert!(source(
            "include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/src/lib.rs\"))"
        ));
        assert!(source("for f in read_dir(dir) { f.ends_with(\".rs\") }"));
        assert!(source(
            "trybuild::TestCases::new().compile_fail(\"tests/ui/*\")"
        ));
    }

    #[test]
    fn a_file_outside_is_read_by_those_that_name_the_way_to_it() {
        let text = "fs::read_to_string(\"../../docs/guide.md\")";
        let texts = SourceTexts::new([(Some("a"), text), (Some("b"), "fs::read(\"guide.md\")")]);
        let of = |path| texts.readers(path, None, TextKind::Prose);
        assert_eq!(of("docs/guide.md"), ["a".to_owned()].into());
        assert_eq!(of("docs/other.md"), BTreeSet::new());
        assert_eq!(of("guide.md"), BTreeSet::new());
        let own = "#![doc = include_str!(\"../README.md\")]";
        let far = "fs::read(\"../../crates/a/README.md\"); fs::read(\"../../LICENSE\")";
        let texts = SourceTexts::new([(Some("b"), own), (Some("c"), far)]);
        let owner = Package::new("a", "crates/a");
        let found = texts.readers("crates/a/README.md", Some(&owner), TextKind::Prose);
        assert_eq!(found, ["c".to_owned()].into());
        let found = texts.readers("LICENSE", None, TextKind::Prose);
        assert_eq!(found, ["c".to_owned()].into());
    }

    #[test]
    fn lines_are_known_to_what_asks_for_them() {
        let texts = SourceTexts::new([
            (Some("a"), "#[track_caller] fn f() {}"),
            (Some("b"), "fn line() {}"),
        ]);
        assert!(texts.know_lines(&["a".to_owned(), "b".to_owned()].into()));
        assert!(!texts.know_lines(&["b".to_owned()].into()));
    }
}
