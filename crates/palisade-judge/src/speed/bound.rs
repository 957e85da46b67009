//! Limits: one benchmark against another within a run, and budgets in absolute units.

use serde::{Deserialize, Serialize};

use super::estimate::{Estimate, estimate, evidence};
use super::judge::share;
use super::{InterimLooks, PairError};
use crate::stats::median;

/// What a value must not pass.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// It must be so large: `simd/4k ≥ 2.07 × generic/4k`.
    AtLeast(f64),
    /// It must be no larger: `max_rss = "1.2 GiB"`.
    AtMost(f64),
}

/// A limit with a tolerance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// What the value must not pass.
    pub limit: Limit,
    /// By which share of the limit it may pass it: .05 is 5 %.
    pub within: f64,
}

impl Bound {
    /// The value that decides, with the tolerance.
    pub fn edge(&self) -> f64 {
        match self.limit {
            Limit::AtLeast(limit) => limit * (1.0 - self.within),
            Limit::AtMost(limit) => limit * (1.0 + self.within),
        }
    }

    /// How far a value lies on the right side of the edge, as a log-ratio.
    fn slack(&self, value: f64) -> f64 {
        let over = value.ln() - self.edge().ln();
        match self.limit {
            Limit::AtLeast(_) => over,
            Limit::AtMost(_) => -over,
        }
    }
}

/// What is known about a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoundState {
    /// It is kept.
    Kept,
    /// It is broken.
    Broken,
    /// Neither is shown.
    Inconclusive,
    /// It was measured on other processors, and decides nothing on this one.
    Unrecorded,
}

/// What is known about a bound, with all numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BoundDecision {
    /// The bound.
    pub bound: Bound,
    /// What is known.
    pub state: BoundState,
    /// The median of the values and its 95 % interval, in the values' unit.
    pub estimate: Option<Estimate>,
    /// How many values were seen.
    pub values: usize,
    /// Why, in words.
    pub reason: String,
}

impl BoundDecision {
    /// The same values where the bound decides nothing, as it was measured on the processors
    /// `known` and not `here`. What was not measured at all stays open.
    #[must_use]
    pub fn unrecorded(self, known: &[&str], here: &str) -> Self {
        if self.values == 0 {
            return self;
        }
        let known = match known {
            [] => "on none".to_owned(),
            known => format!("on {}", known.join("; ")),
        };
        Self {
            state: BoundState::Unrecorded,
            reason: format!(
                "{}; that was recorded {known}, and this is {here}",
                self.reason
            ),
            ..self
        }
    }
}

/// Decides about a bound, value by value: the ratio of two benchmarks that ran next to
/// each other, or what one launch took.
#[derive(Clone, Debug)]
pub struct BoundJudge {
    bound: Bound,
    interim_looks: InterimLooks,
    level: f64,
    values: Vec<f64>,
    kept: f64,
    broken: f64,
    state: Option<BoundState>,
}

impl BoundJudge {
    /// A judge that has seen nothing; `level` is how likely each wrong answer may be.
    pub fn new(bound: Bound, interim_looks: InterimLooks, level: f64) -> Self {
        Self {
            bound,
            interim_looks,
            level,
            values: Vec::new(),
            kept: 1.0,
            broken: 1.0,
            state: None,
        }
    }

    /// The decision about a value without noise, such as the size of a program.
    pub fn exact(bound: Bound, value: f64) -> Result<BoundDecision, PairError> {
        let mut judge = Self::new(bound, InterimLooks::new(&[2]), 0.025);
        judge.push(value)?;
        judge.push(value)?;
        // A value at the edge itself keeps the bound.
        if value == bound.edge() {
            judge.state = Some(BoundState::Kept);
        }
        Ok(BoundDecision {
            values: 1,
            ..judge.decision()
        })
    }

    /// Takes one value above 0, and returns how many more the next interim look waits for;
    /// `None` when there is an answer.
    pub fn push(&mut self, value: f64) -> Result<Option<usize>, PairError> {
        if !(value.is_finite() && value > 0.0) {
            return Err(PairError::Bounded { value });
        }
        if self.state.is_some() {
            return Ok(None);
        }
        self.values.push(value);
        let n = self.values.len();
        if let Some(part) = self.interim_looks.share(n) {
            let slack: Vec<f64> = self.values.iter().map(|v| self.bound.slack(*v)).collect();
            let lack: Vec<f64> = slack.iter().map(|slack| -slack).collect();
            self.kept = self.kept.min(evidence(&slack) / part);
            self.broken = self.broken.min(evidence(&lack) / part);
            let is_last = self.interim_looks.next(n).is_none();
            self.state = if self.kept <= self.level && self.kept <= self.broken {
                Some(BoundState::Kept)
            } else if self.broken <= self.level {
                Some(BoundState::Broken)
            } else {
                is_last.then_some(BoundState::Inconclusive)
            };
        }
        let wanted = || self.interim_looks.next(n).map(|next| next - n);
        Ok(if self.state.is_some() { None } else { wanted() })
    }

