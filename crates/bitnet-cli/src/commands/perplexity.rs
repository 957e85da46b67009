//! `bitnet perplexity`

use std::path::PathBuf;

use anyhow::Context;
use bitnet_inference::perplexity;
use serde::Serialize;

use super::generation::{show_skipped, show_skipped_by_layer};
use crate::error::Interrupted;
use crate::input::read_text;
use crate::interrupt;
use crate::model::RunModelArgs;
use crate::ui::Ui;

/// Measure the perplexity of a text
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The text's tokens are split into windows of -c tokens without overlap, each
preceded by BOS; every token is scored. Without a BOS, a window is preceded by
the token before it, and the first of the text is not scored. Lower is better.
Only numbers of models with the same tokenizer are comparable.

Example:
  bitnet perplexity -f heldout.txt --max-tokens 4096 --head exact")]
pub struct Args {
    /// The text; `-` reads stdin
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    model: RunModelArgs,
    /// Tokens per window
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = 512,
        allow_negative_numbers = true
    )]
    context: usize,
    /// Score only the first N tokens [default: all]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    /// The token before each window; `None` if the tokenizer has no BOS, and then the
    /// first token of the text is not scored.
    bos: Option<u32>,
    context: usize,
    windows: usize,
    tokens: usize,
    nll_sum: f64,
    nll_per_token: f64,
    ppl: f64,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let text = read_text(&args.file)?;
    let checkpoint = args.model.model.open(ui)?;
    let tokenizer = args.model.model.tokenizer(&checkpoint, ui)?;
    let bos = tokenizer.bos();
    if bos.is_none() {
        ui.note(
            "note: the tokenizer has no BOS token: \
             the first token is not scored",
        );
    }
    let mut tokens = tokenizer.encode_without_bos(&text)?;
    if let Some(max_tokens) = args.max_tokens {
        tokens.truncate(max_tokens);
    }
    let head = args.model.compute.head.for_all();
    let mut loaded = (args.model).load(&checkpoint, Some(args.context), head, ui)?;
    let n_scored = match bos {
        Some(_) => tokens.len(),
        None => tokens.len().saturating_sub(1),
    };
    let mut progress = ui.progress("scoring");
    interrupt::defer();
    let result = perplexity(&mut loaded.engine, &tokens, args.context, bos, |so_far| {
        progress.set(so_far.tokens, n_scored);
        interrupt::poll()
    })
    .with_context(|| match args.file.to_str() {
        Some("-") => "failed to score stdin".to_owned(),
        _ => format!("failed to score {}", args.file.display()),
    })?;
    drop(progress);
    show_skipped(&loaded.engine, ui);
    show_skipped_by_layer(&loaded.engine, ui);
    let report = Report {
        bos,
        context: args.context,
        windows: result.windows,
        tokens: result.tokens,
        nll_sum: result.nll_sum,
        nll_per_token: result.nll_per_token(),
        ppl: result.perplexity(),
    };
    if args.json {
        ui.json(&report)?;
    } else {
        ui.line(&format!(
            "perplexity {:.4}  ({:.5} nats per token, {} tokens in {} windows of {})",
            report.ppl, report.nll_per_token, report.tokens, report.windows, report.context
        ))?;
    }
    if result.tokens < n_scored {
        ui.note(&format!(
            "interrupted after {} of {n_scored} tokens",
            result.tokens
        ));
        return Err(Interrupted.into());
    }
    Ok(loaded.keep_weights(ui)?)
}
