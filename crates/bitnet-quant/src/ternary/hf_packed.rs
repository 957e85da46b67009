//! HF-packed: four rows per byte, in the `uint8` tensors of checkpoints on the
//! Hugging Face hub.
//!
//! ```text
//! packed[n_rows / 4, n_cols], one row from each quarter of the matrix, R = n_rows / 4:
//!
//! packed[r, c]:
//!   bits 7:6        5:4        3:2       1:0
//!        w[3R+r, c] w[2R+r, c] w[R+r, c] w[r, c]     code 0, 1, 2 = -1, 0, +1
//! ```
//!
//! The scale is a separate tensor, `weight_scale`; the model's configuration decides
//! whether it is a factor or a divisor.
//!
//! Source: transformers, `pack_weights` and `unpack_weights` in
//! `src/transformers/integrations/bitnet.py`.

const ROWS_PER_BYTE: usize = 4;

/// Returns the packed row of a row, and its quarter of the matrix.
pub(super) fn place(row: usize, n_rows: usize) -> (usize, usize) {
    let n_packed = n_rows / ROWS_PER_BYTE;
    (row % n_packed, row / n_packed)
}

/// Decodes one quarter's row; returns false if a code of it was 3.
pub(super) fn decode(packed: &[u8], quarter: usize, trits: &mut [i8]) -> bool {
    // Constant shifts vectorize best.
    match quarter {
        0 => decode_at::<0>(packed, trits),
        1 => decode_at::<2>(packed, trits),
        2 => decode_at::<4>(packed, trits),
        _ => decode_at::<6>(packed, trits),
    }
}

fn decode_at<const SHIFT: u32>(packed: &[u8], trits: &mut [i8]) -> bool {
    let mut invalid = 0;
    for (trit, byte) in trits.iter_mut().zip(packed) {
        let code = byte >> SHIFT & 3;
        invalid |= code & (code >> 1);
        *trit = code as i8 - 1;
    }
    invalid == 0
}

/// Adds one quarter's row to a packed row in which its bits are 0.
pub(super) fn encode(trits: &[i8], quarter: usize, packed: &mut [u8]) {
    for (byte, trit) in packed.iter_mut().zip(trits) {
        *byte |= ((trit + 1) as u8) << (2 * quarter);
    }
}

#[cfg(test)]
mod tests {
    use crate::{Scales, TernaryType, encode_ternary};

    #[test]
    fn a_matrix_looks_as_drawn() {
        // R = 2: row 1 is in bits 1:0 of packed row 1, row 6 in bits 7:6 of packed row 0.
        let weights = [
            [-1, 1, 0],
            [1, 0, 0],
            [0, 0, 0],
            [0, 0, 0],
            [1, 0, 0],
            [0, 0, 0],
            [0, -1, 0],
            [0, 0, 1],
        ];
        let bytes = encode_ternary(
            TernaryType::HfPacked,
            8,
            3,
            &Scales::Tensor(f32::NAN),
            |row, trits| {
                trits.copy_from_slice(&weights[row]);
            },
        )
        .unwrap();
        let expected = [
            [0b01_10_01_00, 0b00_01_01_10, 0b01_01_01_01],
            [0b01_01_01_10, 0b01_01_01_01, 0b10_01_01_01],
        ];
        assert_eq!(bytes, expected.as_flattened());
    }
}
