//! `bitnet chat`

mod command;
mod transcript;

use std::path::{Path, PathBuf};

use anyhow::Context;
use bitnet_inference::{
    ChatError, ChatPrompt, ChatTemplate, FinishReason, GenerateError, GenerateOptions,
    SamplerOptions, Tokenizer, generate,
};
use clap::ValueEnum;

use self::command::{Command, Line, LineError};
use self::transcript::Transcript;
use super::generation::{GenerateArgs, Printer, Report, Timings, parse_count_or_all, show_drafts};
use crate::error::RefusedLines;
use crate::input::LineReader;
use crate::interrupt;
use crate::model::{ChatTemplateArg, LoadedModel, RunModelArgs};
use crate::ui::Ui;

/// Chat with a model
#[derive(Debug, clap::Args)]
#[command(after_help = after_help())]
pub struct Args {
    #[command(flatten)]
    model: RunModelArgs,
    /// System message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    template: ChatTemplateArg,
    /// When the context is full: drop the oldest turns, or stop
    #[arg(
        long,
        value_enum,
        default_value = "drop",
        value_name = "WHAT",
        hide_possible_values = true
    )]
    on_full: OnFull,
    /// Do not store the input history
    #[arg(long)]
    no_history: bool,
    /// Print the prompt of each answer on stderr
    #[arg(long)]
    show_prompt: bool,
    /// Maximum tokens per answer; -1: no limit
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        default_value = "512",
        value_parser = parse_count_or_all,
        allow_negative_numbers = true
    )]
    max_tokens: usize,
    #[command(flatten)]
    generate: GenerateArgs,
    /// Print one JSON document for each answer
    #[arg(long)]
    json: bool,
}

/// `--on-full`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnFull {
    Drop,
    Stop,
}

fn after_help() -> String {
    format!(
        "\
Every line is a message; one that ends in \\ continues on the next, and several
pasted lines are one. Ctrl-C stops an answer. In a pipe, stdout has only the
answers, and a rejected line makes the exit code 2.
Flags override the sampling parameters that the model's files recommend.

The input history is stored in ~/.local/state/bitnet/history.

Commands:
{}

Examples:
  bitnet chat -m ggml-model-i2_s.gguf
  bitnet chat -m Falcon3-1B-Instruct-1.58bit/ --system \"Answer in one sentence.\"
  echo \"Why is the sky blue?\" | bitnet chat -m model.gguf --chat-template chatml",
        command::list()
    )
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    args.generate.validate()?;
    args.template.options()?;
    let checkpoint = args.model.model.open(ui)?;
    if args.model.model.is_builtin() {
        ui.note(
            "note: it was not trained for conversations; `bitnet run \"Once upon a time\"` is what \
             it can do. For one that was: `bitnet pull microsoft/bitnet-b1.58-2B-4T-gguf`, then \
             `bitnet chat -m microsoft/bitnet-b1.58-2B-4T-gguf`",
        );
    }
    let tokenizer = args.model.model.tokenizer(&checkpoint, ui)?;
    let template = (args.template).resolve(&args.model.model, &checkpoint, &tokenizer, ui)?;
    let head = args.model.compute.head.for_largest();
    let loaded = (args.model).load(&checkpoint, args.generate.context, head, ui)?;
    let sampling = args.generate.sampling(&checkpoint, ui);
    ui.detail(&format!("seed {}", sampling.seed));

    let mut lines = LineReader::new(!args.no_history, ui)?;
    let mut conversation = Conversation {
        args,
        sampling,
        tokenizer: &tokenizer,
        template,
        loaded,
        transcript: Transcript::new(args.system.clone()),
        held: Vec::new(),
        retries: 0,
        timings: None,
        own_file: None,
        is_terminal: lines.is_terminal(),
    };
    if lines.is_terminal() {
        ui.note("/help lists the commands, /exit or Ctrl-D ends it, Ctrl-C stops an answer");
    }
    let mut refused = 0;
    while let Some(line) = lines.next(ui)? {
        if line.trim().is_empty() {
            continue;
        }
        match conversation.take(&line, ui) {
            Ok(Next::Line) => {}
            Ok(Next::End) => break,
            Err(error) if conversation.goes_on_after(&error) => {
                refused += 1;
                ui.error(&format!("{error:#}"));
                if let Some(LineError::Unknown(_)) = error.downcast_ref() {
                    ui.reply(&command::list());
                } else if let Some(hint) = conversation.hint(&error) {
                    ui.hint(hint);
                }
            }
            Err(error) => return Err(error),
        }
    }
    if refused > 0 && !lines.is_terminal() {
        return Err(RefusedLines(refused).into());
    }
    Ok(())
}

