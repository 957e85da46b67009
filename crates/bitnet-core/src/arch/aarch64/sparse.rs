//! Kernels of listed rows and columns.

use std::arch::aarch64::{int8x16_t, int16x8_t, int32x4_t};

use super::{Dotprod, Neon};
use crate::panel::{LINE_COLS, PackedBlock, TILE_ROWS};
use crate::sparse::{AheadSteps, ListedColumns, ListedRows, TileSums};

/// The sums of products of listed rows and columns.
pub(super) trait SparseSums: Copy {
    /// Sums of the products of a row.
    type Row: Copy;
    /// The lines of a row after which its sums must be reduced.
    const LINES: usize;
    fn zero_row(self) -> Self::Row;
    /// Adds the products of a part of a line, 16 bytes, and the activations of its quarters.
    fn add_part(self, sums: &mut Self::Row, packed: int8x16_t, acts: [int8x16_t; 4]);
    /// Returns the sum of all products.
    fn reduce(self, sums: Self::Row) -> i32;

    /// Adds a part of the lines of listed columns, times their activations.
    fn add_columns(
        self,
        columns: ListedColumns<'_>,
        part: usize,
        sums: &mut TileSums,
        ahead: &mut AheadSteps<'_, u16>,
    );
}

/// Vectors per line.
const PARTS: usize = 4;

/// Computes [`Tier::row_dots`](crate::arch::Tier::row_dots). Rows share the loads of
/// activations: as many as there are registers for.
#[inline(always)]
pub(super) fn row_dots<I: SparseSums>(isa: I, rows: ListedRows<'_>, sums: &mut [i32]) {
    assert_eq!(sums.len(), rows.list.len(), "a sum for each row");
    let mut ahead = rows.ahead.over(sums.len().div_ceil(4));
    let (quads, rest) = rows.list.as_chunks::<4>();
    let (quad_sums, rest_sums) = sums.as_chunks_mut::<4>();
    for (list, sums) in quads.iter().zip(quad_sums) {
        ahead.step();
        dots(isa, rows, list, sums);
    }
    ahead.step();
    for (row, sum) in rest.iter().zip(rest_sums) {
        dots(
            isa,
            rows,
            std::array::from_ref(row),
            std::array::from_mut(sum),
        );
    }
}

/// Computes the dot products of `N` rows.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "bounds are constants")]
fn dots<I: SparseSums, const N: usize>(
    isa: I,
    rows: ListedRows<'_>,
    list: &[u32; N],
    out: &mut [i32; N],
) {
    let mut lines: [&[PackedBlock]; N] = [&[]; N];
    for n in 0..N {
        lines[n] = rows.lines_of(list[n]);
    }
    *out = [0; N];
    let (acts, _) = rows.acts.as_chunks::<LINE_COLS>();
    for (chunk, acts) in acts.chunks(I::LINES).enumerate() {
        let mut sums = [isa.zero_row(); N];
        for (line, acts) in acts.iter().enumerate() {
            let line = chunk * I::LINES + line;
            for part in 0..PARTS {
                let acts = unroll4!(Q => {
                    let acts = &acts[LINE_COLS / 4 * Q + 16 * part..][..16];
                    // SAFETY: there are 16 values.
                    unsafe { Neon.load(acts.as_ptr()) }
                });
                for n in 0..N {
                    isa.add_part(&mut sums[n], Neon.load_part(&lines[n][line], part), acts);
                }
            }
        }
        for n in 0..N {
            out[n] += isa.reduce(sums[n]);
        }
    }
}

/// Computes [`Tier::add_columns`](crate::arch::Tier::add_columns).
#[inline(always)]
pub(super) fn add_columns<I: SparseSums>(isa: I, columns: ListedColumns<'_>, sums: &mut TileSums) {
    let mut ahead = columns.ahead.over(PARTS * columns.list.len() / 4);
    for part in 0..PARTS {
        isa.add_columns(columns, part, sums, &mut ahead);
    }
}

