//! `bitnet run`

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Context;
use bitnet_inference::{
    Event, FinishReason, GenerateOptions, Generation, SamplerOptions, TextStream, generate,
};
use serde::Serialize;

use super::text_input;
use crate::error::{Interrupted, UsageError};
use crate::interrupt;
use crate::model::RunModelArgs;
use crate::ui::Ui;

/// Continue a prompt
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints the prompt and its continuation as it is written. A line end at the end
of a file or of stdin is left out. The same seed gives the same text on every
machine and with any number of threads; --json and --verbose show the seed.

Examples:
  bitnet run \"Once upon a time\"
  bitnet run -m ggml-model-i2_s.gguf -n 200 \"The capital of France is\"
  bitnet run --temp 0 --json \"Once upon a time\"
  bitnet run --seed 7 -f prompt.txt")]
pub struct Args {
    /// What to continue; `-`, or nothing in a pipe, reads stdin
    prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    #[command(flatten)]
    model: RunModelArgs,
    /// The most tokens to write
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        default_value_t = 128,
        allow_negative_numbers = true
    )]
    max_tokens: usize,
    /// Room for prompt and text [default: the model's limit, up to 4096]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    context: Option<usize>,
    /// Randomness; 0 means the likeliest
    #[arg(
        long,
        value_name = "T",
        default_value_t = 0.7,
        help_heading = "Choice of tokens",
        allow_negative_numbers = true
    )]
    temp: f32,
    /// Choose among the K likeliest, 0 for all
    #[arg(
        long,
        value_name = "K",
        default_value_t = 0,
        help_heading = "Choice of tokens",
        allow_negative_numbers = true
    )]
    top_k: usize,
    /// Choose among the likeliest that together have probability P
    #[arg(
        long,
        value_name = "P",
        default_value_t = 0.95,
        help_heading = "Choice of tokens",
        allow_negative_numbers = true
    )]
    top_p: f32,
    /// Leave out what is less than P times as likely as the likeliest
    #[arg(
        long,
        value_name = "P",
        default_value_t = 0.0,
        help_heading = "Choice of tokens",
        allow_negative_numbers = true
    )]
    min_p: f32,
    /// Make recent tokens less likely; 1 changes nothing [default: 1.15, with --temp 0: 1]
    #[arg(
        long,
        value_name = "R",
        help_heading = "Choice of tokens",
        allow_negative_numbers = true
    )]
    repeat_penalty: Option<f32>,
    /// Where random numbers begin [default: anywhere]
    #[arg(
        long,
        value_name = "S",
        help_heading = "Choice of tokens",
        allow_negative_numbers = true
    )]
    seed: Option<u64>,
    /// Print one JSON document at the end
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
    let head = args.model.compute.head.for_largest();
    let mut loaded = (args.model).load(&checkpoint, args.context, head, ui)?;
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
        prompt: Some(&prompt),
        stream: tokenizer.stream(&prompt_ids)?,
        text: String::new(),
        error: None,
    };
    interrupt::defer();
    let generation = generate(
        &mut loaded.engine,
        &options,
        |id| tokenizer.is_eos(id),
        |event| printer.on_event(event),
    )
    .context("failed to generate")?;
    let text = printer.finish()?;
    loaded.show_kv_usage(ui);

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
    }
    if generation.finish_reason == FinishReason::Stop && interrupt::requested() {
        return Err(Interrupted.into());
    }
    if !args.json {
        ui.note(&format!(
            "[{} prompt tokens at {:.0} tok/s, {} written at {:.0} tok/s, load {:.2} s]",
            prompt_ids.len(),
            timings.prefill_tok_s,
            generation.ids.len(),
            timings.decode_tok_s,
            timings.load_s,
        ));
    }
    Ok(())
}

impl Args {
    fn prompt(&self) -> anyhow::Result<String> {
        let is_model = |prompt: &&String| {
            let path = Path::new(prompt);
            path.extension()
                .is_some_and(|extension| extension == "gguf")
                && path.is_file()
        };
        if let Some(file) = self.prompt.as_ref().filter(is_model) {
            let message = format!("the prompt is a model, expected `-m {file}` and a prompt");
            return Err(UsageError(message).into());
        }
        let mut prompt = text_input("prompt", self.prompt.as_deref(), self.file.as_deref())?;
        if self.prompt.as_deref().is_none_or(|prompt| prompt == "-") && prompt.ends_with('\n') {
            // What `echo` and editors put there is hardly part of the prompt.
            prompt.pop();
            if prompt.ends_with('\r') {
                prompt.pop();
            }
        }
        Ok(prompt)
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
    /// Until it is printed.
    prompt: Option<&'a str>,
    stream: TextStream<'a>,
    text: String,
    error: Option<anyhow::Error>,
}

impl Printer<'_> {
    fn on_event(&mut self, event: Event) -> ControlFlow<()> {
        match event {
            Event::Prefill { done, total } => {
                if let Some(progress) = &mut self.progress {
                    progress.set(done, total);
                }
                if done == total {
                    self.begin()?;
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

    /// Prints the prompt, once.
    fn begin(&mut self) -> ControlFlow<()> {
        // The bar goes before the text comes.
        self.progress = None;
        match self.prompt.take() {
            Some(prompt) => self.print(prompt),
            None => ControlFlow::Continue(()),
        }
    }

    fn print(&mut self, text: &str) -> ControlFlow<()> {
        if self.shown
            && let Err(error) = self.ui.stream(text)
        {
            self.error = Some(error);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// Prints what waited for the rest of a character and returns the text.
    fn finish(mut self) -> anyhow::Result<String> {
        // Not yet done where not a single token was asked for; an error is kept.
        let _ = self.begin();
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
        let rate = |n: usize, seconds: f64| match seconds {
            0.0 => 0.0,
            _ => n as f64 / seconds,
        };
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
