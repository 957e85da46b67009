//! The storage formats of BitNet-Rust: decoding and encoding of ternary and dense
//! weights in model files.
//!
//! This crate reads no files, depends on no model, computes no products and never
//! prints. `bitnet-core` repacks weights for its kernels.
//!
//! ```text
//! bytes of a tensor ──► TernaryView ──► trits -1, 0, +1  and Scales
//!   I2_S, TQ1_0, TQ2_0, Q1_0, Q2_0, PQ2_0, PTQ1_0, IQ1_BN, IQ2_BN, HF-packed
//! trits ──► encode_ternary ──► bytes
//!
//! rows of f32 ──► AbsMean ──► trits and scale
//!
//! bytes of a row ──► DenseType::decode_row ──► f32
//!   F32, F16, BF16, Q8_0, Q4_0 to Q5_1, Q2_K to Q6_K
//! f32 ──► DenseType::encode_row ──► bytes
//!   F32, F16, BF16, Q8_0, Q6_K
//! ```
//!
//! Conversion between ternary formats is lossless: it preserves all trits and scales,
//! or fails with a [`TernaryError`].
//!
//! ```
//! use bitnet_quant::{Scales, TernaryType, TernaryView, encode_ternary};
//!
//! let row: Vec<i8> = (0..256).map(|col| (col % 3) as i8 - 1).collect();
//! let scales = Scales::Tensor(0.5);
//! let bytes = encode_ternary(TernaryType::TQ2_0, 1, 256, &scales, |_, trits| {
//!     trits.copy_from_slice(&row);
//! })?;
//! assert_eq!(bytes.len(), 66);
//!
//! let view = TernaryView::new(TernaryType::TQ2_0, 1, 256, &bytes)?;
//! let mut trits = [0; 256];
//! view.decode_row(0, &mut trits)?;
//! assert_eq!(trits, row[..]);
//! assert_eq!(view.scales()?, scales);
//! # Ok::<(), bitnet_quant::TernaryError>(())
//! ```

#![forbid(unsafe_code)]

mod absmean;
mod dense;
mod error;
mod ternary;

pub use absmean::{AbsMean, sum_magnitudes};
pub use dense::DenseType;
pub use error::{ShapeError, TernaryError};
pub use ternary::{Scales, TernaryType, TernaryView, encode_ternary};
