//! `bitnet run`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use bitnet_inference::{
    FinishReason, GenerateOptions, Grammar, Receipt, ReceiptEngine, ReceiptRequest, generate_within,
};

use super::generation::{
    GenerateArgs, Printer, Report, Timings, constraint, parse_count_or_all, show_drafts,
    show_skipped,
};
use super::remote::{self, RemoteModel, UrlArg};
use super::text_input;
use super::verify::hash_weights;
use crate::client::ServerUrl;
use crate::error::{Interrupted, UsageError};
use crate::input::read_text;
use crate::interrupt;
use crate::model::RunModelArgs;
use crate::new_file::NewFile;
use crate::ui::Ui;

/// Continue a prompt
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A trailing newline of a file or stdin is removed. A seed, which --json and
--verbose show, gives the same text everywhere. Models may have other defaults.

Examples:
  bitnet run \"Once upon a time\"
  bitnet run -m ggml-model-i2_s.gguf -n 200 \"The capital of France is\"
  bitnet run --url http://127.0.0.1:8080 --seed 7 -f prompt.txt")]
pub struct Args {
    /// The prompt; `-`, or none in a pipe, reads stdin
    prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    #[command(flatten)]
    model: RunModelArgs,
    #[command(flatten)]
    remote: UrlArg,
    /// Maximum tokens to write; -1: no limit
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        default_value = "128",
        value_parser = parse_count_or_all,
        allow_negative_numbers = true
    )]
    max_tokens: usize,
    #[command(flatten)]
    generate: GenerateArgs,
    /// JSON schema that the text follows
    #[arg(long, value_name = "FILE")]
    json_schema: Option<PathBuf>,
    /// Write what the text came from, for `bitnet verify`
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
    /// Print one JSON document at the end
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let prompt = args.prompt()?;
    args.generate.validate()?;
    if prompt.is_empty() {
        // The library accepts BOS alone as a prompt; for a user it is a mistake.
        return Err(bitnet_inference::GenerateError::EmptyPrompt.into());
    }
    match &args.remote.url {
        Some(url) => run_on_server(args, &prompt, url, ui),
        None => run_here(args, &prompt, ui),
    }
}

/// Continues the prompt on this machine.
fn run_here(args: &Args, prompt: &str, ui: &Ui) -> anyhow::Result<()> {
    let checkpoint = args.model.model.open(ui)?;
    let tokenizer = args.model.model.tokenizer(&checkpoint, ui)?;
    let prompt_ids = tokenizer.encode(prompt)?;
    let tokenizer = Arc::new(tokenizer);
    let vocab_size = checkpoint.config().vocab_size;
    let grammar = args.grammar()?;
    let constraint = match &grammar {
        Some(grammar) => Some(
            constraint(grammar, &tokenizer, vocab_size)
                .map_err(|error| UsageError(format!("--json-schema: {error}")))?,
        ),
        None => None,
    };
    let mut receipt = args.receipt.as_deref().map(NewFile::create).transpose()?;
    let head = args.model.compute.head.for_largest();
    let mut model = args.model.clone();
    if receipt.is_some() {
        let why = "what a GPU computes is not the same on other machines";
        model.compute = model.compute.on_cpu("--receipt", why)?;
    }
    let mut loaded = model.load(&checkpoint, args.generate.context, head, ui)?;
    let sampling = args.generate.sampling(&checkpoint, ui);
    let (seed, stops) = (sampling.seed, args.generate.stops()?);
    ui.detail(&format!("seed {seed}, {} prompt tokens", prompt_ids.len()));

    let options = GenerateOptions {
        prompt: &prompt_ids,
        max_tokens: args.max_tokens,
        sampling,
        logit_bias: &[],
        reuse: 0,
        speculate: args.generate.speculation.is_on(),
    };
    let stream = tokenizer.stream(&prompt_ids);
    let mut printer = Printer::new(ui, !args.json, prompt, stream, &stops);
    interrupt::defer();
    let generation = generate_within(
        &mut loaded.engine,
        &options,
        constraint,
        |id| tokenizer.is_eog(id),
        |event| printer.on_event(event),
    )
    .context("failed to generate")?;
    let written = printer.finish(&generation)?;

    if let Some(file) = &mut receipt {
        let request = ReceiptRequest {
            prompt: prompt_ids.clone(),
            sampling,
            logit_bias: Vec::new(),
            grammar,
        };
        let (ids, end) = (generation.ids.clone(), generation.finish_reason);
        let engine = ReceiptEngine::of(&loaded.engine).expect("it is on the CPU");
        let receipt = Receipt::new(engine, request, ids, end);
        let receipt = receipt.with_weights(hash_weights(&checkpoint, ui)?);
        file.write(&receipt.to_json())?;
    }
    let timings = Timings::new(loaded.load_time, prompt_ids.len(), &generation);
    if args.json {
        ui.json(&Report {
            prompt_ids: &prompt_ids,
            ids: written.ids,
            text: &written.text,
            finish_reason: written.finish_reason.name(),
            seed,
            timings,
        })?;
    } else {
        ui.line("")?;
    }
    loaded.show_memory(ui);
    show_skipped(&loaded.engine, ui);
    show_drafts(&generation, ui);
    if generation.finish_reason == FinishReason::Stop && interrupt::requested() {
        return Err(Interrupted.into());
    }
    if !args.json {
        ui.note(&format!(
            "[{} prompt tokens at {:.0} tok/s, {} generated at {:.0} tok/s, load {:.2} s]",
            prompt_ids.len(),
            timings.prefill_tok_s,
            generation.ids.len(),
            timings.decode_tok_s,
            timings.load_s,
        ));
    }
    Ok(loaded.keep_weights(ui)?)
}

