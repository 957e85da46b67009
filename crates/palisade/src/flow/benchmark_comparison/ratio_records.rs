//! Writes what ratios are on this processor into the policy.

use std::path::Path;

use toml_edit::{Array, DocumentMut, InlineTable, Item, TableLike, Value};

use crate::host::source::unix_lines;
use crate::policy::{Policy, PolicyError};
use crate::speed::{BoundState, Limit, NamedBound};

/// A policy with more ratios recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedRatios {
    /// The ratios that were recorded, with the limit of each.
    pub names: Vec<(String, String)>,
    /// The file with them.
    pub text: String,
}

/// Records what was measured of ratios that decide nothing on this processor, in the policy
/// that `text` is; `measured` is when and by what. What is recorded already stays: that is
/// what the ratio is held against. `path` names the policy in errors.
pub fn record_ratios(
    text: &str,
    path: &Path,
    bounds: &[NamedBound],
    processor: &str,
    measured: &str,
) -> Result<RecordedRatios, PolicyError> {
    let mut file: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        let (path, message) = (path.to_owned(), error.message().to_owned());
        let line = 1;
        PolicyError::Form {
            path,
            line,
            message,
        }
    })?;
    let mut names = Vec::new();
    for bound in bounds {
        if bound.decision.state != BoundState::Unrecorded {
            continue;
        }
        let Some(estimate) = bound.decision.estimate else {
            continue;
        };
        // The end of the interval that equal programs reach.
        let (key, limit) = match bound.decision.bound.limit {
            Limit::AtLeast(_) => ("at_least", (estimate.low * 100.0).floor() / 100.0),
            Limit::AtMost(_) => ("at_most", (estimate.high * 100.0).ceil() / 100.0),
        };
        // Less than that is no number to hold anything against.
        if limit <= 0.0 {
            continue;
        }
        let mut record = InlineTable::new();
        record.insert("processor", processor.into());
        record.insert(key, limit.into());
        record.insert("measured", measured.into());
        if push_record(&mut file, &bound.name, record) {
            names.push((bound.name.clone(), format!("{key} {limit}")));
        }
    }
    let mut new = file.to_string();
    if text.contains("\r\n") {
        // The line ends stay what they are.
        new = unix_lines(&new).replace('\n', "\r\n");
    }
    // What is written must mean what it says.
    Policy::parse(&new, path)?;
    Ok(RecordedRatios { names, text: new })
}

/// Adds a record to the ratio of that name, in whichever way the list is written.
fn push_record(file: &mut DocumentMut, name: &str, record: InlineTable) -> bool {
    let ratios: Vec<&mut dyn TableLike> = match file.get_mut("ratio") {
        Some(Item::ArrayOfTables(tables)) => {
            let tables = tables.iter_mut();
            tables.map(|table| table as &mut dyn TableLike).collect()
        }
        Some(Item::Value(Value::Array(array))) => {
            let tables = array.iter_mut().filter_map(Value::as_inline_table_mut);
            tables.map(|table| table as &mut dyn TableLike).collect()
        }
        _ => Vec::new(),
    };
    for ratio in ratios {
        if ratio.get("name").and_then(Item::as_str) != Some(name) {
            continue;
        }
        if let Some(records) = ratio.get_mut("on").and_then(Item::as_array_mut) {
            push_line(records, record);
            return true;
        }
    }
    false
}

/// Adds a record on a line of its own.
fn push_line(records: &mut Array, record: InlineTable) {
    let mut record = Value::InlineTable(record);
    record.decor_mut().set_prefix("\n    ");
    records.push_formatted(record);
    records.set_trailing_comma(true);
    records.set_trailing("\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speed::{Bound, BoundJudge, InterimLooks, Measure};

    fn bound(name: &str, limit: Limit, centre: f64) -> NamedBound {
        let bound = Bound { limit, within: 0.0 };
        let mut judge = BoundJudge::new(bound, InterimLooks::default(), 0.025);
        for step in 0..40 {
            let value = centre * (1.0 + 0.002 * f64::from(step % 5 - 2));
            judge.push(value).expect("a value");
        }
        NamedBound {
            name: name.to_owned(),
            measure: Measure::Time,
            decision: judge.decision().unrecorded(&["A"], "B"),
        }
    }

    #[test]
    fn what_was_measured_becomes_the_bound_of_this_processor() {
        let ways = [
            "# Kept.\n[[ratio]]\nname = \"simd\" # so it is called\nof = \"a\"\nto = \"b\"\n\
             at_least = 3.4\non = [{ processor = \"A\" }]\n",
            "ratio = [\r\n    { name = \"simd\", of = \"a\", to = \"b\", at_least = 3.4, on = [] },\r\n]\r\n",
        ];
        for text in ways {
            let bounds = [
                bound("simd", Limit::AtLeast(3.4), 2.847),
                bound("no such ratio", Limit::AtMost(1.0), 1.0),
            ];
            let path = Path::new("palisade.toml");
            let found = record_ratios(text, path, &bounds, "B \"x\"", "today").expect("valid");
            let names = [("simd".to_owned(), "at_least 2.83".to_owned())];
            assert_eq!(found.names, names);
            let policy = Policy::parse(&found.text, path).expect("valid");
            let (bound, decides) = policy.ratio[0].bound_on("B \"x\", 8 cores").expect("one");
            assert_eq!((bound.limit, decides), (Limit::AtLeast(2.83), true));
            assert_eq!(
                found.text.matches("\r\n").count() > 0,
                text.contains("\r\n")
            );
            assert!(found.text.contains("# Kept.") == text.contains("# Kept."));
            // It decides now, and is not written over.
            let decided = NamedBound {
                decision: crate::speed::BoundDecision {
                    state: BoundState::Broken,
                    ..bounds[0].decision.clone()
                },
                ..bounds[0].clone()
            };
            let again = record_ratios(&found.text, path, &[decided], "B", "later");
            assert_eq!(again.expect("valid").names, []);
        }
    }

    #[test]
    fn a_limit_from_above_is_rounded_up() {
        let text = "[[ratio]]\nname = \"cost\"\nof = \"a\"\nto = \"b\"\nat_most = 1.3\non = []\n";
        let bounds = [bound("cost", Limit::AtMost(1.3), 1.123)];
        let found = record_ratios(text, Path::new("p"), &bounds, "B", "today").expect("valid");
        assert_eq!(found.names[0].1, "at_most 1.13");
    }
}
