//! The report as one HTML page that needs nothing else: no script, no font, no
//! image from elsewhere. Made to be read on a phone too.

use minijinja::context;
use minijinja::value::{Serde, Value};

use super::chart::{Chart, Dot, Interval};
use super::template::render;
use super::trends::{chart, date, web_url};
use super::{source_text, speed, state_word};
use crate::finding::FindingKind;
use crate::flaky::FlakyRecord;
use crate::hash::short;
use crate::history::History;
use crate::observation::{Millis, Run};
use crate::record::{CommitReport, FindingDocument, Incident, Milestone, ReportDocument};
use crate::scope::Scope;
use crate::speed::SpeedReport;
use crate::verdict::Verdict;

/// One run of the whole workspace, as a point of the curves.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryPoint {
    /// When it was made.
    pub at_ms: Millis,
    /// The commit that was checked out.
    pub commit: String,
    /// The share of its tests that passed, in percent.
    pub rate: f64,
    /// How long it took.
    pub seconds: f64,
}

impl HistoryPoint {
    /// The point of a run; `None` if it says nothing about the whole workspace.
    pub fn of(run: &Run) -> Option<Self> {
        if !run.complete || run.scope != Scope::Workspace {
            return None;
        }
        let set = crate::baseline::TestSet::of_runs([run], &Scope::Workspace);
        Some(Self {
            at_ms: run.finished_ms,
            commit: run.subject.commit.clone(),
            rate: set.tally().success_rate()?,
            seconds: (run.finished_ms - run.started_ms) as f64 / 1000.0,
        })
    }
}

/// A number of a document, as the page lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimLine {
    /// Where it stands and what it is called.
    pub title: String,
    /// The number as it is written.
    pub written: String,
    /// What proves it.
    pub proof: String,
    /// When and on what it was last written.
    pub measured: Option<String>,
}

/// What the page shows besides the report.
#[derive(Clone, Debug, Default)]
pub struct Surroundings<'a> {
    /// Runs of the whole workspace, from old to new.
    pub runs: Vec<HistoryPoint>,
    /// Tests that passed and failed.
    pub flaky: Vec<&'a FlakyRecord>,
    /// Speed and memory over the commits.
    pub history: History,
    /// The numbers of the documents.
    pub claims: Vec<ClaimLine>,
    /// The milestones, from old to new.
    pub milestones: Vec<Milestone>,
    /// The incidents, from old to new.
    pub incidents: Vec<Incident>,
    /// The repository's URL, as git knows it.
    pub remote: Option<String>,
}

/// How many series of speed and memory the page draws; all are in `history --html`.
const DRAWN: usize = 12;

/// The page.
pub fn html(report: &ReportDocument, around: &Surroundings<'_>, now: Millis) -> String {
    let class = match report.verdict {
        Verdict::Pass => "pass",
        Verdict::Regression => "regression",
        Verdict::Incomparable | Verdict::Inconclusive => "open",
    };
    let revisions = [("Base", &report.base), ("Candidate", &report.candidate)];
    let revisions = revisions.map(|(role, revision)| {
        let source = revision.source.as_ref();
        context! {
            role,
            name => &revision.name,
            tests => report.tests_of(revision),
            subject => &revision.subject,
            source => source.map(|source| source_text(source, now)),
        }
    });
    let (blocking, notes) = report.split();
    let files = report.risk.files.iter().map(|file| {
        context! {
            level => file.level.word(),
            path => &file.path,
            class => file.class.to_string(),
            reasons => file.reasons.join("; "),
        }
    });
    let curves = if around.runs.len() < 2 {
        Vec::new()
    } else {
        let (rate, seconds) = ("Success rate, %", "Duration of a run, s");
        vec![
            curve(rate, &around.runs, |point| point.rate),
            curve(seconds, &around.runs, |point| point.seconds),
        ]
    };
    let values = context! {
        class,
        verdict => report.verdict_words(),
        sentence => report.sentence(),
        revisions => revisions.to_vec(),
        looked_at => report.looked_at(),
        blocking => Serde(blocking),
        notes => Serde(notes),
        speed => report.speed.as_ref().map(|measured| speed_values(measured, now)),
        files => files.collect::<Vec<_>>(),
        curves,
        series => series_values(around),
        more_series => around.history.series.len().saturating_sub(DRAWN),
        flaky => around.flaky.iter().map(|record| flaky_values(record)).collect::<Vec<_>>(),
        claims => around.claims.iter().map(|c| claim_values(c, report)).collect::<Vec<_>>(),
        milestones => around.milestones.iter().rev().map(milestone_values).collect::<Vec<_>>(),
        incidents => around.incidents.iter().rev().map(incident_values).collect::<Vec<_>>(),
    };
    render("report.html", include_str!("report.html"), values)
}

