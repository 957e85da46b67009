//! The sums of a run of tests: the lines `test result: …`, and nothing else.

use std::path::Path;

use serde::Serialize;

use super::{Format, ImportError};
use crate::run::counts;

/// What lines such as `test result: ok. 12 passed; 0 failed; 1 ignored; …` add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TestSummary {
    /// How many programs printed such a line.
    pub programs: usize,
    /// How many tests passed.
    pub passed: usize,
    /// How many failed.
    pub failed: usize,
    /// How many were ignored.
    pub ignored: usize,
}

impl TestSummary {
    /// Adds up the lines of a text, whatever stands before them and between them.
    ///
    /// # Errors
    ///
    /// Fails if there is none, or one that cannot be read: `path` is what they are read from.
    pub fn read(text: &str, path: &Path) -> Result<Self, ImportError> {
        const START: &str = "test result: ";
        let mut sum = Self::default();
        for line in text.lines() {
            let Some(at) = line.find(START) else {
                continue;
            };
            let Some([passed, failed, ignored]) = counts(&line[at..]) else {
                return Err(ImportError::Form {
                    path: path.to_owned(),
                    format: Format::CargoTest,
                    problem: format!("expected numbers of tests in {line:?}"),
                });
            };
            sum.programs += 1;
            sum.passed += passed;
            sum.failed += failed;
            sum.ignored += ignored;
        }
        if sum.programs == 0 {
            return Err(ImportError::Empty {
                path: path.to_owned(),
                format: Format::CargoTest,
            });
        }
        Ok(sum)
    }

    /// The share of the tests that ran which passed, in percent; 100 if none ran.
    pub fn success_rate(&self) -> f64 {
        match self.passed + self.failed {
            0 => 100.0,
            ran => 100.0 * self.passed as f64 / ran as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_added_up() {
        let text = "log:3:test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n\
                    noise\n\
                    test result: FAILED. 7 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        let sum = TestSummary::read(text, Path::new("-")).expect("has results");
        let expected = TestSummary {
            programs: 2,
            passed: 19,
            failed: 1,
            ignored: 1,
        };
        assert_eq!(sum, expected);
        assert_eq!(sum.success_rate(), 95.0);
        assert!(TestSummary::read("", Path::new("-")).is_err());
        assert!(TestSummary::read("test result: ok. x", Path::new("-")).is_err());
    }
}
