//! The history of speed and memory as one HTML page that needs nothing else: no
//! script, no image from elsewhere. The span of time is chosen by buttons that work
//! by style alone.
//!
//! The curves are written by hand, like those of the report of a check: a drawing
//! library would bring its fonts and its own idea of a page, to draw a line and some
//! circles.

use std::fmt::Write as _;

use chrono::DateTime;

use super::amount;
use super::html::{STYLE, escape};
use crate::hash::short;
use crate::history::{BenchmarkHistory, ChangePoint, History, Point};
use crate::observation::Millis;
use crate::speed::BenchmarkState;

/// The spans of time to choose from, in days back from the newest point.
const SPANS: [(&str, Option<i64>); 4] = [
    ("all", None),
    ("a year", Some(365)),
    ("90 days", Some(90)),
    ("30 days", Some(30)),
];

const DAY: Millis = 86_400_000;

/// The page. `remote` is the repository's URL as git knows it; commits link there if
/// it is one that a browser can open.
pub fn trends(history: &History, remote: Option<&str>) -> String {
    let links = remote.and_then(web_url);
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>palisade: speed and memory over time</title><style>{STYLE}"
    );
    page.push_str(
        "input[name=span]{margin:0 .3rem 0 1rem}.span{display:none}\n\
         .worse{stroke:var(--bad);fill:var(--bad)}.better{stroke:var(--good);fill:var(--good)}\n",
    );
    for index in 0..SPANS.len() {
        let _ = writeln!(
            page,
            "#span{index}:checked~main .span{index}{{display:block}}"
        );
    }
    page.push_str("</style></head><body>\n<h1>Speed and memory over time</h1>\n");
    for (index, (name, _)) in SPANS.iter().enumerate() {
        let checked = if index == 0 { " checked" } else { "" };
        let _ = write!(
            page,
            "<input type=\"radio\" name=\"span\" id=\"span{index}\"{checked}>\
             <label for=\"span{index}\">{name}</label>"
        );
    }
    page.push_str("\n<main>\n");
    let _ = writeln!(page, "<p>{}</p>", escape(&history.fingerprint.to_string()));
    for left_out in &history.left_out {
        let _ = writeln!(page, "<p>Left out: {}</p>", escape(left_out));
    }
    if history.series.is_empty() {
        page.push_str("<p>Nothing of this branch was measured.</p>\n");
    }
    for series in &history.series {
        push_series(&mut page, series, links.as_deref());
    }
    page.push_str("</main></body></html>\n");
    page
}

fn push_series(page: &mut String, series: &BenchmarkHistory, links: Option<&str>) {
    let name = escape(&series.benchmark);
    let source = series.source.as_deref().map(escape);
    let source = source.map(|source| format!(" (imported: {source})"));
    let source = source.unwrap_or_default();
    let _ = writeln!(page, "<h2>{name}: {}{source}</h2>", series.measure);
    let newest = series.points.iter().map(|point| point.at_ms).max();
    for (index, (_, days)) in SPANS.iter().enumerate() {
        let since = days
            .zip(newest)
            .map_or(Millis::MIN, |(days, newest)| newest - days * DAY);
        let points = series.points.iter().filter(|point| point.at_ms >= since);
        let _ = writeln!(page, "<div class=\"span span{index}\">");
        push_chart(page, series, &points.collect::<Vec<_>>(), links);
        page.push_str("</div>\n");
    }
    if series.changes.is_empty() {
        return;
    }
    page.push_str("<table>\n<tr><th>Change</th><th>Commit</th><th>Comparison</th></tr>\n");
    for change in &series.changes {
        let _ = writeln!(
            page,
            "<tr><td>{:+.1} %</td><td>{}</td><td>{}</td></tr>",
            100.0 * (change.change.ratio - 1.0),
            link(&change.commit, links),
            escape(&comparison(change))
        );
    }
    page.push_str("</table>\n");
}

/// What is known of a change besides the history, or how to learn it.
pub fn comparison(change: &ChangePoint) -> String {
    let (before, commit) = (short(&change.before), short(&change.commit));
    match &change.comparison {
        Some(decision) => match decision.state {
            BenchmarkState::Regressed | BenchmarkState::Improved => {
                format!("confirmed: {}", decision.reason)
            }
            _ => format!("not confirmed: {}", decision.reason),
        },
        None => format!("not compared yet: cargo palisade compare {before} {commit}"),
    }
}

