//! Packed scales of a ternary matrix, and products with group scales.

use crate::activations::{EXACT_PARTS, PART_RADIX};
use crate::lanes::{Lanes, WIDTH, WithSimd};
use crate::memory::{Category, HybridMemoryPool, OutOfMemory, ReadOnly};
use crate::panel::{Acc, PANEL_ROWS};
use crate::scales::Scales;

/// Scales in panel order, zero for the padding rows of the last panel.
#[derive(Debug)]
pub(super) enum PackedScales {
    Tensor(f32),
    /// `[n_panels]`
    Rows(ReadOnly<[f32; PANEL_ROWS]>),
    /// `[n_panels, n_cols / len]`
    Groups {
        len: usize,
        values: ReadOnly<[f32; PANEL_ROWS]>,
    },
}

/// The scales of some rows.
pub(super) enum RowScales<'a> {
    Tensor(f32),
    /// One for each row.
    Rows(&'a [f32]),
}

impl PackedScales {
    pub(super) fn new(
        pool: &HybridMemoryPool,
        scales: &Scales,
        n_rows: usize,
    ) -> Result<Self, OutOfMemory> {
        let by_panel = |values: &[f32]| {
            let n_groups = values.len() / n_rows.max(1);
            let n_panels = n_rows.div_ceil(PANEL_ROWS);
            let mut packed =
                pool.zeroed::<[f32; PANEL_ROWS]>(Category::Weights, n_panels * n_groups)?;
            for (row, values) in values.chunks_exact(n_groups.max(1)).enumerate() {
                let panel = &mut packed[row / PANEL_ROWS * n_groups..][..n_groups];
                for (packed, &value) in panel.iter_mut().zip(values) {
                    packed[row % PANEL_ROWS] = value;
                }
            }
            Ok(packed.into())
        };
        Ok(match scales {
            Scales::Tensor(scale) => Self::Tensor(*scale),
            Scales::Rows(values) => Self::Rows(by_panel(values)?),
            Scales::Groups { len, values } => Self::Groups {
                len: *len,
                values: by_panel(values)?,
            },
        })
    }

    pub(super) fn at(&self, row: usize, col: usize, n_cols: usize) -> f32 {
        let (panel, r) = (row / PANEL_ROWS, row % PANEL_ROWS);
        match self {
            Self::Tensor(scale) => *scale,
            Self::Rows(values) => values[panel][r],
            Self::Groups { len, values } => values[panel * (n_cols / len) + col / len][r],
        }
    }

    /// Returns the scales of some rows of a matrix without group scales.
    #[inline(always)]
    pub(super) fn of_rows(&self, first: usize, len: usize) -> RowScales<'_> {
        match self {
            Self::Tensor(scale) => RowScales::Tensor(*scale),
            Self::Rows(values) => RowScales::Rows(&values.as_flattened()[first..][..len]),
            Self::Groups { .. } => unreachable!("groups are packed in panels"),
        }
    }

    pub(super) fn n_bytes(&self) -> usize {
        match self {
            Self::Tensor(_) => 0,
            Self::Rows(values) | Self::Groups { values, .. } => size_of_val(&**values),
        }
    }
}

/// Adds the scaled sums of a group to `values`, in units of the activation step.
pub(super) struct AddGroup<'a> {
    pub(super) sums: &'a Acc,
    pub(super) scales: &'a [f32; PANEL_ROWS],
    pub(super) values: &'a mut [[f32; PANEL_ROWS]],
}

impl WithSimd for AddGroup<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<L: Lanes>(self, lanes: L) {
        let scales = lanes.load(self.scales);
        let add = |value: &mut [f32; PANEL_ROWS], sum| {
            lanes.store(lanes.mul_add(sum, scales, lanes.load(value)), value);
        };
        if self.sums.len() == self.values.len() {
            for (sums, value) in self.sums.iter().zip(self.values) {
                add(value, lanes.load_i32(sums));
            }
        } else {
            let fine = lanes.splat(1.0 / PART_RADIX);
            let parts = self.sums.as_chunks::<EXACT_PARTS>().0;
            for (parts, value) in parts.iter().zip(self.values) {
                let [q0, q1, q2] = parts.each_ref().map(|sums| lanes.load_i32(sums));
                let sum = lanes.mul_add(lanes.mul_add(q2, fine, q1), fine, q0);
                add(value, sum);
            }
        }
    }
}

const _: () = assert!(PANEL_ROWS == WIDTH);
