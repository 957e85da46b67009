//! The statistics behind a verdict on tests: exact tests for small counts, and
//! the interval of a failure rate.

use statrs::distribution::{Beta, ContinuousCDF as _, DiscreteCDF as _, Hypergeometric};

/// Passes and failures of one test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// How often it failed.
    pub failures: u32,
    /// How often it passed.
    pub passes: u32,
}

impl Counts {
    /// How often it ran.
    pub fn total(self) -> u32 {
        self.failures + self.passes
    }

    /// Whether it did both.
    pub fn is_mixed(self) -> bool {
        self.failures > 0 && self.passes > 0
    }
}

/// Fisher's exact test, one-sided: how likely it is that the failures of both
/// revisions fall so heavily on the candidate if both fail equally often.
pub fn fisher(candidate: Counts, base: Counts) -> f64 {
    if candidate.failures == 0 {
        return 1.0;
    }
    let population = u64::from(candidate.total() + base.total());
    let failures = u64::from(candidate.failures + base.failures);
    let draws = u64::from(candidate.total());
    // The counts satisfy what the distribution asks for: both parts fit the whole.
    let distribution = Hypergeometric::new(population, failures, draws)
        .expect("failures and draws are parts of the population");
    distribution.sf(u64::from(candidate.failures) - 1)
}

/// The prior of a failure rate: most tests hardly ever fail.
const PRIOR_FAILURES: f64 = 0.5;
const PRIOR_PASSES: f64 = 20.0;

/// An estimate with its 95 % credible interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Rate {
    /// The mean of the posterior.
    pub mean: f64,
    /// The 2.5 % quantile.
    pub low: f64,
    /// The 97.5 % quantile.
    pub high: f64,
}

/// The failure rate behind some counts.
pub fn failure_rate(counts: Counts) -> Rate {
    let a = PRIOR_FAILURES + f64::from(counts.failures);
    let b = PRIOR_PASSES + f64::from(counts.passes);
    let posterior = Beta::new(a, b).expect("both parameters are positive");
    Rate {
        mean: a / (a + b),
        low: posterior.inverse_cdf(0.025),
        high: posterior.inverse_cdf(0.975),
    }
}

/// How many passes in a row a test with this failure rate shows by luck in 5 % of
/// the cases.
pub fn passes_demanded(rate: f64) -> u32 {
    let rate = rate.clamp(1e-4, 0.999);
    (0.05_f64.ln() / (1.0 - rate).ln()).ceil() as u32
}

/// The median; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The exact one-sided rank test of Mann and Whitney: how likely the candidate's
/// values rank as high as they do if both revisions are alike. Ties count for the base.
pub fn rank_test(candidate: &[f64], base: &[f64]) -> f64 {
    let (n, m) = (candidate.len(), base.len());
    let wins: usize = candidate
        .iter()
        .map(|c| base.iter().filter(|b| c > *b).count())
        .sum();
    // ways[k][u]: in how many orders of k candidate values and the base values
    // seen so far the candidate wins u times.
    let mut ways = vec![vec![0.0_f64; n * m + 1]; n + 1];
    ways[0][0] = 1.0;
    for placed in 1..=n + m {
        for k in (1..=n.min(placed)).rev() {
            // The k-th candidate value beats every base value below it.
            let below = placed - k;
            if below > m {
                continue;
            }
            for u in (below..=n * m).rev() {
                let add = ways[k - 1][u - below];
                ways[k][u] += add;
            }
        }
    }
    let total: f64 = ways[n].iter().sum();
    let at_least: f64 = ways[n][wins.min(n * m)..].iter().sum();
    if total > 0.0 { at_least / total } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(failures: u32, passes: u32) -> Counts {
        Counts { failures, passes }
    }

    #[test]
    fn fisher_agrees_with_worked_cases() {
        // All five fail on one side, none on the other: 1 / C(10, 5).
        assert!((fisher(counts(5, 0), counts(0, 5)) - 1.0 / 252.0).abs() < 1e-12);
        // Nothing to tell apart.
        assert!((fisher(counts(1, 0), counts(1, 0)) - 1.0).abs() < 1e-12);
        assert_eq!(fisher(counts(0, 5), counts(5, 0)), 1.0);
        // One failure in two runs against none in two: 1/2.
        assert!((fisher(counts(1, 1), counts(0, 2)) - 0.5).abs() < 1e-12);
        // Nothing seen of the base proves nothing.
        assert_eq!(fisher(counts(3, 0), counts(0, 0)), 1.0);
    }

    #[test]
    fn rates_have_intervals_that_hold_the_mean_and_shrink() {
        let few = failure_rate(counts(1, 19));
        let many = failure_rate(counts(50, 950));
        for rate in [few, many] {
            assert!(rate.low < rate.mean && rate.mean < rate.high);
        }
        assert!(many.high - many.low < few.high - few.low);
        assert!((0.03..0.07).contains(&many.mean));
        // Beta(.5, 20) of a test that never ran: its mean is .5 / 20.5.
        assert!((failure_rate(counts(0, 0)).mean - 0.5 / 20.5).abs() < 1e-12);
    }

    #[test]
    fn the_interval_covers_the_truth_as_often_as_it_says() {
        // For a true rate of 5 % and 100 runs, sum the probability of every count
        // whose interval holds the truth.
        let (truth, n) = (0.05_f64, 100_u32);
        let mut probability = (1.0 - truth).powi(100);
        let mut covered = 0.0;
        for k in 0..=n {
            let rate = failure_rate(counts(k, n - k));
            if rate.low <= truth && truth <= rate.high {
                covered += probability;
            }
            probability *= f64::from(n - k) / f64::from(k + 1) * truth / (1.0 - truth);
        }
        assert!(covered > 0.93, "{covered}");
    }

    #[test]
    fn release_demands_what_the_rate_hides() {
        assert_eq!(passes_demanded(0.05), 59);
        assert_eq!(passes_demanded(0.01), 299);
        assert_eq!(passes_demanded(0.5), 5);
    }

    #[test]
    fn ranks_of_small_samples_are_exact() {
        let low = [1.0, 2.0, 3.0, 4.0, 5.0];
        let high = [6.0, 7.0, 8.0, 9.0, 10.0];
        assert!((rank_test(&high, &low) - 1.0 / 252.0).abs() < 1e-12);
        assert!((rank_test(&low, &high) - 1.0).abs() < 1e-12);
        // Two against two, one order of six is better than 3 wins.
        assert!((rank_test(&[2.0, 4.0], &[1.0, 3.0]) - 2.0 / 6.0).abs() < 1e-12);
        assert!((rank_test(&[1.0, 1.0], &[1.0, 1.0]) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
