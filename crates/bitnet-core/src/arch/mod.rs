//! The instruction sets, one folder or file each. Each provides a [`Tier`].

use crate::lanes::Lanes;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use crate::panel::PackedBlock;
use crate::panel::{Acc, Operands};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use crate::prefetch::prefetch;
use crate::sparse::{ListedColumns, ListedRows, TileSums};

/// Defines methods of an instruction set that compile to one instruction each.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! instructions {
    ($($vis:vis fn $name:ident ($($arg:ident: $ty:ty),*) -> $out:ty = $body:expr;)+) => {
        $(
            #[inline(always)]
            $vis fn $name (self, $($arg: $ty),*) -> $out {
                // SAFETY: `self` proves that the processor supports the instruction.
                unsafe { $body }
            }
        )+
    };
}

/// Returns an array of four values, `$value` for each constant index `$i`. Unrolled, since
/// an array filled by a loop may live in memory.
#[cfg(any(
    target_arch = "aarch64",
    all(target_arch = "wasm32", target_feature = "simd128")
))]
macro_rules! unroll4 {
    ($i:ident => $value:expr) => {
        [
            {
                const $i: usize = 0;
                $value
            },
            {
                const $i: usize = 1;
                $value
            },
            {
                const $i: usize = 2;
                $value
            },
            {
                const $i: usize = 3;
                $value
            },
        ]
    };
}

#[cfg(target_arch = "aarch64")]
pub(crate) mod aarch64;
pub(crate) mod scalar;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub(crate) mod wasm32;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;

/// An operation without arguments, written once and compiled for each instruction set: see
/// [`Isa::vectorize`](crate::Isa::vectorize).
///
/// `call` must be `#[inline(always)]`, and so must all its callees that should be
/// vectorized: only code inlined into the wrapper of an instruction set is compiled for it.
pub trait NullaryFnOnce {
    /// The result of the operation.
    type Output;
    /// Runs the operation.
    fn call(self) -> Self::Output;
}

/// An ISA level: a value proves that this processor supports the level.
pub(crate) trait IsaLevel: Copy {
    /// Runs `op` compiled for this level, by default for the target's baseline.
    #[inline(always)]
    fn vectorize<O: NullaryFnOnce>(self, op: O) -> O::Output {
        op.call()
    }
}

/// A tier: the level of its float operations, and its kernels.
///
/// A kernel computes the integer dot products of the sixteen rows of a panel with
/// `acc.len()` rows of activations.
pub(crate) trait Tier: Copy {
    /// `{arch}-{weights}x{activations}-{variant}`.
    const NAME: &'static str;
    /// The required CPU features.
    const NEEDS: &'static str;

    /// The highest level of this tier that float operations use.
    type Floats: IsaLevel + Lanes;

    /// Returns the level of float operations.
    fn floats(self) -> Self::Floats;

    /// Computes dot products of codes 0..=2 with activations.
    fn ternary_panel(self, operands: Operands<'_>, acc: &mut Acc);

    /// Computes dot products of int8 weights with activations.
    fn int8_panel(self, operands: Operands<'_>, acc: &mut Acc);

    /// Computes dot products of codes 0..=2, five per byte, with activations.
    fn base3_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        scalar::base3_panel(operands, acc);
    }

    /// Whether [`row_dots`](Self::row_dots) and [`add_columns`](Self::add_columns) are
    /// faster than computing all rows and columns.
    const HAS_SPARSE: bool = false;

    /// Computes dot products of codes 0..=2 with activations, one for each listed row.
    fn row_dots(self, rows: ListedRows<'_>, sums: &mut [i32]) {
        scalar::row_dots(rows, sums);
    }

    /// Adds the listed columns of codes, times their activations.
    fn add_columns(self, columns: ListedColumns<'_>, sums: &mut TileSums) {
        scalar::add_columns(columns, sums);
    }

    /// Runs the dot product instruction on registers for `n_rounds` and returns the number
    /// of multiply-adds; `None` if there is no such instruction.
    fn int8_peak_rounds(self, n_rounds: usize) -> Option<usize>;
}

/// Prefetches the weights 8 KiB ahead, which at 40 GB/s are read 200 ns later: the memory
/// latency. docs/performance.md has the speedup on x86-64; on ARM64 it is not measured.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn prefetch_ahead(blocks: &[PackedBlock]) {
    const BLOCKS_AHEAD: usize = 128;
    for block in blocks {
        prefetch(std::ptr::from_ref(block).wrapping_add(BLOCKS_AHEAD));
    }
}

/// The cache line size in bytes.
pub(crate) const CACHE_LINE: usize = 64;
