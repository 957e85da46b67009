//! `bitnet embed`

use std::path::PathBuf;

use serde::Serialize;

use super::{parse_ids, text_input};
use crate::error::UsageError;
use crate::model::RunModelArgs;
use crate::ui::Ui;

/// Compute the embedding vector of a text
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints the hidden state of the last token, normalized to length 1, one number
per line. The dot product of two vectors is the similarity of their texts, if
the model was trained for that, such as bitnet-embedding.

Examples:
  bitnet embed -m bitnet-embedding.gguf \"a cat sat on the mat\"
  bitnet embed -m bitnet-embedding.gguf --json -f letter.txt")]
#[group(id = "input", multiple = false, args = ["text", "file", "tokens"])]
pub struct Args {
    /// The text; `-`, or none in a pipe, reads stdin
    text: Option<String>,
    /// Read the text from a file
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Token ids instead of a text, such as 1,2,3, taken as they are
    #[arg(long, value_name = "IDS", allow_hyphen_values = true)]
    tokens: Option<String>,
    #[command(flatten)]
    model: RunModelArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    ids: Vec<u32>,
    embedding: Vec<f32>,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let checkpoint = args.model.model.open(ui)?;
    let ids = if let Some(ids) = &args.tokens {
        parse_ids(ids)?
    } else {
        let text = text_input("text", args.text.as_deref(), args.file.as_deref())?;
        let tokenizer = args.model.model.tokenizer(&checkpoint, ui)?;
        tokenizer.encode_with_eos(&text)?
    };
    let config = checkpoint.config();
    let (n_ids, limit) = (ids.len(), config.context_len);
    if n_ids == 0 || n_ids > limit {
        let message = format!("the text has {n_ids} tokens, expected 1 to {limit} for this model");
        return Err(UsageError(message).into());
    }
    if let Some(id) = ids.iter().find(|id| **id as usize >= config.vocab_size) {
        let last = config.vocab_size - 1;
        return Err(UsageError(format!("no token has id {id}, expected 0 to {last}")).into());
    }
    let head = args.model.compute.head.for_all();
    let mut loaded = (args.model).load(&checkpoint, Some(n_ids), head, ui)?;
    let embedding = loaded.engine.embed(&ids)?;
    if args.json {
        ui.json(&Report { ids, embedding })?;
    } else {
        for value in embedding {
            ui.line(&value.to_string())?;
        }
    }
    Ok(loaded.keep_weights(ui)?)
}
