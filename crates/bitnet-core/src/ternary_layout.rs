//! The memory layouts of ternary weights.

use std::fmt;

use crate::base3::GROUP_COLS;
use crate::isa::Isa;
use crate::panel::COL_STEP;

/// A memory layout of ternary weights, specified at
/// [`PackedTernary`](crate::PackedTernary).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TernaryLayout {
    /// Four weights per byte.
    TwoBits,
    /// Five weights per byte: a fifth less memory to read, more instructions.
    Base3,
}

/// Bytes that a trial of a layout reads, more than the caches hold.
pub(crate) const TRIAL_BYTES: usize = 64 << 20;

impl TernaryLayout {
    /// Returns the layouts with a kernel for an instruction set. The scalar kernel computes
    /// the others.
    pub fn available(isa: Isa) -> impl Iterator<Item = Self> {
        let base3 = isa.has_base3().then_some(Self::Base3);
        std::iter::once(Self::TwoBits).chain(base3)
    }

    /// Returns the layouts that [`fastest`](Self::fastest) chooses from. Weights that may
    /// fit in a cache are packed at two bits.
    pub fn candidates(isa: Isa, n_weights: usize) -> impl Iterator<Item = Self> {
        let is_small = n_weights / 4 < TRIAL_BYTES;
        Self::available(isa).filter(move |layout| !is_small || *layout == Self::TwoBits)
    }

    /// Returns the blocks per panel.
    pub(crate) fn blocks_per_panel(self, n_cols: usize) -> usize {
        match self {
            Self::TwoBits => n_cols.div_ceil(COL_STEP),
            Self::Base3 => 4 * n_cols.div_ceil(GROUP_COLS),
        }
    }
}

impl fmt::Display for TernaryLayout {
    /// Writes the bits per weight.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TwoBits => "2.0-bit",
            Self::Base3 => "1.6-bit",
        })
    }
}
