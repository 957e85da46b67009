//! `cargo palisade approve`

use super::Context;
use crate::error::{CommandError, UsageError};
use palisade::host::journal_entry;
use palisade::host::session::{BaseChoice, CandidateChoice};
use palisade::record::{JournalEvent, Record};
use palisade::verdict::is_same;
use serde_json::json;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo palisade approve --note 'ran it on the board, 200 prompts'")]
pub struct Args {
    /// The commit [default: the files as they are]
    pub revision: Option<String>,
    /// What was validated, and how
    #[arg(long, value_name = "TEXT")]
    pub note: String,
    /// Who you are [default: git's user.name and user.email]
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,
}

pub fn run(context: &mut Context<'_>, args: &Args) -> Result<u8, CommandError> {
    let session = &mut context.session;
    let candidate = match &args.revision {
        Some(revision) => CandidateChoice::Revision(revision.clone()),
        None => CandidateChoice::Files,
    };
    let (base, candidate) = session.revisions(&BaseChoice::Branching, &candidate)?;
    let by = args.by.clone().or_else(|| session.repo.user());
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
        note: args.note.clone(),
    };
    let entry = journal_entry(&subject.tree, &subject.commit, event);
    session.store.add(&Record::Journal(entry.clone()))?;
    let text = format!(
        "{by} approves {}, this very content (tree {}): {}\n",
        candidate.name(),
        palisade::hash::short(&subject.tree),
        args.note
    );
    context.print(&json!({"schema": 1, "entry": entry}), &text)?;
    Ok(0)
}
