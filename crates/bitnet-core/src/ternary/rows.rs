//! [`TernaryLayout::Rows`], and the gated product that skips rows.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::scales::RowScales;
use super::{PackedTernary, WithIsa};
use crate::activations::Int8Rows;
use crate::arch::NullaryFnOnce;
use crate::compute_context::ComputeContext;
use crate::matmul::Panels;
use crate::operation::{Operation, lap};
use crate::ops;
use crate::panel::{COL_STEP, LINE_COLS, PANEL_ROWS, PackedBlock};
use crate::sparse::{LinesAhead, ListedRows, PartRead};
use crate::ternary_layout::TernaryLayout;
use crate::thread_pool::DisjointMut;

/// Rows that a thread computes at a time: the bits of a mask of the rows of a token.
const GROUP_ROWS: usize = u64::BITS as usize;

/// Half cycles of the kernels, by AVX-512 VNNI; the ratios of the other tiers are similar.
/// They are weighed for several tokens, where the weights are in the cache.
mod half_cycles {
    /// Of a line of a single row, and of its horizontal sum.
    pub(super) const LINE: usize = 9;
    pub(super) const ROW: usize = 10;
    /// Of listing the rows of a group, and multiplying by the gates.
    pub(super) const LIST: usize = 240;
    /// Of a line in panels of many tokens, and of unpacking it.
    pub(super) const DENSE_LINE: usize = 4;
    pub(super) const UNPACK_LINE: usize = 60;
}

/// Returns whether `len` rows of `n_lines` lines are faster one by one, if so many products
/// of a row and a token are needed.
fn is_faster_by_row(n_lines: usize, len: usize, n_tokens: usize, products: usize) -> bool {
    use half_cycles::{DENSE_LINE, LINE, LIST, ROW, UNPACK_LINE};

    let by_row = products * (LINE * n_lines + ROW) + n_tokens * LIST;
    let dense = len * n_lines * (DENSE_LINE * n_tokens + UNPACK_LINE);
    by_row <= dense
}

/// Packs the trits of one row, whole lines of them.
pub(super) struct PackRow<'a> {
    pub(super) trits: &'a [i8],
    pub(super) lines: &'a mut [PackedBlock],
}

impl NullaryFnOnce for PackRow<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let lines = self.lines.iter_mut();
        for (line, trits) in lines.zip(self.trits.as_chunks::<LINE_COLS>().0) {
            let (quarters, _) = trits.as_chunks::<64>();
            for (i, byte) in line.0.iter_mut().enumerate() {
                let mut packed = 0;
                for (q, quarter) in quarters.iter().enumerate() {
                    packed |= (quarter[i] + 1).cast_unsigned() << (2 * q);
                }
                *byte = packed;
            }
        }
    }
}

/// Returns the code of a column, given the lines of its row.
pub(super) fn code(lines: &[PackedBlock], col: usize) -> u8 {
    let byte = lines[col / LINE_COLS].0[col % 64];
    byte >> (col % LINE_COLS / 64 * 2) & 3
}

/// Unpacks a panel to the two-bit panel layout.
pub(super) struct UnpackPanel<'a> {
    /// `[PANEL_ROWS, n_lines]`
    pub(super) lines: &'a [PackedBlock],
    /// `[n_lines · LINE_COLS / COL_STEP]`
    pub(super) blocks: &'a mut [PackedBlock],
}

impl NullaryFnOnce for UnpackPanel<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let n_lines = self.lines.len() / PANEL_ROWS;
        let (outs, _) = self.blocks.as_chunks_mut::<{ LINE_COLS / COL_STEP }>();
        assert_eq!(outs.len(), n_lines, "blocks for every line");
        for (line, out) in outs.iter_mut().enumerate() {
            // By four columns, of four quarters each, then by row.
            let mut quads = [[0u32; PANEL_ROWS]; COL_STEP];
            for row in 0..PANEL_ROWS {
                let (packed, _) = self.lines[row * n_lines + line].0.as_chunks::<4>();
                for (quad, packed) in quads.iter_mut().zip(packed) {
                    quad[row] = u32::from_le_bytes(*packed);
                }
            }
            for (i, quads) in quads.as_chunks::<4>().0.iter().enumerate() {
                for quarter in 0..4 {
                    transpose_codes(quads, quarter, &mut out[4 * quarter + i]);
                }
            }
        }
    }
}

