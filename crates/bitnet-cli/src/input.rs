//! Lines that a user types, or that come in a pipe.

use std::io::{self, BufRead, IsTerminal};

use anyhow::Context;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

/// What a line begins with on a terminal.
const PROMPT: &str = "> ";
const CONTINUED: &str = "  ";

/// Reads line by line.
pub enum Lines {
    /// With editing and a history.
    Terminal(Box<DefaultEditor>),
    /// As they are.
    Pipe,
}

impl Lines {
    /// Reads from the terminal if there is one at both ends.
    pub fn new() -> anyhow::Result<Self> {
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            let editor = DefaultEditor::new().context("failed to set up the terminal")?;
            Ok(Self::Terminal(Box::new(editor)))
        } else {
            Ok(Self::Pipe)
        }
    }

    /// Returns whether somebody sits there.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// Returns the next line, joined with those that it goes on in; `None` at the
    /// end.
    pub fn next(&mut self) -> anyhow::Result<Option<String>> {
        let mut text = String::new();
        loop {
            let prompt = if text.is_empty() { PROMPT } else { CONTINUED };
            let Some(line) = self.line(prompt)? else {
                return Ok(Some(text).filter(|text| !text.is_empty()));
            };
            let Some(line) = line.strip_suffix('\\') else {
                text += &line;
                break;
            };
            text = text + line + "\n";
        }
        if let Self::Terminal(editor) = self
            && !text.trim().is_empty()
        {
            editor.add_history_entry(text.as_str())?;
        }
        Ok(Some(text))
    }

    /// Returns one line without its end.
    fn line(&mut self, prompt: &str) -> anyhow::Result<Option<String>> {
        match self {
            Self::Terminal(editor) => loop {
                match editor.readline(prompt) {
                    Ok(line) => return Ok(Some(line)),
                    Err(ReadlineError::Eof) => return Ok(None),
                    // What was typed so far is forgotten, as in a shell.
                    Err(ReadlineError::Interrupted) => {}
                    Err(error) => return Err(error).context("failed to read the terminal"),
                }
            },
            Self::Pipe => {
                let mut line = Vec::new();
                let read = io::stdin().lock().read_until(b'\n', &mut line);
                if read.context("failed to read stdin")? == 0 {
                    return Ok(None);
                }
                for end in *b"\n\r" {
                    if line.last() == Some(&end) {
                        line.pop();
                    }
                }
                let line = String::from_utf8(line);
                Ok(Some(line.context("stdin is not UTF-8 text")?))
            }
        }
    }
}
