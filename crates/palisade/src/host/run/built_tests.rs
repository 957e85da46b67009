//! The test programs of a revision, which nextest can run again without asking Cargo: for a rerun
//! of one test, that takes four times as long as the rerun itself.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;

use serde::Deserialize;
use tempfile::TempDir;

use super::RunError;

/// The test programs that were built for one revision, if any were.
#[derive(Debug, Default)]
pub struct BuiltTests {
    programs: RefCell<Option<Rc<Programs>>>,
    /// How often named tests were run without them.
    runs: Cell<u32>,
}

impl BuiltTests {
    /// The programs, if they hold some binaries, and are the files that were built.
    pub(super) fn with(&self, binaries: &BTreeSet<&str>) -> Option<Rc<Programs>> {
        let programs = self.programs.borrow();
        programs
            .as_ref()
            .filter(|programs| programs.hold(binaries))
            .cloned()
    }

    pub(super) fn keep(&self, programs: &Rc<Programs>) {
        *self.programs.borrow_mut() = Some(Rc::clone(programs));
    }

    /// Whether named tests of this revision were run before. Only then is it worth its time to
    /// have Cargo's answer in a file.
    pub(super) fn is_rerun(&self) -> bool {
        self.runs.replace(self.runs.get() + 1) > 0
    }
}

/// What nextest and Cargo said of test programs, in files that nextest takes.
#[derive(Debug)]
pub(super) struct Programs {
    folder: TempDir,
    /// The file of each binary, and what it was like.
    binaries: BTreeMap<String, (PathBuf, Option<Stamp>)>,
    /// The platform that Cargo builds on.
    pub(super) host: String,
}

type Stamp = (SystemTime, u64);

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct List {
    rust_build_meta: BuildMeta,
    rust_binaries: BTreeMap<String, Binary>,
}

#[derive(Deserialize)]
struct BuildMeta {
    platforms: Platforms,
}

#[derive(Deserialize)]
struct Platforms {
    host: Host,
}

#[derive(Deserialize)]
struct Host {
    platform: Platform,
}

#[derive(Deserialize)]
struct Platform {
    triple: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Binary {
    binary_path: PathBuf,
}

impl Programs {
    /// Keeps a list of binaries as nextest writes it; `None` if it is of another form.
    pub(super) fn new(list: &[u8]) -> Result<Option<Self>, RunError> {
        let Ok(known) = serde_json::from_slice::<List>(list) else {
            return Ok(None);
        };
        let folder = tempfile::tempdir().map_err(|source| RunError::Write {
            path: std::env::temp_dir(),
            source,
        })?;
        let stamped = |(name, binary): (String, Binary)| {
            let stamp = stamp(&binary.binary_path);
            (name, (binary.binary_path, stamp))
        };
        let programs = Self {
            folder,
            binaries: known.rust_binaries.into_iter().map(stamped).collect(),
            host: known.rust_build_meta.platforms.host.platform.triple,
        };
        write(&programs.binaries_file(), list)?;
        Ok(Some(programs))
    }

    /// Adds what Cargo says of the workspace.
    pub(super) fn add_metadata(&self, metadata: &[u8]) -> Result<(), RunError> {
        write(&self.metadata_file(), metadata)
    }

    pub(super) fn binaries_file(&self) -> PathBuf {
        self.folder.path().join("binaries.json")
    }

    pub(super) fn metadata_file(&self) -> PathBuf {
        self.folder.path().join("metadata.json")
    }

    fn hold(&self, binaries: &BTreeSet<&str>) -> bool {
        binaries.iter().all(|name| {
            let known = self.binaries.get(*name);
            known.is_some_and(|(path, built)| built.is_some() && stamp(path) == *built)
        })
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let of = |meta: Metadata| Some((meta.modified().ok()?, meta.len()));
    fs::metadata(path).ok().and_then(of)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    fs::write(path, bytes).map_err(|source| RunError::Write {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_built_again_is_not_run_as_the_one_before() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let program = dir.path().join("a-1");
        fs::write(&program, "built").expect("written");
        let list = serde_json::json!({
            "rust-build-meta": {"platforms": {"host": {"platform": {"triple": "here"}}}},
            "rust-binaries": {"a": {"binary-path": program}},
        });
        let list = serde_json::to_vec(&list).expect("serialises");
        let programs = Programs::new(&list).expect("written").expect("a list");
        assert_eq!(programs.host, "here");
        let built = BuiltTests::default();
        built.keep(&Rc::new(programs));
        let is_kept = |name| built.with(&BTreeSet::from([name])).is_some();
        assert!(is_kept("a") && !is_kept("b"));
        fs::write(&program, "built again").expect("written");
        assert!(!is_kept("a"));
        assert!(Programs::new(b"{}").expect("read").is_none());
    }
}
