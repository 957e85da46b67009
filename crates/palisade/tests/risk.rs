//! The risk of changes, from the text of files.

use std::collections::BTreeSet;
use std::path::Path;

use palisade::change::{ChangeKind, FileChange, Hunk};
use palisade::host::reading::SourceTexts;
use palisade::host::source::rust_file;
use palisade::level::Level;
use palisade::policy::Policy;
use palisade::risk::{Files, RustFile, TextKind, assess};
use palisade::scope::Scope;
use palisade::workspace::{Package, Workspace};

/// A workspace of packages given as (name, folder, dependencies).
fn workspace(packages: &[(&str, &str, &[&str])]) -> Workspace {
    let packages = packages.iter().map(|(name, dir, dependencies)| Package {
        dependencies: dependencies.iter().map(|name| (*name).to_owned()).collect(),
        ..Package::new(name, dir)
    });
    Workspace::new(packages)
}

/// Texts by path, before and after.
struct Texts(Vec<(&'static str, Option<&'static str>, Option<&'static str>)>);

impl Texts {
    /// The Rust files after the change; a package is called as its folder below `crates`.
    fn source(&self) -> SourceTexts {
        let package = |path: &'static str| path.strip_prefix("crates/")?.split('/').next();
        let text = |(path, _, after): &(&'static str, _, Option<&'static str>)| {
            let is_rust = Path::new(path).extension() == Some("rs".as_ref());
            let text = after.filter(|_| is_rust)?;
            Some((package(path), text))
        };
        SourceTexts::new(self.0.iter().filter_map(text).collect::<Vec<_>>())
    }
}

impl Files for Texts {
    fn base(&self, path: &str) -> RustFile {
        let found = self.0.iter().find(|(name, ..)| *name == path);
        rust_file(found.and_then(|(_, before, _)| *before))
    }
    fn candidate(&self, path: &str) -> RustFile {
        let found = self.0.iter().find(|(name, ..)| *name == path);
        rust_file(found.and_then(|(_, _, after)| *after))
    }
    fn is_included(&self, name: &str) -> bool {
        self.source().include(name)
    }
    fn readers(&self, path: &str, owner: Option<&Package>, kind: TextKind) -> BTreeSet<String> {
        self.source().readers(path, owner, kind)
    }
    fn know_lines(&self, packages: &BTreeSet<String>) -> bool {
        self.source().know_lines(packages)
    }
}

fn packages(names: &[&str]) -> Scope {
    Scope::Packages(names.iter().map(|name| (*name).to_owned()).collect())
}

/// Assesses a change of one file, and says level, class and scope in one line.
fn assess_text(file: &'static str, before: &'static str, after: &'static str) -> String {
    let ws = workspace(&[
        ("base", "crates/base", &[]),
        ("mid", "crates/mid", &["base"]),
        ("top", "crates/top", &["mid"]),
    ]);
    let change = FileChange {
        path: file.to_owned(),
        kind: ChangeKind::Modified,
        hunks: vec![Hunk { start: 1, lines: 2 }],
    };
    let texts = Texts(vec![(file, Some(before), Some(after))]);
    let found = assess(&[change], &ws, &[], &texts);
    let risk = &found.files[0];
    let scope = match &found.scope {
        None => "nothing".to_owned(),
        Some(Scope::Workspace) => "everything".to_owned(),
        Some(Scope::Doctests(names)) => format!("doctests {names:?}"),
        Some(Scope::Packages(names)) => format!("{names:?}"),
        Some(Scope::Tests(_) | Scope::Shard(_)) => "a part".to_owned(),
    };
    format!("{} {} {scope}", risk.level.word(), risk.class).replace('"', "")
}

#[test]
fn rust_files_are_classed_by_what_changed_in_them() {
    let check = |before, after, expected: &str| {
        assert_eq!(
            assess_text("crates/base/src/lib.rs", before, after),
            expected
        );
    };
    let f = "fn f() {}";
    check(f, "fn f() { g() }", "Medium code {base, mid, top}");
    check(
        f,
        "fn f() { unsafe { g() } }",
        "Critical unsafe code {base, mid, top}",
    );
    let simd = "#[target_feature(enable = \"avx2\")] fn f() {}";
    check(f, simd, "Critical SIMD kernel {base, mid, top}");
    check(
        f,
        "extern \"C\" { fn f(); }",
        "Critical foreign code {base, mid, top}",
    );
    check(f, "fn f() { not rust", "Medium code {base, mid, top}");
    check(
        "pub fn f() {}",
        "pub fn f(a: u8) {}",
        "High public API {base, mid, top}",
    );
    check("pub fn f() {}", "", "High public API {base, mid, top}");
    check(
        "pub fn f() {}",
        "pub fn f() { g() }",
        "Medium code {base, mid, top}",
    );
    check(f, "fn f() {} pub fn g() {}", "Medium code {base, mid, top}");
    check(f, "// c\nfn f() {}", "Low comments nothing");
    let docs = "Low documentation comments doctests {base}";
    check("/// a\nfn f() {}", "/// b\nfn f() {}", docs);
    let tests = "fn f() {} #[cfg(test)] mod t { fn x() {} }";
    check(
        "fn f() {} #[cfg(test)] mod t {}",
        tests,
        "Medium tests only {base}",
    );
}

#[test]
fn what_code_may_read_is_no_comment_and_no_prose() {
    let ws = workspace(&[
        ("base", "crates/base", &[]),
        ("mid", "crates/mid", &["base"]),
        ("tool", "crates/tool", &[]),
    ]);
    let scope = |file: &'static str, texts: [&'static str; 2], code: &'static str| {
        let change = FileChange {
            path: file.to_owned(),
            kind: ChangeKind::Modified,
            hunks: Vec::new(),
        };
        let [before, after] = texts;
        let texts = Texts(vec![
            (file, Some(before), Some(after)),
            ("crates/base/tests/it.rs", Some(code), Some(code)),
        ]);
        assess(&[change], &ws, &[], &texts).scope
    };
    let comment = ["fn f() {}", "// c\nfn f() {}"];
    let lib = "crates/base/src/lib.rs";
    assert_eq!(scope(lib, comment, "fn t() {}"), None);
    let lines = scope(lib, comment, "fn t() { assert_eq!(line!(), 3) }");
    assert_eq!(lines, Some(packages(&["base", "mid"])));
    let scan = scope(lib, comment, "fn t() { read_dir(\"src\"); \".rs\" }");
    assert_eq!(scan, Some(packages(&["base"])));
    let readme = "crates/base/README.md";
    assert_eq!(scope(readme, ["a", "b"], "fn t() {}"), None);
    let read = scope(readme, ["a", "b"], "fn t() { std::fs::read(path()); }");
    assert_eq!(read, Some(packages(&["base"])));
    let guide = scope("docs/guide.md", ["a", "b"], "f(\"../../docs/guide.md\")");
    assert_eq!(guide, Some(packages(&["base"])));
    // Help texts are made of documentation comments.
    let help = [
        "/// a\n#[derive(clap::Parser)] struct A;",
        "/// b\n#[derive(clap::Parser)] struct A;",
    ];
    let derived = scope(lib, help, "fn t() {}");
    assert_eq!(derived, Some(packages(&["base", "mid"])));
}

