//! Ternary matrices as they are stored.
//!
//! A matrix is `[n_rows, n_cols]` of -1, 0, +1 and its [`Scales`]. Each format has a
//! module for its bits; this one locates rows and scales, and validates. The length is
//! checked before anything is read.

mod encode;
mod hf_packed;
mod i2_s;
mod iq_bn;
mod ptq1_0;
mod q1_0;
mod q2_0;
#[cfg(test)]
mod tests;
mod tq1_0;
mod tq2_0;
mod view;

pub use bitnet_core::Scales;
pub use encode::encode_ternary;
pub use view::TernaryView;

use crate::error::ShapeError;

/// Storage type of a ternary matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TernaryType {
    /// bitnet.cpp: 2 bits per weight, followed by one f32 scale.
    I2S,
    /// [`I2S`](Self::I2S) as bitnet.cpp's old ARM quantizer wrote it: blocks of 64.
    I2SNeon,
    /// [`I2S`](Self::I2S) as bitnet.cpp wrote it without parallel activations:
    /// four rows per byte.
    I2SRows4,
    /// llama.cpp: five weights per byte, an f16 scale for each 256 weights.
    TQ1_0,
    /// llama.cpp: 2 bits per weight, an f16 scale for each 256 weights.
    TQ2_0,
    /// llama.cpp: 1 bit per weight, -1 or +1, an f16 scale for each 128 weights.
    Q1_0,
    /// llama.cpp: 2 bits per weight, an f16 scale for each 64 weights.
    Q2_0,
    /// PrismML: 2 bits per weight, an f16 scale for each 128 weights. Its earlier
    /// files also call it Q2_0.
    PQ2_0,
    /// PrismML: five weights per byte, an f16 scale for each 128 weights.
    PTQ1_0,
    /// ik_llama.cpp: 13 bytes for 64 weights, an f16 scale for each row.
    IQ1BN,
    /// ik_llama.cpp: 2 bits per weight, an f32 scale for each row.
    IQ2BN,
    /// [`IQ2BN`](Self::IQ2BN) with the blocks of four rows interleaved.
    IQ2BNR4,
    /// Hugging Face: 2 bits per weight, four rows per byte, the scale in a separate
    /// tensor.
    HfPacked,
}

/// Written by the decoders for the invalid code 3.
const INVALID: i8 = 2;

/// The arrangement of a matrix's bytes: row by row, or in groups of four rows whose
/// bytes are interleaved.
#[derive(Clone, Copy, Debug)]
struct StorageLayout {
    /// Weights of a block along a row.
    block_len: usize,
    /// Bytes of a block, of all rows that are stored together.
    block_bytes: usize,
    /// Rows stored together.
    rows: usize,
    scale: ScalePlace,
}

/// The place of a format's scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScalePlace {
    /// In another tensor.
    Beside,
    /// One f32 after all blocks.
    Tail,
    /// One f16 before each row.
    RowF16,
    /// One f32 before each row; for rows stored together, all scales come first.
    RowF32,
    /// An f16 in each block, from this byte on.
    Block(usize),
}

impl TernaryType {
    /// Every ternary type.
    pub const ALL: [Self; 13] = [
        Self::I2S,
        Self::I2SNeon,
        Self::I2SRows4,
        Self::TQ1_0,
        Self::TQ2_0,
        Self::Q1_0,
        Self::Q2_0,
        Self::PQ2_0,
        Self::PTQ1_0,
        Self::IQ1BN,
        Self::IQ2BN,
        Self::IQ2BNR4,
        Self::HfPacked,
    ];