/// One curve: commits evenly spaced, values between the least and the greatest.
fn push_chart(
    page: &mut String,
    series: &BenchmarkHistory,
    points: &[&Point],
    links: Option<&str>,
) {
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return;
    };
    let values = || points.iter().map(|point| point.value);
    let low = values().fold(f64::INFINITY, f64::min);
    let high = values().fold(f64::NEG_INFINITY, f64::max);
    // A curve of noise alone must not look like mountains: at least 10 % are shown.
    let (low, high) = match f64::midpoint(low, high) {
        middle if high - low < 0.1 * middle => (0.95 * middle, 1.05 * middle),
        _ => (low, high),
    };
    let x = |index: usize| 90.0 + 495.0 * index as f64 / (points.len().max(2) - 1) as f64;
    let y = |value: f64| 130.0 - 110.0 * (value - low) / (high - low).max(f64::MIN_POSITIVE);
    let label = series.title();
    let _ = writeln!(
        page,
        "<svg viewBox=\"0 0 600 160\" role=\"img\" aria-label=\"{}\">\
         <text x=\"0\" y=\"24\">{}</text><text x=\"0\" y=\"134\">{}</text>\
         <text x=\"90\" y=\"155\">{}</text><text x=\"585\" y=\"155\" text-anchor=\"end\">{}</text>",
        escape(&label),
        amount(series.measure, high),
        amount(series.measure, low),
        date(first.at_ms),
        date(last.at_ms),
    );
    for change in &series.changes {
        let at = points
            .iter()
            .position(|point| point.commit == change.commit);
        if let Some(at) = at.filter(|at| *at > 0) {
            let class = if change.change.ratio > 1.0 {
                "worse"
            } else {
                "better"
            };
            let _ = writeln!(
                page,
                "<g class=\"{class}\"><line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"16\" y2=\"136\" \
                 stroke-dasharray=\"3\"/><text x=\"{0:.1}\" y=\"12\" stroke=\"none\" \
                 text-anchor=\"middle\">{1:+.1} %</text></g>",
                f64::midpoint(x(at), x(at - 1)),
                100.0 * (change.change.ratio - 1.0)
            );
        }
    }
    let line = points.iter().enumerate();
    let line = line.map(|(i, point)| format!("{:.1},{:.1}", x(i), y(point.value)));
    let _ = writeln!(
        page,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"currentColor\"/>",
        line.collect::<Vec<_>>().join(" ")
    );
    for (index, point) in points.iter().enumerate() {
        let circle = format!(
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{}: {}, {}</title></circle>",
            x(index),
            y(point.value),
            escape(short(&point.commit)),
            amount(series.measure, point.value),
            date(point.at_ms)
        );
        match links {
            Some(url) => {
                let commit = escape(&point.commit);
                let _ = writeln!(
                    page,
                    "<a href=\"{}/commit/{commit}\">{circle}</a>",
                    escape(url)
                );
            }
            None => page.push_str(&circle),
        }
    }
    page.push_str("</svg>\n");
}

fn link(commit: &str, links: Option<&str>) -> String {
    let (name, commit) = (escape(short(commit)), escape(commit));
    match links {
        Some(url) => format!("<a href=\"{}/commit/{commit}\">{name}</a>", escape(url)),
        None => name,
    }
}

fn date(at_ms: Millis) -> String {
    let at = DateTime::from_timestamp_millis(at_ms);
    at.map(|at| at.format("%Y-%m-%d").to_string())
        .unwrap_or_default()
}

/// Where a browser finds the repository of a remote, without the name and password
/// that the remote may hold; `None` if it is on no web server.
fn web_url(remote: &str) -> Option<String> {
    let place = match remote.split_once("://") {
        Some(("https" | "http" | "ssh" | "git", place)) => place.to_owned(),
        Some(_) => return None,
        // git@host:owner/repository
        None => {
            let (host, path) = remote.split_once(':')?;
            let is_host = host.contains('@') && !host.contains('/');
            is_host.then(|| format!("{host}/{path}"))?
        }
    };
    let (host, path) = place.split_once('/')?;
    let host = host.rsplit('@').next()?;
    // The port of an SSH server is not that of the web server.
    let host = if remote.starts_with("http") {
        host
    } else {
        host.split(':').next()?
    };
    let path = path.trim_end_matches('/').trim_end_matches(".git");
    (!host.is_empty() && !path.is_empty()).then(|| format!("https://{host}/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Change;
    use crate::speed::Measure;

    fn history() -> History {
        let point = |day: i64| Point {
            commit: format!("{day:040}"),
            at_ms: day * DAY,
            value: if day < 60 { 1e6 } else { 1.2e6 },
            launches: 6,
        };
        let series = BenchmarkHistory {
            benchmark: "sort/<1k>".to_owned(),
            measure: Measure::Time,
            unit: Measure::Time.unit(),
            source: None,
            points: (0..100).map(point).collect(),
            changes: vec![ChangePoint {
                before: point(59).commit,
                commit: point(60).commit,
                change: Change {
                    at: 60,
                    ratio: 1.2,
                    p: 1e-9,
                },
                comparison: None,
            }],
        };
        History {
            series: vec![series],
            left_out: vec!["3 measured elsewhere".to_owned()],
            ..History::default()
        }
    }

    #[test]
    fn the_page_is_self_contained_and_links_commits() {
        let page = trends(&history(), Some("git@example.org:ada/sorts.git"));
        for part in [
            "sort/&lt;1k&gt;: time",
            "+20.0 %",
            "1.200 ms",
            "1970-01-01",
            "https://example.org/ada/sorts/commit/0000000000000000000000000000000000000060",
            "cargo palisade compare",
            "Left out: 3 measured elsewhere",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("<script") && !page.contains("src="));
        // All points, those of a year and of 90 days (all but ten), and of a month.
        assert_eq!(page.matches("<circle").count(), 100 + 100 + 91 + 31);
        let without = trends(&history(), None);
        assert!(!without.contains("http"));
        assert!(trends(&History::default(), None).contains("Nothing of this branch"));
    }

    #[test]
    fn remotes_become_addresses_without_secrets() {
        for (remote, expected) in [
            (
                "https://ada:secret@example.org/ada/a.git",
                Some("https://example.org/ada/a"),
            ),
            (
                "https://example.org:8443/ada/a",
                Some("https://example.org:8443/ada/a"),
            ),
            (
                "ssh://git@example.org:2222/ada/a.git",
                Some("https://example.org/ada/a"),
            ),
            (
                "git@example.org:ada/a.git",
                Some("https://example.org/ada/a"),
            ),
            ("/srv/a.git", None),
            ("../a", None),
            ("C:\\a", None),
            ("file:///srv/a.git", None),
        ] {
            assert_eq!(web_url(remote).as_deref(), expected, "{remote}");
        }
    }
}
