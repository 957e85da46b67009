//! The sets of features that the files of a CI name: by `--features` and `--no-default-features`
//! of Cargo's commands, and by what cargo-hack leaves out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The features of each package that its default build leaves out.
pub(super) type LeftOutFeatures<'a> = BTreeMap<&'a str, &'a BTreeSet<String>>;

/// The arguments of Cargo for each set that the CI of a repository names, the largest first.
pub(super) fn feature_sets(root: &Path, packages: &LeftOutFeatures<'_>) -> Vec<Vec<String>> {
    let texts = ci_files(root)
        .into_iter()
        .filter_map(|path| fs::read_to_string(path).ok());
    let sets: BTreeSet<Set> = texts.flat_map(|text| sets_of(&text, packages)).collect();
    let mut sets: Vec<Set> = sets.into_iter().collect();
    sets.sort_by_key(|set| std::cmp::Reverse(set.features.len()));
    sets.iter().map(Set::arguments).collect()
}

/// The files in which people tell a CI what to do.
fn ci_files(root: &Path) -> Vec<PathBuf> {
    const FOLDERS: [&str; 5] = [
        ".github/workflows",
        ".buildkite",
        ".circleci",
        ".woodpecker",
        "ci",
    ];
    const FILES: [&str; 9] = [
        ".gitlab-ci.yml",
        ".travis.yml",
        ".cirrus.yml",
        ".woodpecker.yml",
        "azure-pipelines.yml",
        "justfile",
        "Justfile",
        "Makefile",
        "Makefile.toml",
    ];
    let mut files: Vec<PathBuf> = FILES.iter().map(|file| root.join(file)).collect();
    for folder in FOLDERS {
        let entries = fs::read_dir(root.join(folder))
            .into_iter()
            .flatten()
            .flatten();
        files.extend(entries.map(|entry| entry.path()));
    }
    files.sort();
    files.retain(|path| path.is_file());
    files
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Set {
    no_default: bool,
    features: BTreeSet<String>,
}

impl Set {
    fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if self.no_default {
            arguments.push("--no-default-features".to_owned());
        }
        if !self.features.is_empty() {
            let features = self.features.iter().map(String::as_str);
            arguments.push("--features".to_owned());
            arguments.push(features.collect::<Vec<_>>().join(","));
        }
        arguments
    }
}

/// The sets that the commands of a file name.
fn sets_of(text: &str, packages: &LeftOutFeatures<'_>) -> Vec<Set> {
    let text = text.replace("\\\n", " ");
    let mut found = Vec::new();
    for line in text.lines() {
        for command in line.split("cargo ").skip(1) {
            let end = command
                .find(['&', '|', ';', '#', '\''])
                .unwrap_or(command.len());
            // What the CI puts in is not known here.
            if !command[..end].contains('$') {
                found.extend(set_of(&command[..end], packages));
            }
        }
    }
    found
}

/// The set that one command of Cargo names, if it names one.
fn set_of(command: &str, packages: &LeftOutFeatures<'_>) -> Option<Set> {
    let words = shlex::split(command)
        .unwrap_or_else(|| command.split(['"', ' ']).map(str::to_owned).collect());
    // What follows is for the programs that Cargo starts.
    let own = words
        .iter()
        .position(|word| word == "--")
        .unwrap_or(words.len());
    let words = &words[..own];
    let values = |names: &[&str]| -> Vec<String> {
        let of_word = |(at, word): (usize, &String)| {
            let value = match word.split_once('=') {
                Some((name, value)) if names.contains(&name) => Some(value.to_owned()),
                _ if names.contains(&word.as_str()) => words.get(at + 1).cloned(),
                _ => None,
            };
            value.unwrap_or_default()
        };
        let values = words.iter().enumerate().map(of_word);
        let values = values.flat_map(|value| {
            let parts = value.split([',', ' ']).map(str::to_owned);
            parts.collect::<Vec<_>>()
        });
        values.filter(|value| !value.is_empty()).collect()
    };
    let has = |flag: &str| words.iter().any(|word| word == flag);
    let selected = values(&["-p", "--package"]);
    let mut features: BTreeSet<String> = values(&["--features", "-F"]).into_iter().collect();
    if let [package] = selected.as_slice() {
        let full = |feature: String| {
            if feature.contains('/') {
                feature
            } else {
                format!("{package}/{feature}")
            }
        };
        features = features.into_iter().map(full).collect();
    }
    if has("hack") && (has("--each-feature") || has("--feature-powerset")) {
        let without = values(&["--exclude-features", "--skip"]);
        let only = values(&["--include-features"]);
        let is_tried = |feature: &String| {
            !without.contains(feature) && (only.is_empty() || only.contains(feature))
        };
        for (package, left_out) in packages {
            if selected.is_empty() || selected.iter().any(|name| name == package) {
                let tried = left_out.iter().filter(|feature| is_tried(feature));
                features.extend(tried.map(|feature| format!("{package}/{feature}")));
            }
        }
    }
    let set = Set {
        no_default: has("--no-default-features"),
        features,
    };
    (set != Set::default()).then_some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_a_ci_name_sets_of_features() {
        let left_out = ["net", "tls", "unstable"].map(str::to_owned).into();
        let packages = LeftOutFeatures::from([("app", &left_out)]);
        let arguments = |text: &str| -> Vec<String> {
            let sets = sets_of(text, &packages);
            sets.iter().map(|set| set.arguments().join(" ")).collect()
        };
        for (line, expected) in [
            (
                "run: cargo test --features net,tls -- --features x",
                "--features net,tls",
            ),
            (
                "- cargo build --features \"net tls\" && cargo x",
                "--features net,tls",
            ),
            ("run: \"cargo test -p app -F net\"", "--features app/net"),
            (
                "cargo +nightly check \\\n  --no-default-features --features=net",
                "--no-default-features --features net",
            ),
            ("cargo test --no-default-features", "--no-default-features"),
            (
                "cargo hack test --each-feature --skip unstable",
                "--features app/net,app/tls",
            ),
            (
                "cargo hack --feature-powerset --include-features tls check",
                "--features app/tls",
            ),
        ] {
            assert_eq!(arguments(line), [expected], "{line}");
        }
        for line in [
            "cargo test",
            "cargo test --all-features",
            "cargo test --features ${{ matrix.f }}",
        ] {
            assert_eq!(arguments(line), [""; 0], "{line}");
        }
    }

    #[test]
    fn files_of_a_ci_are_read_and_the_largest_set_comes_first() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = dir.path().join(".github/workflows");
        fs::create_dir_all(&folder).expect("created");
        let steps = "- run: cargo test --features a\n- run: cargo test --features a,b\n";
        fs::write(folder.join("ci.yml"), steps).expect("written");
        let sets = feature_sets(dir.path(), &LeftOutFeatures::new());
        assert_eq!(sets, [["--features", "a,b"], ["--features", "a"]]);
    }
}
