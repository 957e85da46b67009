//! A lenient JSON parser that accepts Python's extensions: a byte-order mark, `NaN` and
//! `Infinity`, duplicate keys (the last one wins), and integers written as `4096.0`.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// The byte-order mark of UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";
/// Non-standard number literals, the longest first.
const NO_NUMBERS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];

/// Parses a document; `None` if it is invalid. Non-standard number literals become
/// strings, so they are errors only where a number is needed.
pub(crate) fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let bytes = bytes.strip_prefix(MARK).unwrap_or(bytes);
    let mut value: Value = serde_json::from_slice(&without_no_numbers(bytes)).ok()?;
    whole_numbers(&mut value);
    serde_json::from_value(value).ok()
}

fn without_no_numbers(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let (mut at, mut in_text) = (0, false);
    while let Some(&byte) = bytes.get(at) {
        let no_number = NO_NUMBERS.iter().find(|word| bytes[at..].starts_with(word));
        match (byte, no_number) {
            (_, Some(word)) if !in_text => {
                out.push(b'"');
                out.extend_from_slice(word);
                out.push(b'"');
                at += word.len();
                continue;
            }
            (b'"', _) => in_text = !in_text,
            (b'\\', _) if in_text => {
                out.push(byte);
                at += 1;
            }
            _ => {}
        }
        out.extend(bytes.get(at));
        at += 1;
    }
    out
}

/// Converts floats with exact integer values to integers.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_f64()
                && number.is_f64()
                && libm::trunc(float) == float
                && float.abs() < (1u64 << 53) as f64
            {
                *number = (float as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(map) => map.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_python_reads_is_read() {
        let lax = "\u{feff}{\"a\": NaN, \"b\": [-Infinity, Infinity, 4096.0, 0.5],\n\
            \"c\": \"NaN \\\"NaN\\\\\", \"a\": 2, \"d\": 1e300}";
        let expected = json!({
            "a": 2, "b": ["-Infinity", "Infinity", 4096, 0.5], "c": "NaN \"NaN\\", "d": 1e300,
        });
        assert_eq!(from_slice::<Value>(lax.as_bytes()), Some(expected));
    }

    #[test]
    fn what_python_does_not_read_is_not() {
        for text in ["", "{", "\"", "\"\\", "Nan", "{\"a\": +Infinity}", "[1, 2"] {
            assert_eq!(from_slice::<Value>(text.as_bytes()), None, "{text}");
        }
    }
}
