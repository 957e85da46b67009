//! Many benchmarks together: false discoveries, counters beside clocks, and what
//! moved all of them at once.

use serde::{Deserialize, Serialize};

use super::judge::{FALSE_DISCOVERIES, percent, share};
use super::{BenchmarkState, Decision, Measure, RegressionAction};

/// How many unchanged benchmarks it takes to speak of the environment.
const MIN_UNREACHED: usize = 3;

/// The decision about one measure of one benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkResult {
    /// The benchmark's name.
    pub benchmark: String,
    /// Whether the change cannot have reached the program that was measured: both
    /// revisions' programs are equal, or built from equal files. (When a revision is
    /// compared with itself to learn how often the guard errs, leave it false: the
    /// question is what the clock alone would say.)
    pub unchanged: bool,
    /// What is known about it.
    pub decision: Decision,
}

/// How benchmarks moved together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shift {
    /// The geometric mean of their ratios.
    pub ratio: f64,
    /// How many of them moved in that direction, each beyond its interval.
    pub moved: usize,
    /// How many there are.
    pub of: usize,
}

/// All benchmarks of a comparison, judged together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Family {
    /// The decisions, in the order they were given.
    pub results: Vec<BenchmarkResult>,
    /// How the clocks of all benchmarks moved; `None` without any.
    pub shift: Option<Shift>,
    /// How more than half of the benchmarks that the change cannot have reached moved
    /// in one direction: the environment differed between the revisions.
    pub environment: Option<Shift>,
}

impl Family {
    /// Judges benchmarks together. Decisions can only become milder by it:
    ///
    /// 1. An alarm must survive Benjamini and Hochberg's procedure (1995) with
    ///    q = .05 among all results; improvements are a family of their own.
    /// 2. Where the change cannot have reached the program and its instructions are
    ///    the same, a clock that moved shows the environment. Instructions that rose
    ///    only warn, and say what the clock shows of it.
    /// 3. If more than half of at least three unreached benchmarks moved together,
    ///    the environment did it: their alarms are open, and those of the others
    ///    unless they lie beyond the common shift too.
    pub fn judge(mut results: Vec<BenchmarkResult>) -> Self {
        control_false_discoveries(&mut results, BenchmarkState::Regressed);
        control_false_discoveries(&mut results, BenchmarkState::Improved);
        let shift = shift(&results, |_| true);
        let environment = shift_of_unreached(&results);
        apply_counters(&mut results);
        if let Some(shift) = environment {
            discount_common_shift(&mut results, shift);
        }
        Self {
            results,
            shift,
            environment,
        }
    }
}

/// The q of each p: the smallest share of false discoveries at which it counts as one
/// (Benjamini and Hochberg, 1995).
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let m = p.len();
    let mut order: Vec<usize> = (0..m).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut q = vec![1.0; m];
    let mut least = 1.0_f64;
    for (rank, at) in order.iter().enumerate().rev() {
        least = least.min(p[*at] * m as f64 / (rank + 1) as f64);
        q[*at] = least;
    }
    q
}

/// Whether a decision points in the direction of a state.
fn has_direction(decision: &Decision, state: BenchmarkState) -> bool {
    let is_worse = decision.estimate.is_some_and(|found| found.ratio >= 1.0);
    is_worse == (state == BenchmarkState::Regressed)
}

fn control_false_discoveries(results: &mut [BenchmarkResult], state: BenchmarkState) {
    let p = |result: &BenchmarkResult| {
        if has_direction(&result.decision, state) {
            result.decision.p
        } else {
            1.0
        }
    };
    // Counts are not subject to chance.
    let compared = |result: &&mut BenchmarkResult| {
        result.decision.estimate.is_some() && result.decision.measure != Measure::Instructions
    };
    let mut compared: Vec<&mut BenchmarkResult> = results.iter_mut().filter(compared).collect();
    let p: Vec<f64> = compared.iter().map(|result| p(result)).collect();
    let n = compared.len();
    for (result, q) in compared.iter_mut().zip(benjamini_hochberg(&p)) {
        let decision = &mut result.decision;
        if !has_direction(decision, state) {
            continue;
        }
        decision.q = Some(q);
        if decision.state == state && q > FALSE_DISCOVERIES {
            let reason =
                format!("among {n} measurements one like it comes up by chance: q = {q:.2}");
            decision.become_state(BenchmarkState::Inconclusive, &reason);
        }
    }
}

fn is_clock(measure: Measure) -> bool {
    matches!(measure, Measure::Time | Measure::Rate)
}

