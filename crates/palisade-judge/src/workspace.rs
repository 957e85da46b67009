//! The packages of a Cargo workspace: where they are, what they can test, and which of them
//! depend on which.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;

use crate::scope::Scope;
use crate::test_id::{TargetKind, place};

/// A target of a package.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// What kind it is, if it is one that tests can be in.
    pub kind: Option<TargetKind>,
    /// Its root source file.
    pub source: PathBuf,
    /// Whether Cargo tests it when nothing else is asked for.
    pub tested: bool,
    /// Whether its documentation holds tests that Cargo runs.
    pub doctests: bool,
    /// Whether it is a build script.
    pub build_script: bool,
    /// The features without which Cargo leaves it out.
    pub required_features: Vec<String>,
}

/// A package of the workspace.
#[derive(Clone, Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// What Cargo's `--package` takes to mean this one, also where a dependency has its name.
    pub spec: String,
    /// Its folder from the repository's root, with `/`; empty for the root itself.
    pub dir: String,
    /// Its folder on disk.
    pub root: PathBuf,
    /// The edition of Rust that it is written in.
    pub edition: String,
    /// Whether it may be published.
    pub published: bool,
    /// What can be built from it.
    pub targets: Vec<Target>,
    /// The targets whose tests have a `main` of their own in the place of libtest's; the library
    /// without its name.
    pub own_mains: BTreeSet<(TargetKind, String)>,
    /// The packages of the workspace it depends on, in any way.
    pub dependencies: BTreeSet<String>,
    /// The features that its default build leaves out.
    pub left_out_features: BTreeSet<String>,
    /// The features that docs.rs builds, as its manifest says.
    pub documented_features: Vec<String>,
}

impl Package {
    /// A package without targets and dependencies, whose folder from the repository's root is
    /// `dir`.
    pub fn new(name: &str, dir: &str) -> Self {
        Self {
            name: name.to_owned(),
            spec: name.to_owned(),
            dir: dir.to_owned(),
            root: PathBuf::from(dir),
            edition: "2024".to_owned(),
            published: true,
            targets: Vec::new(),
            own_mains: BTreeSet::new(),
            dependencies: BTreeSet::new(),
            left_out_features: BTreeSet::new(),
            documented_features: Vec::new(),
        }
    }

    /// The targets that tests of a scope may be in; the documentation is one.
    pub fn tested(&self, scope: &Scope) -> Vec<(TargetKind, &str)> {
        let mut found = Vec::new();
        for target in &self.targets {
            let kind = target.kind.filter(|_| target.tested);
            let doc = target.doctests.then_some(TargetKind::Doc);
            for kind in [kind, doc].into_iter().flatten() {
                if scope.touches(&self.name, kind, &target.name) {
                    found.push((kind, target.name.as_str()));
                }
            }
        }
        found
    }
}

/// A workspace inside a git repository.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// Its root folder.
    pub root: PathBuf,
    /// Where Cargo puts what it builds.
    pub target: PathBuf,
    /// Its root from the repository's root, with `/`; empty if they are the same.
    pub dir: String,
    /// The folders of packages outside of the repository that its packages depend on.
    pub outside: BTreeSet<PathBuf>,
    /// Its packages by name.
    pub packages: BTreeMap<String, Package>,
}

impl Workspace {
    /// A workspace of some packages, with its root at the repository's.
    pub fn new(packages: impl IntoIterator<Item = Package>) -> Self {
        let packages = packages.into_iter();
        Self {
            root: PathBuf::new(),
            target: PathBuf::new(),
            dir: String::new(),
            outside: BTreeSet::new(),
            packages: packages
                .map(|package| (package.name.clone(), package))
                .collect(),
        }
    }

    /// What Cargo's `--package` takes for a package: its [`Package::spec`], or the name of one
    /// that is not here, of which Cargo will say so.
    pub fn spec<'a>(&'a self, package: &'a str) -> &'a str {
        let known = self.packages.get(package);
        known.map_or(package, |package| &package.spec)
    }

