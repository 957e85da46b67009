//! IQ1_BN and IQ2_BN: 64 weights in 13 or 16 bytes; each row begins with its scale.
//!
//! IQ1_BN, rows of `f16 d | blocks`:
//!
//! ```text
//! byte   0 ... 11    12
//!        ql[12]      extra              weight = d · (t - 1), t in 0..3
//!
//! t of weight  16i + 5k + j    in ql[3i + k],  i in 0..4, k in 0..3, j in 0..5
//!              16i + 15        in extra, as its j = i
//!
//! v = Σ_j t_j · 3^j                  the first trit is least significant, v < 243
//! byte = ceil(v · 256 / 243)
//! t_j = byte · 3^(4-j) mod 256 · 3 / 256
//! ```
//!
//! Every byte decodes to five trits, so no block is invalid.
//!
//! IQ2_BN, rows of `f32 d | blocks`:
//!
//! ```text
//! byte j of a block, j in 0..16:
//!   bits 7:6     5:4     3:2     1:0
//!        w[48+j] w[32+j] w[16+j] w[j]        code 0, 1, 2 = -1, 0, +1
//! ```
//!
//! IQ2_BN_R4, four rows as `f32 d[4] | blocks of 64 bytes`:
//!
//! ```text
//! byte 16k + 4r + i of a block, k, r, i in 0..4, of row r:
//!   bits 7:6         5:4        3:2        1:0
//!        w[16k+12+i] w[16k+8+i] w[16k+4+i] w[16k+i]
//! ```
//!
//! Source: ik_llama.cpp, `block_iq1_bn` and `block_iq2_bn` in
//! `ggml/src/ggml-common.h`; `dequantize_row_iq1_bn`, `dequantize_row_iq2_bn` and
//! `dequantize_row_iq2_bn_r4` in `ggml/src/iqk/iqk_quantize.cpp`.

use super::{base3_byte, no_code_3, pack_runs, unpack_runs};

const BLOCK_LEN: usize = 64;
const IQ1_BYTES: usize = 13;
const IQ2_BYTES: usize = 16;
const R4_BYTES: usize = 4 * IQ2_BYTES;

const SHIFTS: [u32; 4] = [0, 2, 4, 6];

/// The five trits of each byte, the least significant first.
const TRITS: [[i8; 5]; 256] = {
    let mut table = [[0; 5]; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut j = 0;
        while j < 5 {
            let q = (byte as u8).wrapping_mul(3u8.pow(4 - j as u32));
            table[byte][j] = ((q as u16 * 3) >> 8) as i8 - 1;
            j += 1;
        }
        byte += 1;
    }
    table
};

/// Decodes a row of IQ1_BN; returns true: see above.
pub(super) fn decode_iq1(row: &[u8], trits: &mut [i8]) -> bool {
    let (blocks, _) = row.as_chunks::<IQ1_BYTES>();
    let (trits, _) = trits.as_chunks_mut::<BLOCK_LEN>();
    for (block, trits) in blocks.iter().zip(trits) {
        let extra = TRITS[usize::from(block[IQ1_BYTES - 1])];
        let (ql, _) = block.as_chunks::<3>();
        let (runs, _) = trits.as_chunks_mut::<16>();
        for ((ql, run), extra) in ql.iter().zip(runs).zip(extra) {
            for (k, &byte) in ql.iter().enumerate() {
                run[5 * k..][..5].copy_from_slice(&TRITS[usize::from(byte)]);
            }
            run[15] = extra;
        }
    }
    true
}

/// The inverse of [`decode_iq1`].
pub(super) fn encode_iq1(trits: &[i8], row: &mut [u8]) {
    let byte = |trits: &mut dyn DoubleEndedIterator<Item = i8>| {
        base3_byte(trits.rfold(0, |v, trit| 3 * v + (trit + 1) as u16))
    };
    let (blocks, _) = row.as_chunks_mut::<IQ1_BYTES>();
    let (trits, _) = trits.as_chunks::<BLOCK_LEN>();
    for (block, trits) in blocks.iter_mut().zip(trits) {
        let (runs, _) = trits.as_chunks::<16>();
        block[IQ1_BYTES - 1] = byte(&mut runs.iter().map(|run| run[15]));
        for (i, run) in runs.iter().enumerate() {
            let (fives, _) = run.as_chunks::<5>();
            for (k, five) in fives.iter().enumerate() {
                block[3 * i + k] = byte(&mut five.iter().copied());
            }
        }
    }
}

/// Decodes a row of IQ2_BN; returns false if a code was 3.
pub(super) fn decode_iq2(row: &[u8], trits: &mut [i8]) -> bool {
    let (blocks, _) = row.as_chunks::<IQ2_BYTES>();
    let (trits, _) = trits.as_chunks_mut::<BLOCK_LEN>();
    let mut invalid = [0; IQ2_BYTES];
    for (block, trits) in blocks.iter().zip(trits) {
        unpack_runs(block, SHIFTS, trits, &mut invalid);
    }
    no_code_3(invalid)
}

/// The inverse of [`decode_iq2`].
pub(super) fn encode_iq2(trits: &[i8], row: &mut [u8]) {
    let (blocks, _) = row.as_chunks_mut::<IQ2_BYTES>();
    let (trits, _) = trits.as_chunks::<BLOCK_LEN>();
    for (block, trits) in blocks.iter_mut().zip(trits) {
        pack_runs(trits, SHIFTS, block);
    }
}

