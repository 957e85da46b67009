//! The dot product extension: `sdot` multiplies four columns of four rows by four
//! activations, selected from a register of sixteen.

use std::arch::aarch64::{int8x16_t, int32x4_t};
use std::arch::asm;
use std::hint::black_box;

use super::{Int8, Neon, Ternary, Weights, rows, sparse};
use crate::arch::{Tier, prefetch_ahead};
use crate::panel::{Acc, COL_STEP, Operands, PANEL_ROWS, PackedBlock};
use crate::sparse::{ListedColumns, ListedRows, TileSums};

/// A processor with the dot product extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dotprod(());

impl Dotprod {
    /// Returns the level if this processor supports `sdot`.
    pub(crate) fn new() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("dotprod").then_some(Self(()))
    }

    fn panel<W: Weights>(self, operands: Operands<'_>, acc: &mut Acc) {
        for (operands, acc) in operands.tiles::<4>(acc) {
            // SAFETY: `self` proves that `new` has detected the extension.
            unsafe {
                match acc.len() {
                    4 => tile::<W, 4, 1>(self, operands, acc),
                    2 => tile::<W, 2, 2>(self, operands, acc),
                    _ => tile::<W, 1, 4>(self, operands, acc),
                }
            }
        }
    }

    /// Adds to each lane the products of its four weights and the activations
    /// `4·QUAD..4·QUAD + 4`.
    #[inline(always)]
    fn sdot<const QUAD: usize>(
        self,
        mut sums: int32x4_t,
        weights: int8x16_t,
        acts: int8x16_t,
    ) -> int32x4_t {
        // SAFETY: `self` proves that the instruction is supported, and it accesses
        // registers only.
        unsafe {
            asm!(
                "sdot {sums:v}.4s, {weights:v}.16b, {acts:v}.4b[{quad}]",
                sums = inout(vreg) sums,
                weights = in(vreg) weights,
                acts = in(vreg) acts,
                quad = const QUAD,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sums
    }
}

impl Dotprod {
    /// Adds to each lane the products of four weights and four activations.
    #[inline(always)]
    pub(super) fn sdot_lanes(
        self,
        mut sums: int32x4_t,
        weights: int8x16_t,
        acts: int8x16_t,
    ) -> int32x4_t {
        // SAFETY: `self` proves that the instruction is supported, and it accesses
        // registers only.
        unsafe {
            asm!(
                "sdot {sums:v}.4s, {weights:v}.16b, {acts:v}.16b",
                sums = inout(vreg) sums,
                weights = in(vreg) weights,
                acts = in(vreg) acts,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sums
    }
}

impl Tier for Dotprod {
    const NAME: &'static str = "aarch64-i2xi8-dotprod";
    const NEEDS: &'static str = "the dot product extension";
    const HAS_SPARSE: bool = true;

    type Floats = Neon;

    #[inline(always)]
    fn floats(self) -> Neon {
        Neon
    }

    fn ternary_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        self.panel::<Ternary>(operands, acc);
    }

    fn int8_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        self.panel::<Int8>(operands, acc);
    }

    fn row_dots(self, rows: ListedRows<'_>, sums: &mut [i32]) {
        // SAFETY: `self` proves that `new` has detected the extension.
        unsafe { row_dots(self, rows, sums) };
    }

    fn add_columns(self, columns: ListedColumns<'_>, sums: &mut TileSums) {
        // SAFETY: as above.
        unsafe { add_columns(self, columns, sums) };
    }

    fn int8_peak_rounds(self, n_rounds: usize) -> Option<usize> {
        // `sdot` on registers.
        // SAFETY: `self` proves that `new` has detected the extension.
        Some(unsafe { peak_rounds(self, n_rounds) })
    }
}

#[target_feature(enable = "dotprod")]
fn row_dots(isa: Dotprod, rows: ListedRows<'_>, sums: &mut [i32]) {
    sparse::row_dots(isa, rows, sums);
}

#[target_feature(enable = "dotprod")]
fn add_columns(isa: Dotprod, columns: ListedColumns<'_>, sums: &mut TileSums) {
    sparse::add_columns(isa, columns, sums);
}

/// `[token][part of the panel][chain]`.
type Sums<const N: usize, const CHAINS: usize> = [[[int32x4_t; CHAINS]; PANEL_ROWS / 4]; N];

/// Computes `N` tokens with sixteen accumulators of four rows: four parts of the panel per
/// token and `CHAINS` accumulators for each, which hide the latency of `sdot`.
#[target_feature(enable = "dotprod")]
#[expect(clippy::needless_range_loop, reason = "bounds are constants")]
fn tile<W: Weights, const N: usize, const CHAINS: usize>(
    isa: Dotprod,
    operands: Operands<'_>,
    acc: &mut Acc,
) {
    let blocks = operands.blocks;
    let rows = rows::<N>(operands, COL_STEP * (blocks.len() / W::BLOCKS));
    let mut sums: Sums<N, CHAINS> = [[[Neon.zero_i32(); CHAINS]; PANEL_ROWS / 4]; N];
    for (step, blocks) in blocks.chunks_exact(W::BLOCKS).enumerate() {
        prefetch_ahead(blocks);
        let mut acts = [Neon.splat_i8(0); N];
        for t in 0..N {
            // SAFETY: the rows have 16 columns per step, as `rows` has checked.
            acts[t] = unsafe { Neon.load(rows[t].add(COL_STEP * step)) };
        }
        add_quad::<W, N, CHAINS, 0>(isa, &mut sums, blocks, acts);
        add_quad::<W, N, CHAINS, 1>(isa, &mut sums, blocks, acts);
        add_quad::<W, N, CHAINS, 2>(isa, &mut sums, blocks, acts);
        add_quad::<W, N, CHAINS, 3>(isa, &mut sums, blocks, acts);
    }
    for t in 0..N {
        for p in 0..PANEL_ROWS / 4 {
            let mut sum = sums[t][p][0];
            for c in 1..CHAINS {
                sum = Neon.add_i32(sum, sums[t][p][c]);
            }
            let (parts, _) = acc[t].as_chunks_mut::<4>();
            Neon.store(sum, &mut parts[p]);
        }
    }
}

/// Adds the columns `4·QUAD..` of a step, part by part. Unrolled by hand, because a loop
/// around inline assembly is not unrolled, and a variable index would keep the sums in
/// memory.
#[inline(always)]
fn add_quad<W: Weights, const N: usize, const CHAINS: usize, const QUAD: usize>(
    isa: Dotprod,
    sums: &mut Sums<N, CHAINS>,
    blocks: &[PackedBlock],
    acts: [int8x16_t; N],
) {
    add_part::<W, N, CHAINS, QUAD, 0>(isa, sums, blocks, acts);
    add_part::<W, N, CHAINS, QUAD, 1>(isa, sums, blocks, acts);
    add_part::<W, N, CHAINS, QUAD, 2>(isa, sums, blocks, acts);
    add_part::<W, N, CHAINS, QUAD, 3>(isa, sums, blocks, acts);
}

#[inline(always)]
fn add_part<
    W: Weights,
    const N: usize,
    const CHAINS: usize,
    const QUAD: usize,
    const PART: usize,
>(
    isa: Dotprod,
    sums: &mut Sums<N, CHAINS>,
    blocks: &[PackedBlock],
    acts: [int8x16_t; N],
) {
    let weights = W::operand::<QUAD>(Neon, blocks, PART);
    for t in 0..N {
        let sum = &mut sums[t][PART][QUAD % CHAINS];
        *sum = isa.sdot::<QUAD>(*sum, weights, acts[t]);
    }
}

#[target_feature(enable = "dotprod")]
fn peak_rounds(isa: Dotprod, n_rounds: usize) -> usize {
    const CHAINS: usize = 16;
    let factor = black_box(Neon.splat_i8(1));
    let mut sums = [Neon.zero_i32(); CHAINS];
    for _ in 0..n_rounds {
        for sum in &mut sums {
            *sum = isa.sdot::<0>(*sum, factor, factor);
        }
    }
    black_box(sums);
    n_rounds * CHAINS * 16
}
