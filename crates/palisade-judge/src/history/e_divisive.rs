//! Change points by the energy statistic, searched in windows: the first of two
//! detectors.
//!
//! The statistic and the search are those of Matteson and James (2014); windows, the
//! t test instead of permutations, and the second pass that takes weak points back are
//! those of Fleming et al., "Hunter" (ICPE 2023), the paper behind Apache Otava. The
//! t test takes standard deviations with n, not n − 1, in the denominator, as that
//! program does: so both find the same points.

use statrs::distribution::{ContinuousCDF as _, StudentsT};

/// How change points are searched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EDivisive {
    /// How many values are looked at together.
    pub window: usize,
    /// How likely two parts may be by chance to count as different.
    pub max_p: f64,
    /// How large the smallest step is that counts, as a share of the value.
    pub min_step: f64,
}

impl Default for EDivisive {
    fn default() -> Self {
        Self {
            window: 50,
            max_p: 0.001,
            min_step: 0.0,
        }
    }
}

/// A place where values change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Split {
    /// The first value after the change.
    pub at: usize,
    /// The mean of the values before, back to the last change.
    pub before: f64,
    /// The mean of the values after, up to the next change.
    pub after: f64,
    /// How likely the two parts differ so much by chance.
    pub p: f64,
}

impl Split {
    /// The step as a share of the smaller of both means.
    fn step(&self) -> f64 {
        let change = |from: f64, to: f64| {
            if from == 0.0 {
                0.0
            } else {
                (to / from - 1.0).abs()
            }
        };
        change(self.before, self.after).max(change(self.after, self.before))
    }
}

impl EDivisive {
    /// The places where the values change, in order.
    pub fn splits(&self, values: &[f64]) -> Vec<Split> {
        // The first pass is more generous: what is weak in a window may be strong
        // among its final neighbours.
        let generous = match self.max_p {
            strict if strict < 0.05 => strict * 10.0,
            strict if strict < 0.5 => strict * 2.0,
            other => other,
        };
        let window = self.window.max(2);
        let mut places: Vec<usize> = Vec::new();
        let mut start = 0;
        while start < values.len() {
            let end = (start + window).min(values.len());
            let found = divide(&values[start..end], generous);
            let found: Vec<usize> = found.into_iter().map(|at| at + start).collect();
            start = (start + window / 2).max(found.last().copied().unwrap_or(0));
            places.extend(found);
        }
        places.sort_unstable();
        places.dedup();
        self.merge(values, &places)
    }

    /// Takes back the weakest point, and again, until all are significant and large
    /// enough. What becomes of the points after it is computed anew; the point before it
    /// stays as it was, as in Apache Otava: its part may have been cut short by a point
    /// that is none, and that must not be held against it.
    fn merge(&self, values: &[f64], places: &[usize]) -> Vec<Split> {
        let all = 0..places.len();
        let mut splits: Vec<Split> = all.map(|at| split_at(values, places, at)).collect();
        loop {
            let weakest = |by: fn(&Split) -> f64| {
                let indexed = splits.iter().enumerate();
                indexed.max_by(|a, b| by(a.1).total_cmp(&by(b.1)).then(b.0.cmp(&a.0)))
            };
            let Some((mut at, split)) = weakest(|split| split.p) else {
                return splits;
            };
            if split.p < self.max_p {
                let Some((smallest, split)) = weakest(|split| -split.step()) else {
                    return splits;
                };
                if split.step() > self.min_step {
                    return splits;
                }
                at = smallest;
            }
            splits.remove(at);
            let places: Vec<usize> = splits.iter().map(|split| split.at).collect();
            for after in at..splits.len().min(at + 2) {
                splits[after] = split_at(values, &places, after);
            }
        }
    }
}

/// The parts on both sides of a place, up to its neighbours, compared.
fn split_at(values: &[f64], places: &[usize], index: usize) -> Split {
    let from = if index == 0 { 0 } else { places[index - 1] };
    let to = places.get(index + 1).copied().unwrap_or(values.len());
    compare(values, from, places[index], to)
}

