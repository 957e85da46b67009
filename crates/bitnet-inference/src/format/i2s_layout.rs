//! The three layouts of I2_S. No header specifies which one a file has, and every layout
//! is a permutation of the same trits.

use bitnet_quant::TernaryType;

/// A layout of I2_S.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum I2SLayout {
    /// 128 weights in 32 bytes: the published files.
    Canonical,
    /// 64 weights in 16 bytes: bitnet.cpp's quantizer in old ARM builds.
    Neon,
    /// Four rows per byte: its quantizer in x86 builds without parallel activations.
    Rows4,
}

impl I2SLayout {
    /// Every layout.
    pub const ALL: [Self; 3] = [Self::Canonical, Self::Neon, Self::Rows4];

    /// Returns the name, as in `--i2s-layout`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Canonical => "canonical",
            Self::Neon => "neon",
            Self::Rows4 => "rows4",
        }
    }

    pub(crate) fn ternary_type(self) -> TernaryType {
        match self {
            Self::Canonical => TernaryType::I2S,
            Self::Neon => TernaryType::I2SNeon,
            Self::Rows4 => TernaryType::I2SRows4,
        }
    }
}
