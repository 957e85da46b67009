//! Says how risky a change is, why, and which tests it can affect.
//!
//! The contents of files are handed to it. The least that is looked at is the package: every
//! test of a changed package and of the packages that depend on it is affected.
//! A file that belongs to no package affects everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::change::{ChangeKind, FileChange};
use crate::level::Level;
use crate::policy::{CLAIMS_FILE_NAME, FILE_NAME, PathClass};
use crate::scope::Scope;
use crate::workspace::{Package, Target, Workspace};

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

/// What kind of file it is that changed. JSON has its words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum FileClass {
    /// `Cargo.lock`.
    Lockfile,
    /// What names the compiler.
    Toolchain,
    /// The manifest of the workspace.
    WorkspaceManifest,
    /// The manifest of a package.
    PackageManifest,
    /// The policy of the guard.
    Policy,
    /// Settings of Cargo.
    CargoConfiguration,
    /// What no build and no test reads.
    RepositoryFile,
    /// Prose that no code includes.
    Documentation,
    /// Data that code or tests may read.
    PackageData,
    /// What belongs to no package.
    Unknown,
    /// Rust of which comments and layout changed.
    Comments,
    /// Rust of which documentation comments changed.
    DocumentationComments,
    /// A build script.
    BuildScript,
    /// Rust that is not shipped.
    TestsOnly,
    /// Rust.
    Code,
    /// Rust of which public items changed.
    PublicApi,
    /// Rust that speaks with code of other languages.
    ForeignCode,
    /// Rust with `unsafe` in it.
    UnsafeCode,
    /// Rust that is compiled for certain instruction sets.
    SimdKernel,
    /// What the policy calls it.
    Named(String),
}

impl FileClass {
    /// All but those that the policy names.
    const BUILT_IN: [Self; 19] = [
        Self::Lockfile,
        Self::Toolchain,
        Self::WorkspaceManifest,
        Self::PackageManifest,
        Self::Policy,
        Self::CargoConfiguration,
        Self::RepositoryFile,
        Self::Documentation,
        Self::PackageData,
        Self::Unknown,
        Self::Comments,
        Self::DocumentationComments,
        Self::BuildScript,
        Self::TestsOnly,
        Self::Code,
        Self::PublicApi,
        Self::ForeignCode,
        Self::UnsafeCode,
        Self::SimdKernel,
    ];

    /// Whether the policy may say that no code is built from files of this class. What Cargo
    /// builds from, and what decides how, it cannot take out of sight.
    fn may_be_no_code(&self) -> bool {
        matches!(
            self,
            Self::RepositoryFile | Self::Documentation | Self::PackageData | Self::Unknown
        )
    }

    fn words(&self) -> &str {
        match self {
            Self::Lockfile => "lockfile",
            Self::Toolchain => "toolchain",
            Self::WorkspaceManifest => "workspace manifest",
            Self::PackageManifest => "package manifest",
            Self::Policy => "policy",
            Self::CargoConfiguration => "cargo configuration",
            Self::RepositoryFile => "repository file",
            Self::Documentation => "documentation",
            Self::PackageData => "data of a package",
            Self::Unknown => "unknown file",
            Self::Comments => "comments",
            Self::DocumentationComments => "documentation comments",
            Self::BuildScript => "build script",
            Self::TestsOnly => "tests only",
            Self::Code => "code",
            Self::PublicApi => "public API",
            Self::ForeignCode => "foreign code",
            Self::UnsafeCode => "unsafe code",
            Self::SimdKernel => "SIMD kernel",
            Self::Named(name) => name,
        }
    }
}

impl fmt::Display for FileClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

impl From<FileClass> for String {
    fn from(class: FileClass) -> Self {
        class.to_string()
    }
}

impl From<String> for FileClass {
    fn from(words: String) -> Self {
        let mut built_in = Self::BUILT_IN.into_iter();
        built_in
            .find(|class| class.words() == words)
            .unwrap_or(Self::Named(words))
    }
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
    /// What it is.
    pub class: FileClass,
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
    /// The packages that are built from what changed, but for tests: the nearest to the change
    /// first. Their speed may differ.
    #[serde(default)]
    pub shipped: Vec<String>,
}