/// Whether the chat continues after a line.
enum Next {
    Line,
    End,
}

/// A command that cannot be executed.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("there is no message yet")]
    NothingSaid,
    #[error("{} already exists", .0.display())]
    Exists(PathBuf),
    #[error("{0} is only available in a terminal")]
    OnlyTerminal(&'static str),
    #[error("{0:#}")]
    File(anyhow::Error),
}

/// Returns whether the conversation exceeds the context.
fn is_full(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(GenerateError::PromptTooLong { .. })
    )
}

struct Conversation<'a> {
    args: &'a Args,
    sampling: SamplerOptions,
    tokenizer: &'a Tokenizer,
    template: ChatTemplate,
    loaded: LoadedModel,
    transcript: Transcript,
    /// The tokens in the engine's KV cache.
    held: Vec<u32>,
    /// How often the last answer was regenerated.
    retries: u64,
    /// The timings of the last answer.
    timings: Option<String>,
    /// The file that this conversation was saved to or loaded from.
    own_file: Option<PathBuf>,
    is_terminal: bool,
}

impl Conversation<'_> {
    /// Handles a line of input.
    fn take(&mut self, line: &str, ui: &Ui) -> anyhow::Result<Next> {
        match Line::parse(line)? {
            Line::Message(text) => {
                self.retries = 0;
                self.say(text, ui)?;
            }
            Line::Command(Command::Exit) => return Ok(Next::End),
            Line::Command(command) => self.obey(command, ui)?,
        }
        Ok(Next::Line)
    }

    fn obey(&mut self, command: Command<'_>, ui: &Ui) -> anyhow::Result<()> {
        match command {
            Command::Exit => {}
            Command::Help => ui.reply(&command::list()),
            Command::System(None) => match &self.transcript.system {
                Some(text) => ui.reply(text),
                None => ui.reply("there is no system message"),
            },
            Command::System(Some(text)) => self.transcript.system = Some(text.to_owned()),
            Command::Reset => self.transcript.reset(),
            Command::Retry => {
                let turn = self.transcript.pop().ok_or(Refusal::NothingSaid)?;
                self.retries += 1;
                if let Err(error) = self.say(&turn.user, ui) {
                    self.transcript.push(&turn.user, &turn.answer);
                    return Err(error);
                }
            }
            Command::Undo => drop(self.transcript.pop().ok_or(Refusal::NothingSaid)?),
            Command::Timings => match &self.timings {
                Some(timings) => ui.reply(timings),
                None => return Err(Refusal::NothingSaid.into()),
            },
            // Piped input may be untrusted.
            Command::Save(_) if !self.is_terminal => {
                return Err(Refusal::OnlyTerminal("/save").into());
            }
            Command::Load(_) if !self.is_terminal => {
                return Err(Refusal::OnlyTerminal("/load").into());
            }
            Command::Save(file) => self.save(file.as_ref())?,
            Command::Load(file) => {
                let (transcript, open) = Transcript::load(file.as_ref()).map_err(Refusal::File)?;
                self.transcript = transcript;
                self.own_file = Some(file.into());
                ui.reply(&format!("{} turns", self.transcript.kept().len()));
                if let Some(message) = open {
                    self.say(&message, ui)?;
                }
            }
        }
        Ok(())
    }

    /// Writes the conversation to a file. An existing file is replaced only if this
    /// conversation was saved to or loaded from it.
    fn save(&mut self, file: &Path) -> Result<(), Refusal> {
        let is_own = self.own_file.as_deref() == Some(file);
        if file.exists() && !is_own {
            return Err(Refusal::Exists(file.to_owned()));
        }
        self.transcript.save(file, is_own).map_err(Refusal::File)?;
        self.own_file = Some(file.to_owned());
        Ok(())
    }

    /// Returns whether an error concerns only one line, so that the chat continues.
    fn goes_on_after(&self, error: &anyhow::Error) -> bool {
        error.is::<LineError>()
            || error.is::<Refusal>()
            || (is_full(error) && (self.is_terminal || self.args.on_full == OnFull::Drop))
            || (self.is_terminal && matches!(error.downcast_ref(), Some(ChatError::Render { .. })))
    }

    /// Returns a hint for an error that does not end the chat, if there is one.
    fn hint(&self, error: &anyhow::Error) -> Option<&'static str> {
        if error.is::<LineError>() {
            return Some("/help lists the commands");
        }
        if let Some(Refusal::Exists(_)) = error.downcast_ref() {
            return Some("name another file");
        }
        is_full(error).then_some(match self.args.on_full {
            OnFull::Drop => "the message itself is too long; `-c` sets a larger context",
            OnFull::Stop => "/reset clears the conversation; `-c` sets a larger context",
        })
    }

    /// Sends a message to the model and prints its answer. A message that does not fit
    /// is discarded.
    fn say(&mut self, message: &str, ui: &Ui) -> anyhow::Result<()> {
        let prompt = self.prompt(message, ui)?;
        let answer = self.write_answer(&prompt, ui)?;
        self.transcript.push(message, answer.trim());
        Ok(())
    }

    /// Returns the prompt of the conversation with this message. If there is no room
    /// for it and an answer, the oldest turns are dropped.
    fn prompt(&mut self, message: &str, ui: &Ui) -> anyhow::Result<ChatPrompt> {
        let options = self.args.template.options()?;
        let prompt_from = |transcript: &Transcript, first| {
            let messages = transcript.messages(first, Some(message));
            self.template.encode(self.tokenizer, &messages, &options)
        };
        let context_len = self.loaded.engine.plan().context_len;
        let n_free = |prompt: &ChatPrompt| context_len.saturating_sub(prompt.ids.len());
        // Room for a useful answer, and after dropping turns for some more turns, since
        // the rest has to be prefilled again.
        let quarter = context_len / 4;
        let room = self.args.max_tokens.min(quarter);

        let kept = self.transcript.kept();
        let mut prompt = prompt_from(&self.transcript, kept.start)?;
        if n_free(&prompt) < room && self.args.on_full == OnFull::Drop && !kept.is_empty() {
            let (mut first, mut end) = (kept.start + 1, kept.end);
            while first < end {
                let middle = first.midpoint(end);
                if n_free(&prompt_from(&self.transcript, middle)?) < quarter {
                    first = middle + 1;
                } else {
                    end = middle;
                }
            }
            prompt = prompt_from(&self.transcript, first)?;
            if prompt.ids.len() <= context_len {
                let forgotten = self.transcript.forget_before(first);
                ui.note(&format!(
                    "note: the context is full; the oldest turns are dropped ({forgotten}); \
                     `-c` sets a larger one"
                ));
            }
        }
        if prompt.ids.len() > context_len {
            return Err(GenerateError::PromptTooLong {
                n_tokens: prompt.ids.len(),
                context_len,
            }
            .into());
        }
        Ok(prompt)
    }

    fn write_answer(&mut self, prompt: &ChatPrompt, ui: &Ui) -> anyhow::Result<String> {
        if self.args.show_prompt {
            ui.note(&prompt.text);
        }
        let prompt_ids = &prompt.ids[..];
        let same = self.held.iter().zip(prompt_ids);
        let sampling = SamplerOptions {
            // The same seed would give the same answer again.
            seed: self.sampling.seed.wrapping_add(self.retries),
            ..self.sampling
        };
        let options = GenerateOptions {
            prompt: prompt_ids,
            max_tokens: self.args.max_tokens,
            sampling,
            logit_bias: &[],
            reuse: same.take_while(|(held, wanted)| held == wanted).count(),
            speculate: self.args.generate.speculation.is_on(),
        };
        let stream = self.tokenizer.stream(prompt_ids);
        let stops = self.args.generate.stops()?;
        let mut printer = Printer::new(ui, !self.args.json, "", stream, &stops);
        let engine = &mut self.loaded.engine;
        let generation = {
            let _deferred = interrupt::Deferred::new();
            generate(
                engine,
                &options,
                |id| self.tokenizer.is_eog(id),
                |event| printer.on_event(event),
            )
        };
        let written = generation.as_ref().map_or(&[][..], |written| &written.ids);
        self.held = [prompt_ids, written].concat();
        self.held.truncate(engine.len(0));
        let generation = generation.context("failed to answer")?;
        let written = printer.finish(&generation)?;

        let timings = Timings::new(self.loaded.load_time, prompt_ids.len(), &generation);
        if self.args.json {
            ui.json(&Report {
                prompt_ids,
                ids: written.ids,
                text: &written.text,
                finish_reason: written.finish_reason.name(),
                seed: sampling.seed,
                timings,
            })?;
        } else {
            ui.line("")?;
        }
        let line = format!(
            "[{} prompt tokens, {} of them cached, {:.0} tok/s; {} generated at {:.0} tok/s{}]",
            prompt_ids.len(),
            generation.reused,
            timings.prefill_tok_s,
            generation.ids.len(),
            timings.decode_tok_s,
            match written.finish_reason {
                FinishReason::Length => ", cut off",
                FinishReason::Stop => ", stopped",
                FinishReason::Eos => "",
            }
        );
        ui.detail(&line);
        show_drafts(&generation, ui);
        self.timings = Some(line);
        Ok(written.text)
    }
}
