//! Reading lines from a terminal or a pipe, and text files.

use std::io::{self, BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use etcetera::BaseStrategy as _;
use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};

use crate::ui::Ui;

/// Terminal prompts of a first line and of a continuation line.
const PROMPT: &str = "> ";
const CONTINUED: &str = "  ";

/// Maximum number of messages in the history.
const MAX_HISTORY: usize = 1000;

/// Reads input line by line.
pub enum LineReader {
    /// With editing and a history.
    Terminal(Box<Terminal>),
    /// Unmodified, except that a byte-order mark is removed from the first line.
    Pipe { is_first: bool },
}

/// A terminal, and its history file.
pub struct Terminal {
    editor: DefaultEditor,
    history: Option<PathBuf>,
}

impl LineReader {
    /// Returns a reader of stdin. If stdin and stdout are a terminal, it has line editing,
    /// and with `keeps_history` the history of earlier chats.
    ///
    /// # Errors
    ///
    /// Returns an error if the terminal cannot be set up.
    pub fn new(keeps_history: bool, ui: &Ui) -> anyhow::Result<Self> {
        if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
            return Ok(Self::Pipe { is_first: true });
        }
        // Several pasted lines are one message.
        let config = Config::builder().bracketed_paste(true).build();
        let mut editor =
            DefaultEditor::with_config(config).context("failed to set up the terminal")?;
        editor.set_max_history_size(MAX_HISTORY)?;
        let history = history_file().filter(|_| keeps_history);
        if let Some(file) = &history
            && let Err(error) = editor.load_history(file)
            && !matches!(&error, ReadlineError::Io(e) if e.kind() == io::ErrorKind::NotFound)
        {
            ui.detail(&format!("failed to read {}: {error}", file.display()));
        }
        Ok(Self::Terminal(Box::new(Terminal { editor, history })))
    }

    /// Returns whether this reads from a terminal.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// Returns the next line, joined with its continuation lines; `None` at the end of
    /// input.
    pub fn next(&mut self, ui: &Ui) -> anyhow::Result<Option<String>> {
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
        if let Self::Terminal(terminal) = self
            && !text.trim().is_empty()
        {
            terminal.remember(&text, ui)?;
        }
        Ok(Some(text))
    }

    /// Returns one line without its line terminator; `None` at the end of input.
    fn line(&mut self, prompt: &str) -> anyhow::Result<Option<String>> {
        match self {
            Self::Terminal(terminal) => loop {
                match terminal.editor.readline(prompt) {
                    Ok(line) => return Ok(Some(line)),
                    Err(ReadlineError::Eof) => return Ok(None),
                    // Ctrl-C discards the line, as in a shell.
                    Err(ReadlineError::Interrupted) => {}
                    Err(error) => return Err(error).context("failed to read the terminal"),
                }
            },
            Self::Pipe { is_first } => {
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
                let mut line = String::from_utf8(line).context("stdin is not UTF-8 text")?;
                if std::mem::take(is_first) {
                    remove_byte_order_mark(&mut line);
                }
                Ok(Some(line))
            }
        }
    }
}

impl Terminal {
    /// Adds a message to the history and its file. If the file cannot be written, the
    /// history lasts only for this process.
    fn remember(&mut self, text: &str, ui: &Ui) -> anyhow::Result<()> {
        self.editor.add_history_entry(text)?;
        let Some(file) = &self.history else {
            return Ok(());
        };
        let folder = file.parent().unwrap_or(Path::new(""));
        let made = std::fs::create_dir_all(folder).map_err(ReadlineError::Io);
        // The editor creates the file readable by its owner only.
        if let Err(error) = made.and_then(|()| self.editor.append_history(file)) {
            ui.detail(&format!("failed to write {}: {error}", file.display()));
            self.history = None;
        }
        Ok(())
    }
}

/// Returns the path of the history file by the platform's conventions; `None` without
/// a home folder.
fn history_file() -> Option<PathBuf> {
    let base = etcetera::choose_base_strategy().ok()?;
    // Windows has no folder for state alone.
    let state = base.state_dir().unwrap_or_else(|| base.cache_dir());
    Some(state.join("bitnet").join("history"))
}

/// Reads a text file, or stdin for `-`. A byte-order mark is removed.
pub fn read_text(path: &Path) -> anyhow::Result<String> {
    let (name, bytes) = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        io::stdin()
            .read_to_end(&mut bytes)
            .context("failed to read stdin")?;
        ("stdin".to_owned(), bytes)
    } else {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).with_context(|| format!("failed to read {name}"))?;
        (name, bytes)
    };
    let is_utf16 = bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let guess = if is_utf16 {
            " (it begins as UTF-16 does)"
        } else {
            ""
        };
        anyhow::anyhow!("{name} is not UTF-8 text: invalid byte at offset {at}{guess}")
    })?;
    remove_byte_order_mark(&mut text);
    Ok(text)
}

/// Removes a leading byte-order mark.
fn remove_byte_order_mark(text: &mut String) {
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
}
