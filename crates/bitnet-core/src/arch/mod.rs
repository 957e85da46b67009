//! One folder or file per instruction set. What each provides is a [`Tier`].

use crate::lanes::Lanes;
use crate::panel::{Acc, Operands};

/// Defines methods of an instruction set that are one instruction each.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! instructions {
    ($($vis:vis fn $name:ident ($($arg:ident: $ty:ty),*) -> $out:ty = $body:expr;)+) => {
        $(
            #[inline(always)]
            $vis fn $name (self, $($arg: $ty),*) -> $out {
                // SAFETY: `self` exists, so the processor has the instruction.
                unsafe { $body }
            }
        )+
    };
}

/// Returns an array of four values, `$value` for each constant index `$i`: written
/// out, since an array that a loop fills may live in memory.
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

/// An operation without arguments, written once and compiled for each instruction set:
/// see [`Isa::vectorize`](crate::Isa::vectorize).
///
/// `call` must be `#[inline(always)]`, and so must everything it calls that is
/// worth vectorising: only code inlined into the wrapper of an instruction set
/// is compiled for it.
pub trait NullaryFnOnce {
    /// What the operation returns.
    type Output;
    /// Runs the operation.
    fn call(self) -> Self::Output;
}

/// A level: the value is the proof that this processor has its instructions.
pub(crate) trait IsaLevel: Copy {
    /// Runs `op` compiled for these instructions: for those of the target, if nothing
    /// else is said.
    #[inline(always)]
    fn vectorize<O: NullaryFnOnce>(self, op: O) -> O::Output {
        op.call()
    }
}

/// What a tier provides: the level of its float operations, and its kernels.
///
/// A kernel writes the integer dot products of the sixteen rows of a panel with as many
/// rows of activations as `acc` has.
pub(crate) trait Tier: Copy {
    /// `{arch}-{weights}x{activations}-{variant}`.
    const NAME: &'static str;
    /// The instructions that it needs.
    const NEEDS: &'static str;

    /// The level that has all of this tier that float operations use.
    type Floats: IsaLevel + Lanes;

    /// Returns the level of float operations.
    fn floats(self) -> Self::Floats;

    /// Dot products of codes 0..=2 with activations.
    fn ternary_panel(self, operands: Operands<'_>, acc: &mut Acc);

    /// Dot products of int8 weights with activations.
    fn int8_panel(self, operands: Operands<'_>, acc: &mut Acc);

    /// Dot products of codes 0..=2, five in a byte, with activations.
    fn base3_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        scalar::base3_panel(operands, acc);
    }

    /// Runs the dot product instruction on registers and returns the multiply-adds done;
    /// `None` where there is no such instruction.
    fn int8_peak_rounds(self, n_rounds: usize) -> Option<usize>;
}

/// Prefetches the cache line at `x`, which will be read soon. Nothing is read if there
/// is no such memory, and nothing happens on processors that this is not written for.
#[inline(always)]
pub(crate) fn prefetch<T>(x: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of the target; prefetching memory that is not there has no
    // effect.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(x.cast());
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = x;
}

/// Bytes that are read from memory together.
pub(crate) const CACHE_LINE: usize = 64;
