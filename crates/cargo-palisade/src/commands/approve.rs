//! `cargo palisade approve`

use palisade::check::{BaseChoice, CandidateChoice};
use palisade::journal::{JournalEntry, JournalEvent};
use palisade::record::Record;
use palisade::verdict::is_same;
use serde_json::json;

use super::Context;
use crate::error::UsageError;

pub fn run(
    context: &mut Context<'_>,
    revision: Option<&str>,
    note: &str,
    by: Option<&str>,
) -> anyhow::Result<u8> {
    let session = &mut context.session;
    let candidate = revision.map_or(CandidateChoice::Files, |revision| {
        CandidateChoice::Revision(revision.to_owned())
    });
    let (base, candidate) = session.revisions(&BaseChoice::Branching, &candidate)?;
    let by = by.map(str::to_owned).or_else(|| session.repo.user());
    let by = by.ok_or(UsageError::Nobody)?;
    let subject = &candidate.subject;
    let mut authors = session.repo.authors(&base.commit.id, &subject.commit)?;
    if subject.dirty {
        authors.extend(session.repo.user());
    }
    let policy = &session.policy.approval;
    let is_author = authors.iter().any(|author| is_same(author, &by));
    if is_author && policy.from.is_some() && !policy.by_author {
        return Err(UsageError::OwnApproval(by).into());
    }
    let event = JournalEvent::Approved {
        by: by.clone(),
        note: note.to_owned(),
    };
    let entry = JournalEntry::new(&subject.tree, &subject.commit, event);
    session.store.add(&Record::Journal(entry.clone()))?;
    let text = format!(
        "{by} approves {}, this very content (tree {}): {note}\n",
        candidate.name(),
        palisade::hash::short(&subject.tree)
    );
    context.print(&json!({"schema": 1, "entry": entry}), &text)?;
    Ok(0)
}
