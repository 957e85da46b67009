//! The series of a workspace: one value per commit and benchmark, with its changes.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::stored_comparison::StoredComparison;
use super::{Change, calibrated_noise_threshold, changes};
use crate::observation::Millis;
use crate::speed::{
    Calibration, Decision, DecisionRules, Fingerprint, Judge, JudgeStep, Measure, NoiseThreshold,
    SpeedPurpose, SpeedRun, log_ratio,
};
use crate::stats::median;

/// One commit in a series.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// The commit.
    pub commit: String,
    /// When it was last measured.
    pub at_ms: Millis,
    /// The median of all its launches, in the measure's unit.
    pub value: f64,
    /// How many launches there are.
    pub launches: usize,
}

/// A change with the commits around it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChangePoint {
    /// The last measured commit before it.
    pub before: String,
    /// The first commit with it.
    pub commit: String,
    /// What the detectors say.
    #[serde(flatten)]
    pub change: Change,
    /// What comparing both commits said, if that was done.
    pub comparison: Option<Decision>,
}

/// One measure of one benchmark over the commits, old to new.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BenchmarkHistory {
    /// The benchmark.
    pub benchmark: String,
    /// What was measured.
    pub measure: Measure,
    /// What a value counts.
    pub unit: &'static str,
    /// Which program measured it, if it was imported: such a series stands beside what the
    /// guard measured of the same benchmark, and the two are never mixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// One for each measured commit.
    pub points: Vec<Point>,
    /// Where it changed.
    pub changes: Vec<ChangePoint>,
}

/// All series of one machine, and those that were imported.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct History {
    /// The machine: that of the newest measurement of the guard, if there is one.
    pub fingerprint: Fingerprint,
    /// The series, by benchmark and measure.
    pub series: Vec<BenchmarkHistory>,
    /// Which measurements were left out, and why, in words.
    pub left_out: Vec<String>,
}

impl History {
    /// The history of `commits`, old to new, as the runs saw it. Measurements of
    /// calibrations, of changed files, and of other machines are left out; so are
    /// commits that are not listed. What was imported makes series of its own.
    ///
    /// A change counts beyond three times what its benchmark shows between equal programs,
    /// where one of `calibrations`, old to new, knows that.
    pub fn of(runs: &[SpeedRun], calibrations: &[Calibration], commits: &[String]) -> Self {
        let place: BTreeMap<&str, usize> = commits.iter().map(String::as_str).zip(0..).collect();
        let belongs = |run: &&SpeedRun| {
            run.purpose != SpeedPurpose::Calibration
                && !run.subject.dirty
                && place.contains_key(run.subject.commit.as_str())
        };
        let known: Vec<&SpeedRun> = runs.iter().filter(belongs).collect();
        let is_own = |run: &&SpeedRun| run.fingerprint.source().is_none();
        let (own, imported): (Vec<&SpeedRun>, Vec<&SpeedRun>) = known.into_iter().partition(is_own);
        let newest = own.iter().max_by_key(|run| run.started_ms);
        let fingerprint = newest.map_or_else(Fingerprint::default, |run| run.fingerprint.clone());
        let sources = imported.iter().map(|run| &run.fingerprint);
        let machines: BTreeSet<&Fingerprint> = sources.chain([&fingerprint]).collect();
        let mut series = Vec::new();
        for machine in machines {
            let runs = own.iter().chain(&imported);
            let of_machine = runs.filter(|run| run.fingerprint == *machine).copied();
            let of_machine: Vec<&SpeedRun> = of_machine.collect();
            for mut one in collect(&of_machine, &place) {
                let noise_threshold =
                    calibrated_noise_threshold(calibrations, machine, &one.benchmark, one.measure);
                find_changes(&mut one, noise_threshold, &of_machine);
                one.source = machine.source().map(str::to_owned);
                series.push(one);
            }
        }
        let key = |one: &BenchmarkHistory| (one.benchmark.clone(), one.measure, one.source.clone());
        series.sort_by_cached_key(key);
        let elsewhere = own.iter().filter(|run| run.fingerprint != fingerprint);
        let mut counts: BTreeMap<&Fingerprint, usize> = BTreeMap::new();
        for run in elsewhere {
            *counts.entry(&run.fingerprint).or_default() += 1;
        }
        let say = |(other, count): (&Fingerprint, usize)| {
            let differences = fingerprint.differences(other).join("; ");
            format!("{count} measured in another environment ({differences})")
        };
        let left_out = counts.into_iter().map(say).collect();
        Self {
            fingerprint,
            series,
            left_out,
        }
    }
}

