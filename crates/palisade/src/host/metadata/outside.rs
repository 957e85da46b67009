//! Path dependencies outside of the repository, which a checkout elsewhere has to find too.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The tables of a manifest in which a `path` names a package.
const TABLES: [&str; 7] = [
    "dependencies",
    "dev-dependencies",
    "build-dependencies",
    "patch",
    "replace",
    "target",
    "workspace",
];

/// The folders outside of `repository` that packages are in which the manifests in `folders`
/// name, or the manifests of those packages.
pub(super) fn outside(repository: &Path, folders: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut queue = folders.to_vec();
    while let Some(folder) = queue.pop() {
        for path in named_paths(&folder) {
            let path = flat(&folder.join(path));
            if !path.starts_with(repository) && path.exists() && found.insert(path.clone()) {
                queue.push(path);
            }
        }
    }
    found
}

/// The paths of packages in the manifest of a folder. One that cannot be read names none: Cargo
/// says what is wrong with it.
fn named_paths(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
    let manifest: toml::Table = toml::from_str(&text).unwrap_or_default();
    let mut found = Vec::new();
    for name in TABLES {
        if let Some(table) = manifest.get(name) {
            collect(table, &mut found);
        }
    }
    found
}

fn collect(value: &toml::Value, found: &mut Vec<String>) {
    let Some(table) = value.as_table() else {
        return;
    };
    for (key, value) in table {
        match value {
            toml::Value::String(path) if key == "path" => found.push(path.clone()),
            value => collect(value, found),
        }
    }
}

/// A path without `..`, which a link that it leads through would give another meaning.
fn flat(path: &Path) -> PathBuf {
    let mut flat = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(flat.pop()),
            Component::CurDir => {}
            part => flat.push(part),
        }
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_outside_are_followed_through_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = folder.path();
        let write = |path: &str, text: &str| {
            fs::create_dir_all(home.join(path)).expect("made");
            fs::write(home.join(path).join("Cargo.toml"), text).expect("written");
        };
        write(
            "repo/a",
            "[lib]\npath = \"../../none\"\n[dependencies]\nshared = { path = \"../../shared\" }\n\
             b = { path = \"../b\" }\n[target.'cfg(unix)'.dependencies.far]\npath = \"../../far/away\"\n",
        );
        write("repo/b", "");
        write("shared", "[dependencies]\nmore.path = \"../more\"\n");
        write("more", "[dev-dependencies]\nshared.path = \"../shared\"\n");
        write("far/away", "");
        let found = outside(&home.join("repo"), &[home.join("repo/a")]);
        let names: Vec<PathBuf> = ["far/away", "more", "shared"].map(|n| home.join(n)).into();
        assert_eq!(found, names.into_iter().collect());
    }
}
