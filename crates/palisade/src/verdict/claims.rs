//! What measured claims, and contradictions in documents, do to the verdict.

use super::{Effect, Finding, FindingKind};
use crate::claims::{Checked, ClaimState, Contradiction};

/// The findings about claims, worst first. Claims that hold and those that were left out
/// make none.
pub fn judge_claims(checked: &[Checked], contradictions: &[Contradiction]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = checked.iter().filter_map(finding).collect();
    findings.extend(contradictions.iter().map(contradiction));
    findings.sort_by_key(|finding| finding.effect);
    findings
}

fn finding(checked: &Checked) -> Option<Finding> {
    let (effect, state) = match checked.state {
        ClaimState::Holds | ClaimState::LeftOut => return None,
        ClaimState::Broken => (Effect::Regression, "broken"),
        ClaimState::Unmeasured => (Effect::Unmeasured, "unmeasured"),
    };
    let claim = &checked.claim;
    let is_broken = effect == Effect::Regression;
    Some(Finding {
        kind: FindingKind::Claim,
        name: claim.title(),
        state: state.to_owned(),
        effect,
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
        effect: Effect::Regression,
        reason: found.words(),
        meaning: "at most one of them is right".to_owned(),
        next: "correct the others, or bind them: <!-- claim: NAME -->; \
               <!-- claim: none --> behind a number that counts something else"
            .to_owned(),
        avoid: String::new(),
        output: None,
    }
}