/// The four sums of a tile of the bytes `4·vector..` of a part, in a quarter: see
/// [`row_of_code`](crate::sparse::row_of_code).
#[inline(always)]
fn tile_part(sums: &mut TileSums, quarter: usize, vector: usize, part: usize) -> &mut [i32; 4] {
    let sums = &mut sums.0[64 * quarter + 16 * vector + 4 * part..];
    sums.first_chunk_mut().expect("a tile has 256 rows")
}

/// Columns whose products are added in i16, where those of quarter 1 are at most 8·127. A
/// part of a row has two of them per lane, so four lines.
const I16_COLS: usize = 32;

const _: () = assert!(I16_COLS * 8 * 127 <= i16::MAX as usize);

impl Neon {
    /// Returns the codes of the quarters; those of quarter 1 are 4 times as large.
    #[inline(always)]
    fn quarters(self, packed: int8x16_t) -> [int8x16_t; 4] {
        let codes = self.splat_i8(3);
        [
            self.and(packed, codes),
            self.and(packed, self.splat_i8(3 << 2)),
            self.and(self.shift_right_4(packed), codes),
            self.shift_right_6(packed),
        ]
    }
}

/// By `smlal`, in i16.
impl SparseSums for Neon {
    /// Of quarters 0, 2 and 3, and of quarter 1.
    type Row = [int16x8_t; 2];
    const LINES: usize = I16_COLS / 2 / PARTS;

    #[inline(always)]
    fn zero_row(self) -> Self::Row {
        [self.zero_i16(); 2]
    }

    #[inline(always)]
    fn add_part(self, sums: &mut Self::Row, packed: int8x16_t, acts: [int8x16_t; 4]) {
        let codes = self.quarters(packed);
        for q in 0..4 {
            let sum = &mut sums[usize::from(q == 1)];
            *sum = self.add_products_low(*sum, codes[q], acts[q]);
            *sum = self.add_products_high(*sum, codes[q], acts[q]);
        }
    }

    #[inline(always)]
    fn reduce(self, [sum, of_1]: Self::Row) -> i32 {
        let zero = self.zero_i32();
        let sum = self.sum_i32(self.add_pairs_i16(zero, sum));
        sum + (self.sum_i32(self.add_pairs_i16(zero, of_1)) >> 2)
    }

    /// One column at a time: an activation times sixteen rows.
    #[inline(always)]
    fn add_columns(
        self,
        columns: ListedColumns<'_>,
        part: usize,
        sums: &mut TileSums,
        ahead: &mut AheadSteps<'_, u16>,
    ) {
        let acts = columns.acts.chunks(I16_COLS);
        for (list, acts) in columns.list.chunks(I16_COLS).zip(acts) {
            let mut acc = [[self.zero_i16(); 2]; 4];
            for (i, (&col, &act)) in list.iter().zip(acts).enumerate() {
                if i.is_multiple_of(4) {
                    ahead.step();
                }
                let codes = self.quarters(self.load_part(columns.line(col), part));
                let act = self.splat_i8(act);
                for q in 0..4 {
                    acc[q][0] = self.add_products_low(acc[q][0], codes[q], act);
                    acc[q][1] = self.add_products_high(acc[q][1], codes[q], act);
                }
            }
            for half in 0..2 {
                // With the factors of the quarters, but that of quarter 1 is there.
                let widened = [
                    self.widen_i16::<0>(acc[0][half]),
                    self.widen_i16::<0>(acc[1][half]),
                    self.widen_i16::<4>(acc[2][half]),
                    self.widen_i16::<6>(acc[3][half]),
                ];
                for (q, widened) in widened.into_iter().enumerate() {
                    for (v, widened) in widened.into_iter().enumerate() {
                        self.add_to(widened, tile_part(sums, q, 2 * half + v, part));
                    }
                }
            }
        }
    }
}

