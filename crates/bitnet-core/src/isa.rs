//! Selection of the instruction set: detected at run time, or by name.

use std::fmt;

#[cfg(target_arch = "aarch64")]
use crate::arch::aarch64::{Dotprod, I8mm, Neon};
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
use crate::arch::wasm32::Simd128;
#[cfg(target_arch = "x86_64")]
use crate::arch::x86_64::{Avx2, Avx512bw, Avx512vbmi, Avx512vnni, AvxVnni};
use crate::arch::{IsaLevel, NullaryFnOnce, Tier};
use crate::lanes::{Lanes, Scalar, WithSimd};
use crate::panel::{Acc, Operands};
use crate::sparse::{ListedColumns, ListedRows, TileSums};

/// An available instruction set.
///
/// A value is a proof of availability: its variants hold values that only successful
/// detection creates, so functions that take an `Isa` need no check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust for the target's baseline, the reference for all others.
    Scalar,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX2, FMA, F16C and AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni(AvxVnni),
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512bw(Avx512bw),
    /// AVX-512 F, BW, DQ, VL and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512vnni(Avx512vnni),
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
    /// NEON with the dot product extension.
    #[cfg(target_arch = "aarch64")]
    Dotprod(Dotprod),
    /// NEON with the dot product and int8 matrix extensions.
    #[cfg(target_arch = "aarch64")]
    I8mm(I8mm),
    /// 128-bit SIMD of WebAssembly.
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Simd128(Simd128),
}

/// Evaluates an expression with the [`Tier`] of an [`Isa`]: the only dispatch.
macro_rules! with_tier {
    ($isa:expr, $tier:ident => $value:expr) => {
        match $isa {
            Isa::Scalar => {
                let $tier = Scalar;
                $value
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2($tier) => $value,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni($tier) => $value,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512bw($tier) => $value,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512vnni($tier) => $value,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon($tier) => $value,
            #[cfg(target_arch = "aarch64")]
            Isa::Dotprod($tier) => $value,
            #[cfg(target_arch = "aarch64")]
            Isa::I8mm($tier) => $value,
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Isa::Simd128($tier) => $value,
        }
    };
}

/// Why an instruction set cannot be selected by name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// No instruction set has this name.
    #[error("no kernel is called {name:?} (known: {})", known_names())]
    Unknown {
        /// The requested name.
        name: String,
    },
    /// The name is a prefix of several instruction sets.
    #[error("several kernels are called {name:?}: {}", matches.join(", "))]
    Ambiguous {
        /// The requested name.
        name: String,
        /// The full names of the matching instruction sets, best first.
        matches: Vec<&'static str>,
    },
    /// This machine does not support the instruction set.
    #[error("kernel {name} needs {needs}, which this processor does not have")]
    NotSupported {
        /// The full name of the instruction set.
        name: &'static str,
        /// The required CPU features.
        needs: &'static str,
    },
}

fn known_names() -> String {
    let names: Vec<_> = KNOWN.iter().map(|known| known.name).collect();
    names.join(", ")
}

struct Known {
    /// `{arch}-{weights}x{activations}-{variant}`.
    name: &'static str,
    needs: &'static str,
    detect: fn() -> Option<Isa>,
}

impl Known {
    const fn new<T: Tier>(detect: fn() -> Option<Isa>) -> Self {
        Self {
            name: T::NAME,
            needs: T::NEEDS,
            detect,
        }
    }
}

/// Every instruction set of this build, best first.
const KNOWN: &[Known] = &[
    #[cfg(target_arch = "x86_64")]
    Known::new::<Avx512vnni>(|| Avx512vnni::new().map(Isa::Avx512vnni)),
    #[cfg(target_arch = "x86_64")]
    Known::new::<AvxVnni>(|| AvxVnni::new().map(Isa::AvxVnni)),
    #[cfg(target_arch = "x86_64")]
    Known::new::<Avx512bw>(|| Avx512bw::new().map(Isa::Avx512bw)),
    #[cfg(target_arch = "x86_64")]
    Known::new::<Avx2>(|| Avx2::new().map(Isa::Avx2)),
    #[cfg(target_arch = "aarch64")]
    Known::new::<I8mm>(|| I8mm::new().map(Isa::I8mm)),
    #[cfg(target_arch = "aarch64")]
    Known::new::<Dotprod>(|| Dotprod::new().map(Isa::Dotprod)),
    #[cfg(target_arch = "aarch64")]
    Known::new::<Neon>(|| Some(Isa::Neon(Neon))),
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Known::new::<Simd128>(|| Some(Isa::Simd128(Simd128))),
    Known::new::<Scalar>(|| Some(Isa::Scalar)),
];

impl Isa {
    /// Returns the fastest instruction set that this machine supports.
    pub fn best() -> Self {
        Self::available()
            .next()
            .expect("the scalar kernel runs everywhere")
    }

    /// Returns the instruction sets that this machine supports, best first.
    pub fn available() -> impl Iterator<Item = Self> {
        KNOWN.iter().filter_map(|known| (known.detect)())
    }

    /// Returns the name of every instruction set of this build and whether this machine
    /// supports it, best first.
    pub fn known() -> impl Iterator<Item = (&'static str, bool)> {
        KNOWN
            .iter()
            .map(|known| (known.name, (known.detect)().is_some()))
    }

