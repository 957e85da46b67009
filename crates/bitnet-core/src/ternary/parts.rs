//! The arrays of packed ternary matrices, for files that store them.

use std::ops::Range;
use std::sync::Arc;

use super::PackedTernary;
use super::scales::PackedScales;
use crate::base3;
use crate::memory::{FixedBytes, ReadOnly};
use crate::panel::{PANEL_ROWS, PackedBlock};
use crate::shape::Shape;
use crate::ternary_layout::TernaryLayout;

/// A packed ternary matrix in parts, whose arrays are of type `B`: bytes, or where they are.
/// The arrays are as [`PackedTernary`] specifies them, in the byte order of this machine.
#[derive(Clone, Debug, PartialEq)]
pub struct TernaryParts<B> {
    /// The layout of the weights.
    pub layout: TernaryLayout,
    /// The shape.
    pub shape: Shape,
    /// The scales.
    pub scales: ScaleParts<B>,
    /// The weights.
    pub blocks: B,
}

/// The scales of a packed ternary matrix. Arrays have the rows of all panels, sixteen each,
/// with zeros after the last row.
#[derive(Clone, Debug, PartialEq)]
pub enum ScaleParts<B> {
    /// One scale.
    Tensor(f32),
    /// `[n_panels, 16]`, f32.
    Rows(B),
    /// A scale for every `len` columns of a row.
    Groups {
        /// The columns.
        len: usize,
        /// `[n_panels, n_cols / len, 16]`, f32.
        values: B,
    },
}

impl PackedTernary {
    /// Returns the parts of the matrix.
    pub fn parts(&self) -> TernaryParts<&[u8]> {
        TernaryParts {
            layout: self.layout,
            shape: self.shape(),
            scales: match &self.scales {
                PackedScales::Tensor(scale) => ScaleParts::Tensor(*scale),
                PackedScales::Rows(values) => ScaleParts::Rows(bytemuck::cast_slice(values)),
                PackedScales::Groups { len, values } => ScaleParts::Groups {
                    len: *len,
                    values: bytemuck::cast_slice(values),
                },
            },
            blocks: bytemuck::cast_slice(&self.blocks),
        }
    }

    /// Returns a matrix whose arrays are in these ranges of `bytes`, as [`parts`](Self::parts)
    /// returned them; `None` if there is no such matrix. The weights themselves are not
    /// checked: with other bytes, products are arbitrary.
    pub fn from_parts(
        bytes: &Arc<dyn FixedBytes>,
        parts: TernaryParts<Range<usize>>,
    ) -> Option<Self> {
        let TernaryParts {
            layout,
            shape,
            scales,
            blocks,
        } = parts;
        let Shape { n_rows, n_cols } = shape;
        let n_panels = n_rows.div_ceil(PANEL_ROWS);
        let values = |range, n_groups: usize| {
            let values = ReadOnly::<[f32; PANEL_ROWS]>::in_bytes(bytes, range)?;
            (Some(values.len()) == n_panels.checked_mul(n_groups)).then_some(values)
        };
        let scales = match scales {
            ScaleParts::Tensor(scale) => PackedScales::Tensor(scale),
            ScaleParts::Rows(range) => PackedScales::Rows(values(range, 1)?),
            ScaleParts::Groups { len, values: range } => {
                let is_whole = len > 0
                    && len.is_multiple_of(Self::GROUP_STEP)
                    && n_cols.is_multiple_of(len)
                    && layout == TernaryLayout::TwoBits;
                PackedScales::Groups {
                    len,
                    values: values(range, is_whole.then(|| n_cols / len)?)?,
                }
            }
        };
        let blocks = ReadOnly::<PackedBlock>::in_bytes(bytes, blocks)?;
        let is_whole = n_cols <= Self::MAX_COLS
            && layout.takes(shape)
            && blocks.len() == layout.n_blocks(shape);
        is_whole.then_some(Self {
            blocks,
            layout,
            n_rows,
            n_cols,
            scales,
        })
    }

    /// Returns the shape.
    pub fn shape(&self) -> Shape {
        Shape {
            n_rows: self.n_rows,
            n_cols: self.n_cols,
        }
    }

    /// Returns the bytes of [`n_bytes`](Self::n_bytes) that are not in the pool, see
    /// [`from_parts`](Self::from_parts).
    pub fn n_shared_bytes(&self) -> usize {
        if self.blocks.is_shared() {
            self.n_bytes()
        } else {
            0
        }
    }

    /// Returns whether all weights are zero, whatever their scales.
    pub fn is_zero(&self) -> bool {
        // Padding is zero, too.
        let zeros = match self.layout {
            TernaryLayout::Base3 => base3::ZEROS,
            TernaryLayout::TwoBits | TernaryLayout::Rows | TernaryLayout::Columns => 0x55,
        };
        self.blocks.iter().all(|block| block.0 == [zeros; 64])
    }

