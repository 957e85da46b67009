//! The shape of a matrix.

/// Rows and columns of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows: of weights, one for each output.
    pub n_rows: usize,
    /// Columns: of weights, one for each input.
    pub n_cols: usize,
}
