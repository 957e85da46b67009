//! Text generation: the part shared by `run` and `chat`.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bitnet_inference::{
    Checkpoint, Constraint, EmptyStopError, Engine, Event, FinishReason, Generation, Grammar,
    GrammarCompiler, GrammarError, MIN_TEMPERATURE, SamplerError, SamplerOptions, SamplingDefaults,
    Share, Skipped, StopMatcher, StopSequences, TextStream, Tokenizer,
};
use clap::ValueEnum;
use indicatif::HumanBytes;
use serde::Serialize;

use crate::interrupt;
use crate::ui::{Progress, Ui};

/// Arguments of text generation.
#[derive(Clone, Debug, clap::Args)]
pub struct GenerateArgs {
    /// Context length [default: model's, up to 4096]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    pub context: Option<usize>,
    /// Stop sequence; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub stop: Vec<String>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub speculation: SpeculationArgs,
}

/// Whether tokens are drafted.
#[derive(Clone, Debug, clap::Args)]
pub struct SpeculationArgs {
    /// Draft tokens where a text repeats
    #[arg(
        long,
        value_enum,
        value_name = "on|off",
        default_value = "on",
        hide_possible_values = true
    )]
    speculate: Switch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

impl SpeculationArgs {
    /// Returns whether tokens are drafted.
    pub fn is_on(&self) -> bool {
        self.speculate == Switch::On
    }
}

/// Arguments of sampling.
#[derive(Clone, Debug, clap::Args)]
pub struct SamplingArgs {
    /// Temperature; 0 is greedy [default: 0.7]
    #[arg(
        long,
        value_name = "T",
        help_heading = "Sampling",
        allow_negative_numbers = true
    )]
    pub temp: Option<f32>,
    /// Keep the K most likely; -1: all [default: -1]
    #[arg(
        long,
        value_name = "K",
        value_parser = parse_top_k,
        help_heading = "Sampling",
        allow_negative_numbers = true
    )]
    pub top_k: Option<usize>,
    /// Nucleus sampling probability [default: 0.95]
    #[arg(
        long,
        value_name = "P",
        help_heading = "Sampling",
        allow_negative_numbers = true
    )]
    pub top_p: Option<f32>,
    /// Minimum relative probability [default: 0]
    #[arg(
        long,
        value_name = "P",
        help_heading = "Sampling",
        allow_negative_numbers = true
    )]
    pub min_p: Option<f32>,
    /// Penalty of recent tokens [default: 1, off]
    #[arg(
        long,
        value_name = "R",
        help_heading = "Sampling",
        allow_negative_numbers = true
    )]
    pub repeat_penalty: Option<f32>,
    /// Penalty of present tokens [default: 0]
    #[arg(
        long,
        value_name = "R",
        help_heading = "Sampling",
        allow_negative_numbers = true
    )]
    pub presence_penalty: Option<f32>,
    /// Penalty per occurrence [default: 0]
    #[arg(
        long,
        value_name = "R",
        help_heading = "Sampling",
        allow_negative_numbers = true
    )]
    pub frequency_penalty: Option<f32>,
    /// Tokens that penalties look back at; -1 for all [default: 256]
    #[arg(
        long,
        value_name = "N",
        value_parser = parse_count_or_all,
        help_heading = "Sampling",
        allow_negative_numbers = true,
        hide = true
    )]
    pub repeat_last_n: Option<usize>,
    /// Random seed [default: -1, random]
    #[arg(
        long,
        value_name = "S",
        value_parser = parse_seed,
        help_heading = "Sampling",
        allow_negative_numbers = true
    )]
    seed: Option<Seed>,
}

/// `--seed`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seed {
    Any,
    This(u64),
}

fn parse_seed(text: &str) -> Result<Seed, String> {
    match text {
        "-1" => Ok(Seed::Any),
        _ => (text.parse().map(Seed::This))
            .map_err(|_| "expected a number up to 18446744073709551615, or -1 for any".to_owned()),
    }
}

