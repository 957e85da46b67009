//! Decoding.

use bitnet_core::{CodeRuns, RunLen};
use half::f16;

use super::{
    INVALID, ScalePlace, Scales, TernaryType, hf_packed, i2_s, iq_bn, ptq1_0, q1_0, q2_0, tq1_0,
    tq2_0,
};
use crate::error::TernaryError;

/// A checked view of a stored ternary matrix.
#[derive(Clone, Copy, Debug)]
pub struct TernaryView<'a> {
    ty: TernaryType,
    n_rows: usize,
    n_cols: usize,
    /// Of length `ty.n_bytes(n_rows, n_cols)`.
    bytes: &'a [u8],
}

impl<'a> TernaryView<'a> {
    /// Returns a view of `bytes` as a matrix `[n_rows, n_cols]`.
    ///
    /// # Errors
    ///
    /// [`TernaryError::Shape`] if the format cannot store the shape,
    /// [`TernaryError::Length`] if the number of bytes is wrong.
    pub fn new(
        ty: TernaryType,
        n_rows: usize,
        n_cols: usize,
        bytes: &'a [u8],
    ) -> Result<Self, TernaryError> {
        let expected = ty.n_bytes(n_rows, n_cols)?;
        if bytes.len() != expected {
            return Err(TernaryError::Length {
                format: ty.name(),
                n_rows,
                n_cols,
                expected,
                found: bytes.len(),
            });
        }
        Ok(Self {
            ty,
            n_rows,
            n_cols,
            bytes,
        })
    }

