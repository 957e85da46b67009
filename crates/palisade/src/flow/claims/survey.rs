//! What the numbers of a document say beside its claims: figures of speed and memory that
//! nothing proves, and counts that contradict each other.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Claims, Document, Number, TestCount};
use crate::verdict::Contradiction;

/// A number that nothing proves.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unproved {
    /// The document.
    pub document: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The number as it is written.
    pub written: String,
    /// What the line says.
    pub text: String,
}

/// The figures of speed and memory that no claim binds and no marker takes out.
pub fn unproved(claims: &Claims) -> Vec<Unproved> {
    let mut found = Vec::new();
    for document in &claims.documents {
        let spoken = spoken_for(claims, document);
        for seen in &document.numbers {
            let number = &seen.number;
            if seen.is_performance && !spoken.contains(&number.at.start) {
                found.push(Unproved {
                    document: document.path.clone(),
                    line: document.line(number.at.start),
                    written: document.text[number.at.clone()].to_owned(),
                    text: document.line_text(number.at.start).to_owned(),
                });
            }
        }
    }
    found
}

/// The places of the numbers that have a marker or a claim.
fn spoken_for(claims: &Claims, document: &Document) -> BTreeSet<usize> {
    let marked = document.markers.iter().filter_map(|marker| marker.number);
    let marked = marked.map(|at| document.numbers[at].number.at.start);
    let of_document = claims
        .list
        .iter()
        .filter(|claim| claim.document == document.path);
    marked
        .chain(of_document.map(|claim| claim.number.at.start))
        .collect()
}

/// The counts that contradict each other, document by document: two numbers for one claim,
/// or of the same tests in prose. A number whose marker says `none` is left out.
pub fn contradictions(claims: &Claims) -> Vec<Contradiction> {
    let mut found = Vec::new();
    for document in &claims.documents {
        let mut counted: BTreeMap<String, Vec<&Number>> = BTreeMap::new();
        for claim in claims
            .list
            .iter()
            .filter(|claim| claim.document == document.path)
        {
            let what = format!("claim {}", claim.name);
            counted.entry(what).or_default().push(&claim.number);
        }
        let spoken = spoken_for(claims, document);
        for seen in document.numbers.iter().filter(|seen| seen.column.is_none()) {
            let at = seen.number.at.start;
            if let (Some(what), false) = (
                what_is_counted(document, &seen.number),
                spoken.contains(&at),
            ) {
                counted.entry(what).or_default().push(&seen.number);
            }
        }
        for (what, numbers) in counted {
            if numbers
                .iter()
                .any(|number| number.value != numbers[0].value)
            {
                let place = |number: &&Number| {
                    let written = document.text[number.at.clone()].to_owned();
                    (document.line(number.at.start), written)
                };
                found.push(Contradiction {
                    document: document.path.clone(),
                    places: numbers.iter().map(place).collect(),
                    what,
                });
            }
        }
    }
    found
}

/// A number in prose that counts tests, and that nothing proves yet.
pub(crate) struct CountedTests<'a> {
    pub(crate) document: &'a Document,
    pub(crate) number: &'a Number,
    pub(crate) what: TestCount,
}

/// The numbers in prose that count tests, but for those that a claim or a marker speaks for.
pub(crate) fn test_counts(claims: &Claims) -> Vec<CountedTests<'_>> {
    let mut found = Vec::new();
    for document in &claims.documents {
        let spoken = spoken_for(claims, document);
        for seen in document.numbers.iter().filter(|seen| seen.column.is_none()) {
            let number = &seen.number;
            let what = what_is_counted(document, number).and_then(|what| what.parse().ok());
            if let (Some(what), false) = (what, spoken.contains(&number.at.start)) {
                found.push(CountedTests {
                    document,
                    number,
                    what,
                });
            }
        }
    }
    found
}

