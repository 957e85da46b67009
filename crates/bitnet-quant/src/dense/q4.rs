//! Q4_0 and Q4_1: 32 weights in 18 or 20 bytes.
//!
//! ```text
//! Q4_0  byte  0 1      2 ... 17
//!             f16 d    qs[16]                weight = d · (code - 8)
//! Q4_1  byte  0 1      2 3      4 ... 19
//!             f16 d    f16 m    qs[16]       weight = d · code + m
//!
//! byte j of qs:
//!   bits 7:4     3:0
//!        w[16+j] w[j]
//! ```
//!
//! Source: llama.cpp, `block_q4_0` and `block_q4_1` in `ggml/src/ggml-common.h`,
//! `dequantize_row_q4_0` and `dequantize_row_q4_1` in `ggml/src/ggml-quants.c`.

use bitnet_core::lanes::{Lanes, WIDTH};

use super::float::f16_to_f32;
use super::{Scaled, codes};

pub(super) const BLOCK_LEN: usize = 32;
pub(super) const Q4_0_BYTES: usize = 18;
pub(super) const Q4_1_BYTES: usize = 20;

#[inline(always)]
pub(super) fn decode_q4_0<L: Lanes>(lanes: L, bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<Q4_0_BYTES>();
    let (out, _) = out.as_chunks_mut::<BLOCK_LEN>();
    for (out, &[d0, d1, ref qs @ ..]) in out.iter_mut().zip(blocks) {
        let qs: &[u8; WIDTH] = qs;
        let scaled = Scaled::new(lanes, f16_to_f32([d0, d1]));
        let (out, _) = out.as_chunks_mut::<WIDTH>();
        scaled.write(&codes(|j| (qs[j] & 15).wrapping_sub(8)), &mut out[0]);
        scaled.write(&codes(|j| (qs[j] >> 4).wrapping_sub(8)), &mut out[1]);
    }
}

#[inline(always)]
pub(super) fn decode_q4_1<L: Lanes>(lanes: L, bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<Q4_1_BYTES>();
    let (out, _) = out.as_chunks_mut::<BLOCK_LEN>();
    for (out, &[d0, d1, m0, m1, ref qs @ ..]) in out.iter_mut().zip(blocks) {
        let qs: &[u8; WIDTH] = qs;
        let scaled = Scaled::new(lanes, f16_to_f32([d0, d1]));
        let m = lanes.splat(f16_to_f32([m0, m1]));
        let (out, _) = out.as_chunks_mut::<WIDTH>();
        scaled.write_plus(&codes(|j| qs[j] & 15), m, &mut out[0]);
        scaled.write_plus(&codes(|j| qs[j] >> 4), m, &mut out[1]);
    }
}

#[cfg(test)]
mod tests {
    use bitnet_core::Isa;

    use super::super::DenseType;
    use super::*;

    #[test]
    fn blocks_look_as_drawn() {
        // d = 0.5, m = 0.25; code 8 but for w[3] = 0 and w[19] = 15.
        let mut block = [0x88; Q4_1_BYTES];
        block[..2].copy_from_slice(&0x3800u16.to_le_bytes());
        block[2..4].copy_from_slice(&0x3400u16.to_le_bytes());
        block[4 + 3] = 0xf0;
        let mut out = [f32::NAN; BLOCK_LEN];
        DenseType::Q4_1.decode_row(Isa::Scalar, &block, &mut out);
        let mut expected = [4.25; BLOCK_LEN];
        expected[3] = 0.25;
        expected[19] = 7.75;
        assert_eq!(out, expected);

        // The same without m, d = 0.25.
        DenseType::Q4_0.decode_row(Isa::Scalar, &block[2..], &mut out);
        let mut expected = [0.0; BLOCK_LEN];
        expected[3] = -2.0;
        expected[19] = 1.75;
        assert_eq!(out, expected);
    }
}
