//! Reads the packages of a workspace from what `cargo metadata` says.

mod outside;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{Metadata, MetadataCommand};

use crate::host::process::in_own_process_group;
use crate::record::Advice;
use crate::test_id::TargetKind;
use crate::workspace::{Package, Target, Workspace};

/// Why there is no workspace to look at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkspaceError {
    /// No `Cargo.toml` in the folder or above it.
    #[error("failed to find a Cargo.toml at {} or above it", .0.display())]
    None(PathBuf),
    /// Cargo cannot read the workspace.
    #[error("failed to read the workspace's metadata")]
    Metadata(#[source] cargo_metadata::Error),
    /// The workspace lies outside the repository.
    #[error("failed to find the workspace {} in the repository {}", .workspace.display(), .repository.display())]
    OutsideRepository {
        /// The workspace's root.
        workspace: PathBuf,
        /// The repository's root.
        repository: PathBuf,
    },
}

impl Advice for WorkspaceError {
    fn is_usage(&self) -> bool {
        true
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::None(_) => "cargo init",
            _ => "cargo metadata shows the same",
        };
        Some(hint.to_owned())
    }
}

/// Reads the workspace that holds `dir`, inside the repository at `repository`.
pub fn load(dir: &Path, repository: &Path) -> Result<Workspace, WorkspaceError> {
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
        // By `[patch]` and settings of Cargo, the name of a published package can stand for a
        // member; a path is what it is.
        let dependencies = package.dependencies.iter().filter(|dependency| {
            let path = dependency
                .path
                .as_ref()
                .map(|path| real(path.as_std_path()));
            let member = members.get(dependency.name.as_str());
            member.is_some_and(|folder| path.is_none_or(|path| path == real(folder)))
        });
        let dependencies = dependencies.map(|dependency| dependency.name.clone());
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
                own_mains: own_mains(package.manifest_path.as_std_path()),
                dependencies,
                left_out_features: left_out(&package.features),
                documented_features: documented(package),
            },
        );
    }
    let folders = members.values().cloned().chain([root.clone()]);
    let outside = outside::outside(&real_repository, &folders.collect::<Vec<_>>());
    Ok(Workspace {
        root,
        outside,
        target: metadata.target_directory.into_std_path_buf(),
        dir: workspace_dir,
        packages,
    })
}

/// The features that docs.rs builds, as a manifest says.
fn documented(package: &cargo_metadata::Package) -> Vec<String> {
    let features = package.metadata.pointer("/docs/rs/features");
    let words = features.and_then(|list| list.as_array()).into_iter();
    let words = words.flatten().filter_map(|word| word.as_str());
    words.map(str::to_owned).collect()
}

/// The features that `default` does not switch on.
fn left_out(features: &BTreeMap<String, Vec<String>>) -> BTreeSet<String> {
    let mut left: BTreeSet<String> = features.keys().cloned().collect();
    let mut queue = vec!["default".to_owned()];
    while let Some(name) = queue.pop() {
        left.remove(&name);
        for on in features.get(&name).into_iter().flatten() {
            if left.contains(on) {
                queue.push(on.clone());
            }
        }
    }
    left
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

/// The targets of a manifest with `harness = false`, of which `cargo metadata` says nothing.
fn own_mains(manifest: &Path) -> BTreeSet<(TargetKind, String)> {
    own_mains_of(&fs::read_to_string(manifest).unwrap_or_default())
}

fn own_mains_of(manifest: &str) -> BTreeSet<(TargetKind, String)> {
    const KINDS: [TargetKind; 5] = [
        TargetKind::Lib,
        TargetKind::Bin,
        TargetKind::Test,
        TargetKind::Example,
        TargetKind::Bench,
    ];
    let mut found = BTreeSet::new();
    if !manifest.contains("harness") {
        return found;
    }
    let manifest: toml::Table = toml::from_str(manifest).unwrap_or_default();
    for kind in KINDS {
        let entries = match manifest.get(kind.as_str()) {
            Some(toml::Value::Array(entries)) => entries.as_slice(),
            Some(entry) => std::slice::from_ref(entry),
            None => &[],
        };
        for entry in entries {
            if entry.get("harness").and_then(toml::Value::as_bool) == Some(false) {
                let name = entry.get("name").and_then(toml::Value::as_str);
                let name = name.filter(|_| kind != TargetKind::Lib).unwrap_or_default();
                found.insert((kind, name.to_owned()));
            }
        }
    }
    found
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
        required_features: target.required_features.clone(),
    }
}

fn with_slashes(path: &Path) -> String {
    let parts = path
        .components()
        .map(|part| part.as_os_str().to_string_lossy());
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_that_the_default_does_not_reach_are_left_out() {
        let features = [
            ("default", vec!["std", "dep:x"]),
            ("std", vec!["alloc"]),
            ("alloc", vec![]),
            ("extra", vec!["std"]),
        ];
        let words = |on: Vec<&str>| on.into_iter().map(str::to_owned).collect();
        let features = features.map(|(name, on)| (name.to_owned(), words(on)));
        assert_eq!(left_out(&features.into()), ["extra".to_owned()].into());
        assert_eq!(left_out(&BTreeMap::new()), BTreeSet::new());
    }

    #[test]
    fn targets_with_a_main_of_their_own_are_known() {
        let manifest = "[lib]\nname = \"a\"\nharness = false\n\
                        [[test]]\nname = \"own\"\nharness = false\n\
                        [[test]]\nname = \"usual\"\n[[bench]]\nname = \"own\"\nharness = true\n";
        let expected = [
            (TargetKind::Lib, String::new()),
            (TargetKind::Test, "own".to_owned()),
        ];
        assert_eq!(own_mains_of(manifest), expected.into());
    }

    #[test]
    fn a_member_is_found_behind_the_name_of_a_published_package() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("created");
            fs::write(path, text).expect("written");
        };
        write(
            "Cargo.toml",
            "[workspace]\nmembers = [\"a\", \"b\"]\n[patch.crates-io]\na = { path = \"a\" }\n",
        );
        for (name, dependencies) in [
            ("a", ""),
            ("b", "c = { version = \"1\", package = \"a\" }\n"),
        ] {
            let package = format!(
                "[package]\nname = \"{name}\"\nversion = \"1.0.0\"\n[dependencies]\n{dependencies}"
            );
            write(&format!("{name}/Cargo.toml"), &package);
            write(&format!("{name}/src/lib.rs"), "");
        }
        let ws = load(dir.path(), dir.path()).expect("a workspace");
        assert_eq!(ws.dependents("a"), ["b".to_owned()].into());
    }

    #[test]
    fn a_real_workspace_is_read() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let repository = here.join("../..");
        let ws = load(here, &repository).expect("this workspace");
        assert_eq!(ws.packages["palisade"].dir, "crates/palisade");
        assert!(ws.dependents("palisade").contains("cargo-palisade"));
        assert!(
            ws.packages["palisade"]
                .targets
                .iter()
                .any(|target| target.doctests)
        );
        let nowhere = tempfile::tempdir().expect("a temporary folder");
        let error = load(nowhere.path(), nowhere.path()).expect_err("nothing there");
        assert!(matches!(error, WorkspaceError::None(_)));
    }
}
