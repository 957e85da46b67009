//! What measured claims, and contradictions in documents, do to the verdict.

use serde::{Deserialize, Serialize};

use crate::finding::{
    Cause, ClaimBefore, ClaimEvidence, ClaimState, Finding, FindingSubject, Severity,
};

/// A claim of a document, and what was measured of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimResult {
    /// The document.
    pub document: String,
    /// The line of the number, counted from 1.
    pub line: usize,
    /// What the claim is called.
    pub name: String,
    /// The number as it is written.
    pub written: String,
    /// Whether it holds.
    pub state: ClaimState,
    /// Why, in words.
    pub reason: String,
}

/// What a claim was worth when a milestone was set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnownClaim {
    /// The document.
    pub document: String,
    /// What the claim is called.
    pub name: String,
    /// The number as it was written.
    pub written: String,
    /// Whether it held.
    pub state: ClaimState,
    /// What was measured, in the document's unit.
    pub found: Option<f64>,
}

/// Two numbers of one document of which at most one is right.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Contradiction {
    /// The document.
    pub document: String,
    /// What both count.
    pub what: String,
    /// The numbers as they are written, with their lines.
    pub places: Vec<(usize, String)>,
}

/// The findings about claims, worst first. Claims that hold and those that were left out
/// make none.
pub fn judge_claims(results: &[ClaimResult], contradictions: &[Contradiction]) -> Vec<Finding> {
    let found = results
        .iter()
        .filter_map(|result| of_claim(result, ClaimBefore::NotCompared));
    sorted(found.chain(contradictions.iter().map(contradiction)))
}

/// The findings about claims since a milestone, worst first. A claim that held there and
/// does not now is a regression, and so is a false one that was not known there; one that
/// was false already is not. What held there and was not measured now, or is gone, is told.
pub fn judge_claims_since(
    known: &[KnownClaim],
    results: &[ClaimResult],
    contradictions: &[Contradiction],
) -> Vec<Finding> {
    let is = |known: &KnownClaim, result: &ClaimResult| {
        (&known.document, &known.name) == (&result.document, &result.name)
    };
    let since = results.iter().filter_map(|result| {
        let before = known.iter().find(|known| is(known, result));
        since(result, before.map(|known| known.state))
    });
    let is_gone = |known: &&KnownClaim| {
        known.state == ClaimState::Holds && !results.iter().any(|result| is(known, result))
    };
    let gone = known.iter().filter(is_gone).map(gone);
    sorted(
        since
            .chain(gone)
            .chain(contradictions.iter().map(contradiction)),
    )
}

fn sorted(findings: impl Iterator<Item = Finding>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = findings.collect();
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// What became of a claim that a milestone knew in some state, or did not know.
fn since(result: &ClaimResult, before: Option<ClaimState>) -> Option<Finding> {
    let since = match before {
        Some(ClaimState::Holds) => ClaimBefore::Held,
        _ => ClaimBefore::Unknown,
    };
    let evidence = || evidence(result, since);
    let cause = match (result.state, before) {
        (ClaimState::LeftOut, Some(ClaimState::Holds)) => Cause::ClaimLeftOut(evidence()),
        (ClaimState::Broken, Some(ClaimState::Broken))
        | (ClaimState::Unmeasured, Some(ClaimState::Broken | ClaimState::Unmeasured)) => {
            Cause::ClaimStillBroken(evidence())
        }
        _ => return of_claim(result, since),
    };
    Some(Finding::new(subject(result), cause, Severity::Note))
}

fn of_claim(result: &ClaimResult, before: ClaimBefore) -> Option<Finding> {
    let evidence = evidence(result, before);
    let (cause, severity) = match result.state {
        ClaimState::Holds | ClaimState::LeftOut => return None,
        ClaimState::Broken => (Cause::ClaimBroken(evidence), Severity::Regression),
        ClaimState::Unmeasured => (Cause::ClaimUnmeasured(evidence), Severity::Unmeasured),
    };
    Some(Finding::new(subject(result), cause, severity))
}

fn subject(result: &ClaimResult) -> FindingSubject {
    FindingSubject::Claim {
        document: result.document.clone(),
        line: Some(result.line),
        name: result.name.clone(),
    }
}

fn evidence(result: &ClaimResult, before: ClaimBefore) -> ClaimEvidence {
    ClaimEvidence {
        written: result.written.clone(),
        reason: result.reason.clone(),
        before,
    }
}

/// A claim that held and is in no document any more: nothing false is said.
fn gone(known: &KnownClaim) -> Finding {
    let subject = FindingSubject::Claim {
        document: known.document.clone(),
        line: None,
        name: known.name.clone(),
    };
    let written = known.written.clone();
    Finding::new(subject, Cause::ClaimGone { written }, Severity::Note)
}

fn contradiction(found: &Contradiction) -> Finding {
    let subject = FindingSubject::Count {
        document: found.document.clone(),
        what: found.what.clone(),
    };
    let places = found.places.clone();
    Finding::new(
        subject,
        Cause::Contradiction { places },
        Severity::Regression,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(name: &str, state: ClaimState) -> ClaimResult {
        ClaimResult {
            document: "README.md".to_owned(),
            line: 1,
            name: name.to_owned(),
            written: "7".to_owned(),
            state,
            reason: String::new(),
        }
    }

    fn known(name: &str, state: ClaimState) -> KnownClaim {
        KnownClaim {
            document: "README.md".to_owned(),
            name: name.to_owned(),
            written: "7".to_owned(),
            state,
            found: None,
        }
    }

    #[test]
    fn a_claim_is_held_to_what_it_was_at_the_milestone() {
        use ClaimState::{Broken, Holds, LeftOut, Unmeasured};
        for (before, now, expected) in [
            (Some(Holds), Holds, None),
            (Some(Holds), Broken, Some(Severity::Regression)),
            (Some(Holds), Unmeasured, Some(Severity::Unmeasured)),
            (Some(Holds), LeftOut, Some(Severity::Note)),
            (Some(Broken), Broken, Some(Severity::Note)),
            (Some(Broken), Unmeasured, Some(Severity::Note)),
            (Some(Unmeasured), Broken, Some(Severity::Regression)),
            (None, Broken, Some(Severity::Regression)),
            (None, LeftOut, None),
        ] {
            let before: Vec<KnownClaim> =
                before.map(|state| known("a", state)).into_iter().collect();
            let found = judge_claims_since(&before, &[result("a", now)], &[]);
            let severity = found.first().map(|finding| finding.severity);
            assert_eq!(severity, expected, "{before:?} {now:?}");
        }
        let gone = judge_claims_since(&[known("a", Holds)], &[], &[]);
        assert!(matches!(gone[0].cause, Cause::ClaimGone { .. }));
    }
}
