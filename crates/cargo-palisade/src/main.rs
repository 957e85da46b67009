//! The program `cargo palisade`: reads the command line, hands the work to the
//! library `palisade`, and prints what it says.
//!
//! Standard output carries the result only; progress, notes and errors go to
//! standard error. The exit code is the verdict: see `error.rs`.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod error;
mod ui;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // Before anything else: what is held when a process is started counts as its own.
    if let Some(code) = palisade::host::measure::launch::serve() {
        return code;
    }
    // Cargo calls `cargo-palisade palisade …`; called by its own name, it has no
    // such first argument.
    let mut words = std::env::args_os().collect::<Vec<_>>();
    if words.get(1).is_some_and(|word| word == "palisade") {
        words.remove(1);
    }
    let args = match commands::Args::try_parse_from(&words) {
        Ok(args) => args,
        Err(error) => args::with_advice(error, &words).exit(),
    };
    let ui = ui::Ui::new(&args.global);
    let cancel = palisade::host::process::Cancel::default();
    let (on_interrupt, interrupt) = (cancel.clone(), cancel.clone());
    let handler = ctrlc::set_handler(move || on_interrupt.cancel());
    let result = handler
        .map_err(error::CommandError::from)
        .and_then(|()| commands::run(&args, &ui, cancel));
    ui.finish();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => ExitCode::from(error::report(&ui, &error, interrupt.is_cancelled())),
    }
}
