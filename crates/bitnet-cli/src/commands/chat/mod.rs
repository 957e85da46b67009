//! `bitnet chat`

mod command;
mod local;
mod remote;
mod transcript;

use std::path::{Path, PathBuf};

use bitnet_inference::{ChatError, GenerateError};
use clap::ValueEnum;

use self::command::{Command, Line, LineError};
use self::local::LocalSpeaker;
use self::remote::RemoteSpeaker;
use self::transcript::Transcript;
use super::generation::{GenerateArgs, parse_count_or_all};
use super::remote::UrlArg;
use crate::client::ClientError;
use crate::error::{RefusedLines, UsageError};
use crate::input::LineReader;
use crate::model::{ChatTemplateArg, RunModelArgs};
use crate::ui::Ui;

/// Chat with a model
#[derive(Debug, clap::Args)]
#[command(after_help = after_help())]
pub struct Args {
    #[command(flatten)]
    model: RunModelArgs,
    #[command(flatten)]
    remote: UrlArg,
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

impl Args {
    /// Refuses what only a model on this machine can do.
    fn check_url(&self) -> Result<(), UsageError> {
        let is_given = [
            ("--chat-template", self.template.chat_template.is_some()),
            ("--parse-special", self.template.parse_special),
            ("--show-prompt", self.show_prompt),
        ];
        match is_given.iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) if self.remote.url.is_some() => Err(UsageError(format!(
                "{name} cannot be used with --url: the server makes the prompt"
            ))),
            _ => Ok(()),
        }
    }
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
    args.check_url()?;
    let speaker: Box<dyn Speaker + '_> = match &args.remote.url {
        Some(url) => Box::new(RemoteSpeaker::open(args, url)?),
        None => Box::new(LocalSpeaker::load(args, ui)?),
    };
    let mut lines = LineReader::new(!args.no_history, ui)?;
    let mut conversation = Conversation {
        args,
        speaker,
        transcript: Transcript::new(args.system.clone()),
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
    let too_long = matches!(
        error.downcast_ref(),
        Some(GenerateError::PromptTooLong { .. })
    );
    too_long || remote::is_full(error)
}

/// Who answers: a model here, or one of a server.
trait Speaker {
    /// Answers a message and prints the answer. Turns that do not fit into the context are
    /// dropped from the transcript if `--on-full` says so. `retries` is how often the same
    /// message was answered before.
    fn answer(
        &mut self,
        transcript: &mut Transcript,
        message: &str,
        retries: u64,
        ui: &Ui,
    ) -> anyhow::Result<Answer>;
}

struct Answer {
    text: String,
    timings: String,
}

struct Conversation<'a> {
    args: &'a Args,
    speaker: Box<dyn Speaker + 'a>,
    transcript: Transcript,
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
            || (self.is_terminal && error.is::<ClientError>())
    }

    /// Returns a hint for an error that does not end the chat, if there is one.
    fn hint(&self, error: &anyhow::Error) -> Option<&'static str> {
        if error.is::<LineError>() {
            return Some("/help lists the commands");
        }
        if let Some(Refusal::Exists(_)) = error.downcast_ref() {
            return Some("name another file");
        }
        if let Some(error) = error.downcast_ref::<ClientError>()
            && !error.is_full()
        {
            return error.hint();
        }
        let is_local = self.args.remote.url.is_none();
        is_full(error).then_some(match (self.args.on_full, is_local) {
            (OnFull::Drop, true) => "the message itself is too long; `-c` sets a larger context",
            (OnFull::Stop, true) => "/reset clears the conversation; `-c` sets a larger context",
            (OnFull::Drop, false) => "the message itself is too long",
            (OnFull::Stop, false) => "/reset clears the conversation",
        })
    }

    /// Sends a message to the model and prints its answer. A message that does not fit
    /// is discarded.
    fn say(&mut self, message: &str, ui: &Ui) -> anyhow::Result<()> {
        let retries = self.retries;
        let answer = (self.speaker).answer(&mut self.transcript, message, retries, ui)?;
        self.transcript.push(message, answer.text.trim());
        self.timings = Some(answer.timings);
        Ok(())
    }
}
