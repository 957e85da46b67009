//! `cargo palisade store`

use std::fs::File;
use std::io::BufReader;

use anyhow::Context as _;
use palisade::store::{export, import};
use serde_json::json;

use super::Context;
use crate::args::StoreCommand;

pub fn run(context: &mut Context<'_>, command: &StoreCommand) -> anyhow::Result<u8> {
    match command {
        StoreCommand::Export => {
            context.ui.finish();
            export(context.session.store.as_ref(), std::io::stdout().lock())?;
        }
        StoreCommand::Import { file } => {
            let open = File::open(file).with_context(|| format!("read {}", file.display()))?;
            let records = import(context.session.store.as_mut(), BufReader::new(open))?;
            let text = format!("read {records} records; those that were known changed nothing\n");
            context.print(&json!({"schema": 1, "records": records}), &text)?;
        }
    }
    Ok(0)
}
