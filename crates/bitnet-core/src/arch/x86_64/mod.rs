//! x86-64: one file per level, and the two algorithms that they share.
//!
//! | tier | vectors | dot product of four columns |
//! |---|---|---|
//! | `avx2` | 256 bits | [`madd`]: `vpmaddubsw`, additions in i16, `vpmaddwd` |
//! | `avxvnni` | 256 bits | [`vnni`]: `vpdpbusd` |
//! | `avx512bw` | 512 bits | [`madd`] |
//! | `avx512vnni` | 512 bits | [`vnni`] |
//!
//! `avx512vbmi` adds table lookups for five trits per byte to `avx512vnni`.
//!
//! A level with `vpdpbusd` wraps the level without it, since other operations use nothing
//! else of it.

mod avx2;
mod avx512bw;
mod avx512vbmi;
mod avx512vnni;
mod avxvnni;
mod float_lanes;
mod madd;
mod row_lanes;
mod sparse;
mod vnni;

use crate::arch::{IsaLevel, Tier, prefetch_ahead};
use crate::panel::Operands;

pub use avx2::Avx2;
pub use avx512bw::Avx512bw;
pub(crate) use avx512vbmi::Avx512vbmi;
pub use avx512vnni::Avx512vnni;
pub use avxvnni::AvxVnni;

/// Returns pointers to the rows of `N` tokens, each with at least `n_cols` columns.
#[inline(always)]
fn rows<const N: usize>(operands: Operands<'_>, n_cols: usize) -> [*const i8; N] {
    std::array::from_fn(|t| {
        let row = &operands.acts.padded_row(operands.first + t)[operands.first_col..];
        assert!(row.len() >= n_cols, "a row covers the blocks");
        row.as_ptr()
    })
}

/// Defines a level: its detection and the wrapper that compiles an operation for it, both
/// from one list of features. A level may wrap the level below it.
macro_rules! define_isa {
    ($(#[$doc:meta])* $name:ident, $features:tt) => {
        define_isa!($(#[$doc])* $name(()) from Some(()), $features);
    };
    (
        $(#[$doc:meta])* $name:ident($below:ty) from $new_below:expr, [$($feature:tt),+]
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name($below);

        impl $name {
            /// Returns the level if this processor supports it.
            pub(crate) fn new() -> Option<Self> {
                let below = $new_below?;
                ($(std::arch::is_x86_feature_detected!($feature))&&+).then_some(Self(below))
            }
        }

        impl crate::arch::IsaLevel for $name {
            #[inline]
            fn vectorize<O: crate::arch::NullaryFnOnce>(self, op: O) -> O::Output {
                $(#[target_feature(enable = $feature)])+
                fn compiled<O: crate::arch::NullaryFnOnce>(op: O) -> O::Output {
                    op.call()
                }
                // SAFETY: `self` proves that `new` has detected every feature that
                // `compiled` enables: both use the same list.
                unsafe { compiled(op) }
            }
        }
    };
}
pub(crate) use define_isa;
