//! The scales of ternary matrices.

use std::fmt;

/// The scales of a ternary matrix `[n_rows, n_cols]`: weights are trits times their scales.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// One scale for the whole matrix.
    Tensor(f32),
    /// `[n_rows]`: one scale per row.
    Rows(Vec<f32>),
    /// One scale per group of `len` weights along a row.
    Groups {
        /// Weights per group, a divisor of `n_cols`.
        len: usize,
        /// `[n_rows, n_cols / len]`
        values: Vec<f32>,
    },
}

impl From<f32> for Scales {
    fn from(scale: f32) -> Self {
        Self::Tensor(scale)
    }
}

impl Scales {
    /// Returns the simplest form of `values`, `[n_rows, n_groups]`, one scale per `len`
    /// weights. The scales of groups for which `is_zero` returns true, whose weights are
    /// all zero, are ignored.
    pub fn simplest(
        len: usize,
        n_rows: usize,
        values: Vec<f32>,
        mut is_zero: impl FnMut(usize) -> bool,
    ) -> Self {
        let n_groups = values.len() / n_rows;
        // Compare bits, so that a NaN equals itself.
        let mut shared = |range: std::ops::Range<usize>| {
            let mut shared: Option<f32> = None;
            for i in range.clone() {
                if shared.is_some_and(|s| s.to_bits() == values[i].to_bits()) || is_zero(i) {
                    continue;
                }
                if shared.is_some() {
                    return None;
                }
                shared = Some(values[i]);
            }
            Some(shared.unwrap_or(values[range.start]))
        };
        if let Some(scale) = shared(0..values.len()) {
            return Self::Tensor(scale);
        }
        let rows: Option<Vec<f32>> = (0..n_rows)
            .map(|row| shared(row * n_groups..(row + 1) * n_groups))
            .collect();
        match rows {
            Some(rows) => Self::Rows(rows),
            None => Self::Groups { len, values },
        }
    }

    /// Returns the scale of the whole matrix, or `None` if there are several.
    pub fn tensor(&self) -> Option<f32> {
        match *self {
            Self::Tensor(scale) => Some(scale),
            _ => None,
        }
    }

    /// Returns the scales, each multiplied by `factor`.
    #[must_use]
    pub fn times(mut self, factor: f32) -> Self {
        for scale in self.values_mut() {
            *scale *= factor;
        }
        self
    }

    /// Returns the scales of a matrix whose row `r` is row `source(r)` of this one.
    #[must_use]
    pub fn reordered(self, n_rows: usize, source: impl Fn(usize) -> usize) -> Self {
        let reorder = |values: Vec<f32>| {
            let n_groups = values.len() / n_rows;
            (0..n_rows)
                .flat_map(|row| &values[source(row) * n_groups..][..n_groups])
                .copied()
                .collect()
        };
        match self {
            Self::Tensor(scale) => Self::Tensor(scale),
            Self::Rows(values) => Self::Rows(reorder(values)),
            Self::Groups { len, values } => Self::Groups {
                len,
                values: reorder(values),
            },
        }
    }

    /// Returns all scales: one, one per row, or `[n_rows, n_groups]`.
    pub fn values(&self) -> &[f32] {
        match self {
            Self::Tensor(scale) => std::slice::from_ref(scale),
            Self::Rows(values) | Self::Groups { values, .. } => values,
        }
    }

    fn values_mut(&mut self) -> &mut [f32] {
        match self {
            Self::Tensor(scale) => std::slice::from_mut(scale),
            Self::Rows(values) | Self::Groups { values, .. } => values,
        }
    }

    /// Returns the scale of the weight at `row`, `col` of a matrix with `n_cols` columns.
    ///
    /// # Panics
    ///
    /// May panic if the weight is out of range.
    #[inline]
    pub fn at(&self, row: usize, col: usize, n_cols: usize) -> f32 {
        match self {
            Self::Tensor(scale) => *scale,
            Self::Rows(values) => values[row],
            Self::Groups { len, values } => values[row * (n_cols / len) + col / len],
        }
    }

    /// Dequantizes a row: writes each of its `trits` times its scale.
    ///
    /// # Panics
    ///
    /// Panics if `out` is not as long as `trits`; may panic if the row is out of range or
    /// its length is not that of the matrix.
    pub fn scale_row(&self, row: usize, trits: &[i8], out: &mut [f32]) {
        assert_eq!(trits.len(), out.len(), "weights of a row");
        let n_cols = trits.len();
        let len = match self {
            Self::Groups { len, .. } => *len,
            _ => n_cols,
        };
        for (group, (trits, out)) in trits.chunks(len).zip(out.chunks_mut(len)).enumerate() {
            let scale = self.at(row, group * len, n_cols);
            for (out, &trit) in out.iter_mut().zip(trits) {
                *out = f32::from(trit) * scale;
            }
        }
    }
}

impl fmt::Display for Scales {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor(scale) => write!(f, "scale {scale}"),
            Self::Rows(_) => write!(f, "a scale for each row"),
            Self::Groups { len, .. } => write!(f, "a scale for each {len} weights of a row"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_as_simple_as_they_can_be() {
        let never = |_| false;
        let simplest = |values: &[f32]| Scales::simplest(64, 2, values.to_vec(), never);
        assert_eq!(simplest(&[0.5; 4]), Scales::Tensor(0.5));
        assert_eq!(
            simplest(&[0.5, 0.5, 2.0, 2.0]),
            Scales::Rows(vec![0.5, 2.0])
        );
        let values = vec![0.5, 0.5, 2.0, 0.5];
        assert_eq!(simplest(&values), Scales::Groups { len: 64, values });
    }

    #[test]
    fn groups_of_zeros_may_have_any_scale() {
        let zeros = |group| matches!(group, 0 | 3);
        let values = vec![f32::NAN, 0.5, 0.5, 7.0];
        assert_eq!(Scales::simplest(64, 2, values, zeros), Scales::Tensor(0.5));
        let values = vec![1.0, 0.5, 0.25, 7.0];
        let rows = Scales::Rows(vec![0.5, 0.25]);
        assert_eq!(Scales::simplest(64, 2, values, zeros), rows);
        let all_zeros = Scales::simplest(64, 2, vec![3.0, 4.0, 5.0, 6.0], |_| true);
        assert_eq!(all_zeros, Scales::Tensor(3.0));
    }

    #[test]
    fn rows_are_multiplied_group_by_group() {
        let values = vec![1.0, 2.0, 3.0, 4.0];
        let scales = Scales::Groups { len: 2, values };
        let mut out = [0.0; 4];
        scales.scale_row(1, &[1, -1, 0, 1], &mut out);
        assert_eq!(out, [3.0, -3.0, 0.0, 4.0]);
        Scales::Rows(vec![0.5, -2.0]).scale_row(1, &[1, -1, 0, 1], &mut out);
        assert_eq!(out, [-2.0, 2.0, 0.0, -2.0]);
        Scales::Tensor(0.5).scale_row(7, &[1, -1, 0, 1], &mut out);
        assert_eq!(out, [0.5, -0.5, 0.0, 0.5]);
    }

    #[test]
    fn scales_move_with_their_rows() {
        let values = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let scales = Scales::Groups { len: 2, values };
        let moved = scales.reordered(3, |row| (row + 1) % 3).times(2.0);
        assert_eq!(moved.values(), [6.0, 8.0, 10.0, 12.0, 2.0, 4.0]);
        assert_eq!(moved.at(0, 2, 4), 8.0);
    }
}
