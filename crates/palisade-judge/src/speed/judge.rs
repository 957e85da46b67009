//! The decision about one measure of one benchmark, pair by pair.

use serde::{Deserialize, Serialize};

use super::estimate::{Estimate, estimate, evidence};
use super::{Measure, NoiseThreshold, PairError, log_ratio};
use crate::stats::median;

/// What is known about a benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BenchmarkState {
    /// It costs less.
    Improved,
    /// It costs more.
    Regressed,
    /// It costs the same within the policy's margin.
    Equivalent,
    /// None of the others is shown.
    Inconclusive,
    /// The two revisions cannot be compared.
    Incomparable,
}

/// What a regression does to the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegressionAction {
    /// It is reported.
    Warn,
    /// It stops the change: fresh launches confirm it, or its interval lies beyond
    /// the blocking size.
    Block,
}

/// After how many pairs the data are looked at, and which share of the level each
/// interim look may spend.
///
/// The shares add up to 1, so the chance of a wrong step at any look is at most the
/// level, whatever the looks have to do with each other (Bonferroni). Later looks
/// have more of it: the k-th of five has k / 15.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterimLooks(Vec<usize>);

impl InterimLooks {
    /// Looks after these numbers of pairs, which are put in order. Fewer than two
    /// pairs say nothing; with no number left it is one look after two pairs.
    pub fn new(pairs: &[usize]) -> Self {
        let mut pairs: Vec<usize> = pairs.iter().copied().filter(|n| *n >= 2).collect();
        pairs.sort_unstable();
        pairs.dedup();
        if pairs.is_empty() {
            pairs.push(2);
        }
        Self(pairs)
    }

    /// How many pairs there are at most.
    pub fn most(&self) -> usize {
        *self.0.last().expect("there is a look")
    }

    /// How many pairs the next interim look waits for; `None` after the last.
    pub fn next(&self, pairs: usize) -> Option<usize> {
        self.0
            .iter()
            .copied()
            .find(|interim_look| *interim_look > pairs)
    }

    /// The share of the look after so many pairs, if there is one.
    pub(super) fn share(&self, pairs: usize) -> Option<f64> {
        let at = self.0.binary_search(&pairs).ok()?;
        Some(self.shares(at + 1) - self.shares(at))
    }

    /// The share that is left for a look after so many pairs if it is the last: what the looks
    /// before it do not have. When measuring ends is no matter of what was seen.
    fn share_left(&self, pairs: usize) -> f64 {
        let before = self.0.iter().filter(|look| **look < pairs).count();
        1.0 - self.shares(before)
    }

    /// What the first looks have together.
    fn shares(&self, looks: usize) -> f64 {
        let sum = |n: usize| (n * (n + 1)) as f64;
        sum(looks) / sum(self.0.len())
    }
}

impl Default for InterimLooks {
    fn default() -> Self {
        Self(vec![6, 10, 16, 24, 40])
    }
}

/// The rules a benchmark is judged by.
#[derive(Clone, Debug, PartialEq)]
pub struct DecisionRules {
    /// What is measured.
    pub measure: Measure,
    /// How small a change is too small to count.
    pub noise_threshold: NoiseThreshold,
    /// Beyond which share the lower end of the interval blocks without confirmation.
    pub block: f64,
    /// When the data are looked at.
    pub interim_looks: InterimLooks,
    /// How likely a step in one direction may be if there is none.
    pub level: f64,
    /// How likely equivalence may be where there is a change as large as the margin.
    pub equivalence_level: f64,
    /// How many benchmarks are judged together. Before the last look an alarm must
    /// stand among all of them; at the end [`super::Family`] decides.
    pub family: usize,
}

impl DecisionRules {
    /// The default rules.
    pub fn new(measure: Measure, noise_threshold: NoiseThreshold) -> Self {
        Self {
            measure,
            noise_threshold,
            block: 0.03,
            interim_looks: InterimLooks::default(),
            level: 0.025,
            equivalence_level: 0.05,
            family: 1,
        }
    }
}

/// What a judge needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JudgeStep {
    /// So many more pairs until the next look.
    Measure {
        /// How many.
        pairs: usize,
    },
    /// An alarm: so many more pairs until the next look, from here on from fresh
    /// launches. Returned once, when the confirmation begins.
    Confirm {
        /// How many.
        pairs: usize,
    },
    /// Nothing.
    Done,
}

