//! Q4_K and Q5_K: 256 weights in 144 or 176 bytes.
//!
//! ```text
//! Q4_K  byte  0 1      2 3      4 ... 15      16 ... 143
//!             f16 d    f16 m    scales[12]    qs[128]
//! Q5_K  byte  0 1      2 3      4 ... 15      16 ... 47   48 ... 175
//!             f16 d    f16 m    scales[12]    qh[32]      qs[128]
//!
//! byte 32g + j of qs, g in 0..4, j in 0..32, with w = weights[64g..]:
//!   bits 7:4     3:0
//!        w[32+j] w[j]      the code, of Q5_K its lower four bits;
//!                          bit b of qh[j] is the fifth of weight 32b + j
//!
//! scale and min i, of weights 32i to 32i + 31, i in 0..4:
//!   scales[i]      bits 5:0                                    scale i
//!   scales[4+i]    bits 5:0                                    min i
//!   scales[8+i]    bits 3:0, upper two in bits 7:6 of scales[i]    scale 4+i
//!   scales[8+i]    bits 7:4, upper two in bits 7:6 of scales[4+i]  min 4+i
//!
//! weight = d · scale · code - m · min
//! ```
//!
//! Source: llama.cpp, `block_q4_K` and `block_q5_K` in `ggml/src/ggml-common.h`,
//! `dequantize_row_q4_K` and `dequantize_row_q5_K` in `ggml/src/ggml-quants.c`.

use bitnet_core::lanes::{Lanes, WIDTH};

use super::float::f16_to_f32;
use super::{Scaled, codes};

pub(super) const BLOCK_LEN: usize = 256;
pub(super) const Q4_K_BYTES: usize = 144;
pub(super) const Q5_K_BYTES: usize = 176;
/// `d`, `m` and scales.
const HEAD_BYTES: usize = 16;

/// Returns d · scale and m · min of weights 32i to 32i + 31.
#[inline(always)]
fn scale_and_min(block: &[u8], i: usize) -> (f32, f32) {
    let scales = &block[4..HEAD_BYTES];
    let (scale, min) = if i < 4 {
        (scales[i] & 63, scales[4 + i] & 63)
    } else {
        let low = scales[4 + i];
        (
            low & 15 | scales[i - 4] >> 6 << 4,
            low >> 4 | scales[i] >> 6 << 4,
        )
    };
    let d = f16_to_f32([block[0], block[1]]);
    let m = f16_to_f32([block[2], block[3]]);
    (d * f32::from(scale), m * f32::from(min))
}

/// Decodes the weights 32i to 32i + 31; `fifth(j)` is what the fifth bit of weight j adds
/// to its code.
#[inline(always)]
fn decode_sub<L: Lanes>(
    scaled: Scaled<L>,
    min: f32,
    four_bits: &[u8; 32],
    shift: usize,
    fifth: impl Fn(usize) -> u8,
    out: &mut [f32; 32],
) {
    // Adding -min is subtracting it.
    let offset = scaled.lanes.splat(-min);
    let (out, _) = out.as_chunks_mut::<WIDTH>();
    for (half, out) in out.iter_mut().enumerate() {
        let first = half * WIDTH;
        let code = |j: usize| four_bits[first + j] >> shift & 15 | fifth(first + j);
        scaled.write_plus(&codes(code), offset, out);
    }
}

#[inline(always)]
pub(super) fn decode_q4_k<L: Lanes>(lanes: L, bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<Q4_K_BYTES>();
    let (out, _) = out.as_chunks_mut::<BLOCK_LEN>();
    for (out, block) in out.iter_mut().zip(blocks) {
        let (qs, _) = block[HEAD_BYTES..].as_chunks();
        let (subs, _) = out.as_chunks_mut();
        for (i, sub) in subs.iter_mut().enumerate() {
            let (scale, min) = scale_and_min(block, i);
            let scaled = Scaled::new(lanes, scale);
            decode_sub(scaled, min, &qs[i / 2], i % 2 * 4, |_| 0, sub);
        }
    }
}

#[inline(always)]
pub(super) fn decode_q5_k<L: Lanes>(lanes: L, bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<Q5_K_BYTES>();
    let (out, _) = out.as_chunks_mut::<BLOCK_LEN>();
    for (out, block) in out.iter_mut().zip(blocks) {
        let (rows, _) = block[HEAD_BYTES..].as_chunks();
        let [qh, qs @ ..] = rows else {
            unreachable!("five times 32 bytes");
        };
        let (subs, _) = out.as_chunks_mut();
        for (i, sub) in subs.iter_mut().enumerate() {
            let (scale, min) = scale_and_min(block, i);
            let scaled = Scaled::new(lanes, scale);
            let fifth = |j: usize| (qh[j] >> i & 1) << 4;
            decode_sub(scaled, min, &qs[i / 2], i % 2 * 4, fifth, sub);
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
        let mut block = [0; Q5_K_BYTES];
        block[..2].copy_from_slice(&0x3800u16.to_le_bytes()); // d = 0.5
        block[2..4].copy_from_slice(&0x3400u16.to_le_bytes()); // m = 0.25
        // Weight 35 = 32 + 3: g 0, upper half. Code 7, scale 50, min 0.
        block[4 + 1] = 50;
        block[48 + 3] = 7 << 4;
        // Weight 199 = 64 · 3 + 7: sub-block 6. Code 31, scale 41, min 22.
        let (scale, min) = (41u8, 22u8);
        block[4 + 8 + 2] = scale & 15 | (min & 15) << 4;
        block[4 + 2] = scale >> 4 << 6;
        block[4 + 4 + 2] = min >> 4 << 6;
        block[48 + 3 * 32 + 7] = 15;
        block[16 + 7] = 1 << 6;
        let mut out = [f32::NAN; BLOCK_LEN];
        DenseType::Q5K.decode_row(Isa::Scalar, &block, &mut out);
        let mut expected = [0.0; BLOCK_LEN];
        expected[35] = 0.5 * 50.0 * 7.0;
        expected[192..224].fill(-0.25 * 22.0);
        expected[199] += 0.5 * 41.0 * 31.0;
        assert_eq!(out, expected);

        // The same without the fifth bits.
        let q4_k = [&block[..16], &block[48..]].concat();
        DenseType::Q4K.decode_row(Isa::Scalar, &q4_k, &mut out);
        expected[199] -= 0.5 * 41.0 * 16.0;
        assert_eq!(out, expected);
    }
}