/// Packs a block from the codes in bits `2·quarter` of four columns each of all rows.
#[inline(always)]
pub(super) fn transpose_codes(
    quads: &[[u32; PANEL_ROWS]; 4],
    quarter: usize,
    block: &mut PackedBlock,
) {
    let mut packed = [0u32; PANEL_ROWS];
    for (s, quad) in quads.iter().enumerate() {
        for (packed, codes) in packed.iter_mut().zip(quad) {
            *packed |= (codes >> (2 * quarter) & 0x0303_0303) << (2 * s);
        }
    }
    for (bytes, packed) in block.0.as_chunks_mut::<4>().0.iter_mut().zip(packed) {
        *bytes = packed.to_le_bytes();
    }
}

/// Returns a mask of the gates that are positive.
struct Positive<'a>(&'a [f32]);

impl NullaryFnOnce for Positive<'_> {
    type Output = u64;

    #[inline(always)]
    fn call(self) -> u64 {
        let (parts, rest) = self.0.as_chunks::<16>();
        let mask = |gates: &[f32]| {
            let bits = gates.iter().enumerate();
            bits.fold(0, |mask, (i, gate)| mask | u16::from(*gate > 0.0) << i)
        };
        let mut whole = parts.iter().enumerate().fold(0, |whole, (i, part)| {
            whole | u64::from(mask(part)) << (16 * i)
        });
        if !rest.is_empty() {
            whole |= u64::from(mask(rest)) << (16 * parts.len());
        }
        whole
    }
}

impl PackedTernary {
    /// Computes `out[token, row] = max(g, 0)² · u`, where g and u are the products of
    /// `gate` and `up` as [`matmul`](Self::matmul) computes them. Rows of `up` are read only
    /// where a gate is positive, which changes no bit. Returns the rows that were read.
    ///
    /// # Panics
    ///
    /// Panics if the shapes disagree: both matrices are `[n_rows, n_cols]`, `acts` is
    /// `[n_tokens, n_cols]`, quantized, and `out` is `[n_tokens, n_rows]`; or if `up` is not
    /// in [`TernaryLayout::Rows`], or has group scales.
    pub fn relu2_gated_matmul(
        ctx: &mut ComputeContext<'_>,
        [gate, up]: [&Self; 2],
        acts: &Int8Rows,
        out: &mut [f32],
    ) -> PartRead {
        let (n_tokens, n_rows, isa) = (acts.n_rows(), up.n_rows, ctx.isa);
        assert_eq!(up.layout, TernaryLayout::Rows, "the layout of up");
        assert_eq!(acts.n_parts(), 1, "quantized activations");
        for matrix in [gate, up] {
            assert_eq!(matrix.n_rows, n_rows, "rows of gate and up");
            assert_eq!(
                matrix.n_cols,
                acts.n_cols(),
                "columns of weights and activations"
            );
        }
        assert_eq!(out.len(), n_tokens * n_rows, "out is [n_tokens, n_rows]");
        let (rows_read, products) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let pair = Pair {
            gate: WithIsa { weights: gate, isa },
            up: WithIsa { weights: up, isa },
            acts,
        };
        let out = DisjointMut(out.as_mut_ptr());
        let n_groups = n_rows.div_ceil(GROUP_ROWS);
        // One token: many groups a chunk, since nothing is computed while the rows of its
        // first group are prefetched.
        let groups_per_chunk = match n_tokens {
            1 => n_groups.div_ceil(4 * ctx.threads.n_threads()).max(1),
            _ => 1,
        };
        (ctx.threads).for_each(n_groups.div_ceil(groups_per_chunk), |_, chunk| {
            let first = chunk * groups_per_chunk;
            let groups = first..n_groups.min(first + groups_per_chunk);
            let out = |group: usize, token: usize| {
                assert!(group < n_groups && token < n_tokens, "a group of the batch");
                let first = group * GROUP_ROWS;
                let len = GROUP_ROWS.min(n_rows - first);
                // SAFETY: the rows of a group of one token lie inside `out`; different
                // groups and tokens do not overlap, and each group is computed once, which
                // holds one slice at a time.
                unsafe { std::slice::from_raw_parts_mut(out.at(token * n_rows + first), len) }
            };
            let counts = if n_tokens == 1 {
                pair.one_token(groups, |group| out(group, 0))
            } else {
                pair.tokens(first, |token| out(first, token))
            };
            rows_read.fetch_add(counts.rows_read, Ordering::Relaxed);
            products.fetch_add(counts.products, Ordering::Relaxed);
        });
        PartRead {
            read: rows_read.into_inner(),
            total: n_rows,
            products: products.into_inner(),
        }
    }
}

