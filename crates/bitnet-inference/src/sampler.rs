//! Sampling of the next token from logits.

use std::cmp::Ordering;
use std::ops::RangeInclusive;

use bitnet_core::{Isa, ops};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::logits::Logits;
use crate::token_set::TokenSet;

/// Sampling parameters.
///
/// The steps are those of `transformers`, in its order: penalties, temperature, top-k,
/// top-p, min-p, and a random draw. All penalties use the same window of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplerOptions {
    /// Divides the logits. Below [`MIN_TEMPERATURE`], sampling is greedy (ties go to the
    /// lower id), and all steps but the penalties are skipped.
    pub temperature: f32,
    /// Keeps the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of most likely tokens whose probabilities sum to p or more; 1
    /// keeps all, 0 the most likely one.
    pub top_p: f32,
    /// Keeps tokens at least p times as likely as the most likely one; 0 keeps
    /// all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens that occurred in
    /// the window, prompt or text (Keskar et al., CTRL, 2019); 1 changes nothing.
    pub repeat_penalty: f32,
    /// Subtracted from the logits of tokens generated in the window, as in the API of
    /// `OpenAI`: prompt tokens do not count. From -2 to 2; 0 has no effect.
    pub presence_penalty: f32,
    /// Subtracted from a logit once per occurrence of the token among those generated in
    /// the window. From -2 to 2; 0 has no effect.
    pub frequency_penalty: f32,
    /// Number of last tokens that the penalties apply to; 0 disables them, [`usize::MAX`]
    /// means all.
    #[serde(with = "window")]
    pub penalty_window: usize,
    /// Seed of the random number generator.
    pub seed: u64,
}

/// The penalty window in documents: all tokens are `null`, since [`usize::MAX`] is another
/// number on a machine of another width.
mod window {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub fn serialize<S: Serializer>(window: &usize, serializer: S) -> Result<S::Ok, S::Error> {
        let limit = Some(window).filter(|window| **window != usize::MAX);
        limit.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
        let limit = Option::<usize>::deserialize(deserializer)?;
        Ok(limit.unwrap_or(usize::MAX))
    }
}

/// The default penalty window.
pub const REPEAT_WINDOW: usize = 256;

/// The lowest temperature of random sampling. Lower values would separate logits that
/// differ in the last bit only and overflow f32, so they mean greedy sampling.
pub const MIN_TEMPERATURE: f32 = 1e-5;

/// Candidates that are sorted first: mostly enough, and no more work than finding them.
const FIRST_SORTED: usize = 64;

/// The range of presence and frequency penalties.
const ADDITIVE_PENALTY: RangeInclusive<f32> = -2.0..=2.0;

impl Default for SamplerOptions {
    /// Returns the options for a model that recommends none: temperature 0.7 and top-p
    /// 0.95, without penalties. A repeat penalty would harm legitimately repetitive text, such
    /// as code and JSON.
    fn default() -> Self {
        Self {
            temperature: 0.7,
            top_p: 0.95,
            ..Self::GREEDY
        }
    }
}

impl SamplerOptions {
    /// Greedy sampling.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repeat_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        penalty_window: REPEAT_WINDOW,
        seed: 0,
    };

    /// Returns whether sampling is greedy.
    pub fn is_greedy(&self) -> bool {
        self.temperature < MIN_TEMPERATURE
    }

    /// Checks all options.
    ///
    /// # Errors
    ///
    /// Returns an error for the first option that is out of range.
    pub fn validate(&self) -> Result<(), SamplerError> {
        let checks = [
            ("temperature", self.temperature, 0.0..=f32::MAX, "0 or more"),
            ("top-p", self.top_p, 0.0..=1.0, "0 to 1"),
            ("min-p", self.min_p, 0.0..=1.0, "0 to 1"),
            (
                "repeat penalty",
                self.repeat_penalty,
                f32::MIN_POSITIVE..=f32::MAX,
                "above 0",
            ),
            (
                "presence penalty",
                self.presence_penalty,
                ADDITIVE_PENALTY,
                "-2 to 2",
            ),
            (
                "frequency penalty",
                self.frequency_penalty,
                ADDITIVE_PENALTY,
                "-2 to 2",
            ),
        ];
        for (what, value, range, expected) in checks {
            if !range.contains(&value) {
                return Err(SamplerError {
                    what,
                    value,
                    expected,
                });
            }
        }
        Ok(())
    }

    /// Returns whether the penalties change any logit.
    fn penalizes(&self) -> bool {
        let neutral = (1.0, 0.0, 0.0);
        let penalties = (
            self.repeat_penalty,
            self.presence_penalty,
            self.frequency_penalty,
        );
        self.penalty_window > 0 && penalties != neutral
    }

    /// Returns whether a penalty makes any token more likely.
    fn encourages(&self) -> bool {
        self.repeat_penalty < 1.0 || self.presence_penalty < 0.0 || self.frequency_penalty < 0.0
    }
}

