//! Numbers of tests that documents state: proposed as claims where they are right.

use super::{Proposals, ProposedClaim, ProposedProof, Refused};
use crate::baseline::{TestSet, TestStatus};
use crate::flow::claims::{Claims, ClaimsError, CountedTests, TestCount, test_counts};
use crate::host::session::Session;
use crate::workspace::Workspace;

/// Holds the numbers of tests in documents against the tests that were `seen`, with the features
/// that are in force from now on.
pub fn propose_counts(
    session: &Session,
    seen: &TestSet,
    proposals: &mut Proposals,
) -> Result<(), ClaimsError> {
    let claims = Claims::load(session)?;
    for counted in test_counts(&claims) {
        let document = counted.document;
        let place = format!(
            "{}:{}",
            document.path,
            document.line(counted.number.at.start)
        );
        let meant = meanings(&counted, &session.workspace);
        let holds = |count: &&TestCount| count.of(seen) as f64 == counted.number.value;
        match meant.iter().find(holds) {
            Some(count) => proposals.claims.extend(claim(&counted, count)),
            None => proposals.refused.extend(meant.first().map(|count| Refused {
                place,
                command: count.to_string(),
                reason: format!(
                    "{} is written, and there are {}",
                    &document.text[counted.number.at.clone()],
                    count.of(seen)
                ),
            })),
        }
    }
    Ok(())
}

/// What a number can count: the tests of the package that the document belongs to, or of all; and
/// where no state is said, those that are there, or those that pass.
fn meanings(counted: &CountedTests<'_>, workspace: &Workspace) -> Vec<TestCount> {
    let said = &counted.what;
    let packages = match &said.package {
        Some(package) if workspace.packages.contains_key(package) => vec![Some(package.clone())],
        // Of something else.
        Some(_) => Vec::new(),
        None => {
            let owner = workspace.owner(&in_repository(workspace, &counted.document.path));
            let own = owner.filter(|owner| owner.dir != workspace.dir);
            let own = own.map(|owner| Some(owner.name.clone()));
            own.into_iter().chain([None]).collect()
        }
    };
    let mut found = Vec::new();
    for package in packages {
        let states = match said.status {
            None => vec![None, Some(TestStatus::Passing)],
            status => vec![status],
        };
        let of = |status| said.with(status, package.clone());
        found.extend(states.into_iter().map(of));
    }
    found
}

/// The path of a document from the repository's root.
fn in_repository(workspace: &Workspace, path: &str) -> String {
    match workspace.dir.as_str() {
        "" => path.to_owned(),
        dir => format!("{dir}/{path}"),
    }
}

/// The claim, where the words around its number are in the document once.
fn claim(counted: &CountedTests<'_>, count: &TestCount) -> Option<ProposedClaim> {
    let (document, at) = (counted.document, &counted.number.at);
    let text = &document.text;
    let start = text[..at.start].rfind('\n').map_or(0, |end| end + 1);
    let after = &text[at.end..];
    let end = after.find(['.', ',', ';', ':', '(', ')', '\n', '|', '<', '`', '*']);
    let after = &after[..end.unwrap_or(after.len())];
    let before = ["", &text[start..at.start]];
    let mut before = before.into_iter();
    let before = before.find(|before| document.between(before, after).len() == 1)?;
    Some(ProposedClaim {
        name: format!("{count} in {}:{}", document.path, document.line(at.start)),
        document: document.path.clone(),
        text: format!("{before}{{}}{after}"),
        proof: ProposedProof::Tests(count.to_string()),
    })
}
