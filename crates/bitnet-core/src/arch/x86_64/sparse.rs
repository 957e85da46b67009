//! Kernels of listed rows and columns, for every tier of x86-64, by the two algorithms of
//! the dense kernels.
//!
//! 256 bits, instructions per line of 64 bytes, two rows or many columns at once, without
//! addresses and prefetches:
//!
//! | kernel | algorithm | loads | `vpand` | shifts | interleaves | multiplications | additions |
//! |---|---|---|---|---|---|---|---|
//! | rows | [`madd`](super::madd) | 6 | 8 | 2 | – | 8.5 | 8.5 |
//! | rows | [`vnni`](super::vnni) | 6 | 8 | – | – | 8 | – |
//! | columns | [`madd`](super::madd) | 2 | 8 | 2 | 2 | 8 | 8 |
//! | columns | [`vnni`](super::vnni) | 4 | 8 | – | 4 | 8 | – |

use super::row_lanes::RowLanes;
use super::vnni::Vnni;
use super::{Avx2, Avx512bw, IsaLevel};
use crate::arch::NullaryFnOnce;
use crate::panel::{LINE_COLS, PackedBlock, TILE_ROWS};
use crate::sparse::{AheadSteps, ListedColumns, ListedRows, TileSums};

/// The sums of products of listed rows and columns.
pub(super) trait SparseSums: IsaLevel {
    type Base: RowLanes;
    fn base(self) -> Self::Base;

    /// Sums of the products of a row.
    type Row: Copy;
    /// The lines of a row after which its sums must be widened.
    const LINES: usize;
    fn zero_row(self) -> Self::Row;
    /// Adds the products of a part of a line and the activations of its quarters.
    fn add_part(self, sums: &mut Self::Row, packed: Vector<Self>, acts: [Vector<Self>; 4]);
    /// Returns the sums of a row as i32 lanes, all of which belong to the row.
    fn widen(self, sums: Self::Row) -> Vector<Self>;

    /// Adds a part of the lines of listed columns, times their activations.
    fn add_columns(
        self,
        columns: ListedColumns<'_>,
        part: usize,
        sums: &mut TileSums,
        ahead: &mut AheadSteps<'_, u16>,
    );
}

type Vector<I> = <<I as SparseSums>::Base as RowLanes>::Vector;

/// By `vpdpbusd`: codes are 4^quarter times as large, at most 128, and every quarter has its
/// own sums.
impl<I: Vnni> SparseSums for I {
    type Base = <I as Vnni>::Base;

    #[inline(always)]
    fn base(self) -> Self::Base {
        Vnni::base(self)
    }

    type Row = [Vector<I>; 4];
    const LINES: usize = usize::MAX;

    #[inline(always)]
    fn zero_row(self) -> Self::Row {
        [self.base().zero(); 4]
    }

    #[inline(always)]
    fn add_part(self, sums: &mut Self::Row, packed: Vector<I>, acts: [Vector<I>; 4]) {
        for q in 0..4 {
            sums[q] = self.dot(sums[q], quarter(self.base(), packed, q), acts[q]);
        }
    }

    #[inline(always)]
    fn widen(self, [q0, q1, q2, q3]: Self::Row) -> Vector<I> {
        let lanes = self.base();
        let low = lanes.add_i32(q0, lanes.shift_right_i32_2(q1));
        let high = lanes.add_i32(lanes.shift_right_i32_4(q2), lanes.shift_right_i32_6(q3));
        lanes.add_i32(low, high)
    }

    #[inline(always)]
    fn add_columns(
        self,
        columns: ListedColumns<'_>,
        part: usize,
        sums: &mut TileSums,
        ahead: &mut AheadSteps<'_, u16>,
    ) {
        add_quads::<I, false>(self, columns, part, sums, ahead);
        add_quads::<I, true>(self, columns, part, sums, ahead);
    }
}

/// The most a lane of `vpmaddubsw` is for quarters 0 and 2, and for 1 and 3, whose codes are
/// 4 times as large: 2 and 3 are shifted to 0 and 1.
const MAX_PAIR: [usize; 2] = [2 * 2 * 127, 2 * 8 * 127];

