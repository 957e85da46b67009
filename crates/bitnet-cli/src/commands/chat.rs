//! `bitnet chat`

use anyhow::Context;
use bitnet_inference::{
    ChatTemplate, FinishReason, GenerateError, GenerateOptions, Message, Role, SamplerOptions,
    Tokenizer, generate,
};

use super::generation::{GenerateArgs, Printer, Report, Timings, parse_count_or_all};
use crate::input::Lines;
use crate::interrupt;
use crate::model::{ChatTemplateArg, Loaded, RunModelArgs};
use crate::ui::Ui;

/// Talk with a model
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every line is a message; one that ends in \\ goes on in the next. Ctrl-C stops an
answer. In a pipe, answers go to stdout and nothing else does. Tokens are chosen
as the model's files recommend, unless a flag says otherwise.

In the conversation:
  /reset  forget all of it but --system
  /exit   end it, as Ctrl-D does

Examples:
  bitnet chat -m ggml-model-i2_s.gguf
  bitnet chat -m Falcon3-1B-Instruct-1.58bit/ --system \"Answer in one sentence.\"
  echo \"Why is the sky blue?\" | bitnet chat -m model.gguf --chat-template chatml")]
pub struct Args {
    #[command(flatten)]
    model: RunModelArgs,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    template: ChatTemplateArg,
    /// Print on stderr what the model reads, before each answer
    #[arg(long)]
    show_prompt: bool,
    /// The most tokens of an answer; -1: no limit
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

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    args.generate.check()?;
    let checkpoint = args.model.model.open(ui)?;
    let tokenizer = args.model.model.tokenizer(&checkpoint)?;
    let template = (args.template).resolve(&args.model.model, &checkpoint, &tokenizer, ui)?;
    let head = args.model.compute.head.for_largest();
    let loaded = (args.model).load(&checkpoint, args.generate.context, head, ui)?;
    let sampling = args.generate.sampling(&checkpoint, ui);
    ui.detail(&format!("seed {}", sampling.seed));

    let mut conversation = Conversation {
        args,
        sampling,
        tokenizer: &tokenizer,
        template,
        loaded,
        messages: args.beginning(),
        held: Vec::new(),
    };
    let mut lines = Lines::new()?;
    if lines.is_terminal() {
        ui.note("/reset forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C stops an answer");
    }
    while let Some(line) = lines.next()? {
        match line.trim() {
            "" => {}
            "/exit" => break,
            "/reset" => conversation.messages = args.beginning(),
            _ => match conversation.answer(&line, ui) {
                Err(error) if lines.is_terminal() && is_full(&error) => {
                    ui.error(&format!("{error:#}"));
                    ui.hint("/reset forgets the conversation; `-c` gives it more room");
                }
                answered => answered?,
            },
        }
    }
    Ok(())
}

/// Returns whether the conversation does not fit any more.
fn is_full(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(GenerateError::PromptTooLong { .. })
    )
}

impl Args {
    /// Returns the messages that every conversation begins with.
    fn beginning(&self) -> Vec<Message> {
        let system = self.system.iter();
        system
            .map(|text| Message::new(Role::System, text))
            .collect()
    }
}

struct Conversation<'a> {
    args: &'a Args,
    sampling: SamplerOptions,
    tokenizer: &'a Tokenizer,
    template: ChatTemplate,
    loaded: Loaded,
    messages: Vec<Message>,
    /// The tokens of which the engine has keys and values.
    held: Vec<u32>,
}

impl Conversation<'_> {
    /// Says something to the model and prints what it answers. A message that does
    /// not fit is as if it had not been said.
    fn answer(&mut self, message: &str, ui: &Ui) -> anyhow::Result<()> {
        self.messages.push(Message::new(Role::User, message));
        let answered = self.write_answer(ui);
        match &answered {
            Ok(answer) => (self.messages).push(Message::new(Role::Assistant, answer.trim())),
            Err(_) => drop(self.messages.pop()),
        }
        answered.map(drop)
    }

    fn write_answer(&mut self, ui: &Ui) -> anyhow::Result<String> {
        let options = self.args.template.options()?;
        let prompt = (self.template).encode(self.tokenizer, &self.messages, &options)?;
        if self.args.show_prompt {
            ui.note(&prompt.text);
        }
        let prompt_ids = prompt.ids;
        let same = self.held.iter().zip(&prompt_ids);
        let options = GenerateOptions {
            prompt: &prompt_ids,
            max_tokens: self.args.max_tokens,
            sampling: self.sampling,
            reuse: same.take_while(|(held, wanted)| held == wanted).count(),
        };
        let stream = self.tokenizer.stream(&prompt_ids);
        let stops = self.args.generate.stops()?;
        let mut printer = Printer::new(ui, !self.args.json, "", stream, &stops);
        let engine = &mut self.loaded.engine;
        let generation = {
            let _deferred = interrupt::Deferred::new();
            generate(
                engine,
                &options,
                |id| self.tokenizer.is_eos(id),
                |event| printer.on_event(event),
            )
        };
        let written = generation.as_ref().map_or(&[][..], |written| &written.ids);
        self.held = [&prompt_ids, written].concat();
        self.held.truncate(engine.len(0));
        let generation = generation.context("failed to answer")?;
        let written = printer.finish(&generation)?;

        let timings = Timings::new(self.loaded.load_time, prompt_ids.len(), &generation);
        if self.args.json {
            ui.json(&Report {
                prompt_ids: &prompt_ids,
                ids: written.ids,
                text: &written.text,
                finish_reason: written.finish_reason.name(),
                seed: self.sampling.seed,
                timings,
            })?;
        } else {
            ui.line("")?;
        }
        ui.detail(&format!(
            "[{} prompt tokens, {} of them known, {:.0} tok/s; {} written at {:.0} tok/s{}]",
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
        ));
        Ok(written.text)
    }
}