/// Lets the instructions of a benchmark speak about its clock, and the clock about
/// them.
fn apply_counters(results: &mut [BenchmarkResult]) {
    for at in 0..results.len() {
        let result = &results[at];
        let of_same = |is_wanted: fn(Measure) -> bool| {
            results
                .iter()
                .filter(|other| other.benchmark == result.benchmark)
                .find(|other| is_wanted(other.decision.measure))
                .map(|other| other.decision.state)
        };
        let measure = result.decision.measure;
        if is_clock(measure) {
            let counted = of_same(|measure| measure == Measure::Instructions);
            let moved = matches!(
                result.decision.state,
                BenchmarkState::Regressed | BenchmarkState::Improved
            );
            if moved && result.unchanged && counted == Some(BenchmarkState::Equivalent) {
                let reason = "the change cannot reach it and its instructions are the same: \
                              the environment moved the clock";
                results[at]
                    .decision
                    .become_state(BenchmarkState::Equivalent, reason);
            }
        } else if measure == Measure::Instructions
            && result.decision.state == BenchmarkState::Regressed
        {
            let warning = match of_same(is_clock) {
                None | Some(BenchmarkState::Incomparable) => "no clock was read beside them",
                Some(BenchmarkState::Equivalent | BenchmarkState::Improved) => {
                    "the clock shows no slowdown"
                }
                Some(BenchmarkState::Inconclusive) => "the clock cannot tell",
                Some(BenchmarkState::Regressed) => "the clock shows it too",
            };
            let decision = &mut results[at].decision;
            decision.action = Some(RegressionAction::Warn);
            decision.reason = format!("{}; {warning}", decision.reason);
        }
    }
}

/// How the clocks of some benchmarks moved.
fn shift(results: &[BenchmarkResult], belongs: impl Fn(&BenchmarkResult) -> bool) -> Option<Shift> {
    let clocks = results
        .iter()
        .filter(|result| is_clock(result.decision.measure) && belongs(result));
    let found: Vec<_> = clocks
        .filter_map(|result| result.decision.estimate)
        .collect();
    let of = found.len();
    let mean = found.iter().map(|found| found.ratio.ln()).sum::<f64>() / of as f64;
    let moved = found.iter().filter(|found| {
        if mean > 0.0 {
            found.low > 1.0
        } else {
            found.high < 1.0
        }
    });
    (of > 0).then(|| Shift {
        ratio: mean.exp(),
        moved: moved.count(),
        of,
    })
}

fn shift_of_unreached(results: &[BenchmarkResult]) -> Option<Shift> {
    let common = shift(results, |result| result.unchanged)?;
    (common.of >= MIN_UNREACHED && 2 * common.moved > common.of).then_some(common)
}

