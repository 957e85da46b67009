//! `cargo palisade store`

use super::Context;
use crate::error::CommandError;
use palisade::host::store::{export, import};
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use serde_json::json;

#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Example: cargo palisade store export > runs.jsonl")]
pub enum Command {
    /// Write every record to standard output
    #[command(after_help = "Example: cargo palisade store export > runs.jsonl")]
    Export,
    /// Read records that export wrote; known ones change nothing
    #[command(after_help = "Example: cargo palisade store import runs.jsonl")]
    Import {
        /// The file
        file: PathBuf,
    },
}

pub fn run(context: &mut Context<'_>, command: &Command) -> Result<u8, CommandError> {
    match command {
        Command::Export => {
            context.ui.finish();
            export(context.session.store.as_ref(), std::io::stdout().lock())?;
        }
        Command::Import { file } => {
            let open = File::open(file)
                .map_err(|source| CommandError::io(format!("read {}", file.display()), source))?;
            let records = import(context.session.store.as_mut(), BufReader::new(open))?;
            let text = format!("read {records} records; those that were known changed nothing\n");
            context.print(&json!({"schema": 1, "records": records}), &text)?;
        }
    }
    Ok(0)
}
