//! Finds models that were pulled or downloaded by other programs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::error::UsageError;
use crate::hub::choice::{self, Choice, ChoiceError, Entry};
use crate::hub::{self, Cache, Reference, Revision};
use crate::ui::Ui;

/// A model of a hub that is not in the cache.
#[derive(Debug, thiserror::Error)]
#[error("{name} was not pulled{}", but(.others))]
pub struct NotPulled {
    /// The name for `bitnet pull`.
    name: String,
    /// Revisions that were pulled.
    others: Vec<String>,
}

fn but(others: &[String]) -> String {
    match others {
        [] => String::new(),
        others => format!(", only {}", others.join(", ")),
    }
}

impl NotPulled {
    /// Returns a hint for the user.
    pub fn hint(&self) -> String {
        format!("`bitnet pull {}` downloads it", self.name)
    }
}

/// Returns the path of a pulled model by its name; `None` if `name` is not the name of
/// a repository. `revision` overrides the revision in the name.
///
/// # Errors
///
/// Returns an error if the revision was not pulled or has no such model.
pub fn pulled(name: &OsStr, revision: Option<&str>, ui: &Ui) -> anyhow::Result<Option<PathBuf>> {
    let reference = name.to_str().and_then(Reference::parse);
    let Some((mut reference, cache)) = reference.zip(Cache::from_env()) else {
        if revision.is_some() {
            let message = "--revision is for models of a hub, expected `-m OWNER/NAME`";
            return Err(UsageError(message.to_owned()).into());
        }
        return Ok(None);
    };
    if let Some(revision) = revision {
        reference.revision = parse_revision(revision)?;
    }
    let repository = &reference.repository;
    let Some(folder) = cache.pulled(repository, &reference.revision) else {
        let others = cache.revisions(repository);
        if others.is_empty() && reference.name() == name.to_string_lossy() && revision.is_none() {
            // It may also be the path of a missing file.
            return Ok(None);
        }
        let others = others.iter();
        return Err(NotPulled {
            name: reference.name(),
            others: others
                .map(|revision| format!("{}@{revision}", repository.name()))
                .collect(),
        }
        .into());
    };
    let files = hub::files(&folder);
    let paths: Vec<_> = files.iter().map(String::as_str).collect();
    let choice = match choice::choose(&paths, reference.model.as_deref()) {
        Ok(choice) => choice,
        // Opening the folder reports what is missing.
        Err(ChoiceError::NoModel) => return Ok(Some(folder)),
        Err(error) => {
            let pulled = paths.join(", ");
            let message = format!("{error} of {} here, only {pulled}", reference.name());
            return Err(UsageError(message).into());
        }
    };
    let model = entry(folder, &choice, &paths);
    ui.detail(&format!("{} is {}", name.display(), model.display()));
    let others: Vec<_> = choice.others.iter().map(|&i| paths[i]).collect();
    let how = format!("`-m {}:FILE`", reference.name());
    say_choice(&choice, &paths, &others.join(", "), &how, ui);
    Ok(Some(model))
}

/// Returns the model in a folder of GGUF files that is not a HuggingFace folder, as in
/// the caches of other programs; `None` if there is none.
pub fn model_in(folder: &Path, ui: &Ui) -> Option<PathBuf> {
    if folder.join("config.json").is_file() {
        return None;
    }
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let mut files: Vec<String> = entries
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.to_lowercase().ends_with(".gguf"))
        .collect();
    files.sort_unstable();
    let paths: Vec<_> = files.iter().map(String::as_str).collect();
    let choice = choice::choose(&paths, None).ok()?;
    let others: Vec<_> = choice.others.iter().map(|&i| paths[i]).collect();
    let how = format!("`-m {}`", folder.join("FILE").display());
    say_choice(&choice, &paths, &others.join(", "), &how, ui);
    Some(entry(folder.to_owned(), &choice, &paths))
}

/// Returns the models in a folder that is none itself, by their paths: its GGUF files, and its
/// folders of a model.
pub fn models_in(folder: &Path, ui: &Ui) -> Vec<PathBuf> {
    if folder.join("config.json").is_file() {
        return Vec::new();
    }
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let (folders, files): (Vec<_>, Vec<_>) = entries
        .map(|entry| entry.path())
        .partition(|path| path.is_dir());
    let names: Vec<&str> = files
        .iter()
        .filter_map(|path| path.file_name()?.to_str())
        .filter(|name| name.to_lowercase().ends_with(".gguf"))
        .collect();
    let chosen = choice::choose(&names, None).ok();
    let firsts = chosen.iter().flat_map(|choice| match choice.entry {
        Entry::File(first) => [&[first], &choice.others[..]].concat(),
        Entry::Folder(_) => Vec::new(),
    });
    let mut models: Vec<_> = firsts.map(|first| folder.join(names[first])).collect();
    let is_model =
        |path: &PathBuf| path.join("config.json").is_file() || model_in(path, ui).is_some();
    models.extend(folders.into_iter().filter(is_model));
    models.sort_unstable();
    models
}

/// Parses the name of a revision.
///
/// # Errors
///
/// Returns an error if it is not a valid name of a revision.
pub fn parse_revision(name: &str) -> Result<Revision, UsageError> {
    Revision::parse(name).ok_or_else(|| {
        UsageError(format!(
            "{name:?} is not a revision, expected a branch, a tag, a commit, or refs/pr/1"
        ))
    })
}

/// Prints which of several models was selected, and how to select another.
pub fn say_choice(choice: &Choice, paths: &[&str], others: &str, how: &str, ui: &Ui) {
    if !choice.others.is_empty() {
        let taken = match &choice.entry {
            Entry::File(file) => paths[*file],
            Entry::Folder(folder) => folder,
        };
        ui.note(&format!(
            "note: selected {taken} among several models: {}; {how} selects another: {others}",
            choice.reason
        ));
    }
}

/// Returns the path of the chosen model.
pub fn entry(folder: PathBuf, choice: &Choice, paths: &[&str]) -> PathBuf {
    match &choice.entry {
        Entry::File(file) => hub::below(folder, paths[*file]),
        Entry::Folder(inner) if inner.is_empty() => folder,
        Entry::Folder(inner) => hub::below(folder, inner),
    }
}
