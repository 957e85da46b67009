//! ARM64: one file per level. A block is four registers of four rows; all levels use the
//! same operands.
//!
//! Instructions for 64 ternary weights, where n tokens share the loads and unpacking of
//! weights:
//!
//! | tier | load | shift, mask | arrange | load activations | multiply and add |
//! |---|---|---|---|---|---|
//! | `neon` | 1 | 3 + 3 | 4 `ext` | 2·n | 8·n `smlal` |
//! | `dotprod` | 1 | 3 + 3 | – | n/4 | 4·n `sdot` |
//! | `i8mm` | 1 | 3 + 3 | 4 `zip` | n | 2·n `smmla` |
//!
//! Inner loops of a release build (`objdump -d`; two loads may be one `ldp`), with all sums
//! in registers:
//!
//! | tier | tokens | weights | instructions | of them multiply | multiply-adds per instruction |
//! |---|---|---|---|---|---|
//! | `neon` | 1 | 128 | 52 | 16 | 2.5 |
//! | `neon` | 4 | 128 | 124 | 64 | 4.1 |
//! | `dotprod` | 1 | 256 | 46 | 16 | 5.6 |
//! | `dotprod` | 4 | 256 | 97 | 64 | 10.6 |
//! | `i8mm` | 2 | 128 | 38 | 8 | 6.7 |
//! | `i8mm` | 8 | 128 | 89 | 32 | 11.5 |
//!
//! With `dotprod`, one token takes 11.5 instructions for the 16 bytes of 64 weights, 4 of
//! them `sdot` and 6 to unpack: at two instructions per cycle, it is memory-bound on a core
//! with a bandwidth below 2.8 bytes per cycle. Int8 weights need no unpacking, but 4 loads
//! for 64, and on `neon` 4·n `sadalp`, since an i16 holds the sum of two products.
//!
//! Kernels of listed rows and columns ([`sparse`]), instructions by their definition for 64
//! weights, where r rows share the loads of activations:
//!
//! | kernel | tier | load | shift, mask | arrange | load activations | multiply and add |
//! |---|---|---|---|---|---|---|
//! | rows | `neon` | 1 | 5 | – | 4/r | 8 `smlal` |
//! | rows | `dotprod` | 1 | 4 | – | 4/r | 4 `sdot` |
//! | columns | `neon` | 1 | 5 | – | 1 | 8 `smlal` |
//! | columns | `dotprod` | 1 | 4 | 2 `zip` | 1/4 | 4 `sdot` |
//!
//! A single token takes no more of them than the dense kernels do. `i8mm` uses those of
//! `dotprod`. Weights are prefetched 8 KiB ahead, and listed rows and columns among the
//! products, as on x86-64: one `prfm` per 64 bytes. No speed of ARM64 is measured.
//!
//! NEON is in the baseline of ARM64, so other operations are not compiled separately; all
//! tiers use [`float_lanes`] for operations over lanes. `sdot` and `smmla` have no stable
//! intrinsics: they are inline assembly in methods of the value that proves their support,
//! which are always inlined into functions compiled for them.

mod dotprod;
mod float_lanes;
mod i8mm;
mod neon;
mod sparse;

use std::arch::aarch64::int8x16_t;

use crate::panel::{Operands, PackedBlock};

pub use dotprod::Dotprod;
pub use i8mm::I8mm;
pub use neon::Neon;

/// A weight type: how blocks become operands of four columns by four rows.
trait Weights {
    /// Blocks per 16 columns.
    const BLOCKS: usize;
    /// The number of products whose sum fits in i16.
    const I16_PRODUCTS: usize;
    /// Returns the columns `4·QUAD..` of 16 for the rows `4·part..` of the panel.
    fn operand<const QUAD: usize>(neon: Neon, blocks: &[PackedBlock], part: usize) -> int8x16_t;
}

/// Codes 0..=2. The products are those of the codes, without correction.
struct Ternary;

impl Weights for Ternary {
    const BLOCKS: usize = 1;
    const I16_PRODUCTS: usize = i16::MAX as usize / (2 * 127);

    #[inline(always)]
    fn operand<const QUAD: usize>(neon: Neon, blocks: &[PackedBlock], part: usize) -> int8x16_t {
        let packed = neon.load_part(&blocks[0], part);
        let shifted = match QUAD {
            0 => packed,
            1 => neon.shift_right_2(packed),
            2 => neon.shift_right_4(packed),
            _ => neon.shift_right_6(packed),
        };
        neon.and(shifted, neon.splat_i8(3))
    }
}

/// Int8 weights.
struct Int8;

impl Weights for Int8 {
    const BLOCKS: usize = 4;
    const I16_PRODUCTS: usize = i16::MAX as usize / (127 * 127);

    #[inline(always)]
    fn operand<const QUAD: usize>(neon: Neon, blocks: &[PackedBlock], part: usize) -> int8x16_t {
        neon.load_part(&blocks[QUAD], part)
    }
}

/// Returns pointers to the rows of `N` tokens, each with at least `n_cols` columns.
#[inline(always)]
fn rows<const N: usize>(operands: Operands<'_>, n_cols: usize) -> [*const i8; N] {
    std::array::from_fn(|t| {
        let row = &operands.acts.padded_row(operands.first + t)[operands.first_col..];
        assert!(row.len() >= n_cols, "a row covers the blocks");
        row.as_ptr()
    })
}