/// An option that is out of range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{what} is {value}, expected {expected}")]
pub struct SamplerError {
    /// The option.
    pub what: &'static str,
    /// Its value.
    pub value: f32,
    /// The expected range.
    pub expected: &'static str,
}

/// Samples tokens. The same options, logits and history give the same tokens on every
/// machine: the random number generator is ChaCha8, and probabilities are computed in the
/// kernels' fixed order of operations.
#[derive(Debug, Clone)]
pub struct Sampler {
    choice: TokenChoice,
    buffers: SamplerBuffers,
}

impl Sampler {
    /// Returns a sampler for a vocabulary.
    ///
    /// # Errors
    ///
    /// Returns an error if an option is out of range.
    pub fn new(options: SamplerOptions, isa: Isa, vocab_size: usize) -> Result<Self, SamplerError> {
        Ok(Self {
            choice: TokenChoice::new(options)?,
            buffers: SamplerBuffers::new(isa, vocab_size),
        })
    }

    /// Returns the logits that suffice for the same choice.
    pub fn logits(&self) -> Logits {
        self.choice.logits()
    }

    /// Returns the token after `history`, sampled from `logits`, `[vocab_size]`; `None` if
    /// every logit is NaN or minus infinity. The first `n_prompt` tokens of the history
    /// are the prompt, the others were generated.
    ///
    /// # Panics
    ///
    /// Panics if `logits` has another length, or an id of the history is not in the
    /// vocabulary.
    pub fn sample(&mut self, logits: &[f32], history: &[u32], n_prompt: usize) -> Option<u32> {
        self.sample_at(Position {
            logits,
            history,
            n_prompt,
            allowed: None,
        })
    }

    /// Returns the token of a position, as [`sample`](Self::sample).
    pub(crate) fn sample_at(&mut self, position: Position<'_>) -> Option<u32> {
        self.choice.sample(&mut self.buffers, position)
    }
}

/// How the tokens of one sequence are chosen: its options and its random numbers. Several
/// sequences share [`SamplerBuffers`].
#[derive(Debug, Clone)]
pub(crate) struct TokenChoice {
    options: SamplerOptions,
    /// Added to the logits of these tokens.
    bias: Vec<(u32, f32)>,
    rng: ChaCha8Rng,
}

/// A position whose token is to be sampled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Position<'a> {
    /// `[vocab_size]`
    pub(crate) logits: &'a [f32],
    /// The tokens before it.
    pub(crate) history: &'a [u32],
    /// How many of them are the prompt.
    pub(crate) n_prompt: usize,
    /// The tokens that may be chosen; `None` for all.
    pub(crate) allowed: Option<&'a TokenSet>,
}

/// The buffers of sampling, for a vocabulary.
#[derive(Debug, Clone)]
pub(crate) struct SamplerBuffers {
    isa: Isa,
    candidates: Vec<Candidate>,
    probabilities: Vec<f32>,
    /// `[vocab_size]`, all zero except while penalties are applied.
    occurrences: Vec<Occurrences>,
}

/// A candidate token. The logit is never NaN.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
    /// Set by [`SamplerBuffers::softmax`].
    probability: f32,
}

impl Candidate {
    fn new(id: u32, logit: f32) -> Self {
        Self {
            id,
            logit,
            probability: 0.0,
        }
    }

    /// Orders by descending logit, then by ascending id.
    fn compare(self, other: Self) -> Ordering {
        let by_logit = other.logit.partial_cmp(&self.logit);
        by_logit
            .expect("`TokenChoice::sample` leaves out what is no number")
            .then(self.id.cmp(&other.id))
    }
}

/// Occurrences of a token in the penalty window.
#[derive(Debug, Clone, Copy, Default)]
struct Occurrences {
    /// Whether its logit has been penalized.
    seen: bool,
    /// How often it was generated.
    n_generated: u32,
}

