//! Says how risky a change is, why, and which tests it can affect.
//!
//! Pure but for the file contents it is handed. The floor is the package: every
//! test of a changed package and of the packages that depend on it is affected.
//! A file that belongs to no package affects everything.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::git::{ChangeKind, FileChange};
use crate::policy::{FILE_NAME, PathClass};
use crate::scope::Scope;
use crate::source::{Contents, contents};
use crate::workspace::{Package, Workspace};

/// How risky a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Documentation and the like: no test can tell the difference.
    Low,
    /// Ordinary code or tests.
    Medium,
    /// Public items, manifests, or what is not understood.
    High,
    /// What everything stands on, or what the compiler does not check.
    Critical,
}

impl Level {
    /// The word for it in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Low => "Low",
            Self::Medium => "Medium",
            Self::High => "High",
            Self::Critical => "Critical",
        }
    }
}

/// Which tests a file can affect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// None.
    Nothing,
    /// The documentation tests of its package.
    Doctests,
    /// The tests of its package.
    Package,
    /// The tests of its package and of those that depend on it.
    Dependents,
    /// All tests.
    Everything,
}

/// A changed file with what it means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileRisk {
    /// The path from the repository's root.
    pub path: String,
    /// The package it belongs to.
    pub package: Option<String>,
    /// How risky it is.
    pub level: Level,
    /// What it is, in a few words.
    pub class: String,
    /// Why it is as risky as that, in words.
    pub reasons: Vec<String>,
    /// How many lines of the new file changed, and in how many places.
    pub lines: u32,
    /// In how many places it changed.
    pub hunks: usize,
}

/// What a change risks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assessment {
    /// The highest level of any file; `None` if nothing changed.
    pub level: Option<Level>,
    /// The changed files, riskiest first.
    pub files: Vec<FileRisk>,
    /// The packages that changed.
    pub changed: BTreeSet<String>,
    /// The packages that depend on them.
    pub dependents: BTreeSet<String>,
    /// The tests it can affect; `None` if it can affect none.
    pub scope: Option<Scope>,
}

/// Where the contents of changed files come from.
pub trait Files {
    /// The text of a file in the base; `None` if it is not there or not text.
    fn base(&self, path: &str) -> Option<String>;
    /// The text of a file in the candidate.
    fn candidate(&self, path: &str) -> Option<String>;
    /// Whether some Rust file of the candidate includes a file of this name.
    fn is_included(&self, name: &str) -> bool;
}

/// Share of the other packages that makes a package one that everything stands on.
const WIDE: f64 = 0.6;

/// In a workspace smaller than this, the share says nothing.
const WIDE_FROM: usize = 5;

/// Judges the changed files of a workspace.
pub fn assess(
    changes: &[FileChange],
    workspace: &Workspace,
    classes: &[PathClass],
    files: &dyn Files,
) -> Assessment {
    let mut assessment = Assessment {
        level: None,
        files: Vec::new(),
        changed: BTreeSet::new(),
        dependents: BTreeSet::new(),
        scope: None,
    };
    let mut reaches: BTreeMap<Option<String>, Reach> = BTreeMap::new();
    for change in changes {
        let moved_from = match &change.kind {
            ChangeKind::Renamed { from } => Some(from.as_str()),
            _ => None,
        };
        let (risk, reach) = file_risk(change, workspace, classes, files);
        // A file that moved between packages changed both.
        let left = moved_from.and_then(|from| workspace.owner(from));
        let left = left.map(|package| package.name.clone());
        for package in [Some(risk.package.clone()), left.map(Some)]
            .into_iter()
            .flatten()
        {
            let entry = reaches.entry(package).or_insert(Reach::Nothing);
            *entry = reach.max(*entry);
        }
        assessment.level = assessment.level.max(Some(risk.level));
        assessment.files.push(risk);
    }
    assessment
        .files
        .sort_by(|a, b| b.level.cmp(&a.level).then(a.path.cmp(&b.path)));
    for (package, reach) in &reaches {
        if let (Some(package), true) = (package, *reach > Reach::Nothing) {
            assessment.changed.insert(package.clone());
            if *reach >= Reach::Dependents {
                assessment.dependents.extend(workspace.dependents(package));
            }
        }
    }
    let direct = |dependent: &String| !assessment.changed.contains(dependent);
    assessment.dependents = assessment
        .dependents
        .iter()
        .filter(|d| direct(d))
        .cloned()
        .collect();
    let widest = reaches.values().max().copied().unwrap_or(Reach::Nothing);
    assessment.scope = match widest {
        Reach::Nothing => None,
        Reach::Everything => Some(Scope::Workspace),
        Reach::Doctests => Some(Scope::Doctests(assessment.changed.clone())),
        Reach::Package | Reach::Dependents => {
            let packages = assessment.changed.union(&assessment.dependents);
            Some(Scope::Packages(packages.cloned().collect()))
        }
    };
    assessment
}

