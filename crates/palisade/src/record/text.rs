//! Pieces of text that more than one part makes.

use std::borrow::Cow;
use std::time::Duration;

use crate::observation::Millis;

/// A number of things, in words.
pub fn counted(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// The age of something, in words.
pub fn age(since_ms: Millis, now_ms: Millis) -> String {
    let seconds = Duration::from_millis(u64::try_from(now_ms - since_ms).unwrap_or(0)).as_secs();
    let units = [
        (86_400, "day"),
        (3_600, "hour"),
        (60, "minute"),
        (1, "second"),
    ];
    let unit = units.iter().find(|(size, _)| seconds >= *size);
    unit.map_or_else(
        || "less than a second".to_owned(),
        |(size, name)| {
            let count = seconds / size;
            let plural = if count == 1 { "" } else { "s" };
            format!("{count} {name}{plural}")
        },
    )
}

/// A text as one word of a shell command: bare where it may be, else quoted.
pub fn shell_word(text: &str) -> String {
    let quoter = shlex::Quoter::new().allow_nul(true);
    let word = quoter.quote(text).map(Cow::into_owned);
    word.expect("a zero byte is all that is refused")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_where_a_shell_would_read_more_into_it() {
        for (text, word) in [
            ("a/lib/tests::adds", "a/lib/tests::adds"),
            (
                "a/doc/src/lib.rs - adds (line 3)",
                "'a/doc/src/lib.rs - adds (line 3)'",
            ),
            ("sort/<1k>", "'sort/<1k>'"),
            ("$HOME", "'$HOME'"),
            ("it's", "\"it's\""),
            ("", "''"),
        ] {
            assert_eq!(shell_word(text), word);
        }
    }

    #[test]
    fn ages_are_words() {
        for (seconds, words) in [
            (0, "less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "1 minute"),
            (7_300, "2 hours"),
            (200_000, "2 days"),
        ] {
            assert_eq!(age(0, seconds * 1000), words);
        }
        assert_eq!(age(5, 0), "less than a second");
    }
}
