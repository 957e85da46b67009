//! Which tests a number of a document counts: `unit tests`, `passing`, `integration tests of app`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::baseline::{TestSet, TestStatus};
use crate::test_id::{TargetKind, TestId};

/// Which tests are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestCount {
    kind: Option<Kind>,
    /// Those of a state; all that are there, ignored ones too, if `None`.
    pub(crate) status: Option<TestStatus>,
    /// Those of a package.
    pub(crate) package: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unit,
    Integration,
    Documentation,
}

impl Kind {
    const WORDS: [(&str, Self); 3] = [
        ("unit", Self::Unit),
        ("integration", Self::Integration),
        ("documentation", Self::Documentation),
    ];

    fn holds(self, kind: TargetKind) -> bool {
        match self {
            Self::Unit => matches!(kind, TargetKind::Lib | TargetKind::Bin),
            Self::Integration => kind == TargetKind::Test,
            Self::Documentation => kind == TargetKind::Doc,
        }
    }
}

const STATES: [(&str, TestStatus); 4] = [
    ("passing", TestStatus::Passing),
    ("failing", TestStatus::Failing),
    ("flaky", TestStatus::Flaky),
    ("ignored", TestStatus::Ignored),
];

/// Why a text says not which tests are counted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} does not say which tests are counted (expected `tests`, `passing`, `failing`, `flaky` or \
     `ignored`, after `unit`, `integration` or `documentation` and before `of PACKAGE`)"
)]
pub struct ParseTestCountError(String);

impl TestCount {
    /// The same kind of tests in another state and package.
    pub(crate) fn with(&self, status: Option<TestStatus>, package: Option<String>) -> Self {
        Self {
            kind: self.kind,
            status,
            package,
        }
    }

    /// How many tests of a set it counts.
    pub fn of(&self, set: &TestSet) -> usize {
        let is_of = |test: &TestId| {
            self.kind.is_none_or(|kind| kind.holds(test.kind))
                && self
                    .package
                    .as_ref()
                    .is_none_or(|package| *package == test.package)
        };
        let tests = set.tests.iter().filter(|(test, _)| is_of(test));
        tests
            .filter(|(_, expected)| self.status.is_none_or(|status| status == expected.status()))
            .count()
    }
}

impl FromStr for TestCount {
    type Err = ParseTestCountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseTestCountError(text.to_owned());
        let (what, package) = match text.split_once(" of ") {
            Some((what, package)) => (what, Some(package)),
            None => (text, None),
        };
        let is_name = |name: &str| !name.is_empty() && !name.contains(char::is_whitespace);
        let (kind, what) = match what.split_once(' ') {
            Some((word, rest)) if Kind::WORDS.iter().any(|(known, _)| *known == word) => {
                let known = Kind::WORDS.iter().find(|(known, _)| *known == word);
                (known.map(|(_, kind)| *kind), rest)
            }
            _ => (None, what),
        };
        let status = match what {
            "tests" => None,
            "tests pass" => Some(TestStatus::Passing),
            word => {
                let state = STATES.iter().find(|(known, _)| *known == word);
                Some(state.map(|(_, status)| *status).ok_or_else(error)?)
            }
        };
        let package = package.map(str::to_owned);
        if package.as_ref().is_some_and(|name| !is_name(name)) {
            return Err(error());
        }
        Ok(Self {
            kind,
            status,
            package,
        })
    }
}

impl fmt::Display for TestCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((word, _)) = Kind::WORDS
            .iter()
            .find(|(_, kind)| Some(*kind) == self.kind)
        {
            write!(f, "{word} ")?;
        }
        let state = STATES
            .iter()
            .find(|(_, status)| Some(*status) == self.status);
        f.write_str(state.map_or("tests", |(word, _)| word))?;
        match &self.package {
            Some(package) => write!(f, " of {package}"),
            None => Ok(()),
        }
    }
}

impl Serialize for TestCount {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TestCount {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::Expected;
    use crate::stats::Counts;

    #[test]
    fn tests_are_counted_by_kind_state_and_package() {
        let mut set = TestSet::default();
        for (package, kind, path, passes) in [
            ("a", TargetKind::Lib, "one", 1),
            ("a", TargetKind::Lib, "ignored", 0),
            ("a", TargetKind::Test, "two", 1),
            ("a", TargetKind::Doc, "three", 1),
            ("b", TargetKind::Bin, "four", 1),
        ] {
            let expected = Expected {
                counts: Counts {
                    passes,
                    ..Counts::default()
                },
                ..Expected::default()
            };
            set.tests
                .insert(TestId::new(package, kind, "t", path), expected);
        }
        for (text, count) in [
            ("tests", 5),
            ("passing", 4),
            ("ignored", 1),
            ("unit tests", 3),
            ("unit passing", 2),
            ("integration tests of a", 1),
            ("integration tests of b", 0),
            ("documentation tests", 1),
        ] {
            let parsed: TestCount = text.parse().expect(text);
            assert_eq!(parsed.of(&set), count, "{text}");
            assert_eq!(parsed.to_string(), text);
        }
        for text in [
            "",
            "testing",
            "slow tests",
            "tests of ",
            "tests of the parser",
        ] {
            assert!(text.parse::<TestCount>().is_err(), "{text}");
        }
    }
}
