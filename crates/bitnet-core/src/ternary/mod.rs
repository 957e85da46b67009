//! Packed ternary matrices.

mod code_runs;
mod columns;
mod fastest_layout;
mod parts;
mod rows;
mod scales;

use std::sync::Mutex;

use code_runs::Transpose;
pub use code_runs::{CodeRuns, RunLen, TernaryRows};
pub use parts::{ScaleParts, TernaryParts};
use scales::{AddGroup, PackedScales};

use crate::activations::{Int8Rows, SUM_COLS};
use crate::arch::NullaryFnOnce;
#[cfg(target_arch = "x86_64")]
use crate::arch::x86_64::Avx512vbmi;
use crate::base3;
use crate::compute_context::ComputeContext;
use crate::isa::Isa;
use crate::matmul::{MAX_TILE, Panels, dequantize, for_tiles, matmul};
use crate::memory::{Buffer, Category, HybridMemoryPool, OutOfMemory, ReadOnly};
use crate::panel::{COL_STEP, Operands, PANEL_ROWS, PackedBlock};
use crate::scales::Scales;
use crate::shape::Shape;
use crate::ternary_layout::{TernaryLayout, UNPACKED_BLOCKS};

/// A ternary matrix `[n_rows, n_cols]` and its [`Scales`], packed in a [`TernaryLayout`].
///
/// Sixteen rows form a panel, which is a sequence of 64-byte blocks. Byte `4r + j` of a
/// block belongs to row r of the panel and holds the columns of the block that are j modulo
/// 4, as codes 0, 1, 2 for -1, 0, +1.
///
/// [`TernaryLayout::TwoBits`]: 16 columns per block.
///
/// ```text
/// byte 4r+j:  bits 7:6   5:4   3:2   1:0
///             col  j+12  j+8   j+4   j
/// ```
///
/// So `(block >> 2s) & 3` is, for each of the 16 rows, the four codes of columns 4s..4s+4:
/// the unsigned operand of a four-way int8 dot product whose signed operand is four
/// broadcast activations. The dot product of the trits is that of the codes minus the sum
/// of the activations.
///
/// [`TernaryLayout::Base3`]: four blocks for 80 columns, which take five blocks in the
/// two-bit layout. Byte by byte, block b holds the four trits of two-bit block b and, as
/// the fifth, the trit in bits 2b of the last two-bit block; the five trits form one
/// number.
///
/// ```text
/// byte 4r+j:  bit 7   bits 6:0
///             sign    |81·t(c) + 27·t(c+4) + 9·t(c+8) + 3·t(c+12) + t(64+4b+j)|, c = 16b+j
/// ```
///
/// [`TernaryLayout::Rows`]: each row is a sequence of 64-byte lines of 256 columns, so that
/// single rows can be read.
///
/// ```text
/// byte i:     bits 7:6   5:4   3:2   1:0
///             col  i+192 i+128 i+64  i
/// ```
///
/// [`TernaryLayout::Columns`]: each column is a sequence of 64-byte lines of 256 rows.
/// The bytes are in an order in which interleaving four columns yields sixteen rows in order.
///
/// ```text
/// byte 16l+4v+k:  bits 7:6        5:4         3:2        1:0
///                 row  192+r      128+r       64+r       r = 16v+4l+k
/// ```
///
/// Rows and columns are zero-padded to whole blocks.
#[derive(Debug)]
pub struct PackedTernary {
    blocks: ReadOnly<PackedBlock>,
    layout: TernaryLayout,
    n_rows: usize,
    n_cols: usize,
    scales: PackedScales,
}

/// The parameters of a packed ternary matrix, without its trits.
#[derive(Clone, Debug)]
pub struct TernarySpec {
    /// The layout; matrices with group scales are packed at two bits regardless of it.
    pub layout: TernaryLayout,
    /// The shape.
    pub shape: Shape,
    /// The scales.
    pub scales: Scales,
}

impl PackedTernary {
    /// The maximum number of columns: with activations of at most 127, dot products stay
    /// below 2^24 and are exact in f32.
    pub const MAX_COLS: usize = (1 << 24) / 127;

