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
//! v = Σ_n t_n · 3^(4-n)              the first trit is most significant, v < 243
//! byte = ceil(v · 256 / 243)         the base-3 fraction 0.t0t1t2t3t4
//! t_n = byte · 3^n mod 256 · 3 / 256
//! ```
//!
//! Every byte decodes to five trits, including the thirteen that encoding never
//! produces, so no block is invalid.
//!
//! Source: llama.cpp, `block_tq1_0` in `ggml/src/ggml-common.h` and
//! `quantize_row_tq1_0_ref` in `ggml/src/ggml-quants.c`.

use super::{pack_base3, unpack_base3};

const BLOCK_LEN: usize = 256;
const BLOCK_BYTES: usize = 54;

/// Decodes a row; returns true: see above.
pub(super) fn decode(row: &[u8], trits: &mut [i8]) -> bool {
    let (blocks, _) = row.as_chunks::<BLOCK_BYTES>();
    let (trits, _) = trits.as_chunks_mut::<BLOCK_LEN>();
    for (block, trits) in blocks.iter().zip(trits) {
        unpack_base3::<32>(&block[..32], &mut trits[..160]);
        unpack_base3::<16>(&block[32..48], &mut trits[160..240]);
        unpack_base3::<4>(&block[48..52], &mut trits[240..]);
    }
    true
}

pub(super) fn encode(trits: &[i8], row: &mut [u8]) {
    let (trits, _) = trits.as_chunks::<BLOCK_LEN>();
    let (blocks, _) = row.as_chunks_mut::<BLOCK_BYTES>();
    for (trits, block) in trits.iter().zip(blocks) {
        pack_base3::<32>(&trits[..160], &mut block[..32]);
        pack_base3::<16>(&trits[160..240], &mut block[32..48]);
        pack_base3::<4>(&trits[240..], &mut block[48..52]);
    }
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
        encode(&trits, &mut block);
        let mut expected = [0; BLOCK_BYTES];
        expected[..48].fill(128); // ceil(121 · 256 / 243)
        expected[48..52].fill(127); // ceil(120 · 256 / 243)
        expected[7] = 213; // ceil(202 · 256 / 243)
        expected[34] = 127;
        expected[49] = 130; // ceil(123 · 256 / 243)
        expected[52..].fill(0xff); // the scale, which is not written here
        assert_eq!(block, expected);
    }

    #[test]
    fn every_five_trits_survive_a_byte() {
        for v in 0..243u16 {
            let trits: [i8; 5] =
                std::array::from_fn(|n| (v / 3u16.pow(4 - n as u32) % 3) as i8 - 1);
            let mut byte = [0];
            pack_base3::<1>(&trits, &mut byte);
            let mut unpacked = [99; 5];
            unpack_base3::<1>(&byte, &mut unpacked);
            assert_eq!(unpacked, trits);
        }
    }

    #[test]
    fn every_byte_decodes_by_the_formula() {
        for byte in 0..=u8::MAX {
            let mut trits = [99; 5];
            unpack_base3::<1>(&[byte], &mut trits);
            for (n, trit) in trits.into_iter().enumerate() {
                let q = byte.wrapping_mul(3u8.pow(n as u32)) as u16;
                assert_eq!(trit, ((q * 3) >> 8) as i8 - 1, "{byte} {n}");
            }
        }
    }
}
