//! What proves a claim, as `claims.toml` and markers write it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::number::Number;
use super::test_count::TestCount;
use super::{ClaimsError, FILE_NAME, definition_error};
use crate::speed::Measure;
use crate::test_id::TestId;

/// What proves a claim, and how close the number must be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Definition {
    /// A command that prints the number, run in the workspace's root without a shell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Where the number is in the JSON document that the command prints: `/rows/0/tok_s`
    /// (RFC 6901). Without it, the number is the last line, or the only one in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<String>,
    /// A test that passes only while the number is right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<TestId>,
    /// The tests that the number counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tests: Option<TestCount>,
    /// A benchmark, by its full name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bench: Option<String>,
    /// What of the benchmark: its time in ns, unless it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measure: Option<String>,
    /// How the measured value must stand to the written one.
    pub relation: Relation,
    /// How far from that it may be; without it, `=` means equal as far as digits are
    /// written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<Tolerance>,
    /// What the measured value is multiplied with, to be in the document's unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Whether it is measured only when that is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// A part of the name of the processor that it holds on; all if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processor: Option<String>,
    /// When and on what the number was last written by `claims update`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<String>,
}

/// What a claim rests on.
#[derive(Clone, Debug, PartialEq)]
pub enum Proof<'a> {
    /// What a command prints, and where in it the number is.
    Command(&'a str, Option<&'a str>),
    /// That a test passes.
    Test(&'a TestId),
    /// How many tests there are.
    Tests(&'a TestCount),
    /// What is measured of a benchmark.
    Bench(&'a str, Measure),
}

impl Proof<'_> {
    /// What to call a claim that has no name.
    pub fn title(&self) -> String {
        match self {
            Self::Command(command, None) => (*command).to_owned(),
            Self::Command(command, Some(json)) => format!("{command} {json}"),
            Self::Test(test) => test.to_string(),
            Self::Tests(count) => count.to_string(),
            Self::Bench(name, _) => (*name).to_owned(),
        }
    }
}

/// How a measured value must stand to a written one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    /// Equal.
    #[default]
    #[serde(rename = "=")]
    Equal,
    /// At least as large.
    #[serde(rename = ">=", alias = "≥")]
    AtLeast,
    /// At most as large.
    #[serde(rename = "<=", alias = "≤")]
    AtMost,
    /// Closer than the tolerance.
    #[serde(rename = "within")]
    Within,
}

impl Relation {
    /// The sign for it.
    pub fn sign(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::AtLeast => "≥",
            Self::AtMost => "≤",
            Self::Within => "≈",
        }
    }

    /// Whether a measured value holds a written one.
    pub fn holds(self, measured: f64, written: &Number, within: Option<Tolerance>) -> bool {
        let slack = within.map_or(0.0, |within| within.of(written.value));
        // Values that are equal in decimal need not be so in binary.
        let slack = slack + 1e-9 * written.value.abs();
        match self {
            Self::AtLeast => measured >= written.value - slack,
            Self::AtMost => measured <= written.value + slack,
            Self::Equal if within.is_none() => {
                (measured - written.value).abs() <= written.half_step() + slack
            }
            Self::Equal | Self::Within => (measured - written.value).abs() <= slack,
        }
    }
}

/// How far a value may be from another: `5 %` of it, or a number in its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// Percent of the written value.
    Percent(f64),
    /// In the document's unit.
    Absolute(f64),
}

/// Why a text is not a tolerance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a tolerance (expected \"5 %\", or a number in the document's unit)")]
pub struct ParseToleranceError(String);

impl Tolerance {
    fn of(self, written: f64) -> f64 {
        match self {
            Self::Percent(percent) => written.abs() * percent / 100.0,
            Self::Absolute(value) => value,
        }
    }
}

