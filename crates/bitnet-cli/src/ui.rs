//! All terminal output.
//!
//! stdout carries only the result; progress, notes, timings and errors go to stderr.
//!
//! Text from models and files may contain control characters. A terminal would
//! interpret them (move the cursor, set its title, write its clipboard), so they are
//! replaced by visible symbols; files and pipes get the text unmodified.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Work that is done sooner shows no progress bar.
const PATIENCE: Duration = Duration::from_millis(250);

/// How much is printed on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Notes and a line of timings.
    Normal,
    /// Also settings and timings.
    Verbose,
}

/// Writes to stdout and stderr.
#[derive(Debug)]
pub struct Ui {
    verbosity: Verbosity,
    /// Where notes are kept instead of being printed.
    kept: Option<Mutex<Vec<String>>>,
}

impl Ui {
    /// Returns an interface with this verbosity.
    pub fn new(verbosity: Verbosity) -> Self {
        Self {
            verbosity,
            kept: None,
        }
    }

    /// Returns an interface for a part of another program: it prints nothing but keeps the
    /// notes.
    pub fn keeping() -> Self {
        Self {
            verbosity: Verbosity::Quiet,
            kept: Some(Mutex::default()),
        }
    }

    /// Returns the notes that were kept.
    pub fn kept(self) -> Vec<String> {
        let kept = self.kept.map(Mutex::into_inner);
        kept.map_or_else(Vec::new, |kept| {
            kept.unwrap_or_else(PoisonError::into_inner)
        })
    }

    /// Writes part of the result and flushes stdout.
    pub fn stream(&self, text: &str) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        let text = for_target(&stdout, text);
        let written = stdout.write_all(text.as_bytes());
        written
            .and_then(|()| stdout.flush())
            .context("failed to write to stdout")
    }

    /// Writes a line of the result.
    pub fn line(&self, text: &str) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        let text = for_target(&stdout, text);
        writeln!(stdout, "{text}").context("failed to write to stdout")
    }

    /// Writes a path as a line of the result; on Unix, its bytes unmodified.
    pub fn path(&self, path: &Path) -> anyhow::Result<()> {
        if cfg!(unix) {
            let line = [path.as_os_str().as_encoded_bytes(), b"\n"].concat();
            let written = io::stdout().lock().write_all(&line);
            return written.context("failed to write to stdout");
        }
        self.line(&path.display().to_string())
    }

    /// Writes the result as one JSON document.
    pub fn json(&self, document: &impl Serialize) -> anyhow::Result<()> {
        self.line(&serde_json::to_string(document)?)
    }

    /// Prints a note on stderr, unless quiet.
    pub fn note(&self, text: &str) {
        if let Some(kept) = &self.kept {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push(text.to_owned());
        } else if self.verbosity >= Verbosity::Normal {
            say(text);
        }
    }

    /// Prints details on stderr if verbose.
    pub fn detail(&self, text: &str) {
        if self.verbosity >= Verbosity::Verbose {
            say(text);
        }
    }

    /// Prints a requested text that is not part of the result, such as help in a chat,
    /// on stderr.
    pub fn reply(&self, text: &str) {
        say(text);
    }

    /// Prints an error on stderr.
    pub fn error(&self, text: &str) {
        say(&format!("error: {text}"));
    }

    /// Prints a hint on stderr.
    pub fn hint(&self, text: &str) {
        say(&format!("hint: {text}"));
    }

    /// Returns a progress bar for `what`, shown if it takes long and stderr is a terminal.
    pub fn progress(&self, what: &'static str) -> Progress {
        Progress {
            what,
            start: Instant::now(),
            shown: self.verbosity >= Verbosity::Normal && io::stderr().is_terminal(),
            bar: None,
        }
    }
}

/// Writes a line to stderr, ignoring failures.
fn say(text: &str) {
    let mut stderr = io::stderr().lock();
    let text = for_target(&stderr, text);
    let _ = writeln!(stderr, "{text}");
}

/// Returns `text` without control characters if `target` is a terminal.
fn for_target<'a>(target: &impl IsTerminal, text: &'a str) -> Cow<'a, str> {
    if target.is_terminal() {
        without_controls(text)
    } else {
        text.into()
    }
}

/// Replaces control characters by Unicode's control pictures; those of C1, which have
/// none, by U+FFFD. Line feeds and tabs are kept, carriage returns are removed.
fn without_controls(text: &str) -> Cow<'_, str> {
    let is_shown = |c: char| !c.is_control() || c == '\n' || c == '\t';
    if text.chars().all(is_shown) {
        return text.into();
    }
    let shown = text.chars().filter(|c| *c != '\r').map(|c| match c {
        c if is_shown(c) => c,
        '\x00'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).expect("U+2400 to U+241F"),
        '\x7f' => '\u{2421}',
        _ => char::REPLACEMENT_CHARACTER,
    });
    shown.collect::<String>().into()
}

/// A progress bar that appears when work takes long and is removed when dropped.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    start: Instant,
    shown: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Updates how much is done.
    pub fn set(&mut self, done: usize, total: usize) {
        if !self.shown || self.start.elapsed() < PATIENCE {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg} {bar:30} {percent:>3} %  {eta} left")
                .expect("the template is well-formed");
            ProgressBar::new(total as u64)
                .with_style(style)
                .with_message(self.what)
                .with_elapsed(self.start.elapsed())
        });
        bar.set_position(done as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_shown_control_characters_and_does_not_act_on_them() {
        // Sets the title, moves the cursor, rings, deletes; C1 begins a sequence, too.
        let hostile = "a\x1b]0;title\x07 \x1b[2J b\rc\x08\x7f \u{9b}31m";
        let shown = without_controls(hostile);
        assert_eq!(shown, "a␛]0;title␇ ␛[2J bc␈␡ \u{fffd}31m");
        assert_eq!(without_controls("two\r\nlines"), "two\nlines");
    }

    #[test]
    fn other_text_is_shown_as_it_is() {
        for text in ["", "two\nlines\tof text", "ü 漢 🙂 \u{200d} \u{a0}"] {
            assert!(matches!(without_controls(text), Cow::Borrowed(same) if same == text));
        }
    }
}
