//! `cargo palisade merge`

use std::fs;
use std::path::{Path, PathBuf};

use palisade::merge::merge;
use palisade::report::ReportDocument;

use super::{Context, check};
use crate::args::ReportArgs;
use crate::error::UsageError;

pub fn run(
    context: &mut Context<'_>,
    files: &[PathBuf],
    reports: &ReportArgs,
) -> anyhow::Result<u8> {
    let ui = context.ui;
    let read = files.iter().map(|file| {
        let name = file.display().to_string();
        Ok((name, read(file)?))
    });
    let read = read.collect::<Result<Vec<_>, UsageError>>()?;
    let merged = merge(&mut context.session, &read, &|event| ui.event(event))?;
    check::tell(context, merged, reports)
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