/// What is known about one file before the path rules of the policy.
struct Class {
    level: Level,
    name: String,
    reasons: Vec<String>,
    reach: Reach,
}

impl Class {
    fn new(level: Level, name: &str, reason: &str, reach: Reach) -> Self {
        Self {
            level,
            name: name.to_owned(),
            reasons: vec![reason.to_owned()],
            reach,
        }
    }
}

fn file_risk(
    change: &FileChange,
    workspace: &Workspace,
    classes: &[PathClass],
    files: &dyn Files,
) -> (FileRisk, Reach) {
    let path = change.path.as_str();
    let owner = workspace.owner(path);
    let mut class = builtin_class(change, owner, workspace, files);
    // A rule raises the risk and never lowers it. It is about what a file does, so
    // comments in code are not its matter.
    let is_cosmetic = class.reach <= Reach::Doctests && class.name.contains("comments");
    let rules = classes
        .iter()
        .filter(|rule| !is_cosmetic && rule.paths.iter().any(|pattern| pattern.matches(path)));
    for rule in rules {
        let reason = format!("palisade.toml calls it {:?}", rule.name);
        class.reasons.insert(0, reason);
        if rule.risk > class.level {
            class.name.clone_from(&rule.name);
            class.level = rule.risk;
        }
    }
    if let (Some(owner), true) = (owner, class.reach >= Reach::Dependents) {
        let dependents = workspace.dependents(&owner.name).len();
        let packages = workspace.packages.len();
        if dependents > 0 {
            let verb = if dependents == 1 { "depends" } else { "depend" };
            let reason = format!(
                "{dependents} of {packages} packages {verb} on {}",
                owner.name
            );
            class.reasons.push(reason);
        }
        let share = dependents as f64 / (packages.max(2) - 1) as f64;
        if packages >= WIDE_FROM && share > WIDE {
            class.level = Level::Critical;
        }
    }
    let risk = FileRisk {
        path: path.to_owned(),
        package: owner.map(|package| package.name.clone()),
        level: class.level,
        class: class.name,
        reasons: class.reasons,
        lines: change.hunks.iter().map(|hunk| hunk.lines).sum(),
        hunks: change.hunks.len(),
    };
    (risk, class.reach)
}

/// Files that no build and no test reads.
const REPOSITORY_FILES: [&str; 6] = [
    ".gitignore",
    ".gitattributes",
    ".editorconfig",
    ".mailmap",
    "rustfmt.toml",
    "clippy.toml",
];

/// The class of files that mean the same in every workspace.
fn class_by_name(change: &FileChange, name: &str, workspace: &Workspace) -> Option<Class> {
    use Level::{Critical, High, Low};
    let path = change.path.as_str();
    let everything = |level, class, reason| Class::new(level, class, reason, Reach::Everything);
    let unified = "features and dependencies are unified over the workspace";
    let class = match name {
        "Cargo.lock" => {
            let reason = "versions of dependencies change under all packages";
            everything(Critical, "lockfile", reason)
        }
        "rust-toolchain" | "rust-toolchain.toml" => {
            everything(Critical, "toolchain", "the compiler changes")
        }
        "Cargo.toml" if path == join(&workspace.dir, "Cargo.toml") => {
            everything(Critical, "workspace manifest", unified)
        }
        "Cargo.toml" => everything(High, "package manifest", unified),
        FILE_NAME if change.kind == ChangeKind::Added => {
            let reason = "from now on this policy judges changes";
            Class::new(High, "policy", reason, Reach::Nothing)
        }
        FILE_NAME => {
            let reason = "the policy that judges this change changes with it";
            everything(High, "policy", reason)
        }
        _ if path.split('/').any(|folder| folder == ".cargo") => {
            let reason = "flags and settings change under all packages";
            everything(Critical, "cargo configuration", reason)
        }
        _ if path.starts_with(".github/") || REPOSITORY_FILES.contains(&name) => {
            let reason = "no build and no test reads it";
            Class::new(Low, "repository file", reason, Reach::Nothing)
        }
        _ => return None,
    };
    Some(class)
}

