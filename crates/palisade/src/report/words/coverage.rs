//! The words for what a check looked at, and what it left out.

use crate::coverage::{Aspect, LeftOut, LeftOutReason, Part};
use crate::record::counted;

/// What was looked at.
pub fn aspect(what: Aspect) -> &'static str {
    match what {
        Aspect::Tests => "tests",
        Aspect::Claims => "claims",
        Aspect::Speed => "speed",
    }
}

/// What was left out, and why: `claims and speed not measured: --tests-only`.
pub fn left_out_words(left_out: &[LeftOut]) -> Vec<String> {
    let is_alike = |one: &LeftOut, other: &LeftOut| {
        one.why == other.why && one.part.is_none() && other.part.is_none()
    };
    let alike = left_out.chunk_by(is_alike);
    let words = alike.map(|alike| {
        let what: Vec<&str> = alike.iter().map(|left_out| aspect(left_out.what)).collect();
        let LeftOut { why, part, .. } = alike[0];
        let verb = match why {
            LeftOutReason::Noise => "decided",
            _ => "measured",
        };
        let of = part.map_or_else(String::new, |part| {
            format!(" of {} of {} benchmarks", part.left_out, part.all)
        });
        format!("{}{of} not {verb}: {}", listed(&what), reason(why))
    });
    words.collect()
}

/// How many tests are invisible: `at least 21 of 144 tests are behind features that this run leaves out`.
pub fn behind_features(part: Part) -> String {
    let Part { left_out, all } = part;
    let verb = if left_out == 1 { "is" } else { "are" };
    format!(
        "at least {left_out} of {} {verb} behind features that this run leaves out",
        counted(all, "test")
    )
}

/// Names as a sentence has them: `tests, claims and speed`.
pub fn listed(names: &[&str]) -> String {
    match names {
        [others @ .., last] if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        names => names.concat(),
    }
}

fn reason(why: LeftOutReason) -> &'static str {
    match why {
        LeftOutReason::TestsOnly => "--tests-only",
        LeftOutReason::Policy => "palisade.toml says so",
        LeftOutReason::Shards => "a check in shards",
        LeftOutReason::StoredBase => "a stored base is not built",
        LeftOutReason::NotInFiles => "what is judged is not in the user's files",
        LeftOutReason::Regression => "something became worse before",
        LeftOutReason::NothingShipped => "no shipped code changed",
        LeftOutReason::NoBenchmark => "no benchmark in reach",
        LeftOutReason::BuildFailed => "the benchmarks do not build",
        LeftOutReason::NotComparable => "they did not run on both revisions",
        LeftOutReason::Noise => "noise",
        LeftOutReason::Budget => "budget",
    }
}
