//! The packages of a Cargo workspace: where they are, what they can test, and
//! which of them depend on which.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use cargo_metadata::{Metadata, MetadataCommand};

use crate::process::in_own_process_group;
use crate::scope::Scope;
use crate::test_id::{TargetKind, place};

/// Why there is no workspace to look at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkspaceError {
    /// No `Cargo.toml` in the folder or above it.
    #[error("find a Cargo.toml at {} or above it", .0.display())]
    None(PathBuf),
    /// Cargo cannot read the workspace.
    #[error("read the workspace's metadata")]
    Metadata(#[source] cargo_metadata::Error),
    /// The workspace lies outside the repository.
    #[error("find the workspace {} in the repository {}", .workspace.display(), .repository.display())]
    OutsideRepository {
        /// The workspace's root.
        workspace: PathBuf,
        /// The repository's root.
        repository: PathBuf,
    },
}

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
    /// The packages of the workspace it depends on, in any way.
    pub dependencies: BTreeSet<String>,
}

impl Package {
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
    /// Its packages by name.
    pub packages: BTreeMap<String, Package>,
}

impl Workspace {
    /// Reads the workspace that holds `dir`, inside the repository at `repository`.
    pub fn load(dir: &Path, repository: &Path) -> Result<Self, WorkspaceError> {
        // Cargo would say so too, after it was started.
        let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        if !absolute
            .ancestors()
            .any(|dir| dir.join("Cargo.toml").exists())
        {
            return Err(WorkspaceError::None(absolute));
        }
        let metadata = metadata_of(dir).map_err(WorkspaceError::Metadata)?;
        let root = metadata.workspace_root.clone().into_std_path_buf();
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        // On Windows these begin with `\\?\`, which other programs may not understand: they are
        // compared, and neither shown nor handed on.
        let real_repository = real(repository);
        let relative = |path: &Path| {
            let path = real(path);
            path.strip_prefix(&real_repository).ok().map(with_slashes)
        };
        let outside = || WorkspaceError::OutsideRepository {
            workspace: root.clone(),
            repository: repository.to_owned(),
        };
        let workspace_dir = relative(&root).ok_or_else(outside)?;
        let mut packages = BTreeMap::new();
        let members: BTreeMap<&str, PathBuf> = metadata
            .packages
            .iter()
            .map(|package| {
                let manifest = package.manifest_path.as_std_path();
                let folder = manifest.parent().unwrap_or(manifest);
                (package.name.as_str(), folder.to_owned())
            })
            .collect();
        for package in &metadata.packages {
            let folder = &members[package.name.as_str()];
            let dependencies = package.dependencies.iter().filter_map(|dependency| {
                let path = dependency.path.as_ref()?;
                let is_it = |folder: &PathBuf| real(folder) == real(path.as_std_path());
                members
                    .iter()
                    .find(|(_, folder)| is_it(folder))
                    .map(|(name, _)| (*name).to_owned())
            });
            let own = package.name.to_string();
            let dependencies = dependencies.filter(|name| *name != own).collect();
            packages.insert(
                own.clone(),
                Package {
                    name: own,
                    spec: package.id.repr.clone(),
                    dir: relative(folder).ok_or_else(outside)?,
                    root: folder.clone(),
                    edition: package.edition.to_string(),
                    published: package.publish.as_ref().is_none_or(|to| !to.is_empty()),
                    targets: package.targets.iter().map(target).collect(),
                    dependencies,
                },
            );
        }
        Ok(Self {
            root,
            target: metadata.target_directory.into_std_path_buf(),
            dir: workspace_dir,
            packages,
        })
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

/// What Cargo says about the workspace that holds `dir`, without dependencies.
fn metadata_of(dir: &Path) -> Result<Metadata, cargo_metadata::Error> {
    let mut command = MetadataCommand::new()
        .current_dir(dir)
        .no_deps()
        .cargo_command();
    let output = in_own_process_group(&mut command).output()?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(cargo_metadata::Error::CargoMetadata { stderr });
    }
    MetadataCommand::parse(String::from_utf8_lossy(&output.stdout))
}

fn target(target: &cargo_metadata::Target) -> Target {
    let build_script = target.is_custom_build();
    let mut words = target.kind.iter().map(ToString::to_string);
    Target {
        name: target.name.clone(),
        kind: words.find_map(|word| TargetKind::from_cargo(&word)),
        tested: target.test && !build_script,
        source: target.src_path.clone().into_std_path_buf(),
        doctests: target.doctest && !build_script,
        build_script,
    }
}

fn with_slashes(path: &Path) -> String {
    let parts = path
        .components()
        .map(|part| part.as_os_str().to_string_lossy());
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A workspace of packages given as (name, folder, dependencies).
    pub(crate) fn workspace(packages: &[(&str, &str, &[&str])]) -> Workspace {
        let packages = packages.iter().map(|(name, dir, dependencies)| {
            let package = Package {
                name: (*name).to_owned(),
                spec: (*name).to_owned(),
                dir: (*dir).to_owned(),
                root: PathBuf::from(dir),
                edition: "2024".to_owned(),
                published: true,
                targets: Vec::new(),
                dependencies: dependencies.iter().map(|d| (*d).to_owned()).collect(),
            };
            ((*name).to_owned(), package)
        });
        Workspace {
            root: PathBuf::new(),
            target: PathBuf::new(),
            dir: String::new(),
            packages: packages.collect(),
        }
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
    }

    #[test]
    fn a_real_workspace_is_read() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let repository = here.join("../..");
        let ws = Workspace::load(here, &repository).expect("this workspace");
        assert_eq!(ws.packages["palisade"].dir, "crates/palisade");
        assert!(ws.dependents("palisade").contains("cargo-palisade"));
        assert!(
            ws.packages["palisade"]
                .targets
                .iter()
                .any(|target| target.doctests)
        );
        let nowhere = tempfile::tempdir().expect("a temporary folder");
        let error = Workspace::load(nowhere.path(), nowhere.path()).expect_err("nothing there");
        assert!(matches!(error, WorkspaceError::None(_)));
    }
}