/// Returns the constraint of a grammar.
pub fn constraint(
    grammar: &Grammar,
    tokenizer: &Arc<Tokenizer>,
    vocab_size: usize,
) -> Result<Box<dyn Constraint>, GrammarError> {
    let compiler = GrammarCompiler::new(Arc::clone(tokenizer), vocab_size)?;
    Ok(compiler.compile(grammar)?.constraint())
}

/// Parses a number of tokens, where -1 means no limit.
pub fn parse_count_or_all(text: &str) -> Result<usize, String> {
    match text {
        "-1" => Ok(usize::MAX),
        _ => (text.parse()).map_err(|_| "expected a number of tokens, or -1 for all".to_owned()),
    }
}

/// Parses `--top-k`; "all" is 0 in the library.
fn parse_top_k(text: &str) -> Result<usize, String> {
    parse_count_or_all(text).map(|k| if k == usize::MAX { 0 } else { k })
}

impl GenerateArgs {
    /// Validates the arguments as far as possible without a model.
    pub fn validate(&self) -> anyhow::Result<()> {
        self.sampling.validate()?;
        self.stops()?;
        Ok(())
    }

    /// Returns the stop sequences.
    pub fn stops(&self) -> Result<StopSequences, EmptyStopError> {
        StopSequences::new(&self.stop)
    }

    /// Returns the sampling parameters with a seed: from the arguments, or those that
    /// the model recommends. Prints them if verbose.
    pub fn sampling(&self, checkpoint: &Checkpoint, ui: &Ui) -> SamplerOptions {
        SamplerOptions {
            seed: self.sampling.seed().unwrap_or_else(random_seed),
            ..self.sampling.options(checkpoint, ui)
        }
    }
}

impl SamplingArgs {
    /// Validates the arguments as far as possible without a model.
    pub fn validate(&self) -> Result<(), SamplerError> {
        self.with_defaults_of(&SamplingDefaults::default())
            .validate()
    }

    /// Returns the seed, unless any will do.
    pub fn seed(&self) -> Option<u64> {
        match self.seed {
            Some(Seed::This(seed)) => Some(seed),
            Some(Seed::Any) | None => None,
        }
    }

    /// Returns the sampling parameters without a seed: from the arguments, or those that the
    /// model recommends. Prints them if verbose.
    pub fn options(&self, checkpoint: &Checkpoint, ui: &Ui) -> SamplerOptions {
        let mut model = SamplingDefaults::of_model(checkpoint);
        if self.temp.is_some_and(|temp| temp < MIN_TEMPERATURE) {
            // Greedy decoding was requested, so the model's penalties do not apply.
            model = SamplingDefaults::default();
        }
        for ignored in &model.ignored {
            ui.note(&format!("note: {}: {ignored}; ignored", model.source));
        }
        let options = self.with_defaults_of(&model);
        ui.detail(&self.describe(&options, &model));
        options
    }

