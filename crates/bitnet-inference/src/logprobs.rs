//! Log-probabilities of tokens.

use bitnet_core::{Isa, ops};

/// The log-probability of a token, and of the most likely ones at its position: those of the
/// model, before penalties, bias and temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token.
    pub token: u32,
    /// ln p of the token.
    pub logprob: f32,
    /// The most likely tokens with ln p, most likely first.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprobs {
    /// Returns those of a token without an alternative.
    pub(crate) fn certain(token: u32) -> Self {
        Self {
            token,
            logprob: 0.0,
            top: vec![(token, 0.0)],
        }
    }
}

/// Returns the log-probability of `token`, and of the `k` most likely ones, from `logits`,
/// `[vocab_size]`.
pub(crate) fn token_logprobs(isa: Isa, logits: &[f32], token: u32, k: usize) -> TokenLogprobs {
    let total = ops::log_sum_exp(isa, logits);
    let logprob = |logit: f32| (f64::from(logit) - total) as f32;
    // In descending order; of equals, the lower id first.
    let mut top: Vec<(u32, f32)> = Vec::with_capacity(k + 1);
    for (id, &logit) in (0..).zip(logits) {
        let is_larger = |least: &(u32, f32)| logit > least.1;
        if k > 0 && (top.len() < k || top.last().is_some_and(is_larger)) {
            let at = top.partition_point(|other| other.1 >= logit);
            top.insert(at, (id, logit));
            top.truncate(k);
        }
    }
    TokenLogprobs {
        token,
        logprob: logprob(logits[token as usize]),
        top: top.into_iter().map(|(id, l)| (id, logprob(l))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_those_of_softmax() {
        let logits = [0.2f32, 0.5, 0.1, 0.2].map(|p: f32| p.ln() + 3.0);
        let scored = token_logprobs(Isa::best(), &logits, 2, 3);
        let ids: Vec<u32> = scored.top.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [1, 0, 3]);
        assert!((scored.logprob - 0.1f32.ln()).abs() < 1e-5);
        assert!((scored.top[0].1 - 0.5f32.ln()).abs() < 1e-5);
        assert!(token_logprobs(Isa::best(), &logits, 2, 0).top.is_empty());
        assert_eq!(token_logprobs(Isa::best(), &logits, 2, 9).top.len(), 4);
    }
}
