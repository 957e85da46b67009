//! How ternary weights are packed.

use std::fmt;

use crate::base3::GROUP_COLS;
use crate::isa::Isa;
use crate::panel::COL_STEP;

/// A way to pack ternary weights: drawn at [`PackedTernary`](crate::PackedTernary).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TernaryLayout {
    /// Four weights in a byte.
    TwoBits,
    /// Five weights in a byte: a fifth less to read from memory, more to do.
    Base3,
}

/// Bytes that a trial of a layout reads: more than caches hold.
pub(crate) const TRIAL_BYTES: usize = 64 << 20;

impl TernaryLayout {
    /// Returns the layouts that an instruction set has instructions for. It multiplies the
    /// others too, with the scalar kernel.
    pub fn available(isa: Isa) -> impl Iterator<Item = Self> {
        let base3 = isa.has_base3().then_some(Self::Base3);
        std::iter::once(Self::TwoBits).chain(base3)
    }

    /// Returns the layouts that [`fastest`](Self::fastest) chooses from. Weights
    /// that a cache might hold are packed at two bits.
    pub fn candidates(isa: Isa, n_weights: usize) -> impl Iterator<Item = Self> {
        let is_small = n_weights / 4 < TRIAL_BYTES;
        Self::available(isa).filter(move |layout| !is_small || *layout == Self::TwoBits)
    }

    /// Blocks that hold the columns of a panel.
    pub(crate) fn blocks_per_panel(self, n_cols: usize) -> usize {
        match self {
            Self::TwoBits => n_cols.div_ceil(COL_STEP),
            Self::Base3 => 4 * n_cols.div_ceil(GROUP_COLS),
        }
    }
}

impl fmt::Display for TernaryLayout {
    /// Writes the bits a weight takes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TwoBits => "2.0-bit",
            Self::Base3 => "1.6-bit",
        })
    }
}
