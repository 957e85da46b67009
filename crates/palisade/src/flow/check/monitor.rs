//! What is looked at because it broke once: the commands of monitors.

use super::{Check, CheckError};
use crate::bisect::CommitObservation;
use crate::finding::{Finding, MonitorGap};
use crate::flaky::{Judgement, judge};
use crate::flow::command::{CommandResult, run_command};
use crate::host::session::Revision;
use crate::policy::Monitor;
use crate::rerun::RerunResult;
use crate::stats::Counts;
use crate::verdict::{judge_monitor, unmeasured_monitor};

impl Check<'_> {
    /// Runs the commands of monitors on the candidate; those that fail there on both revisions,
    /// until each is judged. Both revisions are checkouts, as they were where the culprit was
    /// looked for.
    pub(super) fn monitored_commands(&mut self) -> Result<Vec<Finding>, CheckError> {
        let is_first_shard = self.options.shard.is_none_or(|shard| shard.index == 1);
        if self.same || !is_first_shard {
            return Ok(Vec::new());
        }
        let with_words = |monitor: &Monitor| Some((monitor.clone(), monitor.words()?));
        let monitors: Vec<_> = self
            .session
            .policy
            .monitor
            .iter()
            .filter_map(with_words)
            .collect();
        if monitors.is_empty() {
            return Ok(Vec::new());
        }
        // The places of their checkouts are given back, so that they are found again.
        self.base.leave();
        self.candidate.leave();
        let (mut base, mut candidate) = (self.base.in_checkout(), self.candidate.in_checkout());
        let mut findings = Vec::new();
        for (monitor, words) in &monitors {
            let revisions = [&mut base, &mut candidate];
            findings.extend(self.monitored_command(monitor, words, revisions)?);
        }
        Ok(findings)
    }

    fn monitored_command(
        &mut self,
        monitor: &Monitor,
        words: &[String],
        [base, candidate]: [&mut Revision; 2],
    ) -> Result<Option<Finding>, CheckError> {
        if self.is_over() {
            return Ok(Some(unmeasured_monitor(monitor, MonitorGap::Budget)));
        }
        self.step(format!("monitor {}: {}", monitor.name, words.join(" ")));
        let policy = self.session.policy.flaky;
        let mut counts = [Counts::default(); 2];
        let mut output = String::new();
        let first = run_command(self.session, candidate, words, self.events)?;
        if let Some(why) = count(&first, &mut counts[1], &mut output) {
            return Ok(Some(unmeasured_monitor(monitor, MonitorGap::Command(why))));
        }
        if counts[1].failures == 0 {
            return Ok(None);
        }
        let mut judged = RerunResult {
            judgement: Judgement::Undecided,
            p: 1.0,
            candidate: counts[1],
            base: Some(counts[0]),
        };
        for round in 0..policy.max_reruns {
            if self.is_over() {
                // Too few runs are no judgement.
                judged.judgement = Judgement::Undecided;
                break;
            }
            self.step(format!(
                "monitor {}: it fails; both revisions once more, round {}",
                monitor.name,
                round + 1
            ));
            // The order turns round, so that what changes with time falls on both.
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for at in order {
                let revision = if at == 0 { &mut *base } else { &mut *candidate };
                let result = run_command(self.session, revision, words, self.events)?;
                if let Some(why) = count(&result, &mut counts[at], &mut output) {
                    return Ok(Some(unmeasured_monitor(monitor, MonitorGap::Command(why))));
                }
            }
            let (judgement, p) = judge(counts[1], Some(counts[0]), false);
            judged = RerunResult {
                judgement,
                p,
                candidate: counts[1],
                base: Some(counts[0]),
            };
            let is_sure = counts[1].is_mixed() || counts[1].total() > policy.reruns;
            if judgement != Judgement::Undecided && is_sure {
                break;
            }
        }
        Ok(Some(judge_monitor(monitor, judged, output)))
    }
}

/// Counts an answer, and keeps what a failing command said. Says why it is none, if it is.
fn count(result: &CommandResult, counts: &mut Counts, output: &mut String) -> Option<String> {
    match &result.seen {
        CommitObservation::Good => counts.passes += 1,
        CommitObservation::Bad => {
            counts.failures += 1;
            output.clone_from(&result.output);
        }
        CommitObservation::Skip | CommitObservation::LogRatios(_) => {
            return Some(result.why.clone().unwrap_or_default());
        }
    }
    None
}