    /// What is known now; without an answer that is inconclusive.
    pub fn decision(&self) -> BoundDecision {
        let state = self.state.unwrap_or(BoundState::Inconclusive);
        let logarithms: Vec<f64> = self.values.iter().map(|value| value.ln()).collect();
        let found = estimate(&logarithms);
        let centre = median(&self.values).map_or_else(String::new, number);
        let interval = found.map_or_else(String::new, |found| {
            let (low, high) = (number(found.low), number(found.high));
            format!(" (95 % interval {low} to {high})")
        });
        let (relation, limit) = match self.bound.limit {
            Limit::AtLeast(limit) => ("at least", limit),
            Limit::AtMost(limit) => ("at most", limit),
        };
        let tolerance = match self.bound.within {
            0.0 => String::new(),
            within => format!(" within {}", share(within)),
        };
        let answer = match state {
            BoundState::Kept => "is",
            BoundState::Broken => "is not",
            BoundState::Inconclusive | BoundState::Unrecorded => {
                "is not shown to be, nor not to be,"
            }
        };
        let limit = number(limit);
        let reason = if self.values.is_empty() {
            format!("nothing was measured; it is to be {relation} {limit}{tolerance}")
        } else {
            format!("{centre}{interval} {answer} {relation} {limit}{tolerance}")
        };
        BoundDecision {
            bound: self.bound,
            state,
            estimate: found,
            values: self.values.len(),
            reason,
        }
    }
}

/// Four digits of a number, as people write it.
fn number(value: f64) -> String {
    let digits = (3 - value.abs().log10().floor() as i32).clamp(0, 6) as usize;
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_value_nothing_is_said_of_one() {
        let bound = Bound {
            limit: Limit::AtLeast(2.0),
            within: 0.05,
        };
        let decision = BoundJudge::new(bound, InterimLooks::default(), 0.025).decision();
        assert_eq!(decision.state, BoundState::Inconclusive);
        assert_eq!(
            decision.reason,
            "nothing was measured; it is to be at least 2.000 within 5.0 %"
        );
    }

    fn decide(bound: Bound, values: impl Iterator<Item = f64>) -> BoundDecision {
        let mut judge = BoundJudge::new(bound, InterimLooks::default(), 0.025);
        for value in values {
            if judge.push(value).expect("a value").is_none() {
                break;
            }
        }
        judge.decision()
    }

    fn around(centre: f64, spread: f64) -> impl Iterator<Item = f64> {
        let steps = [0.3, -0.8, 0.5, -0.1, 0.9, -0.6, 0.0, 1.0, -1.0];
        (0..60).map(move |i| centre * (1.0 + spread * steps[i % steps.len()]))
    }

    #[test]
    fn a_ratio_is_kept_broken_or_open() {
        let bound = Bound {
            limit: Limit::AtLeast(2.07),
            within: 0.05,
        };
        let kept = decide(bound, around(2.07, 0.02));
        assert_eq!((kept.state, kept.values), (BoundState::Kept, 6));
        assert_eq!(
            kept.reason,
            "2.074 (95 % interval 2.043 to 2.100) is at least 2.070 within 5.0 %"
        );
        let broken = decide(bound, around(1.9, 0.02));
        assert_eq!((broken.state, broken.values), (BoundState::Broken, 6));
        let open = decide(bound, around(2.07 * 0.95, 0.02));
        assert_eq!((open.state, open.values), (BoundState::Inconclusive, 40));
    }

    #[test]
    fn on_another_processor_a_ratio_is_neither_kept_nor_broken() {
        let bound = Bound {
            limit: Limit::AtLeast(3.4),
            within: 0.05,
        };
        for (centre, answer) in [(2.84, "is not"), (3.5, "is")] {
            let found = decide(bound, around(centre, 0.01)).unrecorded(&["A", "B"], "C");
            assert_eq!(found.state, BoundState::Unrecorded);
            let end = format!(
                "{answer} at least 3.400 within 5.0 %; that was recorded on A; B, and this is C"
            );
            assert!(found.reason.ends_with(&end), "{}", found.reason);
        }
        let none = decide(bound, std::iter::empty()).unrecorded(&[], "C");
        assert_eq!(none.state, BoundState::Inconclusive);
    }

    #[test]
    fn a_budget_is_a_bound_on_values() {
        let gib = 1024.0 * 1024.0 * 1024.0;
        let bound = Bound {
            limit: Limit::AtMost(1.2 * gib),
            within: 0.0,
        };
        assert_eq!(decide(bound, around(gib, 0.01)).state, BoundState::Kept);
        let over = decide(bound, around(1.3 * gib, 0.01));
        assert_eq!(over.state, BoundState::Broken);
        let exact = |value| BoundJudge::exact(bound, value).expect("a value").state;
        assert_eq!(exact(1.2 * gib), BoundState::Kept);
        assert_eq!(exact(1.2 * gib + 1.0), BoundState::Broken);
    }

    #[test]
    fn nothing_is_decided_from_nothing() {
        let bound = Bound {
            limit: Limit::AtMost(1.3),
            within: 0.0,
        };
        let none = decide(bound, std::iter::empty());
        assert_eq!(none.state, BoundState::Inconclusive);
        let mut judge = BoundJudge::new(bound, InterimLooks::default(), 0.025);
        assert!(judge.push(f64::NAN).is_err());
        assert!(judge.push(0.0).is_err());
    }
}
