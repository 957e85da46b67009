//! I2_S: 128 weights in 32 bytes; the scale follows all blocks.
//!
//! ```text
//! byte j of a block, j in 0..32:
//!   bits 7:6   5:4     3:2     1:0
//!        w[j]  w[32+j] w[64+j] w[96+j]       code 0, 1, 2 = -1, 0, +1
//!
//! n / 4 bytes of blocks, row after row | f32 scale | 28 bytes of padding
//! ```
//!
//! This is the layout of the published files. bitnet.cpp has written two others
//! under the same name and of the same size, which no header distinguishes.
//! *neon*, by the quantizer of its old ARM builds:
//!
//! ```text
//! byte j of a block, j in 0..16:
//!   bits 7:6   5:4     3:2     1:0
//!        w[j]  w[16+j] w[32+j] w[48+j]
//! ```
//!
//! *rows4*, by x86 builds without `ACT_PARALLEL`, with n_cols bytes per four rows:
//!
//! ```text
//! byte g · n_cols + c:
//!   bits 7:6        5:4        3:2        1:0
//!        w[4g, c]   w[4g+1, c] w[4g+2, c] w[4g+3, c]
//! ```
//!
//! Source: bitnet.cpp, `quantize_i2_s` in `src/ggml-bitnet-mad.cpp`.

use super::{no_code_3, pack_runs, unpack_runs};

/// Bytes of the scale and its padding.
pub(super) const TAIL_BYTES: usize = 32;

const SHIFTS: [u32; 4] = [6, 4, 2, 0];

/// Decodes a row of blocks of `N` bytes, 32 or, by the old ARM quantizer, 16; returns
/// false if a code was 3.
pub(super) fn decode<const N: usize>(row: &[u8], trits: &mut [i8]) -> bool {
    let (blocks, _) = row.as_chunks::<N>();
    let mut invalid = [0; N];
    for (block, trits) in blocks.iter().zip(trits.chunks_exact_mut(4 * N)) {
        unpack_runs(block, SHIFTS, trits, &mut invalid);
    }
    no_code_3(invalid)
}

pub(super) fn encode<const N: usize>(trits: &[i8], row: &mut [u8]) {
    let (blocks, _) = row.as_chunks_mut::<N>();
    for (trits, block) in trits.chunks_exact(4 * N).zip(blocks) {
        pack_runs(trits, SHIFTS, block);
    }
}

/// Returns the scale of a whole matrix.
pub(super) fn scale(bytes: &[u8]) -> f32 {
    let tail = &bytes[bytes.len() - TAIL_BYTES..];
    f32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]])
}

/// Writes the scale of a whole matrix.
pub(super) fn write_scale(scale: f32, bytes: &mut [u8]) {
    let at = bytes.len() - TAIL_BYTES;
    bytes[at..][..4].copy_from_slice(&scale.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use crate::{Scales, TernaryType, TernaryView, encode_ternary};

    #[test]
    fn a_matrix_looks_as_drawn() {
        let mut weights = [[0i8; 128]; 2];
        weights[0][3] = 1; // bits 7:6 of byte 3
        weights[0][32 + 3] = -1; // bits 5:4
        weights[1][96 + 31] = 1; // bits 1:0 of the last byte
        let bytes = encode_ternary(
            TernaryType::I2S,
            2,
            128,
            &Scales::Tensor(0.75),
            |row, trits| {
                trits.copy_from_slice(&weights[row]);
            },
        )
        .unwrap();
        let mut expected = vec![0b01_01_01_01; 64];
        expected[3] = 0b10_00_01_01;
        expected[63] = 0b01_01_01_10;
        expected.extend_from_slice(&0.75f32.to_le_bytes());
        expected.extend_from_slice(&[0; 28]);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn what_pads_the_scale_is_not_read() {
        let mut bytes = vec![0b10_10_10_10; 32];
        bytes.extend_from_slice(&(-1.5f32).to_le_bytes());
        bytes.extend_from_slice(&[0xff; 28]);
        let view = TernaryView::new(TernaryType::I2S, 1, 128, &bytes).unwrap();
        assert_eq!(view.scales(), Ok(Scales::Tensor(-1.5)));
        let mut trits = [0; 128];
        view.decode_row(0, &mut trits).unwrap();
        assert_eq!(trits, [1; 128]);
    }

    #[test]
    fn the_neon_layout_looks_as_drawn() {
        let mut weights = [0i8; 128];
        weights[3] = 1; // bits 7:6 of byte 3
        weights[64 + 32 + 5] = -1; // bits 3:2 of byte 5 of the second block
        let scales = Scales::Tensor(2.0);
        let bytes = encode_ternary(TernaryType::I2SNeon, 1, 128, &scales, |_, trits| {
            trits.copy_from_slice(&weights);
        })
        .unwrap();
        let mut expected = vec![0b01_01_01_01; 32];
        expected[3] = 0b10_01_01_01;
        expected[16 + 5] = 0b01_01_00_01;
        expected.extend_from_slice(&2f32.to_le_bytes());
        expected.extend_from_slice(&[0; 28]);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn four_rows_a_byte_look_as_drawn() {
        let mut weights = [[0i8; 5]; 8];
        weights[0][2] = 1; // bits 7:6 of byte 2
        weights[3][2] = -1; // bits 1:0 of it
        weights[5][4] = 1; // bits 5:4 of the last byte
        let scales = Scales::Tensor(2.0);
        let bytes = encode_ternary(TernaryType::I2SRows4, 8, 5, &scales, |row, trits| {
            trits.copy_from_slice(&weights[row]);
        })
        .unwrap();
        let mut expected = vec![0b01_01_01_01; 10];
        expected[2] = 0b10_01_01_00;
        expected[9] = 0b01_10_01_01;
        expected.extend_from_slice(&2f32.to_le_bytes());
        expected.extend_from_slice(&[0; 28]);
        assert_eq!(bytes, expected);
    }
}
