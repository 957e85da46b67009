//! Ternary matrices as they are stored.
//!
//! A matrix is `[n_rows, n_cols]` of -1, 0, +1 and one scale. Each format has a
//! module that knows its bits; this one knows where rows and scales lie, and
//! checks. Nothing is read before the length is known to be right.

mod hf_packed;
mod i2_s;
mod tq1_0;
mod tq2_0;

use half::f16;

use crate::error::{ShapeError, TernaryError};

/// Storage of a ternary matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TernaryType {
    /// bitnet.cpp: 2 bits a weight, one f32 scale behind them.
    I2S,
    /// llama.cpp: five weights a byte, an f16 scale for each 256 weights.
    TQ1_0,
    /// llama.cpp: 2 bits a weight, an f16 scale for each 256 weights.
    TQ2_0,
    /// Hugging Face: 2 bits a weight, four rows a byte, the scale in a tensor of
    /// its own.
    HfPacked,
}

/// What the decoders write for a code 3.
const INVALID: i8 = 2;

impl TernaryType {
    /// Every ternary type.
    pub const ALL: [Self; 4] = [Self::I2S, Self::TQ1_0, Self::TQ2_0, Self::HfPacked];

    /// Returns the published name of the format.
    pub fn name(self) -> &'static str {
        match self {
            Self::I2S => "I2_S",
            Self::TQ1_0 => "TQ1_0",
            Self::TQ2_0 => "TQ2_0",
            Self::HfPacked => "HF-packed",
        }
    }

    /// Returns the bits of a weight, scales of blocks included and the tail of
    /// I2_S not.
    pub fn bits_per_weight(self) -> f64 {
        let (n_weights, n_bytes) = self.block();
        8.0 * n_bytes as f64 / n_weights as f64
    }

    /// Returns the bytes of a matrix, for I2_S with the 32 that hold its scale.
    ///
    /// # Errors
    ///
    /// [`ShapeError::Empty`] without weights, [`ShapeError::PartialBlock`] if
    /// the columns (of HF-packed: the rows) are not whole blocks,
    /// [`ShapeError::TooLarge`] if memory cannot hold the matrix.
    pub fn n_bytes(self, n_rows: usize, n_cols: usize) -> Result<usize, ShapeError> {
        let format = self.name();
        if n_rows == 0 || n_cols == 0 {
            return Err(ShapeError::Empty {
                format,
                n_rows,
                n_cols,
            });
        }
        let (block_len, block_bytes) = self.block();
        let (axis, found) = match self {
            Self::HfPacked => ("rows", n_rows),
            _ => ("columns", n_cols),
        };
        if !found.is_multiple_of(block_len) {
            return Err(ShapeError::PartialBlock {
                format,
                axis,
                multiple: block_len,
                found,
            });
        }
        let tail = match self {
            Self::I2S => i2_s::TAIL_BYTES,
            _ => 0,
        };
        n_rows
            .checked_mul(n_cols)
            .and_then(|n| (n / block_len).checked_mul(block_bytes))
            .and_then(|n| n.checked_add(tail))
            .filter(|&n| isize::try_from(n).is_ok())
            .ok_or(ShapeError::TooLarge {
                format,
                n_rows,
                n_cols,
            })
    }

    /// Returns the weights and the bytes of a block: along a row, for HF-packed
    /// down a column.
    fn block(self) -> (usize, usize) {
        match self {
            Self::I2S => (i2_s::BLOCK_LEN, i2_s::BLOCK_BYTES),
            Self::TQ1_0 => (tq1_0::BLOCK_LEN, tq1_0::BLOCK_BYTES),
            Self::TQ2_0 => (tq2_0::BLOCK_LEN, tq2_0::BLOCK_BYTES),
            Self::HfPacked => (hf_packed::ROWS_PER_BYTE, 1),
        }
    }

    /// Returns the bytes of `row` for a format that stores one row after the
    /// other: all but HF-packed.
    fn row_range(self, row: usize, n_cols: usize) -> std::ops::Range<usize> {
        let (block_len, block_bytes) = self.block();
        let row_bytes = n_cols / block_len * block_bytes;
        row * row_bytes..(row + 1) * row_bytes
    }
}