    /// Returns the scales, panel by panel, with zeros after the last row.
    pub fn scale_values(&self) -> &[f32] {
        match &self.scales {
            PackedScales::Tensor(scale) => std::slice::from_ref(scale),
            PackedScales::Rows(values) | PackedScales::Groups { values, .. } => {
                values.as_flattened()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute_context::ComputeContext;
    use crate::isa::Isa;
    use crate::memory::{Category, HybridMemoryPool, OutOfMemory};
    use crate::scales::Scales;
    use crate::ternary::TernarySpec;
    use crate::thread_pool::ThreadPool;

    const SHAPE: Shape = Shape {
        n_rows: 256,
        n_cols: 512,
    };

    fn pack(
        layout: TernaryLayout,
        scales: Scales,
        trit: impl Fn(usize) -> i8 + Sync,
    ) -> PackedTernary {
        let threads = &mut ThreadPool::new(1);
        let ctx = &mut ComputeContext::new(Isa::best(), threads);
        let spec = TernarySpec {
            layout,
            shape: SHAPE,
            scales,
        };
        let pool = HybridMemoryPool::new();
        let packed = PackedTernary::pack(&pool, ctx, spec, &|row: usize, out: &mut [i8]| {
            out.iter_mut()
                .enumerate()
                .for_each(|(col, out)| *out = trit(row * 31 + col));
            Ok::<_, OutOfMemory>(())
        });
        packed.unwrap()
    }

    /// Arrays of a matrix one after the other, and where they are.
    fn stored(packed: &PackedTernary) -> (Arc<dyn FixedBytes>, TernaryParts<Range<usize>>) {
        let pool = HybridMemoryPool::new();
        let mut bytes = pool
            .zeroed::<u8>(Category::Scratch, packed.n_bytes())
            .unwrap();
        let mut end = 0;
        let mut store = |array: &[u8]| {
            let start = end;
            end += array.len();
            bytes[start..end].copy_from_slice(array);
            start..end
        };
        let parts = packed.parts();
        let parts = TernaryParts {
            blocks: store(parts.blocks),
            scales: match parts.scales {
                ScaleParts::Tensor(scale) => ScaleParts::Tensor(scale),
                ScaleParts::Rows(values) => ScaleParts::Rows(store(values)),
                ScaleParts::Groups { len, values } => ScaleParts::Groups {
                    len,
                    values: store(values),
                },
            },
            layout: parts.layout,
            shape: parts.shape,
        };
        assert_eq!(end, packed.n_bytes());
        (Arc::new(ReadOnly::from(bytes)), parts)
    }

    fn all() -> Vec<PackedTernary> {
        use TernaryLayout::{Base3, Columns, Rows, TwoBits};
        let values = |n: usize| (0..n).map(|i| i as f32 + 0.5).collect();
        let scales = [
            Scales::Tensor(0.3),
            Scales::Rows(values(SHAPE.n_rows)),
            Scales::Groups {
                len: 128,
                values: values(4 * SHAPE.n_rows),
            },
        ];
        let trit = |i: usize| (i * i % 3) as i8 - 1;
        [TwoBits, Base3, Rows, Columns]
            .iter()
            .flat_map(|layout| scales.clone().map(|scales| pack(*layout, scales, trit)))
            .collect()
    }

    #[test]
    fn a_matrix_of_stored_parts_is_the_matrix() {
        for packed in all() {
            let (bytes, parts) = stored(&packed);
            let same = PackedTernary::from_parts(&bytes, parts).unwrap();
            assert_eq!(same.parts(), packed.parts());
            assert_eq!(same.n_shared_bytes(), packed.n_bytes());
            assert_eq!(packed.n_shared_bytes(), 0);
            let (mut found, mut expected) = ([0.0; 512], [1.0; 512]);
            same.decode_row(77, &mut found);
            packed.decode_row(77, &mut expected);
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn arrays_of_another_size_are_no_matrix() {
        for packed in all() {
            let (bytes, parts) = stored(&packed);
            let is_refused = |change: fn(&mut TernaryParts<Range<usize>>)| {
                let mut parts = parts.clone();
                change(&mut parts);
                PackedTernary::from_parts(&bytes, parts).is_none()
            };
            assert!(is_refused(|parts| parts.blocks.end -= 64));
            assert!(is_refused(|parts| parts.blocks.end = usize::MAX));
            assert!(is_refused(|parts| parts.shape.n_rows += 256));
            assert!(is_refused(|parts| parts.shape.n_cols = usize::MAX));
            if !matches!(parts.scales, ScaleParts::Tensor(_)) {
                assert!(is_refused(|parts| match &mut parts.scales {
                    ScaleParts::Tensor(_) => {}
                    ScaleParts::Rows(values) | ScaleParts::Groups { values, .. } =>
                        values.start += 64,
                }));
                assert!(is_refused(|parts| match &mut parts.scales {
                    ScaleParts::Groups { len, .. } => *len = 0,
                    scales => *scales = ScaleParts::Rows(0..0),
                }));
            }
        }
    }

    #[test]
    fn zeros_are_seen_in_every_layout() {
        use TernaryLayout::{Base3, Columns, Rows, TwoBits};
        for layout in [TwoBits, Base3, Rows, Columns] {
            assert!(pack(layout, 1.0.into(), |_| 0).is_zero(), "{layout:?}");
            let last = SHAPE.n_rows * 31 + SHAPE.n_cols - 32;
            for trit in [-1, 1] {
                let packed = pack(layout, 1.0.into(), |i| if i == last { trit } else { 0 });
                assert!(!packed.is_zero(), "{layout:?}");
            }
        }
    }
}
