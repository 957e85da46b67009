//! What a search found, in the forms it is told in.

use super::{CulpritError, LoggedObservation, SearchState};
use crate::bisect::{CommitEvidence, Search, SearchResult};
use crate::hash::short;
use crate::host::session::Session;
use crate::record::{BisectReport, CommitReport, CommitSummary};
use crate::stats::median;

impl CommitReport {
    pub(crate) fn of(session: &Session, id: &str) -> Result<Self, CulpritError> {
        let (author, date) = session.repo.signature(id)?;
        Ok(Self {
            id: id.to_owned(),
            subject: session.repo.resolve(id)?.subject,
            author,
            date,
        })
    }
}

impl BisectReport {
    pub(super) fn of(
        session: &Session,
        search: &Search,
        state: &SearchState,
        answer: SearchResult,
    ) -> Result<Self, CulpritError> {
        let named: &[String] = match &answer {
            SearchResult::Culprit { commits, .. } | SearchResult::Undecided { commits, .. } => {
                commits
            }
            _ => &[],
        };
        let named = named.iter().map(|id| CommitReport::of(session, id));
        let culprits = named.collect::<Result<Vec<_>, _>>()?;
        let probabilities = search.probabilities();
        let all = search.graph().nodes().iter().zip(search.evidence());
        let mut seen = Vec::new();
        for (at, (node, evidence)) in all.enumerate() {
            let CommitEvidence {
                counts,
                log_ratios,
                skipped,
            } = evidence;
            if counts.total() == 0 && log_ratios.is_empty() && !skipped {
                continue;
            }
            let mut log = state.log.iter();
            let why = log.find(|entry| entry.commit == node.id && entry.why.is_some());
            seen.push(CommitSummary {
                commit: node.id.clone(),
                subject: session.repo.resolve(&node.id)?.subject,
                failures: counts.failures,
                passes: counts.passes,
                pairs: log_ratios.len(),
                ratio: median(log_ratios).map(f64::exp),
                skipped: why.and_then(|observe| observe.why.clone()),
                probability: probabilities.get(at).copied().unwrap_or(0.0),
            });
        }
        // The good end stands last in the graph.
        if seen.last().is_some_and(|last| last.commit == state.good) {
            seen.rotate_right(1);
        }
        Ok(Self {
            schema: 1,
            exit_code: match &answer {
                SearchResult::Culprit { .. } => 0,
                SearchResult::Undecided { .. } => 4,
                SearchResult::Alike { .. }
                | SearchResult::Unmeasured { .. }
                | SearchResult::Contradiction => 3,
            },
            question: state.question.clone(),
            good: CommitReport::of(session, &state.good)?,
            bad: CommitReport::of(session, &state.bad)?,
            good_on_trust: search.is_good_on_trust(),
            bad_asked: match &state.bad_asked {
                Some(asked) => Some(CommitReport::of(session, asked)?),
                None => None,
            },
            hint: hint(state, &answer),
            model: search.model(),
            answer,
            culprits,
            suspects: search.graph().suspects(),
            runs: search.runs(),
            seen,
            seconds: 0.0,
        })
    }
}

/// A bad end that does not build is a failure that a command can look for.
fn hint(state: &SearchState, answer: &SearchResult) -> Option<String> {
    let SearchResult::Unmeasured { commit } = answer else {
        return None;
    };
    let is_it = |entry: &&LoggedObservation| entry.commit == *commit && entry.does_not_build;
    state.log.iter().find(is_it)?;
    Some(format!(
        "cargo palisade bisect --good {} --bad {} --cmd \"cargo test --workspace --no-run\" finds what broke the build",
        short(&state.good),
        short(commit)
    ))
}
