//! What some log-ratios say: an estimate with its interval, and the evidence that
//! their centre lies above zero.

use serde::{Deserialize, Serialize};
use statrs::distribution::{Binomial, ContinuousCDF as _, DiscreteCDF as _, StudentsT};

use crate::stats::median;

/// From this many pairs on ranks and the bootstrap say enough; below, only the
/// t distribution reaches the levels that early interim looks ask for.
pub(super) const FEW: usize = 10;

/// How much more the candidate costs, with a 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The ratio of candidate to base: 1.02 costs 2 % more.
    pub ratio: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// The ratio behind some log-ratios, `exp(median)`; `None` for fewer than two.
///
/// From ten pairs on the interval is the bootstrap's over pairs (percentiles of the
/// median). It is not drawn but computed: the median of a resample is one of few
/// values, and how often each comes up follows from the binomial distribution
/// (Efron, 1979). So it equals what infinitely many resamples would give. With fewer
/// pairs it is Student's, made wide enough to hold the median.
pub fn estimate(log_ratios: &[f64]) -> Option<Estimate> {
    let n = log_ratios.len();
    let centre = median(log_ratios)?;
    if n < 2 {
        return None;
    }
    let (low, high) = if n < FEW {
        let (mean, error) = mean_and_error(log_ratios);
        let half = student_t(n).inverse_cdf(0.975) * error;
        ((mean - half).min(centre), (mean + half).max(centre))
    } else {
        let medians = bootstrap_medians(log_ratios);
        (quantile(&medians, 0.025), quantile(&medians, 0.975))
    };
    Some(Estimate {
        ratio: centre.exp(),
        low: low.exp(),
        high: high.exp(),
    })
}

/// The variance of the median, by the same bootstrap; 0 for fewer than two.
pub fn median_variance(log_ratios: &[f64]) -> f64 {
    if log_ratios.len() < 2 {
        return 0.0;
    }
    let medians = bootstrap_medians(log_ratios);
    let mean: f64 = medians.iter().map(|(value, weight)| value * weight).sum();
    let square = |(value, weight): &(f64, f64)| (value - mean).powi(2) * weight;
    medians.iter().map(square).sum()
}

/// The medians that a resample can have, in order, each with its probability.
fn bootstrap_medians(values: &[f64]) -> Vec<(f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    // A resample's k-th smallest is at most sorted[i] if k of its draws are.
    let at_most = |k: usize, i: usize| {
        let share = (i + 1) as f64 / n as f64;
        let draws = Binomial::new(share, n as u64).expect("a share is a probability");
        draws.sf(k as u64 - 1)
    };
    let order = |k: usize| -> Vec<f64> {
        let below: Vec<f64> = (0..n).map(|i| at_most(k, i)).collect();
        let step = |i: usize| below[i] - if i == 0 { 0.0 } else { below[i - 1] };
        (0..n).map(step).collect()
    };
    if n % 2 == 1 {
        return sorted.iter().copied().zip(order(n.div_ceil(2))).collect();
    }
    let half = n / 2;
    // The lower middle is sorted[i] and the upper one sorted[j] > sorted[i] if half
    // of the draws end at i and the others begin at j.
    let splits: f64 = (1..=half).map(|k| (half + k) as f64 / k as f64).product();
    let power = |share: usize| (share as f64 / n as f64).powi(half as i32);
    let ends_at = |i: usize| power(i + 1) - power(i);
    let begins_at = |j: usize| power(n - j) - power(n - j - 1);
    let lower = order(half);
    let mut medians = Vec::with_capacity(n * (n + 1) / 2);
    for i in 0..n {
        let mut rest = lower[i];
        for j in i + 1..n {
            let weight = splits * ends_at(i) * begins_at(j);
            rest -= weight;
            medians.push((f64::midpoint(sorted[i], sorted[j]), weight));
        }
        medians.push((sorted[i], rest.max(0.0)));
    }
    medians.sort_by(|a, b| a.0.total_cmp(&b.0));
    medians
}

/// The value below which a share of the weight lies.
fn quantile(weighted: &[(f64, f64)], share: f64) -> f64 {
    let mut seen = 0.0;
    for (value, weight) in weighted {
        seen += weight;
        if seen >= share {
            return *value;
        }
    }
    weighted.last().map_or(f64::NAN, |(value, _)| *value)
}

