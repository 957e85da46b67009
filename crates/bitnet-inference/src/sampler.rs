//! Logits to the next token.

use std::cmp::Ordering;

use bitnet_core::{Kernel, ops};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::forward::Logits;

/// How the next token is chosen.
///
/// The steps are those of `transformers`, in its order: repeat penalty,
/// temperature, top-k, top-p, min-p, and a draw from what is left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits; 0 takes the most likely token (the lower id where
    /// two are equal) and leaves out all steps but the repeat penalty.
    pub temperature: f32,
    /// Keeps the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most likely tokens whose probabilities reach p together; 1
    /// keeps all.
    pub top_p: f32,
    /// Keeps tokens at least p times as likely as the most likely one; 0 keeps
    /// all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens that occurred
    /// among the last [`REPEAT_WINDOW`] (Keskar et al., CTRL, 2019); 1 changes
    /// nothing.
    pub repeat_penalty: f32,
    /// Where the random numbers begin.
    pub seed: u64,
}

/// Tokens that the repeat penalty looks back on.
pub const REPEAT_WINDOW: usize = 256;

impl SamplerOptions {
    /// The most likely token, always.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repeat_penalty: 1.0,
        seed: 0,
    };

    /// Returns the first option that makes no sense.
    pub fn check(&self) -> Result<(), SamplerError> {
        let checks = [
            ("temperature", self.temperature, 0.0..=f32::MAX, "0 or more"),
            (
                "top-p",
                self.top_p,
                f32::MIN_POSITIVE..=1.0,
                "above 0 and at most 1",
            ),
            ("min-p", self.min_p, 0.0..=1.0, "0 to 1"),
            (
                "repeat penalty",
                self.repeat_penalty,
                f32::MIN_POSITIVE..=f32::MAX,
                "above 0",
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
}

/// An option that makes no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{what} is {value}, expected {expected}")]
pub struct SamplerError {
    /// Which option.
    pub what: &'static str,
    /// Its value.
    pub value: f32,
    /// What it may be.
    pub expected: &'static str,
}

/// Chooses tokens. The same options, logits and history give the same tokens on
/// every machine: the random numbers are ChaCha8's, and the probabilities come
/// from the kernels' fixed order of operations.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplerOptions,
    kernel: Kernel,
    rng: ChaCha8Rng,
    candidates: Vec<Candidate>,
    probabilities: Vec<f32>,
    /// Whether a token has been penalized, while the history is walked.
    seen: Vec<bool>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
}

impl Candidate {
    /// The more likely one first, then the lower id.
    fn compare(self, other: Self) -> Ordering {
        (other.logit.total_cmp(&self.logit)).then(self.id.cmp(&other.id))
    }
}

impl Sampler {
    /// Makes a sampler for a vocabulary.
    pub fn new(
        options: SamplerOptions,
        kernel: Kernel,
        vocab_size: usize,
    ) -> Result<Self, SamplerError> {
        options.check()?;
        Ok(Self {
            options,
            kernel,
            rng: ChaCha8Rng::seed_from_u64(options.seed),
            candidates: Vec::with_capacity(vocab_size),
            probabilities: Vec::with_capacity(vocab_size),
            seen: vec![false; vocab_size],
        })
    }

    /// Returns which logits decide: with these alone, the choice is the same.
    pub fn logits(&self) -> Logits {
        let options = &self.options;
        let k = match (options.temperature == 0.0, options.top_k) {
            (true, _) => 1,
            (false, 0) => return Logits::Last,
            (false, k) => k,
        };
        // A penalty above 1 moves tokens of the window down, and others take
        // their place; one below 1 moves some up, from anywhere.
        if options.repeat_penalty < 1.0 {
            Logits::Last
        } else if options.repeat_penalty > 1.0 {
            Logits::Top(k.saturating_add(REPEAT_WINDOW))
        } else {
            Logits::Top(k)
        }
    }

    /// Chooses the token after `history` by its logits, `[vocab_size]`.
    ///
    /// # Panics
    ///
    /// Panics if `logits` or an id of the history do not belong to the
    /// vocabulary.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> u32 {
        assert_eq!(logits.len(), self.seen.len(), "logits of the vocabulary");
        self.candidates.clear();
        self.candidates.extend(
            (0..)
                .zip(logits)
                .map(|(id, &logit)| Candidate { id, logit }),
        );
        self.penalize(history);
        if self.options.temperature == 0.0 {
            let best = self.candidates.iter().min_by(|a, b| a.compare(**b));
            return best.expect("a vocabulary has tokens").id;
        }
        for candidate in &mut self.candidates {
            candidate.logit /= self.options.temperature;
        }
        self.keep_top_k();
        self.candidates.sort_unstable_by(|a, b| a.compare(*b));
        self.keep_top_p();
        self.keep_min_p();
        self.draw()
    }

    fn penalize(&mut self, history: &[u32]) {
        let penalty = self.options.repeat_penalty;
        if penalty == 1.0 {
            return;
        }
        let window = &history[history.len().saturating_sub(REPEAT_WINDOW)..];
        for &id in window {
            let seen = &mut self.seen[id as usize];
            if !std::mem::replace(seen, true) {
                let logit = &mut self.candidates[id as usize].logit;
                *logit = if *logit > 0.0 {
                    *logit / penalty
                } else {
                    *logit * penalty
                };
            }
        }
        for &id in window {
            self.seen[id as usize] = false;
        }
    }

    fn keep_top_k(&mut self) {
        let k = self.options.top_k;
        if k > 0 && k < self.candidates.len() {
            self.candidates
                .select_nth_unstable_by(k - 1, |a, b| a.compare(*b));
            self.candidates.truncate(k);
        }
    }

    /// Sets `probabilities` to those of the candidates.
    fn softmax(&mut self) {
        self.probabilities.clear();
        self.probabilities
            .extend(self.candidates.iter().map(|candidate| candidate.logit));
        ops::softmax(self.kernel, &mut self.probabilities);
    }

    fn keep_top_p(&mut self) {
        if self.options.top_p >= 1.0 {
            return;
        }
        self.softmax();
        let mut sum = 0.0;
        let reached = self.probabilities.iter().position(|p| {
            sum += p;
            sum >= self.options.top_p
        });
        // Rounding may keep the sum of all below p.
        if let Some(last) = reached {
            self.candidates.truncate(last + 1);
        }
    }

    fn keep_min_p(&mut self) {
        if self.options.min_p == 0.0 {
            return;
        }
        self.softmax();
        let least = self.probabilities[0] * self.options.min_p;
        let kept = self.probabilities.partition_point(|&p| p >= least);
        self.candidates.truncate(kept.max(1));
    }

    fn draw(&mut self) -> u32 {
        self.softmax();
        // 24 random bits: every value is an f32, all equally likely.
        let mut left = (self.rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32;
        for (candidate, &probability) in self.candidates.iter().zip(&self.probabilities) {
            left -= probability;
            if left < 0.0 {
                return candidate.id;
            }
        }
        // Rounding may leave the sum of all a little below 1.
        self.candidates[self.candidates.len() - 1].id
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
        let mut sampler = Sampler::new(options, Kernel::best(), logits.len()).unwrap();
        let mut counts = vec![0; logits.len()];
        for _ in 0..n {
            counts[sampler.sample(logits, history) as usize] += 1;
        }
        counts
    }

    /// ln of these probabilities, so that softmax gives them back.
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
            let mut sampler = Sampler::new(penalty, Kernel::best(), 3).unwrap();
            sampler.sample(&logits, history)
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
        let mut sampler = Sampler::new(penalty, Kernel::best(), 2).unwrap();
        assert_eq!(sampler.sample(&[-1.0, -1.5], &[0]), 1);
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens_and_another_one_others() {
        let logits: Vec<f32> = (0..1000).map(|i| (i % 17) as f32 / 4.0).collect();
        let run = |kernel, seed| -> Vec<u32> {
            let options = SamplerOptions {
                seed,
                top_p: 0.9,
                ..SAMPLE
            };
            let mut sampler = Sampler::new(options, kernel, logits.len()).unwrap();
            (0..20).map(|_| sampler.sample(&logits, &[])).collect()
        };
        let expected = run(Kernel::Scalar, 7);
        for kernel in Kernel::available() {
            assert_eq!(run(kernel, 7), expected);
        }
        assert_ne!(run(Kernel::Scalar, 8), expected);
        // The stream itself is part of the promise.
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
                top_p: 0.0,
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
                Sampler::new(options, Kernel::best(), 3).is_err(),
                "{options:?}"
            );
        }
        let error = SamplerOptions {
            top_p: 1.5,
            ..SAMPLE
        }
        .check()
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "top-p is 1.5, expected above 0 and at most 1"
        );
    }
}