impl Assessment {
    /// Whether data changed that a program may read while it runs: two equal programs may
    /// then do different things.
    pub fn changes_data(&self) -> bool {
        let is_data = |file: &FileRisk| match &file.class {
            FileClass::PackageData | FileClass::Unknown => true,
            FileClass::Named(_) => extension(&file.path) != "rs",
            _ => false,
        };
        self.files.iter().any(is_data)
    }
}

/// What is built from a changed file, but for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shipped {
    Nothing,
    Package,
    Everything,
}

impl Shipped {
    fn of(class: &FileClass, path: &str, owner: Option<&Package>) -> Self {
        match class {
            FileClass::Lockfile
            | FileClass::Toolchain
            | FileClass::WorkspaceManifest
            | FileClass::CargoConfiguration => Self::Everything,
            FileClass::PackageManifest
            | FileClass::BuildScript
            | FileClass::Code
            | FileClass::PublicApi
            | FileClass::ForeignCode
            | FileClass::UnsafeCode
            | FileClass::SimdKernel => Self::Package,
            FileClass::PackageData => {
                let inside = owner.map_or(path, |owner| inside_of(owner, path));
                let folder = inside.split('/').next().unwrap_or_default();
                if is_shipped_folder(folder) {
                    Self::Package
                } else {
                    Self::Nothing
                }
            }
            // No program is built from a script or a picture outside of all packages.
            FileClass::Unknown if extension(path) == "rs" => Self::Everything,
            _ => Self::Nothing,
        }
    }
}

/// Whether what lies in a folder of a package is shipped.
fn is_shipped_folder(folder: &str) -> bool {
    !matches!(folder, "tests" | "benches" | "examples")
}

/// What follows the last dot of a file's name.
fn extension(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

/// The path of a package's file from its folder.
fn inside_of<'a>(owner: &Package, path: &'a str) -> &'a str {
    let inside = path.strip_prefix(owner.dir.as_str()).unwrap_or(path);
    inside.trim_start_matches('/')
}

/// What a Rust file holds that matters to the risk of changing it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Code without comments, as text.
    pub code: String,
    /// Documentation comments, as text.
    pub docs: String,
    /// Whether it has `unsafe` in it.
    pub is_unsafe: bool,
    /// Whether it compiles functions for certain instruction sets.
    pub has_target_feature: bool,
    /// The derived macros that may read documentation comments.
    pub doc_readers: BTreeSet<String>,
    /// Whether it speaks with code of other languages.
    pub has_ffi: bool,
    /// The public items by name, with their signatures.
    pub public: BTreeMap<String, String>,
    /// The code outside of `#[cfg(test)]` and `#[test]`, as text.
    pub shipped: String,
}

/// One revision of a Rust file that changed.
#[derive(Clone, Debug)]
pub enum RustFile {
    /// It is not there, or is not text.
    Absent,
    /// It does not parse.
    Unreadable,
    /// What it holds.
    Parsed(Contents),
}

impl RustFile {
    fn contents(&self) -> Option<&Contents> {
        match self {
            Self::Parsed(contents) => Some(contents),
            Self::Absent | Self::Unreadable => None,
        }
    }
}

/// What kind of text it is that code may read though the compiler does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextKind {
    /// A document.
    Prose,
    /// Rust, with its comments.
    Source,
    /// A setting of git, of CI or of a tool.
    Setting,
}

