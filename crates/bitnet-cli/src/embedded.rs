//! Models for a program that contains this one.

use std::ffi::OsString;
use std::sync::Arc;

use bitnet_server::{MemoryTaken, ServedModel, ServerOptions};
use clap::Parser;

use crate::commands::served_model::ServedModelArgs;
use crate::exit::Failure;
use crate::model::ModelArg;
use crate::ui::Ui;

/// A model as `bitnet serve` would serve it.
#[derive(Debug)]
pub struct EmbeddedModel {
    /// The model with what holds where a request says nothing.
    pub model: ServedModel,
    /// The options of requests.
    pub options: ServerOptions,
    /// What is to be said about the model.
    pub notes: Vec<String>,
}

#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Args {
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    served: ServedModelArgs,
}

/// Loads a model by the arguments of `bitnet serve` that select a model and how it answers,
/// such as `-m FILE -c 2048`.
///
/// # Errors
///
/// Returns an error if an argument is wrong, or the model cannot be loaded.
pub fn load_model(args: impl IntoIterator<Item = OsString>) -> Result<EmbeddedModel, Failure> {
    let args = Args::try_parse_from(args).map_err(|error| Failure {
        message: usage_message(&error),
        hint: None,
        is_usage: true,
    })?;
    Ok(load(&args)?)
}

fn load(args: &Args) -> anyhow::Result<EmbeddedModel> {
    let ui = Ui::keeping();
    args.served.validate()?;
    let checkpoint = Arc::new(args.model.open(&ui)?);
    let name = args.served.name_of(&args.model);
    let others = MemoryTaken::default();
    let model = (args.served).load(&name, &args.model, &checkpoint, others, &ui)?;
    Ok(EmbeddedModel {
        model,
        options: args.served.options(),
        notes: ui.kept(),
    })
}

/// Returns the message without what is for a terminal: its name, hints and usage.
fn usage_message(error: &clap::Error) -> String {
    let text = error.to_string();
    let message = text.split("\n\n").next().unwrap_or_default();
    let lines: Vec<_> = message.lines().map(str::trim).collect();
    let line = lines.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(args: &[&str]) -> Failure {
        load_model(args.iter().map(OsString::from)).unwrap_err()
    }

    #[test]
    fn wrong_arguments_are_named() {
        let wrong = failure(&["-m", "builtin", "--threads", "many"]);
        assert_eq!(
            wrong.message,
            "invalid value 'many' for '--threads <N>': invalid digit found in string"
        );
        assert!(wrong.is_usage);
        assert!(failure(&["-m", "builtin", "-c", "0"]).is_usage);
    }

    #[test]
    fn a_missing_model_is_named_with_a_hint() {
        let missing = failure(&["-m", "owner/name"]);
        assert!(
            missing.message.contains("owner/name"),
            "{}",
            missing.message
        );
        let hint = missing.hint.unwrap();
        assert!(hint.contains("bitnet pull owner/name"), "{hint}");
        assert!(!missing.is_usage);
    }
}
