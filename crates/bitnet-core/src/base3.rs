//! Base-3 packing, five trits per byte: bit 7 is the sign and bits 6:0 the magnitude of Σ
//! tᵢ·3^(4-i), which is at most 121. Negating a number negates its trits, so a table of 128
//! entries decodes all bytes.

use crate::panel::PackedBlock;

/// Trits per byte.
const TRITS: usize = 5;

/// Five zeros.
pub(crate) const ZEROS: u8 = 0;

/// Columns per group of four blocks.
pub(crate) const GROUP_COLS: usize = 80;

/// Codes (trit + 1) of the magnitudes; 0 for invalid magnitudes.
const CODES: [[u8; TRITS]; 128] = {
    let mut table = [[0; TRITS]; 128];
    let mut magnitude = 0;
    while magnitude <= 121 {
        // The base-3 digits of the number plus 121 are the codes.
        let mut rest = magnitude + 121;
        let mut i = TRITS;
        while i > 0 {
            i -= 1;
            table[magnitude][i] = (rest % 3) as u8;
            rest /= 3;
        }
        magnitude += 1;
    }
    table
};

/// The first four codes of each magnitude in the two-bit layout: bits 1:0, 3:2, 5:4, 7:6.
/// In halves of 64.
#[cfg(target_arch = "x86_64")]
pub(crate) const FIRST_FOUR: [[u8; 64]; 2] = {
    let mut table = [[0; 64]; 2];
    let mut i = 0;
    while i < 128 {
        let [a, b, c, d, _] = CODES[i];
        table[i / 64][i % 64] = a | b << 2 | c << 4 | d << 6;
        i += 1;
    }
    table
};

/// The fifth code of each magnitude. In halves of 64.
#[cfg(target_arch = "x86_64")]
pub(crate) const FIFTH: [[u8; 64]; 2] = {
    let mut table = [[0; 64]; 2];
    let mut i = 0;
    while i < 128 {
        table[i / 64][i % 64] = CODES[i][4];
        i += 1;
    }
    table
};

/// Packs four two-bit codes and a fifth code into a byte.
#[inline(always)]
fn pack(first_four: u8, fifth: u8) -> u8 {
    let mut number = 0;
    for s in 0..4 {
        number = 3 * (number + (first_four >> (2 * s) & 3));
    }
    number += fifth;
    let sign = if number < 121 { 0x80 } else { 0 };
    sign | number.abs_diff(121)
}

/// Unpacks the five codes 0..=2 of a byte.
fn unpack(byte: u8) -> [u8; TRITS] {
    let codes = CODES[(byte & 0x7f) as usize];
    if byte < 0x80 {
        codes
    } else {
        codes.map(|code| 2 - code)
    }
}

/// Unpacks four blocks to five blocks of the two-bit layout.
pub(crate) fn unpack_group(group: &[PackedBlock; 4]) -> [PackedBlock; 5] {
    let mut out = [PackedBlock::ZERO; 5];
    for (b, block) in group.iter().enumerate() {
        for (i, &byte) in block.0.iter().enumerate() {
            let [first @ .., fifth] = unpack(byte);
            out[b].0[i] = (0..4).fold(0, |packed, s| packed | first[s] << (2 * s));
            out[4].0[i] |= fifth << (2 * b);
        }
    }
    out
}

/// Packs five blocks of the two-bit layout to four: the inverse of [`unpack_group`].
#[inline(always)]
pub(crate) fn pack_group(blocks: &[PackedBlock; 5]) -> [PackedBlock; 4] {
    let [first_fours @ .., fifths] = blocks;
    let mut out = [PackedBlock::ZERO; 4];
    for (b, (out, first_fours)) in out.iter_mut().zip(first_fours).enumerate() {
        let codes = first_fours.0.iter().zip(&fifths.0);
        for (out, (first_four, fifths)) in out.0.iter_mut().zip(codes) {
            *out = pack(*first_four, fifths >> (2 * b) & 3);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_numbers_are_packed_and_unpacked() {
        for number in 0..243u32 {
            let codes: [u8; TRITS] =
                std::array::from_fn(|i| (number / 3u32.pow(4 - i as u32) % 3) as u8);
            let first_four = (0..4).fold(0, |packed, s| packed | codes[s] << (2 * s));
            assert_eq!(unpack(pack(first_four, codes[4])), codes);
        }
        // +1 0 0 0 -1 is 81 - 1.
        assert_eq!(pack(0b01_01_01_10, 0), 80);
        assert_eq!(pack(0b01_01_01_00, 2), 128 + 80);
    }
}
