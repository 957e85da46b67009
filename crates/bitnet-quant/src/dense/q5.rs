//! Q5_0 and Q5_1: 32 weights in 22 or 24 bytes.
//!
//! ```text
//! Q5_0  byte  0 1      2 ... 5   6 ... 21
//!             f16 d    u32 qh    qs[16]              weight = d · (code - 16)
//! Q5_1  byte  0 1      2 3       4 ... 7   8 ... 23
//!             f16 d    f16 m     u32 qh    qs[16]    weight = d · code + m
//!
//! byte j of qs:
//!   bits 7:4     3:0
//!        w[16+j] w[j]      lower four bits of the code; the fifth of w[i] is bit i of qh
//! ```
//!
//! Source: llama.cpp, `block_q5_0` and `block_q5_1` in `ggml/src/ggml-common.h`,
//! `dequantize_row_q5_0` and `dequantize_row_q5_1` in `ggml/src/ggml-quants.c`.

use bitnet_core::lanes::{Lanes, WIDTH};

use super::float::f16_to_f32;
use super::{Scaled, codes};

pub(super) const BLOCK_LEN: usize = 32;
pub(super) const Q5_0_BYTES: usize = 22;
pub(super) const Q5_1_BYTES: usize = 24;

/// Returns what the fifth bits of weights 16·half to 16·half + 15 add to their codes.
#[inline(always)]
fn fifths(qh: [u8; 4], half: usize) -> [u8; WIDTH] {
    let mut out = [0; WIDTH];
    let (eights, _) = out.as_chunks_mut();
    for (eight, &bits) in eights.iter_mut().zip(&qh[2 * half..]) {
        // Byte j has bit j, and then 128 if that is not zero.
        let spread = (u64::from(bits) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
        let full = (spread + 0x7f7f_7f7f_7f7f_7f7f) & 0x8080_8080_8080_8080;
        *eight = (full >> 3).to_le_bytes();
    }
    out
}

#[inline(always)]
pub(super) fn decode_q5_0<L: Lanes>(lanes: L, bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<Q5_0_BYTES>();
    let (out, _) = out.as_chunks_mut::<BLOCK_LEN>();
    for (out, &[d0, d1, h0, h1, h2, h3, ref qs @ ..]) in out.iter_mut().zip(blocks) {
        let qs: &[u8; WIDTH] = qs;
        let scaled = Scaled::new(lanes, f16_to_f32([d0, d1]));
        let (out, _) = out.as_chunks_mut::<WIDTH>();
        for (half, out) in out.iter_mut().enumerate() {
            let fifths = fifths([h0, h1, h2, h3], half);
            let code = |j: usize| (qs[j] >> (4 * half) & 15 | fifths[j]).wrapping_sub(16);
            scaled.write(&codes(code), out);
        }
    }
}

#[inline(always)]
pub(super) fn decode_q5_1<L: Lanes>(lanes: L, bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<Q5_1_BYTES>();
    let (out, _) = out.as_chunks_mut::<BLOCK_LEN>();
    for (out, &[d0, d1, m0, m1, h0, h1, h2, h3, ref qs @ ..]) in out.iter_mut().zip(blocks) {
        let qs: &[u8; WIDTH] = qs;
        let scaled = Scaled::new(lanes, f16_to_f32([d0, d1]));
        let m = lanes.splat(f16_to_f32([m0, m1]));
        let (out, _) = out.as_chunks_mut::<WIDTH>();
        for (half, out) in out.iter_mut().enumerate() {
            let fifths = fifths([h0, h1, h2, h3], half);
            let code = |j: usize| qs[j] >> (4 * half) & 15 | fifths[j];
            scaled.write_plus(&codes(code), m, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use bitnet_core::Isa;

    use super::super::DenseType;
    use super::*;

    #[test]
    fn blocks_look_as_drawn() {
        // d = 0.5, m = 0.25; code 16 but for w[3] = 2 and w[19] = 31.
        let mut block = [0; Q5_1_BYTES];
        block[..2].copy_from_slice(&0x3800u16.to_le_bytes());
        block[2..4].copy_from_slice(&0x3400u16.to_le_bytes());
        block[4..8].copy_from_slice(&(!(1u32 << 3)).to_le_bytes());
        block[8 + 3] = 0xf2;
        let mut out = [f32::NAN; BLOCK_LEN];
        DenseType::Q5_1.decode_row(Isa::Scalar, &block, &mut out);
        let mut expected = [8.25; BLOCK_LEN];
        expected[3] = 1.25;
        expected[19] = 15.75;
        assert_eq!(out, expected);

        // The same without m, d = 0.25.
        DenseType::Q5_0.decode_row(Isa::Scalar, &block[2..], &mut out);
        let mut expected = [0.0; BLOCK_LEN];
        expected[3] = -3.5;
        expected[19] = 3.75;
        assert_eq!(out, expected);
    }
}