    /// Group lengths must be a multiple of this, in weights.
    pub const GROUP_STEP: usize = SUM_COLS;

    /// Packs a matrix, on all threads of `ctx`, which needs no scratch memory. The bytes are
    /// the same for every instruction set.
    ///
    /// # Errors
    ///
    /// Returns the error of the lowest row that failed, or an error if the system is out of
    /// memory.
    ///
    /// # Panics
    ///
    /// Panics if `n_cols` exceeds [`MAX_COLS`](Self::MAX_COLS), if the layout does not
    /// [take](TernaryLayout::takes) the shape, if the number of scales is not that of the rows
    /// or groups, if the group length is not a multiple of
    /// [`GROUP_STEP`](Self::GROUP_STEP) that divides `n_cols`, or if a trit is out of range
    /// (in builds with debug assertions).
    pub fn pack<E: Send + From<OutOfMemory>>(
        pool: &HybridMemoryPool,
        ctx: &mut ComputeContext<'_>,
        spec: TernarySpec,
        rows: &impl TernaryRows<E>,
    ) -> Result<Self, E> {
        let TernarySpec {
            mut layout,
            shape,
            scales,
        } = spec;
        let Shape { n_rows, n_cols } = shape;
        assert!(n_cols <= Self::MAX_COLS, "dot products are exact in f32");
        match &scales {
            Scales::Tensor(_) => {}
            Scales::Rows(values) => assert_eq!(values.len(), n_rows, "a scale for each row"),
            Scales::Groups { len, values } => {
                assert!(
                    len.is_multiple_of(Self::GROUP_STEP) && n_cols.is_multiple_of(*len),
                    "whole groups of {}",
                    Self::GROUP_STEP
                );
                assert_eq!(
                    values.len(),
                    n_rows * (n_cols / len),
                    "a scale for each group"
                );
                layout = TernaryLayout::TwoBits;
            }
        }
        let scales = PackedScales::new(pool, &scales, n_rows)?;
        assert!(layout.takes(shape), "the layout takes the shape");
        let first_error = Mutex::new(None);
        let decode_row = |row: usize, trits: &mut [i8]| {
            let decoded = rows.decode(row, trits);
            let is_decoded = decoded.is_ok();
            if let Err(error) = decoded {
                keep_lowest(&first_error, row, error);
            }
            is_decoded
        };
        let blocks = match layout {
            TernaryLayout::Columns => columns::pack(pool, ctx, shape, decode_row),
            TernaryLayout::TwoBits => {
                let copy_codes = |row: usize, codes: &mut [u8]| rows.copy_codes(row, codes);
                pack_panels(pool, ctx, layout, shape, decode_row, copy_codes)
            }
            _ => pack_panels(pool, ctx, layout, shape, decode_row, |_, _| None),
        }?;
        match first_error.into_inner().expect("no holder panics") {
            Some((_, error)) => Err(error),
            None => Ok(Self {
                blocks: blocks.into(),
                layout,
                n_rows,
                n_cols,
                scales,
            }),
        }
    }

    /// Returns the number of rows, which are outputs.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Returns the number of columns, which are inputs.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Returns the layout of the packed weights.
    pub fn layout(&self) -> TernaryLayout {
        self.layout
    }

    /// Returns the bytes of the packed weights and scales of a matrix with these
    /// parameters.
    pub fn n_bytes_of(layout: TernaryLayout, shape: Shape, scales: &Scales) -> usize {
        let Shape { n_rows, n_cols } = shape;
        let n_panels = n_rows.div_ceil(PANEL_ROWS);
        let (layout, n_scales) = match scales {
            Scales::Tensor(_) => (layout, 0),
            Scales::Rows(_) => (layout, 1),
            Scales::Groups { len, .. } => (TernaryLayout::TwoBits, n_cols / len),
        };
        layout.n_blocks(shape) * size_of::<PackedBlock>()
            + n_panels * n_scales * PANEL_ROWS * size_of::<f32>()
    }

    /// Returns the bytes of the packed weights and scales.
    pub fn n_bytes(&self) -> usize {
        size_of_val(&*self.blocks) + self.scales.n_bytes()
    }