/// What fresh launches said about an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Confirmation {
    /// How many pairs were measured.
    pub pairs: usize,
    /// What they say.
    pub estimate: Option<Estimate>,
    /// Whether they raise the alarm again; `None` while that is open.
    pub agrees: Option<bool>,
}

/// What is known about one measure of one benchmark, with all numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// What was measured.
    pub measure: Measure,
    /// What is known.
    pub state: BenchmarkState,
    /// What a regression does to the verdict.
    #[serde(rename = "severity")]
    pub action: Option<RegressionAction>,
    /// Why, in words.
    pub reason: String,
    /// How many pairs were measured, without those of the confirmation.
    pub pairs: usize,
    /// The median of the base, in the measure's unit.
    pub base: Option<f64>,
    /// The median of the candidate.
    pub candidate: Option<f64>,
    /// How much more the candidate costs (for a [`Measure::Rate`] too).
    pub estimate: Option<Estimate>,
    /// Within which share of the base two programs are equivalent.
    pub margin: f64,
    /// The smallest margin within which an inconclusive comparison shows that both cost the
    /// same: wider than [`Self::margin`], and at most [`WIDEST_MARGIN`]. `None` where no such
    /// margin is shown, and of decisions that are not inconclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached_margin: Option<f64>,
    /// Beyond which share of the base a change counts.
    pub threshold: f64,
    /// How likely a difference in this direction is if there is none; valid at the
    /// look at which the judge stopped.
    pub p: f64,
    /// `p` among all benchmarks, once [`super::Family`] has looked at it.
    pub q: Option<f64>,
    /// What fresh launches said, if there was an alarm.
    pub confirmation: Option<Confirmation>,
}

impl Decision {
    /// Of a benchmark whose revisions cannot be compared: it exists on one revision only, it
    /// failed, the machines differ.
    pub fn incomparable(measure: Measure, reason: impl Into<String>) -> Self {
        Self {
            measure,
            state: BenchmarkState::Incomparable,
            action: None,
            reason: reason.into(),
            pairs: 0,
            base: None,
            candidate: None,
            estimate: None,
            margin: 0.0,
            reached_margin: None,
            threshold: 0.0,
            p: 1.0,
            q: None,
            confirmation: None,
        }
    }

    /// Whether an inconclusive decision still points at a regression: an alarm was raised that
    /// fresh launches did not refute, or there is more evidence for one than chance brings
    /// among all that was measured, or a large estimate: one that chance seldom brings to one
    /// benchmark alone and that is three times what the policy calls small, or one beyond the
    /// widest margin.
    pub fn is_suspicious(&self) -> bool {
        const SELDOM: f64 = 0.025;
        const LARGE: f64 = 3.0;
        let is_worse = self.estimate.is_some_and(|found| found.ratio > 1.0);
        let is_evident = is_worse && self.q.unwrap_or(self.p) <= FALSE_DISCOVERIES;
        let beyond = |size: f64| self.estimate.is_some_and(|found| found.ratio > 1.0 + size);
        let is_large = self.p <= SELDOM && beyond(LARGE * self.margin) || beyond(WIDEST_MARGIN);
        match self.confirmation {
            Some(alarm) => alarm.agrees != Some(false) || is_evident,
            None => is_evident || is_large,
        }
    }

    /// Whether there were as many pairs as the first look waits for.
    pub fn has_first_look(&self) -> bool {
        let first = InterimLooks::default().next(0);
        first.is_some_and(|first| self.pairs >= first)
    }

    /// Replaces the answer, and puts the reason before the present one.
    pub(super) fn become_state(&mut self, state: BenchmarkState, reason: &str) {
        self.state = state;
        self.action = None;
        self.reached_margin = None;
        self.reason = format!("{reason} ({})", self.reason);
    }
}

/// Pairs of one round of launches.
#[derive(Clone, Debug, Default)]
struct Round {
    base: Vec<f64>,
    candidate: Vec<f64>,
    log_ratios: Vec<f64>,
    /// The smallest p so far, each divided by the share of its look.
    worse: Option<f64>,
    better: Option<f64>,
    equal: Option<f64>,
    /// The answer; `None` while the looks go on.
    state: Option<BenchmarkState>,
}

