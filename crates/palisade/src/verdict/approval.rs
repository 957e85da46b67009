//! Whether a change that needs somebody's eyes had them.

use std::collections::BTreeSet;

use super::{Finding, FindingKind, Severity};
use crate::journal::{JournalEntry, JournalEvent};
use crate::level::Level;
use crate::policy::ApprovalPolicy;

/// The finding about the approval of a change: a note if it has one, a regression if the
/// policy demands one that is missing. `entries` are the journal's of the change's tree;
/// `authors` are those of the change, as `Name <address>`.
pub fn judge_approval(
    policy: ApprovalPolicy,
    level: Option<Level>,
    authors: &BTreeSet<String>,
    entries: &[JournalEntry],
) -> Option<Finding> {
    let is_demanded = policy.from.is_some_and(|from| level >= Some(from));
    let approvals = entries.iter().filter_map(|entry| match &entry.event {
        JournalEvent::Approved { by, note } => Some((by, note)),
        _ => None,
    });
    let (own, others): (Vec<_>, Vec<_>) =
        approvals.partition(|(by, _)| authors.iter().any(|author| is_same(author, by)));
    let counted = if policy.by_author {
        own.iter().chain(&others).next_back()
    } else {
        others.last()
    };
    let finding = Finding {
        kind: FindingKind::Risk,
        name: "approval".to_owned(),
        state: String::new(),
        severity: Severity::Note,
        reason: String::new(),
        meaning: String::new(),
        next: "nothing to do".to_owned(),
        avoid: String::new(),
        output: None,
    };
    if let Some((by, note)) = counted {
        return Some(Finding {
            state: "approved".to_owned(),
            reason: format!("{by}: {note}"),
            meaning: "somebody validated this very content by hand".to_owned(),
            ..finding
        });
    }
    if !is_demanded {
        return None;
    }
    let names: Vec<&str> = authors.iter().map(String::as_str).collect();
    let names = names.join(", ");
    let word = level.map_or("unknown", Level::word);
    let own = own
        .last()
        .map(|(by, _)| format!("; {by} is an author of it"));
    Some(Finding {
        state: "not_approved".to_owned(),
        severity: Severity::Regression,
        reason: format!(
            "the risk is {word}, and nobody besides {names} approved this content{}",
            own.unwrap_or_default()
        ),
        meaning: "the policy wants a second person to validate such a change by hand".to_owned(),
        next: "cargo palisade approve --note 'what was validated, and how', by somebody else, \
               with the same store"
            .to_owned(),
        avoid: "do not approve what you did not try".to_owned(),
        ..finding
    })
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

    fn judge(
        policy: ApprovalPolicy,
        level: Level,
        approvals: &[&str],
    ) -> Option<(Severity, String)> {
        let entries: Vec<JournalEntry> = approvals
            .iter()
            .map(|by| {
                let event = JournalEvent::Approved {
                    by: (*by).to_owned(),
                    note: "ran it".to_owned(),
                };
                JournalEntry::new("t", "c", event)
            })
            .collect();
        let found = judge_approval(policy, Some(level), &[ADA.to_owned()].into(), &entries);
        found.map(|finding| (finding.severity, finding.state))
    }

    #[test]
    fn a_demanded_approval_is_somebody_elses() {
        let policy = ApprovalPolicy {
            from: Some(Level::Critical),
            by_author: false,
        };
        let missing = Some((Severity::Regression, "not_approved".to_owned()));
        let given = Some((Severity::Note, "approved".to_owned()));
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