/// A checked view of a stored ternary matrix.
#[derive(Clone, Copy, Debug)]
pub struct TernaryView<'a> {
    ty: TernaryType,
    n_rows: usize,
    n_cols: usize,
    /// As long as `ty.n_bytes(n_rows, n_cols)`.
    bytes: &'a [u8],
}

impl<'a> TernaryView<'a> {
    /// Returns a view of `bytes` as a matrix `[n_rows, n_cols]`.
    ///
    /// # Errors
    ///
    /// [`TernaryError::Shape`] if the format cannot store the shape,
    /// [`TernaryError::Length`] if it takes more or fewer bytes.
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

    /// Returns the scale that all blocks share, or `None` where the format keeps
    /// it beside the tensor (HF-packed).
    ///
    /// A TQ block of only zeros may carry any scale, since it has no effect
    /// (llama.cpp writes 0 there). If there is no other block, the scale is that
    /// of the first.
    ///
    /// # Errors
    ///
    /// [`TernaryError::ScaleNotFinite`] if it is infinite or NaN,
    /// [`TernaryError::SeveralScales`] if two blocks disagree.
    pub fn scale(&self) -> Result<Option<f32>, TernaryError> {
        let scale = match self.ty {
            TernaryType::HfPacked => return Ok(None),
            TernaryType::I2S => i2_s::scale(self.bytes),
            TernaryType::TQ1_0 => {
                let (blocks, _) = self.bytes.as_chunks();
                self.block_scale(blocks, tq1_0::scale, tq1_0::is_zero)?
            }
            TernaryType::TQ2_0 => {
                let (blocks, _) = self.bytes.as_chunks();
                self.block_scale(blocks, tq2_0::scale, tq2_0::is_zero)?
            }
        };
        if scale.is_finite() {
            Ok(Some(scale))
        } else {
            Err(TernaryError::ScaleNotFinite { scale })
        }
    }

    fn block_scale<const N: usize>(
        &self,
        blocks: &[[u8; N]],
        scale: impl Fn(&[u8; N]) -> f16,
        is_zero: impl Fn(&[u8; N]) -> bool,
    ) -> Result<f32, TernaryError> {
        // Bits are compared, so that a NaN equals itself; most blocks end there.
        let mut shared: Option<f16> = None;
        for (i, block) in blocks.iter().enumerate() {
            let scale = scale(block);
            if shared.is_some_and(|s| s.to_bits() == scale.to_bits()) || is_zero(block) {
                continue;
            }
            if let Some(first) = shared {
                let blocks_per_row = blocks.len() / self.n_rows;
                return Err(TernaryError::SeveralScales {
                    first: first.to_f32(),
                    other: scale.to_f32(),
                    row: i / blocks_per_row,
                    col: i % blocks_per_row * self.ty.block().0,
                });
            }
            shared = Some(scale);
        }
        Ok(shared.unwrap_or_else(|| scale(&blocks[0])).to_f32())
    }

    /// Writes one row as -1, 0, +1.
    ///
    /// # Errors
    ///
    /// [`TernaryError::InvalidCode`] if a weight of the row has the code 3; what
    /// `trits` then holds is of no use.
    ///
    /// # Panics
    ///
    /// Panics if `row` is out of range or `trits` is not `n_cols` long.
    pub fn decode_row(&self, row: usize, trits: &mut [i8]) -> Result<(), TernaryError> {
        assert!(row < self.n_rows, "row {row} of {}", self.n_rows);
        assert_eq!(trits.len(), self.n_cols, "trits of a row");
        let valid = match self.ty {
            TernaryType::I2S => i2_s::decode(self.row(row), trits),
            TernaryType::TQ1_0 => {
                tq1_0::decode(self.row(row), trits);
                true
            }
            TernaryType::TQ2_0 => tq2_0::decode(self.row(row), trits),
            TernaryType::HfPacked => {
                let (packed_row, quarter) = hf_packed::place(row, self.n_rows);
                let packed = &self.bytes[packed_row * self.n_cols..][..self.n_cols];
                hf_packed::decode(packed, quarter, trits)
            }
        };
        if valid {
            return Ok(());
        }
        let col = trits.iter().position(|&trit| trit == INVALID);
        Err(TernaryError::InvalidCode {
            row,
            col: col.expect("a row is not valid because of such a trit"),
        })
    }

