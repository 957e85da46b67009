//! `bitnet cache`

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use bitnet_inference::{CachedWeights, WeightCache};
use chrono::{DateTime, Local, SecondsFormat, Utc};
use indicatif::HumanBytes;
use serde::Serialize;

use crate::error::UsageError;
use crate::ui::Ui;
use crate::weight_cache;

/// Show or remove packed weights that are kept for a faster start
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Commands that load a large model keep its weights as the kernels read them, in
a file that the next start maps instead of packing them again. That changes no
result. A file is used as long as the model's files, its options and this
version of the program are the same, and is checked at every start. It takes
about as much space as the model; --no-cache keeps none.

Environment variables:
  BITNET_CACHE_DIR        folder [default: bitnet/weights in the user's cache]
  BITNET_CACHE_SIZE       maximum size of all files; those not used for longest
                          are removed first [default: 8GiB]
  BITNET_CACHE_MIN_MODEL  smaller models are not kept [default: 32MiB]

Examples:
  bitnet cache list
  bitnet cache clear --outdated
  bitnet cache clear -m model.gguf")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(ListArgs),
    Clear(ClearArgs),
}

/// Show the files, the one used last first
#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Remove files: all, or those selected
#[derive(Debug, clap::Args)]
struct ClearArgs {
    /// Only those of this model, or of all in this folder
    #[arg(short, long, value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    model: Option<PathBuf>,
    /// Only those that no model is loaded from any more
    #[arg(long)]
    outdated: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The document of `--json`: of what is there, or of what was removed.
#[derive(Debug, Serialize)]
struct Report {
    folder: String,
    bytes: u64,
    files: Vec<FileReport>,
}

#[derive(Debug, Serialize)]
struct FileReport {
    path: String,
    bytes: u64,
    /// RFC 3339.
    used: String,
    /// The first file of the model; `null` if the file is damaged.
    model: Option<String>,
    current: bool,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let cache = weight_cache::open()?;
    match &args.command {
        Command::List(args) => list(args, &cache, ui),
        Command::Clear(args) => clear(args, &cache, ui),
    }
}

fn list(args: &ListArgs, cache: &WeightCache, ui: &Ui) -> anyhow::Result<()> {
    let entries = entries(cache)?;
    let report = Report::new(cache, &entries);
    if args.json {
        return ui.json(&report);
    }
    for entry in &entries {
        let used: DateTime<Local> = entry.used.into();
        let state = match (&entry.model, entry.is_current) {
            (None, _) => "damaged ",
            (Some(_), false) => "outdated",
            (Some(_), true) => "        ",
        };
        let model = entry.model.as_deref().unwrap_or(&entry.path);
        ui.line(&format!(
            "{:>10}  {}  {state}  {}",
            HumanBytes(entry.n_bytes).to_string(),
            used.format("%Y-%m-%d %H:%M"),
            model.display()
        ))?;
    }
    ui.line(&format!(
        "{:>10}  {}",
        HumanBytes(report.bytes).to_string(),
        report.folder
    ))
}

fn clear(args: &ClearArgs, cache: &WeightCache, ui: &Ui) -> anyhow::Result<()> {
    let mut selected = entries(cache)?;
    if let Some(path) = &args.model {
        let path = std::path::absolute(path)?;
        let is_there = |model: &PathBuf| model.starts_with(&path);
        selected.retain(|entry| entry.model.as_ref().is_some_and(is_there));
        if selected.is_empty() {
            let message = format!(
                "-m: no packed weights are kept of {}; `bitnet cache list` shows the models",
                path.display()
            );
            return Err(UsageError(message).into());
        }
    }
    selected.retain(|entry| !(args.outdated && entry.is_current));
    for entry in &selected {
        let removed = cache.remove(entry);
        removed.with_context(|| format!("failed to remove {}", entry.path.display()))?;
    }
    let report = Report::new(cache, &selected);
    if args.json {
        return ui.json(&report);
    }
    let n_files = match selected.len() {
        1 => "1 file".to_owned(),
        n => format!("{n} files"),
    };
    ui.line(&format!("removed {n_files}, {}", HumanBytes(report.bytes)))
}

fn entries(cache: &WeightCache) -> anyhow::Result<Vec<CachedWeights>> {
    let entries = cache.entries();
    entries.with_context(|| format!("failed to read {}", cache.path().display()))
}

impl Report {
    fn new(cache: &WeightCache, entries: &[CachedWeights]) -> Self {
        let file = |entry: &CachedWeights| FileReport {
            path: entry.path.display().to_string(),
            bytes: entry.n_bytes,
            used: rfc_3339(entry.used),
            model: (entry.model.as_deref()).map(|model| model.display().to_string()),
            current: entry.is_current,
        };
        Self {
            folder: cache.path().display().to_string(),
            bytes: entries.iter().map(|entry| entry.n_bytes).sum(),
            files: entries.iter().map(file).collect(),
        }
    }
}

fn rfc_3339(time: SystemTime) -> String {
    let time: DateTime<Utc> = time.max(UNIX_EPOCH).into();
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