/// Products of a lane that are added in i16.
const I16_PRODUCTS: usize = 16;

const _: () = assert!(I16_PRODUCTS * MAX_PAIR[1] <= i16::MAX as usize);

/// By `vpmaddubsw`, and additions in i16.
macro_rules! sparse_sums_by_madd {
    ($($level:ty),+) => {
        $(
            impl SparseSums for $level {
                type Base = Self;

                #[inline(always)]
                fn base(self) -> Self {
                    self
                }

                /// Of quarters 0 and 2, and of quarters 1 and 3.
                type Row = [Vector<Self>; 2];
                // Two products per part.
                const LINES: usize = I16_PRODUCTS / 2 / parts::<Self>();

                #[inline(always)]
                fn zero_row(self) -> Self::Row {
                    [self.zero(); 2]
                }

                #[inline(always)]
                fn add_part(
                    self,
                    sums: &mut Self::Row,
                    packed: Vector<Self>,
                    acts: [Vector<Self>; 4],
                ) {
                    let codes = quarters_by_two(self, packed);
                    for q in 0..4 {
                        sums[q % 2] = self.add_i16(sums[q % 2], self.mul_u8_i8(codes[q], acts[q]));
                    }
                }

                #[inline(always)]
                fn widen(self, [even, odd]: Self::Row) -> Vector<Self> {
                    let ones = self.splat_i16(1);
                    let odd = self.shift_right_i32_2(self.mul_i16(odd, ones));
                    self.add_i32(self.mul_i16(even, ones), odd)
                }

                #[inline(always)]
                fn add_columns(
                    self,
                    columns: ListedColumns<'_>,
                    part: usize,
                    sums: &mut TileSums,
                    ahead: &mut AheadSteps<'_, u16>,
                ) {
                    add_pairs(self, columns, part, sums, ahead);
                }
            }
        )+
    };
}

sparse_sums_by_madd!(Avx2, Avx512bw);

/// Vectors per line.
const fn parts<I: SparseSums>() -> usize {
    16 / <I::Base as RowLanes>::ROWS
}

/// Returns the codes in bits `2·quarter` of each byte, 4^quarter times as large.
#[inline(always)]
fn quarter<V: RowLanes>(lanes: V, packed: V::Vector, quarter: usize) -> V::Vector {
    lanes.and(packed, lanes.splat_i8(3 << (2 * quarter)))
}

/// Returns the codes of the quarters; those of quarters 1 and 3 are 4 times as large.
#[inline(always)]
fn quarters_by_two<V: RowLanes>(lanes: V, packed: V::Vector) -> [V::Vector; 4] {
    let shifted = lanes.shift_right_4(packed);
    [
        quarter(lanes, packed, 0),
        quarter(lanes, packed, 1),
        quarter(lanes, shifted, 0),
        quarter(lanes, shifted, 1),
    ]
}

/// See [`Tier::row_dots`](crate::arch::Tier::row_dots).
pub(super) fn row_dots<I: SparseSums>(isa: I, rows: ListedRows<'_>, sums: &mut [i32]) {
    isa.vectorize(RowDots { isa, rows, sums });
}

struct RowDots<'a, I> {
    isa: I,
    rows: ListedRows<'a>,
    sums: &'a mut [i32],
}

impl<I: SparseSums> NullaryFnOnce for RowDots<'_, I> {
    type Output = ();

    /// Rows share the loads of activations: as many as there are registers for.
    #[inline(always)]
    fn call(self) {
        let list = self.rows.list;
        assert_eq!(self.sums.len(), list.len(), "a sum for each row");
        let rows_at_once = if parts::<I>() == 1 { 4 } else { 2 };
        let mut ahead = self.rows.ahead.over(list.len().div_ceil(rows_at_once));
        let mut done = 0;
        while list.len() - done >= 4 && parts::<I>() == 1 {
            ahead.step();
            dots::<I, 4>(self.isa, self.rows, done, self.sums);
            done += 4;
        }
        while list.len() - done >= 2 {
            ahead.step();
            dots::<I, 2>(self.isa, self.rows, done, self.sums);
            done += 2;
        }
        if done < list.len() {
            ahead.step();
            dots::<I, 1>(self.isa, self.rows, done, self.sums);
        }
    }
}

