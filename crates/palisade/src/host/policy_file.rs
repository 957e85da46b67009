//! The file with the policy of a workspace.

use std::io::ErrorKind;
use std::path::Path;

use crate::policy::{FILE_NAME, Policy, PolicyError};

/// Reads the policy of the workspace at `root`; without a file, the defaults.
pub fn load(root: &Path) -> Result<Policy, PolicyError> {
    let path = root.join(FILE_NAME);
    match std::fs::read_to_string(&path) {
        Ok(text) => Policy::parse(&text, &path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Policy::default()),
        Err(source) => Err(PolicyError::Read { path, source }),
    }
}