fn builtin_class(
    change: &FileChange,
    owner: Option<&Package>,
    workspace: &Workspace,
    files: &dyn Files,
) -> Class {
    use Level::{High, Low, Medium};
    let path = change.path.as_str();
    let name = path.rsplit('/').next().unwrap_or(path);
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let in_package = owner.map(|owner| {
        let inside = path.strip_prefix(owner.dir.as_str()).unwrap_or(path);
        inside.trim_start_matches('/')
    });
    if let Some(class) = class_by_name(change, name, workspace) {
        return class;
    }
    let is_prose = matches!(extension, "md" | "txt" | "adoc" | "rst")
        || name.starts_with("LICENSE")
        || in_package.unwrap_or(path).starts_with("docs/");
    if extension == "rs" {
        return rust_class(change, owner, in_package, files);
    }
    if is_prose && !files.is_included(name) {
        return Class::new(Low, "documentation", "no code includes it", Reach::Nothing);
    }
    let is_root_package = owner.is_some_and(|owner| owner.dir.is_empty());
    let is_package_file = in_package.is_some_and(|inside| {
        let folder = inside.split('/').next().unwrap_or_default();
        !is_root_package || matches!(folder, "src" | "tests" | "benches" | "examples")
    });
    if is_package_file {
        let reason = if is_prose {
            "code includes it"
        } else {
            "code or tests may read it"
        };
        return Class::new(Medium, "data of a package", reason, Reach::Dependents);
    }
    let reason = "it belongs to no package, so anything may depend on it";
    Class::new(High, "unknown file", reason, Reach::Everything)
}

fn rust_class(
    change: &FileChange,
    owner: Option<&Package>,
    in_package: Option<&str>,
    files: &dyn Files,
) -> Class {
    use Level::{Critical, High, Low, Medium};
    let (Some(owner), Some(inside)) = (owner, in_package) else {
        let reason = "Rust code outside of any package: anything may include it";
        return Class::new(High, "unknown file", reason, Reach::Everything);
    };
    let is_build_script = inside == "build.rs"
        || owner
            .targets
            .iter()
            .any(|target| target.build_script && target.source == owner.root.join(inside));
    let base_path = match &change.kind {
        ChangeKind::Renamed { from } => from.as_str(),
        _ => change.path.as_str(),
    };
    let text = [files.base(base_path), files.candidate(&change.path)];
    let [before, after] = text.map(|text| text.map(|text| contents(&text)));
    // A file that does not parse is taken for ordinary code, at the least.
    let unreadable = matches!(before, Some(None)) || matches!(after, Some(None));
    let (before, after) = (before.flatten(), after.flatten());
    if let (Some(before), Some(after)) = (&before, &after)
        && before.code == after.code
        && change.kind == ChangeKind::Modified
    {
        if before.docs == after.docs {
            let reason = "only comments and layout changed: the compiler sees the same";
            return Class::new(Low, "comments", reason, Reach::Nothing);
        }
        let reason = "only documentation comments changed";
        return Class::new(Low, "documentation comments", reason, Reach::Doctests);
    }
    if is_build_script {
        let reason = "it decides what is built";
        return Class::new(Critical, "build script", reason, Reach::Dependents);
    }
    let folder = inside.split('/').next().unwrap_or_default();
    if matches!(folder, "tests" | "benches" | "examples") {
        return Class::new(
            Medium,
            "tests only",
            "no shipped code changed",
            Reach::Package,
        );
    }
    if let (Some(before), Some(after)) = (&before, &after)
        && before.shipped == after.shipped
        && change.kind == ChangeKind::Modified
    {
        return Class::new(
            Medium,
            "tests only",
            "no shipped code changed",
            Reach::Package,
        );
    }
    let mut class = Class {
        level: Medium,
        name: "code".to_owned(),
        reasons: Vec::new(),
        reach: Reach::Dependents,
    };
    if unreadable {
        class.reasons.push("it is not readable as Rust".to_owned());
    }
    let has = |what: fn(&Contents) -> bool| {
        before.as_ref().is_some_and(what) || after.as_ref().is_some_and(what)
    };
    let api = api_changes(before.as_ref(), after.as_ref());
    if !api.is_empty() {
        class.level = High;
        "public API".clone_into(&mut class.name);
        class.reasons.extend(api);
    }
    if has(|contents| contents.has_ffi) {
        class.level = Critical;
        "foreign code".clone_into(&mut class.name);
        class
            .reasons
            .insert(0, "it speaks with code of other languages".to_owned());
    }
    if has(|contents| contents.is_unsafe) {
        class.level = Critical;
        "unsafe code".clone_into(&mut class.name);
        class
            .reasons
            .insert(0, "the compiler does not check its unsafe parts".to_owned());
    }
    if has(|contents| contents.has_target_feature) {
        class.level = Critical;
        "SIMD kernel".clone_into(&mut class.name);
        let reason = "it is compiled for certain instruction sets only";
        class.reasons.insert(0, reason.to_owned());
    }
    if class.reasons.is_empty() {
        class.reasons.push("ordinary code".to_owned());
    }
    class
}