/// Where the contents of changed files come from.
pub trait Files {
    /// A Rust file in the base.
    fn base(&self, path: &str) -> RustFile;
    /// A Rust file in the candidate.
    fn candidate(&self, path: &str) -> RustFile;
    /// Whether some Rust file of the candidate includes a file of this name.
    fn is_included(&self, name: &str) -> bool;
    /// The packages of which tests may read a file, which lies in the folder of `owner`.
    fn readers(&self, path: &str, owner: Option<&Package>, kind: TextKind) -> BTreeSet<String>;
    /// Whether code of some packages knows the lines that it stands on.
    fn know_lines(&self, packages: &BTreeSet<String>) -> bool;
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
        shipped: Vec::new(),
    };
    let mut shipped: BTreeSet<String> = BTreeSet::new();
    let mut all_readers: BTreeSet<String> = BTreeSet::new();
    let mut reaches: BTreeMap<Option<String>, Reach> = BTreeMap::new();
    for change in changes {
        let moved_from = match &change.kind {
            ChangeKind::Renamed { from } => Some(from.as_str()),
            _ => None,
        };
        let FileAssessment {
            risk,
            reach,
            shipped: of_file,
            readers,
        } = file_risk(change, workspace, classes, files);
        all_readers.extend(readers);
        // A file that moved between packages changed both.
        let left = moved_from.and_then(|from| workspace.owner(from));
        let left = left.map(|package| package.name.clone());
        for package in [Some(risk.package.clone()), left.map(Some)]
            .into_iter()
            .flatten()
        {
            match of_file {
                Shipped::Everything => shipped.extend(workspace.packages.keys().cloned()),
                Shipped::Package => shipped.extend(package.clone()),
                Shipped::Nothing => {}
            }
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
    let widest = reaches.values().max().copied().unwrap_or(Reach::Nothing);
    let of_readers = if all_readers.is_empty() {
        Reach::Nothing
    } else {
        Reach::Package
    };
    assessment.dependents.extend(all_readers);
    let direct = |dependent: &String| !assessment.changed.contains(dependent);
    assessment.dependents = assessment
        .dependents
        .iter()
        .filter(|d| direct(d))
        .cloned()
        .collect();
    assessment.shipped = workspace.with_dependents(shipped);
    assessment.scope = match widest.max(of_readers) {
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

/// What a file risks before the path rules of the policy.
struct BuiltInRisk {
    level: Level,
    class: FileClass,
    reasons: Vec<String>,
    reach: Reach,
}

impl BuiltInRisk {
    fn new(level: Level, class: FileClass, reason: &str, reach: Reach) -> Self {
        Self {
            level,
            class,
            reasons: vec![reason.to_owned()],
            reach,
        }
    }
}

/// What is known of a changed file.
struct FileAssessment {
    risk: FileRisk,
    reach: Reach,
    shipped: Shipped,
    readers: BTreeSet<String>,
}

fn file_risk(
    change: &FileChange,
    workspace: &Workspace,
    classes: &[PathClass],
    files: &dyn Files,
) -> FileAssessment {
    let path = change.path.as_str();
    let owner = workspace.owner(path);
    let mut built_in = builtin_class(change, owner, workspace, files);
    let shipped = Shipped::of(&built_in.class, path, owner);
    let readers = if is_no_code(&built_in.class, path, classes) {
        BTreeSet::new()
    } else {
        add_readers(&mut built_in, path, owner, workspace, files)
    };
    let mut class = by_rules(built_in, path, classes);
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
        class: class.class,
        reasons: class.reasons,
        lines: change.hunks.iter().map(|hunk| hunk.lines).sum(),
        hunks: change.hunks.len(),
    };
    FileAssessment {
        risk,
        reach: class.reach,
        // What the policy says is no code is built into nothing.
        shipped: if class.reach == Reach::Nothing {
            Shipped::Nothing
        } else {
            shipped
        },
        readers,
    }
}

/// Whether the policy says that no code is built from a file.
fn is_no_code(class: &FileClass, path: &str, classes: &[PathClass]) -> bool {
    let is_for = |rule: &PathClass| rule.paths.iter().any(|pattern| pattern.matches(path));
    class.may_be_no_code() && classes.iter().any(|rule| !rule.code && is_for(rule))
}

/// What a file risks by the rules of the policy. A rule raises the risk, and lowers it only of
/// what it says that no code is built from.
fn by_rules(mut class: BuiltInRisk, path: &str, classes: &[PathClass]) -> BuiltInRisk {
    // A rule is about what a file does, so comments in code are not its matter.
    if matches!(
        class.class,
        FileClass::Comments | FileClass::DocumentationComments
    ) {
        return class;
    }
    let rules = classes
        .iter()
        .filter(|rule| rule.paths.iter().any(|pattern| pattern.matches(path)));
    for rule in rules {
        let reason = format!("palisade.toml calls it {:?}", rule.name);
        if !rule.code && class.class.may_be_no_code() {
            let class = FileClass::Named(rule.name.clone());
            let reason = format!("{reason}, which is no code");
            return BuiltInRisk::new(rule.risk, class, &reason, Reach::Nothing);
        }
        class.reasons.insert(0, reason);
        if rule.risk > class.level {
            class.class = FileClass::Named(rule.name.clone());
            class.level = rule.risk;
        }
    }
    class
}

/// The packages of which tests may read a file that the compiler does not care for. Its class
/// says so.
fn add_readers(
    class: &mut BuiltInRisk,
    path: &str,
    owner: Option<&Package>,
    workspace: &Workspace,
    files: &dyn Files,
) -> BTreeSet<String> {
    let kind = match class.class {
        FileClass::Documentation => TextKind::Prose,
        FileClass::Comments | FileClass::DocumentationComments => TextKind::Source,
        FileClass::RepositoryFile => TextKind::Setting,
        _ => return BTreeSet::new(),
    };
    let mut readers = files.readers(path, owner, kind);
    if !readers.is_empty() {
        let names: Vec<&str> = readers.iter().map(String::as_str).collect();
        class.reasons = vec![format!("tests of {} may read it", names.join(", "))];
    }
    if let (TextKind::Source, Some(owner)) = (kind, owner) {
        let mut packages = owner.dependencies.clone();
        packages.insert(owner.name.clone());
        if files.know_lines(&packages) {
            let reason = format!(
                "code of {} may know the lines that it stands on",
                owner.name
            );
            class.reasons.push(reason);
            readers.insert(owner.name.clone());
            readers.extend(workspace.dependents(&owner.name));
        }
    }
    readers
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
fn class_by_name(change: &FileChange, name: &str, workspace: &Workspace) -> Option<BuiltInRisk> {
    use Level::{Critical, High, Low};
    let path = change.path.as_str();
    let everything =
        |level, class, reason| BuiltInRisk::new(level, class, reason, Reach::Everything);
    let unified = "features and dependencies are unified over the workspace";
    let class = match name {
        "Cargo.lock" => {
            let reason = "versions of dependencies change under all packages";
            everything(Critical, FileClass::Lockfile, reason)
        }
        "rust-toolchain" | "rust-toolchain.toml" => {
            everything(Critical, FileClass::Toolchain, "the compiler changes")
        }
        "Cargo.toml" if path == join(&workspace.dir, "Cargo.toml") => {
            everything(Critical, FileClass::WorkspaceManifest, unified)
        }
        "Cargo.toml" => everything(High, FileClass::PackageManifest, unified),
        FILE_NAME if change.kind == ChangeKind::Added => {
            let reason = "from now on this policy judges changes";
            BuiltInRisk::new(High, FileClass::Policy, reason, Reach::Nothing)
        }
        FILE_NAME => {
            let reason = "the policy that judges this change changes with it";
            everything(High, FileClass::Policy, reason)
        }
        CLAIMS_FILE_NAME => {
            let reason = "from now on this file judges documents, and no code is built from it";
            BuiltInRisk::new(High, FileClass::Policy, reason, Reach::Nothing)
        }
        _ if path.split('/').any(|folder| folder == ".cargo") => {
            let reason = "flags and settings change under all packages";
            everything(Critical, FileClass::CargoConfiguration, reason)
        }
        _ if path.starts_with(".github/") || REPOSITORY_FILES.contains(&name) => {
            let reason = "no build and no test reads it";
            BuiltInRisk::new(Low, FileClass::RepositoryFile, reason, Reach::Nothing)
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
) -> BuiltInRisk {
    use Level::{High, Low, Medium};
    let path = change.path.as_str();
    let name = path.rsplit('/').next().unwrap_or(path);
    let extension = extension(name);
    let in_package = owner.map(|owner| inside_of(owner, path));
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
        return BuiltInRisk::new(
            Low,
            FileClass::Documentation,
            "no code includes it",
            Reach::Nothing,
        );
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
        return BuiltInRisk::new(Medium, FileClass::PackageData, reason, Reach::Dependents);
    }
    let reason = "it belongs to no package, so anything may depend on it";
    BuiltInRisk::new(High, FileClass::Unknown, reason, Reach::Everything)
}

fn rust_class(
    change: &FileChange,
    owner: Option<&Package>,
    in_package: Option<&str>,
    files: &dyn Files,
) -> BuiltInRisk {
    use Level::{Critical, High, Medium};
    let (Some(owner), Some(inside)) = (owner, in_package) else {
        let reason = "Rust code outside of any package: anything may include it";
        return BuiltInRisk::new(High, FileClass::Unknown, reason, Reach::Everything);
    };
    let base_path = match &change.kind {
        ChangeKind::Renamed { from } => from.as_str(),
        _ => change.path.as_str(),
    };
    let versions = [files.base(base_path), files.candidate(&change.path)];
    let is_edited = change.kind == ChangeKind::Modified;
    if let ([Some(before), Some(after)], true) = (contents(&versions), is_edited)
        && before.code == after.code
    {
        return cosmetic(before, after);
    }
    if is_build_script(owner, inside) {
        let reason = "it decides what is built";
        return BuiltInRisk::new(Critical, FileClass::BuildScript, reason, Reach::Dependents);
    }
    let folder = inside.split('/').next().unwrap_or_default();
    let is_shipped = is_shipped_folder(folder);
    let same_shipped = match contents(&versions) {
        [Some(before), Some(after)] => is_edited && before.shipped == after.shipped,
        _ => false,
    };
    if !is_shipped || same_shipped {
        let reason = "no shipped code changed";
        return BuiltInRisk::new(Medium, FileClass::TestsOnly, reason, Reach::Package);
    }
    shipped_code(&versions)
}

fn is_build_script(owner: &Package, inside: &str) -> bool {
    let is_it = |target: &Target| target.build_script && target.source == owner.root.join(inside);
    inside == "build.rs" || owner.targets.iter().any(is_it)
}

fn contents(versions: &[RustFile; 2]) -> [Option<&Contents>; 2] {
    [versions[0].contents(), versions[1].contents()]
}

/// The class of a file of which the compiler sees the same.
fn cosmetic(before: &Contents, after: &Contents) -> BuiltInRisk {
    if before.docs == after.docs {
        let reason = "only comments and layout changed: the compiler sees the same";
        return BuiltInRisk::new(Level::Low, FileClass::Comments, reason, Reach::Nothing);
    }
    let class = FileClass::DocumentationComments;
    if let Some(derived) = before.doc_readers.union(&after.doc_readers).next() {
        let reason = format!("the derived {derived} may read documentation comments");
        return BuiltInRisk::new(Level::Medium, class, &reason, Reach::Dependents);
    }
    let reason = "only documentation comments changed";
    BuiltInRisk::new(Level::Low, class, reason, Reach::Doctests)
}

/// The class of a file of which shipped code changed. One that does not parse is taken for
/// ordinary code, at the least.
fn shipped_code(versions: &[RustFile; 2]) -> BuiltInRisk {
    let [before, after] = contents(versions);
    let mut risk = BuiltInRisk {
        level: Level::Medium,
        class: FileClass::Code,
        reasons: Vec::new(),
        reach: Reach::Dependents,
    };
    if versions
        .iter()
        .any(|file| matches!(file, RustFile::Unreadable))
    {
        risk.reasons.push("it is not readable as Rust".to_owned());
    }
    let api = api_changes(before, after);
    if !api.is_empty() {
        risk.level = Level::High;
        risk.class = FileClass::PublicApi;
        risk.reasons.extend(api);
    }
    let has = |what: fn(&Contents) -> bool| [before, after].into_iter().flatten().any(what);
    // The last one that holds is the one that it is called by.
    let critical = [
        (
            has(|contents| contents.has_ffi),
            FileClass::ForeignCode,
            "it speaks with code of other languages",
        ),
        (
            has(|contents| contents.is_unsafe),
            FileClass::UnsafeCode,
            "the compiler does not check its unsafe parts",
        ),
        (
            has(|contents| contents.has_target_feature),
            FileClass::SimdKernel,
            "it is compiled for certain instruction sets only",
        ),
    ];
    for (holds, class, reason) in critical {
        if holds {
            risk.level = Level::Critical;
            risk.class = class;
            risk.reasons.insert(0, reason.to_owned());
        }
    }
    if risk.reasons.is_empty() {
        risk.reasons.push("ordinary code".to_owned());
    }
    risk
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
