//! Dense weights, row by row.
//!
//! A row consists of whole blocks; no block spans two rows. Decoding is elementwise,
//! without fused multiply-adds, so it gives the same bits on every instruction set.

mod float;
mod q2_k;
mod q3_k;
mod q4;
mod q4_k;
mod q5;
mod q6_k;
mod q8_0;

use bitnet_core::Isa;
use bitnet_core::lanes::{Lanes, WIDTH, WithSimd};

use crate::error::ShapeError;

/// Storage type of a dense tensor, row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenseType {
    /// IEEE 754 single precision, little-endian.
    F32,
    /// IEEE 754 half precision, little-endian.
    F16,
    /// The upper half of an `F32`, little-endian.
    BF16,
    /// 32 weights as int8 with one f16 scale; 8.5 bits per weight.
    Q8_0,
    /// 32 weights as 4 bits with one f16 scale; 4.5 bits per weight.
    Q4_0,
    /// 32 weights as 4 bits with an f16 scale and offset; 5 bits per weight.
    Q4_1,
    /// 32 weights as 5 bits with one f16 scale; 5.5 bits per weight.
    Q5_0,
    /// 32 weights as 5 bits with an f16 scale and offset; 6 bits per weight.
    Q5_1,
    /// 256 weights as 2 bits with scale and offset for each 16; 2.625 bits a
    /// weight.
    Q2K,
    /// 256 weights as 3 bits with a scale for each 16; 3.4375 bits per weight.
    Q3K,
    /// 256 weights as 4 bits with scale and offset for each 32; 4.5 bits per weight.
    Q4K,
    /// 256 weights as 5 bits with scale and offset for each 32; 5.5 bits per weight.
    Q5K,
    /// 256 weights as 6 bits with a scale for each 16; 6.5625 bits per weight.
    Q6K,
}

impl DenseType {
    /// Every dense type.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Returns the published name of the format.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Returns the weights of one block.
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 => q8_0::BLOCK_LEN,
            Self::Q4_0 | Self::Q4_1 => q4::BLOCK_LEN,
            Self::Q5_0 | Self::Q5_1 => q5::BLOCK_LEN,
            Self::Q2K => q2_k::BLOCK_LEN,
            Self::Q3K => q3_k::BLOCK_LEN,
            Self::Q4K | Self::Q5K => q4_k::BLOCK_LEN,
            Self::Q6K => q6_k::BLOCK_LEN,
        }
    }

    /// Returns the bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => q8_0::BLOCK_BYTES,
            Self::Q4_0 => q4::Q4_0_BYTES,
            Self::Q4_1 => q4::Q4_1_BYTES,
            Self::Q5_0 => q5::Q5_0_BYTES,
            Self::Q5_1 => q5::Q5_1_BYTES,
            Self::Q2K => q2_k::BLOCK_BYTES,
            Self::Q3K => q3_k::BLOCK_BYTES,
            Self::Q4K => q4_k::Q4_K_BYTES,
            Self::Q5K => q4_k::Q5_K_BYTES,
            Self::Q6K => q6_k::BLOCK_BYTES,
        }
    }

    /// Returns the bytes of a row of `n_cols` weights.
    ///
    /// # Errors
    ///
    /// [`ShapeError::PartialBlock`] if the row does not consist of whole blocks,
    /// [`ShapeError::TooLarge`] if the size exceeds the address space.
    pub fn row_bytes(self, n_cols: usize) -> Result<usize, ShapeError> {
        if !n_cols.is_multiple_of(self.block_len()) {
            return Err(ShapeError::PartialBlock {
                format: self.name(),
                axis: "columns",
                multiple: self.block_len(),
                found: n_cols,
            });
        }
        (n_cols / self.block_len())
            .checked_mul(self.block_bytes())
            .filter(|&n_bytes| isize::try_from(n_bytes).is_ok())
            .ok_or(ShapeError::TooLarge {
                format: self.name(),
                n_rows: 1,
                n_cols,
            })
    }

    /// Returns the bytes of `n_rows` rows of `n_cols` weights.
    ///
    /// # Errors
    ///
    /// As [`row_bytes`](Self::row_bytes).
    pub fn n_bytes(self, n_rows: usize, n_cols: usize) -> Result<usize, ShapeError> {
        self.row_bytes(n_cols)?
            .checked_mul(n_rows)
            .filter(|&n_bytes| isize::try_from(n_bytes).is_ok())
            .ok_or(ShapeError::TooLarge {
                format: self.name(),
                n_rows,
                n_cols,
            })
    }

    /// Decodes one row; every instruction set gives the same bits.
    ///
    /// # Panics
    ///
    /// Panics if `bytes` is not as long as [`row_bytes`](Self::row_bytes) of
    /// `out.len()`.
    #[inline]
    pub fn decode_row(self, isa: Isa, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(
            self.row_bytes(out.len()),
            Ok(bytes.len()),
            "bytes of a row of {} weights in {}",
            out.len(),
            self.name()
        );
        isa.dispatch(DecodeRow {
            ty: self,
            bytes,
            out,
        });
    }

    /// Returns whether rows can be encoded: floats, `Q8_0` and `Q6_K`. The others are
    /// too inaccurate as a target of conversion.
    pub fn is_writable(self) -> bool {
        matches!(
            self,
            Self::F32 | Self::F16 | Self::BF16 | Self::Q8_0 | Self::Q6K
        )
    }

    /// Appends the encoded row to `out`.
    ///
    /// `F16` and `BF16` round to the nearest value, ties to even; values too large for
    /// `F16` become infinite. `Q8_0` scales the largest magnitude of a block to 127.
    /// `Q6_K` searches for the scales of least squared error. A block of `Q8_0` or
    /// `Q6_K` with a value that is not finite, or too large for an f16 scale (about
    /// 8.3e6 and 2.3e8), decodes to NaN only.
    ///
    /// # Panics
    ///
    /// Panics if `values` is not whole blocks, or the type is not
    /// [writable](Self::is_writable).
    pub fn encode_row(self, values: &[f32], out: &mut Vec<u8>) {
        let n_bytes = self.row_bytes(values.len());
        out.reserve(n_bytes.expect("a row of whole blocks"));
        match self {
            Self::F32 => float::encode_f32(values, out),
            Self::F16 => float::encode_f16(values, out),
            Self::BF16 => float::encode_bf16(values, out),
            Self::Q8_0 => q8_0::encode(values, out),
            Self::Q6K => q6_k::encode(values, out),
            _ => panic!("{} is not written", self.name()),
        }
    }
}