/// Lets a server continue the prompt.
fn run_on_server(args: &Args, prompt: &str, url: &ServerUrl, ui: &Ui) -> anyhow::Result<()> {
    let grammar = args.grammar()?;
    let mut receipt = args.receipt.as_deref().map(NewFile::create).transpose()?;
    let model = RemoteModel::open(url, &args.model.model)?;
    let mut request = model.request(&args.generate, args.generate.sampling.seed());
    request["prompt"] = prompt.into();
    // Without it, the API says 16.
    request["max_tokens"] = args.max_tokens.min(i32::MAX as usize).into();
    if let Some(Grammar::JsonSchema(schema)) = grammar {
        request["response_format"] = remote::response_format(&schema);
    }
    if receipt.is_some() {
        request["receipt"] = true.into();
    }
    interrupt::defer();
    let mut printer = remote::Printer::new(ui, !args.json, prompt);
    let start = Instant::now();
    let text = model
        .server
        .stream("/completions", &request, |piece| printer.write(piece));
    let time = start.elapsed();
    printer.finish(text.is_ok())?;
    let text = text?;
    if let Some(file) = &mut receipt {
        file.write(&remote::receipt(&text, url)?)?;
    }
    if args.json {
        ui.json(&remote::report(&model, &text))?;
    }
    if let Some(seed) = text.seed {
        ui.detail(&format!("seed {seed}"));
    }
    if text.finish_reason.is_none() {
        return Err(Interrupted.into());
    }
    if !args.json {
        ui.note(&format!("[{}]", remote::timings(&text, time)));
    }
    Ok(())
}

impl Args {
    /// Returns the grammar of `--json-schema`.
    fn grammar(&self) -> anyhow::Result<Option<Grammar>> {
        let Some(file) = &self.json_schema else {
            return Ok(None);
        };
        let schema = serde_json::from_str(&read_text(file)?).map_err(|error| {
            UsageError(format!(
                "--json-schema: {} is not JSON: {error}",
                file.display()
            ))
        })?;
        Ok(Some(Grammar::JsonSchema(schema)))
    }

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
            // `echo` and editors append a newline that is not part of the prompt.
            prompt.pop();
            if prompt.ends_with('\r') {
                prompt.pop();
            }
        }
        Ok(prompt)
    }
}
