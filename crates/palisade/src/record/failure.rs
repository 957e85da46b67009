//! A failure that was run again before it is kept.

use serde::Serialize;

use super::counted;
use crate::test_id::TestId;

/// What a test that failed turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// It failed each time.
    Broken,
    /// It did both: it belongs into the ledger of flaky tests.
    Flaky,
    /// It failed each time under cargo-nextest, and passes under `cargo test`.
    OnlyUnderNextest,
}

/// A test that failed in a run, with what its reruns said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfirmedFailure {
    /// The test.
    pub test: TestId,
    /// What it turned out to be.
    pub kind: FailureKind,
    /// How often it failed.
    pub failures: u32,
    /// How often it ran.
    pub runs: u32,
    /// What it said.
    pub message: Option<String>,
}

impl ConfirmedFailure {
    /// Why it is taken for what it is, in one line.
    pub fn reason(&self) -> String {
        let runs = counted(self.runs as usize, "run");
        let seen = format!("it failed in {} of {runs}", self.failures);
        match self.kind {
            FailureKind::OnlyUnderNextest => format!(
                "{seen} under cargo-nextest, which runs each test in a process of its own, and \
                 passes under `cargo test`"
            ),
            FailureKind::Flaky => seen,
            FailureKind::Broken => match self.first_line() {
                Some(line) => format!("{seen}: {line}"),
                None => seen,
            },
        }
    }

    /// What it said, without the line that only says where it panicked.
    fn first_line(&self) -> Option<&str> {
        let lines = self.message.as_deref()?.lines().map(str::trim);
        let mut lines = lines.filter(|line| !line.is_empty());
        lines.find(|line| !(line.starts_with("thread '") && line.contains("panicked at")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_id::TargetKind;

    #[test]
    fn the_reason_says_what_was_seen() {
        let failure = |kind, failures| ConfirmedFailure {
            test: TestId::new("a", TargetKind::Lib, "", "x"),
            kind,
            failures,
            runs: 6,
            message: Some("thread 'x' (7) panicked at src/lib.rs:3:5:\nno file\nmore".to_owned()),
        };
        let broken = failure(FailureKind::Broken, 6).reason();
        assert_eq!(broken, "it failed in 6 of 6 runs: no file");
        let flaky = failure(FailureKind::Flaky, 2).reason();
        assert_eq!(flaky, "it failed in 2 of 6 runs");
        let nextest = failure(FailureKind::OnlyUnderNextest, 6).reason();
        assert!(nextest.ends_with("passes under `cargo test`"), "{nextest}");
    }
}