/// Computes the dot products of `N` rows of a list from `first` on.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "bounds are constants")]
fn dots<I: SparseSums, const N: usize>(
    isa: I,
    rows: ListedRows<'_>,
    first: usize,
    sums: &mut [i32],
) {
    let lanes = isa.base();
    let mut lines: [&[PackedBlock]; N] = [&[]; N];
    for n in 0..N {
        lines[n] = rows.lines_of(rows.list[first + n]);
    }
    let mut totals = [lanes.zero(); N];
    let (acts, _) = rows.acts.as_chunks::<LINE_COLS>();
    for (chunk, acts) in acts.chunks(I::LINES).enumerate() {
        let mut row_sums = [isa.zero_row(); N];
        for (line, acts) in acts.iter().enumerate() {
            let line = chunk * I::LINES + line;
            for part in 0..parts::<I>() {
                let mut quarters = [lanes.zero(); 4];
                for q in 0..4 {
                    let col = LINE_COLS / 4 * q + 4 * <I::Base as RowLanes>::ROWS * part;
                    // SAFETY: `col` is the first column of a part of a quarter of the line,
                    // and there are as many as a vector has bytes.
                    quarters[q] = unsafe { lanes.load_unaligned(acts.as_ptr().add(col).cast()) };
                }
                for n in 0..N {
                    let packed = lanes.load_part(&lines[n][line], part);
                    isa.add_part(&mut row_sums[n], packed, quarters);
                }
            }
        }
        for n in 0..N {
            totals[n] = lanes.add_i32(totals[n], isa.widen(row_sums[n]));
        }
    }
    let sums = &mut sums[first..][..N];
    for n in 0..N {
        sums[n] = lanes.sum_i32(totals[n]);
    }
}

/// See [`Tier::add_columns`](crate::arch::Tier::add_columns).
pub(super) fn add_columns<I: SparseSums>(isa: I, columns: ListedColumns<'_>, sums: &mut TileSums) {
    isa.vectorize(AddColumns { isa, columns, sums });
}

struct AddColumns<'a, I> {
    isa: I,
    columns: ListedColumns<'a>,
    sums: &'a mut TileSums,
}

impl<I: SparseSums> NullaryFnOnce for AddColumns<'_, I> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { isa, columns, sums } = self;
        // By pairs of columns, or quads of which both halves are computed in turn.
        let n_steps = parts::<I>() * columns.list.len() / 2;
        let mut ahead = columns.ahead.over(n_steps);
        for part in 0..parts::<I>() {
            isa.add_columns(columns, part, sums, &mut ahead);
        }
    }
}

