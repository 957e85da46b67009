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

use super::float::f16_to_f32;

pub(super) const BLOCK_LEN: usize = 32;
pub(super) const Q4_0_BYTES: usize = 18;
pub(super) const Q4_1_BYTES: usize = 20;

/// Writes the codes 0 to 15.
#[inline(always)]
fn codes(qs: &[u8], out: &mut [f32; BLOCK_LEN]) {
    let (low, high) = out.split_at_mut(BLOCK_LEN / 2);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(qs) {
        *low = f32::from(byte & 15);
        *high = f32::from(byte >> 4);
    }
}

#[inline(always)]
pub(super) fn decode_q4_0(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<Q4_0_BYTES>();
    let (out, _) = out.as_chunks_mut::<BLOCK_LEN>();
    for (block, out) in blocks.iter().zip(out) {
        let d = f16_to_f32([block[0], block[1]]);
        codes(&block[2..], out);
        for w in out {
            *w = (*w - 8.0) * d;
        }
    }
}

#[inline(always)]
pub(super) fn decode_q4_1(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<Q4_1_BYTES>();
    let (out, _) = out.as_chunks_mut::<BLOCK_LEN>();
    for (block, out) in blocks.iter().zip(out) {
        let d = f16_to_f32([block[0], block[1]]);
        let m = f16_to_f32([block[2], block[3]]);
        codes(&block[4..], out);
        for w in out {
            *w = *w * d + m;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_look_as_drawn() {
        // d = 0.5, m = 0.25; code 8 but for w[3] = 0 and w[19] = 15.
        let mut block = [0x88; Q4_1_BYTES];
        block[..2].copy_from_slice(&0x3800u16.to_le_bytes());
        block[2..4].copy_from_slice(&0x3400u16.to_le_bytes());
        block[4 + 3] = 0xf0;
        let mut out = [f32::NAN; BLOCK_LEN];
        decode_q4_1(&block, &mut out);
        let mut expected = [4.25; BLOCK_LEN];
        expected[3] = 0.25;
        expected[19] = 7.75;
        assert_eq!(out, expected);

        // The same without m, d = 0.25.
        decode_q4_0(&block[2..], &mut out);
        let mut expected = [0.0; BLOCK_LEN];
        expected[3] = -2.0;
        expected[19] = 1.75;
        assert_eq!(out, expected);
    }
}