/// Decodes row `member` of four; returns false if a code of it was 3.
pub(super) fn decode_iq2_r4(rows: &[u8], member: usize, trits: &mut [i8]) -> bool {
    let (quarters, _) = rows.as_chunks::<{ R4_BYTES / 4 }>();
    let (runs, _) = trits.as_chunks_mut::<{ BLOCK_LEN / 4 }>();
    let mut invalid = [0; 4];
    for (quarter, run) in quarters.iter().zip(runs) {
        let (members, _) = quarter.as_chunks::<4>();
        unpack_runs(&members[member], SHIFTS, run, &mut invalid);
    }
    no_code_3(invalid)
}

/// The inverse of [`decode_iq2_r4`].
pub(super) fn encode_iq2_r4(trits: &[i8], member: usize, rows: &mut [u8]) {
    let (quarters, _) = rows.as_chunks_mut::<{ R4_BYTES / 4 }>();
    let (runs, _) = trits.as_chunks::<{ BLOCK_LEN / 4 }>();
    for (quarter, run) in quarters.iter_mut().zip(runs) {
        let (members, _) = quarter.as_chunks_mut::<4>();
        pack_runs(run, SHIFTS, &mut members[member]);
    }
}

#[cfg(test)]
mod tests {
    use crate::{Scales, TernaryType, TernaryView, encode_ternary};

    fn encode(ty: TernaryType, scales: &Scales, weights: &[[i8; 64]]) -> Vec<u8> {
        let encoded = encode_ternary(ty, weights.len(), 64, scales, |row, trits| {
            trits.copy_from_slice(&weights[row]);
        });
        encoded.unwrap()
    }

    #[test]
    fn rows_of_iq1_bn_look_as_drawn() {
        let mut weights = [[0i8; 64]; 2];
        weights[0][0] = 1; // i 0, k 0, j 0: v = 121 + 1 in ql[0]
        weights[0][16 + 5 + 4] = -1; // i 1, k 1, j 4: v = 121 - 81 in ql[4]
        weights[0][16 * 2 + 15] = 1; // extra, j 2: v = 40 + 9
        let scales = Scales::Rows(vec![0.5, -2.0]);
        let bytes = encode(TernaryType::IQ1BN, &scales, &weights);
        let mut expected = vec![128; 30]; // ceil(121 · 256 / 243)
        expected[..2].copy_from_slice(&0x3800u16.to_le_bytes());
        expected[2] = 129; // ceil(122 · 256 / 243)
        expected[2 + 4] = 43; // ceil(40 · 256 / 243)
        expected[2 + 12] = 52; // ceil(49 · 256 / 243)
        expected[15..17].copy_from_slice(&0xc000u16.to_le_bytes());
        expected[29] = 43; // four zeros: ceil(40 · 256 / 243)
        assert_eq!(bytes, expected);
    }

    #[test]
    fn rows_of_iq2_bn_look_as_drawn() {
        let mut weights = [[0i8; 64]; 2];
        weights[0][3] = 1; // bits 1:0 of byte 3
        weights[1][48 + 15] = -1; // bits 7:6 of byte 15
        let scales = Scales::Rows(vec![0.5, -2.0]);
        let bytes = encode(TernaryType::IQ2BN, &scales, &weights);
        let mut expected = vec![0b01_01_01_01; 40];
        expected[..4].copy_from_slice(&0.5f32.to_le_bytes());
        expected[4 + 3] = 0b01_01_01_10;
        expected[20..24].copy_from_slice(&(-2f32).to_le_bytes());
        expected[24 + 15] = 0b00_01_01_01;
        assert_eq!(bytes, expected);
    }

    #[test]
    fn four_interleaved_rows_look_as_drawn() {
        let mut weights = [[0i8; 64]; 4];
        weights[0][3] = 1; // k 0, r 0, i 3, bits 1:0
        weights[2][48 + 12 + 1] = -1; // k 3, r 2, i 1, bits 7:6
        weights[3][16 + 4 + 2] = 1; // k 1, r 3, i 2, bits 3:2
        let scales = Scales::Rows(vec![0.5, 1.0, 2.0, 4.0]);
        let bytes = encode(TernaryType::IQ2BNR4, &scales, &weights);
        let mut expected: Vec<u8> = [0.5f32, 1.0, 2.0, 4.0]
            .iter()
            .flat_map(|scale| scale.to_le_bytes())
            .collect();
        expected.resize(16 + 64, 0b01_01_01_01);
        expected[16 + 3] = 0b01_01_01_10;
        expected[16 + 16 * 3 + 4 * 2 + 1] = 0b00_01_01_01;
        expected[16 + 16 + 4 * 3 + 2] = 0b01_01_10_01;
        assert_eq!(bytes, expected);
        let view = TernaryView::new(TernaryType::IQ2BNR4, 4, 64, &bytes).unwrap();
        assert_eq!(view.scales(), Ok(scales));
    }

    /// The decoding steps of ik_llama.cpp.
    #[test]
    fn every_byte_decodes_by_the_formula() {
        for byte in 0..=u8::MAX {
            for (j, trit) in super::TRITS[usize::from(byte)].into_iter().enumerate() {
                let v = byte.wrapping_mul([81, 27, 9, 3, 1][j]);
                let t = (u16::from(v) + u16::from(v >> 1)) >> 7;
                assert_eq!(trit, t as i8 - 1, "{byte} {j}");
            }
        }
    }
}