#[test]
fn only_shipped_code_can_be_slower() {
    let shipped = |file: &'static str, before: &'static str, after: &'static str| {
        let ws = workspace(&[
            ("base", "crates/base", &[]),
            ("mid", "crates/mid", &["base"]),
            ("alone", "crates/alone", &[]),
        ]);
        let change = FileChange {
            path: file.to_owned(),
            kind: ChangeKind::Modified,
            hunks: Vec::new(),
        };
        let texts = Texts(vec![(file, Some(before), Some(after))]);
        let found = assess(&[change], &ws, &[], &texts);
        (found.shipped.join(" "), found.changes_data())
    };
    let code = |file| shipped(file, "fn f() {}", "fn f() { g() }");
    for (file, expected, changes_data) in [
        ("crates/base/src/lib.rs", "base mid", false),
        ("crates/mid/src/lib.rs", "mid", false),
        ("crates/mid/Cargo.toml", "mid", false),
        ("crates/mid/src/table.bin", "mid", true),
        ("crates/mid/tests/it.rs", "", false),
        ("crates/mid/tests/table.bin", "", true),
        ("crates/mid/benches/speed.rs", "", false),
        ("crates/mid/README.md", "", false),
        ("Cargo.lock", "alone base mid", false),
        ("shared.rs", "alone base mid", true),
        ("scripts/run.sh", "", true),
    ] {
        let (packages, data) = code(file);
        assert_eq!(
            (packages.as_str(), data),
            (expected, changes_data),
            "{file}"
        );
    }
    let tests = shipped(
        "crates/base/src/lib.rs",
        "fn f() {} #[cfg(test)] mod t {}",
        "fn f() {} #[cfg(test)] mod t { fn x() {} }",
    );
    assert_eq!(tests.0, "");
}

#[test]
fn other_files_are_classed_by_their_place() {
    let check = |file, expected: &str| assert_eq!(assess_text(file, "", "x"), expected);
    check("crates/mid/tests/it.rs", "Medium tests only {mid}");
    check("crates/mid/build.rs", "Critical build script {mid, top}");
    check("Cargo.lock", "Critical lockfile everything");
    check("rust-toolchain.toml", "Critical toolchain everything");
    check("Cargo.toml", "Critical workspace manifest everything");
    check("crates/top/Cargo.toml", "High package manifest everything");
    check(
        ".cargo/config.toml",
        "Critical cargo configuration everything",
    );
    check("palisade.toml", "High policy everything");
    check("scripts/x.sh", "High unknown file everything");
    check("scripts/x.rs", "High unknown file everything");
    check("README.md", "Low documentation nothing");
    check("crates/top/data.json", "Medium data of a package {top}");
    check(".github/workflows/ci.yml", "Low repository file nothing");
}

