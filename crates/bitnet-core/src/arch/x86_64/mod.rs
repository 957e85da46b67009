//! x86-64: one file per level.

mod avx2;
mod avx512;
mod lanes;

use crate::activations::Int8Rows;

pub use avx2::Avx2;
pub use avx512::Avx512;

/// Returns where `N` rows begin, each of at least `n_cols` columns.
fn rows<const N: usize>(acts: &Int8Rows, first: usize, n_cols: usize) -> [*const i8; N] {
    std::array::from_fn(|t| {
        let row = acts.padded_row(first + t);
        assert!(row.len() >= n_cols, "a row covers the blocks");
        row.as_ptr()
    })
}

/// Defines the token of an instruction set: its detection and the wrapper that
/// compiles an operation for it, both from one list of features.
macro_rules! define_isa {
    ($(#[$doc:meta])* $name:ident, $features:literal, [$($feature:tt),+]) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(());

        impl $name {
            /// What a processor needs, in words.
            pub(crate) const NEEDS: &'static str = $features;

            /// Returns the token if this processor has all the instructions.
            pub(crate) fn new() -> Option<Self> {
                ($(std::arch::is_x86_feature_detected!($feature))&&+).then_some(Self(()))
            }

            /// Runs `op` compiled for these instructions.
            #[inline]
            pub(crate) fn run<O: crate::kernel::Op>(self, op: O) -> O::Output {
                $(#[target_feature(enable = $feature)])+
                fn compiled<O: crate::kernel::Op>(op: O) -> O::Output {
                    op.run()
                }
                // SAFETY: `self` exists, so `new` has found every feature that
                // `compiled` enables: both come from the one list.
                unsafe { compiled(op) }
            }
        }
    };
}
pub(crate) use define_isa;
