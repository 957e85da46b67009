//! Speculative decoding without a draft model.
//!
//! Where the last tokens of a text occurred in it before, prompt included, the tokens that
//! followed there are a *draft* of the next ones (prompt lookup decoding; Saxena, 2023). One
//! pass computes the whole draft, and sampling goes on as long as it chooses the drafted
//! tokens (Leviathan et al., 2023). The text is the same as without drafts, since the same
//! random numbers choose from the same logits.
//!
//! A pass of several rows costs more than one of a single row, so a draft must be likely
//! enough. How likely is known without any pass: each token that a text gets shows whether
//! its guess would have been right.

use std::collections::HashMap;
use std::time::Duration;

use crate::moving_average::average;

/// Tokens that must have occurred before.
const NGRAM: usize = 3;

/// Maximum number of rows of a pass with drafts: what kernels compute at once.
pub(crate) const MAX_ROWS: usize = 16;

/// Earlier occurrences that are compared, latest first.
const MAX_OCCURRENCES: usize = 8;

/// Tokens before an occurrence that are compared.
const MAX_MATCH: usize = 32;

/// Drafts that are less likely than this are not worth their bookkeeping.
const MIN_PROBABILITY: f64 = 0.05;

/// Matches of at least so many tokens share a rate of right guesses.
const RATES: [(usize, f64); 5] = [(3, 0.4), (4, 0.5), (6, 0.6), (10, 0.7), (16, 0.8)];

/// How many guesses the rates at the start weigh.
const PRIOR_WEIGHT: f64 = 4.0;

/// Guesses after which older ones weigh half.
const RATE_WINDOW: f64 = 64.0;

/// Drafts the next tokens of one text.
#[derive(Debug)]
pub(crate) struct Drafter {
    /// The position after the last occurrence of each n-gram.
    last: HashMap<[u32; NGRAM], usize>,
    /// By position: the one after the occurrence before of the n-gram that ends there, or 0.
    previous: Vec<usize>,
    /// What the next token is guessed from.
    found: Option<Match>,
    rates: [Rate; RATES.len()],
}

/// An earlier part of the text that is the same as its end.
#[derive(Clone, Copy, Debug)]
struct Match {
    /// Position of the token that follows it.
    next: usize,
    len: usize,
}

/// How many guesses were right, in a moving window.
#[derive(Clone, Copy, Debug)]
struct Rate {
    right: f64,
    all: f64,
}

/// A drafted token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Drafted {
    pub(crate) id: u32,
    /// That it and all drafted tokens before it are right.
    pub(crate) probability: f64,
}

impl Default for Drafter {
    fn default() -> Self {
        Self {
            last: HashMap::new(),
            previous: vec![0],
            found: None,
            rates: RATES.map(|(_, rate)| Rate {
                right: rate * PRIOR_WEIGHT,
                all: PRIOR_WEIGHT,
            }),
        }
    }
}

impl Drafter {
    /// Takes the tokens of a text into account that it has got since the last call. The first
    /// `n_prompt` tokens were not generated, so they say nothing about guesses.
    pub(crate) fn extend(&mut self, tokens: &[u32], n_prompt: usize) {
        for len in self.previous.len()..=tokens.len() {
            let token = tokens[len - 1];
            self.found = self.found.and_then(|Match { next, len: n }| {
                let is_right = tokens[next] == token;
                if len > n_prompt {
                    self.rates[rate_of(n)].add(is_right);
                }
                is_right.then_some(Match {
                    next: next + 1,
                    len: n + 1,
                })
            });
            let ngram = tokens[..len].last_chunk::<NGRAM>();
            let previous = ngram.and_then(|ngram| self.last.insert(*ngram, len));
            self.previous.push(previous.unwrap_or(0));
            if self.found.is_none() {
                self.found = self.search(&tokens[..len]);
            }
        }
    }

    /// Returns the longest of the latest matches with the end of a text.
    fn search(&self, tokens: &[u32]) -> Option<Match> {
        let mut occurrence = self.previous[tokens.len()];
        let mut best: Option<Match> = None;
        for _ in 0..MAX_OCCURRENCES {
            if occurrence == 0 {
                break;
            }
            let before = tokens[..occurrence].iter().rev();
            let same = before.zip(tokens.iter().rev()).take(MAX_MATCH);
            let len = same.take_while(|(a, b)| a == b).count();
            if best.is_none_or(|best| len > best.len) {
                best = Some(Match {
                    next: occurrence,
                    len,
                });
            }
            occurrence = self.previous[occurrence];
        }
        best
    }