#[test]
fn a_document_that_code_includes_is_code() {
    let ws = workspace(&[("a", "a", &[])]);
    let change = |path: &str| FileChange {
        path: path.to_owned(),
        kind: ChangeKind::Modified,
        hunks: Vec::new(),
    };
    let text = Some("#![doc = include_str!(\"README.md\")]");
    let texts = Texts(vec![
        ("a/README.md", Some("x"), Some("y")),
        ("a/src/lib.rs", text, text),
    ]);
    let found = assess(&[change("a/README.md")], &ws, &[], &texts);
    assert_eq!(found.scope, Some(packages(&["a"])));
    assert_eq!(found.files[0].reasons, ["code includes it"]);
}

#[test]
fn what_everything_stands_on_is_critical() {
    let ws = workspace(&[
        ("base", "base", &[]),
        ("b", "b", &["base"]),
        ("c", "c", &["base"]),
        ("d", "d", &["b"]),
        ("e", "e", &[]),
    ]);
    let change = FileChange {
        path: "base/src/lib.rs".to_owned(),
        kind: ChangeKind::Modified,
        hunks: Vec::new(),
    };
    let texts = Texts(vec![(
        "base/src/lib.rs",
        Some("fn a() {}"),
        Some("fn b() {}"),
    )]);
    let found = assess(&[change], &ws, &[], &texts);
    assert_eq!(found.level, Some(Level::Critical));
    let reasons = &found.files[0].reasons;
    assert!(
        reasons.contains(&"3 of 5 packages depend on base".to_owned()),
        "{reasons:?}"
    );
}

#[test]
fn the_policy_raises_the_risk_and_never_lowers_it() {
    let ws = workspace(&[("a", "a", &[])]);
    let text = "[[class]]\nname = \"parser\"\npaths = [\"a/src/parse/**\"]\nrisk = \"high\"";
    let policy = Policy::parse(text, Path::new("p")).expect("valid");
    let check = |before, after, expected| {
        let change = FileChange {
            path: "a/src/parse/x.rs".to_owned(),
            kind: ChangeKind::Modified,
            hunks: Vec::new(),
        };
        let texts = Texts(vec![("a/src/parse/x.rs", Some(before), Some(after))]);
        let found = assess(&[change], &ws, &policy.class, &texts);
        let risk = &found.files[0];
        assert_eq!((risk.level, risk.class.to_string().as_str()), expected);
    };
    check("fn a() {}", "fn b() {}", (Level::High, "parser"));
    let unsafe_code = "fn b() { unsafe { c() } }";
    check("fn a() {}", unsafe_code, (Level::Critical, "unsafe code"));
    check("fn a() {}", "fn a() {} // x", (Level::Low, "comments"));
}

#[test]
fn the_policy_lowers_the_risk_of_what_it_says_is_no_code() {
    let ws = workspace(&[("a", "a", &[])]);
    let text = "[[class]]\nname = \"web page\"\npaths = [\"web/**\", \"a/web/**\", \"Cargo.lock\", \
                \"a/src/**\"]\nrisk = \"low\"\ncode = false";
    let policy = Policy::parse(text, Path::new("p")).expect("valid");
    let check = |path: &str, level, class: &str, affects: bool| {
        let change = FileChange {
            path: path.to_owned(),
            kind: ChangeKind::Modified,
            hunks: Vec::new(),
        };
        let found = assess(&[change], &ws, &policy.class, &Texts(Vec::new()));
        let risk = &found.files[0];
        let seen = (risk.level, risk.class.to_string(), found.scope.is_some());
        assert_eq!(seen, (level, class.to_owned(), affects), "{path}");
    };
    check("web/app.ts", Level::Low, "web page", false);
    check("a/web/page.html", Level::Low, "web page", false);
    // What Cargo builds from stays what it is.
    check("Cargo.lock", Level::Critical, "lockfile", true);
    check("a/src/lib.rs", Level::Medium, "code", true);
    check("b/app.ts", Level::High, "unknown file", true);
}

#[test]
fn a_file_that_moves_affects_both_packages() {
    let ws = workspace(&[("a", "a", &[]), ("b", "b", &[])]);
    let change = FileChange {
        path: "b/src/x.rs".to_owned(),
        kind: ChangeKind::Renamed {
            from: "a/src/x.rs".to_owned(),
        },
        hunks: Vec::new(),
    };
    let found = assess(&[change], &ws, &[], &Texts(Vec::new()));
    assert_eq!(found.scope, Some(packages(&["a", "b"])));
    assert!(assess(&[], &ws, &[], &Texts(Vec::new())).scope.is_none());
}
