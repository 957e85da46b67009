//! Q2_K: 256 weights in 84 bytes.
//!
//! ```text
//! byte   0 ... 15      16 ... 79   80 81    82 83
//!        scales[16]    qs[64]      f16 d    f16 m
//!
//! byte 32h + 16s + j of qs, h in 0..2, s in 0..2, j in 0..16, with
//! w = weights[128h + 16s..]:
//!   bits 7:6     5:4     3:2     1:0
//!        w[96+j] w[64+j] w[32+j] w[j]
//!
//! scale i, of weights 16i to 16i + 15:
//!   bits 7:4   3:0
//!        min   scale       weight = d · scale · code - m · min
//! ```
//!
//! Source: llama.cpp, `block_q2_K` in `ggml/src/ggml-common.h` and
//! `dequantize_row_q2_K` in `ggml/src/ggml-quants.c`.

use bitnet_core::lanes::Lanes;

use super::float::f16_to_f32;
use super::{Scaled, codes};

pub(super) const BLOCK_LEN: usize = 256;
pub(super) const BLOCK_BYTES: usize = 84;

#[inline(always)]
pub(super) fn decode<L: Lanes>(lanes: L, bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BLOCK_BYTES>();
    let (out, _) = out.as_chunks_mut::<BLOCK_LEN>();
    for (block, out) in blocks.iter().zip(out) {
        let d = f16_to_f32([block[80], block[81]]);
        let m = f16_to_f32([block[82], block[83]]);
        let (subs, _) = out.as_chunks_mut::<16>();
        for (i, sub) in subs.iter_mut().enumerate() {
            let scale = d * f32::from(block[i] & 15);
            let min = m * f32::from(block[i] >> 4);
            let qs = &block[16 + i / 8 * 32 + i % 2 * 16..][..16];
            let shift = i % 8 / 2 * 2;
            // Adding -min is subtracting it.
            let codes = codes(|j| qs[j] >> shift & 3);
            Scaled::new(lanes, scale).write_plus(&codes, lanes.splat(-min), sub);
        }
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
        block[80..82].copy_from_slice(&0x3800u16.to_le_bytes()); // d = 0.5
        block[82..].copy_from_slice(&0x3400u16.to_le_bytes()); // m = 0.25
        // Weight 3: h 0, s 0. Code 2, scale 3, min 0.
        block[0] = 0x03;
        block[16 + 3] = 2;
        // Weight 128 + 96 + 16 + 5: h 1, s 1. Code 3, scale 15, min 2.
        block[15] = 0x2f;
        block[16 + 32 + 16 + 5] = 3 << 6;
        let mut out = [f32::NAN; BLOCK_LEN];
        DenseType::Q2K.decode_row(Isa::Scalar, &block, &mut out);
        let mut expected = [0.0; BLOCK_LEN];
        expected[3] = 0.5 * 3.0 * 2.0;
        expected[240..].fill(-0.5);
        expected[245] = 0.5 * 15.0 * 3.0 - 0.5;
        assert_eq!(out, expected);
    }
}