impl FromStr for Tolerance {
    type Err = ParseToleranceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| {
            let number: Result<f64, _> = text.trim().parse();
            let number = number.ok().filter(|n| n.is_finite() && *n >= 0.0);
            number.ok_or_else(|| ParseToleranceError(text.to_owned()))
        };
        match text.trim().strip_suffix('%') {
            Some(percent) => number(percent).map(Self::Percent),
            None => number(text).map(Self::Absolute),
        }
    }
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent} %"),
            Self::Absolute(value) => write!(f, "{value}"),
        }
    }
}

impl Serialize for Tolerance {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Tolerance {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What it takes to measure a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cost {
    /// So little that each check does it.
    Cheap,
    /// So much that it is done when it is asked for.
    Costly,
}

impl Definition {
    /// What it rests on. A definition that was read has exactly one proof.
    pub fn proof(&self) -> Proof<'_> {
        match (&self.command, &self.test, &self.tests, &self.bench) {
            (Some(command), None, None, None) => Proof::Command(command, self.json.as_deref()),
            (None, Some(test), None, None) => Proof::Test(test),
            (None, None, Some(count), None) => Proof::Tests(count),
            (None, None, None, Some(bench)) => {
                let measure = self.measure.as_deref().and_then(Measure::from_word);
                Proof::Bench(bench, measure.unwrap_or(Measure::Time))
            }
            _ => unreachable!("a definition is checked when it is read"),
        }
    }

    /// What it takes to measure it: a benchmark is costly unless it says otherwise.
    pub fn cost(&self) -> Cost {
        let usual = if self.bench.is_some() {
            Cost::Costly
        } else {
            Cost::Cheap
        };
        self.cost.unwrap_or(usual)
    }

    /// What is wrong with it, if anything is.
    fn problem(&self) -> Option<&'static str> {
        let proofs = [
            self.command.is_some(),
            self.test.is_some(),
            self.tests.is_some(),
            self.bench.is_some(),
        ];
        let count = proofs.into_iter().filter(|is_there| *is_there).count();
        let is_measure = |word: &String| Measure::from_word(word).is_some();
        let words = self.command.as_ref().map(|command| shlex::split(command));
        if count != 1 {
            Some("needs a command, a test, tests or a bench, one of them")
        } else if words.is_some_and(|words| words.is_none_or(|words| words.is_empty())) {
            Some("has no command that a shell could split")
        } else if self.json.is_some() && self.command.is_none() {
            Some("has a place in JSON and no command that prints some")
        } else if self.measure.is_some() && self.bench.is_none() {
            Some("has a measure and no bench")
        } else if !self.measure.as_ref().is_none_or(is_measure) {
            Some("has a measure that is none of those of a bench")
        } else if self.relation == Relation::Within && self.within.is_none() {
            Some("has the relation within and no tolerance within")
        } else if self
            .json
            .as_ref()
            .is_some_and(|json| !json.starts_with('/'))
        {
            Some("has a place in JSON that does not begin with /")
        } else {
            None
        }
    }
}

/// A claim of `claims.toml`.
#[derive(Clone, Debug)]
pub(super) struct DefinitionEntry {
    pub(super) name: String,
    pub(super) document: Option<String>,
    pub(super) text: Option<String>,
    pub(super) definition: Definition,
}

