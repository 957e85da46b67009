//! `cargo palisade report`

use super::Context;
use crate::error::CommandError;
use palisade::hash::short;
use palisade::host::now;
use palisade::level::Level;
use palisade::record::{JournalEntry, JournalEvent, Recall, age, share_found};
use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::json;

pub fn run(context: &Context<'_>) -> Result<u8, CommandError> {
    let journal = context.session.store.journal()?;
    let scores: Vec<(&JournalEntry, &Recall)> = journal
        .iter()
        .filter_map(|entry| match &entry.event {
            JournalEvent::Scored(recall) => Some((entry, recall)),
            _ => None,
        })
        .collect();
    let mut text = String::new();
    push_recall(&mut text, &scores);
    for entry in &journal {
        let when = age(entry.at_ms, now());
        let commit = short(&entry.commit);
        // Writing to a string cannot fail.
        let _ = match &entry.event {
            JournalEvent::Approved { by, note } => {
                writeln!(text, "approved      {commit}, {when} ago, by {by}: {note}")
            }
            JournalEvent::HookBypassed { hook } => {
                writeln!(text, "without {hook}  {commit}, noticed {when} ago")
            }
            _ => Ok(()),
        };
    }
    let by_level: BTreeMap<&str, (u32, u32)> = LEVELS
        .into_iter()
        .filter_map(|level| Some((level.word(), share(&scores, Some(level))?)))
        .collect();
    let share_json = |(found, of): (u32, u32)| json!({"found": found, "of": of});
    let by_level: BTreeMap<_, _> = by_level
        .into_iter()
        .map(|(level, found)| (level.to_lowercase(), share_json(found)))
        .collect();
    let json = json!({
        "schema": 1,
        "recall": {
            "checks": scores.len(),
            "all": share(&scores, None).map(share_json),
            "by_level": by_level,
        },
        "journal": journal,
    });
    context.print(&json, &text)?;
    Ok(0)
}

const LEVELS: [Level; 4] = [Level::Low, Level::Medium, Level::High, Level::Critical];

/// What plans found over all checks of a level, or of all.
fn share(scores: &[(&JournalEntry, &Recall)], level: Option<Level>) -> Option<(u32, u32)> {
    let is_of = |recall: &&Recall| level.is_none() || recall.level == level;
    share_found(scores.iter().map(|(_, recall)| *recall).filter(is_of))
}

fn push_recall(text: &mut String, scores: &[(&JournalEntry, &Recall)]) {
    if scores.is_empty() {
        text.push_str("no plan was scored yet: cargo palisade check --full\n");
    }
    for (entry, recall) in scores {
        let level = recall.level.map_or("none", Level::word);
        let missed: Vec<String> = recall.missed.iter().map(ToString::to_string).collect();
        let missed = if missed.is_empty() {
            String::new()
        } else {
            format!("; missed {}", missed.join(", "))
        };
        let _ = writeln!(
            text,
            "plan          {}, {} ago, {level}: {} of {} failures{missed}",
            short(&entry.commit),
            age(entry.at_ms, now()),
            recall.found,
            recall.total()
        );
    }
    for level in LEVELS.into_iter().map(Some).chain([None]) {
        if let Some((found, of)) = share(scores, level) {
            let name = level.map_or("all levels", Level::word);
            let percent = 100.0 * f64::from(found) / f64::from(of);
            let _ = writeln!(
                text,
                "recall        {name}: {found} of {of} ({percent:.1} %)"
            );
        }
    }
}