    /// Returns up to `max` drafted tokens after `tokens`, which [`extend`](Self::extend) has
    /// seen.
    pub(crate) fn draft(&self, tokens: &[u32], max: usize) -> Vec<Drafted> {
        let mut draft: Vec<Drafted> = Vec::new();
        let Some(Match { next, len }) = self.found else {
            return draft;
        };
        let mut probability = 1.0;
        for i in 0..max {
            probability *= self.rates[rate_of(len + i)].mean();
            if probability < MIN_PROBABILITY {
                break;
            }
            // A match that reaches the end of the text goes on with its own draft.
            let at = next + i;
            let id = tokens.get(at).copied();
            let id = id.unwrap_or_else(|| draft[at - tokens.len()].id);
            draft.push(Drafted { id, probability });
        }
        draft
    }
}

/// Returns the index of the rate for matches of a length.
fn rate_of(len: usize) -> usize {
    RATES.partition_point(|(least, _)| *least <= len).max(1) - 1
}

impl Rate {
    fn add(&mut self, is_right: bool) {
        if self.all >= RATE_WINDOW {
            self.right /= 2.0;
            self.all /= 2.0;
        }
        self.right += f64::from(u8::from(is_right));
        self.all += 1.0;
    }

    fn mean(self) -> f64 {
        self.right / self.all
    }
}

/// Returns how many tokens of each text's draft to compute, so that the tokens per second
/// are most likely the highest. `cost` is the time of a drafted row, as a share of the time
/// of a pass without drafts; `max_rows` is their maximum number.
pub(crate) fn draft_lengths(drafts: &[Vec<Drafted>], cost: f64, max_rows: usize) -> Vec<usize> {
    let mut lengths = vec![0; drafts.len()];
    let (mut tokens, mut time) = (drafts.len() as f64, 1.0);
    for _ in 0..max_rows {
        let next = drafts.iter().zip(&lengths).enumerate();
        let candidates = next.filter_map(|(i, (draft, len))| Some((i, draft.get(*len)?)));
        let best = candidates.max_by(|(_, a), (_, b)| a.probability.total_cmp(&b.probability));
        let Some((i, drafted)) = best else {
            break;
        };
        if drafted.probability * time <= cost * tokens {
            break;
        }
        lengths[i] += 1;
        tokens += drafted.probability;
        time += cost;
    }
    lengths
}

/// The cost of a drafted row before any was measured: low, since only drafts measure it.
const FIRST_COST: f64 = 0.2;

/// In how many passes without drafts a cost that is too high falls by two thirds.
const FORGETTING: f64 = 512.0;

/// Learns what drafted rows cost, from the times of passes. The caller measures; nothing here
/// reads a clock.
#[derive(Clone, Debug, Default)]
pub struct DraftCost {
    /// By the number of texts in a pass.
    passes: Vec<PassCost>,
}

#[derive(Clone, Copy, Debug, Default)]
struct PassCost {
    /// Seconds of a pass without drafts.
    plain: Option<f64>,
    /// Time of a drafted row as a share of it.
    row: Option<f64>,
}

impl DraftCost {
    /// Returns the time of a drafted row in a pass of so many texts, as a share of the time
    /// of that pass without drafts: measured, or that of the nearest number of texts.
    pub fn row(&self, n_texts: usize) -> f64 {
        let passes = self.passes.iter().enumerate();
        let known = passes.filter_map(|(n, pass)| Some((n.abs_diff(n_texts), pass.row?)));
        let nearest = known.min_by_key(|(distance, _)| *distance);
        nearest.map_or(FIRST_COST, |(_, row)| row)
    }