/// Words for the state of tests, with the word that they are told by.
const STATES: [(&str, &str); 9] = [
    ("failing", "failing"),
    ("failed", "failing"),
    ("failures", "failing"),
    ("passing", "passing"),
    ("passed", "passing"),
    ("ignored", "ignored"),
    ("skipped", "skipped"),
    ("flaky", "flaky"),
    ("tests", "tests"),
];

/// Words that may stand between a number and what it counts.
const BETWEEN: [&str; 5] = ["known", "tests", "unit", "integration", "documentation"];

/// What a number in prose counts, if it counts tests: `8 failing tests` and `8 tests
/// failing` count the same, `8 tests of the parser` something else.
fn what_is_counted(document: &Document, number: &Number) -> Option<String> {
    let rest = document.text[number.at.end..].strip_prefix(' ')?;
    let end = rest.find(['.', ',', ';', ':', '(', ')', '\n', '|', '<', '`', '*']);
    let words: Vec<String> = rest[..end.unwrap_or(rest.len())]
        .split_whitespace()
        .map(str::to_lowercase)
        .collect();
    let state = |word: &String| {
        let state = STATES.iter().find(|(known, _)| known == word);
        state.map(|(_, told)| *told)
    };
    let mut at = 0;
    let mut kinds = Vec::new();
    while words
        .get(at)
        .is_some_and(|word| BETWEEN.contains(&word.as_str()))
    {
        let is_last = words.get(at + 1).and_then(state).is_none();
        if words[at] == "tests" && is_last {
            break;
        }
        if words[at] != "tests" {
            kinds.push(words[at].as_str());
        }
        at += 1;
    }
    let told = state(words.get(at)?)?;
    let mut rest = words[at + 1..].iter().map(String::as_str);
    let following = rest
        .by_ref()
        .find(|word| *word != "tests" && *word != "test");
    let is_narrower =
        |word: &str| ["of", "in", "on", "per", "from", "for", "at", "with"].contains(&word);
    let narrowed = match following {
        Some(word) if is_narrower(word) => format!("{word} {}", rest.collect::<Vec<_>>().join(" ")),
        Some(word) if told == "tests" => word.to_owned(),
        _ => String::new(),
    };
    kinds.push(told);
    let words = [kinds.join(" "), narrowed];
    Some(words.join(" ").trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let claims = Claims::of(vec![("a.md".to_owned(), text.to_owned())], "").expect("valid");
        let found = contradictions(&claims);
        found
            .iter()
            .map(|c| format!("{}: {}", c.what, crate::report::numbers(&c.places)))
            .collect()
    }

    #[test]
    fn counts_of_one_document_agree() {
        assert_eq!(
            found("There are 8 failing tests.\n\nCI knows 9 failing, and 960 tests pass.\n"),
            ["failing: 8 in line 1, 9 in line 3"]
        );
        for text in [
            "8 failing tests, and later 8 tests failing",
            "8 failing tests in a; 9 failing tests in b",
            "186 tests of three crates; 1 300 tests pass",
            "8 failing here, 9 failing<!-- claim: none --> once",
            "| failing |\n|---|\n| 8 failing |\n| 9 failing |\n",
            "`8 failing`, 9 failing",
        ] {
            assert_eq!(found(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn one_claim_is_written_once_or_equally() {
        let text = "8<!-- claim: command = \"n\" --> and 9<!-- claim: command = \"n\" -->\n";
        assert_eq!(found(text), ["claim n: 8 in line 1, 9 in line 1"]);
    }

    #[test]
    fn figures_without_proof_are_listed() {
        let text = "Takes 12 ms, or 7 ms<!-- claim: command = \"n\" -->, for 3 files, 5 s<!-- claim: none -->.\n";
        let claims = Claims::of(vec![("a.md".to_owned(), text.to_owned())], "").expect("valid");
        let found = unproved(&claims);
        let written: Vec<&str> = found.iter().map(|found| found.written.as_str()).collect();
        assert_eq!(written, ["12"]);
    }
}
