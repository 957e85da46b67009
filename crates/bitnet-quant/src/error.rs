//! Why weights cannot be stored, or stored weights not be read.

use thiserror::Error;

/// A shape that a format cannot store.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// The shape is not made of whole blocks.
    #[error("{format} stores {axis} in multiples of {multiple}, found {found}")]
    PartialBlock {
        /// The name of the format.
        format: &'static str,
        /// What comes in blocks: "rows" or "columns".
        axis: &'static str,
        /// Rows or columns of one block.
        multiple: usize,
        /// Rows or columns asked for.
        found: usize,
    },
    /// A ternary matrix has no weights.
    #[error("{format} cannot store a matrix without weights, found {n_rows} x {n_cols}")]
    Empty {
        /// The name of the format.
        format: &'static str,
        /// Rows asked for.
        n_rows: usize,
        /// Columns asked for.
        n_cols: usize,
    },
    /// The bytes are more than memory can address.
    #[error("{n_rows} x {n_cols} weights in {format} exceed what memory can address")]
    TooLarge {
        /// The name of the format.
        format: &'static str,
        /// Rows asked for.
        n_rows: usize,
        /// Columns asked for.
        n_cols: usize,
    },
}

/// Why a ternary matrix cannot be read or written.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum TernaryError {
    /// The format cannot store the shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The bytes are not as many as the shape needs.
    #[error("{n_rows} x {n_cols} weights in {format} take {expected} bytes, found {found}")]
    Length {
        /// The name of the format.
        format: &'static str,
        /// Rows of the matrix.
        n_rows: usize,
        /// Columns of the matrix.
        n_cols: usize,
        /// Bytes that the shape needs.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// A weight has the code 3, which stands for no trit.
    #[error("code 3 at row {row}, column {col} is no ternary weight")]
    InvalidCode {
        /// The row of the weight.
        row: usize,
        /// The first column of that row with such a code.
        col: usize,
    },
    /// Blocks of one matrix carry different scales.
    #[error("scale {other} at row {row}, column {col} differs from {first} before it")]
    SeveralScales {
        /// The scale of the first block with a nonzero weight.
        first: f32,
        /// The scale that differs.
        other: f32,
        /// The row of the block that differs.
        row: usize,
        /// The first column of the block that differs.
        col: usize,
    },
    /// The scale is infinite or not a number.
    #[error("scale {scale} is not finite")]
    ScaleNotFinite {
        /// The scale found or given.
        scale: f32,
    },
    /// The format stores scales in a type that cannot hold this one.
    #[error("{format} stores the scale as f16, which turns {scale} into {nearest}")]
    ScaleNotRepresentable {
        /// The name of the format.
        format: &'static str,
        /// The scale given.
        scale: f32,
        /// The nearest scale that the format can store.
        nearest: f32,
    },
}
