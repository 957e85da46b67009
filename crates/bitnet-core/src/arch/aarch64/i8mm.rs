//! The int8 matrix extension: `smmla` multiplies eight columns of two rows by two tokens. A
//! single token uses `sdot`.

use std::arch::aarch64::{int8x16_t, int32x4_t};
use std::arch::asm;
use std::hint::black_box;

use super::dotprod::Dotprod;
use super::{Int8, Neon, Ternary, Weights, rows};
use crate::arch::{Tier, prefetch_ahead};
use crate::panel::{Acc, COL_STEP, Operands, PackedBlock};
use crate::sparse::{ListedColumns, ListedRows, TileSums};

/// A processor with the int8 matrix and dot product extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct I8mm(Dotprod);

impl I8mm {
    /// Returns the level if this processor supports `smmla` and `sdot`.
    pub(crate) fn new() -> Option<Self> {
        let dotprod = Dotprod::new()?;
        std::arch::is_aarch64_feature_detected!("i8mm").then_some(Self(dotprod))
    }

    /// Computes half a panel at a time: four pairs of rows by one, two or four pairs of
    /// tokens.
    fn tiles<W: Weights>(self, operands: Operands<'_>, acc: &mut Acc) {
        for half in 0..2 {
            // SAFETY: `self` proves that `new` has detected the extension.
            unsafe {
                match acc.len() {
                    8 => tile::<W, 8, 4>(self, operands, half, acc),
                    4 => tile::<W, 4, 2>(self, operands, half, acc),
                    _ => tile::<W, 2, 1>(self, operands, half, acc),
                }
            }
        }
    }

    /// Adds the product of two rows of eight weights and two rows of eight activations.
    #[inline(always)]
    fn smmla(self, mut sums: int32x4_t, weights: int8x16_t, acts: int8x16_t) -> int32x4_t {
        // SAFETY: `self` proves that the instruction is supported, and it accesses
        // registers only.
        unsafe {
            asm!(
                "smmla {sums:v}.4s, {weights:v}.16b, {acts:v}.16b",
                sums = inout(vreg) sums,
                weights = in(vreg) weights,
                acts = in(vreg) acts,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sums
    }
}

impl Tier for I8mm {
    const NAME: &'static str = "aarch64-i2xi8-i8mm";
    const NEEDS: &'static str = "the dot product and int8 matrix extensions";
    const HAS_SPARSE: bool = true;

    type Floats = Neon;

    #[inline(always)]
    fn floats(self) -> Neon {
        Neon
    }

    fn ternary_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        for (operands, acc) in operands.tiles::<8>(acc) {
            if acc.len() == 1 {
                self.0.ternary_panel(operands, acc);
            } else {
                self.tiles::<Ternary>(operands, acc);
            }
        }
    }

    fn int8_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        for (operands, acc) in operands.tiles::<8>(acc) {
            if acc.len() == 1 {
                self.0.int8_panel(operands, acc);
            } else {
                self.tiles::<Int8>(operands, acc);
            }
        }
    }

    fn row_dots(self, rows: ListedRows<'_>, sums: &mut [i32]) {
        self.0.row_dots(rows, sums);
    }

    fn add_columns(self, columns: ListedColumns<'_>, sums: &mut TileSums) {
        self.0.add_columns(columns, sums);
    }

    fn int8_peak_rounds(self, n_rounds: usize) -> Option<usize> {
        // `smmla` on registers.
        // SAFETY: `self` proves that `new` has detected the extension.
        Some(unsafe { peak_rounds(self, n_rounds) })
    }
}