/// Public items that are gone or have another signature, in words.
fn api_changes(before: Option<&Contents>, after: Option<&Contents>) -> Vec<String> {
    /// How many are named one by one.
    const NAMED: usize = 3;
    let empty = BTreeMap::new();
    let before = before.map_or(&empty, |contents| &contents.public);
    let after = after.map_or(&empty, |contents| &contents.public);
    let changed = before
        .iter()
        .filter_map(|(name, signature)| match after.get(name) {
            None => Some(format!("public `{name}` is gone")),
            Some(other) if other != signature => Some(format!("public `{name}` changed")),
            Some(_) => None,
        });
    let mut changed = changed.collect::<Vec<_>>();
    if changed.len() > NAMED {
        let more = changed.len() - NAMED;
        changed.truncate(NAMED);
        changed.push(format!("and {more} more public items"));
    }
    changed
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::Hunk;
    use crate::workspace::tests::workspace;

    /// Texts by path, before and after.
    struct Texts(Vec<(&'static str, Option<&'static str>, Option<&'static str>)>);

    impl Files for Texts {
        fn base(&self, path: &str) -> Option<String> {
            let (_, before, _) = self.0.iter().find(|(name, ..)| *name == path)?;
            before.map(str::to_owned)
        }
        fn candidate(&self, path: &str) -> Option<String> {
            let (_, _, after) = self.0.iter().find(|(name, ..)| *name == path)?;
            after.map(str::to_owned)
        }
        fn is_included(&self, name: &str) -> bool {
            let text = format!("include_str!(\"{name}\")");
            self.0
                .iter()
                .any(|(_, _, after)| after.is_some_and(|after| after.contains(&text)))
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
        let policy = crate::policy::Policy::parse(text, std::path::Path::new("p")).expect("valid");
        let check = |before, after, expected| {
            let change = FileChange {
                path: "a/src/parse/x.rs".to_owned(),
                kind: ChangeKind::Modified,
                hunks: Vec::new(),
            };
            let texts = Texts(vec![("a/src/parse/x.rs", Some(before), Some(after))]);
            let found = assess(&[change], &ws, &policy.class, &texts);
            let risk = &found.files[0];
            assert_eq!((risk.level, risk.class.as_str()), expected);
        };
        check("fn a() {}", "fn b() {}", (Level::High, "parser"));
        let unsafe_code = "fn b() { unsafe { c() } }";
        check("fn a() {}", unsafe_code, (Level::Critical, "unsafe code"));
        check("fn a() {}", "fn a() {} // x", (Level::Low, "comments"));
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
}
