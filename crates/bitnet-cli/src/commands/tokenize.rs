//! `bitnet tokenize`

use std::path::PathBuf;

use bitnet_inference::{Message, Role};
use serde::Serialize;

use super::{parse_ids, text_input};
use crate::error::UsageError;
use crate::model::{ChatTemplateArg, ModelArg};
use crate::ui::Ui;

/// Show the tokens of a text, or the text of tokens
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bitnet tokenize \"Once upon a time\"
  bitnet tokenize --json -f story.txt
  bitnet tokenize --chat -m model.gguf \"Why is the sky blue?\"
  bitnet tokenize --decode 46,1277,597,258,587")]
#[group(id = "input", multiple = false, args = ["text", "file", "decode"])]
pub struct Args {
    /// The text; `-`, or none in a pipe, reads stdin
    text: Option<String>,
    /// Read the text from a file
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print the text of these ids, such as 1,2,3
    #[arg(long, value_name = "IDS", allow_hyphen_values = true)]
    decode: Option<String>,
    #[command(flatten)]
    model: ModelArg,
    /// Do not prepend the BOS token
    #[arg(long)]
    no_bos: bool,
    /// Show the chat prompt of this first message
    #[arg(long, conflicts_with_all = ["decode", "no_bos"])]
    chat: bool,
    /// With --chat: the system message
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    #[command(flatten)]
    template: ChatTemplateArg,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    ids: &'a [u32],
    /// The text of each token by itself.
    tokens: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let checkpoint = args.model.open(ui)?;
    let tokenizer = args.model.tokenizer(&checkpoint, ui)?;
    let pieces = |ids: &[u32]| -> Vec<String> {
        let pieces = ids.iter().map(|id| tokenizer.decode(&[*id], true));
        pieces.collect()
    };
    if let Some(ids) = &args.decode {
        let ids = parse_ids(ids)?;
        // An embedding row without a token decodes to no text; an id without a row or
        // token is an error.
        let rows = checkpoint.config().vocab_size;
        let is_slip = |id: &&u32| !tokenizer.contains(**id) && **id as usize >= rows;
        if let Some(id) = ids.iter().find(is_slip) {
            let n_ids = tokenizer.n_tokens().max(rows);
            return Err(UsageError(format!("no token has id {id} (there are {n_ids})")).into());
        }
        let text = tokenizer.decode(&ids, true);
        if args.json {
            return ui.json(&Report {
                ids: &ids,
                tokens: pieces(&ids),
                text: Some(text),
            });
        }
        return ui.line(&text);
    }
    let ids;
    let mut text = text_input("text", args.text.as_deref(), args.file.as_deref())?;
    if args.chat {
        let template = (args.template).resolve(&args.model, &checkpoint, &tokenizer, ui)?;
        let system = args.system.iter().map(|s| Message::new(Role::System, s));
        let messages: Vec<_> = system.chain([Message::new(Role::User, text)]).collect();
        let prompt = template.encode(&tokenizer, &messages, &args.template.options()?)?;
        (text, ids) = (prompt.text, prompt.ids);
    } else if args.no_bos {
        ids = tokenizer.encode_without_bos(&text)?;
    } else {
        ids = tokenizer.encode(&text)?;
    }
    let tokens = pieces(&ids);
    if args.json {
        return ui.json(&Report {
            ids: &ids,
            tokens,
            text: args.chat.then_some(text),
        });
    }
    for (id, token) in ids.iter().zip(tokens) {
        ui.line(&format!("{id:>7}  {token:?}"))?;
    }
    Ok(())
}
