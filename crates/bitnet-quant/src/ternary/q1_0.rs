//! Q1_0: 128 weights in 18 bytes, each -1 or +1.
//!
//! ```text
//! byte   0 1      2 ... 17
//!        f16 d    qs[16]             weight = bit ? d : -d
//!
//! byte j of qs:
//!   bit  7       6       5       4       3       2       1       0
//!        w[8j+7] w[8j+6] w[8j+5] w[8j+4] w[8j+3] w[8j+2] w[8j+1] w[8j]
//! ```
//!
//! Source: llama.cpp, `block_q1_0` in `ggml/src/ggml-common.h` and
//! `dequantize_row_q1_0` in `ggml/src/ggml-quants.c`.

const BLOCK_LEN: usize = 128;
const BLOCK_BYTES: usize = 18;
const SCALE_BYTES: usize = 2;

/// Decodes a row; returns true: no bit is invalid.
pub(super) fn decode(row: &[u8], trits: &mut [i8]) -> bool {
    let (blocks, _) = row.as_chunks::<BLOCK_BYTES>();
    let (trits, _) = trits.as_chunks_mut::<BLOCK_LEN>();
    for (block, trits) in blocks.iter().zip(trits) {
        let (trits, _) = trits.as_chunks_mut::<8>();
        for (byte, trits) in block[SCALE_BYTES..].iter().zip(trits) {
            for (i, trit) in trits.iter_mut().enumerate() {
                *trit = 2 * (byte >> i & 1) as i8 - 1;
            }
        }
    }
    true
}

/// The inverse of [`decode`], for trits that are not 0.
pub(super) fn encode(trits: &[i8], row: &mut [u8]) {
    let (trits, _) = trits.as_chunks::<BLOCK_LEN>();
    let (blocks, _) = row.as_chunks_mut::<BLOCK_BYTES>();
    for (trits, block) in trits.iter().zip(blocks) {
        let (trits, _) = trits.as_chunks::<8>();
        for (byte, trits) in block[SCALE_BYTES..].iter_mut().zip(trits) {
            let bits = trits.iter().enumerate();
            *byte = bits.fold(0, |byte, (i, &trit)| byte | u8::from(trit > 0) << i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_looks_as_drawn() {
        let mut trits = [-1i8; BLOCK_LEN];
        trits[0] = 1; // bit 0 of byte 0 of qs
        trits[13] = 1; // bit 5 of byte 1
        trits[127] = 1; // bit 7 of byte 15
        let mut block = [0xff; BLOCK_BYTES];
        encode(&trits, &mut block);
        let mut expected = [0; BLOCK_BYTES];
        expected[..2].fill(0xff); // the scale, which is not written here
        expected[2] = 0b0000_0001;
        expected[3] = 0b0010_0000;
        expected[17] = 0b1000_0000;
        assert_eq!(block, expected);
    }
}
