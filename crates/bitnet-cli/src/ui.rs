//! The only door to the terminal.
//!
//! stdout carries the result and nothing else; progress, notes, timings and
//! errors go to stderr.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Work that ends sooner shows no progress.
const PATIENCE: Duration = Duration::from_millis(250);

/// How much stderr says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Notes and a line of timings.
    Normal,
    /// What was chosen and how long it took, too.
    Verbose,
}

/// Prints.
#[derive(Debug)]
pub struct Ui {
    verbosity: Verbosity,
}

impl Ui {
    /// Makes a door that lets through as much as asked for.
    pub fn new(verbosity: Verbosity) -> Self {
        Self { verbosity }
    }

    /// Writes part of the result, at once.
    pub fn stream(&self, text: &str) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(text.as_bytes());
        written
            .and_then(|()| stdout.flush())
            .context("failed to write to stdout")
    }

    /// Writes a line of the result.
    pub fn line(&self, text: &str) -> anyhow::Result<()> {
        writeln!(io::stdout().lock(), "{text}").context("failed to write to stdout")
    }

    /// Writes the result as one JSON document.
    pub fn json(&self, document: &impl Serialize) -> anyhow::Result<()> {
        self.line(&serde_json::to_string(document)?)
    }

    /// Says something that users should know, unless they want quiet.
    pub fn note(&self, text: &str) {
        if self.verbosity >= Verbosity::Normal {
            say(text);
        }
    }

    /// Says something for those who asked for details.
    pub fn detail(&self, text: &str) {
        if self.verbosity >= Verbosity::Verbose {
            say(text);
        }
    }

    /// Says what failed.
    pub fn error(&self, text: &str) {
        say(&format!("error: {text}"));
    }

    /// Says what may help.
    pub fn hint(&self, text: &str) {
        say(&format!("hint: {text}"));
    }

    /// Starts to show how far `what` is, if it takes long and someone watches.
    pub fn progress(&self, what: &'static str) -> Progress {
        Progress {
            what,
            start: Instant::now(),
            shown: self.verbosity >= Verbosity::Normal && io::stderr().is_terminal(),
            bar: None,
        }
    }
}

/// Writes a line to stderr. Where nobody can read it, there is nobody to tell.
fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A progress bar that appears when work takes long and is gone when dropped.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    start: Instant,
    shown: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Tells how much is done.
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