impl TokenChoice {
    /// Returns the choice of a new sequence.
    ///
    /// # Errors
    ///
    /// Returns an error if an option is out of range.
    pub(crate) fn new(options: SamplerOptions) -> Result<Self, SamplerError> {
        options.validate()?;
        Ok(Self {
            options,
            bias: Vec::new(),
            rng: ChaCha8Rng::seed_from_u64(options.seed),
        })
    }

    /// Adds to the logits of these tokens, before penalties and temperature.
    pub(crate) fn with_bias(self, bias: Vec<(u32, f32)>) -> Self {
        Self { bias, ..self }
    }

    /// Returns how far the random numbers are.
    pub(crate) fn random_position(&self) -> u128 {
        self.rng.get_word_pos()
    }

    /// Goes back to random numbers that were there before.
    pub(crate) fn set_random_position(&mut self, position: u128) {
        self.rng.set_word_pos(position);
    }

    /// Returns the logits that suffice for the same choice among all tokens.
    pub(crate) fn logits(&self) -> Logits {
        let options = &self.options;
        if !self.bias.is_empty() {
            return Logits::Last;
        }
        let k = match (options.is_greedy(), options.top_k) {
            (true, _) => 1,
            (false, 0) => return Logits::Last,
            (false, k) => k,
        };
        if !options.penalizes() {
            Logits::Top(k)
        } else if options.encourages() {
            // Any token may move up.
            Logits::Last
        } else {
            // Tokens of the window may move down, so at most that many others take
            // their places.
            Logits::Top(k.saturating_add(options.penalty_window))
        }
    }

    /// Returns the token of a position, as [`Sampler::sample`].
    pub(crate) fn sample(
        &mut self,
        buffers: &mut SamplerBuffers,
        position: Position<'_>,
    ) -> Option<u32> {
        let (options, logits) = (&self.options, position.logits);
        let is_allowed = |id| position.allowed.is_none_or(|allowed| allowed.contains(id));
        if options.is_greedy() && !options.penalizes() && self.bias.is_empty() {
            return largest(logits, is_allowed);
        }
        buffers.fill(logits);
        for &(id, bias) in &self.bias {
            // No bias makes an impossible token possible.
            let logit = &mut buffers.candidates[id as usize].logit;
            if *logit > f32::NEG_INFINITY {
                *logit = (*logit + bias).max(f32::MIN);
            }
        }
        if options.penalizes() {
            buffers.penalize(options, position.history, position.n_prompt);
        }
        // NaN is not comparable, so its token is excluded; minus infinity means that
        // the token is impossible.
        buffers
            .candidates
            .retain(|candidate| candidate.logit > f32::NEG_INFINITY && is_allowed(candidate.id));
        let best = buffers.candidates.iter().min_by(|a, b| a.compare(**b))?;
        if options.is_greedy() {
            return Some(best.id);
        }
        // Subtract the maximum first: the largest quotient is then 0, and the others
        // are at least minus infinity.
        let max = best.logit.min(f32::MAX);
        for candidate in &mut buffers.candidates {
            candidate.logit = (candidate.logit.min(f32::MAX) - max) / options.temperature;
        }
        buffers.keep_top_k(options.top_k);
        buffers.keep_top_p(options.top_p);
        buffers.keep_min_p(options.min_p);
        buffers.softmax();
        // 24 random bits: every value is an f32, all equally likely.
        let random = (self.rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32;
        Some(buffers.pick(random))
    }
}

/// Returns the token with the largest logit, of equals the lowest; `None` if every logit is
/// NaN or minus infinity.
fn largest(logits: &[f32], is_allowed: impl Fn(u32) -> bool) -> Option<u32> {
    let (mut best, mut most) = (None, f32::NEG_INFINITY);
    for (id, &logit) in (0..).zip(logits) {
        if logit > most && is_allowed(id) {
            (best, most) = (Some(id), logit);
        }
    }
    best
}

impl SamplerBuffers {
    pub(crate) fn new(isa: Isa, vocab_size: usize) -> Self {
        Self {
            isa,
            candidates: Vec::with_capacity(vocab_size),
            probabilities: Vec::with_capacity(vocab_size),
            occurrences: vec![Occurrences::default(); vocab_size],
        }
    }

    /// Returns the instruction set of the probabilities.
    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    /// Sets the candidates to all tokens.
    fn fill(&mut self, logits: &[f32]) {
        assert_eq!(
            logits.len(),
            self.occurrences.len(),
            "logits of the vocabulary"
        );
        self.candidates.clear();
        self.candidates.extend(
            (0..)
                .zip(logits)
                .map(|(id, &logit)| Candidate::new(id, logit)),
        );
    }

