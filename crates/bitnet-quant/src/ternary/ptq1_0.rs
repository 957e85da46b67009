//! PTQ1_0: 128 weights in 28 bytes, five to a byte.
//!
//! ```text
//! byte   0 ... 23    24 25     26 27
//!        qs[24]      qh[2]     f16 d        weight = d · (t - 1), t in 0..3
//!
//! t of weight  16n + m         in qs[m],       n in 0..5, m in 0..16
//!              80 + 8n + m     in qs[16 + m],  n in 0..5, m in 0..8
//!              120 + 2n + m    in qh[m],       n in 0..4, m in 0..2
//! ```
//!
//! Five trits are packed per byte as in TQ1_0; no byte is invalid.
//!
//! Source: PrismML's fork of llama.cpp, `block_ptq1_0` in
//! `ggml/src/ggml-common.h` and `dequantize_row_ptq1_0` in
//! `ggml/src/ggml-quants.c`.

use super::{pack_base3, unpack_base3};

const BLOCK_LEN: usize = 128;
const BLOCK_BYTES: usize = 28;

/// Decodes a row; returns true: see above.
pub(super) fn decode(row: &[u8], trits: &mut [i8]) -> bool {
    let (blocks, _) = row.as_chunks::<BLOCK_BYTES>();
    let (trits, _) = trits.as_chunks_mut::<BLOCK_LEN>();
    for (block, trits) in blocks.iter().zip(trits) {
        unpack_base3::<16>(&block[..16], &mut trits[..80]);
        unpack_base3::<8>(&block[16..24], &mut trits[80..120]);
        unpack_base3::<2>(&block[24..26], &mut trits[120..]);
    }
    true
}

/// The inverse of [`decode`].
pub(super) fn encode(trits: &[i8], row: &mut [u8]) {
    let (trits, _) = trits.as_chunks::<BLOCK_LEN>();
    let (blocks, _) = row.as_chunks_mut::<BLOCK_BYTES>();
    for (trits, block) in trits.iter().zip(blocks) {
        pack_base3::<16>(&trits[..80], &mut block[..16]);
        pack_base3::<8>(&trits[80..120], &mut block[16..24]);
        pack_base3::<2>(&trits[120..], &mut block[24..26]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_looks_as_drawn() {
        let mut trits = [0i8; BLOCK_LEN];
        trits[7] = 1; // n 0, m 7: v = 121 + 81
        trits[80 + 4 * 8 + 2] = -1; // n 4, m 2: v = 121 - 1
        trits[120 + 3 * 2 + 1] = 1; // n 3, m 1: v = 120 + 3
        let mut block = [0xff; BLOCK_BYTES];
        encode(&trits, &mut block);
        let mut expected = [0; BLOCK_BYTES];
        expected[..24].fill(128); // ceil(121 · 256 / 243)
        expected[24..26].fill(127); // ceil(120 · 256 / 243)
        expected[7] = 213; // ceil(202 · 256 / 243)
        expected[18] = 127;
        expected[25] = 130; // ceil(123 · 256 / 243)
        expected[26..].fill(0xff); // the scale, which is not written here
        assert_eq!(block, expected);
    }
}