    /// Unpacks one row to trits -1, 0, +1.
    ///
    /// # Panics
    ///
    /// Panics if `row` is out of range or `trits` is not `n_cols` long.
    pub fn unpack_row(&self, row: usize, trits: &mut [i8]) {
        assert!(row < self.n_rows && trits.len() == self.n_cols);
        self.for_each_trit(row, |col, trit| trits[col] = trit);
    }

    /// Dequantizes one row: trits times their scales.
    ///
    /// # Panics
    ///
    /// Panics if `row` is out of range or `values` is not `n_cols` long.
    pub fn decode_row(&self, row: usize, values: &mut [f32]) {
        assert!(row < self.n_rows && values.len() == self.n_cols);
        self.for_each_trit(row, |col, trit| {
            values[col] = f32::from(trit) * self.scales.at(row, col, self.n_cols);
        });
    }

    fn for_each_trit(&self, row: usize, mut f: impl FnMut(usize, i8)) {
        match self.layout {
            TernaryLayout::TwoBits | TernaryLayout::Base3 => {}
            TernaryLayout::Rows => {
                let n_lines = self.layout.blocks_per_panel(self.n_cols) / PANEL_ROWS;
                let lines = &self.blocks[row * n_lines..][..n_lines];
                return (0..self.n_cols).for_each(|col| f(col, rows::code(lines, col) as i8 - 1));
            }
            TernaryLayout::Columns => {
                let code = |col| columns::code(&self.blocks, self.n_rows, row, col);
                return (0..self.n_cols).for_each(|col| f(col, code(col) as i8 - 1));
            }
        }
        let panel = self.panel(row / PANEL_ROWS);
        let mut visit = |first_col: usize, block: &PackedBlock| {
            for col in 0..COL_STEP.min(self.n_cols.saturating_sub(first_col)) {
                let byte = block.0[row % PANEL_ROWS * 4 + col % 4];
                f(first_col + col, (byte >> (col / 4 * 2) & 3) as i8 - 1);
            }
        };
        match self.layout {
            TernaryLayout::Base3 => {
                for (g, group) in panel.as_chunks().0.iter().enumerate() {
                    for (i, block) in base3::unpack_group(group).iter().enumerate() {
                        visit(base3::GROUP_COLS * g + COL_STEP * i, block);
                    }
                }
            }
            _ => {
                for (i, block) in panel.iter().enumerate() {
                    visit(COL_STEP * i, block);
                }
            }
        }
    }

    /// Returns a matrix of about `n_bytes` with arbitrary weights, for measurements.
    pub(crate) fn filled(
        pool: &HybridMemoryPool,
        layout: TernaryLayout,
        n_bytes: usize,
    ) -> Result<Self, OutOfMemory> {
        const N_COLS: usize = 2560;
        let blocks_per_panel = layout.blocks_per_panel(N_COLS);
        let n_panels = n_bytes / size_of::<PackedBlock>() / blocks_per_panel;
        let mut blocks = pool.zeroed(Category::Scratch, n_panels * blocks_per_panel)?;
        // Not zeros, which the system might back with a single page.
        blocks.fill(PackedBlock([0x55; 64]));
        Ok(Self {
            blocks: blocks.into(),
            layout,
            n_rows: n_panels * PANEL_ROWS,
            n_cols: N_COLS,
            scales: PackedScales::Tensor(1.0),
        })
    }

    /// Computes
    /// `out[token, row] = Σ_col trit[row, col] · q[token, col] · (scale / activation scale)`;
    /// the sum is exact. With group scales, the sum of each group is exact, and the scaled
    /// sums are added in order by fused multiply-add.
    ///
    /// # Panics
    ///
    /// Panics if the shapes disagree: `acts` is `[n_tokens, n_cols]`, quantized or split,
    /// `out` is `[n_tokens, n_rows]`.
    pub fn matmul(&self, ctx: &mut ComputeContext<'_>, acts: &Int8Rows, out: &mut [f32]) {
        assert_eq!(
            acts.n_cols(),
            self.n_cols,
            "columns of weights and activations"
        );
        if self.layout == TernaryLayout::Columns {
            self.listed_matmul(ctx, acts, out);
            return;
        }
        let (weights, isa) = (self, ctx.isa);
        matmul(&WithIsa { weights, isa }, ctx.threads, acts, out);
    }

