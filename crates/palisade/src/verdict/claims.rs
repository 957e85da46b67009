//! What measured claims, and contradictions in documents, do to the verdict.

use super::{Finding, FindingKind, Severity};
use crate::claims::{Checked, ClaimState, Contradiction};
use crate::milestone::KnownClaim;

/// The findings about claims, worst first. Claims that hold and those that were left out
/// make none.
pub fn judge_claims(checked: &[Checked], contradictions: &[Contradiction]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = checked.iter().filter_map(finding).collect();
    findings.extend(contradictions.iter().map(contradiction));
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// The findings about claims since a milestone, worst first. A claim that held there and
/// does not now is a regression, and so is a false one that was not known there; one that
/// was false already is not. What held there and was not measured now, or is gone, is told.
pub fn judge_claims_since(
    known: &[KnownClaim],
    checked: &[Checked],
    contradictions: &[Contradiction],
) -> Vec<Finding> {
    let is = |known: &KnownClaim, checked: &Checked| {
        (&known.document, &known.name) == (&checked.claim.document, &checked.claim.name)
    };
    let since = |checked: &Checked| {
        let before = known.iter().find(|known| is(known, checked));
        let before = before.map(|known| known.state);
        since(checked, before)
    };
    let mut findings: Vec<Finding> = checked.iter().filter_map(since).collect();
    let is_gone = |known: &&KnownClaim| {
        known.state == ClaimState::Holds && !checked.iter().any(|checked| is(known, checked))
    };
    findings.extend(known.iter().filter(is_gone).map(gone));
    findings.extend(contradictions.iter().map(contradiction));
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// What became of a claim that a milestone knew in some state, or did not know.
fn since(checked: &Checked, before: Option<ClaimState>) -> Option<Finding> {
    let note = |state: &str, reason: String, meaning: &str| Finding {
        kind: FindingKind::Claim,
        name: checked.claim.title(),
        state: state.to_owned(),
        severity: Severity::Note,
        reason,
        meaning: meaning.to_owned(),
        next: format!(
            "cargo palisade claims check {:?} --costly",
            checked.claim.name
        ),
        avoid: String::new(),
        output: None,
    };
    match (checked.state, before) {
        (ClaimState::LeftOut, Some(ClaimState::Holds)) => Some(note(
            "not_measured",
            checked.reason.clone(),
            "it held at the milestone, and whether it does now was not looked at",
        )),
        (ClaimState::Broken, Some(ClaimState::Broken))
        | (ClaimState::Unmeasured, Some(ClaimState::Broken | ClaimState::Unmeasured)) => {
            Some(note(
                "still_broken",
                checked.reason.clone(),
                "it did not hold at the milestone either",
            ))
        }
        (_, before) => finding(checked).map(|mut finding| {
            finding.meaning.push_str(match before {
                Some(ClaimState::Holds) => "; it held at the milestone",
                _ => "; the milestone does not know it",
            });
            finding
        }),
    }
}

/// A claim that held and is in no document any more: nothing false is said.
fn gone(known: &KnownClaim) -> Finding {
    Finding {
        kind: FindingKind::Claim,
        name: format!("{} {}", known.document, known.name),
        state: "gone".to_owned(),
        severity: Severity::Note,
        reason: format!(
            "{} held at the milestone, and no number is bound to it now",
            known.written
        ),
        meaning: "the document says it no longer, or nothing proves it any more".to_owned(),
        next: "cargo palisade claims list".to_owned(),
        avoid: String::new(),
        output: None,
    }
}

fn finding(checked: &Checked) -> Option<Finding> {
    let (severity, state) = match checked.state {
        ClaimState::Holds | ClaimState::LeftOut => return None,
        ClaimState::Broken => (Severity::Regression, "broken"),
        ClaimState::Unmeasured => (Severity::Unmeasured, "unmeasured"),
    };
    let claim = &checked.claim;
    let is_broken = severity == Severity::Regression;
    Some(Finding {
        kind: FindingKind::Claim,
        name: claim.title(),
        state: state.to_owned(),
        severity,
        reason: checked.reason.clone(),
        meaning: if is_broken {
            format!(
                "{} says {}, and that is not so",
                claim.document, claim.written
            )
        } else {
            format!("whether {} is right was not shown", claim.written)
        },
        next: if is_broken {
            format!(
                "repair what became worse, or cargo palisade claims update {:?}",
                claim.name
            )
        } else {
            format!("cargo palisade claims check {:?}", claim.name)
        },
        avoid: if is_broken {
            "do not widen the tolerance before you know why"
        } else {
            "do not take this for a pass"
        }
        .to_owned(),
        output: None,
    })
}

fn contradiction(found: &Contradiction) -> Finding {
    Finding {
        kind: FindingKind::Claim,
        name: format!("{} {}", found.document, found.what),
        state: "contradiction".to_owned(),
        severity: Severity::Regression,
        reason: found.words(),
        meaning: "at most one of them is right".to_owned(),
        next: "correct the others, or bind them: <!-- claim: NAME -->; \
               <!-- claim: none --> behind a number that counts something else"
            .to_owned(),
        avoid: String::new(),
        output: None,
    }
}