/// The series of speed and memory with more than one commit, those that changed first.
fn series_values(around: &Surroundings<'_>) -> Vec<Value> {
    let links = around.remote.as_deref().and_then(web_url);
    let series = around.history.series.iter();
    let mut series: Vec<_> = series.filter(|series| series.points.len() > 1).collect();
    series.sort_by_key(|series| series.changes.is_empty());
    let drawn = series.into_iter().take(DRAWN).map(|series| {
        let points: Vec<_> = series.points.iter().collect();
        context! { title => series.title(), chart => chart(series, &points, links.as_deref()) }
    });
    drawn.collect()
}

fn claim_values(claim: &ClaimLine, report: &ReportDocument) -> Value {
    let mut findings = report.findings.iter();
    let found = findings.find(|f| f.kind == FindingKind::Claim && claim.title.ends_with(&f.name));
    context! {
        title => &claim.title,
        written => &claim.written,
        proof => &claim.proof,
        measured => &claim.measured,
        state => found.map(FindingDocument::state_words),
    }
}

fn milestone_values(milestone: &Milestone) -> Value {
    let snapshot = milestone.snapshot.as_ref();
    let tests = snapshot
        .and_then(|known| known.tests.as_ref())
        .map(|known| {
            let states = known.states.iter();
            let counts = states.map(|(state, tests)| format!("{} {}", tests.len(), state.word()));
            counts.collect::<Vec<_>>().join(", ")
        });
    context! {
        name => &milestone.name,
        commit => short(&milestone.subject.commit),
        date => date(milestone.set_ms),
        tests => tests,
    }
}

fn incident_values(incident: &Incident) -> Value {
    context! {
        title => incident.title(),
        opened => date(incident.opened_ms),
        closed => incident.closed_ms.map(date),
        culprit => incident.culprit().map(CommitReport::words),
        branch => incident.branch(),
    }
}

fn speed_values(measured: &SpeedReport, now: Millis) -> Value {
    let estimates = measured.benchmarks.iter().map(|b| b.decision.estimate);
    let far = estimates
        .flatten()
        .flat_map(|found| [found.low, found.high]);
    // One scale for all rows; what is far off does not squeeze the others.
    let scale = far.map(|ratio| (ratio - 1.0).abs()).fold(0.05, f64::max);
    let scale = scale.min(0.5);
    let drawn = measured.benchmarks.iter().map(|benchmark| {
        let decision = &benchmark.decision;
        let found = decision.estimate?;
        let nothing = decision.threshold.min(scale);
        let interval = Interval {
            low: found.low - 1.0,
            centre: found.ratio - 1.0,
            high: found.high - 1.0,
            from: -scale,
            to: scale,
            nothing: [-nothing, nothing],
            class: state_word(decision.state),
            title: &decision.reason,
        };
        Some(interval.draw())
    });
    let rows = speed::rows(measured).into_iter().zip(drawn);
    let rows = rows.map(|(cells, drawn)| context! { cells => cells.to_vec(), drawn });
    context! {
        heads => speed::HEADS.to_vec(),
        scale => format!("{:.0}", 100.0 * scale),
        rows => rows.collect::<Vec<_>>(),
        remarks => Serde(speed::remarks(measured, now)),
    }
}

