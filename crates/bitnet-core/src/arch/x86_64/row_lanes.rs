//! Vectors whose i32 lanes are the rows of a panel.

use crate::panel::{PANEL_ROWS, PackedBlock};

/// The operations of an instruction set on a part of a panel: as many rows as a
/// vector has i32 lanes.
///
/// A value is the proof that the instructions exist, so the methods are safe.
/// All are inlined into the tile that uses them, which is compiled for the
/// instruction set.
pub(super) trait RowLanes: Copy {
    /// A register.
    type Vector: Copy;
    /// Rows in a vector: 8 or 16.
    const ROWS: usize;

    fn zero(self) -> Self::Vector;
    fn splat_i8(self, x: i8) -> Self::Vector;
    fn splat_i16(self, x: i16) -> Self::Vector;
    fn splat_i32(self, x: i32) -> Self::Vector;
    fn and(self, x: Self::Vector, y: Self::Vector) -> Self::Vector;
    fn xor(self, x: Self::Vector, y: Self::Vector) -> Self::Vector;
    /// Shifts lanes of 16 bits.
    fn shift_right_2(self, x: Self::Vector) -> Self::Vector;
    fn shift_right_4(self, x: Self::Vector) -> Self::Vector;
    fn shift_right_6(self, x: Self::Vector) -> Self::Vector;
    /// Shifts i32 lanes, keeping the sign.
    fn shift_right_i32_2(self, x: Self::Vector) -> Self::Vector;
    fn shift_right_i32_4(self, x: Self::Vector) -> Self::Vector;
    fn shift_right_i32_6(self, x: Self::Vector) -> Self::Vector;
    fn add_i16(self, x: Self::Vector, y: Self::Vector) -> Self::Vector;
    fn add_i32(self, x: Self::Vector, y: Self::Vector) -> Self::Vector;
    fn sub_i32(self, x: Self::Vector, y: Self::Vector) -> Self::Vector;
    /// `vpmaddubsw`: products of u8 and i8, two neighbours added in i16.
    fn mul_u8_i8(self, x: Self::Vector, y: Self::Vector) -> Self::Vector;
    /// `vpmaddwd`: products of i16, two neighbours added in i32.
    fn mul_i16(self, x: Self::Vector, y: Self::Vector) -> Self::Vector;
    /// Returns the magnitudes of i8 lanes.
    fn abs_i8(self, x: Self::Vector) -> Self::Vector;
    /// What [`negate_where`](Self::negate_where) needs of the weights.
    type Signs: Copy;
    fn signs(self, weights: Self::Vector) -> Self::Signs;
    /// Returns `x`, i8 lanes, negated where the weight is negative. Where the
    /// weight is zero, the result may be anything.
    fn negate_where(self, x: Self::Vector, signs: Self::Signs) -> Self::Vector;

    /// Loads a vector.
    ///
    /// # Safety
    ///
    /// `from` is the beginning of `4·ROWS` bytes, aligned to as many.
    unsafe fn load(self, from: *const u8) -> Self::Vector;
    /// Stores i32 lanes.
    ///
    /// # Safety
    ///
    /// `to` is the beginning of `ROWS` lanes.
    unsafe fn store(self, x: Self::Vector, to: *mut i32);

    /// Returns the rows `part·ROWS..` of a block.
    #[inline(always)]
    fn load_part(self, block: &PackedBlock, part: usize) -> Self::Vector {
        assert_parts::<Self>(part + 1);
        // SAFETY: a block is 64 bytes, four a row, and aligned to 64; so every
        // part is inside and aligned to its size.
        unsafe { self.load(block.0.as_ptr().add(4 * Self::ROWS * part)) }
    }

    /// Stores the sums of the rows `part·ROWS..`.
    #[inline(always)]
    fn store_part(self, sums: Self::Vector, acc: &mut [i32; PANEL_ROWS], part: usize) {
        assert_parts::<Self>(part + 1);
        // SAFETY: the part is inside the panel, as just checked.
        unsafe { self.store(sums, acc.as_mut_ptr().add(Self::ROWS * part)) }
    }

    /// Returns four activations in every lane.
    ///
    /// # Safety
    ///
    /// `from` is the beginning of four values.
    #[inline(always)]
    unsafe fn broadcast_i8x4(self, from: *const i8) -> Self::Vector {
        // SAFETY: the caller's promise.
        self.splat_i32(unsafe { from.cast::<i32>().read_unaligned() })
    }

    /// Returns the codes of a quarter of a ternary block: two bits of its bytes.
    #[inline(always)]
    fn codes<const QUARTER: usize>(self, packed: Self::Vector) -> Self::Vector {
        // Bits of the neighbour come in above the mask.
        let shifted = match QUARTER {
            0 => packed,
            1 => self.shift_right_2(packed),
            2 => self.shift_right_4(packed),
            _ => self.shift_right_6(packed),
        };
        self.and(shifted, self.splat_i8(3))
    }
}

/// Panics if a panel has less than `end` vectors of rows.
#[inline(always)]
pub(super) fn assert_parts<V: RowLanes>(end: usize) {
    assert!(end <= PANEL_ROWS / V::ROWS, "parts of a panel");
}
