//! Numbers as documents write them: `11.5`, `1 074`, `13,734`, `.02`.

use std::ops::Range;

/// What may separate three digits: a comma, an ordinary, thin or fixed space.
const SEPARATORS: [char; 5] = [',', ' ', '\u{a0}', '\u{2009}', '\u{202f}'];

/// A number that a document writes.
#[derive(Clone, Debug, PartialEq)]
pub struct Number {
    /// Where it stands, in bytes of the document.
    pub at: Range<usize>,
    /// What it says.
    pub value: f64,
    /// How many digits follow its point.
    pub decimals: usize,
    /// What separates its thousands.
    separator: Option<char>,
}

impl Number {
    /// Reads the number that begins at a byte of `text`; `None` if none does, or if it is
    /// a part of a word, a version or a date.
    pub fn at(text: &str, start: usize) -> Option<Self> {
        let before = text[..start].chars().next_back();
        let is_inside = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        if before.is_some_and(is_inside) {
            return None;
        }
        // A dash after a digit belongs to a date, one after a letter to a name.
        let mut back = text[..start].chars().rev();
        if back.next() == Some('-') && back.next().is_some_and(char::is_alphanumeric) {
            return None;
        }
        let rest = &text[start..];
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let mut end = digits(rest);
        let mut separator = None;
        if (1..=3).contains(&end) {
            while let Some(c) = rest[end..]
                .chars()
                .next()
                .filter(|c| SEPARATORS.contains(c))
            {
                let next = end + c.len_utf8();
                if separator.is_some_and(|used| used != c) || digits(&rest[next..]) != 3 {
                    break;
                }
                separator = Some(c);
                end = next + 3;
            }
        }
        let mut decimals = 0;
        if let Some(fraction) = rest[end..].strip_prefix('.') {
            decimals = digits(fraction);
            if decimals > 0 {
                end += 1 + decimals;
            }
        }
        if end == 0 {
            return None;
        }
        let after = &rest[end..];
        let mut following = after.chars();
        match following.next() {
            Some('.' | '-' | '_' | ':') if following.next().is_some_and(char::is_alphanumeric) => {
                return None;
            }
            Some(c) if c.is_alphabetic() && !has_unit(after) => return None,
            _ => {}
        }
        let plain: String = rest[..end]
            .chars()
            .filter(|c| separator != Some(*c))
            .collect();
        Some(Self {
            at: start..start + end,
            value: plain.parse().ok()?,
            decimals,
            separator,
        })
    }

    /// All numbers in a part of a text.
    pub fn all(text: &str, part: Range<usize>) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        for (at, c) in text[part.clone()].char_indices() {
            let at = part.start + at;
            let is_taken = found.last().is_some_and(|last| at < last.at.end);
            if (c.is_ascii_digit() || c == '.') && !is_taken {
                let number = Self::at(text, at).filter(|number| number.at.end <= part.end);
                found.extend(number);
            }
        }
        found
    }

    /// Another value, written in the same way.
    pub fn write(&self, value: f64) -> String {
        let plain = format!("{value:.*}", self.decimals);
        let Some(separator) = self.separator else {
            return plain;
        };
        let (whole, fraction) = plain
            .split_once('.')
            .map_or((plain.as_str(), None), |(w, f)| (w, Some(f)));
        let mut text = String::new();
        for (at, digit) in whole.chars().enumerate() {
            let left = whole.len() - at;
            if at > 0 && left.is_multiple_of(3) && !text.ends_with('-') {
                text.push(separator);
            }
            text.push(digit);
        }
        if let Some(fraction) = fraction {
            text.push('.');
            text.push_str(fraction);
        }
        text
    }

    /// Half of the step of its last digit: how far what it says may be from what it stands
    /// for.
    pub fn half_step(&self) -> f64 {
        0.5 * 10_f64.powi(-(self.decimals as i32))
    }
}

/// Units of speed, memory and their ratios.
const UNITS: [&str; 30] = [
    "%",
    "×",
    "x",
    "ns",
    "µs",
    "μs",
    "us",
    "ms",
    "s",
    "kB",
    "KB",
    "MB",
    "GB",
    "TB",
    "KiB",
    "MiB",
    "GiB",
    "tok/s",
    "t/s",
    "MB/s",
    "GB/s",
    "GiB/s",
    "MiB/s",
    "GFLOPS",
    "TFLOPS",
    "GMAC/s",
    "req/s",
    "ns/iter",
    "seconds",
    "milliseconds",
];

/// Whether a text begins with a unit of speed or memory, and no letter follows it.
pub fn has_unit(text: &str) -> bool {
    UNITS.iter().any(|unit| {
        let rest = text.strip_prefix(unit);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '/'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<f64> {
        let all = Number::all(text, 0..text.len());
        all.into_iter().map(|number| number.value).collect()
    }

    #[test]
    fn numbers_are_told_from_names_versions_and_dates() {
        assert_eq!(
            values("36 million, 11.5 MB, 1 074 of 13,734.02; +0.005 % .02 %"),
            [36.0, 11.5, 1074.0, 13734.02, 0.005, 0.02]
        );
        assert_eq!(
            values("(12) [7] 5ms 3x −4 a/5"),
            [12.0, 7.0, 5.0, 3.0, 4.0, 5.0]
        );
        for name in [
            "v2",
            "b1.58",
            "2B",
            "x86_64",
            "0.1.0",
            "2026-11-25",
            "00001-of-3",
            "i2xi8",
        ] {
            assert_eq!(values(name), [0.0; 0], "{name}");
        }
        // A number at the end of a sentence, and a list of them.
        assert_eq!(
            values("It took 42. In 512, 64 and 8."),
            [42.0, 512.0, 64.0, 8.0]
        );
    }

    #[test]
    fn another_value_is_written_in_the_same_way() {
        let write = |text: &str, value| {
            let number = Number::at(text, 0).expect("a number");
            assert_eq!(number.at, 0..text.len());
            number.write(value)
        };
        assert_eq!(write("11.5", 12.04), "12.0");
        assert_eq!(write("1 074", 1_234_567.0), "1 234 567");
        assert_eq!(write("13,734.02", 999.0), "999.00");
        assert_eq!(write("8", 9.4), "9");
    }
}
