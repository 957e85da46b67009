//! What was measured together: the two revisions of a comparison.

use crate::speed::{Measure, SpeedPurpose, SpeedRun};

/// A comparison of two commits.
pub(super) struct StoredComparison<'a> {
    /// Its two runs.
    pub revisions: [&'a SpeedRun; 2],
}

impl<'a> StoredComparison<'a> {
    /// All comparisons of two commits without changed files, oldest first.
    pub fn all(runs: &[&'a SpeedRun]) -> Vec<Self> {
        let is_of_comparison =
            |run: &&&SpeedRun| run.purpose == SpeedPurpose::Comparison && !run.subject.dirty;
        let runs: Vec<&SpeedRun> = runs.iter().filter(is_of_comparison).copied().collect();
        let other = |(at, run): (usize, &&'a SpeedRun)| {
            let mut later = runs[at + 1..].iter();
            let other = later.find(|other| {
                other.comparison_id == run.comparison_id
                    && other.subject.commit != run.subject.commit
            })?;
            Some(Self {
                revisions: [*run, *other],
            })
        };
        runs.iter().enumerate().filter_map(other).collect()
    }

    /// The other commit of the comparison of one.
    pub fn other_commit(&self, commit: &str) -> Option<&'a str> {
        let [a, b] = self.revisions.map(|run| run.subject.commit.as_str());
        match commit {
            _ if commit == a => Some(b),
            _ if commit == b => Some(a),
            _ => None,
        }
    }

    /// The pairs of a benchmark on two commits; none if these are not its revisions.
    pub fn between(
        &self,
        base: &str,
        candidate: &str,
        benchmark: &str,
        measure: Measure,
    ) -> Vec<(f64, f64)> {
        let values = |commit: &str| {
            let run = self
                .revisions
                .iter()
                .find(|run| run.subject.commit == commit)?;
            let mut seen = run.measurements.iter();
            seen.find(|seen| seen.benchmark == benchmark && seen.measure == measure)
        };
        match (values(base), values(candidate)) {
            (Some(base), Some(candidate)) => {
                let candidate = candidate.values.iter().copied();
                base.values.iter().copied().zip(candidate).collect()
            }
            _ => Vec::new(),
        }
    }
}