    /// Applies the penalties to the tokens in the window.
    fn penalize(&mut self, options: &SamplerOptions, history: &[u32], n_prompt: usize) {
        let first = history.len().saturating_sub(options.penalty_window);
        let (window, generated) = (&history[first..], history.iter().skip(first.max(n_prompt)));
        for &id in generated {
            self.occurrences[id as usize].n_generated += 1;
        }
        for &id in window {
            let Occurrences { seen, n_generated } = &mut self.occurrences[id as usize];
            if std::mem::replace(seen, true) {
                continue;
            }
            let logit = &mut self.candidates[id as usize].logit;
            if logit.is_nan() || *logit == f32::NEG_INFINITY {
                continue;
            }
            *logit = if *logit > 0.0 {
                *logit / options.repeat_penalty
            } else {
                *logit * options.repeat_penalty
            };
            if *n_generated > 0 {
                *logit -= options.presence_penalty;
                *logit -= *n_generated as f32 * options.frequency_penalty;
            }
            // A penalty makes no token impossible.
            *logit = logit.max(f32::MIN);
        }
        for &id in window {
            self.occurrences[id as usize] = Occurrences::default();
        }
    }

    fn keep_top_k(&mut self, k: usize) {
        if k > 0 && k < self.candidates.len() {
            self.candidates
                .select_nth_unstable_by(k - 1, |a, b| a.compare(*b));
            self.candidates.truncate(k);
            // Their order would depend on the tokens that were left out.
            self.candidates.sort_unstable_by(|a, b| a.compare(*b));
        }
    }

    /// Sets the probabilities of the candidates.
    fn softmax(&mut self) {
        self.probabilities.clear();
        self.probabilities
            .extend(self.candidates.iter().map(|candidate| candidate.logit));
        ops::softmax(self.isa, &mut self.probabilities);
        for (candidate, &probability) in self.candidates.iter_mut().zip(&self.probabilities) {
            candidate.probability = probability;
        }
    }

    /// Sorts the candidates until the probability of one satisfies `is_last`, and returns its
    /// index. Those after it may be in any order: sorting the whole vocabulary would take
    /// as long as several layers.
    fn sort_until(&mut self, mut is_last: impl FnMut(f32) -> bool) -> Option<usize> {
        let mut n_sorted = 0;
        while n_sorted < self.candidates.len() {
            let rest = &mut self.candidates[n_sorted..];
            let n = (7 * n_sorted).max(FIRST_SORTED).min(rest.len());
            if n < rest.len() {
                rest.select_nth_unstable_by(n - 1, |a, b| a.compare(*b));
            }
            let next = &mut rest[..n];
            next.sort_unstable_by(|a, b| a.compare(*b));
            if let Some(last) = next.iter().position(|next| is_last(next.probability)) {
                return Some(n_sorted + last);
            }
            n_sorted += n;
        }
        None
    }

    fn keep_top_p(&mut self, top_p: f32) {
        if top_p >= 1.0 {
            return;
        }
        self.softmax();
        let mut sum = 0.0;
        let reached = self.sort_until(|probability| {
            sum += probability;
            sum >= top_p
        });
        // By rounding, the sum of all may be below p.
        if let Some(last) = reached {
            self.candidates.truncate(last + 1);
        }
    }

    fn keep_min_p(&mut self, min_p: f32) {
        if min_p == 0.0 {
            return;
        }
        self.softmax();
        let probabilities = self
            .candidates
            .iter()
            .map(|candidate| candidate.probability);
        let least = probabilities.fold(0.0, f32::max) * min_p;
        self.candidates
            .retain(|candidate| candidate.probability >= least);
    }

