//! Q3_K: 256 weights in 110 bytes.
//!
//! ```text
//! byte   0 ... 31     32 ... 95   96 ... 107    108 109
//!        hmask[32]    qs[64]      scales[12]    f16 d
//!
//! byte 32h + j of qs, h in 0..2, j in 0..32, with w = weights[128h..]:
//!   bits 7:6     5:4     3:2     1:0
//!        w[96+j] w[64+j] w[32+j] w[j]        lower two bits of the code
//! bit b of hmask[j]: the third of weight 32b + j
//!
//! scale i, of weights 16i to 16i + 15, has six bits:
//!   the lower four in bits 3:0 of scales[i], or for i in 8..16 in bits 7:4 of scales[i - 8];
//!   the upper two in bits 2k+1:2k of scales[8 + i mod 4], k = i / 4
//!
//! weight = d · (scale - 32) · (code - 4)
//! ```
//!
//! Source: llama.cpp, `block_q3_K` in `ggml/src/ggml-common.h` and
//! `dequantize_row_q3_K` in `ggml/src/ggml-quants.c`.

use bitnet_core::lanes::Lanes;

use super::float::f16_to_f32;
use super::{Scaled, codes};

pub(super) const BLOCK_LEN: usize = 256;
pub(super) const BLOCK_BYTES: usize = 110;

/// Returns scale `i`, of -32 to 31.
#[inline(always)]
fn scale(scales: &[u8], i: usize) -> i8 {
    let low = scales[i % 8] >> (i / 8 * 4) & 15;
    let high = scales[8 + i % 4] >> (i / 4 * 2) & 3;
    (low | high << 4) as i8 - 32
}

#[inline(always)]
pub(super) fn decode<L: Lanes>(lanes: L, bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BLOCK_BYTES>();
    let (out, _) = out.as_chunks_mut::<BLOCK_LEN>();
    for (block, out) in blocks.iter().zip(out) {
        let d = f16_to_f32([block[108], block[109]]);
        let (subs, _) = out.as_chunks_mut::<16>();
        for (i, sub) in subs.iter_mut().enumerate() {
            let scale = d * f32::from(scale(&block[96..108], i));
            let half = i % 2 * 16;
            let high = &block[half..][..16];
            let low = &block[32 + i / 8 * 32 + half..][..16];
            let shift = i % 8 / 2 * 2;
            let code = |j: usize| {
                let code = low[j] >> shift & 3 | (high[j] >> (i / 2) & 1) << 2;
                code.wrapping_sub(4)
            };
            Scaled::new(lanes, scale).write(&codes(code), sub);
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
        block[..32].fill(0xff); // all codes 4: zero
        block[108..].copy_from_slice(&0x3800u16.to_le_bytes()); // d = 0.5
        block[104..108].fill(0b10_10_10_10); // all scales 32: zero
        // Weight 37 = 32 + 5: third bit in bit 1. Code 6, scale 35 in sub-block 2.
        block[32 + 5] = 2 << 2;
        block[96 + 2] = 3;
        // Weight 210 = 128 + 64 + 18: bit 6. Code 1, scale 63 in sub-block 13.
        block[18] &= !(1 << 6);
        block[32 + 32 + 18] = 1 << 4;
        block[96 + 5] = 15 << 4;
        block[96 + 8 + 1] |= 1 << 6;
        let mut out = [f32::NAN; BLOCK_LEN];
        DenseType::Q3K.decode_row(Isa::Scalar, &block, &mut out);
        let mut expected = [0.0; BLOCK_LEN];
        expected[37] = 0.5 * 3.0 * 2.0;
        expected[210] = 0.5 * 31.0 * -3.0;
        assert_eq!(out, expected);
    }
}
