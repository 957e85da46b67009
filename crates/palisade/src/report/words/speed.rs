//! The words for what happened to speed and memory.

use super::{NOTHING, Words};
use crate::finding::{FileComparison, FindingSubject, RoughComparisons, Severity, SpeedGap};
use crate::record::{counted, shell_word};
use crate::report::{amount, bound_word, state_word};
use crate::speed::{
    BenchmarkState, BoundDecision, BoundState, Decision, Measure, RegressionAction, WIDEST_MARGIN,
};

pub(super) fn compared(subject: &FindingSubject, decision: &Decision, base: &str) -> Words {
    let benchmark = match subject {
        FindingSubject::Benchmark { name, .. } => name.as_str(),
        _ => "",
    };
    let again = format!(
        "cargo palisade compare {base} --only {}",
        shell_word(benchmark)
    );
    let words = Words::new(state_word(decision.state), decision.reason.clone());
    match (decision.state, decision.action) {
        (BenchmarkState::Improved | BenchmarkState::Equivalent, _) => words
            .meaning(format!(
                "it costs less than at {base}, and noise does not explain it"
            ))
            .next(NOTHING),
        (BenchmarkState::Regressed, _) if decision.measure == Measure::Instructions => {
            words.meaning("a counter alone decides nothing").next(again)
        }
        (BenchmarkState::Regressed, Some(RegressionAction::Block)) => words
            .meaning(format!(
                "it costs more than at {base}, and noise does not explain it"
            ))
            .next(again)
            .avoid("do not measure it again until it passes"),
        (BenchmarkState::Regressed, _) => words
            .meaning("the first launches say that it costs more; fresh ones have not confirmed it")
            .next(format!("{again}, with a larger --budget"))
            .no_pass(),
        (BenchmarkState::Inconclusive, _) => words
            .meaning("neither a change nor that there is none is shown")
            .next(format!(
                "{again}, with a larger --budget or on a quieter machine"
            ))
            .no_pass(),
        (BenchmarkState::Incomparable, _) => words
            .meaning("the two revisions cannot be compared")
            .next(again)
            .no_pass(),
    }
}

pub(super) fn compared_roughly(rough: &RoughComparisons, severity: Severity, base: &str) -> Words {
    let percent = |share: f64| 100.0 * share;
    let mut parts = Vec::new();
    if rough.equivalent > 0 {
        let verb = if rough.equivalent == 1 { "is" } else { "are" };
        parts.push(format!(
            "{} {verb} equivalent within ±{:.1} %, the smallest margin that this time shows",
            rough.equivalent,
            percent(rough.widest)
        ));
    }
    if rough.noisy > 0 {
        let verb = if rough.noisy == 1 {
            "differs"
        } else {
            "differ"
        };
        parts.push(format!(
            "{} {verb} too much from launch to launch for ±{:.0} %",
            rough.noisy,
            percent(WIDEST_MARGIN)
        ));
    }
    if rough.unseen > 0 {
        parts.push(format!("{} had no time for a first look", rough.unseen));
    }
    let all = counted(rough.all, "measurement");
    let reason = format!("of {all} {}", parts.join(", "));
    let state = match severity {
        Severity::Note => BenchmarkState::Equivalent,
        _ => BenchmarkState::Inconclusive,
    };
    Words::new(state_word(state), reason)
        .meaning("a smaller change than that would not show")
        .next(format!(
            "cargo palisade compare {base} with a larger --budget, or on a quieter machine"
        ))
        .no_pass()
}

pub(super) fn compared_files(subject: &FindingSubject, found: &FileComparison) -> Words {
    let measure = match subject {
        FindingSubject::ImportedBenchmark { measure, .. } => *measure,
        _ => Measure::Time,
    };
    let percent = |ratio: f64| 100.0 * (ratio - 1.0);
    Words::new(
        state_word(found.state),
        format!(
            "{} → {}: {:+.1} % (between {:+.1} and {:+.1} %, noise threshold {:.0} %)",
            amount(measure, found.before),
            amount(measure, found.after),
            percent(found.ratio),
            percent(found.low),
            percent(found.high),
            100.0 * found.noise_threshold
        ),
    )
    .meaning(match found.state {
        BenchmarkState::Regressed => "it became worse, or the machine did between the two",
        BenchmarkState::Improved => "it became better, or the machine did between the two",
        BenchmarkState::Equivalent => "nothing that counts",
        BenchmarkState::Inconclusive | BenchmarkState::Incomparable => {
            "two single runs cannot carry a difference this small"
        }
    })
    .next("cargo palisade compare BASE, which measures both by turns")
}

pub(super) fn bound(decision: &BoundDecision) -> Words {
    let words = Words::new(bound_word(decision.state), decision.reason.clone());
    if decision.state == BoundState::Unrecorded {
        return words
            .meaning("a ratio is a fact about a processor; on this one the bound decides nothing")
            .next("cargo palisade bench --record makes it one, of the values of this processor");
    }
    let words = words.avoid("do not loosen the bound to get past this");
    match decision.state {
        BoundState::Kept | BoundState::Broken => words
            .meaning("the bound of palisade.toml does not hold")
            .next("find out what became slower or larger, on either side of the bound"),
        BoundState::Inconclusive | BoundState::Unrecorded => words
            .meaning("whether the bound of palisade.toml holds is not shown")
            .next("cargo palisade compare with a larger --budget"),
    }
}

pub(super) fn gone(subject: &FindingSubject, base: &str) -> Words {
    if let FindingSubject::ImportedBenchmark { .. } = subject {
        return Words::new(
            "missing",
            format!("it is in {base} and was not measured any more"),
        )
        .meaning("what it measured is guarded no more")
        .next("measure it again, or compare with a newer base");
    }
    Words::new("missing", format!("it is at {base}, and gone"))
        .meaning("a slowdown of what it measured would not show")
        .next("bring it back, or compare again after this change is the base")
        .no_pass()
}

pub(super) fn not_listed(why: &str) -> Words {
    Words::new("incomparable", why)
        .meaning("its benchmarks are not known")
        .next("cargo bench shows the same")
        .no_pass()
}

pub(super) fn not_measured(gap: SpeedGap) -> Words {
    let (state, reason) = match gap {
        SpeedGap::NoneOnBoth => {
            return Words::new("incomparable", "there is none on both revisions")
                .meaning("nothing was measured, and that is not a pass")
                .next("cargo palisade bench lists what can be measured");
        }
        SpeedGap::NoneInReach => (
            "no_benchmark",
            "no benchmark is in the packages that the change can reach",
        ),
        SpeedGap::Budget => (
            "inconclusive",
            "the budget was over before they were measured",
        ),
        SpeedGap::BuildFailed => ("build_failed", "the benchmarks do not build"),
    };
    Words::new(state, reason)
        .meaning("a slowdown would not show")
        .next("cargo palisade bench")
        .no_pass()
}