    fn row(&self, row: usize) -> &'a [u8] {
        &self.bytes[self.ty.row_range(row, self.n_cols)]
    }
}

/// Encodes a matrix; `fill_row(row, trits)` writes one row as -1, 0, +1 and is
/// called once for each row, in order.
///
/// HF-packed has no room for the scale: there it is neither stored nor looked
/// at, and belongs in a tensor of its own (`weight_scale`). In the TQ formats
/// every block carries it, blocks of zeros too.
///
/// # Errors
///
/// [`TernaryError::Shape`] if the format cannot store the shape,
/// [`TernaryError::ScaleNotFinite`] if the scale is infinite or NaN,
/// [`TernaryError::ScaleNotRepresentable`] if the format would change it.
///
/// # Panics
///
/// Panics if `fill_row` leaves anything but -1, 0 and +1.
pub fn encode_ternary(
    ty: TernaryType,
    n_rows: usize,
    n_cols: usize,
    scale: f32,
    mut fill_row: impl FnMut(usize, &mut [i8]),
) -> Result<Vec<u8>, TernaryError> {
    let n_bytes = ty.n_bytes(n_rows, n_cols)?;
    if !scale.is_finite() && ty != TernaryType::HfPacked {
        return Err(TernaryError::ScaleNotFinite { scale });
    }
    let half = f16::from_f32(scale);
    let is_half = matches!(ty, TernaryType::TQ1_0 | TernaryType::TQ2_0);
    if is_half && half.to_f32() != scale {
        return Err(TernaryError::ScaleNotRepresentable {
            format: ty.name(),
            scale,
            nearest: half.to_f32(),
        });
    }
    let mut bytes = vec![0; n_bytes];
    let mut trits = vec![0; n_cols];
    for row in 0..n_rows {
        fill_row(row, &mut trits);
        if let Some(col) = trits.iter().position(|trit| !(-1..=1).contains(trit)) {
            panic!("{} at row {row}, column {col} is no trit", trits[col]);
        }
        match ty {
            TernaryType::I2S => i2_s::encode(&trits, &mut bytes[ty.row_range(row, n_cols)]),
            TernaryType::TQ1_0 => {
                tq1_0::encode(&trits, half, &mut bytes[ty.row_range(row, n_cols)]);
            }
            TernaryType::TQ2_0 => {
                tq2_0::encode(&trits, half, &mut bytes[ty.row_range(row, n_cols)]);
            }
            TernaryType::HfPacked => {
                let (packed_row, quarter) = hf_packed::place(row, n_rows);
                let packed = &mut bytes[packed_row * n_cols..][..n_cols];
                hf_packed::encode(&trits, quarter, packed);
            }
        }
    }
    if ty == TernaryType::I2S {
        i2_s::write_scale(scale, &mut bytes);
    }
    Ok(bytes)
}

/// Writes the trits of 32 bytes with four 2-bit codes each, run by run: run `r`
/// of 32 trits lies in the bits from `shifts[r]` on. Sets bits 0, 2, 4 or 6 of
/// `invalid` where a code is 3; other bits of it mean nothing.
#[inline(always)]
fn unpack_runs(bytes: &[u8; 32], shifts: [u32; 4], trits: &mut [i8; 128], invalid: &mut [u8; 32]) {
    let (runs, _) = trits.as_chunks_mut::<32>();
    for (run, shift) in runs.iter_mut().zip(shifts) {
        for (trit, byte) in run.iter_mut().zip(bytes) {
            *trit = (byte >> shift & 3) as i8 - 1;
        }
    }
    for (invalid, byte) in invalid.iter_mut().zip(bytes) {
        *invalid |= byte & (byte >> 1);
    }
}

/// Returns whether [`unpack_runs`] met no code 3.
#[inline(always)]
fn no_code_3(invalid: [u8; 32]) -> bool {
    invalid.iter().fold(0, |all, i| all | i) & 0b0101_0101 == 0
}