    fn panel(&self, panel: usize) -> &[PackedBlock] {
        let len = self.layout.blocks_per_panel(self.n_cols);
        &self.blocks[panel * len..][..len]
    }
}

/// The scratch of a thread for packing a panel.
struct PackingScratch {
    /// The trits of a row, zero-padded to whole blocks.
    trits: Buffer<i8>,
    /// The packed codes of a row, four bytes for each block.
    quads: Buffer<[u8; 4]>,
    /// The stored codes of a row, sixteen bytes for four blocks.
    stored: Buffer<[u64; 2]>,
    /// The panel in the two-bit layout, if it is to have another.
    two_bits: Buffer<PackedBlock>,
}

impl PackingScratch {
    fn new(
        pool: &HybridMemoryPool,
        layout: TernaryLayout,
        n_cols: usize,
    ) -> Result<Self, OutOfMemory> {
        let n_blocks = match layout {
            TernaryLayout::TwoBits | TernaryLayout::Rows | TernaryLayout::Columns => {
                TernaryLayout::TwoBits.blocks_per_panel(n_cols)
            }
            TernaryLayout::Base3 => layout.blocks_per_panel(n_cols) / 4 * 5,
        };
        let n_two_bits = match layout {
            TernaryLayout::Base3 => n_blocks,
            _ => 0,
        };
        Ok(Self {
            trits: pool.zeroed(Category::Scratch, n_blocks * COL_STEP)?,
            quads: pool.zeroed(Category::Scratch, n_blocks)?,
            stored: pool.zeroed(Category::Scratch, n_cols / (4 * COL_STEP))?,
            two_bits: pool.zeroed(Category::Scratch, n_two_bits)?,
        })
    }
}

/// Adds 1 to sixteen trits in fields of two bits, modulo 4, which makes them codes.
#[inline(always)]
fn codes_of(trits: u32) -> u32 {
    const LOW_BITS: u32 = 0x5555_5555;
    trits ^ (trits & LOW_BITS) << 1 ^ LOW_BITS
}

/// Packs the trits of a row, four bytes for each [`COL_STEP`] of them.
struct PackQuads<'a> {
    trits: &'a [i8],
    quads: &'a mut [[u8; 4]],
}

impl NullaryFnOnce for PackQuads<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (trits, _) = self.trits.as_chunks::<4>();
        for (quad, trits) in self.quads.iter_mut().zip(trits.as_chunks::<4>().0) {
            // Four columns at a time: the two lowest bits of each, shifted within its byte.
            let mut packed = 0;
            for (s, trits) in trits.iter().enumerate() {
                let trits = u32::from_le_bytes(trits.map(i8::cast_unsigned));
                packed |= (trits & 0x0303_0303) << (2 * s);
            }
            *quad = codes_of(packed).to_le_bytes();
        }
    }
}

/// See [`base3::pack_group`].
struct PackGroup<'a>(&'a [PackedBlock; 5]);

impl NullaryFnOnce for PackGroup<'_> {
    type Output = [PackedBlock; 4];

    #[inline(always)]
    fn call(self) -> [PackedBlock; 4] {
        base3::pack_group(self.0)
    }
}

