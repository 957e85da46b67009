//! `cargo palisade merge`

use std::fs;
use std::path::{Path, PathBuf};

use super::Context;
use super::check::{self, ReportArgs};
use crate::error::{CommandError, UsageError};
use palisade::flow::merge::merge;
use palisade::record::ReportDocument;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo palisade merge shard-1.json shard-2.json shard-3.json")]
pub struct Args {
    /// What `check --shard I/N --json` printed, one file for each shard
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub reports: ReportArgs,
}

pub fn run(context: &mut Context<'_>, args: &Args) -> Result<u8, CommandError> {
    let ui = context.ui;
    let read = args.files.iter().map(|file| {
        let name = file.display().to_string();
        Ok((name, read(file)?))
    });
    let read = read.collect::<Result<Vec<_>, UsageError>>()?;
    let merged = merge(&mut context.session, &read, &|event| ui.event(event))?;
    check::tell(context, merged, &args.reports)
}

fn read(file: &Path) -> Result<ReportDocument, UsageError> {
    let text = fs::read_to_string(file).map_err(|source| UsageError::ReadReport {
        path: file.to_owned(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|source| UsageError::NoReport {
        path: file.to_owned(),
        source,
    })
}