impl Round {
    fn push(
        &mut self,
        rules: &DecisionRules,
        level: f64,
        pair: (f64, f64),
    ) -> Result<(), PairError> {
        let log_ratio = log_ratio(rules.measure, pair.0, pair.1)?;
        self.base.push(pair.0);
        self.candidate.push(pair.1);
        self.log_ratios.push(log_ratio);
        if rules.measure.is_exact() {
            self.state = Some(self.exact(rules));
        } else if let Some(share) = rules.interim_looks.share(self.pairs()) {
            self.state = self.interim_look(rules, level, share);
        }
        Ok(())
    }

    fn pairs(&self) -> usize {
        self.log_ratios.len()
    }

    fn base_median(&self) -> f64 {
        median(&self.base).unwrap_or(0.0)
    }

    fn estimate(&self, measure: Measure) -> Option<Estimate> {
        if measure.is_exact() {
            let ratio = self.log_ratios.last()?.exp();
            return Some(Estimate {
                ratio,
                low: ratio,
                high: ratio,
            });
        }
        estimate(&self.log_ratios)
    }

    /// The answer of a measure without noise.
    fn exact(&mut self, rules: &DecisionRules) -> BenchmarkState {
        let threshold = rules.noise_threshold.threshold(self.base_median()).ln_1p();
        let moved = self.log_ratios.last().copied().unwrap_or(0.0);
        let p = |is_shown| Some(if is_shown { 0.0 } else { 1.0 });
        (self.worse, self.better) = (p(moved > threshold), p(moved < -threshold));
        if moved > threshold {
            BenchmarkState::Regressed
        } else if moved < -threshold {
            BenchmarkState::Improved
        } else {
            BenchmarkState::Equivalent
        }
    }

    /// Looks at the data; an answer ends the round.
    fn interim_look(
        &mut self,
        rules: &DecisionRules,
        level: f64,
        share: f64,
    ) -> Option<BenchmarkState> {
        let d = &self.log_ratios;
        let margin = rules
            .noise_threshold
            .equivalence_margin(self.base_median())
            .ln_1p();
        let threshold = rules.noise_threshold.threshold(self.base_median()).ln_1p();
        let spend = |so_far: Option<f64>, p: f64| Some((p / share).min(so_far.unwrap_or(1.0)));
        self.worse = spend(self.worse, evidence(d));
        self.better = spend(self.better, evidence(&negated(d)));
        self.equal = spend(self.equal, apart(d, margin));
        let Estimate { ratio, low, high } = estimate(d)?;
        let is_last = rules.interim_looks.next(d.len()).is_none();
        let alarm_level = if is_last {
            rules.level
        } else {
            level.min(rules.level)
        };
        let shown = |p: Option<f64>, level| p.is_some_and(|p| p <= level);
        let (ratio, low, high) = (ratio.ln(), low.ln(), high.ln());
        if shown(self.worse, alarm_level) && ratio > threshold && low > 0.0 {
            Some(BenchmarkState::Regressed)
        } else if shown(self.better, alarm_level) && ratio < -threshold && high < 0.0 {
            Some(BenchmarkState::Improved)
        } else if shown(self.equal, rules.equivalence_level) && low >= -margin && high <= margin {
            Some(BenchmarkState::Equivalent)
        } else {
            is_last.then_some(BenchmarkState::Inconclusive)
        }
    }

    /// How likely values lie so far in one direction, worse or better, if there is none: by the
    /// looks, and by one more where measuring ended between two of them.
    fn p(&self, rules: &DecisionRules, is_worse: bool) -> f64 {
        let d = &self.log_ratios;
        let (seen, values) = if is_worse {
            (self.worse, d.clone())
        } else {
            (self.better, negated(d))
        };
        let seen = seen.unwrap_or(1.0);
        if self.state.is_some() || rules.measure.is_exact() {
            return seen;
        }
        seen.min(evidence(&values) / rules.interim_looks.share_left(self.pairs()))
    }

    /// The smallest margin within which these pairs show that both cost the same, if this is
    /// the last look at them; none before the first look, and none above [`WIDEST_MARGIN`].
    fn reached_margin(&self, rules: &DecisionRules) -> Option<f64> {
        /// Halves the distance to the margin that is looked for: to .01 % at least.
        const HALVINGS: usize = 10;
        /// Margins are told to a tenth of a percent, and not smaller than they are.
        const STEPS: f64 = 1000.0;
        let (looks, pairs) = (&rules.interim_looks, self.pairs());
        let found = estimate(&self.log_ratios)?;
        if rules.measure.is_exact() || pairs < looks.next(0)? {
            return None;
        }
        let level = rules.equivalence_level * looks.share_left(pairs);
        let is_shown = |margin| apart(&self.log_ratios, margin) <= level;
        // What is equivalent within a margin has its interval within it too.
        let (mut open, mut shown) = (found.high.ln().max(-found.low.ln()), WIDEST_MARGIN.ln_1p());
        if open > shown || !is_shown(shown) {
            return None;
        }
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(open, shown);
            if is_shown(middle) {
                shown = middle;
            } else {
                open = middle;
            }
        }
        Some((STEPS * shown.exp_m1()).ceil() / STEPS)
    }
}

