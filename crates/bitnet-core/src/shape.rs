//! The shape of a matrix.

/// Rows and columns of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The number of rows; of weights, one per output.
    pub n_rows: usize,
    /// The number of columns; of weights, one per input.
    pub n_cols: usize,
}
