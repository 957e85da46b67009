//! The history of speed and memory as one HTML page that needs nothing else: no
//! script, no image from elsewhere. The span of time is chosen by buttons that work
//! by style alone.

use chrono::DateTime;
use minijinja::context;
use minijinja::value::{Serde, Value};

use super::amount;
use super::chart::{Chart, Dot, Mark};
use super::template::render;
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
    let benchmarks = history.series.iter();
    let benchmarks = benchmarks.map(|series| series_values(series, links.as_deref()));
    let values = context! {
        spans => SPANS.map(|(name, _)| name).to_vec(),
        machine => history.fingerprint.to_string(),
        left_out => Serde(&history.left_out),
        benchmarks => benchmarks.collect::<Vec<_>>(),
    };
    render("trends.html", include_str!("trends.html"), values)
}

fn series_values(series: &BenchmarkHistory, links: Option<&str>) -> Value {
    let newest = series.points.iter().map(|point| point.at_ms).max();
    let charts = SPANS.map(|(_, days)| {
        let since = days
            .zip(newest)
            .map_or(Millis::MIN, |(days, newest)| newest - days * DAY);
        let points = series.points.iter().filter(|point| point.at_ms >= since);
        chart(series, &points.collect::<Vec<_>>(), links)
    });
    let changes = series.changes.iter().map(|change| {
        context! {
            percent => percent(change),
            commit => short(&change.commit),
            link => link(&change.commit, links),
            comparison => comparison(change),
        }
    });
    context! {
        name => &series.benchmark,
        measure => series.measure.to_string(),
        source => &series.source,
        charts => charts.to_vec(),
        changes => changes.collect::<Vec<_>>(),
    }
}

fn percent(change: &ChangePoint) -> String {
    format!("{:+.1} %", 100.0 * (change.change.ratio - 1.0))
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

/// One curve: commits evenly spaced, with the changes of the series.
pub(super) fn chart(
    series: &BenchmarkHistory,
    points: &[&Point],
    links: Option<&str>,
) -> Option<Value> {
    let (first, last) = (points.first()?, points.last()?);
    let marks = series.changes.iter().filter_map(|change| {
        let mut commits = points.iter().map(|point| &point.commit);
        let at = commits.position(|commit| *commit == change.commit)?;
        let is_worse = change.change.ratio > 1.0;
        Some(Mark {
            at,
            class: if is_worse { "worse" } else { "better" },
            text: percent(change),
        })
    });
    let dots = points.iter().map(|point| {
        let (commit, amount) = (short(&point.commit), amount(series.measure, point.value));
        Dot {
            value: point.value,
            title: format!("{commit}: {amount}, {}", date(point.at_ms)),
            link: link(&point.commit, links),
        }
    });
    let chart = Chart {
        title: series.title(),
        dots: dots.collect(),
        marks: marks.collect(),
        ends: [date(first.at_ms), date(last.at_ms)],
        least_span: 0.1,
    };
    chart.draw(|value| amount(series.measure, value))
}

fn link(commit: &str, links: Option<&str>) -> Option<String> {
    links.map(|url| format!("{url}/commit/{commit}"))
}

pub(super) fn date(at_ms: Millis) -> String {
    let at = DateTime::from_timestamp_millis(at_ms);
    at.map(|at| at.format("%Y-%m-%d").to_string())
        .unwrap_or_default()
}

/// Where a browser finds the repository of a remote, without the name and password
/// that the remote may hold; `None` if it is on no web server.
pub(super) fn web_url(remote: &str) -> Option<String> {
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
pub(super) mod tests {
    use super::*;
    use crate::history::Change;
    use crate::speed::Measure;

    pub(crate) fn history() -> History {
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