/// How likely values lie so far inside of a margin if their centre is outside of it: two
/// one-sided tests (Schuirmann, 1987), below the upper end of the margin and above the lower
/// one. Equal values need no test, and no margin.
fn apart(log_ratios: &[f64], margin: f64) -> f64 {
    if log_ratios.iter().all(|d| *d == 0.0) {
        return 0.0;
    }
    let from = |sign: f64| -> Vec<f64> { log_ratios.iter().map(|d| margin + sign * d).collect() };
    evidence(&from(-1.0)).max(evidence(&from(1.0)))
}

fn negated(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| -value).collect()
}

/// Decides about one measure of one benchmark.
#[derive(Clone, Debug)]
pub struct Judge {
    rules: DecisionRules,
    first: Round,
    /// Begun when the first round raises an alarm.
    confirmation: Option<Round>,
}

impl Judge {
    /// A judge that has seen nothing.
    pub fn new(rules: DecisionRules) -> Self {
        Self {
            rules,
            first: Round::default(),
            confirmation: None,
        }
    }

    /// The rules it judges by.
    pub fn rules(&self) -> &DecisionRules {
        &self.rules
    }

    /// Takes one pair: a launch of the base and the one of the candidate beside it,
    /// in the measure's unit. Pairs after [`JudgeStep::Done`] are not looked at.
    pub fn push(&mut self, base: f64, candidate: f64) -> Result<JudgeStep, PairError> {
        let pair = (base, candidate);
        if let Some(round) = &mut self.confirmation {
            if round.state.is_none() {
                round.push(&self.rules, self.rules.level, pair)?;
            }
        } else if self.first.state.is_none() {
            // What Benjamini and Hochberg's procedure asks of the first of a family.
            let level = FALSE_DISCOVERIES / self.rules.family.max(1) as f64;
            self.first.push(&self.rules, level, pair)?;
            let is_alarm = self.first.state == Some(BenchmarkState::Regressed);
            if is_alarm && !self.rules.measure.is_exact() {
                self.confirmation = Some(Round::default());
                let pairs = self.rules.interim_looks.next(0).expect("there is a look");
                return Ok(JudgeStep::Confirm { pairs });
            }
        }
        Ok(self.step())
    }

    /// What it needs next.
    pub fn step(&self) -> JudgeStep {
        let round = self.confirmation.as_ref().unwrap_or(&self.first);
        let pairs = round.pairs();
        match (round.state, self.rules.interim_looks.next(pairs)) {
            (None, Some(next)) => JudgeStep::Measure {
                pairs: next - pairs,
            },
            _ => JudgeStep::Done,
        }
    }

    /// Whether more pairs are needed for the first look.
    pub fn waits_for_first_look(&self) -> bool {
        let first = self.rules.interim_looks.next(0);
        self.confirmation.is_none()
            && self.first.state.is_none()
            && first.is_some_and(|first| self.first.pairs() < first)
    }

    /// Whether an alarm is being confirmed: pairs come from fresh launches now.
    pub fn confirms(&self) -> bool {
        self.confirmation.is_some()
    }

