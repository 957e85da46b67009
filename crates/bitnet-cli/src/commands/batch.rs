//! `bitnet batch`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitnet_server::{BatchProgress, MemoryTaken, run_batch};

use super::served_model::ServedModelArgs;
use crate::error::Interrupted;
use crate::interrupt;
use crate::model::ModelArg;
use crate::ui::Ui;

/// Answer a file of requests, as OpenAI's batch API does
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A line of IN is {\"custom_id\": …, \"method\": \"POST\", \"url\": …, \"body\": {…}}, where
url is /v1/chat/completions, /v1/completions or /v1/embeddings. OUT has one line per
request, in the same order; what is wrong with a request is said there. Interrupted or
killed, the same command goes on, and ends with the same bytes: requests without a
seed have that of --seed, or else 0, and all have the time of IN's last change.

Example:
  bitnet batch requests.jsonl answers.jsonl -m model.gguf --parallel 16")]
pub struct Args {
    /// The requests
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The answers
    #[arg(value_name = "OUT")]
    output: PathBuf,
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    served: ServedModelArgs,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    args.served.validate()?;
    let checkpoint = Arc::new(args.model.open(ui)?);
    let options = args.served.options();
    let (name, others) = (args.served.name_of(&args.model), MemoryTaken::default());
    let model = (args.served).load(&name, &args.model, &checkpoint, others, ui)?;
    let mut bar = ui.progress("answering");
    interrupt::defer();
    let start = Instant::now();
    let files = [args.input.as_path(), args.output.as_path()];
    let on_progress = |progress: BatchProgress| {
        let new = progress.n_done - progress.n_before;
        bar.set(new, progress.n_requests - progress.n_before);
    };
    let ended = run_batch(model, options, files, on_progress, interrupt::requested)?;
    drop(bar);
    ui.note(&summary(&ended, start.elapsed()));
    if ended.n_done < ended.n_requests {
        let left = ended.n_requests - ended.n_done;
        ui.note(&format!(
            "interrupted; the same command answers the {left} left"
        ));
        return Err(Interrupted.into());
    }
    Ok(())
}

/// Returns what was done.
fn summary(ended: &BatchProgress, took: Duration) -> String {
    let new = ended.n_done - ended.n_before;
    let before = match ended.n_before {
        0 => String::new(),
        n => format!(" after {n} that were there"),
    };
    let seconds = took.as_secs_f64();
    format!(
        "{new} answers{before}, {} of them errors; {} prompt and {} generated tokens in {seconds:.1} s \
         ({:.1} generated tok/s)",
        ended.n_errors,
        ended.n_prompt_tokens,
        ended.n_generated_tokens,
        ended.n_generated_tokens as f64 / seconds.max(1e-9),
    )
}
