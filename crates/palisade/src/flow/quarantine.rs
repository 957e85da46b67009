//! Reads what is known of flaky tests out of the store, and ends quarantines.

use palisade_judge::flaky::{Ledger, QuarantineEntry, release_entry};
use palisade_judge::observation::Millis;

use crate::host::new_id;
use crate::host::store::{Store, StoreError};
use crate::record::Record;

/// Reads the ledger of flaky tests out of the store.
pub fn ledger(store: &dyn Store) -> Result<Ledger, StoreError> {
    Ok(Ledger::of(
        store.tallies(None)?,
        &store.quarantine_entries()?,
    ))
}

/// Ends the quarantines that are over: expired, or followed by as many passes in
/// a row as the old failure rate demands. Returns what was ended.
pub fn release_due(store: &mut dyn Store, now: Millis) -> Result<Vec<QuarantineEntry>, StoreError> {
    let mut released = Vec::new();
    let entries = store.quarantine_entries()?;
    if entries.is_empty() {
        return Ok(released);
    }
    let ledger = Ledger::of(store.tallies(None)?, &entries);
    for record in ledger.flaky() {
        let Some(quarantine) = &record.quarantine else {
            continue;
        };
        let outcomes = store.outcomes_since(&record.test, quarantine.since_ms)?;
        let passes = outcomes.iter().rev().take_while(|passed| **passed).count();
        let reason = if passes as u64 >= u64::from(quarantine.release_after) {
            format!(
                "{passes} passes in a row, {} were demanded",
                quarantine.release_after
            )
        } else if now >= quarantine.expires_ms {
            "its time is over".to_owned()
        } else {
            continue;
        };
        let entry = release_entry(new_id(), &record.test, reason, now);
        store.add(&Record::Quarantine(entry.clone()))?;
        released.push(entry);
    }
    Ok(released)
}