/// The median of all means of two values, each with itself too (Hodges and Lehmann,
/// 1963): the centre that belongs to [`signed_rank`]. `None` of nothing.
pub fn hodges_lehmann(values: &[f64]) -> Option<f64> {
    let mean = |i: usize| {
        values[i..]
            .iter()
            .map(move |b| f64::midpoint(values[i], *b))
    };
    let means: Vec<f64> = (0..values.len()).flat_map(mean).collect();
    median(&means)
}

/// Wilcoxon's exact signed-rank test, one-sided: how likely the values lie so far
/// above zero if they are symmetric around it. Ties share their ranks, zeros have
/// ranks and no sign (Pratt, 1959); the distribution is that of the ranks at hand.
pub fn signed_rank(values: &[f64]) -> f64 {
    let mut by_size: Vec<f64> = values.to_vec();
    by_size.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    // Twice the rank, which is whole with ties too, and whether the value is above 0.
    let mut ranks: Vec<(usize, bool)> = Vec::with_capacity(by_size.len());
    let mut start = 0;
    for tied in by_size.chunk_by(|a, b| a.abs() == b.abs()) {
        let rank = 2 * start + tied.len() + 1;
        start += tied.len();
        let signed = tied.iter().filter(|value| **value != 0.0);
        ranks.extend(signed.map(|value| (rank, *value > 0.0)));
    }
    let positive = |(rank, is_above): &(usize, bool)| if *is_above { *rank } else { 0 };
    let observed: usize = ranks.iter().map(positive).sum();
    let all: usize = ranks.iter().map(|(rank, _)| rank).sum();
    // share[s]: how likely the ranks of the values above zero sum up to s.
    let mut share = vec![0.0_f64; all + 1];
    share[0] = 1.0;
    for (rank, _) in &ranks {
        for sum in (0..=all).rev() {
            let with = if sum >= *rank { share[sum - rank] } else { 0.0 };
            share[sum] = 0.5 * (share[sum] + with);
        }
    }
    share[observed..].iter().sum::<f64>().min(1.0)
}

/// Student's t test, one-sided: how likely the mean lies so far above zero if the
/// values are normal around it. 1 for fewer than two values.
pub fn student(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 1.0;
    }
    let (mean, error) = mean_and_error(values);
    if error == 0.0 {
        return if mean > 0.0 { 0.0 } else { 1.0 };
    }
    student_t(values.len()).sf(mean / error)
}

/// How likely values lie so far above zero if their centre is not above it:
/// [`signed_rank`] from ten values on. Below, ranks cannot say how far above they lie;
/// there it is [`student`], and only if every value lies above. (For distributions
/// with heavier tails than the normal one, the t test errs on the safe side:
/// Benjamini, 1983.)
pub fn evidence(values: &[f64]) -> f64 {
    if values.len() >= FEW {
        signed_rank(values)
    } else if values.iter().all(|value| *value > 0.0) {
        student(values)
    } else {
        1.0
    }
}

/// The mean and its standard error.
fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0) / n).sqrt())
}

