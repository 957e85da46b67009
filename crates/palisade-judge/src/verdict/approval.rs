//! Whether a change that needs somebody's eyes had them.

use std::collections::BTreeSet;

use crate::finding::{Cause, Finding, FindingSubject, Severity};
use crate::level::Level;
use crate::policy::ApprovalPolicy;

/// That somebody validated a change by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Who: `Name <address>`.
    pub by: String,
    /// What was done to validate it.
    pub note: String,
}

/// The finding about the approval of a change: a note if it has one, a regression if the
/// policy demands one that is missing. `authors` are those of the change, as `Name <address>`.
pub fn judge_approval(
    policy: ApprovalPolicy,
    level: Option<Level>,
    authors: &BTreeSet<String>,
    approvals: &[Approval],
) -> Option<Finding> {
    let is_demanded = policy.from.is_some_and(|from| level >= Some(from));
    let is_own = |approval: &&Approval| authors.iter().any(|author| is_same(author, &approval.by));
    let (own, others): (Vec<_>, Vec<_>) = approvals.iter().partition(is_own);
    let counted = if policy.by_author {
        own.iter().chain(&others).next_back()
    } else {
        others.last()
    };
    let finding = |cause, severity| Finding::new(FindingSubject::Approval, cause, severity);
    if let Some(approval) = counted {
        let cause = Cause::Approved {
            by: approval.by.clone(),
            note: approval.note.clone(),
        };
        return Some(finding(cause, Severity::Note));
    }
    let cause = Cause::NotApproved {
        level,
        authors: authors.iter().cloned().collect(),
        own: own.last().map(|approval| approval.by.clone()),
    };
    is_demanded.then(|| finding(cause, Severity::Regression))
}

/// Whether two people are the same: by the address, or by the name where one has none.
pub fn is_same(one: &str, other: &str) -> bool {
    let parts = |person: &str| {
        let (name, rest) = person.split_once('<').unwrap_or((person, ""));
        let address = rest.trim_end_matches('>').trim().to_lowercase();
        (name.trim().to_lowercase(), address)
    };
    let ((one, of_one), (other, of_other)) = (parts(one), parts(other));
    (!of_one.is_empty() && of_one == of_other) || (!one.is_empty() && one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: &str = "Ada <ada@example.org>";

    fn judge(policy: ApprovalPolicy, level: Level, approvals: &[&str]) -> Option<(Severity, bool)> {
        let approvals: Vec<Approval> = approvals
            .iter()
            .map(|by| Approval {
                by: (*by).to_owned(),
                note: "ran it".to_owned(),
            })
            .collect();
        let found = judge_approval(policy, Some(level), &[ADA.to_owned()].into(), &approvals);
        found.map(|found| {
            (
                found.severity,
                matches!(found.cause, Cause::Approved { .. }),
            )
        })
    }

    #[test]
    fn a_demanded_approval_is_somebody_elses() {
        let policy = ApprovalPolicy {
            from: Some(Level::Critical),
            by_author: false,
        };
        let missing = Some((Severity::Regression, false));
        let given = Some((Severity::Note, true));
        assert_eq!(judge(policy, Level::High, &[]), None);
        assert_eq!(judge(policy, Level::Critical, &[]), missing);
        // Another name with the same address, and the same name with another one.
        for own in [ADA, "A. L. <ADA@example.org>", "ada <ada@home>", "Ada"] {
            assert_eq!(judge(policy, Level::Critical, &[own]), missing, "{own}");
        }
        assert_eq!(
            judge(policy, Level::Critical, &["Ben <ben@example.org>"]),
            given
        );
        assert_eq!(judge(policy, Level::Low, &["Ben"]), given);
        let alone = ApprovalPolicy {
            by_author: true,
            ..policy
        };
        assert_eq!(judge(alone, Level::Critical, &[ADA]), given);
    }
}
