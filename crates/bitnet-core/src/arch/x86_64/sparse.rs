//! Kernels of listed rows and columns, for every tier of x86-64.

use super::row_lanes::RowLanes;
use super::vnni::Vnni;
use super::{Avx2, Avx512bw, IsaLevel};
use crate::arch::{NullaryFnOnce, prefetch};
use crate::panel::{LINE_COLS, PackedBlock, TILE_ROWS};
use crate::sparse::{ListedColumns, ListedRows, TileSums};

/// A dot product of four columns that adds to i32 lanes at once.
pub(super) trait QuadDot: IsaLevel {
    type Base: RowLanes;
    fn base(self) -> Self::Base;
    /// Adds the products of four u8, at most 128, and four i8 to every i32 lane of `sums`.
    fn quad_dot(self, sums: Vector<Self>, x: Vector<Self>, y: Vector<Self>) -> Vector<Self>;
}

type Vector<I> = <<I as QuadDot>::Base as RowLanes>::Vector;

impl<I: Vnni> QuadDot for I {
    type Base = <I as Vnni>::Base;

    #[inline(always)]
    fn base(self) -> Self::Base {
        Vnni::base(self)
    }

    #[inline(always)]
    fn quad_dot(self, sums: Vector<I>, x: Vector<I>, y: Vector<I>) -> Vector<I> {
        self.dot(sums, x, y)
    }
}

/// Implements [`QuadDot`] without `vpdpbusd`. A lane of `vpmaddubsw` is at most 2·128·127,
/// which fits in i16.
macro_rules! quad_dot_by_madd {
    ($($level:ty),+) => {
        $(
            impl QuadDot for $level {
                type Base = Self;

                #[inline(always)]
                fn base(self) -> Self {
                    self
                }

                #[inline(always)]
                fn quad_dot(
                    self,
                    sums: Vector<Self>,
                    x: Vector<Self>,
                    y: Vector<Self>,
                ) -> Vector<Self> {
                    let pairs = self.mul_u8_i8(x, y);
                    self.add_i32(sums, self.mul_i16(pairs, self.splat_i16(1)))
                }
            }
        )+
    };
}

quad_dot_by_madd!(Avx2, Avx512bw);

/// Vectors per line.
const fn parts<I: QuadDot>() -> usize {
    16 / <I::Base as RowLanes>::ROWS
}

/// Returns the codes in bits `2·quarter` of each byte, 4^quarter times as large.
#[inline(always)]
fn quarter<I: QuadDot>(isa: I, packed: Vector<I>, quarter: usize) -> Vector<I> {
    let lanes = isa.base();
    lanes.and(packed, lanes.splat_i8(3 << (2 * quarter)))
}

/// Divides the sums of a quarter by its factor.
#[inline(always)]
fn rescale<V: RowLanes>(lanes: V, sums: [V::Vector; 4]) -> V::Vector {
    let [q0, q1, q2, q3] = sums;
    let low = lanes.add_i32(q0, lanes.shift_right_i32_2(q1));
    let high = lanes.add_i32(lanes.shift_right_i32_4(q2), lanes.shift_right_i32_6(q3));
    lanes.add_i32(low, high)
}

/// See [`Tier::row_dots`](crate::arch::Tier::row_dots).
pub(super) fn row_dots<I: QuadDot>(isa: I, rows: ListedRows<'_>, sums: &mut [i32]) {
    isa.vectorize(RowDots { isa, rows, sums });
}

struct RowDots<'a, I> {
    isa: I,
    rows: ListedRows<'a>,
    sums: &'a mut [i32],
}

impl<I: QuadDot> NullaryFnOnce for RowDots<'_, I> {
    type Output = ();

    /// Rows share the loads of activations: as many as there are registers for.
    #[inline(always)]
    fn call(self) {
        let list = self.rows.list;
        assert_eq!(self.sums.len(), list.len(), "a sum for each row");
        let mut done = 0;
        while list.len() - done >= 4 && parts::<I>() == 1 {
            dots::<I, 4>(self.isa, self.rows, done, self.sums);
            done += 4;
        }
        while list.len() - done >= 2 {
            dots::<I, 2>(self.isa, self.rows, done, self.sums);
            done += 2;
        }
        if done < list.len() {
            dots::<I, 1>(self.isa, self.rows, done, self.sums);
        }
    }
}

/// Computes the dot products of `N` rows of a list from `first` on.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "bounds are constants")]
fn dots<I: QuadDot, const N: usize>(isa: I, rows: ListedRows<'_>, first: usize, sums: &mut [i32]) {
    let lanes = isa.base();
    let mut lines: [&[PackedBlock]; N] = [&[]; N];
    for n in 0..N {
        lines[n] = rows.lines_of(rows.list[first + n]);
    }
    let mut quarters = [[lanes.zero(); 4]; N];
    let (acts, _) = rows.acts.as_chunks::<LINE_COLS>();
    for (line, acts) in acts.iter().enumerate() {
        for part in 0..parts::<I>() {
            let mut packed = [lanes.zero(); N];
            for n in 0..N {
                packed[n] = lanes.load_part(&lines[n][line], part);
            }
            for q in 0..4 {
                let col = LINE_COLS / 4 * q + 4 * <I::Base as RowLanes>::ROWS * part;
                // SAFETY: `col` is the first column of a part of a quarter of the line, and
                // there are as many as a vector has bytes.
                let acts = unsafe { lanes.load_unaligned(acts.as_ptr().add(col).cast()) };
                for n in 0..N {
                    let codes = quarter(isa, packed[n], q);
                    quarters[n][q] = isa.quad_dot(quarters[n][q], codes, acts);
                }
            }
        }
    }
    let sums = &mut sums[first..][..N];
    for n in 0..N {
        sums[n] = lanes.sum_i32(rescale(lanes, quarters[n]));
    }
}

/// See [`Tier::add_columns`](crate::arch::Tier::add_columns).
pub(super) fn add_columns<I: QuadDot>(isa: I, columns: ListedColumns<'_>, sums: &mut TileSums) {
    isa.vectorize(AddColumns { isa, columns, sums });
}

struct AddColumns<'a, I> {
    isa: I,
    columns: ListedColumns<'a>,
    sums: &'a mut TileSums,
}

impl<I: QuadDot> NullaryFnOnce for AddColumns<'_, I> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { isa, columns, sums } = self;
        for &col in columns.ahead {
            prefetch(columns.line(col));
        }
        for part in 0..parts::<I>() {
            add_half::<I, false>(isa, columns, part, sums);
            add_half::<I, true>(isa, columns, part, sums);
        }
    }
}

/// Adds the rows of the lower or upper halves of 16-byte lanes of a part of lines: eight
/// accumulators, which leaves as many registers for operands without AVX-512.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "bounds are constants")]
fn add_half<I: QuadDot, const HIGH: bool>(
    isa: I,
    columns: ListedColumns<'_>,
    part: usize,
    sums: &mut TileSums,
) {
    let lanes = isa.base();
    let n_rows = <I::Base as RowLanes>::ROWS;
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
                let codes = quarter(isa, vectors[vector], q);
                acc[vector][q] = isa.quad_dot(acc[vector][q], codes, acts);
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

const _: () = assert!(TILE_ROWS == 4 * 64);