    /// What is known now. Before [`JudgeStep::Done`], as when a budget is over, that is
    /// inconclusive, or a regression that nothing confirmed yet.
    pub fn decision(&self) -> Decision {
        let round = &self.first;
        let measure = self.rules.measure;
        let estimate = round.estimate(measure);
        let base = round.base_median();
        let confirmation = self.confirmation.as_ref().map(|fresh| Confirmation {
            pairs: fresh.pairs(),
            estimate: fresh.estimate(measure),
            agrees: fresh.state.map(|state| state == BenchmarkState::Regressed),
        });
        let agrees = confirmation.and_then(|confirmation| confirmation.agrees);
        let state = match (round.state, agrees) {
            (Some(BenchmarkState::Regressed), Some(false)) | (None, _) => {
                BenchmarkState::Inconclusive
            }
            (Some(state), _) => state,
        };
        let is_beyond_block = estimate.is_some_and(|found| found.low > 1.0 + self.rules.block);
        let blocks = measure.is_exact() || agrees == Some(true) || is_beyond_block;
        let is_worse = estimate.is_none_or(|found| found.ratio >= 1.0);
        let mut decision = Decision {
            measure,
            state,
            action: (state == BenchmarkState::Regressed).then_some(if blocks {
                RegressionAction::Block
            } else {
                RegressionAction::Warn
            }),
            reason: String::new(),
            pairs: round.pairs(),
            base: median(&round.base),
            candidate: median(&round.candidate),
            estimate,
            margin: self.rules.noise_threshold.equivalence_margin(base),
            reached_margin: None,
            threshold: self.rules.noise_threshold.threshold(base),
            p: round.p(&self.rules, is_worse),
            q: None,
            confirmation,
        };
        // Two rounds that contradict each other show no margin.
        if state == BenchmarkState::Inconclusive && confirmation.is_none() {
            decision.reached_margin = round.reached_margin(&self.rules);
        }
        decision.reason = reason(&decision, round.state.is_none());
        if let Some(reached) = decision.reached_margin {
            let reached = share(reached);
            decision.reason = format!("{}; equivalent within ±{reached}", decision.reason);
        }
        decision
    }
}

/// The widest margin of which it is worth saying that two programs are equivalent within it.
pub const WIDEST_MARGIN: f64 = 0.1;

/// Which share of the findings may be false: Benjamini and Hochberg's q.
pub(super) const FALSE_DISCOVERIES: f64 = 0.05;

/// The reason of a decision; `is_open` if it was taken before the looks were over.
fn reason(decision: &Decision, is_open: bool) -> String {
    let (slower, faster) = decision.measure.words();
    let Some(found) = decision.estimate else {
        let said = match decision.pairs {
            0 => "nothing was measured",
            _ => "one pair says nothing about noise",
        };
        return said.to_owned();
    };
    let moved = size(found.ratio);
    let threshold = share(decision.threshold);
    let seen = if decision.measure.is_exact() {
        String::new()
    } else {
        format!(
            " (95 % interval {} to {}, {})",
            percent(found.low),
            percent(found.high),
            counted(decision.pairs)
        )
    };
    let word = if found.ratio >= 1.0 { slower } else { faster };
    match decision.state {
        BenchmarkState::Regressed => {
            let fresh = match decision.confirmation {
                Some(Confirmation {
                    agrees: Some(true),
                    estimate: Some(fresh),
                    pairs,
                }) => format!(
                    "; fresh launches confirm it: {} in {}",
                    percent(fresh.ratio),
                    counted(pairs)
                ),
                Some(_) => "; not confirmed by fresh launches yet".to_owned(),
                None => String::new(),
            };
            format!("{moved} {word}{seen}, beyond its noise threshold of {threshold}{fresh}")
        }
        BenchmarkState::Improved => {
            format!("{moved} {word}{seen}, beyond its noise threshold of {threshold}")
        }
        BenchmarkState::Equivalent => format!(
            "the same within {}: {}{seen}",
            share(decision.margin),
            percent(found.ratio)
        ),
        BenchmarkState::Inconclusive | BenchmarkState::Incomparable => {
            inconclusive(decision, found, &seen, is_open)
        }
    }
}

fn inconclusive(decision: &Decision, found: Estimate, seen: &str, is_open: bool) -> String {
    let here = percent(found.ratio);
    if let Some(fresh) = decision.confirmation {
        let there = fresh
            .estimate
            .map_or_else(String::new, |e| percent(e.ratio));
        let pairs = counted(fresh.pairs);
        return format!("{here}{seen}, and fresh launches do not confirm it: {there} in {pairs}");
    }
    if is_open {
        return format!("{here}{seen}: measuring ended before the answer was clear");
    }
    let (margin, threshold) = (share(decision.margin), share(decision.threshold));
    let size = (found.ratio.ln().abs().exp() - 1.0, decision.threshold);
    if found.low > 1.0 || found.high < 1.0 {
        if size.0 <= size.1 {
            return format!(
                "{here}{seen}: not beyond its noise threshold of {threshold}, and not within {margin} either"
            );
        }
        return format!(
            "{here}{seen}: the evidence is too weak for {}",
            counted(decision.pairs)
        );
    }
    format!("{here}{seen}: too noisy to show a change, or that there is none beyond {margin}")
}