struct DecodeRow<'a> {
    ty: DenseType,
    bytes: &'a [u8],
    out: &'a mut [f32],
}

impl WithSimd for DecodeRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<L: Lanes>(self, lanes: L) {
        let Self { ty, bytes, out } = self;
        match ty {
            DenseType::F32 => float::decode(bytes, out, f32::from_le_bytes),
            DenseType::F16 => float::decode_f16(lanes, bytes, out),
            DenseType::BF16 => float::decode(bytes, out, float::bf16_to_f32),
            DenseType::Q8_0 => q8_0::decode(lanes, bytes, out),
            DenseType::Q4_0 => q4::decode_q4_0(lanes, bytes, out),
            DenseType::Q4_1 => q4::decode_q4_1(lanes, bytes, out),
            DenseType::Q5_0 => q5::decode_q5_0(lanes, bytes, out),
            DenseType::Q5_1 => q5::decode_q5_1(lanes, bytes, out),
            DenseType::Q2K => q2_k::decode(lanes, bytes, out),
            DenseType::Q3K => q3_k::decode(lanes, bytes, out),
            DenseType::Q4K => q4_k::decode_q4_k(lanes, bytes, out),
            DenseType::Q5K => q4_k::decode_q5_k(lanes, bytes, out),
            DenseType::Q6K => q6_k::decode(lanes, bytes, out),
        }
    }
}

/// Sixteen weights of the same scale.
///
/// Codes are unpacked by loops over arrays of sixteen, which the compiler vectorizes. It
/// does not reliably do so with their conversion to f32 and the scales: either it cannot
/// prove that input and output do not overlap, or it gathers the bytes of several blocks
/// one by one.
#[derive(Clone, Copy)]
struct Scaled<L: Lanes> {
    lanes: L,
    scale: L::V,
}

impl<L: Lanes> Scaled<L> {
    #[inline(always)]
    fn new(lanes: L, scale: f32) -> Self {
        let scale = lanes.splat(scale);
        Self { lanes, scale }
    }

    /// Writes `scale · code`.
    #[inline(always)]
    fn write(self, codes: &[i8; WIDTH], out: &mut [f32; WIDTH]) {
        let lanes = self.lanes;
        lanes.store(lanes.mul(self.scale, lanes.load_i8(codes)), out);
    }

