//! AVX-512 with VNNI: the sixteen rows of a panel are the sixteen lanes of one register;
//! one `vpdpbusd` multiplies four columns of all rows.
//!
//! A block of 16 columns takes one load, four `and`, three shifts, and four `vpdpbusd` per
//! token.

use std::arch::x86_64::{__m512i, _mm512_dpbusd_epi32};

use super::avx512bw::Avx512bw;
use super::avx512vbmi::Avx512vbmi;
use super::vnni::{Int8, PeakRounds, Ternary, Tile, Vnni, Weights};
use super::{IsaLevel, Tier, define_isa, sparse};
use crate::arch::scalar;
use crate::panel::{Acc, Operands};
use crate::sparse::{ListedColumns, ListedRows, TileSums};

define_isa!(
    /// A processor with AVX-512 F, BW, DQ, VL and VNNI (and AVX2, FMA, F16C).
    Avx512vnni(Avx512bw) from Avx512bw::new(),
    ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx2", "fma", "f16c"]
);

impl Vnni for Avx512vnni {
    type Base = Avx512bw;

    #[inline(always)]
    fn base(self) -> Avx512bw {
        self.0
    }

    instructions! {
        fn dot(sums: __m512i, x: __m512i, y: __m512i) -> __m512i = _mm512_dpbusd_epi32(sums, x, y);
    }
}

impl Tier for Avx512vnni {
    const NAME: &'static str = "x86_64-i2xi8-avx512vnni";
    const NEEDS: &'static str = "AVX-512 F, BW, DQ, VL and VNNI";
    const HAS_SPARSE: bool = true;

    type Floats = Avx512bw;

    #[inline(always)]
    fn floats(self) -> Avx512bw {
        self.0
    }

    fn ternary_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        panel(self, Ternary, operands, acc);
    }

    fn int8_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        panel(self, Int8, operands, acc);
    }

    fn base3_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        match self.with_vbmi() {
            Some(level) => level.base3_panel(operands, acc),
            None => scalar::base3_panel(operands, acc),
        }
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

impl Avx512vnni {
    /// Returns the level with VBMI, if the processor supports it.
    pub(crate) fn with_vbmi(self) -> Option<Avx512vbmi> {
        Avx512vbmi::new()
    }
}

/// Sixteen accumulators leave sixteen registers for operands.
fn panel<I: Vnni, W: Weights<I>>(isa: I, weights: W, operands: Operands<'_>, acc: &mut Acc) {
    for (operands, acc) in operands.tiles::<16>(acc) {
        match acc.len() {
            16 => tile::<I, W, 16, 1>(isa, weights, operands, acc),
            8 => tile::<I, W, 8, 2>(isa, weights, operands, acc),
            4 => tile::<I, W, 4, 2>(isa, weights, operands, acc),
            2 => tile::<I, W, 2, 4>(isa, weights, operands, acc),
            _ => tile::<I, W, 1, 4>(isa, weights, operands, acc),
        }
    }
}

pub(super) fn tile<I: Vnni, W: Weights<I>, const N: usize, const CHAINS: usize>(
    isa: I,
    weights: W,
    operands: Operands<'_>,
    acc: &mut Acc,
) {
    isa.vectorize(Tile::<W, I, N, 1, CHAINS> {
        weights,
        isa,
        operands,
        part: 0,
        acc,
    });
}
