//! Text as it is written: what `run` and `chat` share.

use std::ops::ControlFlow;
use std::time::Duration;

use bitnet_inference::{Event, Generation, SamplerOptions, TextStream};
use serde::Serialize;

use crate::interrupt;
use crate::ui::{Progress, Ui};

/// How text is written.
#[derive(Clone, Debug, clap::Args)]
pub struct GenerateArgs {
    /// Room for prompt and text [default: the model's limit, up to 4096]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    pub context: Option<usize>,
    /// Randomness; 0 means the likeliest
    #[arg(
        long,
        value_name = "T",
        default_value_t = 0.7,
        help_heading = "Choice of tokens",
        allow_negative_numbers = true
    )]
    pub temp: f32,
    /// Choose among the K likeliest, 0 for all
    #[arg(
        long,
        value_name = "K",
        default_value_t = 0,
        help_heading = "Choice of tokens",
        allow_negative_numbers = true
    )]
    pub top_k: usize,
    /// Choose among the likeliest that together have probability P
    #[arg(
        long,
        value_name = "P",
        default_value_t = 0.95,
        help_heading = "Choice of tokens",
        allow_negative_numbers = true
    )]
    pub top_p: f32,
    /// Leave out what is less than P times as likely as the likeliest
    #[arg(
        long,
        value_name = "P",
        default_value_t = 0.0,
        help_heading = "Choice of tokens",
        allow_negative_numbers = true
    )]
    pub min_p: f32,
    /// Make recent tokens less likely; 1 changes nothing [default: 1.15, with --temp 0: 1]
    #[arg(
        long,
        value_name = "R",
        help_heading = "Choice of tokens",
        allow_negative_numbers = true
    )]
    pub repeat_penalty: Option<f32>,
    /// Where random numbers begin [default: anywhere]
    #[arg(
        long,
        value_name = "S",
        help_heading = "Choice of tokens",
        allow_negative_numbers = true
    )]
    pub seed: Option<u64>,
}

impl GenerateArgs {
    /// Returns how tokens are chosen, with a seed.
    pub fn sampling(&self) -> SamplerOptions {
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
            seed: self.seed.unwrap_or_else(random_seed),
            ..SamplerOptions::GREEDY
        }
    }
}

/// The document of `--json`.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    pub prompt_ids: &'a [u32],
    pub ids: &'a [u32],
    pub text: &'a str,
    pub finish_reason: &'static str,
    pub seed: u64,
    pub timings: Timings,
}

/// How long it took, and how fast that is.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the keys name their units")]
pub struct Timings {
    pub load_s: f64,
    pub prefill_s: f64,
    pub decode_s: f64,
    pub prefill_tok_s: f64,
    pub decode_tok_s: f64,
}

/// Shows text as it comes, and keeps it.
pub struct Printer<'a> {
    ui: &'a Ui,
    shown: bool,
    progress: Option<Progress>,
    /// What is printed before the text, until it is.
    before: Option<&'a str>,
    stream: TextStream<'a>,
    text: String,
    error: Option<anyhow::Error>,
}

impl<'a> Printer<'a> {
    /// Makes a printer that shows `before` when the prompt has been read, and the
    /// text of `stream` as it comes, if it is `shown`.
    pub fn new(ui: &'a Ui, shown: bool, before: &'a str, stream: TextStream<'a>) -> Self {
        Self {
            ui,
            shown,
            progress: Some(ui.progress("reading the prompt")),
            before: Some(before),
            stream,
            text: String::new(),
            error: None,
        }
    }

    /// Takes what happens while text is generated.
    pub fn on_event(&mut self, event: Event) -> ControlFlow<()> {
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

    /// Prints what comes before the text, once.
    fn begin(&mut self) -> ControlFlow<()> {
        // The bar goes before the text comes.
        self.progress = None;
        match self.before.take() {
            Some(before) => self.print(before),
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
    pub fn finish(mut self) -> anyhow::Result<String> {
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
    /// Takes the time to load, the length of the prompt, and the rest.
    pub fn new(load: Duration, n_prompt: usize, generation: &Generation) -> Self {
        let prefill_s = generation.prefill.as_secs_f64();
        let decode_s = generation.decode.as_secs_f64();
        let rate = |n: usize, seconds: f64| match seconds {
            0.0 => 0.0,
            _ => n as f64 / seconds,
        };
        Self {
            load_s: load.as_secs_f64(),
            prefill_s,
            decode_s,
            prefill_tok_s: rate(n_prompt - generation.reused, prefill_s),
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
