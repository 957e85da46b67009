//! `bitnet pull`

use std::path::{Path, PathBuf};

use anyhow::Context;
use indicatif::HumanBytes;
use serde::Serialize;

use crate::error::UsageError;
use crate::hub::{Cache, Hub, HubError, RemoteFile, Repository};
use crate::interrupt;
use crate::ui::Ui;

/// Download a model
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Files go to the cache of the hub's own programs (HF_HUB_CACHE, HF_HOME); -m REPO
uses them from there. A broken download goes on where it broke, and every file's
hash is checked. HF_ENDPOINT names another hub, HF_TOKEN says who asks.

Without --file a repository gives its GGUF file: the only one, or the one in
I2_S, TQ2_0 or TQ1_0, whichever is found first; or, without one, its SafeTensors
and what belongs to them.

Examples:
  bitnet pull microsoft/bitnet-b1.58-2B-4T-gguf
  bitnet run -m microsoft/bitnet-b1.58-2B-4T-gguf \"The capital of France is\"
  bitnet pull tiiuae/Falcon3-1B-Instruct-1.58bit")]
pub struct Args {
    /// The repository, OWNER/NAME
    #[arg(value_name = "REPO")]
    repository: String,
    /// This file of it [default: what a model needs]
    #[arg(long, value_name = "NAME")]
    file: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    repository: &'a str,
    revision: &'a str,
    /// What `-m` takes.
    model: &'a Path,
    files: Vec<FileReport<'a>>,
}

#[derive(Debug, Serialize)]
struct FileReport<'a> {
    name: &'a str,
    bytes: u64,
    path: PathBuf,
}

/// Weights that run fastest first, as files are named after them.
const PREFERRED: [&str; 3] = ["i2_s", "tq2_0", "tq1_0"];
/// What belongs to a model in SafeTensors, besides the weights.
const BESIDE_SAFETENSORS: [&str; 9] = [
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "tokenizer.model",
    "added_tokens.json",
];

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let Some(repository) = Repository::parse(&args.repository) else {
        return Err(UsageError(format!(
            "{:?} is not a repository, expected OWNER/NAME",
            args.repository
        ))
        .into());
    };
    let failed = || format!("failed to pull {}", repository.name());
    let cache = Cache::from_env().ok_or(UsageError(
        "there is no home folder for the cache; HF_HUB_CACHE names one".to_owned(),
    ))?;
    let hub = Hub::from_env();
    let snapshot = hub.snapshot(&repository).with_context(failed)?;
    let chosen = choose(&snapshot.files, args.file.as_deref()).with_context(failed)?;
    let total: u64 = chosen.iter().map(|file| file.size).sum();
    ui.note(&format!(
        "{} of {} files, {}: {}",
        chosen.len(),
        snapshot.files.len(),
        HumanBytes(total),
        names(&chosen)
    ));

    interrupt::defer();
    let mut progress = ui.progress("downloading");
    let mut before = 0;
    let mut files = Vec::new();
    for file in &chosen {
        let path = hub
            .download(&cache, &repository, &snapshot.commit, file, |done| {
                progress.set((before + done) as usize, total as usize);
            })
            .with_context(failed)?;
        before += file.size;
        files.push(FileReport {
            name: &file.path,
            bytes: file.size,
            path,
        });
    }
    drop(progress);
    cache.set_main(&repository, &snapshot.commit)?;
    let model = match &files[..] {
        [file] => file.path.clone(),
        // The parts of a split file are found from the first.
        [first, ..] if is_gguf(first.name) => first.path.clone(),
        _ => cache.snapshot(&repository, &snapshot.commit),
    };
    if args.json {
        return ui.json(&Report {
            repository: repository.name(),
            revision: &snapshot.commit,
            model: &model,
            files,
        });
    }
    ui.line(&model.display().to_string())
}

/// Returns the files that a model needs.
fn choose(files: &[RemoteFile], name: Option<&str>) -> anyhow::Result<Vec<RemoteFile>> {
    if let Some(name) = name {
        let named = files.iter().filter(|file| file.path == name);
        let named: Vec<_> = named.cloned().collect();
        if named.is_empty() {
            return Err(
                UsageError(format!("there is no file {name:?}, only {}", names(files))).into(),
            );
        }
        return Ok(named);
    }
    let mut models: Vec<Vec<RemoteFile>> = Vec::new();
    for file in files.iter().filter(|file| is_gguf(&file.path)) {
        match models
            .iter_mut()
            .find(|parts| whole(&parts[0].path) == whole(&file.path))
        {
            Some(parts) => parts.push(file.clone()),
            None => models.push(vec![file.clone()]),
        }
    }
    for parts in &mut models {
        parts.sort_by(|a, b| a.path.cmp(&b.path));
    }
    if models.len() > 1 {
        let preferred = PREFERRED.iter().find_map(|ty| {
            let is = |parts: &&Vec<RemoteFile>| parts[0].path.to_lowercase().contains(ty);
            models.iter().find(is)
        });
        return match preferred {
            Some(parts) => Ok(parts.clone()),
            None => Err(UsageError(format!(
                "there are several GGUF files, choose one with --file: {}",
                names(&models.concat())
            ))
            .into()),
        };
    }
    if let Some(parts) = models.pop() {
        return Ok(parts);
    }
    let is_weights = |file: &&RemoteFile| file.path.ends_with(".safetensors");
    let belongs = |file: &&RemoteFile| {
        !file.path.contains('/')
            && (is_weights(file) || BESIDE_SAFETENSORS.contains(&file.path.as_str()))
    };
    let chosen: Vec<_> = files.iter().filter(belongs).cloned().collect();
    if !chosen.iter().any(|file| is_weights(&file)) {
        return Err(UsageError(format!(
            "there is neither a GGUF nor a SafeTensors file, only {}",
            names(files)
        ))
        .into());
    }
    Ok(chosen)
}