/// Reads `claims.toml`.
pub(super) fn entries(text: &str) -> Result<Vec<DefinitionEntry>, ClaimsError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(default)]
        claim: Vec<toml::Spanned<toml::Table>>,
    }
    let form = |start: usize, message: &str| ClaimsError::Form {
        path: FILE_NAME.to_owned(),
        line: text[..start.min(text.len())].matches('\n').count() + 1,
        message: message.to_owned(),
    };
    let file: File = toml::from_str(text)
        .map_err(|error| form(error.span().map_or(0, |span| span.start), error.message()))?;
    let mut entries = Vec::new();
    for table in file.claim {
        let start = table.span().start;
        let mut table = table.into_inner();
        let mut word = |key: &str| match table.remove(key) {
            None => Ok(None),
            Some(toml::Value::String(word)) => Ok(Some(word)),
            Some(_) => Err(form(start, &format!("{key} is not a text"))),
        };
        let (name, document, text) = (word("name")?, word("document")?, word("text")?);
        let name = name
            .filter(|name| !name.is_empty() && !name.contains('=') && name != super::NO_CLAIM)
            .ok_or_else(|| {
                form(
                    start,
                    "the claim has no name, or one that a marker cannot hold",
                )
            })?;
        let definition: Definition = table
            .try_into()
            .map_err(|error: toml::de::Error| form(start, error.message()))?;
        if let Some(problem) = definition.problem() {
            return Err(definition_error(FILE_NAME, &name, problem));
        }
        entries.push(DefinitionEntry {
            name,
            document,
            text,
            definition,
        });
    }
    Ok(entries)
}

/// Reads what a marker says: the keys of a definition, separated by commas.
pub(super) fn inline(path: &str, line: usize, content: &str) -> Result<Definition, ClaimsError> {
    #[derive(Deserialize)]
    struct Whole {
        claim: Definition,
    }
    let whole: Result<Whole, _> = toml::from_str(&format!("claim = {{ {content} }}"));
    let definition = whole.map_err(|error| ClaimsError::Form {
        path: path.to_owned(),
        line,
        message: error.message().to_owned(),
    })?;
    match definition.claim.problem() {
        Some(problem) => Err(definition_error(path, content, problem)),
        None => Ok(definition.claim),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_hold_as_far_as_digits_are_written_or_tolerance_goes() {
        use Relation::{AtLeast, AtMost, Equal, Within};
        let holds = |relation: Relation, written: &str, measured, within: Option<&str>| {
            let number = Number::at(written, 0).expect("a number");
            let within = within.map(|text| text.parse().expect("a tolerance"));
            relation.holds(measured, &number, within)
        };
        for (relation, written, measured, within, expected) in [
            (Equal, "11.5", 11.54, None, true),
            (Equal, "11.5", 11.56, None, false),
            (Equal, "8", 8.0, None, true),
            (Equal, "8", 9.0, None, false),
            (Equal, "100", 104.0, Some("5 %"), true),
            (Equal, "100", 106.0, Some("5 %"), false),
            (Equal, "8", 8.4, Some("0"), false),
            (AtLeast, "2.07", 2.07, None, true),
            (AtLeast, "2.07", 2.06, None, false),
            (AtLeast, "2.0", 1.9, Some("5%"), true),
            (AtMost, "5", 5.1, None, false),
            (AtMost, "5", 5.1, Some("0.2"), true),
            (Within, "10", 10.9, Some("1"), true),
            (Within, "10", 8.9, Some("1"), false),
        ] {
            let found = holds(relation, written, measured, within);
            assert_eq!(
                found, expected,
                "{measured} {relation:?} {written} {within:?}"
            );
        }
        assert!("5 percent".parse::<Tolerance>().is_err());
        assert!("-1".parse::<Tolerance>().is_err());
    }

    #[test]
    fn a_definition_names_one_proof() {
        let read = |text: &str| inline("a.md", 1, text);
        assert!(read("command = \"a b\"").is_ok());
        for text in [
            "within = \"1\"",
            "command = \"a\", bench = \"b\"",
            "command = \"a 'b\"",
            "command = \"a\", json = \"rows\"",
            "command = \"a\", relation = \"within\"",
            "command = \"a\", relation = \"<\"",
            "bench = \"a\", measure = \"colour\"",
            "tests = \"slow tests\"",
            "tests = \"unit tests\", command = \"a\"",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        let bench = read("bench = \"a\", relation = \"≥\"").expect("valid");
        assert_eq!(
            (bench.cost(), bench.relation),
            (Cost::Costly, Relation::AtLeast)
        );
    }
}
