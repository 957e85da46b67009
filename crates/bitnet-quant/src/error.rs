//! Errors of reading and writing stored weights.

use thiserror::Error;

/// A shape that a format cannot store.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// The shape does not consist of whole blocks.
    #[error("{format} stores {axis} in multiples of {multiple}, found {found}")]
    PartialBlock {
        /// The name of the format.
        format: &'static str,
        /// The axis: "rows" or "columns".
        axis: &'static str,
        /// Rows or columns of one block.
        multiple: usize,
        /// Rows or columns requested.
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
    /// The size exceeds the address space.
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

/// An error of reading or writing a ternary matrix.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum TernaryError {
    /// The format cannot store the shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The number of bytes does not match the shape.
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
    /// A weight has the invalid code 3.
    #[error("code 3 at row {row}, column {col} is no ternary weight")]
    InvalidCode {
        /// The row of the weight.
        row: usize,
        /// The first column of that row with such a code.
        col: usize,
    },
    /// The format cannot store that many scales.
    #[error("{format} has no room for {found}")]
    TooManyScales {
        /// The name of the format.
        format: &'static str,
        /// A description of the scales.
        found: String,
    },
    /// The format cannot represent 0.
    #[error("{format} cannot store the 0 at row {row}, column {col}")]
    ZeroWeight {
        /// The name of the format.
        format: &'static str,
        /// The row of the weight.
        row: usize,
        /// Its column.
        col: usize,
    },
    /// The scale is infinite or not a number.
    #[error("scale {scale} is not finite")]
    ScaleNotFinite {
        /// The scale found or given.
        scale: f32,
    },
    /// One of several scales is infinite or not a number.
    #[error("scale {scale} at row {row}, column {col} is not finite")]
    GroupScaleNotFinite {
        /// The scale found or given.
        scale: f32,
        /// Its row.
        row: usize,
        /// Its first column.
        col: usize,
    },
    /// The format's type of scales cannot represent this one.
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
