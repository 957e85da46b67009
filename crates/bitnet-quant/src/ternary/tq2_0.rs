//! TQ2_0: 256 weights in 66 bytes.
//!
//! ```text
//! byte   0 ... 63    64 65
//!        qs[64]      f16 d           weight = d · (code - 1)
//!
//! byte 32h + j, h in 0..2, j in 0..32, with w = weights[128h..]:
//!   bits 7:6     5:4     3:2     1:0
//!        w[96+j] w[64+j] w[32+j] w[j]        code 0, 1, 2 = -1, 0, +1
//! ```
//!
//! The bit order is the reverse of I2_S.
//!
//! Source: llama.cpp, `block_tq2_0` in `ggml/src/ggml-common.h` and
//! `quantize_row_tq2_0_ref` in `ggml/src/ggml-quants.c`.

use super::{no_code_3, pack_runs, unpack_runs};

const BLOCK_LEN: usize = 256;
const BLOCK_BYTES: usize = 66;

const CODE_BYTES: usize = 64;
const SHIFTS: [u32; 4] = [0, 2, 4, 6];

/// Decodes a row; returns false if a code was 3.
pub(super) fn decode(row: &[u8], trits: &mut [i8]) -> bool {
    let (blocks, _) = row.as_chunks::<BLOCK_BYTES>();
    let (trits, _) = trits.as_chunks_mut::<BLOCK_LEN>();
    let mut invalid = [0; 32];
    for (block, trits) in blocks.iter().zip(trits) {
        let (codes, _) = block[..CODE_BYTES].as_chunks::<32>();
        let (trits, _) = trits.as_chunks_mut::<128>();
        for (codes, trits) in codes.iter().zip(trits) {
            unpack_runs(codes, SHIFTS, trits, &mut invalid);
        }
    }
    no_code_3(invalid)
}

/// Copies the codes of a row without the scales.
pub(super) fn copy_codes(row: &[u8], codes: &mut [u8]) {
    let (blocks, _) = row.as_chunks::<BLOCK_BYTES>();
    let (codes, _) = codes.as_chunks_mut::<CODE_BYTES>();
    assert_eq!(codes.len(), blocks.len(), "codes of a row");
    for (codes, block) in codes.iter_mut().zip(blocks) {
        codes.copy_from_slice(&block[..CODE_BYTES]);
    }
}

pub(super) fn encode(trits: &[i8], row: &mut [u8]) {
    let (trits, _) = trits.as_chunks::<BLOCK_LEN>();
    let (blocks, _) = row.as_chunks_mut::<BLOCK_BYTES>();
    for (trits, block) in trits.iter().zip(blocks) {
        let (trits, _) = trits.as_chunks::<128>();
        let (codes, _) = block[..CODE_BYTES].as_chunks_mut::<32>();
        for (trits, codes) in trits.iter().zip(codes) {
            pack_runs(trits, SHIFTS, codes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_looks_as_drawn() {
        let mut trits = [0i8; BLOCK_LEN];
        trits[3] = 1; // bits 1:0 of byte 3
        trits[96 + 3] = -1; // bits 7:6 of byte 3
        trits[128 + 32 + 31] = 1; // bits 3:2 of byte 63
        let mut block = [0xff; BLOCK_BYTES];
        encode(&trits, &mut block);
        let mut expected = [0b01_01_01_01; BLOCK_BYTES];
        expected[3] = 0b00_01_01_10;
        expected[63] = 0b01_01_10_01;
        expected[64..].fill(0xff); // the scale, which is not written here
        assert_eq!(block, expected);
    }
}