/// By `sdot`, in i32.
impl SparseSums for Dotprod {
    /// Of quarters 0 and 3, of quarter 1 and of quarter 2.
    type Row = [int32x4_t; 3];
    const LINES: usize = usize::MAX;

    #[inline(always)]
    fn zero_row(self) -> Self::Row {
        [Neon.zero_i32(); 3]
    }

    #[inline(always)]
    fn add_part(self, sums: &mut Self::Row, packed: int8x16_t, acts: [int8x16_t; 4]) {
        let [q0, q1, q2, q3] = quarters_by_16(packed);
        sums[0] = self.sdot_lanes(sums[0], q0, acts[0]);
        sums[1] = self.sdot_lanes(sums[1], q1, acts[1]);
        sums[2] = self.sdot_lanes(sums[2], q2, acts[2]);
        sums[0] = self.sdot_lanes(sums[0], q3, acts[3]);
    }

    #[inline(always)]
    fn reduce(self, sums: Self::Row) -> i32 {
        let [q03, q1, q2] = sums.map(|sums| Neon.sum_i32(sums));
        q03 + (q1 >> 2) + (q2 >> 4)
    }

    /// Four columns at a time: interleaved, they are operands of `sdot`.
    #[inline(always)]
    fn add_columns(
        self,
        columns: ListedColumns<'_>,
        part: usize,
        sums: &mut TileSums,
        ahead: &mut AheadSteps<'_, u16>,
    ) {
        let mut acc = [[Neon.zero_i32(); 4]; 4];
        let (quads, _) = columns.list.as_chunks::<4>();
        let (acts, _) = columns.acts.as_chunks::<4>();
        for (quad, acts) in quads.iter().zip(acts) {
            ahead.step();
            let [a, b, c, d] = unroll4!(I => Neon.load_part(columns.line(quad[I]), part));
            let vectors = Neon.interleave([a, b, c, d]);
            // SAFETY: there are four values.
            let acts = unsafe { Neon.broadcast_i8x4(acts.as_ptr()) };
            add_vector::<0>(self, &mut acc, vectors, acts);
            add_vector::<1>(self, &mut acc, vectors, acts);
            add_vector::<2>(self, &mut acc, vectors, acts);
            add_vector::<3>(self, &mut acc, vectors, acts);
        }
        for (v, acc) in acc.into_iter().enumerate() {
            let [q0, q1, q2, q3] = acc;
            // The factors of quarters 0 to 2 are there.
            let q3 = Neon.shift_left_i32_6(q3);
            for (q, acc) in [q0, q1, q2, q3].into_iter().enumerate() {
                Neon.add_to(acc, tile_part(sums, q, v, part));
            }
        }
    }
}

/// Adds the products of four rows of each quarter. Unrolled by hand, as in the dense kernel.
#[inline(always)]
fn add_vector<const V: usize>(
    isa: Dotprod,
    acc: &mut [[int32x4_t; 4]; 4],
    vectors: [int8x16_t; 4],
    acts: int8x16_t,
) {
    let [q0, q1, q2, q3] = quarters_by_16(vectors[V]);
    acc[V][0] = isa.sdot_lanes(acc[V][0], q0, acts);
    acc[V][1] = isa.sdot_lanes(acc[V][1], q1, acts);
    acc[V][2] = isa.sdot_lanes(acc[V][2], q2, acts);
    acc[V][3] = isa.sdot_lanes(acc[V][3], q3, acts);
}

/// Returns the codes of the quarters, which are 1, 4, 16 and 1 times as large: those of
/// quarter 3 would be negative where they are.
#[inline(always)]
fn quarters_by_16(packed: int8x16_t) -> [int8x16_t; 4] {
    [
        Neon.and(packed, Neon.splat_i8(3)),
        Neon.and(packed, Neon.splat_i8(3 << 2)),
        Neon.and(packed, Neon.splat_i8(3 << 4)),
        Neon.shift_right_6(packed),
    ]
}

const _: () = assert!(TILE_ROWS == 4 * 64);