    /// Returns the candidate at which the cumulative probability exceeds `random`, in 0..1.
    fn pick(&mut self, random: f32) -> u32 {
        let mut left = random;
        let picked = self.sort_until(|probability| {
            left -= probability;
            left < 0.0
        });
        // By rounding, the sum of all may be slightly below 1: use the last possible
        // candidate.
        let possible = |candidate: &Candidate| candidate.probability > 0.0;
        let picked = picked.or_else(|| self.candidates.iter().rposition(possible));
        self.candidates[picked.unwrap_or(0)].id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: SamplerOptions = SamplerOptions {
        temperature: 1.0,
        ..SamplerOptions::GREEDY
    };

    /// Counts which tokens `n` draws choose.
    fn draws(options: SamplerOptions, logits: &[f32], history: &[u32], n: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(options, Isa::best(), logits.len()).unwrap();
        let mut counts = vec![0; logits.len()];
        for _ in 0..n {
            counts[sampler.sample(logits, history, 0).unwrap() as usize] += 1;
        }
        counts
    }

    /// The logarithms of these probabilities, the inverse of softmax.
    fn logits(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn greedy_takes_the_most_likely_and_the_lower_id_of_equals() {
        let counts = draws(
            SamplerOptions::GREEDY,
            &[1.0, 3.0, 3.0, f32::NEG_INFINITY],
            &[],
            5,
        );
        assert_eq!(counts, [0, 5, 0, 0]);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let n = 20_000;
        let probabilities = [0.5, 0.3, 0.2];
        let counts = draws(SAMPLE, &logits(&probabilities), &[], n);
        for (count, p) in counts.into_iter().zip(probabilities) {
            // Five standard deviations of a binomial count.
            let sd = (n as f32 * p * (1.0 - p)).sqrt();
            assert!((count as f32 - n as f32 * p).abs() < 5.0 * sd, "{count}");
        }
    }

    #[test]
    fn temperature_sharpens() {
        // p² normalised: 0.64 and 0.36 of (0.8, 0.6) become 0.76 and 0.24.
        let half = SamplerOptions {
            temperature: 0.5,
            ..SAMPLE
        };
        let counts = draws(half, &logits(&[0.64, 0.36]), &[], 20_000);
        assert!((counts[0] as f32 / 20_000.0 - 0.7596).abs() < 0.016);
    }

    #[test]
    fn top_k_top_p_and_min_p_cut_the_tail() {
        let logits = logits(&[0.1, 0.4, 0.05, 0.25, 0.2]);
        let chosen = |options| -> Vec<usize> {
            let counts = draws(options, &logits, &[], 2000);
            (0..5).filter(|&id| counts[id] > 0).collect()
        };
        assert_eq!(chosen(SAMPLE), [0, 1, 2, 3, 4]);
        assert_eq!(chosen(SamplerOptions { top_k: 2, ..SAMPLE }), [1, 3]);
        assert_eq!(chosen(SamplerOptions { top_k: 1, ..SAMPLE }), [1]);
        assert_eq!(
            chosen(SamplerOptions {
                top_k: 99,
                ..SAMPLE
            }),
            [0, 1, 2, 3, 4]
        );
        assert_eq!(
            chosen(SamplerOptions {
                top_p: 0.6,
                ..SAMPLE
            }),
            [1, 3]
        );
        assert_eq!(
            chosen(SamplerOptions {
                top_p: 0.01,
                ..SAMPLE
            }),
            [1]
        );
        assert_eq!(
            chosen(SamplerOptions {
                top_p: 0.0,
                ..SAMPLE
            }),
            [1]
        );
        assert_eq!(
            chosen(SamplerOptions {
                min_p: 0.45,
                ..SAMPLE
            }),
            [1, 3, 4]
        );
        assert_eq!(
            chosen(SamplerOptions {
                min_p: 1.0,
                ..SAMPLE
            }),
            [1]
        );
    }

    #[test]
    fn the_repeat_penalty_counts_each_token_once_and_forgets() {
        let penalty = SamplerOptions {
            repeat_penalty: 2.0,
            ..SamplerOptions::GREEDY
        };
        let choice = |history: &[u32]| {
            let logits = [2.0, 1.5, -1.0];
            let mut sampler = Sampler::new(penalty, Isa::best(), 3).unwrap();
            sampler.sample(&logits, history, 0).unwrap()
        };
        assert_eq!(choice(&[]), 0);
        assert_eq!(choice(&[0]), 1);
        // Twice penalized, token 1 would lose to token 0.
        assert_eq!(choice(&[0, 1, 1]), 0);
        // Out of the window.
        let mut history = vec![0];
        history.extend([2; REPEAT_WINDOW]);
        assert_eq!(choice(&history), 0);
        // Negative logits grow more negative: -1 · 2 < -1.5.
        let mut sampler = Sampler::new(penalty, Isa::best(), 2).unwrap();
        assert_eq!(sampler.sample(&[-1.0, -1.5], &[0], 0), Some(1));
    }

    #[test]
    fn presence_and_frequency_penalties_count_what_was_generated() {
        let choice = |presence_penalty, frequency_penalty, logits: &[f32], history: &[u32]| {
            let options = SamplerOptions {
                presence_penalty,
                frequency_penalty,
                ..SamplerOptions::GREEDY
            };
            let mut sampler = Sampler::new(options, Isa::best(), logits.len()).unwrap();
            // The first token is the prompt.
            sampler.sample(logits, history, 1).unwrap()
        };
        let logits = [2.0, 1.5, -1.0];
        // The prompt does not count.
        assert_eq!(choice(2.0, 2.0, &logits, &[0, 2]), 0);
        // 2 - 0.6 < 1.5, and once is as often as thrice.
        assert_eq!(choice(0.6, 0.0, &logits, &[2, 0]), 1);
        assert_eq!(choice(0.4, 0.0, &logits, &[2, 0, 0, 0]), 0);
        // 2 - 0.2 > 1.5, but 2 - 3 · 0.2 < 1.5.
        assert_eq!(choice(0.0, 0.2, &logits, &[2, 0]), 0);
        assert_eq!(choice(0.0, 0.2, &logits, &[2, 0, 0, 0]), 1);
        // Both: 2 - 0.3 - 0.3 < 1.5.
        assert_eq!(choice(0.3, 0.3, &logits, &[2, 0]), 1);
        // Below 0 they make tokens likelier: -1 + 2 + 2 > 2.
        assert_eq!(choice(-2.0, -2.0, &logits, &[0, 2]), 2);
        // Out of the window.
        let mut history = vec![2, 0];
        history.extend([2; REPEAT_WINDOW]);
        assert_eq!(choice(2.0, 0.0, &logits, &history), 0);
        // After the repeat penalty: 4 / 2 - 1 < 1.5.
        let options = SamplerOptions {
            repeat_penalty: 2.0,
            presence_penalty: 1.0,
            ..SamplerOptions::GREEDY
        };
        let mut sampler = Sampler::new(options, Isa::best(), 2).unwrap();
        assert_eq!(sampler.sample(&[4.0, 1.5], &[1, 0], 2), Some(0));
        assert_eq!(sampler.sample(&[4.0, 1.2], &[1, 0], 1), Some(0));
        assert_eq!(sampler.sample(&[4.0, 2.2], &[1, 0], 1), Some(1));
    }

    #[test]
    fn the_window_of_the_penalties_may_be_any() {
        let choice = |penalty_window, history: &[u32]| {
            let options = SamplerOptions {
                repeat_penalty: 2.0,
                penalty_window,
                ..SamplerOptions::GREEDY
            };
            let mut sampler = Sampler::new(options, Isa::best(), 2).unwrap();
            sampler.sample(&[2.0, 1.5], history, 0).unwrap()
        };
        let mut history = vec![0];
        history.extend([1; 1000]);
        assert_eq!(choice(0, &[0]), 0);
        assert_eq!(choice(1, &[0]), 1);
        assert_eq!(choice(1, &[0, 1]), 0);
        // All of it: both are penalized.
        assert_eq!(choice(usize::MAX, &history), 0);
        assert_eq!(choice(usize::MAX, &[0]), 1);
    }

    /// Chooses greedily with a bias and among the allowed tokens.
    fn biased(bias: &[(u32, f32)], allowed: Option<&TokenSet>, logits: &[f32]) -> Option<u32> {
        let choice = TokenChoice::new(SamplerOptions::GREEDY).unwrap();
        let mut choice = choice.with_bias(bias.to_vec());
        let mut buffers = SamplerBuffers::new(Isa::best(), logits.len());
        let position = Position {
            logits,
            history: &[],
            n_prompt: 0,
            allowed,
        };
        choice.sample(&mut buffers, position)
    }

    #[test]
    fn a_bias_is_added_to_a_logit() {
        let logits = [2.0, 1.5, f32::NEG_INFINITY];
        assert_eq!(biased(&[(1, 0.4)], None, &logits), Some(0));
        assert_eq!(biased(&[(1, 0.6)], None, &logits), Some(1));
        assert_eq!(biased(&[(0, -100.0), (2, 100.0)], None, &logits), Some(1));
        let all = TokenChoice::new(SamplerOptions::GREEDY).unwrap();
        assert_eq!(all.logits(), Logits::Top(1));
        assert_eq!(all.with_bias(vec![(0, 1.0)]).logits(), Logits::Last);
    }

    #[test]
    fn only_allowed_tokens_are_chosen() {
        let mut allowed = TokenSet::new(3);
        let logits = [2.0, 1.5, 1.0];
        assert_eq!(biased(&[], Some(&allowed), &logits), None);
        allowed.insert(1);
        allowed.insert(2);
        assert_eq!(biased(&[], Some(&allowed), &logits), Some(1));
        assert_eq!(biased(&[(2, 1.0)], Some(&allowed), &logits), Some(2));
    }

    #[test]
    fn a_tiny_temperature_is_greedy() {
        // The most likely token is neither first nor last, among many unlikely ones.
        let mut logits: Vec<f32> = (0..1000).map(|i| (i % 17) as f32 / 4.0).collect();
        logits[500] = 4.001;
        let subnormal = f32::from_bits(1);
        for temperature in [
            0.0,
            -0.0,
            subnormal,
            1e-40,
            1e-38,
            f32::MIN_POSITIVE,
            1e-30,
            1e-20,
            1e-10,
            MIN_TEMPERATURE.next_down(),
            MIN_TEMPERATURE,
            1e-4,
        ] {
            for (top_k, top_p, min_p) in [(0, 1.0, 0.0), (40, 0.95, 0.05), (0, 0.0, 1.0)] {
                let options = SamplerOptions {
                    temperature,
                    top_k,
                    top_p,
                    min_p,
                    ..SAMPLE
                };
                let counts = draws(options, &logits, &[], 20);
                assert_eq!(counts[500], 20, "{options:?}");
            }
        }
        let is_greedy = |temperature| {
            SamplerOptions {
                temperature,
                ..SAMPLE
            }
            .is_greedy()
        };
        assert!(is_greedy(1e-40) && !is_greedy(MIN_TEMPERATURE));
    }

    #[test]
    fn logits_at_the_ends_of_f32_are_ordered_as_numbers() {
        let (max, inf) = (f32::MAX, f32::INFINITY);
        for temperature in [0.0, MIN_TEMPERATURE, 0.7, 1.0, 1e30, f32::MAX] {
            let options = SamplerOptions {
                temperature,
                top_k: 2,
                top_p: 0.5,
                ..SAMPLE
            };
            let always = |logits: &[f32]| {
                let counts = draws(options, logits, &[], 50);
                counts.iter().position(|&n| n == 50)
            };
            if temperature < 1e30 {
                assert_eq!(always(&[-max, max / 2.0, max, -inf]), Some(2));
                assert_eq!(always(&[f32::NAN, 1.0, 9.0, -f32::NAN]), Some(2));
                assert_eq!(always(&[-inf, -max, inf, 1.0]), Some(2));
            }
            // Impossible tokens and those with NaN are never chosen, however flat the
            // distribution is.
            assert_eq!(always(&[-inf, 1.0, f32::NAN]), Some(1));
            assert_eq!(always(&[-inf, -inf, -max]), Some(2));
        }
        let mut sampler = Sampler::new(SAMPLE, Isa::best(), 2).unwrap();
        assert_eq!(sampler.sample(&[-inf, f32::NAN], &[], 0), None);
        // A penalty that overflows f32 keeps the order of the others and drops no token.
        let options = SamplerOptions {
            repeat_penalty: f32::MAX,
            ..SAMPLE
        };
        assert_eq!(draws(options, &[-9.0, -inf], &[0], 9), [9, 0]);
        let options = SamplerOptions {
            repeat_penalty: f32::MIN_POSITIVE,
            ..SAMPLE
        };
        assert_eq!(draws(options, &[9.0, 8.0, 7.0], &[2], 9), [0, 0, 9]);
        // Zeros are equal, whatever their sign.
        assert_eq!(draws(SamplerOptions::GREEDY, &[-0.0, 0.0], &[], 1), [1, 0]);
    }

    #[test]
    fn sorting_as_far_as_needed_gives_the_front_of_the_sorted() {
        let n = 1000;
        // With ties across the ends of all parts.
        let all: Vec<_> = (0..n)
            .map(|i| Candidate::new(i, (i * 7 % 190) as f32 / 16.0))
            .collect();
        let mut sorted = all.clone();
        sorted.sort_by(|a, b| a.compare(*b));
        let ids = |candidates: &[Candidate]| candidates.iter().map(|c| c.id).collect::<Vec<_>>();
        for n_wanted in (0..=n as usize).step_by(9) {
            let mut buffers = SamplerBuffers::new(Isa::best(), n as usize);
            buffers.candidates.clone_from(&all);
            let mut n_asked = 0;
            let last = buffers.sort_until(|_| {
                n_asked += 1;
                n_asked > n_wanted
            });
            assert_eq!(last, (n_wanted < n as usize).then_some(n_wanted));
            let front = ..n_asked.min(n as usize);
            assert_eq!(ids(&buffers.candidates[front]), ids(&sorted[front]));
            // Nothing is lost behind it.
            let mut rest = ids(&buffers.candidates);
            rest.sort_unstable();
            assert_eq!(rest, (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn rounding_never_chooses_what_is_impossible() {
        let mut buffers = SamplerBuffers::new(Isa::best(), 3);
        // Their sum is a little below 1, as that of many may be.
        let probabilities = [0.5, 0.499, 0.0];
        let candidate = |(id, probability)| Candidate {
            probability,
            ..Candidate::new(id, 0.0)
        };
        buffers.candidates = (5..8).zip(probabilities).map(candidate).collect();
        let picked = [0.0, 0.499, 0.5, 0.998, 0.9995].map(|random| buffers.pick(random));
        assert_eq!(picked, [5, 5, 6, 6, 6]);
    }

    #[test]
    fn the_logits_asked_for_are_enough() {
        let random = SamplerOptions {
            top_k: 40,
            ..SAMPLE
        };
        let wanted = |options| Sampler::new(options, Isa::best(), 3).unwrap().logits();
        assert_eq!(wanted(SamplerOptions::GREEDY), Logits::Top(1));
        assert_eq!(wanted(SAMPLE), Logits::Last);
        assert_eq!(wanted(random), Logits::Top(40));
        let penalties = [(1.1, 0.0, 0.0), (1.0, 0.5, 0.0), (1.0, 0.0, 0.5)];
        for (repeat_penalty, presence_penalty, frequency_penalty) in penalties {
            let down = SamplerOptions {
                repeat_penalty,
                presence_penalty,
                frequency_penalty,
                penalty_window: 64,
                ..random
            };
            assert_eq!(wanted(down), Logits::Top(104), "{down:?}");
            let off = SamplerOptions {
                penalty_window: 0,
                ..down
            };
            assert_eq!(wanted(off), Logits::Top(40));
            let unlimited = SamplerOptions {
                penalty_window: usize::MAX,
                ..down
            };
            assert_eq!(wanted(unlimited), Logits::Top(usize::MAX));
            let up = SamplerOptions {
                repeat_penalty: 2.0 - repeat_penalty,
                presence_penalty: -presence_penalty,
                frequency_penalty: -frequency_penalty,
                ..down
            };
            assert_eq!(wanted(up), Logits::Last, "{up:?}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens_and_another_one_others() {
        let logits: Vec<f32> = (0..1000).map(|i| (i % 17) as f32 / 4.0).collect();
        let run = |isa, seed| -> Vec<u32> {
            let options = SamplerOptions {
                seed,
                top_p: 0.9,
                ..SAMPLE
            };
            let mut sampler = Sampler::new(options, isa, logits.len()).unwrap();
            (0..20)
                .map(|_| sampler.sample(&logits, &[], 0).unwrap())
                .collect()
        };
        let expected = run(Isa::Scalar, 7);
        for isa in Isa::available() {
            assert_eq!(run(isa, 7), expected);
        }
        assert_ne!(run(Isa::Scalar, 8), expected);
        // The stream of random numbers is part of the API.
        assert_eq!(expected[..6], [560, 645, 730, 679, 117, 965]);
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        let bad = [
            SamplerOptions {
                temperature: -1.0,
                ..SAMPLE
            },
            SamplerOptions {
                temperature: f32::NAN,
                ..SAMPLE
            },
            SamplerOptions {
                top_p: -0.1,
                ..SAMPLE
            },
            SamplerOptions {
                presence_penalty: 2.5,
                ..SAMPLE
            },
            SamplerOptions {
                frequency_penalty: f32::NAN,
                ..SAMPLE
            },
            SamplerOptions {
                top_p: 1.5,
                ..SAMPLE
            },
            SamplerOptions {
                min_p: -0.1,
                ..SAMPLE
            },
            SamplerOptions {
                repeat_penalty: 0.0,
                ..SAMPLE
            },
        ];
        for options in bad {
            assert!(
                Sampler::new(options, Isa::best(), 3).is_err(),
                "{options:?}"
            );
        }
        let error = SamplerOptions {
            top_p: 1.5,
            ..SAMPLE
        }
        .validate()
        .unwrap_err();
        assert_eq!(error.to_string(), "top-p is 1.5, expected 0 to 1");
    }
}