/// The inverse of [`unpack_runs`].
#[inline(always)]
fn pack_runs(trits: &[i8; 128], shifts: [u32; 4], bytes: &mut [u8; 32]) {
    let (runs, _) = trits.as_chunks::<32>();
    bytes.fill(0);
    for (run, shift) in runs.iter().zip(shifts) {
        for (byte, trit) in bytes.iter_mut().zip(run) {
            *byte |= ((trit + 1) as u8) << shift;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trits(n: usize, seed: u64) -> Vec<i8> {
        let mut state = seed | 1;
        std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 32) % 3) as i8 - 1
        })
        .take(n)
        .collect()
    }

    fn encode(ty: TernaryType, n_cols: usize, scale: f32, trits: &[i8]) -> Vec<u8> {
        encode_ternary(ty, trits.len() / n_cols, n_cols, scale, |row, out| {
            out.copy_from_slice(&trits[row * n_cols..][..n_cols]);
        })
        .unwrap()
    }

    fn decode(view: &TernaryView) -> Result<Vec<i8>, TernaryError> {
        let mut trits = vec![99; view.n_rows() * view.n_cols()];
        for (row, trits) in trits.chunks_mut(view.n_cols()).enumerate() {
            view.decode_row(row, trits)?;
        }
        Ok(trits)
    }

    #[test]
    fn matrices_take_the_published_bytes() {
        let cases = [
            (TernaryType::I2S, "I2_S", 2.0, 4 * 512 / 4 + 32),
            (TernaryType::TQ1_0, "TQ1_0", 1.6875, 8 * 54),
            (TernaryType::TQ2_0, "TQ2_0", 2.0625, 8 * 66),
            (TernaryType::HfPacked, "HF-packed", 2.0, 512),
        ];
        for (ty, name, bits, n_bytes) in cases {
            assert_eq!(ty.name(), name);
            assert_eq!(ty.bits_per_weight(), bits, "{name}");
            assert_eq!(ty.n_bytes(4, 512), Ok(n_bytes), "{name}");
        }
    }

    #[test]
    fn shapes_of_part_of_a_block_are_refused() {
        let cases = [
            (TernaryType::I2S, 4, 192, "columns", 128, 192),
            (TernaryType::TQ1_0, 4, 128, "columns", 256, 128),
            (TernaryType::TQ2_0, 4, 384, "columns", 256, 384),
            (TernaryType::HfPacked, 6, 256, "rows", 4, 6),
        ];
        for (ty, n_rows, n_cols, axis, multiple, found) in cases {
            let expected = ShapeError::PartialBlock {
                format: ty.name(),
                axis,
                multiple,
                found,
            };
            assert_eq!(ty.n_bytes(n_rows, n_cols), Err(expected.clone()));
            // The same from both ends, with the same words.
            let error = TernaryView::new(ty, n_rows, n_cols, &[]).unwrap_err();
            assert_eq!(error, TernaryError::Shape(expected.clone()));
            assert_eq!(error.to_string(), expected.to_string());
            let error = encode_ternary(ty, n_rows, n_cols, 1.0, |_, _| ()).unwrap_err();
            assert_eq!(error, TernaryError::Shape(expected));
        }
    }

    #[test]
    fn shapes_without_weights_are_refused() {
        for ty in TernaryType::ALL {
            for (n_rows, n_cols) in [(0, 256), (4, 0), (0, 0)] {
                let format = ty.name();
                let expected = ShapeError::Empty {
                    format,
                    n_rows,
                    n_cols,
                };
                assert_eq!(ty.n_bytes(n_rows, n_cols), Err(expected));
            }
        }
    }

    #[test]
    fn shapes_beyond_memory_are_refused() {
        let half = 1 << (usize::BITS / 2);
        for ty in TernaryType::ALL {
            for (n_rows, n_cols) in [
                (half, half),
                (4, usize::MAX - 255),
                (1 << (usize::BITS - 3), 256),
            ] {
                let format = ty.name();
                let expected = ShapeError::TooLarge {
                    format,
                    n_rows,
                    n_cols,
                };
                assert_eq!(ty.n_bytes(n_rows, n_cols), Err(expected));
            }
        }
    }

    #[test]
    fn every_other_length_is_refused() {
        for ty in TernaryType::ALL {
            let bytes = encode(ty, 256, 0.5, &trits(4 * 256, 1));
            let longer = [&bytes[..], &[0]].concat();
            let lengths = (0..bytes.len()).chain([bytes.len() + 1]);
            for found in lengths {
                let error = TernaryView::new(ty, 4, 256, &longer[..found]).unwrap_err();
                let expected = TernaryError::Length {
                    format: ty.name(),
                    n_rows: 4,
                    n_cols: 256,
                    expected: bytes.len(),
                    found,
                };
                assert_eq!(error, expected);
            }
        }
    }

    #[test]
    fn a_code_3_is_found_where_it_is() {
        let n_cols = 512;
        for ty in [TernaryType::I2S, TernaryType::TQ2_0, TernaryType::HfPacked] {
            let ones = encode(ty, n_cols, 1.0, &vec![1; 8 * n_cols]);
            for (row, col) in [(0, 0), (0, 511), (1, 31), (3, 32), (6, 100), (7, 383)] {
                // -1 is the code 0: the bits that differ from +1 are those of the weight.
                let mut trits = vec![1; 8 * n_cols];
                trits[row * n_cols + col] = -1;
                let minus = encode(ty, n_cols, 1.0, &trits);
                let mut bytes = ones.clone();
                for (byte, minus) in bytes.iter_mut().zip(&minus) {
                    let bit = *byte ^ minus;
                    *byte |= bit | bit >> 1;
                }
                let view = TernaryView::new(ty, 8, n_cols, &bytes).unwrap();
                let error = decode(&view).unwrap_err();
                assert_eq!(error, TernaryError::InvalidCode { row, col }, "{ty:?}");
                // Rows that share its bytes are not affected.
                for other in (0..8).filter(|&other| other != row) {
                    view.decode_row(other, &mut vec![0; n_cols]).unwrap();
                }
            }
        }
    }

    #[test]
    fn blocks_that_disagree_about_the_scale_are_refused() {
        for ty in [TernaryType::TQ1_0, TernaryType::TQ2_0] {
            let mut trits = trits(3 * 512, 5);
            trits[..256].fill(0); // the first block
            trits[512 + 256..2 * 512].fill(0); // the fourth of six
            let bytes = encode(ty, 512, 0.5, &trits);
            let block_bytes = ty.block().1;
            let with_scale = |block: usize, scale: f32| {
                let mut bytes = bytes.clone();
                bytes[(block + 1) * block_bytes - 2..][..2]
                    .copy_from_slice(&f16::from_f32(scale).to_le_bytes());
                bytes
            };
            let scale = |bytes: &[u8]| TernaryView::new(ty, 3, 512, bytes).unwrap().scale();
            for zero_block in [0, 3] {
                for other in [0.0, 3.0, f32::NAN] {
                    let bytes = with_scale(zero_block, other);
                    assert_eq!(scale(&bytes), Ok(Some(0.5)), "{ty:?}");
                }
            }
            let expected = TernaryError::SeveralScales {
                first: 0.5,
                other: 3.0,
                row: 2,
                col: 256,
            };
            assert_eq!(scale(&with_scale(5, 3.0)), Err(expected), "{ty:?}");
        }
    }

    #[test]
    fn without_nonzero_weights_the_first_block_has_the_scale() {
        for ty in [TernaryType::TQ1_0, TernaryType::TQ2_0] {
            let bytes = encode(ty, 256, 0.25, &[0; 4 * 256]);
            let view = TernaryView::new(ty, 4, 256, &bytes).unwrap();
            assert_eq!(view.scale(), Ok(Some(0.25)));
        }
    }

    #[test]
    fn scales_that_are_not_finite_are_refused() {
        for scale in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for ty in [TernaryType::I2S, TernaryType::TQ1_0, TernaryType::TQ2_0] {
                let error = encode_ternary(ty, 4, 256, scale, |_, _| ()).unwrap_err();
                let TernaryError::ScaleNotFinite { scale: found } = error else {
                    panic!("{error}");
                };
                assert_eq!(found.to_bits(), scale.to_bits());

                let mut bytes = encode(ty, 256, 1.0, &trits(256, 9));
                let at = bytes.len() - 2;
                match ty {
                    TernaryType::I2S => bytes[64..68].copy_from_slice(&scale.to_le_bytes()),
                    _ => bytes[at..].copy_from_slice(&f16::from_f32(scale).to_le_bytes()),
                }
                let error = TernaryView::new(ty, 1, 256, &bytes).unwrap().scale();
                let Err(TernaryError::ScaleNotFinite { scale: found }) = error else {
                    panic!("{error:?}");
                };
                assert!(found == scale || (found.is_nan() && scale.is_nan()));
            }
        }
    }

    #[test]
    fn a_scale_that_the_format_would_change_is_refused() {
        for ty in [TernaryType::TQ1_0, TernaryType::TQ2_0] {
            for (scale, nearest) in [(1.0001, 1.0), (1e-9, 0.0), (1e6, f32::INFINITY)] {
                let error = encode_ternary(ty, 4, 256, scale, |_, _| ()).unwrap_err();
                let expected = TernaryError::ScaleNotRepresentable {
                    format: ty.name(),
                    scale,
                    nearest,
                };
                assert_eq!(error, expected);
            }
        }
    }

    #[test]
    #[should_panic(expected = "2 at row 1, column 3 is no trit")]
    fn anything_but_a_trit_is_not_encoded() {
        let _ = encode_ternary(TernaryType::HfPacked, 4, 8, 1.0, |row, trits| {
            trits[3] = if row == 1 { 2 } else { 0 };
        });
    }

    #[test]
    #[should_panic(expected = "row 4 of 4")]
    fn a_row_out_of_range_panics() {
        let view = TernaryView::new(TernaryType::HfPacked, 4, 1, &[0]).unwrap();
        let _ = view.decode_row(4, &mut [0]);
    }

    #[test]
    #[should_panic(expected = "trits of a row")]
    fn a_slice_of_another_length_panics() {
        let view = TernaryView::new(TernaryType::HfPacked, 4, 1, &[0]).unwrap();
        let _ = view.decode_row(0, &mut [0; 2]);
    }

    proptest! {
        #[test]
        fn trits_and_scale_survive_a_round_trip(
            n_rows in 1usize..9, n_blocks in 1usize..5, scale in any::<u16>(), seed: u64,
        ) {
            let scale = f16::from_bits(scale).to_f32();
            prop_assume!(scale.is_finite());
            for ty in TernaryType::ALL {
                let (n_rows, n_cols) = match ty {
                    TernaryType::HfPacked => (4 * n_rows, 37 * n_blocks),
                    _ => (n_rows, ty.block().0 * n_blocks),
                };
                let trits = trits(n_rows * n_cols, seed);
                let bytes = encode(ty, n_cols, scale, &trits);
                prop_assert_eq!(Ok(bytes.len()), ty.n_bytes(n_rows, n_cols));
                let view = TernaryView::new(ty, n_rows, n_cols, &bytes).unwrap();
                prop_assert!(decode(&view).unwrap() == trits);
                let expected = (ty != TernaryType::HfPacked).then_some(scale);
                prop_assert_eq!(view.scale().unwrap(), expected);
            }
        }

        #[test]
        fn any_bytes_decode_to_trits_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 432)) {
            for (ty, n_rows, n_cols) in [
                (TernaryType::I2S, 10, 160 - 32),
                (TernaryType::TQ1_0, 2, 4 * 256),
                (TernaryType::TQ2_0, 6, 256),
                (TernaryType::HfPacked, 12, 144),
            ] {
                let n_bytes = ty.n_bytes(n_rows, n_cols).unwrap();
                let view = TernaryView::new(ty, n_rows, n_cols, &bytes[..n_bytes]).unwrap();
                let _ = view.scale();
                if let Ok(trits) = decode(&view) {
                    prop_assert!(trits.iter().all(|trit| (-1..=1).contains(trit)));
                }
            }
        }
    }
}
