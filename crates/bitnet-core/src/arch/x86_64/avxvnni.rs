//! AVX-VNNI: AVX2 with `vpdpbusd`, for processors without AVX-512. A panel is two registers
//! of eight rows.
//!
//! A block of 16 columns takes two loads, eight `and`, six shifts, and eight `vpdpbusd` per
//! token.

use std::arch::x86_64::{__m256i, _mm256_dpbusd_avx_epi32};

use super::avx2::Avx2;
use super::vnni::{Int8, PeakRounds, Ternary, Tile, Vnni, Weights};
use super::{IsaLevel, Tier, define_isa, sparse};
use crate::panel::{Acc, Operands};
use crate::sparse::{ListedColumns, ListedRows, TileSums};

define_isa!(
    /// A processor with AVX-VNNI, AVX2, FMA and F16C.
    AvxVnni(Avx2) from Avx2::new(),
    ["avxvnni", "avx2", "fma", "f16c"]
);

impl Vnni for AvxVnni {
    type Base = Avx2;

    #[inline(always)]
    fn base(self) -> Avx2 {
        self.0
    }

    instructions! {
        fn dot(sums: __m256i, x: __m256i, y: __m256i) -> __m256i =
            _mm256_dpbusd_avx_epi32(sums, x, y);
    }
}

impl Tier for AvxVnni {
    const NAME: &'static str = "x86_64-i2xi8-avxvnni";
    const NEEDS: &'static str = "AVX-VNNI, AVX2, FMA and F16C";
    const HAS_SPARSE: bool = true;

    type Floats = Avx2;

    #[inline(always)]
    fn floats(self) -> Avx2 {
        self.0
    }

    fn ternary_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        panel(self, Ternary, operands, acc);
    }

    fn int8_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        panel(self, Int8, operands, acc);
    }

    fn row_dots(self, rows: ListedRows<'_>, sums: &mut [i32]) {
        sparse::row_dots(self, rows, sums);
    }

    fn add_columns(self, columns: ListedColumns<'_>, sums: &mut TileSums) {
        sparse::add_columns(self, columns, sums);
    }

    fn int8_peak_rounds(self, n_rounds: usize) -> Option<usize> {
        // `vpdpbusd` on registers.
        Some(self.vectorize(PeakRounds {
            isa: self,
            n_rounds,
        }))
    }
}

/// Computes many tokens by half a panel, or few by a whole one: eight accumulators leave
/// eight registers for operands.
fn panel<I: Vnni<Base = Avx2>, W: Weights<I>>(
    isa: I,
    weights: W,
    operands: Operands<'_>,
    acc: &mut Acc,
) {
    for (operands, acc) in operands.tiles::<8>(acc) {
        match acc.len() {
            8 => {
                tile::<I, W, 8, 1, 1>(isa, weights, operands, 0, acc);
                tile::<I, W, 8, 1, 1>(isa, weights, operands, 1, acc);
            }
            4 => tile::<I, W, 4, 2, 1>(isa, weights, operands, 0, acc),
            2 => tile::<I, W, 2, 2, 2>(isa, weights, operands, 0, acc),
            _ => tile::<I, W, 1, 2, 4>(isa, weights, operands, 0, acc),
        }
    }
}

fn tile<I: Vnni, W: Weights<I>, const N: usize, const PARTS: usize, const CHAINS: usize>(
    isa: I,
    weights: W,
    operands: Operands<'_>,
    part: usize,
    acc: &mut Acc,
) {
    isa.vectorize(Tile::<W, I, N, PARTS, CHAINS> {
        weights,
        isa,
        operands,
        part,
        acc,
    });
}

#[cfg(test)]
mod tests {
    use std::arch::x86_64::_mm256_dpbusd_epi32;

    use super::*;
    use crate::activations::Int8Rows;
    use crate::isa::Isa;
    use crate::lanes::Scalar;
    use crate::memory::HybridMemoryPool;
    use crate::panel::{PANEL_ROWS, PackedBlock};

    define_isa!(
        /// A processor with the same instruction in AVX-512: its tiles differ from those of
        /// [`AvxVnni`] only in encoding.
        Avx512Encoding(Avx2) from Avx2::new(),
        ["avx512vl", "avx512vnni", "avx2", "fma", "f16c"]
    );

    impl Vnni for Avx512Encoding {
        type Base = Avx2;

        #[inline(always)]
        fn base(self) -> Avx2 {
            self.0
        }

        instructions! {
            fn dot(sums: __m256i, x: __m256i, y: __m256i) -> __m256i =
                _mm256_dpbusd_epi32(sums, x, y);
        }
    }

    fn bytes(n: usize, seed: u32) -> impl Iterator<Item = u8> {
        (0..n as u32).map(move |i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 24) as u8)
    }

    fn check<I: Vnni<Base = Avx2>>(isa: I) {
        for n_tokens in 1..=16 {
            for n_blocks in [4, 8, 40] {
                let blocks: Vec<_> = (0..n_blocks)
                    .map(|b| PackedBlock(std::array::from_fn(|i| bytes(64, b).nth(i).unwrap())))
                    .collect();
                // The blocks hold 16 columns each as ternary weights, 4 as int8.
                let check = |n_cols: usize, ternary: bool| {
                    let x: Vec<f32> = bytes(n_tokens * n_cols, 77)
                        .map(|x| x as f32 - 128.0)
                        .collect();
                    let pool = HybridMemoryPool::new();
                    let mut acts = Int8Rows::with_capacity(&pool, n_tokens, n_cols).unwrap();
                    acts.quantize(Isa::Scalar, &x, n_cols);
                    let operands = Operands {
                        blocks: &blocks,
                        acts: acts.view(),
                        first: 0,
                        first_col: 0,
                    };
                    let mut expected = vec![[0; PANEL_ROWS]; n_tokens];
                    let mut sums = vec![[i32::MIN; PANEL_ROWS]; n_tokens];
                    if ternary {
                        Scalar.ternary_panel(operands, &mut expected);
                        panel(isa, Ternary, operands, &mut sums);
                    } else {
                        Scalar.int8_panel(operands, &mut expected);
                        panel(isa, Int8, operands, &mut sums);
                    }
                    assert_eq!(sums, expected, "{n_tokens} tokens, {n_cols} columns");
                };
                check(16 * n_blocks as usize, true);
                check(4 * n_blocks as usize, false);
            }
        }
    }

    #[test]
    fn tiles_equal_the_scalar_ones_in_either_encoding() {
        if let Some(isa) = Avx512Encoding::new() {
            check(isa);
        }
        if let Some(isa) = AvxVnni::new() {
            check(isa);
        }
    }
}
