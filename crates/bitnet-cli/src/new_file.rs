//! A file that is there whole, or not at all.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::NamedTempFile;

/// A file that takes its name when it is written. Before that it has another one, in the same
/// folder.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    /// `None` if it is written.
    file: Option<NamedTempFile>,
}

impl NewFile {
    /// Creates the file, so that it is known early whether it can be written.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        let file = NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))
            .with_context(|| format!("failed to write {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            file: Some(file),
        })
    }

    /// Writes the text and a line feed, and gives the file its name.
    pub fn write(&mut self, text: &str) -> anyhow::Result<()> {
        let mut file = self.file.take().expect("it is written once");
        writeln!(file, "{text}")
            .and_then(|()| file.persist(&self.path).map_err(|error| error.error))
            .with_context(|| format!("failed to write {}", self.path.display()))?;
        Ok(())
    }
}
