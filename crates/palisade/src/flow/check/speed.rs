//! Speed and memory of what the change can reach, in what is left of a check's time.

use std::time::{Duration, Instant};

use super::{Check, CheckError, MeasureSpeed};
use crate::coverage::{Aspect, LeftOutReason};
use crate::finding::{Cause, Finding, FindingSubject, Severity, SpeedGap};
use crate::flow::benchmark_comparison::{
    CompareOptions, ComparisonError, Extent, Measured, Selection, may_have_benchmark, measure,
};
use crate::host::measure::launch::Launcher;
use crate::host::run::RunError;
use crate::host::session::{BaseChoice, Event, SessionError};
use crate::risk::Assessment;
use crate::speed::SpeedReport;
use crate::verdict::{UnpairedBenchmarks, judge_monitored, judge_speed, judge_speed_by_default};

impl Check<'_> {
    /// Measures the benchmarks that the change can reach, as the options say. What is found is
    /// added, and what is left out.
    pub(super) fn speed(
        &mut self,
        assessment: &Assessment,
        findings: &mut Vec<Finding>,
    ) -> Result<Option<SpeedReport>, CheckError> {
        if self.same {
            return Ok(None);
        }
        let options = self.options;
        match &options.speed {
            MeasureSpeed::Never => {
                if options.tests_only {
                    self.leave_speed_out(LeftOutReason::TestsOnly);
                }
                Ok(None)
            }
            MeasureSpeed::Always(launcher) => {
                let reached = assessment.changed.union(&assessment.dependents);
                let selection = Selection {
                    packages: reached.cloned().collect(),
                    also: self.session.policy.monitored_benches(),
                    ..Selection::default()
                };
                let report = self.demanded_speed(launcher, selection, true, findings)?;
                if report.is_some() {
                    self.coverage.looked_at.insert(Aspect::Speed);
                }
                Ok(report)
            }
            MeasureSpeed::ByPolicy(launcher) => {
                let Some(reason) = self.reason_for_no_speed(assessment, findings)? else {
                    return self.speed_in_reach(launcher, assessment, findings);
                };
                // Where no code changed there is no speed to look at.
                if assessment.scope.is_some() {
                    self.leave_speed_out(reason);
                }
                let monitored = self.session.policy.monitored_benches();
                if monitored.is_empty() || options.shard.is_some() {
                    return Ok(None);
                }
                let selection = Selection {
                    only: monitored,
                    ..Selection::default()
                };
                self.demanded_speed(launcher, selection, false, findings)
            }
        }
    }

    fn leave_speed_out(&mut self, reason: LeftOutReason) {
        self.coverage.leave_out(Aspect::Speed, reason);
    }

    /// Why the speed of what the change can reach is not measured, if it is not. Nothing is
    /// built or checked out to know.
    fn reason_for_no_speed(
        &mut self,
        assessment: &Assessment,
        findings: &[Finding],
    ) -> Result<Option<LeftOutReason>, CheckError> {
        let is_worse = |finding: &Finding| finding.severity == Severity::Regression;
        let reason = if assessment.shipped.is_empty() {
            LeftOutReason::NothingShipped
        } else if self.options.shard.is_some() {
            LeftOutReason::Shards
        } else if !self.session.policy.speed.check {
            LeftOutReason::Policy
        } else if self.options.base == BaseChoice::Stored {
            LeftOutReason::StoredBase
        } else if findings.iter().any(is_worse) {
            LeftOutReason::Regression
        } else if !self.may_have_benchmark(assessment)? {
            LeftOutReason::NoBenchmark
        } else if self.time_left().is_zero() {
            LeftOutReason::Budget
        } else {
            return Ok(None);
        };
        Ok(Some(reason))
    }

    fn may_have_benchmark(&mut self, assessment: &Assessment) -> Result<bool, CheckError> {
        let toolchain = self.candidate.environment(self.session)?.toolchain;
        let selection = self.selection_in_reach(assessment);
        let workspace = self.candidate.workspace(self.session);
        let policy = &self.session.policy;
        Ok(may_have_benchmark(
            policy, workspace, &toolchain, &selection,
        ))
    }

    fn selection_in_reach(&self, assessment: &Assessment) -> Selection {
        Selection {
            packages: assessment.shipped.clone(),
            only: self.session.policy.speed.only.clone(),
            also: self.session.policy.monitored_benches(),
        }
    }

    /// What is left for speed: of the time that was given, or else of the policy's, in which the
    /// tests count.
    fn time_left(&self) -> Duration {
        self.speed_deadline()
            .saturating_duration_since(Instant::now())
    }

    fn speed_deadline(&self) -> Instant {
        let usual = self.started + self.session.policy.speed.budget.0;
        self.deadline.unwrap_or(usual)
    }

    /// Measures what the change can reach, the nearest first. Only what became worse is held
    /// against it, and what a monitor wants to be measured.
    fn speed_in_reach(
        &mut self,
        launcher: &Launcher,
        assessment: &Assessment,
        findings: &mut Vec<Finding>,
    ) -> Result<Option<SpeedReport>, CheckError> {
        let monitored = self.session.policy.monitored_benches();
        let is_monitored = |name: &str| monitored.iter().any(|part| name.contains(part.as_str()));
        let options = CompareOptions {
            selection: self.selection_in_reach(assessment),
            extent: Extent::Nearest {
                until: self.speed_deadline(),
                equal_too: assessment.changes_data(),
            },
            ..CompareOptions::default()
        };
        let severity = |of_monitored: Severity| {
            if monitored.is_empty() {
                Severity::Note
            } else {
                of_monitored
            }
        };
        match self.measured_speed(launcher, &options) {
            Ok(measured) => {
                let (report, unpaired) = (measured.report, measured.unpaired);
                findings.extend(judge_speed_by_default(
                    &report,
                    &unpaired,
                    measured.unlaunched,
                    &is_monitored,
                    &mut self.coverage,
                ));
                let policy = &self.session.policy;
                findings.extend(judge_monitored(policy, Some(&report), &unpaired));
                Ok((report.launches > 0).then_some(report))
            }
            Err(ComparisonError::NoBenchmark(_)) => {
                self.leave_speed_out(LeftOutReason::NoBenchmark);
                let (policy, unpaired) = (&self.session.policy, UnpairedBenchmarks::default());
                findings.extend(judge_monitored(policy, None, &unpaired));
                Ok(None)
            }
            Err(ComparisonError::Session(SessionError::Run(RunError::OutOfTime))) => {
                self.leave_speed_out(LeftOutReason::Budget);
                if !monitored.is_empty() {
                    findings.push(no_speed(SpeedGap::Budget, Severity::Undecided));
                }
                Ok(None)
            }
            Err(ComparisonError::Session(SessionError::Run(RunError::Build { output }))) => {
                self.leave_speed_out(LeftOutReason::BuildFailed);
                findings.push(Finding {
                    output: Some(output),
                    ..no_speed(SpeedGap::BuildFailed, severity(Severity::Unmeasured))
                });
                Ok(None)
            }
            // Where nothing can be written, there is no checkout to measure in.
            Err(ComparisonError::Session(SessionError::Git(error))) if monitored.is_empty() => {
                self.leave_speed_out(LeftOutReason::NotComparable);
                let note = format!("speed cannot be measured: {error}");
                (self.events)(Event::Note(note));
                Ok(None)
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Measures what was asked for: what is not measured is no pass. Where `is_asked_for` is
    /// not set, the selection has what is monitored.
    fn demanded_speed(
        &mut self,
        launcher: &Launcher,
        selection: Selection,
        is_asked_for: bool,
        findings: &mut Vec<Finding>,
    ) -> Result<Option<SpeedReport>, CheckError> {
        if self.is_over() {
            findings.push(no_speed(SpeedGap::Budget, Severity::Undecided));
            return Ok(None);
        }
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        let options = CompareOptions {
            selection,
            budget: self.deadline.map(left),
            end: self.deadline,
            ..CompareOptions::default()
        };
        match self.measured_speed(launcher, &options) {
            Ok(measured) => {
                let (report, unpaired) = (measured.report, measured.unpaired);
                findings.extend(judge_speed(&report, &unpaired));
                let policy = &self.session.policy;
                findings.extend(judge_monitored(policy, Some(&report), &unpaired));
                Ok(Some(report))
            }
            Err(ComparisonError::NoBenchmark(_)) => {
                if is_asked_for {
                    findings.push(no_speed(SpeedGap::NoneInReach, Severity::Note));
                }
                let (policy, unpaired) = (&self.session.policy, UnpairedBenchmarks::default());
                findings.extend(judge_monitored(policy, None, &unpaired));
                Ok(None)
            }
            Err(ComparisonError::Session(SessionError::Run(RunError::Build { output }))) => {
                findings.push(Finding {
                    output: Some(output),
                    ..no_speed(SpeedGap::BuildFailed, Severity::Unmeasured)
                });
                Ok(None)
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Measures both revisions in checkouts.
    fn measured_speed(
        &mut self,
        launcher: &Launcher,
        options: &CompareOptions,
    ) -> Result<Measured, ComparisonError> {
        let (mut base, mut candidate) = (self.base.in_checkout(), self.candidate.in_checkout());
        // The checkout of the base is at the place where both are measured.
        self.base.leave();
        self.candidate.leave();
        let revisions = [&mut base, &mut candidate];
        measure(self.session, launcher, revisions, options, self.events)
    }
}

/// A finding about benchmarks that were not measured.
fn no_speed(gap: SpeedGap, severity: Severity) -> Finding {
    let cause = Cause::NotMeasured(gap);
    Finding::new(FindingSubject::Benchmarks, cause, severity)
}
