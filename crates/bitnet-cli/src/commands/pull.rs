//! `bitnet pull`

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use indicatif::HumanBytes;
use serde::Serialize;

use crate::error::UsageError;
use crate::hub::choice::{self, Choice, ChoiceError, Entry};
use crate::hub::{self, Cache, Hub, HubError, Reference, RemoteFile, Revision};
use crate::interrupt;
use crate::ui::Ui;

/// Download a model
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Files go to the cache of the hub's own programs (HF_HUB_CACHE, HF_HOME); -m REPO
uses them from there. A broken download goes on where it broke, and every file's
hash is checked.

REPO is OWNER/NAME, as on the hub's pages. OWNER/NAME@REVISION is a branch, a
tag, a commit, or refs/pr/1; OWNER/NAME:FILE is one of several models, by its
file or type, such as Q8_0. -m takes the same names. Of several GGUF files the
one in I2_S, TQ2_0 or TQ1_0 is taken, or else the closest to the original;
without one, the SafeTensors and what belongs to them.

The environment, as for the hub's own programs:
  HF_ENDPOINT                  another hub
  HF_TOKEN, HF_TOKEN_PATH      who asks; or what `hf auth login` has left
  HF_HUB_OFFLINE=1             ask nothing
  SSL_CERT_FILE, SSL_CERT_DIR  whom to trust, instead of whom the system does
  HTTPS_PROXY, NO_PROXY        a proxy, and where there is none

Examples:
  bitnet pull microsoft/bitnet-b1.58-2B-4T-gguf
  bitnet run -m microsoft/bitnet-b1.58-2B-4T-gguf \"The capital of France is\"
  bitnet pull tiiuae/Falcon3-1B-Instruct-1.58bit@main")]
pub struct Args {
    /// The repository, OWNER/NAME
    #[arg(value_name = "REPO")]
    repository: String,
    /// This file or folder of it [default: what a model needs]
    #[arg(long, value_name = "NAME")]
    file: Option<String>,
    /// This branch, tag or commit [default: main]
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    repository: &'a str,
    revision: &'a str,
    /// The name of the revision that was asked for.
    reference: &'a str,
    /// What `-m` takes.
    model: String,
    files: Vec<FileReport<'a>>,
}

#[derive(Debug, Serialize)]
struct FileReport<'a> {
    name: &'a str,
    bytes: u64,
    path: String,
}

/// A model of a hub that is not in the cache.
#[derive(Debug, thiserror::Error)]
#[error("{name} was not pulled{}", but(.others))]
pub struct NotPulled {
    /// As `pull` takes it.
    name: String,
    /// Revisions that were.
    others: Vec<String>,
}

fn but(others: &[String]) -> String {
    match others {
        [] => String::new(),
        others => format!(", only {}", others.join(", ")),
    }
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let reference = args.reference()?;
    let (repository, revision) = (&reference.repository, &reference.revision);
    let failed = || format!("failed to pull {}", reference.name());
    if hub::is_offline() {
        let message = "HF_HUB_OFFLINE is set, so nothing is downloaded".to_owned();
        return Err(UsageError(message)).with_context(failed);
    }
    let cache = Cache::from_env().ok_or(UsageError(
        "there is no home folder for the cache; HF_HUB_CACHE names one".to_owned(),
    ))?;
    let hub = Hub::from_env().with_context(failed)?;
    let snapshot = hub.snapshot(repository, revision).with_context(failed)?;
    let paths: Vec<_> = snapshot.files.iter().map(|f| f.path.as_str()).collect();
    let choice = choice::choose(&paths, reference.model.as_deref());
    let choice = choice
        .map_err(|error| nothing_chosen(&error, &snapshot.files))
        .with_context(failed)?;
    let file = |i: &usize| &snapshot.files[*i];
    let chosen: Vec<_> = choice.files.iter().map(file).collect();
    let total: u64 = chosen.iter().map(|file| file.size).sum();
    ui.note(&format!(
        "{} of {} files, {}: {}",
        chosen.len(),
        snapshot.files.len(),
        HumanBytes(total),
        names(&chosen)
    ));
    let others: Vec<_> = choice.others.iter().map(file).collect();
    say_choice(&choice, &paths, &names(&others), "`--file NAME`", ui);

    interrupt::defer();
    let mut progress = ui.progress("downloading");
    let mut before = 0;
    let mut files = Vec::new();
    for file in &chosen {
        let path = hub
            .download(&cache, repository, &snapshot.commit, file, |done| {
                progress.set((before + done) as usize, total as usize);
            })
            .with_context(failed)?;
        before += file.size;
        files.push(FileReport {
            name: &file.path,
            bytes: file.size,
            path: path.to_string_lossy().into_owned(),
        });
    }
    drop(progress);
    cache.set_reference(repository, revision, &snapshot.commit)?;
    let folder = cache.snapshot(repository, &snapshot.commit);
    let model = entry(folder, &choice, &paths);
    if args.json {
        return ui.json(&Report {
            repository: repository.name(),
            revision: &snapshot.commit,
            reference: revision.name(),
            model: model.to_string_lossy().into_owned(),
            files,
        });
    }
    ui.path(&model)
}

