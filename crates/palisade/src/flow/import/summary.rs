//! The sums of a run of tests: the lines `test result: …`, and nothing else.

use std::path::Path;

use serde::Serialize;

use super::{Format, ImportError};
use crate::baseline::Tally;
use crate::host::run::counts;

/// What lines such as `test result: ok. 12 passed; 0 failed; 1 ignored; …` add up to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TestSummary {
    /// How many programs printed such a line.
    pub programs: usize,
    /// What they count together.
    pub tests: Tally,
    /// The share of the tests that ran and passed, in percent.
    pub success_rate: f64,
}

impl TestSummary {
    /// Adds up the lines of a text, whatever stands before them and between them.
    ///
    /// # Errors
    ///
    /// Fails if a line cannot be read, or no test ran: `path` is what they are read from.
    pub fn read(text: &str, path: &Path) -> Result<Self, ImportError> {
        const START: &str = "test result: ";
        let (mut programs, mut tests) = (0, Tally::default());
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
            programs += 1;
            tests.passing += passed;
            tests.failing += failed;
            tests.ignored += ignored;
        }
        // No data is never a pass.
        let success_rate = tests.success_rate().ok_or_else(|| ImportError::Empty {
            path: path.to_owned(),
            format: Format::CargoTest,
        })?;
        Ok(Self {
            programs,
            tests,
            success_rate,
        })
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
        let tests = Tally {
            passing: 19,
            failing: 1,
            flaky: 0,
            ignored: 1,
        };
        assert_eq!((sum.programs, sum.tests), (2, tests));
        assert_eq!(sum.success_rate, 95.0);
        let none = "test result: ok. 0 passed; 0 failed; 4 ignored; 0 measured; 0 filtered out";
        assert!(TestSummary::read(none, Path::new("-")).is_err());
        assert!(TestSummary::read("", Path::new("-")).is_err());
        assert!(TestSummary::read("test result: ok. x", Path::new("-")).is_err());
    }
}