    fn with_defaults_of(&self, model: &SamplingDefaults) -> SamplerOptions {
        let default = model.options();
        SamplerOptions {
            temperature: self.temp.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(default.repeat_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(default.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(default.frequency_penalty),
            penalty_window: self.repeat_last_n.unwrap_or(default.penalty_window),
            seed: default.seed,
        }
    }

    /// Returns a description of the sampling parameters in effect, with the origin of
    /// each.
    fn describe(&self, options: &SamplerOptions, model: &SamplingDefaults) -> String {
        let origin = |flag: Option<&str>, recommended: bool| match flag {
            Some(flag) => flag.to_owned(),
            None if recommended => model.source.to_owned(),
            None => "default".to_owned(),
        };
        let mut parts = Vec::new();
        let temperature = origin(self.temp.map(|_| "--temp"), model.temperature.is_some());
        if options.is_greedy() {
            parts.push(format!("greedy ({temperature})"));
        } else {
            parts.push(format!(
                "temperature {} ({temperature})",
                options.temperature
            ));
            if options.top_k != 0 {
                let origin = origin(self.top_k.map(|_| "--top-k"), model.top_k.is_some());
                parts.push(format!("top-k {} ({origin})", options.top_k));
            }
            if options.top_p < 1.0 {
                let origin = origin(self.top_p.map(|_| "--top-p"), model.top_p.is_some());
                parts.push(format!("top-p {} ({origin})", options.top_p));
            }
            if options.min_p > 0.0 {
                let origin = origin(self.min_p.map(|_| "--min-p"), model.min_p.is_some());
                parts.push(format!("min-p {} ({origin})", options.min_p));
            }
        }
        let penalties = [
            (
                "repeat",
                options.repeat_penalty,
                1.0,
                self.repeat_penalty,
                model.repeat_penalty,
            ),
            (
                "presence",
                options.presence_penalty,
                0.0,
                self.presence_penalty,
                None,
            ),
            (
                "frequency",
                options.frequency_penalty,
                0.0,
                self.frequency_penalty,
                None,
            ),
        ];
        let mut penalizes = false;
        for (name, value, neutral, flag, recommended) in penalties {
            if value != neutral {
                let flag_name = format!("--{name}-penalty");
                let origin = origin(flag.map(|_| flag_name.as_str()), recommended.is_some());
                parts.push(format!("{name} penalty {value} ({origin})"));
                penalizes = true;
            }
        }
        if penalizes {
            let flag = self.repeat_last_n.map(|_| "--repeat-last-n");
            let origin = origin(flag, model.penalty_window.is_some());
            parts.push(match options.penalty_window {
                usize::MAX => format!("penalties of all tokens ({origin})"),
                n => format!("penalties of the last {n} tokens ({origin})"),
            });
        } else {
            parts.push("no penalty".to_owned());
        }
        format!("sampling: {}", parts.join(", "))
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

/// Times and rates of a generation.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the keys name their units")]
pub struct Timings {
    pub load_s: f64,
    pub prefill_s: f64,
    pub decode_s: f64,
    pub prefill_tok_s: f64,
    pub decode_tok_s: f64,
}

/// Prints and collects text while it is generated.
pub struct Printer<'a> {
    ui: &'a Ui,
    shown: bool,
    progress: Option<Progress>,
    /// Printed once before the text; `None` afterwards.
    before: Option<&'a str>,
    stream: TextStream<'a>,
    stops: StopMatcher,
    text: String,
    /// Length of the text after each token, in bytes, stop sequences included.
    ends: Vec<usize>,
    error: Option<anyhow::Error>,
}

/// The generated text.
#[derive(Debug)]
pub struct GeneratedText<'a> {
    /// The text up to the stop sequence, if any.
    pub text: String,
    /// The tokens that contribute to the text.
    pub ids: &'a [u32],
    pub finish_reason: FinishReason,
}

impl<'a> Printer<'a> {
    /// Returns a printer that, if `shown`, prints `before` after prefill and then the
    /// text of `stream`, up to the first of the `stops`.
    pub fn new(
        ui: &'a Ui,
        shown: bool,
        before: &'a str,
        stream: TextStream<'a>,
        stops: &StopSequences,
    ) -> Self {
        Self {
            ui,
            shown,
            progress: Some(ui.progress("reading the prompt")),
            before: Some(before),
            stream,
            stops: stops.matcher(),
            text: String::new(),
            ends: Vec::new(),
            error: None,
        }
    }

    /// Handles an event of the generation. Returns `Break` to stop it.
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
            Event::Token(id) => {
                let text = self.stream.push(id);
                self.write(&text)?;
            }
        }
        interrupt::poll()
    }