    /// Writes `scale · code + offset`, rounded twice.
    #[inline(always)]
    fn write_plus(self, codes: &[i8; WIDTH], offset: L::V, out: &mut [f32; WIDTH]) {
        let lanes = self.lanes;
        let products = lanes.mul(self.scale, lanes.load_i8(codes));
        lanes.store(lanes.add(products, offset), out);
    }
}

/// Returns an integer of each of sixteen bytes.
#[inline(always)]
fn codes(of: impl Fn(usize) -> u8) -> [i8; WIDTH] {
    let mut codes = [0; WIDTH];
    for (i, code) in codes.iter_mut().enumerate() {
        *code = of(i) as i8;
    }
    codes
}

/// Values that tests of all formats share.
#[cfg(test)]
mod test_values {
    use std::f64::consts::TAU;

    fn uniform(state: &mut u64) -> f64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        ((*state >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Pseudo-random bytes.
    pub(super) fn bytes(n: usize, seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..n)
            .map(|_| (uniform(&mut state) * 256.0) as u8)
            .collect()
    }

    /// Normally distributed values (Box and Muller 1958).
    pub(super) fn gaussian(n: usize, sigma: f64, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..n)
            .map(|_| {
                let radius = (-2.0 * uniform(&mut state).ln()).sqrt();
                (sigma * radius * (TAU * uniform(&mut state)).cos()) as f32
            })
            .collect()
    }