impl Args {
    /// Returns what to pull, by the name of the repository and by options.
    fn reference(&self) -> Result<Reference, UsageError> {
        let mut reference = Reference::parse(&self.repository).ok_or_else(|| {
            let name = &self.repository;
            UsageError(format!("{name:?} is not a repository, expected OWNER/NAME"))
        })?;
        if let Some(revision) = &self.revision {
            reference.revision = parse_revision(revision)?;
        }
        if let Some(file) = &self.file {
            reference.model = Some(file.clone());
        }
        Ok(reference)
    }
}

fn parse_revision(name: &str) -> Result<Revision, UsageError> {
    Revision::parse(name).ok_or_else(|| {
        UsageError(format!(
            "{name:?} is not a revision, expected a branch, a tag, a commit, or refs/pr/1"
        ))
    })
}

/// Says which of several models was taken, and how to take another.
fn say_choice(choice: &Choice, paths: &[&str], others: &str, how: &str, ui: &Ui) {
    if !choice.others.is_empty() {
        let taken = match &choice.entry {
            Entry::File(file) => paths[*file],
            Entry::Folder(folder) => folder,
        };
        ui.note(&format!(
            "note: of several models {taken} was taken, since {}; {how} takes another: {others}",
            choice.reason
        ));
    }
}

fn nothing_chosen(error: &ChoiceError, files: &[RemoteFile]) -> UsageError {
    let files: Vec<_> = files.iter().collect();
    UsageError(format!("{error}, only {}", names(&files)))
}

/// Returns the path of what was chosen.
fn entry(folder: PathBuf, choice: &Choice, paths: &[&str]) -> PathBuf {
    match &choice.entry {
        Entry::File(file) => hub::below(folder, paths[*file]),
        Entry::Folder(inner) if inner.is_empty() => folder,
        Entry::Folder(inner) => hub::below(folder, inner),
    }
}

fn names(files: &[&RemoteFile]) -> String {
    let shown = files.iter().take(20);
    let mut names: Vec<_> = shown
        .map(|file| format!("{} ({})", file.path, HumanBytes(file.size)))
        .collect();
    if files.len() > names.len() {
        names.push(format!("and {} more", files.len() - names.len()));
    }
    names.join(", ")
}

/// Returns the model that the name of a pulled repository means, if it is one;
/// `revision` is the one of another option.
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
            // It may as well be the path of a file that is not there.
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
        // Whoever opens the folder says what is missing.
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

/// Returns the model in a folder that has GGUF files and is no HuggingFace folder, as
/// other programs keep what they have downloaded; `None` if there is none.
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

impl NotPulled {
    /// Returns what may help.
    pub fn hint(&self) -> String {
        format!("`bitnet pull {}` downloads it", self.name)
    }
}

/// Returns what may help.
pub fn hint(error: &HubError) -> Option<String> {
    const HOW: &str = "HF_TOKEN, HF_TOKEN_PATH or `hf auth login`";
    Some(match error {
        HubError::Denied { token: None, .. } => {
            format!("if the repository exists, it takes a token that may read it, by {HOW}")
        }
        HubError::Denied {
            token: Some(origin),
            ..
        } => format!("the token in {origin} may not read this repository"),
        HubError::Gated { page, token: None } => {
            format!("accept them at {page}, and give your token by {HOW}")
        }
        HubError::Gated {
            page,
            token: Some(origin),
        } => format!("accept them at {page} as the owner of the token in {origin}"),
        HubError::NoRevision { repository } => {
            format!("the hub's page of {repository} lists its branches and tags")
        }
        HubError::NotFound { .. } => "a repository is OWNER/NAME, as on the hub's pages".to_owned(),
        error if error.is_untrusted() => "if a company's proxy stands between, name its \
             certificate authority's file in PEM by SSL_CERT_FILE, or add it to the system's"
            .to_owned(),
        HubError::Transfer { .. } | HubError::Broken { .. } => {
            "the same command goes on where it broke".to_owned()
        }
        HubError::Hash { .. } => {
            "try again; if it happens twice, the file on the hub is damaged".to_owned()
        }
        _ => return None,
    })
}