    /// All targets that tests may be in, as the tests' names begin.
    pub fn test_places(&self) -> BTreeSet<String> {
        let of_package = |package: &Package| {
            let targets = package.tested(&Scope::Workspace).into_iter();
            let place = |(kind, target): (TargetKind, &str)| place(&package.name, kind, target);
            targets.map(place).collect::<Vec<_>>()
        };
        self.packages.values().flat_map(of_package).collect()
    }

    /// The package whose folder holds a file of the repository.
    pub fn owner(&self, path: &str) -> Option<&Package> {
        let holds = |package: &&Package| {
            package.dir.is_empty()
                || path
                    .strip_prefix(package.dir.as_str())
                    .is_some_and(|rest| rest.starts_with('/'))
        };
        let owners = self.packages.values().filter(holds);
        owners.max_by_key(|package| package.dir.len())
    }

    /// Some packages and all that depend on them, the nearest first.
    pub fn with_dependents(&self, packages: BTreeSet<String>) -> Vec<String> {
        let mut found: Vec<String> = packages.into_iter().collect();
        let mut at = 0;
        while at < found.len() {
            let depends = |other: &&Package| {
                other.dependencies.contains(&found[at]) && !found.contains(&other.name)
            };
            let next: Vec<String> = self
                .packages
                .values()
                .filter(depends)
                .map(|other| other.name.clone())
                .collect();
            found.extend(next);
            at += 1;
        }
        found
    }

    /// The packages that depend on `package`, directly or through others.
    pub fn dependents(&self, package: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut queue = VecDeque::from([package.to_owned()]);
        while let Some(name) = queue.pop_front() {
            for other in self.packages.values() {
                if other.dependencies.contains(&name) && found.insert(other.name.clone()) {
                    queue.push_back(other.name.clone());
                }
            }
        }
        found.remove(package);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A workspace of packages given as (name, folder, dependencies).
    fn workspace(packages: &[(&str, &str, &[&str])]) -> Workspace {
        let packages = packages.iter().map(|(name, dir, dependencies)| Package {
            dependencies: dependencies.iter().map(|name| (*name).to_owned()).collect(),
            ..Package::new(name, dir)
        });
        Workspace::new(packages)
    }

    #[test]
    fn the_deepest_folder_owns_a_file() {
        let ws = workspace(&[
            ("root", "", &[]),
            ("a", "crates/a", &[]),
            ("ab", "crates/ab", &[]),
        ]);
        let owner = |path| ws.owner(path).map(|package| package.name.as_str());
        assert_eq!(owner("crates/a/src/lib.rs"), Some("a"));
        assert_eq!(owner("crates/ab/src/lib.rs"), Some("ab"));
        assert_eq!(owner("src/lib.rs"), Some("root"));
        let ws = workspace(&[("a", "crates/a", &[])]);
        assert!(ws.owner("scripts/x.sh").is_none());
    }

    #[test]
    fn dependents_are_followed_through_others_and_through_cycles() {
        let ws = workspace(&[
            ("base", "base", &["tool"]),
            ("mid", "mid", &["base"]),
            ("top", "top", &["mid"]),
            ("tool", "tool", &["base"]),
            ("alone", "alone", &[]),
        ]);
        let names = |package| ws.dependents(package).into_iter().collect::<Vec<_>>();
        assert_eq!(names("base"), ["mid", "tool", "top"]);
        assert_eq!(names("mid"), ["top"]);
        assert!(names("alone").is_empty());
        let near = |packages: &[&str]| {
            let packages = packages.iter().map(|name| (*name).to_owned());
            ws.with_dependents(packages.collect())
        };
        assert_eq!(near(&["base"]), ["base", "mid", "tool", "top"]);
        assert_eq!(near(&["alone", "mid"]), ["alone", "mid", "top"]);
    }
}
