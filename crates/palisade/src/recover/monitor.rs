//! The entry of `palisade.toml` that would have caught an incident.

use super::Incident;
use crate::culprit::Question;

/// The entry; `None` where the policy has none for what is asked.
pub(super) fn entry(incident: &Incident) -> Option<String> {
    let (key, value) = match &incident.question {
        Question::Test(test) => ("test", test.to_string()),
        Question::Bench { name, .. } => ("bench", name.clone()),
        Question::Command(_) => return None,
    };
    let culprit = incident.culprit()?;
    let name = toml::Value::from(format!("incident {}", incident.id));
    let reason = toml::Value::from(format!("broken by {}", culprit.words()));
    let value = toml::Value::from(value);
    Some(format!(
        "[[monitor]]\nname = {name}\n{key} = {value}\nreason = {reason}\n"
    ))
}