    /// Returns the instruction set called `name`: a full name, or a unique prefix of the
    /// last component (`scalar`, `avx2`, `avx512v`).
    ///
    /// # Errors
    ///
    /// Returns an error if no instruction set matches, if several do, or if this machine
    /// does not support it.
    pub fn named(name: &str) -> Result<Self, IsaError> {
        let matches = |known: &&Known| {
            let variant = known.name.rsplit('-').next().unwrap_or_default();
            known.name == name || (!name.is_empty() && variant.starts_with(name))
        };
        let found: Vec<_> = KNOWN.iter().filter(matches).collect();
        match found[..] {
            [known] => (known.detect)().ok_or(IsaError::NotSupported {
                name: known.name,
                needs: known.needs,
            }),
            [] => Err(IsaError::Unknown {
                name: name.to_owned(),
            }),
            _ => Err(IsaError::Ambiguous {
                name: name.to_owned(),
                matches: found.iter().map(|known| known.name).collect(),
            }),
        }
    }

    /// Returns the full name, `{arch}-{weights}x{activations}-{variant}`.
    pub fn name(self) -> &'static str {
        fn name_of<T: Tier>(_: T) -> &'static str {
            T::NAME
        }
        with_tier!(self, tier => name_of(tier))
    }

    /// Returns whether there is a kernel for
    /// [`TernaryLayout::Base3`](crate::TernaryLayout::Base3).
    pub(crate) fn has_base3(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        if self.vbmi().is_some() {
            return true;
        }
        false
    }

    /// Returns the AVX-512 VBMI level, if this instruction set may use it.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn vbmi(self) -> Option<Avx512vbmi> {
        match self {
            Self::Avx512vnni(level) => level.with_vbmi(),
            _ => None,
        }
    }

    /// Runs `op`, auto-vectorized for this instruction set.
    #[inline]
    pub fn vectorize<O: NullaryFnOnce>(self, op: O) -> O::Output {
        with_tier!(self, tier => tier.floats().vectorize(op))
    }

    /// Runs `op` with the SIMD vectors of this instruction set.
    #[inline]
    pub fn dispatch<O: WithSimd>(self, op: O) -> O::Output {
        with_tier!(self, tier => {
            let lanes = tier.floats();
            lanes.vectorize(OnLanes(lanes, op))
        })
    }

    /// See [`Tier::ternary_panel`].
    #[inline]
    pub(crate) fn ternary_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        with_tier!(self, tier => tier.ternary_panel(operands, acc));
    }

    /// See [`Tier::base3_panel`].
    #[inline]
    pub(crate) fn base3_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        with_tier!(self, tier => tier.base3_panel(operands, acc));
    }

    /// Returns whether there are kernels for [`TernaryLayout::Rows`] and
    /// [`TernaryLayout::Columns`] that are faster than the dense ones.
    ///
    /// [`TernaryLayout::Rows`]: crate::TernaryLayout::Rows
    /// [`TernaryLayout::Columns`]: crate::TernaryLayout::Columns
    pub fn has_sparse(self) -> bool {
        fn of<T: Tier>(_: T) -> bool {
            T::HAS_SPARSE
        }
        with_tier!(self, tier => of(tier))
    }

    /// See [`Tier::row_dots`].
    #[inline]
    pub(crate) fn row_dots(self, rows: ListedRows<'_>, sums: &mut [i32]) {
        with_tier!(self, tier => tier.row_dots(rows, sums));
    }

    /// See [`Tier::add_columns`].
    #[inline]
    pub(crate) fn add_columns(self, columns: ListedColumns<'_>, sums: &mut TileSums) {
        with_tier!(self, tier => tier.add_columns(columns, sums));
    }

    /// See [`Tier::int8_panel`].
    #[inline]
    pub(crate) fn int8_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        with_tier!(self, tier => tier.int8_panel(operands, acc));
    }

    /// See [`Tier::int8_peak_rounds`].
    pub(crate) fn int8_peak_rounds(self, n_rounds: usize) -> Option<usize> {
        with_tier!(self, tier => tier.int8_peak_rounds(n_rounds))
    }
}

/// A [`WithSimd`] operation and its lanes.
struct OnLanes<L, O>(L, O);

impl<L: Lanes, O: WithSimd> NullaryFnOnce for OnLanes<L, O> {
    type Output = O::Output;

    #[inline(always)]
    fn call(self) -> O::Output {
        self.1.with_simd(self.0)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_kernel_is_found_by_its_own_name() {
        for isa in Isa::available() {
            assert_eq!(Isa::named(isa.name()), Ok(isa));
        }
    }

    /// Emulators and test machines set `BITNET_EXPECT_KERNEL` to the kernel that must be
    /// found there, so that tests do not silently run another one.
    #[test]
    fn the_best_kernel_is_the_expected_one() {
        if let Ok(expected) = std::env::var("BITNET_EXPECT_KERNEL") {
            assert_eq!(Isa::best().name(), expected);
        }
    }

    #[test]
    fn the_last_part_of_a_name_is_enough() {
        assert_eq!(Isa::named("scalar"), Ok(Isa::Scalar));
    }

    #[test]
    fn unknown_names_are_refused() {
        for name in ["", "neon2000", "x86_64", "aarch64"] {
            let error = Isa::named(name).unwrap_err();
            assert_eq!(
                error,
                IsaError::Unknown {
                    name: name.to_owned()
                }
            );
            assert!(error.to_string().contains("generic-i2xi8-scalar"));
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn an_ambiguous_name_is_refused_with_the_names_it_could_mean() {
        let error = Isa::named("avx512").unwrap_err();
        assert_eq!(
            error.to_string(),
            "several kernels are called \"avx512\": \
             x86_64-i2xi8-avx512vnni, x86_64-i2xi8-avx512bw"
        );
    }
}
