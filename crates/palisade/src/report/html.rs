//! The report as one HTML page that needs nothing else: no script, no font, no
//! image from elsewhere. Made to be read on a phone too.

use std::fmt::Write as _;

use super::{FindingDocument, ReportDocument, source_text, speed};
use crate::finding::Severity;
use crate::flaky::FlakyRecord;
use crate::observation::{Millis, Run};
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

pub(super) const STYLE: &str = "
:root{color-scheme:light dark;--line:#8885;--bad:#c62828;--good:#2e7d32;--open:#b26a00}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem;overflow-wrap:anywhere}
th{overflow-wrap:normal}h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
.pass{color:var(--good)}.regression{color:var(--bad)}.open{color:var(--open)}
article{border:1px solid var(--line);border-left:4px solid var(--bad);border-radius:4px;padding:.5rem 1rem;margin:1rem 0}
article.open{border-left-color:var(--open);color:inherit}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin:.5rem 0}dd{margin:0}
dt{opacity:.7}pre{overflow:auto;background:#8882;padding:.5rem;font-size:.85rem}
table{border-collapse:collapse;width:100%;font-size:.9rem}
td,th{border-top:1px solid var(--line);padding:.3rem .4rem;text-align:left;vertical-align:top}
@media(max-width:30rem){dl{grid-template-columns:1fr;gap:0}dt{margin-top:.4rem}}
svg{width:100%;height:auto}text{font-size:11px;fill:currentColor}
";

/// The page. `history` goes from old to new.
pub fn html(
    report: &ReportDocument,
    history: &[HistoryPoint],
    flaky: &[&FlakyRecord],
    now: Millis,
) -> String {
    let mut page = String::new();
    let class = match report.verdict {
        Verdict::Pass => "pass",
        Verdict::Regression => "regression",
        Verdict::Incomparable | Verdict::Inconclusive => "open",
    };
    // Writing to a string cannot fail.
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>palisade: {word}</title><style>{STYLE}</style></head><body>\n\
         <h1><span class=\"{class}\">{word}</span>: {sentence}</h1>\n",
        word = report.verdict.word(),
        sentence = escape(&report.sentence()),
    );
    push_revisions(&mut page, report, now);
    let (blocking, notes) = report.split();
    for finding in blocking {
        push_finding(&mut page, finding);
    }
    if !notes.is_empty() {
        page.push_str("<h2>Notes</h2>\n<table>\n");
        for note in notes {
            let state = note.state_words();
            push_row(&mut page, "td", &[&note.name, &state, &note.reason]);
        }
        page.push_str("</table>\n");
    }
    if let Some(measured) = &report.speed {
        push_speed(&mut page, measured, now);
    }
    page.push_str("<h2>Risk</h2>\n");
    if report.risk.files.is_empty() {
        page.push_str("<p>No file changed.</p>\n");
    } else {
        page.push_str("<table>\n");
        push_row(&mut page, "th", &["Level", "File", "Class", "Why"]);
        for file in &report.risk.files {
            let why = file.reasons.join("; ");
            push_row(
                &mut page,
                "td",
                &[file.level.word(), &file.path, &file.class.to_string(), &why],
            );
        }
        page.push_str("</table>\n");
    }
    page.push_str("<h2>Whole workspace over time</h2>\n");
    if history.len() < 2 {
        page.push_str("<p>Fewer than two runs of the whole workspace are stored.</p>\n");
    } else {
        push_curve(&mut page, "Success rate, %", history, |point| point.rate);
        push_curve(&mut page, "Duration of a run, s", history, |point| {
            point.seconds
        });
    }
    page.push_str("<h2>Flaky tests</h2>\n");
    if flaky.is_empty() {
        page.push_str("<p>No test ever passed and failed on the same tree.</p>\n");
    } else {
        page.push_str("<table>\n");
        push_row(
            &mut page,
            "th",
            &["Test", "Rate, 95 % interval", "Failed", "Quarantine"],
        );
        for record in flaky {
            let rate = record.rate;
            let interval = format!(
                "{:.1} % ({:.1} to {:.1})",
                100.0 * rate.mean,
                100.0 * rate.low,
                100.0 * rate.high
            );
            let failed = format!("{} of {}", record.counts.failures, record.counts.total());
            let quarantine = record.quarantine.as_ref();
            let quarantine = quarantine.map(|q| format!("{}: {}", q.owner, q.reason));
            let cells = [
                &record.test.to_string(),
                &interval,
                &failed,
                quarantine.as_deref().unwrap_or("no"),
            ];
            push_row(&mut page, "td", &cells);
        }
        page.push_str("</table>\n");
    }
    page.push_str("</body></html>\n");
    page
}