fn flaky_values(record: &FlakyRecord) -> Value {
    let rate = record.rate;
    let [mean, low, high] = [rate.mean, rate.low, rate.high].map(|share| 100.0 * share);
    let text = format!("{mean:.1} % ({low:.1} to {high:.1})");
    let interval = Interval {
        low,
        centre: mean,
        high,
        from: 0.0,
        to: 100.0,
        nothing: [0.0, 0.0],
        class: "open",
        title: &text,
    };
    let quarantine = record.quarantine.as_ref();
    context! {
        test => record.test.to_string(),
        drawn => interval.draw(),
        rate => text,
        failed => format!("{} of {}", record.counts.failures, record.counts.total()),
        quarantine => quarantine.map(|q| format!("{}: {}", q.owner, q.reason)),
    }
}

/// A curve over the runs, evenly spaced.
fn curve(title: &str, history: &[HistoryPoint], value: impl Fn(&HistoryPoint) -> f64) -> Value {
    let dots = history.iter().map(|point| {
        let value = value(point);
        Dot {
            value,
            title: format!("{}: {value:.2}", short(&point.commit)),
            link: None,
        }
    });
    let end = |point: Option<&HistoryPoint>| point.map(|point| date(point.at_ms));
    let chart = Chart {
        title: title.to_owned(),
        dots: dots.collect(),
        marks: Vec::new(),
        ends: [end(history.first()), end(history.last())].map(Option::unwrap_or_default),
        least_span: 0.02,
    };
    let digits = |value: f64| {
        let text = format!("{value:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    context! { title, chart => chart.draw(digits) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flaky::Quarantine;
    use crate::observation::Subject;
    use crate::record::Question;
    use crate::report::tests::example;
    use crate::speed::{BenchmarkResult, BenchmarkState, Decision, Estimate, Fingerprint, Measure};
    use crate::stats::{Counts, failure_rate};
    use crate::test_id::{TargetKind, TestId};

    fn point(at_ms: Millis, rate: f64) -> HistoryPoint {
        HistoryPoint {
            at_ms,
            commit: "abc".to_owned(),
            rate,
            seconds: 2.0,
        }
    }

    fn flaky() -> FlakyRecord {
        let counts = Counts {
            failures: 3,
            passes: 7,
        };
        FlakyRecord {
            test: TestId::new("a", TargetKind::Lib, "a", "tests::flips"),
            counts,
            mixed_trees: 1,
            rate: failure_rate(counts),
            last_failure_ms: 0,
            last_failure_commit: "abc".to_owned(),
            fails_now: false,
            quarantine: Some(Quarantine {
                owner: "Ada & Bob".to_owned(),
                reason: "it's <slow>\u{7}".to_owned(),
                issue: None,
                since_ms: 0,
                expires_ms: 1,
                release_after: 1,
            }),
        }
    }

    fn speed() -> SpeedReport {
        let decision = Decision::incomparable(Measure::Time, "seen");
        SpeedReport {
            machine: Fingerprint::default(),
            benchmarks: vec![BenchmarkResult {
                benchmark: "sort/<1k>".to_owned(),
                unchanged: false,
                decision,
            }],
            bounds: Vec::new(),
            shift: None,
            environment: None,
            launches: 12,
            disturbed: None,
            waited: 0.0,
            calibration: None,
            notes: vec!["1 & 2".to_owned()],
        }
    }

    #[test]
    fn what_was_measured_and_what_flips_is_shown_escaped() {
        let report = ReportDocument {
            speed: Some(speed()),
            ..example()
        };
        let flaky = flaky();
        let around = Surroundings {
            flaky: vec![&flaky],
            ..Surroundings::default()
        };
        let page = html(&report, &around, 60_000);
        for part in [
            "sort/&lt;1k&gt;</td>",
            "<dt>Note</dt><dd>1 &amp; 2</dd>",
            "a/lib/tests::flips</td>",
            ">3 of 10</td>",
            ">Ada &amp; Bob: it&#x27;s &lt;slow&gt;·</td>",
            "Fewer than two runs",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
    }

    /// A benchmark whose change is known with its interval.
    fn measured(name: &str, state: BenchmarkState, change: [f64; 3]) -> BenchmarkResult {
        let [low, ratio, high] = change;
        BenchmarkResult {
            benchmark: name.to_owned(),
            unchanged: false,
            decision: Decision {
                state,
                base: Some(1e6),
                candidate: Some(1e6 * ratio),
                estimate: Some(Estimate { ratio, low, high }),
                threshold: 0.01,
                ..Decision::incomparable(Measure::Time, "seen")
            },
        }
    }

    fn surroundings(flaky: &FlakyRecord) -> Surroundings<'_> {
        let subject = Subject {
            tree: "t".to_owned(),
            commit: "1a2b3c4d5e6f".to_owned(),
            dirty: false,
            checkout: false,
            branch: Some("main".to_owned()),
        };
        let claim = ClaimLine {
            title: "README.md:3 size".to_owned(),
            written: "11.5".to_owned(),
            proof: "wc -c model".to_owned(),
            measured: None,
        };
        let incident = Incident {
            id: "20261129-abcdef".to_owned(),
            opened_ms: 0,
            closed_ms: None,
            question: Question::Command(vec!["make".to_owned()]),
            good: "a".to_owned(),
            bad: "b".to_owned(),
            timeline: Vec::new(),
            confirmation: None,
            bisection: None,
            revert: None,
            validation: None,
            monitor: None,
        };
        Surroundings {
            runs: (0..30).map(|n| point(n, 97.0 + (n % 4) as f64)).collect(),
            flaky: vec![flaky],
            history: crate::report::trends::tests::history(),
            claims: vec![claim],
            milestones: vec![Milestone {
                id: "m".to_owned(),
                name: "first".to_owned(),
                set_ms: 0,
                subject,
                snapshot: None,
            }],
            incidents: vec![incident],
            remote: None,
        }
    }

    #[test]
    fn intervals_rates_and_change_points_are_drawn_and_records_are_shown() {
        let speed = SpeedReport {
            benchmarks: vec![
                measured("parse/large", BenchmarkState::Regressed, [1.11, 1.12, 1.14]),
                measured("parse/small", BenchmarkState::Improved, [0.93, 0.95, 0.96]),
                measured("print", BenchmarkState::Equivalent, [0.997, 1.001, 1.004]),
                measured("open", BenchmarkState::Inconclusive, [0.97, 1.01, 1.9]),
            ],
            ..speed()
        };
        let report = ReportDocument {
            speed: Some(speed),
            ..example()
        };
        let flaky = flaky();
        let page = html(&report, &surroundings(&flaky), 60_000);
        assert_eq!(page.matches("class=\"interval\"").count(), 4 + 1);
        // Two curves of the runs, and one of a benchmark.
        assert_eq!(page.matches("class=\"chart\"").count(), 3);
        for part in [
            "class=\"worse\"",
            "class=\"regressed\"",
            "README.md:3 size",
            "wc -c model",
            ">first</td>",
            "Incident 20261129-abcdef",
            "class=\"medium\"",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
    }

    #[test]
    fn the_page_holds_all_parts_and_is_self_contained() {
        let around = Surroundings {
            runs: vec![point(1, 99.0), point(2, 100.0)],
            ..Surroundings::default()
        };
        let page = html(&example(), &around, 60_000);
        for part in [
            "a/lib/tests::adds",
            "left: &lt;1&gt;\nright: &amp; 2",
            "Success rate, %",
            "a/src/lib.rs",
            "name=\"viewport\"",
            "No test ever passed and failed",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("http") && !page.contains("<script"));
        assert_eq!(page.matches("<circle").count(), 4);
    }
}
