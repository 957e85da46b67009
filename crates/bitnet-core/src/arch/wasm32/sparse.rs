//! Kernels of listed rows and columns.

use std::arch::wasm32::{
    i8x16_shuffle, i16x8_shl, i16x8_shr, i16x8_shuffle, i16x8_splat, i32x4_add, i32x4_extract_lane,
    i32x4_shuffle, i32x4_splat, v128, v128_and, v128_load, v128_load32_splat, v128_store,
};

use super::{PARTS, add_products, even_and_odd, extended, load_part, quarter_masks};
use crate::panel::{LINE_COLS, PackedBlock, TILE_ROWS};
use crate::sparse::{ListedColumns, ListedRows, TileSums};

/// See [`Tier::row_dots`](crate::arch::Tier::row_dots). Two rows share the activations.
pub(super) fn row_dots(rows: ListedRows<'_>, sums: &mut [i32]) {
    assert_eq!(sums.len(), rows.list.len(), "a sum for each row");
    let (pairs, rest) = rows.list.as_chunks::<2>();
    let (pair_sums, rest_sums) = sums.as_chunks_mut::<2>();
    for (list, sums) in pairs.iter().zip(pair_sums) {
        dots(rows, list, sums);
    }
    for (row, sum) in rest.iter().zip(rest_sums) {
        dots(rows, std::array::from_ref(row), std::array::from_mut(sum));
    }
}

/// Computes the dot products of `N` rows.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "bounds are constants")]
fn dots<const N: usize>(rows: ListedRows<'_>, list: &[u32; N], out: &mut [i32; N]) {
    let masks = quarter_masks();
    let lines: [&[PackedBlock]; N] = std::array::from_fn(|n| rows.lines_of(list[n]));
    let mut sums = [i32x4_splat(0); N];
    for (line, acts) in rows.acts.as_chunks::<LINE_COLS>().0.iter().enumerate() {
        for part in 0..PARTS {
            let mut packed = [[i32x4_splat(0); 2]; N];
            for n in 0..N {
                packed[n] = even_and_odd(load_part(&lines[n][line], part));
            }
            // Multiplied by what codes lack to be 64 times their values.
            let acts = unroll4!(Q => {
                let acts = &acts[LINE_COLS / 4 * Q + 16 * part..][..16];
                // SAFETY: there are 16 bytes.
                let acts = unsafe { v128_load(acts.as_ptr().cast()) };
                [
                    i16x8_shr(i16x8_shl(acts, 8), 2 + 2 * Q as u32),
                    i16x8_shr(v128_and(acts, i16x8_splat(!0xff)), 2 + 2 * Q as u32),
                ]
            });
            for n in 0..N {
                for q in 0..4 {
                    sums[n] = add_products(sums[n], packed[n], masks[q], acts[q]);
                }
            }
        }
    }
    *out = sums.map(|sums| sum_lanes(sums) >> 6);
}

#[inline(always)]
fn sum_lanes(x: v128) -> i32 {
    let x = i32x4_add(x, i32x4_shuffle::<2, 3, 2, 3>(x, x));
    i32x4_extract_lane::<0>(x) + i32x4_extract_lane::<1>(x)
}

/// See [`Tier::add_columns`](crate::arch::Tier::add_columns).
pub(super) fn add_columns(columns: ListedColumns<'_>, sums: &mut TileSums) {
    for part in 0..PARTS {
        add_half::<false>(columns, part, sums);
        add_half::<true>(columns, part, sums);
    }
}

/// Adds the rows of the lower or upper half of a part of lines: eight accumulators.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "bounds are constants")]
fn add_half<const HIGH: bool>(columns: ListedColumns<'_>, part: usize, sums: &mut TileSums) {
    let masks = quarter_masks();
    // The first sum of a vector: see `row_of_code`.
    let at = |vector: usize, quarter: usize| {
        64 * quarter + 16 * (2 * usize::from(HIGH) + vector) + 4 * part
    };
    let mut acc = [[i32x4_splat(0); 4]; 2];
    for vector in 0..2 {
        for q in 0..4 {
            let from = &sums.0[at(vector, q)..][..4];
            // SAFETY: the slice has four lanes.
            acc[vector][q] = unsafe { v128_load(from.as_ptr().cast()) };
        }
    }
    let (quads, _) = columns.list.as_chunks::<4>();
    let (acts, _) = columns.acts.as_chunks::<4>();
    for (quad, acts) in quads.iter().zip(acts) {
        let [a, b, c, d] = quad.map(|col| load_part(columns.line(col), part));
        let (ab, cd) = (interleave::<HIGH>(a, b), interleave::<HIGH>(c, d));
        let vectors = [
            even_and_odd(i16x8_shuffle::<0, 8, 1, 9, 2, 10, 3, 11>(ab, cd)),
            even_and_odd(i16x8_shuffle::<4, 12, 5, 13, 6, 14, 7, 15>(ab, cd)),
        ];
        // SAFETY: there are four bytes.
        let acts = extended(unsafe { v128_load32_splat(acts.as_ptr().cast()) });
        for vector in 0..2 {
            for q in 0..4 {
                acc[vector][q] = add_products(acc[vector][q], vectors[vector], masks[q], acts);
            }
        }
    }
    for vector in 0..2 {
        for q in 0..4 {
            let to = &mut sums.0[at(vector, q)..][..4];
            // SAFETY: the slice has four lanes.
            unsafe { v128_store(to.as_mut_ptr().cast(), acc[vector][q]) };
        }
    }
}

/// Interleaves the bytes of the lower or upper halves.
#[inline(always)]
fn interleave<const HIGH: bool>(a: v128, b: v128) -> v128 {
    if HIGH {
        i8x16_shuffle::<8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31>(a, b)
    } else {
        i8x16_shuffle::<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(a, b)
    }
}

const _: () = assert!(TILE_ROWS == 4 * 64);