fn push_speed(page: &mut String, measured: &SpeedReport, now: Millis) {
    page.push_str("<h2>Speed and memory</h2>\n<table>\n");
    push_row(page, "th", &speed::HEADS);
    for row in speed::rows(measured) {
        push_row(page, "td", &row.each_ref().map(String::as_str));
    }
    page.push_str("</table>\n<dl>\n");
    for (head, remark) in speed::remarks(measured, now) {
        let _ = writeln!(page, "<dt>{head}</dt><dd>{}</dd>", escape(&remark));
    }
    page.push_str("</dl>\n");
}

fn push_revisions(page: &mut String, report: &ReportDocument, now: Millis) {
    page.push_str("<dl>\n");
    for (name, revision) in [("Base", &report.base), ("Candidate", &report.candidate)] {
        let tests = report.tests_of(revision);
        let source = revision
            .source
            .as_ref()
            .map(|source| source_text(source, now));
        let _ = writeln!(
            page,
            "<dt>{name}</dt><dd>{}: {tests}<br><small>“{}” {}</small></dd>",
            escape(&revision.name),
            escape(&revision.subject),
            escape(
                &source
                    .map(|source| format!("({source})"))
                    .unwrap_or_default()
            )
        );
    }
    let looked_at = escape(&report.looked_at());
    let _ = writeln!(page, "<dt>Looked at</dt><dd>{looked_at}</dd>\n</dl>");
}

fn push_finding(page: &mut String, finding: &FindingDocument) {
    let class = if finding.severity == Severity::Regression {
        ""
    } else {
        " class=\"open\""
    };
    let state = finding.state_words();
    let _ = writeln!(
        page,
        "<article{class}><b>{}</b> ({state})\n<dl>",
        escape(&finding.name)
    );
    for (name, value) in [
        ("Status", &finding.reason),
        ("Meaning", &finding.meaning),
        ("Next", &finding.next),
        ("What not to do", &finding.avoid),
    ] {
        if !value.is_empty() {
            let _ = writeln!(page, "<dt>{name}</dt><dd>{}</dd>", escape(value));
        }
    }
    page.push_str("</dl>\n");
    if let Some(output) = &finding.output {
        let _ = writeln!(page, "<pre>{}</pre>", escape(output));
    }
    page.push_str("</article>\n");
}

fn push_row(page: &mut String, cell: &str, values: &[&str]) {
    page.push_str("<tr>");
    for value in values {
        let _ = write!(page, "<{cell}>{}</{cell}>", escape(value));
    }
    page.push_str("</tr>\n");
}

/// A curve over the runs, evenly spaced, with the least and the greatest value.
fn push_curve(
    page: &mut String,
    title: &str,
    history: &[HistoryPoint],
    value: impl Fn(&HistoryPoint) -> f64,
) {
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
    let points = values
        .iter()
        .enumerate()
        .map(|(i, v)| format!("{:.1},{:.1}", x(i), y(*v)));
    let points = points.collect::<Vec<_>>().join(" ");
    let _ = writeln!(
        page,
        "<svg viewBox=\"0 0 600 110\" role=\"img\" aria-label=\"{title}\"><text x=\"0\" y=\"12\">{title}</text>\
         <text x=\"0\" y=\"{:.0}\">{high:.2}</text><text x=\"0\" y=\"{:.0}\">{low:.2}</text>\
         <polyline points=\"{points}\" fill=\"none\" stroke=\"currentColor\" stroke-width=\"1.5\"/>",
        y(high) + 4.0,
        y(low) + if high > low { 4.0 } else { 20.0 },
    );
    for (index, (point, value)) in history.iter().zip(&values).enumerate() {
        let _ = writeln!(
            page,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{}: {value:.2}</title></circle>",
            x(index),
            y(*value),
            escape(crate::hash::short(&point.commit))
        );
    }
    page.push_str("</svg>\n");
}

pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            // Not allowed in a page, not even escaped.
            c if c.is_control() && c != '\n' && c != '\t' => escaped.push('·'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn the_page_holds_all_parts_and_is_self_contained() {
        let point = |at_ms, rate| HistoryPoint {
            at_ms,
            commit: "abc".to_owned(),
            rate,
            seconds: 2.0,
        };
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