/// Student's t test between `values[from..at]` and `values[at..to]`.
fn compare(values: &[f64], from: usize, at: usize, to: usize) -> Split {
    let moments = |part: &[f64]| {
        let n = part.len() as f64;
        let mean = part.iter().sum::<f64>() / n;
        let variance = part.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n;
        (n, mean, variance)
    };
    let (n, before, spread_before) = moments(&values[from..at]);
    let (m, after, spread_after) = moments(&values[at..to]);
    let freedom = n + m - 2.0;
    let p = if freedom <= 0.0 {
        1.0
    } else {
        let pooled = ((n - 1.0) * spread_before + (m - 1.0) * spread_after) / freedom;
        let error = (pooled * (1.0 / n + 1.0 / m)).sqrt();
        let apart = (after - before).abs();
        match (error > 0.0, apart > 0.0) {
            (true, _) => {
                let t = StudentsT::new(0.0, 1.0, freedom).expect("freedom is positive");
                2.0 * t.sf(apart / error)
            }
            (false, true) => 0.0,
            (false, false) => 1.0,
        }
    };
    Split {
        at,
        before,
        after,
        p,
    }
}

/// Splits a window where the energy statistic is largest, and its parts again, while
/// the split is significant.
fn divide(values: &[f64], max_p: f64) -> Vec<usize> {
    let mut places: Vec<usize> = Vec::new();
    loop {
        let bounds: Vec<usize> = [&[0][..], &places, &[values.len()]].concat();
        let parts = bounds.windows(2).filter(|part| part[1] - part[0] > 1);
        let found = parts.filter_map(|part| {
            let (at, energy) = best_split(&values[part[0]..part[1]])?;
            Some((energy, part[0], part[0] + at, part[1]))
        });
        // The first of equals.
        let best = found.reduce(|best, next| if next.0 > best.0 { next } else { best });
        let Some((_, from, at, to)) = best else {
            return places;
        };
        if compare(values, from, at, to).p > max_p {
            return places;
        }
        places.push(at);
        places.sort_unstable();
    }
}

/// Where the energy statistic of `values[..at]` and `values[at..end]` is largest, for
/// any end, and how large: with n and m values in the two,
/// `2/(n+m) Σ|x−y| − 2m/((n+m)(n−1)) Σ|x−x'| − 2n/((n+m)(m−1)) Σ|y−y'|`.
fn best_split(values: &[f64]) -> Option<(usize, f64)> {
    let len = values.len();
    // within[i][j]: the sum of distances between all pairs of values[i..j].
    let mut within = vec![vec![0.0; len + 1]; len + 1];
    for from in (0..len).rev() {
        let mut to_first = 0.0;
        for to in from + 1..=len {
            to_first += (values[to - 1] - values[from]).abs();
            within[from][to] = within[from + 1][to] + to_first;
        }
    }
    let mut best: Option<(usize, f64)> = None;
    for at in 1..len {
        for to in at + 1..=len {
            let (n, m) = (at as f64, (to - at) as f64);
            let (left, right) = (within[0][at], within[at][to]);
            let between = within[0][to] - left - right;
            let mean = |sum: f64, size: f64| if size > 1.0 { sum / (size - 1.0) } else { 0.0 };
            let energy = 2.0 / (n + m) * (between - m * mean(left, n) - n * mean(right, m));
            if best.is_none_or(|(_, largest)| energy > largest) {
                best = Some((at, energy));
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series() -> Vec<f64> {
        let text = include_str!("../../tests/data/tigerbeetle-series.csv");
        let value = |line: &str| line.split_once(',')?.1.parse().ok();
        text.lines().filter_map(value).collect()
    }

    fn places(window: usize, max_p: f64, min_step: f64) -> Vec<usize> {
        let detector = EDivisive {
            window,
            max_p,
            min_step,
        };
        let splits = detector.splits(&series());
        splits.iter().map(|split| split.at).collect()
    }

    /// What Apache Otava's own tests expect of this series.
    #[test]
    fn it_finds_what_apache_otava_finds() {
        assert_eq!(series().len(), 365);
        assert_eq!(
            places(30, 0.001, 0.0),
            [15, 61, 71, 95, 117, 131, 142, 148, 192, 212, 260]
        );
        assert_eq!(places(30, 0.01, 0.05), [15, 71]);
    }

    #[test]
    fn little_says_nothing_and_a_step_is_a_step() {
        let none = EDivisive::default();
        for values in [&[][..], &[1.0], &[1.0, 1.0], &[1.0, 2.0]] {
            assert!(none.splits(values).is_empty(), "{values:?}");
        }
        let step = [vec![1.0; 20], vec![2.0; 20]].concat();
        let found = EDivisive::default().splits(&step);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].at, found[0].before, found[0].after),
            (20, 1.0, 2.0)
        );
    }
}
