//! One file per subcommand: its arguments, whose comments are the help text, and its
//! implementation.

pub mod batch;
pub mod bench;
pub mod cache;
pub mod chat;
pub mod completions;
pub mod convert;
pub mod devices;
pub mod embed;
mod generation;
pub mod inspect;
mod listen;
pub mod logits;
pub mod man;
pub mod perplexity;
pub mod pull;
mod remote;
pub mod run;
pub mod serve;
pub mod served_model;
mod served_models;
pub mod tokenize;
pub mod verify;

use std::io::IsTerminal;
use std::path::Path;

use crate::error::UsageError;
use crate::input::read_text;

/// Returns the text of an argument, a file, or stdin.
fn text_input(what: &str, text: Option<&str>, file: Option<&Path>) -> anyhow::Result<String> {
    match (text, file) {
        (Some(text), _) if text != "-" => Ok(text.to_owned()),
        (_, Some(file)) => read_text(file),
        (None, None) if std::io::stdin().is_terminal() => Err(UsageError(format!(
            "there is no {what}, expected an argument, a file with -f, or a pipe to stdin"
        ))
        .into()),
        _ => read_text("-".as_ref()),
    }
}

/// Parses `1,2,3` (or `1 2 3`) as token ids.
fn parse_ids(text: &str) -> anyhow::Result<Vec<u32>> {
    text.split([',', ' '])
        .filter(|part| !part.is_empty())
        .map(|part| {
            part.parse().map_err(|_| {
                UsageError(format!(
                    "{part:?} is not a token id, expected numbers such as 1,2,3"
                ))
                .into()
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_parted_by_commas_or_spaces() {
        assert_eq!(parse_ids("1,2, 3 4").unwrap(), [1, 2, 3, 4]);
        assert!(parse_ids("").unwrap().is_empty());
        for bad in ["x", "1,-2", "1.5", "4294967296"] {
            assert!(parse_ids(bad).is_err(), "{bad}");
        }
    }
}