    /// Takes the time of a pass into account, with one row per text and the drafted ones.
    pub fn observe(&mut self, n_texts: usize, n_drafted: usize, elapsed: Duration) {
        let elapsed = elapsed.as_secs_f64();
        if self.passes.len() <= n_texts {
            self.passes.resize(n_texts + 1, PassCost::default());
        }
        let pass = &mut self.passes[n_texts];
        match pass.plain {
            _ if n_drafted == 0 => {
                average(&mut pass.plain, elapsed);
                // Only drafts measure their cost: one that a pause made too high would stay.
                if let Some(row) = pass.row.as_mut().filter(|row| **row > FIRST_COST) {
                    *row += (FIRST_COST - *row) / FORGETTING;
                }
            }
            Some(plain) if plain > 0.0 => {
                let row = (elapsed / plain - 1.0) / n_drafted as f64;
                // Beyond 1 a pause was measured.
                average(&mut pass.row, row.clamp(0.0, 1.0));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(draft: &[Drafted]) -> Vec<u32> {
        draft.iter().map(|drafted| drafted.id).collect()
    }

    fn drafter(tokens: &[u32], n_prompt: usize) -> Drafter {
        let mut drafter = Drafter::default();
        drafter.extend(tokens, n_prompt);
        drafter
    }

    #[test]
    fn what_followed_before_is_drafted() {
        let tokens = [1, 2, 3, 4, 5, 6, 7, 1, 2, 3];
        assert_eq!(ids(&drafter(&tokens, 10).draft(&tokens, 3)), [4, 5, 6]);
        // Two tokens are too few, and nothing is known of a text that never repeats.
        assert_eq!(drafter(&tokens[..9], 9).draft(&tokens[..9], 3), []);
        assert_eq!(drafter(&[], 0).draft(&[], 3), []);
    }

    #[test]
    fn the_longest_match_wins_and_of_equals_the_latest() {
        let tokens = [9, 1, 2, 3, 4, 8, 1, 2, 3, 5, 9, 1, 2, 3];
        assert_eq!(ids(&drafter(&tokens, 14).draft(&tokens, 1)), [4]);
        let tokens = [7, 1, 2, 3, 4, 8, 1, 2, 3, 5, 9, 1, 2, 3];
        assert_eq!(ids(&drafter(&tokens, 14).draft(&tokens, 1)), [5]);
    }

    #[test]
    fn a_loop_is_drafted_beyond_its_end() {
        let tokens = [5, 6, 5, 6, 5, 6];
        assert_eq!(ids(&drafter(&tokens, 6).draft(&tokens, 5)), [5, 6, 5, 6, 5]);
    }

    #[test]
    fn in_pieces_and_at_once_the_drafts_are_the_same() {
        let tokens: Vec<u32> = (0..400u32).map(|i| i * i % 37 % 11).collect();
        let mut stepwise = Drafter::default();
        for len in 0..=tokens.len() {
            stepwise.extend(&tokens[..len], 100);
            let whole = drafter(&tokens[..len], 100);
            let draft = stepwise.draft(&tokens[..len], 15);
            assert_eq!(draft, whole.draft(&tokens[..len], 15), "{len} tokens");
        }
    }

    #[test]
    fn guesses_that_were_wrong_make_drafts_shorter() {
        // Each time that 1, 2, 3 occurs, something new follows.
        let tokens: Vec<u32> = (0..60).flat_map(|i| [1, 2, 3, 100 + i]).collect();
        let text = &tokens[..tokens.len() - 1];
        let first = |n_prompt| drafter(text, n_prompt).draft(text, 9)[0].probability;
        assert!((first(text.len()) - 0.4).abs() < 1e-9);
        let learned = drafter(text, 0).draft(text, 9);
        assert!(learned.is_empty() || learned[0].probability < 0.1);
        // And where all were right, longer.
        let tokens = [1, 2, 3, 4, 5].repeat(40);
        let draft = drafter(&tokens, 10).draft(&tokens, 15);
        assert!(draft.len() == 15 && draft[14].probability > 0.6);
    }

    #[test]
    fn drafts_are_as_long_as_they_pay() {
        let draft = |probabilities: &[f64]| {
            let drafted = |&probability| Drafted { id: 0, probability };
            probabilities.iter().map(drafted).collect::<Vec<_>>()
        };
        let one = [draft(&[0.9, 0.8, 0.7, 0.3])];
        assert_eq!(draft_lengths(&one, 0.0, 15), [4]);
        assert_eq!(draft_lengths(&one, 0.0, 2), [2]);
        // After three: 0.3 / 0.3 < 3.4 / 1.9.
        assert_eq!(draft_lengths(&one, 0.3, 15), [3]);
        assert_eq!(draft_lengths(&one, 0.9, 15), [0]);
        // Among several texts the likeliest drafts are taken; time that they all wait for
        // must pay for all.
        let two = [draft(&[0.5, 0.4]), draft(&[0.9, 0.8])];
        assert_eq!(draft_lengths(&two, 0.3, 15), [0, 2]);
        assert_eq!(draft_lengths(&[], 0.3, 15), [0; 0]);
    }

    #[test]
    fn the_cost_of_a_row_is_what_was_measured() {
        let ms = Duration::from_millis;
        let mut cost = DraftCost::default();
        assert_eq!(cost.row(1), FIRST_COST);
        // Without a pass to compare with, nothing is learned.
        cost.observe(1, 5, ms(30));
        assert_eq!(cost.row(1), FIRST_COST);
        cost.observe(1, 0, ms(20));
        cost.observe(1, 5, ms(30));
        assert!((cost.row(1) - 0.1).abs() < 1e-9);
        assert_eq!(cost.row(7), cost.row(1));
        for _ in 0..30 {
            cost.observe(1, 5, ms(70));
        }
        assert!((cost.row(1) - 0.5).abs() < 0.01);
        // A pause is not held against drafts for ever, though none are made meanwhile.
        for _ in 0..30 {
            cost.observe(1, 1, ms(5000));
        }
        assert!(cost.row(1) > 0.9);
        for _ in 0..1000 {
            cost.observe(1, 0, ms(20));
        }
        assert!((FIRST_COST..0.4).contains(&cost.row(1)));
        // Without a clock every pass takes no time.
        let mut cost = DraftCost::default();
        cost.observe(1, 0, ms(0));
        cost.observe(1, 5, ms(0));
        assert_eq!(cost.row(1), FIRST_COST);
    }
}
