//! Change points by the best cut into parts of equal level: the second detector.

use crate::stats::median;

/// The places where the mean of the values changes, in order: the cut that minimises
/// the squared distances from each part's mean plus `3 ln(n) σ²` for each part, found
/// exactly by PELT (Killick, Fearnhead and Eckley, 2012). σ is robust: it comes from
/// the median distance of neighbours, which steps hardly touch.
pub fn pelt(values: &[f64]) -> Vec<usize> {
    let n = values.len();
    let mut sums = vec![(0.0, 0.0)];
    let centre = median(values).unwrap_or(0.0);
    for value in values {
        // Around the median, so that squares do not cancel.
        let value = value - centre;
        let (sum, squares) = sums[sums.len() - 1];
        sums.push((sum + value, squares + value * value));
    }
    let cost = |from: usize, to: usize| {
        let sum = sums[to].0 - sums[from].0;
        let squares = sums[to].1 - sums[from].1;
        (squares - sum * sum / (to - from) as f64).max(0.0)
    };
    let penalty = 3.0 * (n.max(2) as f64).ln() * noise(values).powi(2);
    // best[t]: the least cost of values[..t]; last[t]: where its last part begins.
    let mut best = vec![-penalty];
    let mut last = vec![0];
    let mut candidates = vec![0];
    for to in 1..=n {
        let total = |from: usize| best[from] + cost(from, to) + penalty;
        let mut chosen = candidates[0];
        for from in &candidates[1..] {
            if total(*from) < total(chosen) {
                chosen = *from;
            }
        }
        let least = total(chosen);
        // A beginning that is worse now, even without a penalty, never becomes best.
        candidates.retain(|from| best[*from] + cost(*from, to) <= least);
        candidates.push(to);
        best.push(least);
        last.push(chosen);
    }
    let mut places = Vec::new();
    let mut at = n;
    while at > 0 {
        at = last[at];
        if at > 0 {
            places.push(at);
        }
    }
    places.reverse();
    places
}

/// The standard deviation of the values around their level, from the distances of
/// neighbours.
pub(super) fn noise(values: &[f64]) -> f64 {
    /// What makes the median distance of two normal values their deviation:
    /// 1.4826 / √2.
    const SCALE: f64 = 1.048_4;
    let distances: Vec<f64> = values
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).abs())
        .collect();
    SCALE * median(&distances).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_found_exactly_and_noise_is_not() {
        let wave = |i: usize| [0.3, -0.2, 0.1, -0.4, 0.2][i % 5];
        let level = |i: usize| {
            if i < 30 {
                10.0
            } else if i < 45 {
                13.0
            } else {
                11.0
            }
        };
        let values: Vec<f64> = (0..80).map(|i| level(i) + wave(i)).collect();
        assert_eq!(pelt(&values), [30, 45]);
        let flat: Vec<f64> = (0..80).map(|i| 10.0 + wave(i)).collect();
        assert!(pelt(&flat).is_empty());
        assert!(pelt(&[]).is_empty());
        assert!(pelt(&[1.0]).is_empty());
        assert!(pelt(&[1.0; 9]).is_empty());
    }

    #[test]
    fn pruning_loses_no_cut() {
        // The same minimum over all cuts, without pruning.
        let values: Vec<f64> = (0..40_u32)
            .map(|i| f64::from(i.wrapping_mul(2_654_435_761) >> 24) / 64.0 + f64::from(i / 13))
            .collect();
        let penalty = 3.0 * 40.0_f64.ln() * noise(&values).powi(2);
        let cost = |part: &[f64]| {
            let mean = part.iter().sum::<f64>() / part.len() as f64;
            part.iter().map(|value| (value - mean).powi(2)).sum::<f64>()
        };
        let mut best = vec![(-penalty, 0)];
        for to in 1..=values.len() {
            let of = |from: usize| (best[from].0 + cost(&values[from..to]) + penalty, from);
            let least = (0..to).map(of).min_by(|a, b| a.0.total_cmp(&b.0));
            best.push(least.expect("a cut"));
        }
        let mut expected = Vec::new();
        let mut at = best[values.len()].1;
        while at > 0 {
            expected.insert(0, at);
            at = best[at].1;
        }
        assert_eq!(pelt(&values), expected);
    }
}