/// The operands of a gated product.
struct Pair<'a> {
    gate: WithIsa<'a>,
    up: WithIsa<'a>,
    acts: &'a Int8Rows,
}

struct Counts {
    /// Rows of up.
    rows_read: usize,
    /// Products of a row of up and a token.
    products: usize,
}

/// The rows of a group whose gate is positive.
struct Listed {
    rows: [u32; GROUP_ROWS],
    len: usize,
}

impl Listed {
    const NONE: Self = Self {
        rows: [0; GROUP_ROWS],
        len: 0,
    };

    /// Lists the rows of a group by a mask.
    #[inline(always)]
    fn set(&mut self, group: usize, mut mask: u64) {
        self.len = mask.count_ones() as usize;
        for row in &mut self.rows[..self.len] {
            *row = (group * GROUP_ROWS) as u32 + mask.trailing_zeros();
            mask &= mask - 1;
        }
    }
}

impl Pair<'_> {
    /// Computes some groups for one token; `out(group)` returns the results of a group.
    fn one_token<'o>(&self, groups: Range<usize>, out: impl Fn(usize) -> &'o mut [f32]) -> Counts {
        for group in groups.clone() {
            self.gates(group, |_| out(group));
        }
        let mut n_listed = 0;
        // Of this group and the next one, whose rows are prefetched meanwhile.
        let mut listed = [Listed::NONE; 2];
        let list = |listed: &mut Listed, group: usize| {
            if groups.contains(&group) {
                listed.set(group, self.up.isa.vectorize(Positive(out(group))));
            } else {
                listed.len = 0;
            }
            lap(Operation::FindNonzero);
        };
        list(&mut listed[1], groups.start);
        self.rows_ahead(&listed[1]).prefetch();
        for group in groups.clone() {
            listed.swap(0, 1);
            let [this, next] = &mut listed;
            list(next, group + 1);
            n_listed += this.len;
            self.finish(group, 0, [this, next], out(group));
        }
        Counts {
            rows_read: n_listed,
            products: n_listed,
        }
    }

    /// Computes a group for several tokens; `out(token)` returns the results of a token.
    fn tokens<'o>(&self, group: usize, out: impl Fn(usize) -> &'o mut [f32]) -> Counts {
        let Self { up, acts, .. } = self;
        let (isa, n_tokens) = (up.isa, acts.n_rows());
        let first = group * GROUP_ROWS;
        let len = GROUP_ROWS.min(up.weights.n_rows - first);
        self.gates(group, &out);
        let mask = |token: usize| isa.vectorize(Positive(out(token)));
        let (mut union, mut products) = (0u64, 0);
        for token in 0..n_tokens {
            let mask = mask(token);
            union |= mask;
            products += mask.count_ones() as usize;
        }
        lap(Operation::FindNonzero);
        let n_lines = up.weights.n_cols / LINE_COLS;
        if !is_faster_by_row(n_lines, len, n_tokens, products) {
            for row in (0..len).step_by(PANEL_ROWS) {
                up.products((first + row) / PANEL_ROWS, acts, |token, up| {
                    let gate = &mut out(token)[row..];
                    let len = gate.len().min(PANEL_ROWS);
                    ops::relu2_mul(isa, &mut gate[..len], &up[..len]);
                });
            }
            lap(Operation::Up);
            return Counts {
                rows_read: len,
                products: len * n_tokens,
            };
        }
        let mut listed = Listed::NONE;
        for token in 0..n_tokens {
            listed.set(group, mask(token));
            self.finish(group, token, [&listed, &Listed::NONE], out(token));
        }
        Counts {
            rows_read: union.count_ones() as usize,
            products,
        }
    }

    /// Writes the gates of a group to `out(token)`.
    #[inline(always)]
    fn gates<'o>(&self, group: usize, out: impl Fn(usize) -> &'o mut [f32]) {
        let first = group * GROUP_ROWS;
        let len = GROUP_ROWS.min(self.up.weights.n_rows - first);
        for row in (0..len).step_by(PANEL_ROWS) {
            let panel = (first + row) / PANEL_ROWS;
            self.gate.products(panel, self.acts, |token, gates| {
                let out = &mut out(token)[row..];
                match out.first_chunk_mut() {
                    // All panels but the last: without a call of `memcpy`.
                    Some(out) => *out = *gates,
                    None => out.copy_from_slice(&gates[..out.len()]),
                }
            });
        }
        lap(Operation::Gate);
    }

    /// Computes the listed rows of up for a token, and multiplies them by the gates.
    /// Prefetches other rows meanwhile.
    fn finish(&self, group: usize, token: usize, [listed, ahead]: [&Listed; 2], gates: &mut [f32]) {
        let Self { up, acts, .. } = self;
        let weights = up.weights;
        let rows = ListedRows {
            lines: &weights.blocks,
            acts: &acts.view().padded_row(token)[..weights.n_cols],
            list: &listed.rows[..listed.len],
            ahead: self.rows_ahead(ahead),
        };
        let mut sums = [0; GROUP_ROWS];
        let sums = &mut sums[..listed.len];
        up.isa.row_dots(rows, sums);
        let mut all = [0; GROUP_ROWS];
        for (&row, sum) in rows.list.iter().zip(sums) {
            all[row as usize % GROUP_ROWS] = *sum;
        }
        up.isa.vectorize(MulGates {
            scales: weights.scales.of_rows(group * GROUP_ROWS, gates.len()),
            gates,
            sums: &all,
            correction: acts.view().sum(token),
            act_scale: acts.scale(token),
        });
        lap(Operation::Up);
    }

    fn rows_ahead<'r>(&'r self, listed: &'r Listed) -> LinesAhead<'r> {
        LinesAhead {
            lines: &self.up.weights.blocks,
            list: &listed.rows[..listed.len],
            stride: self.up.weights.n_cols / LINE_COLS,
            n_lines: self.up.weights.n_cols / LINE_COLS,
        }
    }
}

/// Replaces positive gates by their squares times the products of up, and others by 0.
struct MulGates<'a> {
    gates: &'a mut [f32],
    /// The sums of codes of up, of positive gates.
    sums: &'a [i32; GROUP_ROWS],
    correction: i32,
    act_scale: f32,
    scales: RowScales<'a>,
}

impl NullaryFnOnce for MulGates<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let value = |gate: f32, sum: i32, factor: f32| {
            let up = (sum - self.correction) as f32 * factor;
            // As `ops::relu2_mul`.
            if gate > 0.0 { gate * gate * up } else { 0.0 }
        };
        match self.scales {
            RowScales::Tensor(scale) => {
                let factor = scale / self.act_scale;
                for (gate, sum) in self.gates.iter_mut().zip(self.sums) {
                    *gate = value(*gate, *sum, factor);
                }
            }
            RowScales::Rows(scales) => {
                for ((gate, sum), scale) in self.gates.iter_mut().zip(self.sums).zip(scales) {
                    *gate = value(*gate, *sum, scale / self.act_scale);
                }
            }
        }
    }
}
