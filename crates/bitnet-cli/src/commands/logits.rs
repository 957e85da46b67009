//! `bitnet logits`

use bitnet_inference::{Input, Logits, Tokenizer};
use serde::Serialize;

use super::parse_ids;
use crate::error::UsageError;
use crate::model::RunModelArgs;
use crate::ui::Ui;

/// Show the most likely next tokens after given tokens
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints id, logit and text of each. The tokens are used as given: no BOS is
added. `bitnet tokenize --json` prints the ids of a text.

Example:
  bitnet logits --tokens 8176,46,1277,597,258,587 --top 5 --head exact")]
pub struct Args {
    /// Token ids, such as 1,2,3
    #[arg(long, value_name = "IDS", allow_hyphen_values = true)]
    tokens: String,
    /// How many to show
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
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
    /// Logits of the last position, the largest first.
    top: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Candidate {
    id: u32,
    logit: f32,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let ids = parse_ids(&args.tokens)?;
    if ids.is_empty() {
        return Err(
            UsageError("--tokens is empty, expected numbers such as 1,2,3".to_owned()).into(),
        );
    }
    let checkpoint = args.model.model.open(ui)?;
    let config = checkpoint.config();
    if let Some(id) = ids.iter().find(|id| **id as usize >= config.vocab_size) {
        let last = config.vocab_size - 1;
        return Err(UsageError(format!("no token has id {id}, expected 0 to {last}")).into());
    }
    let (n_ids, limit) = (ids.len(), config.context_len);
    if n_ids > limit {
        let message = format!("--tokens has {n_ids} ids, expected 1 to {limit} for this model");
        return Err(UsageError(message).into());
    }
    let head = args.model.compute.head.for_all();
    let mut loaded = (args.model).load(&checkpoint, Some(ids.len()), head, ui)?;
    let mut top = Vec::new();
    let input = Input {
        sequence: 0,
        tokens: &ids,
        logits: Logits::Last,
    };
    loaded.engine.forward(&[input], |_, _, logits| {
        top.extend(
            (0..)
                .zip(logits)
                .map(|(id, &logit)| Candidate { id, logit }),
        );
    })?;
    let order = |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id));
    if (1..top.len()).contains(&args.top) {
        top.select_nth_unstable_by(args.top - 1, order);
    }
    top.truncate(args.top);
    top.sort_by(order);
    if args.json {
        ui.json(&Report { ids, top })?;
        return Ok(loaded.keep_weights(ui)?);
    }
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).ok();
    for Candidate { id, logit } in top {
        // A tokenizer is optional.
        let token = tokenizer.as_ref().filter(|t| t.contains(id));
        let token = token.map(|t| t.decode(&[id], true));
        let token = token
            .map(|token| format!("  {token:?}"))
            .unwrap_or_default();
        ui.line(&format!("{id:>7}  {logit:>10.5}{token}"))?;
    }
    Ok(loaded.keep_weights(ui)?)
}
