//! Q2_0 and PQ2_0: 64 weights in 18 bytes, 128 in 34.
//!
//! ```text
//! byte   0 1      2 ...
//!        f16 d    qs[16] or qs[32]   weight = d · (code - 1)
//!
//! byte j of qs:
//!   bits 7:6     5:4     3:2     1:0
//!        w[4j+3] w[4j+2] w[4j+1] w[4j]       code 0, 1, 2 = -1, 0, +1
//! ```
//!
//! Code 3 means +2 d: llama.cpp's quantizer never writes it for values within the
//! scale, and no ternary model contains it.
//!
//! Source: llama.cpp, `block_q2_0` in `ggml/src/ggml-common.h` and
//! `dequantize_row_q2_0` in `ggml/src/ggml-quants.c`; for PQ2_0 the same in
//! PrismML's fork.

use super::INVALID;

const SCALE_BYTES: usize = 2;

/// The four trits of each byte.
const TRITS: [[i8; 4]; 256] = {
    let mut table = [[0; 4]; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut i = 0;
        while i < 4 {
            table[byte][i] = (byte >> (2 * i) & 3) as i8 - 1;
            i += 1;
        }
        byte += 1;
    }
    table
};
const _: () = assert!(TRITS[0b11][0] == INVALID);

/// Decodes a row of blocks of `N` bytes; returns false if a code was 3.
pub(super) fn decode<const N: usize>(row: &[u8], trits: &mut [i8]) -> bool {
    let (blocks, _) = row.as_chunks::<N>();
    let block_len = 4 * (N - SCALE_BYTES);
    let mut invalid = 0;
    for (block, trits) in blocks.iter().zip(trits.chunks_exact_mut(block_len)) {
        let (trits, _) = trits.as_chunks_mut::<4>();
        for (&byte, trits) in block[SCALE_BYTES..].iter().zip(trits) {
            *trits = TRITS[usize::from(byte)];
            invalid |= byte & (byte >> 1);
        }
    }
    invalid & 0b0101_0101 == 0
}

/// The inverse of [`decode`].
pub(super) fn encode<const N: usize>(trits: &[i8], row: &mut [u8]) {
    let (blocks, _) = row.as_chunks_mut::<N>();
    let block_len = 4 * (N - SCALE_BYTES);
    for (trits, block) in trits.chunks_exact(block_len).zip(blocks) {
        let (trits, _) = trits.as_chunks::<4>();
        for (byte, trits) in block[SCALE_BYTES..].iter_mut().zip(trits) {
            let codes = trits.iter().enumerate();
            *byte = codes.fold(0, |byte, (i, &trit)| byte | ((trit + 1) as u8) << (2 * i));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_look_as_drawn() {
        let mut trits = [0i8; 128];
        trits[0] = 1; // bits 1:0 of byte 0 of qs
        trits[4 * 5 + 3] = -1; // bits 7:6 of byte 5
        trits[64 + 1] = -1; // bits 3:2 of byte 16, or of byte 0 of the next block
        let mut block = [0xff; 34];
        encode::<34>(&trits, &mut block);
        let mut expected = [0b01_01_01_01; 34];
        expected[..2].fill(0xff); // the scale, which is not written here
        expected[2] = 0b01_01_01_10;
        expected[2 + 5] = 0b00_01_01_01;
        expected[2 + 16] = 0b01_01_00_01;
        assert_eq!(block, expected);

        let mut blocks = [0xff; 36];
        encode::<18>(&trits, &mut blocks);
        assert_eq!(blocks[2..18], expected[2..18]);
        assert_eq!(blocks[18..20], [0xff; 2]);
        assert_eq!(blocks[20..], expected[18..]);
    }
}