    /// The root mean square of `a - b`, as a part of that of `a`.
    pub(super) fn relative_rms_error(a: &[f32], b: &[f32]) -> f64 {
        let error: f64 = (a.iter().zip(b))
            .map(|(&a, &b)| (a as f64 - b as f64).powi(2))
            .sum();
        let power: f64 = a.iter().map(|&a| (a as f64).powi(2)).sum();
        (error / power).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::test_values::{bytes, gaussian};
    use super::*;

    fn encode(ty: DenseType, values: &[f32]) -> Vec<u8> {
        let mut out = Vec::new();
        ty.encode_row(values, &mut out);
        out
    }

    fn decode(ty: DenseType, isa: Isa, bytes: &[u8]) -> Vec<f32> {
        let n = bytes.len() / ty.block_bytes() * ty.block_len();
        let mut out = vec![f32::NAN; n];
        ty.decode_row(isa, bytes, &mut out);
        out
    }

    #[test]
    fn every_kernel_decodes_to_the_same_bits() {
        for ty in DenseType::ALL {
            for n_blocks in [0, 1, 2, 7, 33, 1000] {
                // One byte further: rows of a file are not aligned.
                let stored = bytes(n_blocks * ty.block_bytes() + 1, n_blocks as u64);
                let decode = |isa| {
                    // Which NaN a sum of two of them is, is not determined.
                    let bits = |x: f32| if x.is_nan() { f32::NAN } else { x }.to_bits();
                    let weights = decode(ty, isa, &stored[1..]);
                    weights.into_iter().map(bits).collect::<Vec<_>>()
                };
                let expected = decode(Isa::Scalar);
                for isa in Isa::available() {
                    assert!(decode(isa) == expected, "{ty:?}, {isa}, {n_blocks}");
                }
            }
        }
    }

    #[test]
    fn rows_take_the_published_bytes() {
        let cases = [
            (DenseType::F32, "F32", 256, 1024),
            (DenseType::F16, "F16", 3, 6),
            (DenseType::BF16, "BF16", 5, 10),
            (DenseType::Q8_0, "Q8_0", 64, 68),
            (DenseType::Q4_0, "Q4_0", 64, 36),
            (DenseType::Q4_1, "Q4_1", 64, 40),
            (DenseType::Q5_0, "Q5_0", 64, 44),
            (DenseType::Q5_1, "Q5_1", 64, 48),
            (DenseType::Q2K, "Q2_K", 512, 168),
            (DenseType::Q3K, "Q3_K", 512, 220),
            (DenseType::Q4K, "Q4_K", 512, 288),
            (DenseType::Q5K, "Q5_K", 512, 352),
            (DenseType::Q6K, "Q6_K", 512, 420),
        ];
        assert_eq!(cases.map(|(ty, ..)| ty), DenseType::ALL);
        for (ty, name, n_cols, expected) in cases {
            assert_eq!(ty.name(), name);
            assert_eq!(ty.row_bytes(n_cols), Ok(expected), "{name}");
            assert_eq!(ty.row_bytes(0), Ok(0), "{name}");
            if ty.is_writable() {
                assert_eq!(encode(ty, &vec![1.0; n_cols]).len(), expected, "{name}");
            }
        }
    }

    #[test]
    fn a_row_of_part_of_a_block_is_refused() {
        let error = DenseType::Q8_0.row_bytes(33).unwrap_err();
        assert_eq!(
            error,
            ShapeError::PartialBlock {
                format: "Q8_0",
                axis: "columns",
                multiple: 32,
                found: 33
            }
        );
        assert_eq!(
            error.to_string(),
            "Q8_0 stores columns in multiples of 32, found 33"
        );
    }

    #[test]
    fn a_row_beyond_memory_is_refused() {
        for n_cols in [usize::MAX, isize::MAX as usize / 4 + 1] {
            let error = DenseType::F32.row_bytes(n_cols).unwrap_err();
            assert_eq!(
                error,
                ShapeError::TooLarge {
                    format: "F32",
                    n_rows: 1,
                    n_cols
                }
            );
        }
        assert_eq!(DenseType::Q8_0.n_bytes(3, 64), Ok(3 * 68));
        assert!(DenseType::F32.n_bytes(usize::MAX, 1).is_err());
    }

    #[test]
    #[should_panic(expected = "bytes of a row of 32 weights in Q8_0")]
    fn decoding_a_row_of_another_length_panics() {
        DenseType::Q8_0.decode_row(Isa::Scalar, &[0; 35], &mut [0.0; 32]);
    }

    #[test]
    #[should_panic(expected = "a row of whole blocks")]
    fn encoding_part_of_a_block_panics() {
        DenseType::Q6K.encode_row(&[0.0; 255], &mut Vec::new());
    }

    #[test]
    #[should_panic(expected = "Q4_0 is not written")]
    fn encoding_a_type_that_is_only_read_panics() {
        DenseType::Q4_0.encode_row(&[0.0; 32], &mut Vec::new());
    }

    #[test]
    fn a_row_is_appended() {
        let mut out = vec![7];
        DenseType::BF16.encode_row(&[1.0], &mut out);
        assert_eq!(out, [7, 0x80, 0x3f]);
    }

    #[test]
    fn zeros_stay_zeros() {
        for ty in DenseType::ALL.into_iter().filter(|ty| ty.is_writable()) {
            for y in decode(ty, Isa::best(), &encode(ty, &[0.0; 256])) {
                assert_eq!(y, 0.0, "{ty:?}");
            }
        }
    }

    #[test]
    fn values_that_quantization_cannot_hold_poison_their_block_only() {
        for ty in [DenseType::Q8_0, DenseType::Q6K] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, f32::MAX] {
                let mut values = gaussian(3 * ty.block_len(), 1.0, 1);
                values[ty.block_len() + 5] = bad;
                let decoded = decode(ty, Isa::best(), &encode(ty, &values));
                for (i, y) in decoded.into_iter().enumerate() {
                    assert_eq!(y.is_nan(), i / ty.block_len() == 1, "{ty:?} {bad} {i}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn floats_survive_a_round_trip(bits in proptest::collection::vec(any::<u16>(), 0..300)) {
            for ty in [DenseType::F32, DenseType::F16, DenseType::BF16] {
                let stored: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
                let stored = &stored[..stored.len() / ty.block_bytes() * ty.block_bytes()];
                let values = decode(ty, Isa::best(), stored);
                let again = decode(ty, Isa::best(), &encode(ty, &values));
                for (a, b) in values.into_iter().zip(again) {
                    prop_assert!(a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()));
                }
            }
        }

        #[test]
        fn quantized_values_are_within_a_step(
            sigma in 1e-3f64..1e3, seed: u64, n_blocks in 0usize..4,
        ) {
            // Half a step and what rounding the scales adds: of 255 steps
            // across a block of Q8_0, of 63 across a block of Q6_K.
            for (ty, tolerance) in [(DenseType::Q8_0, 0.6 / 127.0), (DenseType::Q6K, 1.5 / 32.0)] {
                let values = gaussian(n_blocks * ty.block_len(), sigma, seed);
                let decoded = decode(ty, Isa::best(), &encode(ty, &values));
                let blocks = values.chunks(ty.block_len());
                for (values, decoded) in blocks.zip(decoded.chunks(ty.block_len())) {
                    let largest = values.iter().fold(0f32, |m, x| m.max(x.abs()));
                    for (x, y) in values.iter().zip(decoded) {
                        prop_assert!((x - y).abs() <= tolerance * largest, "{ty:?}: {x} {y}");
                    }
                }
            }
        }
    }
}
