//! The report as one HTML page that needs nothing else: no script, no font, no
//! image from elsewhere. Made to be read on a phone too.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{
    Environment, Error, HtmlEscape, Output, State, UndefinedBehavior, context, escape_formatter,
};

use super::{source_text, speed};
use crate::flaky::FlakyRecord;
use crate::observation::{Millis, Run};
use crate::record::ReportDocument;
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

/// The page. `history` goes from old to new.
pub fn html(
    report: &ReportDocument,
    history: &[HistoryPoint],
    flaky: &[&FlakyRecord],
    now: Millis,
) -> String {
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
    let curves = if history.len() < 2 {
        Vec::new()
    } else {
        vec![
            curve("Success rate, %", history, |point| point.rate),
            curve("Duration of a run, s", history, |point| point.seconds),
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
        flaky => flaky.iter().map(|record| flaky_values(record)).collect::<Vec<_>>(),
    };
    render("report.html", include_str!("report.html"), values)
}

/// Fills a template in. What a value holds is escaped.
pub(super) fn render(name: &str, template: &str, values: Value) -> String {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    // A line of a template that holds a tag alone leaves no line in the page.
    let syntax = SyntaxConfig::builder().trim_blocks(true).build();
    environment.set_syntax(syntax.expect("the delimiters are Jinja's own"));
    environment.set_formatter(write_value);
    // The filters that come with minijinja would take a third of its time to compile.
    environment.add_filter("words", |state: &str| state.replace('_', " "));
    let style = Value::from_safe_string(include_str!("style.css").to_owned());
    environment.add_global("style", style);
    let page = environment.render_named_str(name, template, values);
    page.expect("the template uses what it is given")
}

fn write_value(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let Some(text) = value.as_str().filter(|_| !value.is_safe()) else {
        return escape_formatter(out, state, value);
    };
    // Control characters are not allowed in a page, not even escaped.
    let text = text.replace(|c: char| c.is_control() && c != '\n' && c != '\t', "·");
    // A slash does no harm in a text or a quoted attribute, and paths stay legible.
    let text = HtmlEscape(&text).to_string().replace("&#x2f;", "/");
    Ok(out.write_str(&text)?)
}

fn speed_values(measured: &SpeedReport, now: Millis) -> Value {
    context! {
        heads => Serde(speed::HEADS),
        rows => Serde(speed::rows(measured)),
        remarks => Serde(speed::remarks(measured, now)),
    }
}

fn flaky_values(record: &FlakyRecord) -> Value {
    let rate = record.rate;
    let [mean, low, high] = [rate.mean, rate.low, rate.high].map(|share| 100.0 * share);
    let quarantine = record.quarantine.as_ref();
    context! {
        test => record.test.to_string(),
        rate => format!("{mean:.1} % ({low:.1} to {high:.1})"),
        failed => format!("{} of {}", record.counts.failures, record.counts.total()),
        quarantine => quarantine.map(|q| format!("{}: {}", q.owner, q.reason)),
    }
}

/// A curve over the runs, evenly spaced, with the least and the greatest value.
fn curve(title: &str, history: &[HistoryPoint], value: impl Fn(&HistoryPoint) -> f64) -> Value {
    let values = history.iter().map(value).collect::<Vec<_>>();
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let span = (high - low).max(1e-9);
    let x = |index: usize| 50.0 + 540.0 * index as f64 / (values.len() - 1) as f64;
    let y = |value: f64| {
        if high > low {
            90.0 - 70.0 * (value - low) / span
        } else {
            55.0
        }
    };
    let dots = history.iter().zip(&values).enumerate();
    let dots = dots.map(|(index, (point, value))| {
        context! {
            x => format!("{:.1}", x(index)),
            y => format!("{:.1}", y(*value)),
            commit => crate::hash::short(&point.commit),
            value => format!("{value:.2}"),
        }
    });
    context! {
        title,
        high => format!("{high:.2}"),
        high_y => format!("{:.0}", y(high) + 4.0),
        low => format!("{low:.2}"),
        low_y => format!("{:.0}", y(low) + if high > low { 4.0 } else { 20.0 }),
        dots => dots.collect::<Vec<_>>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flaky::Quarantine;
    use crate::report::tests::example;
    use crate::speed::{BenchmarkResult, Decision, Fingerprint, Measure};
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
        let page = html(&report, &[], &[&flaky()], 60_000);
        for part in [
            "<td>sort/&lt;1k&gt;</td>",
            "<dt>Note</dt><dd>1 &amp; 2</dd>",
            "<td>a/lib/tests::flips</td>",
            "<td>3 of 10</td>",
            "<td>Ada &amp; Bob: it&#x27;s &lt;slow&gt;·</td>",
            "Fewer than two runs",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
    }

    #[test]
    fn the_page_holds_all_parts_and_is_self_contained() {
        let page = html(&example(), &[point(1, 99.0), point(2, 100.0)], &[], 60_000);
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
