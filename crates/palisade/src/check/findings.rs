//! Findings of a check that are about its runs.

use std::fmt::Write as _;

use crate::verdict::{Finding, FindingKind, Severity};

/// A note that there was nothing to compare with.
pub(super) fn no_history(head: &str) -> Finding {
    Finding {
        kind: FindingKind::Run,
        name: "base".to_owned(),
        state: "no_history".to_owned(),
        severity: Severity::Note,
        reason: format!("of no commit before {head} a run of all tests is stored"),
        meaning: "the tests are judged by themselves: none may fail that is not known to"
            .to_owned(),
        next: "keep the store for the next check, or share it: --store postgres://…".to_owned(),
        avoid: String::new(),
        output: None,
    }
}

/// A finding about a check in which nothing ran.
pub(crate) fn no_tests() -> Finding {
    Finding {
        kind: FindingKind::Run,
        name: "tests".to_owned(),
        state: "no_tests".to_owned(),
        severity: Severity::Unmeasured,
        reason: "no test ran on either revision".to_owned(),
        meaning: "nothing was measured, and that is not a pass".to_owned(),
        next: "write a test for what changed".to_owned(),
        avoid: String::new(),
        output: None,
    }
}

/// A finding about a run in which tests have no outcome.
pub fn incomplete(revision: &str, gaps: &[String]) -> Finding {
    const NAMED: usize = 5;
    let more = gaps.len().saturating_sub(NAMED);
    let mut output = gaps[..gaps.len().min(NAMED)].join("\n");
    if more > 0 {
        let _ = write!(output, "\nand {more} more");
    }
    Finding {
        kind: FindingKind::Run,
        name: revision.to_owned(),
        state: "incomplete".to_owned(),
        severity: Severity::Unmeasured,
        reason: match gaps.len() {
            1 => gaps[0].clone(),
            count => format!("{count} tests have no outcome"),
        },
        meaning: "what was not measured can hide a regression".to_owned(),
        next: "run it again; if it hangs, lower run.test_time_out in palisade.toml".to_owned(),
        avoid: "do not take this for a pass".to_owned(),
        output: Some(output),
    }
}
