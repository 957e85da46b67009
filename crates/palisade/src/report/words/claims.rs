//! The words for what happened to claims.

use super::Words;
use crate::finding::{ClaimBefore, ClaimEvidence, FindingSubject};

/// The document and the name of a claim.
fn parts(subject: &FindingSubject) -> (&str, &str) {
    match subject {
        FindingSubject::Claim { document, name, .. } => (document, name),
        _ => ("", ""),
    }
}

fn since(before: ClaimBefore) -> &'static str {
    match before {
        ClaimBefore::NotCompared => "",
        ClaimBefore::Held => "; it held at the milestone",
        ClaimBefore::Unknown => "; the milestone does not know it",
    }
}

pub(super) fn broken(subject: &FindingSubject, seen: &ClaimEvidence) -> Words {
    let (document, name) = parts(subject);
    Words::new("broken", seen.reason.clone())
        .meaning(format!(
            "{document} says {}, and that is not so{}",
            seen.written,
            since(seen.before)
        ))
        .next(format!(
            "repair what became worse, or cargo palisade claims update {name:?}"
        ))
        .avoid("do not widen the tolerance before you know why")
}

pub(super) fn unmeasured(subject: &FindingSubject, seen: &ClaimEvidence) -> Words {
    let (_, name) = parts(subject);
    Words::new("unmeasured", seen.reason.clone())
        .meaning(format!(
            "whether {} is right was not shown{}",
            seen.written,
            since(seen.before)
        ))
        .next(format!("cargo palisade claims check {name:?}"))
        .no_pass()
}

pub(super) fn left_out(subject: &FindingSubject, seen: &ClaimEvidence) -> Words {
    Words::new("not_measured", seen.reason.clone())
        .meaning("it held at the milestone, and whether it does now was not looked at")
        .next(check_all(subject))
}

pub(super) fn still_broken(subject: &FindingSubject, seen: &ClaimEvidence) -> Words {
    Words::new("still_broken", seen.reason.clone())
        .meaning("it did not hold at the milestone either")
        .next(check_all(subject))
}

fn check_all(subject: &FindingSubject) -> String {
    let (_, name) = parts(subject);
    format!("cargo palisade claims check {name:?} --costly")
}

pub(super) fn gone(written: &str) -> Words {
    Words::new(
        "gone",
        format!("{written} held at the milestone, and no number is bound to it now"),
    )
    .meaning("the document says it no longer, or nothing proves it any more")
    .next("cargo palisade claims list")
}

/// Numbers with their lines, in words.
pub fn numbers(places: &[(usize, String)]) -> String {
    let places = places.iter();
    let places: Vec<String> = places
        .map(|(line, written)| format!("{written} in line {line}"))
        .collect();
    places.join(", ")
}

pub(super) fn contradiction(places: &[(usize, String)]) -> Words {
    Words::new("contradiction", numbers(places))
        .meaning("at most one of them is right")
        .next(
            "correct the others, or bind them: <!-- claim: NAME -->; \
             <!-- claim: none --> behind a number that counts something else",
        )
}