fn student_t(n: usize) -> StudentsT {
    StudentsT::new(0.0, 1.0, (n - 1) as f64).expect("two values leave one degree of freedom")
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

    use super::*;

    fn unit(random: &mut ChaCha8Rng) -> f64 {
        (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// About normal: a sum of twelve.
    fn normal(random: &mut ChaCha8Rng) -> f64 {
        (0..12).map(|_| unit(random)).sum::<f64>() - 6.0
    }

    #[test]
    fn the_computed_bootstrap_is_what_resampling_comes_to() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        for n in [10, 11, 16, 25, 40] {
            let mut values: Vec<f64> = (0..n).map(|_| normal(&mut random)).collect();
            values[1] = values[0]; // a tie
            let exact = bootstrap_medians(&values);
            let total: f64 = exact.iter().map(|(_, weight)| weight).sum();
            assert!((total - 1.0).abs() < 1e-9, "{n}: {total}");
            assert!(exact.iter().all(|(_, weight)| *weight >= 0.0));
            let resamples = 20_000;
            let mut drawn: Vec<f64> = (0..resamples)
                .map(|_| {
                    let draw = |_| values[random.next_u64() as usize % n];
                    median(&(0..n).map(draw).collect::<Vec<_>>()).expect("values")
                })
                .collect();
            drawn.sort_by(f64::total_cmp);
            for share in [0.025, 0.25, 0.5, 0.8, 0.975] {
                // The share of drawn medians at or below the computed quantile.
                let at = quantile(&exact, share);
                let below = drawn.partition_point(|value| *value < at) as f64;
                let most = drawn.partition_point(|value| *value <= at + 1e-12) as f64;
                let (low, high) = (below / 20_000.0, most / 20_000.0);
                assert!(low <= share + 0.01 && share - 0.01 <= high, "{n} {share}");
            }
        }
    }

    #[test]
    fn intervals_hold_the_truth_about_as_often_as_they_say() {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        for (n, least) in [(6, 0.93), (10, 0.90), (16, 0.91), (40, 0.92)] {
            let mut held = 0;
            for _ in 0..1000 {
                let values: Vec<f64> = (0..n).map(|_| 0.02 + 0.01 * normal(&mut random)).collect();
                let found = estimate(&values).expect("pairs");
                assert!(found.low <= found.ratio && found.ratio <= found.high);
                held += u32::from(found.low.ln() <= 0.02 && 0.02 <= found.high.ln());
            }
            assert!(f64::from(held) / 1000.0 >= least, "{n}: {held}");
        }
        assert_eq!(estimate(&[0.1]), None);
        assert_eq!(estimate(&[]), None);
    }

    #[test]
    fn ranks_agree_with_counted_cases() {
        // All six above: one of 64 ways.
        assert!((signed_rank(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) - 1.0 / 64.0).abs() < 1e-12);
        assert!((signed_rank(&[-1.0, -2.0, -3.0]) - 1.0).abs() < 1e-12);
        // 2 and 3 above, 1 below: W = 5 of 6; 5 and 6 are two of the eight sums.
        assert!((signed_rank(&[-1.0, 2.0, 3.0]) - 2.0 / 8.0).abs() < 1e-12);
        // Zeros have no sign; ties share the rank.
        assert_eq!(signed_rank(&[0.0; 5]), 1.0);
        assert!((signed_rank(&[1.0, 1.0, -1.0, 0.0]) - 4.0 / 8.0).abs() < 1e-12);
        assert_eq!(signed_rank(&[]), 1.0);
        let values = [1.1, -0.3, 2.2, 0.4, 3.1, -0.5, 0.9, 1.7, 0.2, 2.8];
        assert!((signed_rank(&values) - by_enumeration(&values)).abs() < 1e-12);
    }

    /// The definition: all ways to set the signs.
    fn by_enumeration(values: &[f64]) -> f64 {
        let n = values.len();
        let rank = |i: usize| {
            let smaller = values.iter().filter(|v| v.abs() < values[i].abs()).count();
            let equal = values.iter().filter(|v| v.abs() == values[i].abs());
            smaller as f64 + f64::midpoint(1.0, equal.count() as f64)
        };
        let ranks: Vec<f64> = (0..n).map(rank).collect();
        let observed: f64 = (0..n).filter(|i| values[*i] > 0.0).map(|i| ranks[i]).sum();
        let sum =
            |way: u32| -> f64 { (0..n).filter(|i| way >> i & 1 == 1).map(|i| ranks[i]).sum() };
        let reached = (0..1_u32 << n)
            .filter(|way| sum(*way) >= observed - 1e-9)
            .count();
        reached as f64 / f64::from(1_u32 << n)
    }

    #[test]
    fn student_agrees_with_tables() {
        // t = 2.5706 at 5 degrees of freedom has one-sided p = .025.
        let spread = [1.0, -1.0, 2.0, -2.0, 0.5, -0.5];
        let (_, error) = mean_and_error(&spread);
        let shifted = spread.map(|value| value + 2.570_58 * error);
        assert!((student(&shifted) - 0.025).abs() < 1e-5);
        assert_eq!(student(&[0.0, 0.0]), 1.0);
        assert_eq!(student(&[0.1, 0.1]), 0.0);
        assert_eq!(student(&[0.1]), 1.0);
    }

    #[test]
    fn few_pairs_must_agree_and_many_are_ranked() {
        assert_eq!(evidence(&[0.1, 0.11, 0.1, 0.1, 0.1, -0.001]), 1.0);
        assert!(evidence(&[0.1, 0.11, 0.1, 0.1, 0.1, 0.09]) < 1e-5);
        assert!((evidence(&[0.1; 10]) - 1.0 / 1024.0).abs() < 1e-12);
    }

    #[test]
    fn the_centre_of_ranks() {
        assert_eq!(hodges_lehmann(&[]), None);
        assert_eq!(hodges_lehmann(&[1.0, 2.0, 6.0]), Some(2.75));
    }
}
