#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod absmean;
mod dense;
mod error;
mod ternary;

pub use absmean::{AbsMean, sum_magnitudes};
pub use dense::DenseType;
pub use error::{ShapeError, TernaryError};
pub use ternary::{Scales, TernaryType, TernaryView, encode_ternary};