    /// Prints the text before the generated text, once.
    fn begin(&mut self) -> ControlFlow<()> {
        // Remove the progress bar before the text is printed.
        self.progress = None;
        match self.before.take() {
            Some(before) => self.print(before),
            None => ControlFlow::Continue(()),
        }
    }

    /// Handles the text of the next token. Returns `Break` after a stop sequence.
    fn write(&mut self, text: &str) -> ControlFlow<()> {
        let before = self.ends.last().copied().unwrap_or(0);
        self.ends.push(before + text.len());
        let text = self.stops.push(text);
        self.text += &text;
        self.print(&text)?;
        if self.stops.is_stopped() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn print(&mut self, text: &str) -> ControlFlow<()> {
        if self.shown
            && !text.is_empty()
            && let Err(error) = self.ui.stream(text)
        {
            self.error = Some(error);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// Prints text held back as a partial character or stop sequence, and returns the
    /// text of `generation`.
    ///
    /// # Errors
    ///
    /// Returns an error if stdout cannot be written.
    pub fn finish(mut self, generation: &Generation) -> anyhow::Result<GeneratedText<'_>> {
        // Not done yet if no token was requested; the error is handled below.
        let _ = self.begin();
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut rest = self.stops.push(&self.stream.finish());
        let (held, stop) = self.stops.finish();
        let stopped = stop.is_some();
        rest += &held;
        if self.shown {
            self.ui.stream(&rest)?;
        }
        self.text += &rest;
        let n_bytes = self.text.len();
        let ends = &self.ends[..];
        // Text held back after the last token has no entry in `ends`.
        let n_ids = match ends.iter().position(|&end| end >= n_bytes) {
            _ if n_bytes == 0 && stopped => 0,
            Some(last) if stopped => last + 1,
            _ => generation.ids.len(),
        };
        Ok(GeneratedText {
            text: self.text,
            ids: &generation.ids[..n_ids],
            finish_reason: if stopped {
                FinishReason::Stop
            } else {
                generation.finish_reason
            },
        })
    }
}

/// Reports the weights that were not read, if the model skips any.
pub fn show_skipped(engine: &Engine, ui: &Ui) {
    let skipped = engine.skipped();
    if let (Some(rows), Some(columns)) = (skipped.rows.fraction(), skipped.columns.fraction()) {
        let per_pass = |bytes: usize| HumanBytes(bytes as u64);
        let all = engine.model().bytes_per_token();
        ui.detail(&format!(
            "skipped {:.0} % of the rows of up and {:.0} % of the columns of down, read {} of {} \
             of weights in a pass",
            100.0 * rows,
            100.0 * columns,
            per_pass(all - skipped.bytes / skipped.passes),
            per_pass(all),
        ));
    }
}

/// Reports the same for each layer.
pub fn show_skipped_by_layer(engine: &Engine, ui: &Ui) {
    let layers = engine.skipped_by_layer();
    let percentages = |what: &str, share: fn(&Skipped) -> Share| {
        let fractions = layers.iter().filter_map(|layer| share(layer).fraction());
        let shares: Vec<_> = fractions.map(|f| format!("{:.0}", 100.0 * f)).collect();
        if !shares.is_empty() {
            let shares = shares.join(" ");
            ui.detail(&format!("{what} skipped, in % by layer: {shares}"));
        }
    };
    percentages("rows of up", |skipped| skipped.rows);
    percentages("columns of down", |skipped| skipped.columns);
}

/// Reports what speculation did, if anything.
pub fn show_drafts(generation: &Generation, ui: &Ui) {
    if generation.drafted > 0 {
        let Generation {
            drafted, accepted, ..
        } = generation;
        ui.detail(&format!(
            "{drafted} tokens drafted, {accepted} of them accepted"
        ));
    }
}

impl Timings {
    /// Returns the timings, given the load time and the number of prompt tokens.
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

/// Returns a random seed.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // Keyed by the system's random numbers; 32 bits are easier to retype.
    RandomState::new().hash_one(0) >> 32
}