/// Takes the alarms back that a common shift explains.
fn discount_common_shift(results: &mut [BenchmarkResult], common: Shift) {
    for result in results {
        let decision = &mut result.decision;
        let Some(found) = decision.estimate else {
            continue;
        };
        let is_alarm = decision.state == BenchmarkState::Regressed && is_clock(decision.measure);
        let is_beyond =
            found.low > common.ratio && found.ratio > common.ratio * (1.0 + decision.threshold);
        if is_alarm && (result.unchanged || !is_beyond) {
            let reason = format!(
                "the environment: {} of {} benchmarks that the change cannot reach moved too, by {} \
                 on average; measure again",
                common.moved,
                common.of,
                percent(common.ratio)
            );
            decision.become_state(BenchmarkState::Inconclusive, &reason);
        } else if is_alarm {
            decision.reason = format!(
                "{}; beyond the {} by which the environment moved all",
                decision.reason,
                share((common.ratio - 1.0).abs())
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speed::Estimate;

    fn result(
        benchmark: &str,
        measure: Measure,
        state: BenchmarkState,
        ratio: f64,
    ) -> BenchmarkResult {
        let estimate = Some(Estimate {
            ratio,
            low: ratio - 0.001,
            high: ratio + 0.001,
        });
        BenchmarkResult {
            benchmark: benchmark.to_owned(),
            unchanged: false,
            decision: Decision {
                state,
                action: (state == BenchmarkState::Regressed).then_some(RegressionAction::Block),
                estimate,
                threshold: 0.01,
                p: 1e-6,
                ..Decision::incomparable(measure, "seen")
            },
        }
    }

    fn unchanged(result: BenchmarkResult) -> BenchmarkResult {
        BenchmarkResult {
            unchanged: true,
            ..result
        }
    }

    fn states(family: &Family) -> Vec<BenchmarkState> {
        let state = |result: &BenchmarkResult| result.decision.state;
        family.results.iter().map(state).collect()
    }

    #[test]
    fn q_agrees_with_a_worked_case() {
        // p.adjust(c(.01, .02, .03, .04, .5), "BH") of R.
        let q = benjamini_hochberg(&[0.04, 0.01, 0.03, 0.02, 0.5]);
        for (found, expected) in q.iter().zip([0.05, 0.05, 0.05, 0.05, 0.5]) {
            assert!((found - expected).abs() < 1e-12, "{q:?}");
        }
        assert!(benjamini_hochberg(&[]).is_empty());
    }

    #[test]
    fn a_weak_alarm_among_many_is_open() {
        let alarm = |p| {
            let mut result = result("alarm", Measure::Time, BenchmarkState::Regressed, 1.03);
            result.decision.p = p;
            result
        };
        let calm = (0..49).map(|i| {
            let mut calm = result(
                &format!("calm{i}"),
                Measure::Time,
                BenchmarkState::Equivalent,
                1.0,
            );
            calm.decision.p = 0.5;
            calm
        });
        let calm: Vec<BenchmarkResult> = calm.collect();
        let judge = |p| {
            let all = [vec![alarm(p)], calm.clone()].concat();
            Family::judge(all).results[0].decision.clone()
        };
        assert_eq!(judge(1e-4).state, BenchmarkState::Regressed);
        assert_eq!(judge(1e-4).q, Some(0.005));
        let open = judge(0.01);
        assert_eq!(open.state, BenchmarkState::Inconclusive);
        assert_eq!(open.action, None);
        assert_eq!(
            open.reason,
            "among 50 measurements one like it comes up by chance: q = 0.50 (seen)"
        );
        // Alone it stands.
        let alone = Family::judge(vec![alarm(0.01)]);
        assert_eq!(states(&alone), [BenchmarkState::Regressed]);
    }

    #[test]
    fn counters_overrule_the_clock_where_the_change_cannot_reach() {
        let clock = || result("a", Measure::Time, BenchmarkState::Regressed, 1.05);
        let flat = || result("a", Measure::Instructions, BenchmarkState::Equivalent, 1.0);
        let family = Family::judge(vec![unchanged(clock()), unchanged(flat())]);
        assert_eq!(
            states(&family),
            [BenchmarkState::Equivalent, BenchmarkState::Equivalent]
        );
        assert!(family.results[0].decision.reason.contains("environment"));
        // Changed code may be slower with the same instructions.
        let family = Family::judge(vec![clock(), flat()]);
        assert_eq!(states(&family)[0], BenchmarkState::Regressed);
        // Another benchmark's counters say nothing.
        let other = result("b", Measure::Instructions, BenchmarkState::Equivalent, 1.0);
        let family = Family::judge(vec![unchanged(clock()), unchanged(other)]);
        assert_eq!(states(&family)[0], BenchmarkState::Regressed);
    }

    #[test]
    fn counters_alone_warn() {
        let counted = || result("a", Measure::Instructions, BenchmarkState::Regressed, 1.02);
        let action = |family: Family| family.results[0].decision.action;
        let alone = Family::judge(vec![counted()]);
        assert_eq!(action(alone), Some(RegressionAction::Warn));
        let calm = result("a", Measure::Time, BenchmarkState::Equivalent, 1.0);
        let refuted = Family::judge(vec![counted(), calm]);
        assert_eq!(action(refuted), Some(RegressionAction::Warn));
        // The clock could not tell: the counters found it, and that is said.
        let noisy = result("a", Measure::Time, BenchmarkState::Inconclusive, 1.01);
        let found = Family::judge(vec![counted(), noisy]);
        assert!(
            found.results[0]
                .decision
                .reason
                .ends_with("the clock cannot tell")
        );
        assert_eq!(action(found), Some(RegressionAction::Warn));
    }

    #[test]
    fn what_moved_all_is_the_environment() {
        use BenchmarkState::{Inconclusive, Regressed};
        let clock = |name: &str, state, ratio| result(name, Measure::Time, state, ratio);
        let all = vec![
            unchanged(clock("a", BenchmarkState::Regressed, 1.04)),
            unchanged(clock("b", BenchmarkState::Regressed, 1.05)),
            unchanged(clock("c", BenchmarkState::Inconclusive, 1.0)),
            clock("like the others", BenchmarkState::Regressed, 1.04),
            clock("worse", BenchmarkState::Regressed, 1.2),
        ];
        let family = Family::judge(all.clone());
        let expected = [
            Inconclusive,
            Inconclusive,
            Inconclusive,
            Inconclusive,
            Regressed,
        ];
        assert_eq!(states(&family), expected);
        let environment = family.environment.expect("moved");
        assert_eq!((environment.moved, environment.of), (2, 3));
        assert!((environment.ratio - (1.04_f64 * 1.05).cbrt()).abs() < 1e-9);
        assert_eq!(family.shift.expect("clocks").of, 5);
        assert!(
            family.results[0]
                .decision
                .reason
                .contains("2 of 3 benchmarks")
        );
        // Two do not make an environment.
        let family = Family::judge([&all[..2], &all[3..]].concat());
        assert_eq!(family.environment, None);
        assert_eq!(states(&family), [Regressed; 4]);
    }
}
