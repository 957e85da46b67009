//! TQ1_0: 256 weights in 54 bytes, five to a byte.
//!
//! ```text
//! byte   0 ... 47    48 ... 51   52 53
//!        qs[48]      qh[4]       f16 d        weight = d · (t - 1), t in 0..3
//!
//! t of weight   32n + m         in qs[m],       n in 0..5, m in 0..32
//!              160 + 16n + m    in qs[32 + m],  n in 0..5, m in 0..16
//!              240 +  4n + m    in qh[m],       n in 0..4, m in 0..4
//!
//! v = Σ_n t_n · 3^(4-n)              the first trit counts most, v < 243
//! byte = ceil(v · 256 / 243)         the base-3 fraction 0.t0t1t2t3t4
//! t_n = byte · 3^n mod 256 · 3 / 256
//! ```
//!
//! Every byte decodes to five trits, also the thirteen that encoding does not
//! produce; so nothing in a block is invalid.
//!
//! Source: llama.cpp, `block_tq1_0` in `ggml/src/ggml-common.h` and
//! `quantize_row_tq1_0_ref` in `ggml/src/ggml-quants.c`.

use half::f16;

pub(super) const BLOCK_LEN: usize = 256;
pub(super) const BLOCK_BYTES: usize = 54;

/// Decodes a row.
pub(super) fn decode(row: &[u8], trits: &mut [i8]) {
    let (blocks, _) = row.as_chunks::<BLOCK_BYTES>();
    let (trits, _) = trits.as_chunks_mut::<BLOCK_LEN>();
    for (block, trits) in blocks.iter().zip(trits) {
        decode_block(block, trits);
    }
}

#[inline(always)]
fn decode_block(block: &[u8; BLOCK_BYTES], trits: &mut [i8; BLOCK_LEN]) {
    unpack::<32>(&block[..32], &mut trits[..160]);
    unpack::<16>(&block[32..48], &mut trits[160..240]);
    unpack::<4>(&block[48..52], &mut trits[240..]);
}

/// Decodes `N` bytes to runs of `N` trits, the first of each byte first.
#[inline(always)]
fn unpack<const N: usize>(bytes: &[u8], trits: &mut [i8]) {
    let mut rest = [0u8; N];
    rest.copy_from_slice(bytes);
    let (runs, _) = trits.as_chunks_mut::<N>();
    for run in runs {
        for (trit, rest) in run.iter_mut().zip(&mut rest) {
            // 3 · rest / 256 is 0 below 86, 1 below 171, else 2.
            *trit = (*rest >= 86) as i8 + (*rest >= 171) as i8 - 1;
            *rest = rest.wrapping_mul(3);
        }
    }
}

pub(super) fn encode(trits: &[i8], scale: f16, row: &mut [u8]) {
    let (trits, _) = trits.as_chunks::<BLOCK_LEN>();
    let (blocks, _) = row.as_chunks_mut::<BLOCK_BYTES>();
    for (trits, block) in trits.iter().zip(blocks) {
        pack::<32>(&trits[..160], &mut block[..32]);
        pack::<16>(&trits[160..240], &mut block[32..48]);
        pack::<4>(&trits[240..], &mut block[48..52]);
        block[52..].copy_from_slice(&scale.to_le_bytes());
    }
}

/// The inverse of [`unpack`].
fn pack<const N: usize>(trits: &[i8], bytes: &mut [u8]) {
    let (runs, _) = trits.as_chunks::<N>();
    for (m, byte) in bytes.iter_mut().enumerate() {
        let mut weight = 243;
        let mut v = 0;
        for run in runs {
            weight /= 3;
            v += weight * (run[m] + 1) as u16;
        }
        *byte = (v * 256).div_ceil(243) as u8;
    }
}

pub(super) fn scale(block: &[u8; BLOCK_BYTES]) -> f16 {
    f16::from_le_bytes([block[52], block[53]])
}

/// Returns whether all weights of a block are zero.
pub(super) fn is_zero(block: &[u8; BLOCK_BYTES]) -> bool {
    let mut trits = [0; BLOCK_LEN];
    decode_block(block, &mut trits);
    trits == [0; BLOCK_LEN]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_looks_as_drawn() {
        let mut trits = [0i8; BLOCK_LEN];
        trits[7] = 1; // n 0, m 7: v = 121 + 81
        trits[160 + 4 * 16 + 2] = -1; // n 4, m 2: v = 121 - 1
        trits[240 + 3 * 4 + 1] = 1; // n 3, m 1: v = 120 + 3
        let mut block = [0xff; BLOCK_BYTES];
        encode(&trits, f16::from_f32(0.5), &mut block);
        let mut expected = [0; BLOCK_BYTES];
        expected[..48].fill(128); // ceil(121 · 256 / 243)
        expected[48..52].fill(127); // ceil(120 · 256 / 243)
        expected[7] = 213; // ceil(202 · 256 / 243)
        expected[34] = 127;
        expected[49] = 130; // ceil(123 · 256 / 243)
        expected[52..].copy_from_slice(&0x3800u16.to_le_bytes());
        assert_eq!(block, expected);
    }

    #[test]
    fn every_five_trits_survive_a_byte() {
        for v in 0..243u16 {
            let trits: [i8; 5] =
                std::array::from_fn(|n| (v / 3u16.pow(4 - n as u32) % 3) as i8 - 1);
            let mut byte = [0];
            pack::<1>(&trits, &mut byte);
            let mut unpacked = [99; 5];
            unpack::<1>(&byte, &mut unpacked);
            assert_eq!(unpacked, trits);
        }
    }

    #[test]
    fn every_byte_decodes_by_the_formula() {
        for byte in 0..=u8::MAX {
            let mut trits = [99; 5];
            unpack::<1>(&[byte], &mut trits);
            for (n, trit) in trits.into_iter().enumerate() {
                let q = byte.wrapping_mul(3u8.pow(n as u32)) as u16;
                assert_eq!(trit, ((q * 3) >> 8) as i8 - 1, "{byte} {n}");
            }
        }
    }
}
