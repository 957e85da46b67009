//! The only door to the terminal.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::Duration;

use crate::args::{Color, Global};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use palisade::host::run::Progress;
use palisade::host::session::Event;
use palisade::report::Paint;

/// What is shorter than this shows no progress.
const PATIENCE: Duration = Duration::from_millis(250);

/// Writes results to standard output and everything else to standard error.
pub struct Ui {
    bar: Option<ProgressBar>,
    step: Mutex<String>,
    quiet: bool,
    verbose: bool,
    color: Color,
}

impl Ui {
    /// Looks at the terminal; shows nothing yet.
    pub fn new(global: &Global) -> Self {
        let show = std::io::stderr().is_terminal() && !global.quiet;
        let bar = show.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
            let style = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            let weak = bar.downgrade();
            std::thread::spawn(move || {
                std::thread::sleep(PATIENCE);
                if let Some(bar) = weak.upgrade().filter(|bar| !bar.is_finished()) {
                    bar.set_draw_target(ProgressDrawTarget::stderr());
                    bar.enable_steady_tick(PATIENCE);
                }
            });
            bar
        });
        Self {
            bar,
            step: Mutex::default(),
            quiet: global.quiet,
            verbose: global.verbose,
            color: global.color,
        }
    }

    /// Shows what happens.
    pub fn event(&self, event: Event) {
        let text = {
            let mut step = self
                .step
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            match event {
                Event::Step(text) => {
                    step.clone_from(&text);
                    if self.verbose {
                        self.err(&text);
                    }
                    text
                }
                Event::Progress(Progress::Said(line)) => {
                    if !self.quiet {
                        self.err(&line);
                    }
                    return;
                }
                Event::Progress(Progress::Building(what)) => format!("{step}: {what}"),
                Event::Progress(Progress::Measuring { done, total, left }) => format!(
                    "{step}: {done} of {total} decided, {} s left or more",
                    left.as_secs()
                ),
                Event::Progress(Progress::Testing { done, total }) => match total {
                    Some(total) => format!("{step}: {done} of {total} tests"),
                    None => format!("{step}: documentation test {done}"),
                },
                Event::Note(text) => {
                    if !self.quiet {
                        self.err(&format!("note: {text}"));
                    }
                    return;
                }
            }
        };
        if let Some(bar) = &self.bar {
            bar.set_message(text);
        }
    }

    /// Writes a line to standard error, above the progress.
    pub fn err(&self, text: &str) {
        let write = || {
            // Where standard error is closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "{text}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Writes the result. A reader that has seen enough is no error.
    pub fn out(&self, text: &str) -> std::io::Result<()> {
        self.finish();
        let mut out = std::io::stdout().lock();
        let result = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        match result {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    /// Takes the progress off the terminal.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Whether the result may be coloured.
    pub fn paint(&self) -> Paint {
        let colour = match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
            }
        };
        if colour { Paint::Colour } else { Paint::Plain }
    }
}