    /// Returns the published name of the format.
    pub fn name(self) -> &'static str {
        match self {
            Self::I2S => "I2_S",
            Self::I2SNeon => "I2_S (neon)",
            Self::I2SRows4 => "I2_S (rows4)",
            Self::TQ1_0 => "TQ1_0",
            Self::TQ2_0 => "TQ2_0",
            Self::Q1_0 => "Q1_0",
            Self::Q2_0 => "Q2_0",
            Self::PQ2_0 => "PQ2_0",
            Self::PTQ1_0 => "PTQ1_0",
            Self::IQ1BN => "IQ1_BN",
            Self::IQ2BN => "IQ2_BN",
            Self::IQ2BNR4 => "IQ2_BN_R4",
            Self::HfPacked => "HF-packed",
        }
    }

    /// Returns the bits per weight, including scales of blocks and excluding those of
    /// rows and of the matrix.
    pub fn bits_per_weight(self) -> f64 {
        let layout = self.layout();
        8.0 * layout.block_bytes as f64 / (layout.block_len * layout.rows) as f64
    }

    /// Returns the bytes of a matrix, including its scales (and for I2_S their
    /// padding).
    ///
    /// # Errors
    ///
    /// [`ShapeError::Empty`] without weights, [`ShapeError::PartialBlock`] if
    /// the columns are not whole blocks, or the rows not whole groups of rows stored
    /// together, [`ShapeError::TooLarge`] if the size exceeds the address space.
    pub fn n_bytes(self, n_rows: usize, n_cols: usize) -> Result<usize, ShapeError> {
        let format = self.name();
        if n_rows == 0 || n_cols == 0 {
            return Err(ShapeError::Empty {
                format,
                n_rows,
                n_cols,
            });
        }
        let layout = self.layout();
        for (axis, multiple, found) in [
            ("rows", layout.rows, n_rows),
            ("columns", layout.block_len, n_cols),
        ] {
            if !found.is_multiple_of(multiple) {
                return Err(ShapeError::PartialBlock {
                    format,
                    axis,
                    multiple,
                    found,
                });
            }
        }
        let tail = match layout.scale {
            ScalePlace::Tail => i2_s::TAIL_BYTES,
            _ => 0,
        };
        (n_cols / layout.block_len)
            .checked_mul(layout.block_bytes)
            .and_then(|n| n.checked_add(layout.prefix()))
            .and_then(|n| n.checked_mul(n_rows / layout.rows))
            .and_then(|n| n.checked_add(tail))
            .filter(|&n| isize::try_from(n).is_ok())
            // The number of weights must fit in a usize, too.
            .filter(|_| n_rows.checked_mul(n_cols).is_some())
            .ok_or(ShapeError::TooLarge {
                format,
                n_rows,
                n_cols,
            })
    }

    /// Returns the number of weights of a row that share an inline scale; `None` if
    /// scales are per row or per matrix.
    pub fn group_len(self) -> Option<usize> {
        let layout = self.layout();
        matches!(layout.scale, ScalePlace::Block(_)).then_some(layout.block_len)
    }

    fn layout(self) -> StorageLayout {
        use ScalePlace::{Beside, Block, RowF16, RowF32, Tail};
        let (block_len, block_bytes, rows, scale) = match self {
            Self::I2S => (128, 32, 1, Tail),
            Self::I2SNeon => (64, 16, 1, Tail),
            Self::I2SRows4 => (1, 1, 4, Tail),
            Self::TQ1_0 => (256, 54, 1, Block(52)),
            Self::TQ2_0 => (256, 66, 1, Block(64)),
            Self::Q1_0 => (128, 18, 1, Block(0)),
            Self::Q2_0 => (64, 18, 1, Block(0)),
            Self::PQ2_0 => (128, 34, 1, Block(0)),
            Self::PTQ1_0 => (128, 28, 1, Block(26)),
            Self::IQ1BN => (64, 13, 1, RowF16),
            Self::IQ2BN => (64, 16, 1, RowF32),
            Self::IQ2BNR4 => (64, 64, 4, RowF32),
            Self::HfPacked => (1, 1, 4, Beside),
        };
        StorageLayout {
            block_len,
            block_bytes,
            rows,
            scale,
        }
    }
}