    /// Returns the number of rows: outputs.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Returns the number of columns: inputs.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Returns the scales in their simplest form; 1 if the format stores them in a
    /// separate tensor (HF-packed).
    ///
    /// The scale of a block or row of zeros has no effect (llama.cpp writes 0) and is
    /// replaced by that of its neighbours. If all weights are zero, the first scale is
    /// used.
    ///
    /// # Errors
    ///
    /// [`TernaryError::ScaleNotFinite`] if one is infinite or NaN.
    pub fn scales(&self) -> Result<Scales, TernaryError> {
        let layout = self.ty.layout();
        let stride = layout.stride(self.n_cols);
        let half = |at: usize| f16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]).to_f32();
        let values: Vec<f32> = match layout.scale {
            ScalePlace::Beside => return Ok(Scales::Tensor(1.0)),
            ScalePlace::Tail => vec![i2_s::scale(self.bytes)],
            ScalePlace::RowF16 => (0..self.n_rows).map(|row| half(row * stride)).collect(),
            ScalePlace::RowF32 => (0..self.n_rows)
                .map(|row| {
                    let at = row / layout.rows * stride + row % layout.rows * 4;
                    let bytes = self.bytes[at..].first_chunk();
                    f32::from_le_bytes(*bytes.expect("the prefix of a row"))
                })
                .collect(),
            ScalePlace::Block(at)
                if (0..self.n_rows).all(|row| self.has_scale_of_first_block(row)) =>
            {
                // The usual case, for which no other scale need be converted.
                return self.finite(Scales::Tensor(half(at)), |_| false);
            }
            ScalePlace::Block(at) => (0..self.bytes.len() / layout.block_bytes)
                .map(|block| half(block * layout.block_bytes + at))
                .collect(),
        };
        let len = match layout.scale {
            ScalePlace::Block(_) => layout.block_len,
            _ => self.n_cols,
        };
        let n_groups = self.n_cols / len;
        let mut trits = vec![0; self.n_cols];
        let mut is_zero = |group: usize| {
            // Invalid codes are reported when the row is decoded.
            self.decode_row(group / n_groups, &mut trits).is_ok()
                && trits[group % n_groups * len..][..len]
                    .iter()
                    .all(|trit| *trit == 0)
        };
        let scales = if layout.scale == ScalePlace::Tail {
            Scales::Tensor(values[0])
        } else {
            Scales::simplest(len, self.n_rows, values, &mut is_zero)
        };
        self.finite(scales, is_zero)
    }

    /// Returns the scale of the first block; `None` if blocks have no scales, or there are no
    /// blocks. If all rows [have it](Self::has_scale_of_first_block), and it is finite, it is what
    /// [`scales`](Self::scales) returns.
    pub fn scale_of_first_block(&self) -> Option<f32> {
        let ScalePlace::Block(at) = self.ty.layout().scale else {
            return None;
        };
        let bytes = self.bytes.get(at..)?.first_chunk()?;
        Some(f16::from_le_bytes(*bytes).to_f32())
    }

    /// Returns whether all blocks of a row have the scale of the first block of the matrix,
    /// bit for bit; false if blocks have no scales.
    ///
    /// # Panics
    ///
    /// Panics if `row` is out of range.
    pub fn has_scale_of_first_block(&self, row: usize) -> bool {
        assert!(row < self.n_rows, "row {row} of {}", self.n_rows);
        let layout = self.ty.layout();
        let ScalePlace::Block(at) = layout.scale else {
            return false;
        };
        let first = [self.bytes[at], self.bytes[at + 1]];
        let (range, _) = layout.place(row, self.n_cols);
        let mut blocks = self.bytes[range].chunks_exact(layout.block_bytes);
        blocks.all(|block| [block[at], block[at + 1]] == first)
    }

    /// Checks that all scales are finite; groups of zeros get the scale 0.
    fn finite(
        &self,
        mut scales: Scales,
        mut is_zero: impl FnMut(usize) -> bool,
    ) -> Result<Scales, TernaryError> {
        if let Scales::Groups { values, .. } = &mut scales {
            for (group, value) in values.iter_mut().enumerate() {
                if !value.is_finite() && is_zero(group) {
                    *value = 0.0;
                }
            }
        }
        let Some(idx) = scales.values().iter().position(|s| !s.is_finite()) else {
            return Ok(scales);
        };
        let scale = scales.values()[idx];
        let (row, col) = match &scales {
            Scales::Tensor(_) => return Err(TernaryError::ScaleNotFinite { scale }),
            Scales::Rows(_) => (idx, 0),
            Scales::Groups { len, .. } => {
                let n_groups = self.n_cols / len;
                (idx / n_groups, idx % n_groups * len)
            }
        };
        Err(TernaryError::GroupScaleNotFinite { scale, row, col })
    }

    /// Writes one row as -1, 0, +1.
    ///
    /// # Errors
    ///
    /// [`TernaryError::InvalidCode`] if a weight of the row has the code 3; the content
    /// of `trits` is then unspecified.
    ///
    /// # Panics
    ///
    /// Panics if `row` is out of range or `trits` is not `n_cols` long.
    pub fn decode_row(&self, row: usize, trits: &mut [i8]) -> Result<(), TernaryError> {
        assert!(row < self.n_rows, "row {row} of {}", self.n_rows);
        assert_eq!(trits.len(), self.n_cols, "trits of a row");
        if self.decode_valid(row, trits) {
            return Ok(());
        }
        let col = trits.iter().position(|&trit| trit == INVALID);
        Err(TernaryError::InvalidCode {
            row,
            col: col.expect("a row is not valid because of such a trit"),
        })
    }

    /// Copies the codes of a row as they are stored, four a byte, `[n_cols / 4]`, and returns
    /// their order; `None` if the format has another. Codes may be 3.
    ///
    /// # Panics
    ///
    /// Panics if `row` is out of range or `codes` has another length.
    pub fn copy_codes(&self, row: usize, codes: &mut [u8]) -> Option<CodeRuns> {
        let (len, is_high_first) = match self.ty {
            TernaryType::TQ2_0 => (RunLen::ThirtyTwo, false),
            TernaryType::I2S => (RunLen::ThirtyTwo, true),
            TernaryType::I2SNeon => (RunLen::Sixteen, true),
            TernaryType::IQ2BN => (RunLen::Sixteen, false),
            _ => return None,
        };
        assert!(row < self.n_rows, "row {row} of {}", self.n_rows);
        let (range, _) = self.ty.layout().place(row, self.n_cols);
        let blocks = &self.bytes[range];
        match self.ty {
            TernaryType::TQ2_0 => tq2_0::copy_codes(blocks, codes),
            _ => codes.copy_from_slice(blocks),
        }
        Some(CodeRuns { len, is_high_first })
    }

    /// Decodes a row; returns false if a code was 3.
    fn decode_valid(&self, row: usize, trits: &mut [i8]) -> bool {
        if self.ty == TernaryType::HfPacked {
            let (packed_row, quarter) = hf_packed::place(row, self.n_rows);
            let packed = &self.bytes[packed_row * self.n_cols..][..self.n_cols];
            return hf_packed::decode(packed, quarter, trits);
        }
        let (range, member) = self.ty.layout().place(row, self.n_cols);
        let blocks = &self.bytes[range];
        match self.ty {
            TernaryType::I2S => i2_s::decode::<32>(blocks, trits),
            TernaryType::I2SNeon => i2_s::decode::<16>(blocks, trits),
            // The first of four rows is in the highest bits.
            TernaryType::I2SRows4 => hf_packed::decode(blocks, 3 - member, trits),
            TernaryType::TQ1_0 => tq1_0::decode(blocks, trits),
            TernaryType::TQ2_0 => tq2_0::decode(blocks, trits),
            TernaryType::Q1_0 => q1_0::decode(blocks, trits),
            TernaryType::Q2_0 => q2_0::decode::<18>(blocks, trits),
            TernaryType::PQ2_0 => q2_0::decode::<34>(blocks, trits),
            TernaryType::PTQ1_0 => ptq1_0::decode(blocks, trits),
            TernaryType::IQ1BN => iq_bn::decode_iq1(blocks, trits),
            TernaryType::IQ2BN => iq_bn::decode_iq2(blocks, trits),
            TernaryType::IQ2BNR4 => iq_bn::decode_iq2_r4(blocks, member, trits),
            TernaryType::HfPacked => unreachable!("decoded above"),
        }
    }
}
