//! The file of an incident, which is replaced after every step, and the page beside it.

use std::fs;
use std::path::{Path, PathBuf};

use super::RecoverError;
use crate::flow::culprit::{SearchState, replace};
use crate::host::{new_id, now};
use crate::record::{FOLDER, Incident};

/// A new one about what a search looks for.
pub(super) fn opened(search: &SearchState) -> Incident {
    let opened_ms = now();
    let day = chrono::DateTime::from_timestamp_millis(opened_ms).unwrap_or_default();
    Incident {
        id: format!("{}-{}", day.format("%Y%m%d"), &new_id()[..6]),
        opened_ms,
        closed_ms: None,
        question: search.question.clone(),
        good: search.good.clone(),
        bad: search.bad.clone(),
        timeline: Vec::new(),
        confirmation: None,
        bisection: None,
        revert: None,
        validation: None,
        monitor: None,
    }
}

pub(super) fn load(root: &Path, id: &str) -> Result<Incident, RecoverError> {
    let path = root.join(FOLDER).join(format!("{id}.json"));
    let text = fs::read(&path).map_err(|_| RecoverError::None(id.to_owned()))?;
    serde_json::from_slice(&text).map_err(|source| RecoverError::Form { path, source })
}

/// All incidents, from old to new.
pub(super) fn all(root: &Path) -> Result<Vec<Incident>, RecoverError> {
    let entries = fs::read_dir(root.join(FOLDER)).into_iter().flatten();
    let ids = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = name.strip_suffix(".json")?;
        (!id.ends_with(".search")).then(|| id.to_owned())
    });
    let mut all = ids
        .map(|id| load(root, &id))
        .collect::<Result<Vec<_>, _>>()?;
    all.sort_by_key(|incident| incident.opened_ms);
    Ok(all)
}

/// The incident that was opened last and is still open, if one is.
pub(super) fn newest_open(root: &Path) -> Result<Option<Incident>, RecoverError> {
    let mut newest_first = all(root)?.into_iter().rev();
    Ok(newest_first.find(|incident| incident.closed_ms.is_none()))
}

/// Writes it for the next run, and for people.
pub(super) fn save(incident: &Incident, root: &Path) -> Result<(), RecoverError> {
    let folder = root.join(FOLDER);
    let path = folder.join(format!("{}.json", incident.id));
    let keep = |path: PathBuf| move |source| RecoverError::Keep { path, source };
    let text = serde_json::to_vec_pretty(incident).map_err(|source| RecoverError::Form {
        path: path.clone(),
        source,
    })?;
    replace(&path, &text).map_err(keep(path))?;
    let page = incident.page(root);
    replace(&page, incident.markdown().as_bytes()).map_err(keep(page.clone()))
}
