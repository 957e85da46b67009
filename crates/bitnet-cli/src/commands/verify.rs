//! `bitnet verify`

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use bitnet_inference::{Checkpoint, Receipt, Verdict, content_hash};
use serde::Serialize;

use super::generation::constraint;
use crate::device::DeviceArg;
use crate::error::{Interrupted, Unverified};
use crate::interrupt;
use crate::memory::parse_bytes;
use crate::model::{ComputeArgs, HeadArg, ModelArg, RunModelArgs, ThreadsArg, WeightBitsArg};
use crate::ui::Ui;
use crate::weight_cache::WeightCacheArg;

/// Compute the text of a receipt again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
`bitnet run --receipt FILE` writes a receipt: a hash of the weights, the prompt, the
sampling parameters and the tokens; `bitnet serve` gives one to a request with
\"receipt\": true. The same weights give the same tokens on every machine, in every
file format. Exit code 0 means that they do; 1 that they differ, or that the weights
are others.

Examples:
  bitnet run --receipt story.json \"Once upon a time\"
  bitnet verify story.json")]
pub struct Args {
    /// The receipt
    receipt: PathBuf,
    #[command(flatten)]
    model: ModelArg,
    /// Threads [default: as many as the system offers]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    threads: Option<usize>,
    /// CPU kernel, such as avx2 [default: the best]
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// Maximum memory use, such as 1.2GiB
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    memory_limit: Option<usize>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The document of `--json`.
#[derive(Debug, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
enum Report {
    Equal {
        tokens: usize,
    },
    Different {
        index: usize,
        receipt: Option<u32>,
        computed: Option<u32>,
    },
    NotComparable {
        receipt_weights: String,
        weights: String,
    },
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let name = args.receipt.display();
    let json = std::fs::read(&args.receipt).with_context(|| format!("failed to read {name}"))?;
    let receipt = Receipt::from_json(&json).with_context(|| name.to_string())?;
    let checkpoint = args.model.open(ui)?;
    let weights = hash_weights(&checkpoint, ui)?;
    let report = if weights == receipt.weights {
        args.compute(&receipt, &checkpoint, ui)?
    } else {
        Report::NotComparable {
            receipt_weights: receipt.weights,
            weights,
        }
    };
    if args.json {
        ui.json(&report)?;
    } else {
        ui.line(&report.words())?;
    }
    match report {
        Report::Equal { .. } => Ok(()),
        _ => Err(Unverified.into()),
    }
}

/// Returns the hash of the weights, with progress.
pub fn hash_weights(checkpoint: &Checkpoint, ui: &Ui) -> anyhow::Result<String> {
    let mut progress = ui.progress("reading weights");
    let hash = content_hash(checkpoint, |done, total| {
        progress.set(done, total);
        interrupt::poll()
    });
    hash.ok_or_else(|| Interrupted.into())
}

impl Args {
    /// Computes the text again, as it was computed before.
    fn compute(
        &self,
        receipt: &Receipt,
        checkpoint: &Checkpoint,
        ui: &Ui,
    ) -> anyhow::Result<Report> {
        let tokenizer = Arc::new(self.model.tokenizer(checkpoint, ui)?);
        let vocab_size = checkpoint.config().vocab_size;
        let constraint = receipt
            .grammar
            .as_ref()
            .map(|grammar| constraint(grammar, &tokenizer, vocab_size))
            .transpose()
            .context("the grammar of the receipt")?;
        let model = RunModelArgs {
            model: self.model.clone(),
            threads: ThreadsArg {
                threads: self.threads,
            },
            compute: ComputeArgs {
                device: DeviceArg::CPU,
                kernel: self.kernel.clone(),
                pin: false,
                weight_bits: WeightBitsArg::Auto,
                // The receipt says which; that of the head is an argument of `load`.
                head: HeadArg::Int8,
                kv: receipt.kv_precision().into(),
                memory_limit: self.memory_limit,
                gpu_memory_limit: None,
            },
            cache: WeightCacheArg { no_cache: true },
        };
        let mut loaded = model.load(checkpoint, Some(receipt.context), receipt.head(), ui)?;
        let mut progress = ui.progress("verifying");
        interrupt::defer();
        let verdict = receipt.verify(
            &mut loaded.engine,
            constraint,
            |id| tokenizer.is_eog(id),
            |n_equal| {
                progress.set(n_equal, receipt.ids.len());
                interrupt::poll()
            },
        )?;
        Ok(match verdict.ok_or(Interrupted)? {
            Verdict::Equal => Report::Equal {
                tokens: receipt.ids.len(),
            },
            Verdict::Different {
                index,
                receipt,
                computed,
            } => Report::Different {
                index,
                receipt,
                computed,
            },
        })
    }
}

impl Report {
    fn words(&self) -> String {
        let token = |id: &Option<u32>| id.map_or("the end".to_owned(), |id| format!("token {id}"));
        match self {
            Self::Equal { tokens } => format!("equal: all {tokens} tokens are the same"),
            Self::Different {
                index,
                receipt,
                computed,
            } => format!(
                "different: at index {index} of the text, the receipt has {}, but {} was computed",
                token(receipt),
                token(computed)
            ),
            Self::NotComparable {
                receipt_weights,
                weights,
            } => format!(
                "not comparable: the receipt is of weights with the hash {receipt_weights}, those \
                 of this model have {weights}"
            ),
        }
    }
}