impl StorageLayout {
    /// Returns the bytes before the blocks of rows stored together.
    fn prefix(self) -> usize {
        match self.scale {
            ScalePlace::RowF16 => 2 * self.rows,
            ScalePlace::RowF32 => 4 * self.rows,
            _ => 0,
        }
    }

    /// Returns the bytes of rows stored together.
    fn stride(self, n_cols: usize) -> usize {
        self.prefix() + n_cols / self.block_len * self.block_bytes
    }

    /// Returns the byte range of the blocks of `row`, and its index among the rows
    /// stored together; not for HF-packed, whose rows are in quarters.
    fn place(self, row: usize, n_cols: usize) -> (std::ops::Range<usize>, usize) {
        let stride = self.stride(n_cols);
        let start = row / self.rows * stride;
        (start + self.prefix()..start + stride, row % self.rows)
    }
}

/// Writes the trits of `N` bytes with four 2-bit codes each, run by run: run `r`
/// of `N` trits lies in the bits from `shifts[r]` on. Sets bits 0, 2, 4 or 6 of
/// `invalid` where a code is 3; its other bits are unspecified.
#[inline(always)]
fn unpack_runs<const N: usize>(
    bytes: &[u8; N],
    shifts: [u32; 4],
    trits: &mut [i8],
    invalid: &mut [u8; N],
) {
    let (runs, _) = trits.as_chunks_mut::<N>();
    for (run, shift) in runs.iter_mut().zip(shifts) {
        for (trit, byte) in run.iter_mut().zip(bytes) {
            *trit = (byte >> shift & 3) as i8 - 1;
        }
    }
    for (invalid, byte) in invalid.iter_mut().zip(bytes) {
        *invalid |= byte & (byte >> 1);
    }
}

/// Returns whether [`unpack_runs`] found no code 3.
#[inline(always)]
fn no_code_3<const N: usize>(invalid: [u8; N]) -> bool {
    invalid.iter().fold(0, |all, i| all | i) & 0b0101_0101 == 0
}

/// The inverse of [`unpack_runs`].
#[inline(always)]
fn pack_runs<const N: usize>(trits: &[i8], shifts: [u32; 4], bytes: &mut [u8; N]) {
    let (runs, _) = trits.as_chunks::<N>();
    bytes.fill(0);
    for (run, shift) in runs.iter().zip(shifts) {
        for (byte, trit) in bytes.iter_mut().zip(run) {
            *byte |= ((trit + 1) as u8) << shift;
        }
    }
}

/// Decodes `N` bytes of base-3 fractions to runs of `N` trits, the most
/// significant of each byte first: see [`tq1_0`].
#[inline(always)]
fn unpack_base3<const N: usize>(bytes: &[u8], trits: &mut [i8]) {
    let mut rest = [0u8; N];
    rest.copy_from_slice(bytes);
    let (runs, _) = trits.as_chunks_mut::<N>();
    for run in runs {
        for (trit, rest) in run.iter_mut().zip(&mut rest) {
            // 3 · rest / 256 is 0 below 86, 1 below 171, else 2.
            *trit = (*rest >= 86) as i8 + (*rest >= 171) as i8 - 1;
            *rest = rest.wrapping_mul(3);
        }
    }
}

/// The inverse of [`unpack_base3`].
fn pack_base3<const N: usize>(trits: &[i8], bytes: &mut [u8]) {
    let (runs, _) = trits.as_chunks::<N>();
    for (m, byte) in bytes.iter_mut().enumerate() {
        let mut weight = 243;
        let mut v = 0;
        for run in runs {
            weight /= 3;
            v += weight * (run[m] + 1) as u16;
        }
        *byte = base3_byte(v);
    }
}

/// Returns the byte that encodes the base-3 fraction v / 243.
const fn base3_byte(v: u16) -> u8 {
    (v * 256).div_ceil(243) as u8
}