/// Adds the rows of the lower or upper halves of 16-byte lanes of a part of lines: eight
/// accumulators, which leaves as many registers for operands without AVX-512. Four columns at
/// a time: interleaved, they are an operand.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "bounds are constants")]
fn add_quads<I: Vnni, const HIGH: bool>(
    isa: I,
    columns: ListedColumns<'_>,
    part: usize,
    sums: &mut TileSums,
    ahead: &mut AheadSteps<'_, u16>,
) {
    let lanes = Vnni::base(isa);
    let n_rows = <<I as Vnni>::Base as RowLanes>::ROWS;
    // The first sum of a vector: see `row_of_code`.
    let at = |vector: usize, quarter: usize| {
        64 * quarter + 16 * (2 * usize::from(HIGH) + vector) + n_rows * part
    };
    let mut acc = [[lanes.zero(); 4]; 2];
    for vector in 0..2 {
        for q in 0..4 {
            let from = &sums.0[at(vector, q)..][..n_rows];
            // SAFETY: the slice has as many lanes as a vector.
            acc[vector][q] = unsafe { lanes.load_unaligned(from.as_ptr().cast()) };
        }
    }
    let (quads, _) = columns.list.as_chunks::<4>();
    let (acts, _) = columns.acts.as_chunks::<4>();
    for (quad, acts) in quads.iter().zip(acts) {
        ahead.step();
        // Not by `map` of arrays, which is compiled without the instruction set.
        let [a, b, c, d] = *quad;
        let a = lanes.load_part(columns.line(a), part);
        let b = lanes.load_part(columns.line(b), part);
        let c = lanes.load_part(columns.line(c), part);
        let d = lanes.load_part(columns.line(d), part);
        let (ab, cd) = if HIGH {
            (
                lanes.interleave_high_i8(a, b),
                lanes.interleave_high_i8(c, d),
            )
        } else {
            (lanes.interleave_low_i8(a, b), lanes.interleave_low_i8(c, d))
        };
        let vectors = [
            lanes.interleave_low_i16(ab, cd),
            lanes.interleave_high_i16(ab, cd),
        ];
        // SAFETY: there are four values.
        let acts = unsafe { lanes.broadcast_i8x4(acts.as_ptr()) };
        for vector in 0..2 {
            for q in 0..4 {
                let codes = quarter(lanes, vectors[vector], q);
                acc[vector][q] = isa.dot(acc[vector][q], codes, acts);
            }
        }
    }
    for vector in 0..2 {
        for q in 0..4 {
            let to = &mut sums.0[at(vector, q)..][..n_rows];
            // SAFETY: the slice has as many lanes as a vector.
            unsafe { lanes.store(acc[vector][q], to.as_mut_ptr()) };
        }
    }
}

/// Adds a part of lines in i16, two columns at a time: interleaved, they are an operand.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "bounds are constants")]
fn add_pairs<V: RowLanes>(
    lanes: V,
    columns: ListedColumns<'_>,
    part: usize,
    sums: &mut TileSums,
    ahead: &mut AheadSteps<'_, u16>,
) {
    let chunks = columns.list.chunks(2 * I16_PRODUCTS);
    for (list, acts) in chunks.zip(columns.acts.chunks(2 * I16_PRODUCTS)) {
        let mut acc = [[lanes.zero(); 4]; 2];
        let (pairs, _) = list.as_chunks::<2>();
        let (acts, _) = acts.as_chunks::<2>();
        for ([a, b], acts) in pairs.iter().zip(acts) {
            ahead.step();
            let a = lanes.load_part(columns.line(*a), part);
            let b = lanes.load_part(columns.line(*b), part);
            let halves = [
                lanes.interleave_low_i8(a, b),
                lanes.interleave_high_i8(a, b),
            ];
            let acts = lanes.splat_i16(i16::from_le_bytes(acts.map(|act| act as u8)));
            for half in 0..2 {
                let codes = quarters_by_two(lanes, halves[half]);
                for q in 0..4 {
                    let products = lanes.mul_u8_i8(codes[q], acts);
                    acc[half][q] = lanes.add_i16(acc[half][q], products);
                }
            }
        }
        for half in 0..2 {
            for q in 0..4 {
                // The factor of quarters 2 and 3 that the shift removed.
                let factor = lanes.splat_i16(if q < 2 { 1 } else { 16 });
                let widened = [
                    lanes.interleave_low_i16(acc[half][q], lanes.zero()),
                    lanes.interleave_high_i16(acc[half][q], lanes.zero()),
                ];
                for vector in 0..2 {
                    // The first sum of a vector: see `row_of_code`.
                    let at = 64 * q + 16 * (2 * half + vector) + V::ROWS * part;
                    let sums = &mut sums.0[at..][..V::ROWS];
                    // SAFETY: the slice has as many lanes as a vector.
                    unsafe {
                        let old = lanes.load_unaligned(sums.as_ptr().cast());
                        let new = lanes.add_i32(old, lanes.mul_i16(widened[vector], factor));
                        lanes.store(new, sums.as_mut_ptr());
                    }
                }
            }
        }
    }
}

const _: () = assert!(TILE_ROWS == 4 * 64);
