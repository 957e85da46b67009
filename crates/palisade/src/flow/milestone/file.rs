//! Milestones in files that git keeps.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::MilestoneError;
use crate::record::Milestone;

/// The version of the files' form.
const SCHEMA: u32 = 1;

/// What such a file holds.
#[derive(Serialize, Deserialize)]
struct MilestoneFile<T> {
    schema: u32,
    milestone: T,
}

/// Writes a milestone to `folder/NAME.json`, whole or not at all, and returns the path.
/// The folder is made if it is missing.
pub fn write(folder: &Path, milestone: &Milestone) -> Result<PathBuf, MilestoneError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    let name = &milestone.name;
    if name.is_empty() || name.starts_with('.') || !name.chars().all(is_plain) {
        return Err(MilestoneError::Name(name.clone()));
    }
    let path = folder.join(format!("{name}.json"));
    let document = MilestoneFile {
        schema: SCHEMA,
        milestone,
    };
    let mut text = serde_json::to_string_pretty(&document).map_err(|source| {
        let path = path.clone();
        MilestoneError::Form { path, source }
    })?;
    text.push('\n');
    let replace = || {
        fs::create_dir_all(folder)?;
        #[cfg_attr(not(unix), expect(unused_mut, reason = "there is no mask"))]
        let mut builder = tempfile::Builder::new();
        // As any new file: others may read what the user's mask lets them read.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.persist(&path).map_err(|failed| failed.error)
    };
    match replace() {
        Ok(_) => Ok(path),
        Err(source) => Err(MilestoneError::File { path, source }),
    }
}

/// The milestones of a folder, in the order of their files' names; none if there is no
/// folder.
pub(super) fn read_all(folder: &Path) -> Result<Vec<Milestone>, MilestoneError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let error = |source| MilestoneError::File {
        path: folder.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(error)? {
        let path = entry.map_err(error)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<Milestone, MilestoneError> {
    let bytes = fs::read(path).map_err(|source| MilestoneError::File {
        path: path.to_owned(),
        source,
    })?;
    let form = |source| MilestoneError::Form {
        path: path.to_owned(),
        source,
    };
    // The version is known before the rest is understood.
    let document: MilestoneFile<serde_json::Value> =
        serde_json::from_slice(&bytes).map_err(form)?;
    if document.schema > SCHEMA {
        return Err(MilestoneError::TooNew {
            path: path.to_owned(),
            found: document.schema,
            known: SCHEMA,
        });
    }
    serde_json::from_value(document.milestone).map_err(form)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Subject;
    use crate::record::Snapshot;

    fn milestone(name: &str) -> Milestone {
        Milestone {
            id: "m".to_owned(),
            name: name.to_owned(),
            set_ms: 1,
            subject: Subject {
                tree: "t".to_owned(),
                commit: "c".to_owned(),
                dirty: false,
                checkout: true,
                branch: None,
            },
            snapshot: Some(Snapshot::default()),
        }
    }

    #[test]
    fn a_milestone_comes_back_from_its_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("milestones");
        assert_eq!(read_all(&folder).expect("none"), []);
        let path = write(&folder, &milestone("1.0")).expect("written");
        assert!(path.ends_with("milestones/1.0.json"), "{path:?}");
        assert_eq!(read_all(&folder).expect("read"), [milestone("1.0")]);
        // Nothing is left beside it.
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 1);
    }

    #[test]
    fn names_that_are_no_files_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        for name in ["", "../up", ".hidden", "a b", "a/b"] {
            let error = write(dir.path(), &milestone(name)).expect_err(name);
            assert!(matches!(error, MilestoneError::Name(_)), "{error:?}");
        }
    }

    #[test]
    fn what_is_no_milestone_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let said = |text: &str| {
            fs::write(dir.path().join("x.json"), text).expect("written");
            read_all(dir.path()).expect_err("wrong")
        };
        for text in ["", "{}", "{\"schema\": 1, \"milestone\": {}}"] {
            let error = said(text);
            assert!(matches!(error, MilestoneError::Form { .. }), "{error:?}");
            assert!(error.to_string().contains("x.json"), "{error}");
        }
        let error = said("{\"schema\": 2, \"milestone\": []}");
        assert!(matches!(error, MilestoneError::TooNew { found: 2, .. }));
    }
}