/// Packs a matrix in panels; `decode_row(row, trits)` fills one row, or returns false, and
/// `copy_codes(row, codes)` copies its stored codes, for the two-bit layout.
fn pack_panels(
    pool: &HybridMemoryPool,
    ctx: &mut ComputeContext<'_>,
    layout: TernaryLayout,
    Shape { n_rows, n_cols }: Shape,
    decode_row: impl Fn(usize, &mut [i8]) -> bool + Sync,
    copy_codes: impl Fn(usize, &mut [u8]) -> Option<CodeRuns> + Sync,
) -> Result<Buffer<PackedBlock>, OutOfMemory> {
    let blocks_per_panel = layout.blocks_per_panel(n_cols);
    let n_panels = n_rows.div_ceil(PANEL_ROWS);
    let mut blocks = pool.zeroed(Category::Weights, n_panels.saturating_mul(blocks_per_panel))?;
    let mut scratch = (0..ctx.threads.n_threads())
        .map(|_| PackingScratch::new(pool, layout, n_cols))
        .collect::<Result<Vec<_>, _>>()?;
    let isa = ctx.isa;
    // A matrix without columns has no blocks; a chunk length must not be 0.
    let chunk = blocks_per_panel.max(1);
    ctx.threads.for_each_chunk(
        &mut blocks,
        chunk,
        &mut scratch,
        |scratch, panel, blocks| {
            let PackingScratch {
                trits,
                quads,
                stored,
                two_bits,
            } = scratch;
            for row_in_panel in 0..PANEL_ROWS {
                let row = panel * PANEL_ROWS + row_in_panel;
                if row < n_rows {
                    let codes = bytemuck::cast_slice_mut(stored);
                    if 4 * codes.len() == n_cols
                        && let Some(runs) = copy_codes(row, codes)
                        && isa.vectorize(Transpose(stored))
                    {
                        runs.scatter(stored, row_in_panel, blocks);
                        continue;
                    }
                    let trits = &mut trits[..n_cols];
                    if !decode_row(row, trits) {
                        return;
                    }
                    debug_assert!(trits.iter().all(|t| (-1..=1).contains(t)), "trits");
                } else {
                    trits.fill(0);
                }
                if layout == TernaryLayout::Rows {
                    let n_lines = blocks.len() / PANEL_ROWS;
                    let lines = &mut blocks[row_in_panel * n_lines..][..n_lines];
                    isa.vectorize(rows::PackRow { trits, lines });
                    continue;
                }
                isa.vectorize(PackQuads { trits, quads });
                let panel: &mut [PackedBlock] = match layout {
                    TernaryLayout::Base3 => two_bits,
                    _ => blocks,
                };
                for (block, quad) in panel.iter_mut().zip(quads.iter()) {
                    block.0.as_chunks_mut().0[row_in_panel] = *quad;
                }
            }
            if layout == TernaryLayout::Base3 {
                let groups = two_bits.as_chunks().0;
                for (out, group) in blocks.as_chunks_mut().0.iter_mut().zip(groups) {
                    *out = isa.vectorize(PackGroup(group));
                }
            }
        },
    );
    Ok(blocks)
}

/// Keeps the error of the lowest row.
fn keep_lowest<E>(lowest: &Mutex<Option<(usize, E)>>, row: usize, error: E) {
    let mut lowest = lowest.lock().expect("no holder panics");
    if lowest.as_ref().is_none_or(|(other, _)| row < *other) {
        *lowest = Some((row, error));
    }
}

struct WithIsa<'a> {
    weights: &'a PackedTernary,
    isa: Isa,
}

impl Panels for WithIsa<'_> {
    fn n_rows(&self) -> usize {
        self.weights.n_rows
    }

    fn products(
        &self,
        panel: usize,
        acts: &Int8Rows,
        mut put: impl FnMut(usize, &[f32; PANEL_ROWS]),
    ) {
        let blocks = self.weights.panel(panel);
        let scales = match &self.weights.scales {
            PackedScales::Tensor(scale) => &[*scale; PANEL_ROWS],
            PackedScales::Rows(values) => &values[panel],
            PackedScales::Groups { len, values } => {
                let n_groups = self.weights.n_cols / len;
                let scales = &values[panel * n_groups..][..n_groups];
                return self.grouped_products(blocks, GroupScales { len: *len, scales }, acts, put);
            }
        };
        let put = &mut put;
        if self.weights.layout == TernaryLayout::Rows {
            return self.row_panel_products(blocks, acts, scales, put);
        }
        // Wider panels are unpacked again for every tile.
        #[cfg(target_arch = "x86_64")]
        if self.weights.layout == TernaryLayout::Base3
            && acts.n_rows() > MAX_TILE
            && let Some(level) = self.isa.vbmi()
            && blocks.len() <= UNPACKED_BLOCKS / 5 * 4
        {
            return self.base3_panel_products(level, blocks, acts, scales, put);
        }
        self.panel_products(self.weights.layout, blocks, acts, scales, put);
    }

    fn panel_bytes(&self) -> usize {
        size_of_val(self.weights.panel(0))
    }
}

