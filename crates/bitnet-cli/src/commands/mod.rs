//! One file per subcommand: its arguments, whose comments are the help text,
//! and what it does.

pub mod bench;
pub mod chat;
pub mod completions;
pub mod convert;
pub mod devices;
pub mod embed;
mod generation;
pub mod inspect;
pub mod logits;
pub mod perplexity;
pub mod pull;
pub mod run;
pub mod tokenize;

use std::fmt::Write;
use std::io::{IsTerminal, Read};
use std::path::Path;

use anyhow::Context;

use crate::error::UsageError;

/// Returns the text that is an argument, in a file, or on stdin.
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

/// What some editors put before a text to say how it is encoded.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Reads a text file, or stdin for `-`. A byte-order mark before it is not part of it.
pub fn read_text(path: &Path) -> anyhow::Result<String> {
    let (name, bytes) = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin()
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
    if text.starts_with(BYTE_ORDER_MARK) {
        text.remove(0);
    }
    Ok(text)
}

/// Returns bytes in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
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
