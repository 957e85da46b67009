//! `bitnet pull`

use anyhow::Context;
use indicatif::HumanBytes;
use serde::Serialize;

use crate::error::UsageError;
use crate::hub::choice::{self, ChoiceError};
use crate::hub::{self, Cache, Hub, HubError, Reference, RemoteFile};
use crate::interrupt;
use crate::pulled::{entry, parse_revision, say_choice};
use crate::ui::Ui;

/// Download a model
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Files are stored in the cache of the hub's own programs (HF_HUB_CACHE, HF_HOME);
-m REPO loads them from there. An interrupted download is resumed, and every
file's hash is verified.

REPO is OWNER/NAME, as on the hub's pages. OWNER/NAME@REVISION is a branch, a
tag, a commit, or refs/pr/1; OWNER/NAME:FILE selects one of several models, by
file or type, such as Q8_0. -m takes the same names. Of several GGUF files the
one in I2_S, TQ2_0 or TQ1_0 is selected, else the closest to the original;
without GGUF files, the SafeTensors with their configuration and tokenizer.

Environment variables, as in the hub's own programs:
  HF_ENDPOINT                  URL of another hub
  HF_TOKEN, HF_TOKEN_PATH      access token; default: that of `hf auth login`
  HF_HUB_OFFLINE=1             make no network requests
  SSL_CERT_FILE, SSL_CERT_DIR  trusted certificates, instead of the system's
  HTTPS_PROXY, NO_PROXY        a proxy, and hosts to access without it

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
    /// The requested revision.
    reference: &'a str,
    /// The value for `-m`.
    model: String,
    files: Vec<FileReport<'a>>,
}

#[derive(Debug, Serialize)]
struct FileReport<'a> {
    name: &'a str,
    bytes: u64,
    path: String,
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
    /// Returns the model to pull, from the repository name and the options.
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

fn nothing_chosen(error: &ChoiceError, files: &[RemoteFile]) -> UsageError {
    let files: Vec<_> = files.iter().collect();
    UsageError(format!("{error}, only {}", names(&files)))
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

/// Returns a hint for the user, if there is one.
pub fn hint(error: &HubError) -> Option<String> {
    const HOW: &str = "HF_TOKEN, HF_TOKEN_PATH or `hf auth login`";
    Some(match error {
        HubError::Denied { token: None, .. } => {
            format!("if the repository exists, provide a token with read access by {HOW}")
        }
        HubError::Denied {
            token: Some(origin),
            ..
        } => format!("the token in {origin} has no access to this repository"),
        HubError::Gated { page, token: None } => {
            format!("accept them at {page}, and provide your token by {HOW}")
        }
        HubError::Gated {
            page,
            token: Some(origin),
        } => format!("accept them at {page} as the owner of the token in {origin}"),
        HubError::NoRevision { repository } => {
            format!("the hub's page of {repository} lists its branches and tags")
        }
        HubError::NotFound { .. } => "a repository is OWNER/NAME, as on the hub's pages".to_owned(),
        error if error.is_untrusted() => {
            "if a company's proxy intercepts TLS, set SSL_CERT_FILE to its \
             CA certificate in PEM, or add it to the system's"
                .to_owned()
        }
        HubError::Transfer { .. } | HubError::Broken { .. } => {
            "run the same command to resume".to_owned()
        }
        HubError::Hash { .. } => {
            "try again; if it happens twice, the file on the hub is damaged".to_owned()
        }
        _ => return None,
    })
}
