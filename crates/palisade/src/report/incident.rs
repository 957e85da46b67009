//! The incident in the forms it is told in.

use std::fmt::Write as _;

use crate::hash::short;
use crate::observation::Millis;
use crate::record::Incident;

impl Incident {
    /// The incident as text.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.title());
        for entry in &self.timeline {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "  {}: {} ({:.1} s)",
                entry.stage.words(),
                entry.words,
                entry.seconds
            );
        }
        for finding in self.validation.iter().flat_map(|v| &v.findings) {
            let _ = writeln!(text, "    {finding}");
        }
        let _ = writeln!(text, "{} (exit code {})", self.next(), self.exit_code());
        text
    }

    /// The incident as Markdown: timeline, evidence, culprit, confidence, actions.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n", self.title());
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "Opened {}; good at `{}`, bad at `{}`.\n\n## Timeline\n",
            date(self.opened_ms),
            short(&self.good),
            short(&self.bad)
        );
        for entry in &self.timeline {
            let _ = writeln!(
                text,
                "- {}, {}: {} ({:.1} s)",
                date(entry.at_ms),
                entry.stage.words(),
                entry.words,
                entry.seconds
            );
        }
        if let Some(found) = &self.bisection {
            let _ = writeln!(text, "\n## Culprit and evidence\n\n{}", found.markdown());
        }
        if let Some(revert) = &self.revert {
            text.push_str("\n## Actions\n\n");
            if let Some(branch) = &revert.branch {
                let _ = writeln!(text, "- `{branch}` takes the culprit back.");
            } else {
                let files = revert.conflicts.join("`, `");
                let _ = writeln!(text, "- Later commits changed the same places: `{files}`.");
            }
        }
        if let Some(validation) = &self.validation {
            let _ = writeln!(text, "- On it: {}.", validation.words());
            for finding in &validation.findings {
                let _ = writeln!(text, "  - {finding}");
            }
        }
        if let Some(monitor) = &self.monitor {
            let _ = writeln!(
                text,
                "- Added to `palisade.toml` there:\n\n```toml\n{monitor}```"
            );
        }
        let _ = writeln!(text, "\n{}", self.next());
        text
    }

    /// What is to be done now.
    fn next(&self) -> String {
        if self
            .confirmation
            .as_ref()
            .is_some_and(|found| !found.is_failing)
        {
            return "Not confirmed: fresh runs do not show it. Next: cargo palisade flaky stress"
                .to_owned();
        }
        if self.bisection.is_some() && self.culprit().is_none() {
            return "No single culprit is known. Next: look at the commits above".to_owned();
        }
        if self
            .revert
            .as_ref()
            .is_some_and(|revert| revert.branch.is_none())
        {
            let culprit = self.culprit().map_or("", |culprit| short(&culprit.id));
            return format!("The revert needs a person. Next: git revert {culprit}");
        }
        if let Some(validation) = &self.validation
            && (validation.rerun.is_failing || validation.rerun.is_unknown)
        {
            return "It still fails without the culprit. Next: look at the branch".to_owned();
        }
        match self.branch() {
            Some(branch) if self.closed_ms.is_some() => {
                format!("The way back is prepared. Next: git merge {branch}")
            }
            _ => format!("Next: cargo palisade recover {}", self.id),
        }
    }
}

/// A time as `2026-08-01 12:34 UTC`.
fn date(at_ms: Millis) -> String {
    let at = chrono::DateTime::from_timestamp_millis(at_ms).unwrap_or_default();
    at.format("%Y-%m-%d %H:%M UTC").to_string()
}