fn is_gguf(path: &str) -> bool {
    path.to_lowercase().ends_with(".gguf")
}

/// Returns the name of what a part of a split file is part of:
/// `NAME-00001-of-00003.gguf`.
fn whole(path: &str) -> &str {
    let part = || {
        let (name, _) = path.rsplit_once("-of-")?;
        let (name, number) = name.rsplit_once('-')?;
        (number.len() == 5 && number.bytes().all(|b| b.is_ascii_digit())).then_some(name)
    };
    part().unwrap_or(path)
}

fn names(files: &[RemoteFile]) -> String {
    let shown = files.iter().take(20);
    let mut names: Vec<_> = shown
        .map(|file| format!("{} ({})", file.path, HumanBytes(file.size)))
        .collect();
    if files.len() > names.len() {
        names.push(format!("and {} more", files.len() - names.len()));
    }
    names.join(", ")
}

/// Returns the model that a pulled repository's name means, if it is one.
pub fn pulled(name: &str) -> anyhow::Result<Option<PathBuf>> {
    let Some((repository, cache)) = Repository::parse(name).zip(Cache::from_env()) else {
        return Ok(None);
    };
    let Some(folder) = cache.pulled(&repository) else {
        return Ok(None);
    };
    let entries = folder.read_dir();
    let entries = entries.with_context(|| format!("failed to read {}", folder.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| is_gguf(name))
        .collect();
    names.sort_unstable();
    names.dedup_by(|a, b| whole(a) == whole(b));
    match &names[..] {
        [] => Ok(Some(folder)),
        [name] => Ok(Some(folder.join(name))),
        several => Err(UsageError(format!(
            "{name} has several GGUF files here, name one of {} in {}",
            several.join(", "),
            folder.display()
        ))
        .into()),
    }
}

/// Returns what may help.
pub fn hint(error: &HubError) -> Option<&'static str> {
    Some(match error {
        HubError::Denied {
            with_token: false, ..
        } => "if the repository exists, HF_TOKEN has to hold a token that may read it",
        HubError::Denied { .. } => "the token in HF_TOKEN may not read this repository",
        HubError::NotFound { .. } => "a repository is OWNER/NAME, as on the hub's pages",
        HubError::Transfer { .. } | HubError::Broken { .. } => {
            "the same command goes on where it broke"
        }
        HubError::Hash { .. } => "try again; if it happens twice, the file on the hub is damaged",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Hash;

    fn files(names: &[&str]) -> Vec<RemoteFile> {
        let file = |name: &&str| RemoteFile {
            path: (*name).to_owned(),
            size: 1,
            hash: Hash::Git("0".repeat(40)),
        };
        names.iter().map(file).collect()
    }

    fn chosen(names: &[&str]) -> String {
        match choose(&files(names), None) {
            Ok(files) => files
                .into_iter()
                .map(|file| file.path)
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_right_files_are_chosen() {
        assert_eq!(
            chosen(&["README.md", "ggml-model-i2_s.gguf"]),
            "ggml-model-i2_s.gguf"
        );
        let several = [
            "m-f16.gguf",
            "m-TQ1_0.gguf",
            "m-TQ2_0.gguf",
            "model.safetensors",
        ];
        assert_eq!(chosen(&several), "m-TQ2_0.gguf");
        assert_eq!(
            chosen(&["m-f16.gguf", "m-q8.gguf"]),
            "there are several GGUF files, choose one with --file: m-f16.gguf (1 B), m-q8.gguf (1 B)"
        );
        assert_eq!(
            chosen(&["b-00002-of-00002.gguf", "b-00001-of-00002.gguf", "x.bin"]),
            "b-00001-of-00002.gguf b-00002-of-00002.gguf"
        );
        let folder = [
            "LICENSE",
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "onnx/model.safetensors",
            "tokenizer.json",
        ];
        assert_eq!(
            chosen(&folder),
            "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors \
             model.safetensors.index.json tokenizer.json"
        );
        assert_eq!(
            chosen(&["README.md"]),
            "there is neither a GGUF nor a SafeTensors file, only README.md (1 B)"
        );
    }
}
