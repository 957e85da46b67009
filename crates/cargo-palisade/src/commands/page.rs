//! The page of a report: what a team looks at besides the verdict.

use super::Context;
use crate::error::CommandError;
use palisade::flow::claims::{Claims, Cost};
use palisade::flow::{milestone, quarantine, recover};
use palisade::history::History;
use palisade::host::now;
use palisade::observation::Millis;
use palisade::record::ReportDocument;
use palisade::report::{ClaimLine, HistoryPoint, Surroundings, html};

/// How many runs and commits the curves go back.
const HISTORY: u32 = 100;

/// The page of a report, with what the store and the workspace know.
pub fn page(context: &Context<'_>, report: &ReportDocument) -> Result<String, CommandError> {
    let session = &context.session;
    let store = session.store.as_ref();
    let mut runs: Vec<HistoryPoint> = store
        .recent_runs(HISTORY)?
        .iter()
        .filter_map(HistoryPoint::of)
        .collect();
    runs.reverse();
    let measured = store.speed_runs(Millis::MIN)?;
    let history = if measured.is_empty() {
        History::default()
    } else {
        let commits = session.repo.ancestors("HEAD", HISTORY)?;
        let commits: Vec<String> = commits.into_iter().rev().map(|commit| commit.id).collect();
        History::of(&measured, &store.calibrations()?, &commits)
    };
    let ledger = quarantine::ledger(store)?;
    let claims = Claims::load(session)?.list.into_iter().map(|claim| {
        let definition = &claim.definition;
        let costly = match definition.cost() {
            Cost::Cheap => "",
            Cost::Costly => " (costly)",
        };
        ClaimLine {
            title: claim.title(),
            written: claim.written.clone(),
            proof: format!("{}{costly}", definition.proof().title()),
            measured: definition.measured.clone(),
        }
    });
    let around = Surroundings {
        runs,
        flaky: ledger.flaky(),
        history,
        claims: claims.collect(),
        milestones: milestone::all(session)?,
        incidents: recover::incidents(session)?,
        remote: session.repo.remote_url(),
    };
    Ok(html(report, &around, now()))
}
