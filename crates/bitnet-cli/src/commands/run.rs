//! `bitnet run`

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Context;
use bitnet_inference::{
    Event, FinishReason, GenerateOptions, Generation, SamplerOptions, TextStream, generate,
};
use serde::Serialize;

use super::read_text;
use crate::error::{Interrupted, UsageError};
use crate::interrupt;
use crate::model::RunModelArgs;
use crate::ui::Ui;

/// Continue a prompt
///
/// Prints the prompt and its continuation as it is written; --json prints both
/// apart, with timings, at the end. The same seed gives the same text on every
/// machine and with any number of threads.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bitnet run \"Once upon a time\"
  bitnet run -m ggml-model-i2_s.gguf -n 200 \"The capital of France is\"
  bitnet run --temp 0 --json \"Once upon a time\"      greedy, for machines
  bitnet run --seed 7 -f prompt.txt")]
pub struct Args {
    /// What to continue; `-` reads stdin
    prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    #[command(flatten)]
    model: RunModelArgs,
    /// The most tokens to write
    #[arg(short = 'n', long, value_name = "TOKENS", default_value_t = 128)]
    max_tokens: usize,
    /// Tokens that prompt and text may have together [default: what the model was made for, at most 4096]
    #[arg(short, long, value_name = "TOKENS")]
    context: Option<usize>,
    /// Temperature; 0 always takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.7)]
    temp: f32,
    /// Choose among the K most likely tokens; 0 means all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Choose among the most likely tokens that reach probability P together
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    top_p: f32,
    /// Leave out tokens less than P times as likely as the most likely one
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f32,
    /// Make tokens that occurred less likely; 1 changes nothing [default: 1.15, with --temp 0: 1]
    #[arg(long, value_name = "R")]
    repeat_penalty: Option<f32>,
    /// Where the random numbers begin [default: another one each time]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    prompt_ids: &'a [u32],
    ids: &'a [u32],
    text: &'a str,
    finish_reason: &'static str,
    seed: u64,
    timings: Timings,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the keys name their units")]
struct Timings {
    load_s: f64,
    prefill_s: f64,
    decode_s: f64,
    prefill_tok_s: f64,
    decode_tok_s: f64,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let prompt = args.prompt()?;
    let seed = args.seed.unwrap_or_else(random_seed);
    let sampling = args.sampling(seed);
    sampling.check()?;
    let checkpoint = args.model.model.open(ui)?;
    let tokenizer = args.model.model.tokenizer(&checkpoint)?;
    if prompt.is_empty() {
        // BOS alone is a prompt to the library, but hardly to a user.
        return Err(bitnet_inference::GenerateError::EmptyPrompt.into());
    }
    let prompt_ids = tokenizer.encode(&prompt)?;
    let mut loaded = args.model.load(&checkpoint, args.context, ui)?;
    ui.detail(&format!("seed {seed}, {} prompt tokens", prompt_ids.len()));

    let options = GenerateOptions {
        prompt: &prompt_ids,
        max_tokens: args.max_tokens,
        sampling,
    };
    let mut printer = Printer {
        ui,
        shown: !args.json,
        progress: Some(ui.progress("reading the prompt")),
        stream: tokenizer.stream(),
        text: String::new(),
        error: None,
    };
    let generation = generate(
        &mut loaded.engine,
        &options,
        |id| tokenizer.is_eos(id),
        |event| printer.on_event(&prompt, event),
    )
    .context("failed to generate")?;
    let text = printer.finish()?;

    let timings = Timings::new(
        loaded.load_time.as_secs_f64(),
        prompt_ids.len(),
        &generation,
    );
    if args.json {
        ui.json(&Report {
            prompt_ids: &prompt_ids,
            ids: &generation.ids,
            text: &text,
            finish_reason: generation.finish_reason.name(),
            seed,
            timings,
        })?;
    } else {
        ui.line("")?;
        ui.note(&format!(
            "[{} prompt tokens at {:.0} tok/s, {} written at {:.0} tok/s, load {:.2} s]",
            prompt_ids.len(),
            timings.prefill_tok_s,
            generation.ids.len(),
            timings.decode_tok_s,
            timings.load_s,
        ));
    }
    if generation.finish_reason == FinishReason::Stop && interrupt::requested() {
        return Err(Interrupted.into());
    }
    Ok(())
}

impl Args {
    fn prompt(&self) -> anyhow::Result<String> {
        match (&self.prompt, &self.file) {
            (Some(prompt), _) if prompt != "-" => Ok(prompt.clone()),
            (_, Some(file)) => read_text(file),
            (None, None) if std::io::stdin().is_terminal() => {
                let message = "there is no prompt; try: bitnet run \"Once upon a time\"";
                Err(UsageError(message.to_owned()).into())
            }
            _ => read_text("-".as_ref()),
        }
    }

    fn sampling(&self, seed: u64) -> SamplerOptions {
        SamplerOptions {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: match self.repeat_penalty {
                Some(penalty) => penalty,
                None if self.temp == 0.0 => 1.0,
                None => 1.15,
            },
            seed,
        }
    }
}

/// Shows text as it comes, and keeps it.
struct Printer<'a> {
    ui: &'a Ui,
    shown: bool,
    progress: Option<crate::ui::Progress>,
    stream: TextStream<'a>,
    text: String,
    error: Option<anyhow::Error>,
}

impl Printer<'_> {
    fn on_event(&mut self, prompt: &str, event: Event) -> ControlFlow<()> {
        match event {
            Event::Prefill { done, total } => {
                if let Some(progress) = &mut self.progress {
                    progress.set(done, total);
                }
                if done == total {
                    // The bar goes before the text comes.
                    self.progress = None;
                    self.print(prompt)?;
                }
            }
            Event::Token(id) => match self.stream.push(id) {
                Ok(text) => {
                    self.text += &text;
                    self.print(&text)?;
                }
                Err(error) => {
                    self.error = Some(error.into());
                    return ControlFlow::Break(());
                }
            },
        }
        interrupt::poll()
    }

    fn print(&mut self, text: &str) -> ControlFlow<()> {
        if self.shown
            && let Err(error) = self.ui.stream(text)
        {
            self.error = Some(error.into());
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// Prints what waited for the rest of a character and returns the text.
    fn finish(mut self) -> anyhow::Result<String> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let rest = self.stream.finish()?;
        if self.shown {
            self.ui.stream(&rest)?;
        }
        self.text += &rest;
        Ok(self.text)
    }
}

impl Timings {
    fn new(load_s: f64, n_prompt: usize, generation: &Generation) -> Self {
        let prefill_s = generation.prefill.as_secs_f64();
        let decode_s = generation.decode.as_secs_f64();
        let rate = |n: usize, seconds: f64| if n == 0 { 0.0 } else { n as f64 / seconds };
        Self {
            load_s,
            prefill_s,
            decode_s,
            prefill_tok_s: rate(n_prompt, prefill_s),
            decode_tok_s: rate(generation.decode_steps, decode_s),
        }
    }
}

/// Returns a number that differs from run to run.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // Keyed by the system's randomness; 32 bits are easier to type again.
    RandomState::new().hash_one(0) >> 32
}
