#![doc = include_str!("../README.md")]
//!
//! # Formats
//!
//! `docs/formats/` of the repository documents each format byte by byte.
#![forbid(unsafe_code)]

mod absmean;
mod dense;
mod error;
mod ternary;

pub use absmean::{AbsMean, sum_magnitudes};
pub use dense::DenseType;
pub use error::{ShapeError, TernaryError};
pub use ternary::{Scales, TernaryType, TernaryView, encode_ternary};
