//! The entry of `palisade.toml` that would have caught an incident.

use std::path::Path;

use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, Value, value};

use super::RecoverError;
use crate::policy::{Policy, PolicyError};
use crate::record::{Incident, Question};

/// What is added to a policy.
#[derive(Debug)]
pub(super) struct MonitorEntry {
    /// The entries.
    pub(super) entries: String,
    /// The file with them; `None` if it watches the incident already.
    pub(super) file: Option<String>,
}

impl MonitorEntry {
    /// The monitor of an incident, for the policy `before`; of what the monitor names, what
    /// that lacks and the policy `ours` has comes with it. `path` names both in errors.
    pub(super) fn new(
        incident: &Incident,
        before: &str,
        ours: &str,
        path: &Path,
    ) -> Result<Self, RecoverError> {
        let policy = Policy::parse(before, path)?;
        let form = |error: &toml_edit::TomlError| PolicyError::Form {
            path: path.to_owned(),
            line: 1,
            message: error.message().to_owned(),
        };
        let mut file: DocumentMut = before.parse().map_err(|error| form(&error))?;
        let ours: DocumentMut = ours.parse().map_err(|error| form(&error))?;
        let mut added = named_by(incident, &policy, &ours);
        added.push(("monitor", monitor(incident)?));
        let mut entries = DocumentMut::new();
        for (list, table) in &added {
            push(&mut entries, list, table.clone());
        }
        let is_watched = policy.monitor.iter().any(|m| m.name == name(incident));
        if !is_watched {
            for (list, table) in added {
                push(&mut file, list, table);
            }
        }
        let text = file.to_string();
        // The entries must mean what they say in this file.
        Policy::parse(&text, path)?;
        Ok(Self {
            entries: entries.to_string().trim_start().to_owned(),
            file: (!is_watched).then_some(text.trim_start().to_owned()),
        })
    }
}

fn name(incident: &Incident) -> String {
    format!("incident {}", incident.id)
}

fn monitor(incident: &Incident) -> Result<Table, RecoverError> {
    let culprit = incident.culprit().ok_or(RecoverError::NoCulprit)?;
    let (key, watched) = match &incident.question {
        Question::Test(test) => ("test", test.to_string()),
        Question::Bench { name, .. } => ("bench", name.clone()),
        Question::Command(words) => {
            let words = words.iter().map(String::as_str);
            // No argument of a program holds a zero byte.
            let line = shlex::try_join(words).map_err(|_| RecoverError::NoCulprit)?;
            ("command", line)
        }
        Question::Ratio(name) => ("ratio", name.clone()),
    };
    let mut table = Table::new();
    table.insert("name", value(name(incident)));
    table.insert(key, value(watched));
    table.insert("reason", value(format!("broken by {}", culprit.words())));
    Ok(table)
}

/// The ratio, and the commands that are measured, which a monitor names, `policy` lacks and
/// `ours` has.
fn named_by(
    incident: &Incident,
    policy: &Policy,
    ours: &DocumentMut,
) -> Vec<(&'static str, Table)> {
    let mut found = Vec::new();
    let mut benches = Vec::new();
    match &incident.question {
        Question::Ratio(name) => {
            let has = policy.ratio.iter().any(|ratio| ratio.name == *name);
            let ratio = tables(ours, "ratio").find(|table| text(table, "name") == Some(name));
            if let Some(ratio) = ratio {
                benches.extend(
                    [text(&ratio, "of"), text(&ratio, "to")]
                        .into_iter()
                        .flatten()
                        .map(str::to_owned),
                );
                if !has {
                    found.push(("ratio", ratio));
                }
            }
        }
        Question::Bench { name, .. } => benches.push(name.clone()),
        Question::Test(_) | Question::Command(_) => {}
    }
    for list in ["bench", "workload"] {
        for table in tables(ours, list) {
            let name = text(&table, "name").or_else(|| text(&table, "command"));
            let is_named = name.is_some_and(|name| benches.iter().any(|bench| bench == name));
            let mut commands = policy.bench.iter().chain(&policy.workload);
            let has = commands.any(|command| Some(command.name()) == name);
            if is_named && !has {
                found.push((list, table));
            }
        }
    }
    found
}

fn text<'a>(table: &'a Table, key: &str) -> Option<&'a str> {
    table.get(key)?.as_str()
}

/// The tables of a list, written in either way.
fn tables(file: &DocumentMut, list: &str) -> impl Iterator<Item = Table> {
    let item = file.get(list).cloned().unwrap_or_default();
    item.into_array_of_tables().into_iter().flatten()
}

/// Adds a table to a list, in the way in which the list is written.
fn push(file: &mut DocumentMut, list: &str, mut table: Table) {
    if let Some(array) = file.get_mut(list).and_then(Item::as_array_mut) {
        array.push(Value::from(table.into_inline_table()));
        return;
    }
    table.set_position(None);
    table.decor_mut().set_prefix("\n");
    let lists = file.entry(list);
    let tables = lists.or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    if let Some(tables) = tables.as_array_of_tables_mut() {
        tables.push(table);
    }
}
