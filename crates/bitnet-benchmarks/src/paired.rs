//! Paired measurement: two variants are run alternately, so that other load affects both.

/// The ratio of two durations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The median over all pairs.
    pub median: f64,
    /// The lower and upper quartile.
    pub quartiles: (f64, f64),
}

/// Runs `a` and `b` alternately, `n_pairs` times each, in the order a, b, b, a; both
/// return their duration. Returns the ratio of `a` to `b` of adjacent runs.
///
/// # Panics
///
/// Panics if `n_pairs` is 0.
pub fn paired_ratio(
    n_pairs: usize,
    mut a: impl FnMut() -> f64,
    mut b: impl FnMut() -> f64,
) -> Ratio {
    let pair = |i: usize| {
        if i.is_multiple_of(2) {
            let time_a = a();
            time_a / b()
        } else {
            let time_b = b();
            a() / time_b
        }
    };
    let mut ratios: Vec<f64> = (0..n_pairs).map(pair).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    let at = |part: usize| ratios[(n_pairs - 1) * part / 4];
    Ratio {
        median: at(2),
        quartiles: (at(1), at(3)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_compared_in_the_order_a_b_b_a() {
        // A machine that becomes slower with each turn, and b twice as slow as a.
        let turn = std::cell::Cell::new(0.0);
        let next = |slower: f64| {
            turn.set(turn.get() + 1.0);
            slower * turn.get()
        };
        let ratio = paired_ratio(3, || next(1.0), || next(2.0));
        // 1 / 4, then 4 / 6, then 5 / 12.
        assert_eq!(ratio.median, 5.0 / 12.0);
        assert_eq!(ratio.quartiles, (0.25, 5.0 / 12.0));
    }
}
