//! Floats of 32 and 16 bits, one weight a block, little-endian.
//!
//! ```text
//! bit    31  30 ... 23   22 ... 0
//! F32   sign exponent   mantissa
//! BF16  the upper 16 bits of an F32
//!
//! bit    15  14 ... 10   9 ... 0
//! F16   sign exponent   mantissa      exponent bias 15, F32: 127
//! ```
//!
//! Sources: IEEE 754-2019, section 3.4; Intel, "BFLOAT16 - Hardware Numerics
//! Definition" (2018).

use bitnet_core::lanes::{Lanes, WIDTH};
use half::{bf16, f16};

/// Decodes weights of `N` bytes each.
#[inline(always)]
pub(super) fn decode<const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    to_f32: impl Fn([u8; N]) -> f32,
) {
    let (weights, _) = bytes.as_chunks::<N>();
    for (out, &weight) in out.iter_mut().zip(weights) {
        *out = to_f32(weight);
    }
}

/// Decodes f16 by the instructions of the processor.
#[inline(always)]
pub(super) fn decode_f16<L: Lanes>(lanes: L, bytes: &[u8], out: &mut [f32]) {
    let (weights, _) = bytes.as_chunks::<2>();
    let (chunks, rest) = weights.as_chunks::<WIDTH>();
    let (out, out_rest) = out.as_chunks_mut::<WIDTH>();
    for (out, chunk) in out.iter_mut().zip(chunks) {
        let mut bits = [0; WIDTH];
        for (bits, &weight) in bits.iter_mut().zip(chunk) {
            *bits = u16::from_le_bytes(weight);
        }
        lanes.store(lanes.load_f16(&bits), out);
    }
    for (out, &weight) in out_rest.iter_mut().zip(rest) {
        *out = f16_to_f32(weight);
    }
}

/// Returns the value of an f16; NaNs become quiet and keep sign and payload, as
/// in hardware.
///
/// The `half` crate checks at each call whether the processor has F16C; this form
/// compiles without branches, so that a loop over it vectorizes.
#[inline(always)]
pub(super) fn f16_to_f32(bytes: [u8; 2]) -> f32 {
    const INFINITE: u32 = 0x7c00 << 13;
    const SMALLEST_NORMAL: u32 = 0x0400 << 13;
    const QUIET: u32 = 1 << 22;
    // The difference of the two biases.
    const REBIAS: u32 = (127 - 15) << 23;
    let half = u16::from_le_bytes(bytes) as u32;
    let sign = (half & 0x8000) << 16;
    // Exponent and mantissa at their places in an f32.
    let magnitude = (half & 0x7fff) << 13;
    let normal = magnitude + REBIAS;
    // The largest exponent of f16 becomes the largest of f32.
    let special = magnitude + 2 * REBIAS;
    let quiet = if magnitude > INFINITE { QUIET } else { 0 };
    // m · 2^-24 = 2^-14 · (1 + m / 1024) - 2^-14, exactly, and without an f32
    // subnormal, which some processors are slow to multiply.
    let one = SMALLEST_NORMAL + REBIAS;
    let subnormal = (f32::from_bits(magnitude + one) - f32::from_bits(one)).to_bits();
    let magnitude = if magnitude >= INFINITE {
        special | quiet
    } else if magnitude < SMALLEST_NORMAL {
        subnormal
    } else {
        normal
    };
    f32::from_bits(sign | magnitude)
}

/// Returns the value of a bf16, bits kept.
#[inline(always)]
pub(super) fn bf16_to_f32(bytes: [u8; 2]) -> f32 {
    f32::from_bits((u16::from_le_bytes(bytes) as u32) << 16)
}

pub(super) fn encode_f32(values: &[f32], out: &mut Vec<u8>) {
    out.extend(values.iter().flat_map(|x| x.to_le_bytes()));
}

/// Rounds to nearest, ties to even.
pub(super) fn encode_f16(values: &[f32], out: &mut Vec<u8>) {
    out.extend(values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()));
}

/// Rounds to nearest, ties to even.
pub(super) fn encode_bf16(values: &[f32], out: &mut Vec<u8>) {
    out.extend(values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use bitnet_core::Isa;

    use super::super::DenseType;
    use super::*;

    fn decode_all(ty: DenseType, isa: Isa) -> Vec<f32> {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut out = vec![0.0; 1 << 16];
        ty.decode_row(isa, &bytes, &mut out);
        out
    }

    #[test]
    fn every_f16_is_what_the_half_crate_says() {
        for isa in Isa::available() {
            for (bits, y) in (0..=u16::MAX).zip(decode_all(DenseType::F16, isa)) {
                let expected = f16::from_bits(bits).to_f32();
                assert_eq!(y.to_bits(), expected.to_bits(), "{isa}, {bits:#06x}");
            }
        }
    }

    #[test]
    fn every_bf16_is_the_upper_half_of_an_f32() {
        for isa in Isa::available() {
            for (bits, y) in (0..=u16::MAX).zip(decode_all(DenseType::BF16, isa)) {
                assert_eq!(y.to_bits(), (bits as u32) << 16, "{isa}");
                let by_half = bf16::from_bits(bits).to_f32();
                assert!(y == by_half || (y.is_nan() && by_half.is_nan()), "{isa}");
            }
        }
    }

    #[test]
    fn known_halves_have_their_values() {
        let cases = [
            (0x0000, 0.0),
            (0x0001, 2f32.powi(-24)),
            (0x83ff, -1023.0 * 2f32.powi(-24)),
            (0x0400, 2f32.powi(-14)),
            (0x3c00, 1.0),
            (0xc248, -3.140_625),
            (0x7bff, 65504.0),
            (0x7c00, f32::INFINITY),
            (0xfc00, f32::NEG_INFINITY),
        ];
        for (bits, expected) in cases {
            let bits: u16 = bits;
            assert_eq!(f16_to_f32(bits.to_le_bytes()), expected, "{bits:#06x}");
        }
        assert!(f16_to_f32(0x7c01u16.to_le_bytes()).is_nan());
    }

    #[test]
    fn encoding_rounds_ties_to_even() {
        let ulp = 2f32.powi(-10);
        let cases = [(1.0 + 0.5 * ulp, 0x3c00), (1.0 + 1.5 * ulp, 0x3c02)];
        for (x, expected) in cases {
            let expected: u16 = expected;
            let mut out = Vec::new();
            encode_f16(&[x], &mut out);
            assert_eq!(out, expected.to_le_bytes());
        }
        let ulp = 2f32.powi(-7);
        let cases = [(1.0 + 0.5 * ulp, 0x3f80), (1.0 + 1.5 * ulp, 0x3f82)];
        for (x, expected) in cases {
            let expected: u16 = expected;
            let mut out = Vec::new();
            encode_bf16(&[x], &mut out);
            assert_eq!(out, expected.to_le_bytes());
        }
    }
}
