//! Q8_0: 32 weights in 34 bytes.
//!
//! ```text
//! byte   0 1      2 ... 33
//!       f16 d     int8 q[0..32]       weight i = d · q[i]
//! ```
//!
//! Source: llama.cpp, `block_q8_0` in `ggml/src/ggml-common.h`.

use bitnet_core::lanes::{Lanes, WIDTH};
use half::f16;

use super::float::f16_to_f32;
use super::{Scaled, codes};

pub(super) const BLOCK_LEN: usize = 32;
pub(super) const BLOCK_BYTES: usize = 34;

#[inline(always)]
pub(super) fn decode<L: Lanes>(lanes: L, bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BLOCK_BYTES>();
    let (out, _) = out.as_chunks_mut::<BLOCK_LEN>();
    for (out, &[d0, d1, ref quants @ ..]) in out.iter_mut().zip(blocks) {
        let scaled = Scaled::new(lanes, f16_to_f32([d0, d1]));
        let (quants, _) = quants.as_chunks::<WIDTH>();
        let (out, _) = out.as_chunks_mut::<WIDTH>();
        for (out, quants) in out.iter_mut().zip(quants) {
            scaled.write(&codes(|i| quants[i]), out);
        }
    }
}

/// Divides by the unrounded f32 scale, and rounds half away from zero, as llama.cpp
/// does: the bytes are identical.
pub(super) fn encode(values: &[f32], out: &mut Vec<u8>) {
    let (blocks, _) = values.as_chunks::<BLOCK_LEN>();
    for block in blocks {
        let largest = block.iter().fold(0f32, |m, x| m.max(x.abs()));
        let d = largest / 127.0;
        let stored = f16::from_f32(d);
        // `f32::max` ignores NaN, so the values are checked, too.
        if !stored.is_finite() || block.iter().any(|x| x.is_nan()) {
            out.extend_from_slice(&f16::NAN.to_le_bytes());
            out.extend_from_slice(&[0; BLOCK_LEN]);
            continue;
        }
        let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
        out.extend_from_slice(&stored.to_le_bytes());
        out.extend(block.iter().map(|x| libm::roundf(x * inverse) as i8 as u8));
    }
}

#[cfg(test)]
mod tests {
    use bitnet_core::Isa;

    use super::super::DenseType;
    use super::*;

    #[test]
    fn a_block_looks_as_drawn() {
        let mut block = [0; BLOCK_BYTES];
        block[..2].copy_from_slice(&0x3800u16.to_le_bytes()); // 0.5
        block[2] = 3;
        block[3] = 0xff; // -1
        block[33] = 0x80; // -128
        let mut expected = [0.0; BLOCK_LEN];
        expected[0] = 1.5;
        expected[1] = -0.5;
        expected[31] = -64.0;
        let mut out = [f32::NAN; BLOCK_LEN];
        DenseType::Q8_0.decode_row(Isa::Scalar, &block, &mut out);
        assert_eq!(out, expected);
    }

    #[test]
    fn the_largest_magnitude_becomes_127() {
        let mut values = [0.0; BLOCK_LEN];
        values[7] = -254.0; // d = 2
        values[8] = 3.0; // 1.5, rounded away from zero
        values[9] = -5.0; // -2.5
        let mut out = Vec::new();
        encode(&values, &mut out);
        assert_eq!(out[..2], 0x4000u16.to_le_bytes());
        let quants: Vec<i8> = out[2..].iter().map(|&q| q as i8).collect();
        assert_eq!(quants[6..11], [0, -127, 2, -3, 0]);
    }
}