/// The values of each commit, put together.
fn collect(runs: &[&SpeedRun], place: &BTreeMap<&str, usize>) -> Vec<BenchmarkHistory> {
    type CommitValues<'a> = (&'a str, Millis, Vec<f64>);
    let mut all: BTreeMap<(&str, Measure), BTreeMap<usize, CommitValues>> = BTreeMap::new();
    for run in runs {
        let commit = run.subject.commit.as_str();
        for seen in run
            .measurements
            .iter()
            .filter(|seen| !seen.values.is_empty())
        {
            let series = all.entry((&seen.benchmark, seen.measure)).or_default();
            let (_, at_ms, values) = series
                .entry(place[commit])
                .or_insert((commit, 0, Vec::new()));
            *at_ms = run.started_ms.max(*at_ms);
            values.extend(&seen.values);
        }
    }
    let series =
        |((benchmark, measure), commits): ((&str, Measure), BTreeMap<usize, CommitValues>)| {
            let point = |(commit, at_ms, values): CommitValues| Point {
                commit: commit.to_owned(),
                at_ms,
                value: median(&values).unwrap_or(f64::NAN),
                launches: values.len(),
            };
            BenchmarkHistory {
                benchmark: benchmark.to_owned(),
                measure,
                unit: measure.unit(),
                source: None,
                points: commits.into_values().map(point).collect(),
                changes: Vec::new(),
            }
        };
    all.into_iter().map(series).collect()
}

impl BenchmarkHistory {
    /// What it is called in reports.
    pub fn title(&self) -> String {
        let source = self.source.as_ref();
        let source = source.map(|source| format!(" (imported: {source})"));
        let (benchmark, measure) = (&self.benchmark, self.measure);
        format!("{benchmark}, {measure}{}", source.unwrap_or_default())
    }
}

fn find_changes(
    series: &mut BenchmarkHistory,
    noise_threshold: NoiseThreshold,
    runs: &[&SpeedRun],
) {
    let measure = series.measure;
    // The log-cost of a commit: its ratio to the least that can be.
    let least = if measure.may_be_zero() { 0.0 } else { 1.0 };
    let cost = |point: &Point| log_ratio(measure, least, point.value).ok();
    let costs: Option<Vec<f64>> = series.points.iter().map(cost).collect();
    let values: Vec<f64> = series.points.iter().map(|point| point.value).collect();
    let threshold = noise_threshold.threshold(median(&values).unwrap_or(0.0));
    let found = changes(&costs.unwrap_or_default(), threshold);
    let point = |change: Change| {
        let (before, after) = (&series.points[change.at - 1], &series.points[change.at]);
        ChangePoint {
            before: before.commit.clone(),
            commit: after.commit.clone(),
            change,
            comparison: compared(
                runs,
                [&before.commit, &after.commit],
                noise_threshold,
                series,
            ),
        }
    };
    series.changes = found.into_iter().map(point).collect();
}

/// What the comparisons of two commits say about one series.
fn compared(
    runs: &[&SpeedRun],
    [base, candidate]: [&str; 2],
    noise_threshold: NoiseThreshold,
    of: &BenchmarkHistory,
) -> Option<Decision> {
    let of_both = |comparison: &StoredComparison| {
        comparison.between(base, candidate, &of.benchmark, of.measure)
    };
    let pairs = StoredComparison::all(runs)
        .iter()
        .flat_map(of_both)
        .collect::<Vec<_>>();
    if pairs.is_empty() {
        return None;
    }
    let mut judge = Judge::new(DecisionRules::new(of.measure, noise_threshold));
    for (base, candidate) in pairs {
        if judge.push(base, candidate) == Ok(JudgeStep::Done) {
            break;
        }
    }
    Some(judge.decision())
}
