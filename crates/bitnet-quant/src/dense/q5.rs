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

use super::float::f16_to_f32;

pub(super) const BLOCK_LEN: usize = 32;
pub(super) const Q5_0_BYTES: usize = 22;
pub(super) const Q5_1_BYTES: usize = 24;

/// Writes the codes 0 to 31 from `qh` and `qs`.
#[inline(always)]
fn codes(bytes: &[u8], out: &mut [f32; BLOCK_LEN]) {
    let (qh, qs) = bytes.split_at(4);
    let qh = u32::from_le_bytes([qh[0], qh[1], qh[2], qh[3]]);
    let fifth = |i: usize| (qh >> i & 1) as u8 * 16;
    let (low, high) = out.split_at_mut(BLOCK_LEN / 2);
    for (j, ((low, high), byte)) in low.iter_mut().zip(high).zip(qs).enumerate() {
        *low = f32::from((byte & 15) + fifth(j));
        *high = f32::from((byte >> 4) + fifth(16 + j));
    }
}

#[inline(always)]
pub(super) fn decode_q5_0(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<Q5_0_BYTES>();
    let (out, _) = out.as_chunks_mut::<BLOCK_LEN>();
    for (block, out) in blocks.iter().zip(out) {
        let d = f16_to_f32([block[0], block[1]]);
        codes(&block[2..], out);
        for w in out {
            *w = (*w - 16.0) * d;
        }
    }
}

#[inline(always)]
pub(super) fn decode_q5_1(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<Q5_1_BYTES>();
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
        // d = 0.5, m = 0.25; code 16 but for w[3] = 2 and w[19] = 31.
        let mut block = [0; Q5_1_BYTES];
        block[..2].copy_from_slice(&0x3800u16.to_le_bytes());
        block[2..4].copy_from_slice(&0x3400u16.to_le_bytes());
        block[4..8].copy_from_slice(&(!(1u32 << 3)).to_le_bytes());
        block[8 + 3] = 0xf2;
        let mut out = [f32::NAN; BLOCK_LEN];
        decode_q5_1(&block, &mut out);
        let mut expected = [8.25; BLOCK_LEN];
        expected[3] = 1.25;
        expected[19] = 15.75;
        assert_eq!(out, expected);

        // The same without m, d = 0.25.
        decode_q5_0(&block[2..], &mut out);
        let mut expected = [0.0; BLOCK_LEN];
        expected[3] = -3.5;
        expected[19] = 3.75;
        assert_eq!(out, expected);
    }
}