/// Computes `N` tokens, as `PAIRS` pairs, by eight rows. The lanes of a sum are row 0 token
/// 0, row 0 token 1, row 1 token 0, row 1 token 1.
#[target_feature(enable = "i8mm")]
#[expect(clippy::needless_range_loop, reason = "bounds are constants")]
fn tile<W: Weights, const N: usize, const PAIRS: usize>(
    isa: I8mm,
    operands: Operands<'_>,
    half: usize,
    acc: &mut Acc,
) {
    const { assert!(N == 2 * PAIRS) };
    assert!(half < 2, "a half of a panel");
    let blocks = operands.blocks;
    let rows = rows::<N>(operands, COL_STEP * (blocks.len() / W::BLOCKS));
    let mut sums = [[Neon.zero_i32(); 4]; PAIRS];
    for (step, blocks) in blocks.chunks_exact(W::BLOCKS).enumerate() {
        // The other half reads the same blocks.
        if half == 0 {
            prefetch_ahead(blocks);
        }
        let col = COL_STEP * step;
        // SAFETY: the rows have 16 columns per step, as `rows` has checked.
        unsafe {
            add_octet::<W, N, PAIRS, 0, 1>(isa, &mut sums, blocks, half, rows, col);
            add_octet::<W, N, PAIRS, 2, 3>(isa, &mut sums, blocks, half, rows, col + 8);
        }
    }
    for pair in 0..PAIRS {
        for i in 0..4 {
            let row = 8 * half + 2 * i;
            let mut lanes = [0; 4];
            Neon.store(sums[pair][i], &mut lanes);
            [acc[2 * pair][row], acc[2 * pair + 1][row]] = [lanes[0], lanes[1]];
            [acc[2 * pair][row + 1], acc[2 * pair + 1][row + 1]] = [lanes[2], lanes[3]];
        }
    }
}

/// Adds eight columns from `col` on, the operands `FIRST` and `SECOND`.
///
/// # Safety
///
/// Every row has the columns `col..col + 8`.
#[inline(always)]
unsafe fn add_octet<
    W: Weights,
    const N: usize,
    const PAIRS: usize,
    const FIRST: usize,
    const SECOND: usize,
>(
    isa: I8mm,
    sums: &mut [[int32x4_t; 4]; PAIRS],
    blocks: &[PackedBlock],
    half: usize,
    rows: [*const i8; N],
    col: usize,
) {
    let mut acts = [Neon.splat_i8(0); PAIRS];
    for pair in 0..PAIRS {
        // SAFETY: guaranteed by the caller.
        acts[pair] = unsafe { Neon.load_two(rows[2 * pair].add(col), rows[2 * pair + 1].add(col)) };
    }
    // Unrolled by hand: a loop around inline assembly is not unrolled, and a variable index
    // would keep the sums in memory.
    add_part::<W, PAIRS, FIRST, SECOND, 0>(isa, sums, blocks, half, acts);
    add_part::<W, PAIRS, FIRST, SECOND, 1>(isa, sums, blocks, half, acts);
}

#[inline(always)]
fn add_part<
    W: Weights,
    const PAIRS: usize,
    const FIRST: usize,
    const SECOND: usize,
    const PART: usize,
>(
    isa: I8mm,
    sums: &mut [[int32x4_t; 4]; PAIRS],
    blocks: &[PackedBlock],
    half: usize,
    acts: [int8x16_t; PAIRS],
) {
    let first = W::operand::<FIRST>(Neon, blocks, 2 * half + PART);
    let second = W::operand::<SECOND>(Neon, blocks, 2 * half + PART);
    // Rearranges two operands of four columns by four rows into two of eight columns by two
    // rows.
    let (low, high) = (Neon.zip_low(first, second), Neon.zip_high(first, second));
    for pair in 0..PAIRS {
        sums[pair][2 * PART] = isa.smmla(sums[pair][2 * PART], low, acts[pair]);
        sums[pair][2 * PART + 1] = isa.smmla(sums[pair][2 * PART + 1], high, acts[pair]);
    }
}

#[target_feature(enable = "i8mm")]
fn peak_rounds(isa: I8mm, n_rounds: usize) -> usize {
    const CHAINS: usize = 16;
    let factor = black_box(Neon.splat_i8(1));
    let mut sums = [Neon.zero_i32(); CHAINS];
    for _ in 0..n_rounds {
        for sum in &mut sums {
            *sum = isa.smmla(*sum, factor, factor);
        }
    }
    black_box(sums);
    n_rounds * CHAINS * 32
}
