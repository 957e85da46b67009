//! Vectors whose i32 lanes are the rows of a panel.

use crate::panel::{PANEL_ROWS, PackedBlock};

/// Operations of an instruction set on a part of a panel: as many rows as a vector has i32
/// lanes.
///
/// A value proves that the instructions are supported, so the methods are safe. All are
/// inlined into the tile that uses them, which is compiled for the instruction set.
pub(super) trait RowLanes: Copy {
    /// The register type.
    type Vector: Copy;
    /// Rows per vector: 8 or 16.
    const ROWS: usize;

    fn zero(self) -> Self::Vector;
    fn splat_i8(self, x: i8) -> Self::Vector;
    fn splat_i16(self, x: i16) -> Self::Vector;
    fn splat_i32(self, x: i32) -> Self::Vector;
    fn and(self, x: Self::Vector, y: Self::Vector) -> Self::Vector;
    fn xor(self, x: Self::Vector, y: Self::Vector) -> Self::Vector;
    /// Shifts 16-bit lanes.
    fn shift_right_2(self, x: Self::Vector) -> Self::Vector;
    fn shift_right_4(self, x: Self::Vector) -> Self::Vector;
    fn shift_right_6(self, x: Self::Vector) -> Self::Vector;
    /// Shifts i32 lanes arithmetically.
    fn shift_right_i32_2(self, x: Self::Vector) -> Self::Vector;
    fn shift_right_i32_4(self, x: Self::Vector) -> Self::Vector;
    fn shift_right_i32_6(self, x: Self::Vector) -> Self::Vector;
    fn add_i16(self, x: Self::Vector, y: Self::Vector) -> Self::Vector;
    fn add_i32(self, x: Self::Vector, y: Self::Vector) -> Self::Vector;
    fn sub_i32(self, x: Self::Vector, y: Self::Vector) -> Self::Vector;
    /// `vpmaddubsw`: products of u8 and i8, adjacent pairs added in i16.
    fn mul_u8_i8(self, x: Self::Vector, y: Self::Vector) -> Self::Vector;
    /// `vpmaddwd`: products of i16, adjacent pairs added in i32.
    fn mul_i16(self, x: Self::Vector, y: Self::Vector) -> Self::Vector;
    /// Returns the magnitudes of i8 lanes.
    fn abs_i8(self, x: Self::Vector) -> Self::Vector;
    /// The signs of the weights for [`negate_where`](Self::negate_where).
    type Signs: Copy;
    fn signs(self, weights: Self::Vector) -> Self::Signs;
    /// Returns the i8 lanes of `x`, negated where the weight is negative; unspecified where
    /// the weight is zero.
    fn negate_where(self, x: Self::Vector, signs: Self::Signs) -> Self::Vector;

    /// Interleaves the lower halves of 16-byte lanes, byte by byte.
    fn interleave_low_i8(self, x: Self::Vector, y: Self::Vector) -> Self::Vector;
    /// Interleaves the upper halves of 16-byte lanes, byte by byte.
    fn interleave_high_i8(self, x: Self::Vector, y: Self::Vector) -> Self::Vector;
    /// Interleaves the lower halves of 16-byte lanes, two bytes at a time.
    fn interleave_low_i16(self, x: Self::Vector, y: Self::Vector) -> Self::Vector;
    /// Interleaves the upper halves of 16-byte lanes, two bytes at a time.
    fn interleave_high_i16(self, x: Self::Vector, y: Self::Vector) -> Self::Vector;
    /// Returns the sum of the i32 lanes.
    fn sum_i32(self, x: Self::Vector) -> i32;

    /// Loads a vector from any address.
    ///
    /// # Safety
    ///
    /// `from` points to `4·ROWS` bytes.
    unsafe fn load_unaligned(self, from: *const u8) -> Self::Vector;
    /// Loads a vector.
    ///
    /// # Safety
    ///
    /// `from` points to `4·ROWS` bytes and is aligned to that size.
    unsafe fn load(self, from: *const u8) -> Self::Vector;
    /// Stores i32 lanes.
    ///
    /// # Safety
    ///
    /// `to` points to `ROWS` lanes.
    unsafe fn store(self, x: Self::Vector, to: *mut i32);

    /// Loads the rows `part·ROWS..` of a block.
    #[inline(always)]
    fn load_part(self, block: &PackedBlock, part: usize) -> Self::Vector {
        assert_parts::<Self>(part + 1);
        // SAFETY: a block is 64 bytes, four per row, and aligned to 64, so every part is in
        // bounds and aligned to its size.
        unsafe { self.load(block.0.as_ptr().add(4 * Self::ROWS * part)) }
    }

    /// Stores the sums of the rows `part·ROWS..`.
    #[inline(always)]
    fn store_part(self, sums: Self::Vector, acc: &mut [i32; PANEL_ROWS], part: usize) {
        assert_parts::<Self>(part + 1);
        // SAFETY: the part is inside the panel, as checked above.
        unsafe { self.store(sums, acc.as_mut_ptr().add(Self::ROWS * part)) }
    }

    /// Loads four activations into every lane.
    ///
    /// # Safety
    ///
    /// `from` points to four values.
    #[inline(always)]
    unsafe fn broadcast_i8x4(self, from: *const i8) -> Self::Vector {
        // SAFETY: guaranteed by the caller.
        self.splat_i32(unsafe { from.cast::<i32>().read_unaligned() })
    }

    /// Returns the codes of a quarter of a ternary block: two bits of each byte.
    #[inline(always)]
    fn codes<const QUARTER: usize>(self, packed: Self::Vector) -> Self::Vector {
        // The mask removes bits shifted in from the adjacent byte.
        let shifted = match QUARTER {
            0 => packed,
            1 => self.shift_right_2(packed),
            2 => self.shift_right_4(packed),
            _ => self.shift_right_6(packed),
        };
        self.and(shifted, self.splat_i8(3))
    }
}

/// Panics if a panel has fewer than `end` vectors of rows.
#[inline(always)]
pub(super) fn assert_parts<V: RowLanes>(end: usize) {
    assert!(end <= PANEL_ROWS / V::ROWS, "parts of a panel");
}