/// The products of a panel with one scale per row. Panels are unpacked in functions that are
/// not inlined, so that others do not touch every page of so much stack.
impl WithIsa<'_> {
    fn panel_products(
        &self,
        layout: TernaryLayout,
        blocks: &[PackedBlock],
        acts: &Int8Rows,
        scales: &[f32; PANEL_ROWS],
        put: &mut impl FnMut(usize, &[f32; PANEL_ROWS]),
    ) {
        for_tiles(acts, |first, acc| {
            let operands = Operands {
                blocks,
                acts: acts.view(),
                first,
                first_col: 0,
            };
            match layout {
                TernaryLayout::Base3 => self.isa.base3_panel(operands, acc),
                _ => self.isa.ternary_panel(operands, acc),
            }
            for (i, sums) in acc.iter_mut().enumerate() {
                let correction = operands.acts.sum(first + i);
                for sum in sums {
                    *sum -= correction;
                }
            }
            dequantize(acts, first, acc, scales, put);
        });
    }

    #[inline(never)]
    fn row_panel_products(
        &self,
        lines: &[PackedBlock],
        acts: &Int8Rows,
        scales: &[f32; PANEL_ROWS],
        put: &mut impl FnMut(usize, &[f32; PANEL_ROWS]),
    ) {
        #[expect(clippy::large_stack_arrays, reason = "no recursion here")]
        let mut unpacked = [PackedBlock::ZERO; UNPACKED_BLOCKS];
        let blocks = &mut unpacked[..self.weights.n_cols / COL_STEP];
        self.isa.vectorize(rows::UnpackPanel { lines, blocks });
        self.panel_products(TernaryLayout::TwoBits, blocks, acts, scales, put);
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(never)]
    fn base3_panel_products(
        &self,
        level: Avx512vbmi,
        blocks: &[PackedBlock],
        acts: &Int8Rows,
        scales: &[f32; PANEL_ROWS],
        put: &mut impl FnMut(usize, &[f32; PANEL_ROWS]),
    ) {
        #[expect(clippy::large_stack_arrays, reason = "no recursion here")]
        let mut unpacked = [PackedBlock::ZERO; UNPACKED_BLOCKS];
        let unpacked = &mut unpacked[..blocks.len() / 4 * 5];
        level.unpack(blocks, unpacked);
        self.panel_products(TernaryLayout::TwoBits, unpacked, acts, scales, put);
    }
}

/// The scales of a panel, sixteen per group of `len` columns.
struct GroupScales<'a> {
    len: usize,
    /// `[n_groups]`
    scales: &'a [[f32; PANEL_ROWS]],
}

impl WithIsa<'_> {
    /// Computes the products of a panel with group scales.
    fn grouped_products(
        &self,
        blocks: &[PackedBlock],
        GroupScales { len, scales }: GroupScales<'_>,
        acts: &Int8Rows,
        mut put: impl FnMut(usize, &[f32; PANEL_ROWS]),
    ) {
        let groups = blocks.chunks_exact(len / COL_STEP).zip(scales);
        for_tiles(acts, |first, acc| {
            let mut values = [[0.0; PANEL_ROWS]; MAX_TILE];
            let values = &mut values[..acc.len() / acts.n_parts()];
            for (group, (blocks, scales)) in groups.clone().enumerate() {
                let first_col = group * len;
                let operands = Operands {
                    blocks,
                    acts: acts.view(),
                    first,
                    first_col,
                };
                self.isa.ternary_panel(operands, acc);
                for (i, sums) in acc.iter_mut().enumerate() {
                    let correction = acts.sum_of_cols(first + i, first_col, len);
                    for sum in sums {
                        *sum -= correction;
                    }
                }
                self.isa.dispatch(AddGroup {
                    sums: acc,
                    scales,
                    values,
                });
            }
            for (i, values) in values.iter().enumerate() {
                let row = first + i * acts.n_parts();
                let inverse = 1.0 / acts.scale(row);
                put(row / acts.n_parts(), &values.map(|value| value * inverse));
            }
        });
    }
}

#[cfg(test)]
mod tests;