/// `1 pair`, `2 pairs`.
fn counted(pairs: usize) -> String {
    format!("{pairs} pair{}", if pairs == 1 { "" } else { "s" })
}

/// How far a ratio lies from 1, as a share of it.
fn size(ratio: f64) -> String {
    share((ratio - 1.0).abs())
}

/// `2.1 %`; small shares get more digits.
pub(super) fn share(share: f64) -> String {
    let percent = share * 100.0;
    if percent == 0.0 || percent >= 10.0 {
        format!("{percent:.0} %")
    } else if percent >= 0.95 {
        format!("{percent:.1} %")
    } else {
        format!("{percent:.2} %")
    }
}

/// `+2.1 %`.
pub(super) fn percent(ratio: f64) -> String {
    let sign = if ratio < 1.0 { "−" } else { "+" };
    format!("{sign}{}", size(ratio))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that wander around 1 by up to `spread`, without chance.
    fn wander(spread: f64) -> impl Iterator<Item = f64> {
        let steps = [0.3, -0.8, 0.5, -0.1, 0.9, -0.6, 0.0, 1.0, -1.0, 0.4, -0.4];
        (0..).map(move |i| 1.0 + spread * steps[i * 7 % steps.len()])
    }

    fn time() -> Judge {
        Judge::new(DecisionRules::new(
            Measure::Time,
            NoiseThreshold::of(Measure::Time),
        ))
    }

    /// Feeds pairs whose candidate is slower by `ratio` until the judge is done or
    /// begins to confirm.
    fn feed(judge: &mut Judge, ratio: f64, spread: f64) -> JudgeStep {
        let mut noise = wander(spread);
        let mut next = || noise.next().expect("endless");
        loop {
            let (base, candidate) = (100.0 * next(), 100.0 * ratio * next());
            match judge.push(base, candidate).expect("a pair") {
                JudgeStep::Measure { .. } => {}
                step => return step,
            }
        }
    }

    #[test]
    fn a_regression_is_confirmed_on_fresh_launches() {
        let mut judge = time();
        assert_eq!(
            feed(&mut judge, 1.03, 0.005),
            JudgeStep::Confirm { pairs: 6 }
        );
        assert!(judge.confirms());
        let open = judge.decision();
        assert_eq!(
            (open.state, open.action),
            (BenchmarkState::Regressed, Some(RegressionAction::Warn))
        );
        assert_eq!(feed(&mut judge, 1.03, 0.005), JudgeStep::Done);
        let decision = judge.decision();
        assert_eq!(decision.action, Some(RegressionAction::Block));
        assert_eq!(decision.confirmation.expect("began").agrees, Some(true));
        assert!(decision.p <= 0.025);
        insta::assert_snapshot!(decision.reason, @"2.9 % slower (95 % interval +2.6 % to +3.3 %, 6 pairs), beyond its noise threshold of 1.0 %; fresh launches confirm it: +2.9 % in 6 pairs");
        // What comes later changes nothing.
        assert_eq!(judge.push(1.0, 9.0), Ok(JudgeStep::Done));
        assert_eq!(judge.decision(), decision);
    }

    #[test]
    fn what_fresh_launches_do_not_show_is_open() {
        let mut judge = time();
        assert_eq!(
            feed(&mut judge, 1.1, 0.005),
            JudgeStep::Confirm { pairs: 6 }
        );
        // So far beyond the blocking size that it blocks while it is not confirmed.
        assert_eq!(judge.decision().action, Some(RegressionAction::Block));
        assert_eq!(feed(&mut judge, 1.0, 0.002), JudgeStep::Done);
        let decision = judge.decision();
        assert_eq!(
            (decision.state, decision.action),
            (BenchmarkState::Inconclusive, None)
        );
        insta::assert_snapshot!(decision.reason, @"+9.9 % (95 % interval +9.5 % to +10 %, 6 pairs), and fresh launches do not confirm it: −0.05 % in 6 pairs");
    }

    #[test]
    fn the_same_is_shown_and_faster_too() {
        let mut judge = time();
        assert_eq!(feed(&mut judge, 1.0, 0.002), JudgeStep::Done);
        assert_eq!(judge.decision().state, BenchmarkState::Equivalent);
        insta::assert_snapshot!(judge.decision().reason, @"the same within 1.0 %: −0.05 % (95 % interval −0.17 % to +0.11 %, 6 pairs)");
        let mut judge = time();
        assert_eq!(feed(&mut judge, 0.9, 0.005), JudgeStep::Done);
        let decision = judge.decision();
        assert_eq!(
            (decision.state, decision.action),
            (BenchmarkState::Improved, None)
        );
        insta::assert_snapshot!(decision.reason, @"10 % faster (95 % interval −10 % to −9.8 %, 6 pairs), beyond its noise threshold of 1.0 %");
    }

    #[test]
    fn noise_is_open_and_never_equivalent() {
        let mut judge = time();
        assert_eq!(feed(&mut judge, 1.0, 0.2), JudgeStep::Done);
        let decision = judge.decision();
        assert_eq!(
            (decision.state, decision.pairs),
            (BenchmarkState::Inconclusive, 40)
        );
        insta::assert_snapshot!(decision.reason, @"−4.7 % (95 % interval −6.1 % to +3.3 %, 40 pairs): too noisy to show a change, or that there is none beyond 1.0 %; equivalent within ±6.6 %");
        // A little slower, less than the noise threshold and more than nothing.
        let mut judge = time();
        assert_eq!(feed(&mut judge, 1.0095, 0.008), JudgeStep::Done);
        assert_eq!(judge.decision().state, BenchmarkState::Inconclusive);
    }

    #[test]
    fn a_budget_that_ends_leaves_the_answer_open() {
        let mut judge = time();
        assert_eq!(judge.decision().state, BenchmarkState::Inconclusive);
        insta::assert_snapshot!(judge.decision().reason, @"nothing was measured");
        for _ in 0..4 {
            judge.push(100.0, 130.0).expect("a pair");
        }
        assert_eq!(judge.step(), JudgeStep::Measure { pairs: 2 });
        let decision = judge.decision();
        assert_eq!(
            (decision.state, decision.pairs),
            (BenchmarkState::Inconclusive, 4)
        );
        insta::assert_snapshot!(decision.reason, @"+30 % (95 % interval +30 % to +30 %, 4 pairs): measuring ended before the answer was clear");
    }

    #[test]
    fn the_smallest_margin_that_the_pairs_show_is_told() {
        let after = |pairs: usize, ratio: f64, spread: f64| {
            let mut judge = time();
            let mut noise = wander(spread);
            let mut next = || noise.next().expect("endless");
            for _ in 0..pairs {
                let (base, candidate) = (100.0 * next(), 100.0 * ratio * next());
                judge.push(base, candidate).expect("a pair");
            }
            judge.decision()
        };
        // Before the first look there is none, nor beyond the widest.
        assert_eq!(after(5, 1.0, 0.02).reached_margin, None);
        assert_eq!(after(40, 1.0, 0.6).reached_margin, None);
        // A budget that ends later shows a smaller one.
        let reached = |pairs| after(pairs, 1.0, 0.03).reached_margin.expect("shown");
        let margins = [6, 12, 24, 40].map(reached);
        assert!(margins.is_sorted_by(|a, b| a > b), "{margins:?}");
        let early = after(8, 1.0, 0.03);
        assert_eq!(early.state, BenchmarkState::Inconclusive);
        assert!(early.margin < early.reached_margin.expect("shown"));
        assert!(!early.is_suspicious(), "{early:?}");
        insta::assert_snapshot!(early.reason, @"−0.76 % (95 % interval −2.3 % to +1.1 %, 8 pairs): measuring ended before the answer was clear; equivalent within ±3.4 %");
        // What is shown to be equivalent has the policy's margin alone.
        assert_eq!(after(40, 1.0, 0.002).reached_margin, None);
    }

    #[test]
    fn what_measuring_was_too_short_for_is_suspicious_if_it_points_at_a_regression() {
        let after = |pairs: usize, ratio: f64| {
            let mut judge = time();
            for (at, noise) in wander(0.005).take(pairs).enumerate() {
                let apart = if at % 2 == 0 { 0.001 } else { -0.001 };
                judge
                    .push(100.0 * (1.0 + apart), 100.0 * ratio * noise)
                    .expect("a pair");
            }
            judge.decision()
        };
        for (pairs, ratio, is_suspicious) in [
            (4, 1.3, true),
            (4, 1.0, false),
            (4, 0.7, false),
            (0, 1.0, false),
        ] {
            let decision = after(pairs, ratio);
            assert_eq!(decision.state, BenchmarkState::Inconclusive);
            assert_eq!(decision.is_suspicious(), is_suspicious, "{decision:?}");
        }
        // An alarm that nothing refuted stays one, whatever else was measured with it.
        let mut judge = time();
        feed(&mut judge, 1.03, 0.005);
        let alarm = judge.decision();
        let mut taken_back = alarm.clone();
        taken_back.q = Some(0.5);
        taken_back.become_state(BenchmarkState::Inconclusive, "among many");
        assert!(taken_back.is_suspicious());
    }

    #[test]
    fn a_restless_benchmark_must_move_farther_to_raise_an_alarm() {
        let noise_threshold = NoiseThreshold::of(Measure::Time).with_spread(0.02);
        let judged = |ratio| {
            let mut judge = Judge::new(DecisionRules::new(Measure::Time, noise_threshold));
            feed(&mut judge, ratio, 0.005);
            judge.decision().state
        };
        assert_eq!(judged(1.04), BenchmarkState::Inconclusive);
        assert_eq!(judged(1.08), BenchmarkState::Regressed);
        assert_eq!(judged(1.0), BenchmarkState::Equivalent);
        // 2 % is nowhere called equivalent, however restless.
        assert_eq!(judged(1.02), BenchmarkState::Inconclusive);
    }

    #[test]
    fn counts_and_sizes_are_compared_as_they_are() {
        let judged = |measure, base, candidate| {
            let mut judge = Judge::new(DecisionRules::new(measure, NoiseThreshold::of(measure)));
            while judge.push(base, candidate).expect("a pair") != JudgeStep::Done {}
            judge.decision()
        };
        let size = judged(Measure::BinarySize, 1_000_000.0, 1_020_000.0);
        assert_eq!((size.state, size.pairs), (BenchmarkState::Regressed, 1));
        assert_eq!(size.action, Some(RegressionAction::Block));
        insta::assert_snapshot!(size.reason, @"2.0 % more, beyond its noise threshold of 1.0 %");
        let count = |base, candidate| judged(Measure::AllocationCount, base, candidate).state;
        assert_eq!(count(0.0, 0.0), BenchmarkState::Equivalent);
        assert_eq!(count(7.0, 7.0), BenchmarkState::Equivalent);
        assert_eq!(count(0.0, 1.0), BenchmarkState::Regressed);
        assert_eq!(count(1000.0, 999.0), BenchmarkState::Improved);
        let rate = judged(Measure::Rate, 50.0, 40.0);
        assert_eq!(rate.state, BenchmarkState::Regressed);
        insta::assert_snapshot!(rate.reason, @"25 % slower (95 % interval +25 % to +25 %, 6 pairs), beyond its noise threshold of 1.0 %; fresh launches confirm it: +25 % in 6 pairs");
    }

    #[test]
    fn looks_share_the_level() {
        let interim_looks = InterimLooks::new(&[16, 6, 10, 6, 0, 1]);
        assert_eq!(interim_looks.most(), 16);
        let shares = [6, 10, 16].map(|pairs| interim_looks.share(pairs).expect("a look"));
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(interim_looks.share(7), None);
        assert_eq!(
            (
                interim_looks.next(0),
                interim_looks.next(6),
                interim_looks.next(16)
            ),
            (Some(6), Some(10), None)
        );
        assert_eq!(InterimLooks::new(&[]).most(), 2);
    }

    #[test]
    fn among_many_an_early_alarm_waits_for_more_evidence() {
        let judged = |family| {
            let rules = DecisionRules::new(Measure::Time, NoiseThreshold::of(Measure::Time));
            let mut judge = Judge::new(DecisionRules { family, ..rules });
            feed(&mut judge, 1.05, 0.02);
            (judge.decision().state, judge.decision().pairs)
        };
        let (alone, many) = (judged(1), judged(200));
        assert_eq!(
            (alone.0, many.0),
            (BenchmarkState::Regressed, BenchmarkState::Regressed)
        );
        assert!(many.1 > alone.1, "{alone:?} {many:?}");
    }

    #[test]
    fn a_value_that_nothing_measures_changes_nothing() {
        let mut judge = time();
        judge.push(1.0, 1.0).expect("a pair");
        assert!(judge.push(0.0, 1.0).is_err());
        assert_eq!(judge.decision().pairs, 1);
    }
}
